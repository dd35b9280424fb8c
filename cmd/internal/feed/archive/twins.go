package archive

import (
	"encoding/binary"
	"hash/maphash"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/sensor/event"
)

// twins knows what two kinds of source tell alike: a lookup that the mirror saw and that the
// resolver recorded, a connection in a log and in a capture. It remembers some thousand
// events of late; one that it forgets too early comes twice, which changes counts but no hit,
// as a hit's id and its evidence rest on what happened and not on how often it was told.
type twins struct {
	seed maphash.Seed
	last []twin
	buf  []byte
	near event.Time // how far apart the two times may lie

	portless bool // there are connections without the client's port
}

type twin struct {
	sum    uint64
	at     event.Time
	format *format
	exact  bool

	portless bool // a connection without the client's port
}

const rememberedTwins = 1 << 15

// newTwins returns nil when the sources are of one kind, so that none tells what another does.
func newTwins(sources []*source, tolerance time.Duration) *twins {
	kinds, portless := map[string]bool{}, false
	near := event.Time(2 * tolerance) // one of the two may have been moved by it
	for _, s := range sources {
		kinds[s.format.name] = true
		portless = portless || s.report.Limits&feed.NoSourcePort != 0
		if s.report.Limits&feed.NoSubSecond != 0 {
			near = event.Time(2*tolerance + time.Second)
		}
	}
	if len(kinds) < 2 {
		return nil
	}
	return &twins{seed: maphash.MakeSeed(), last: make([]twin, rememberedTwins), near: near, portless: portless}
}

// known reports whether the event in buf was told by a source of another format, and whether that was
// with a time as exact as this one's, so that nothing is gained by handing this one on.
func (t *twins) known(at event.Time, f *format, exact bool) (told, as bool) {
	w, sum := t.slot()
	told = w.tells(sum, at, f, t.near)
	if as = told && (w.exact || !exact); !as {
		*w = twin{sum: sum, at: at, format: f, exact: exact}
	}
	return told, as
}

// slot returns where the event in buf is remembered.
func (t *twins) slot() (*twin, uint64) {
	sum := maphash.Bytes(t.seed, t.buf)
	return &t.last[sum%rememberedTwins], sum
}

// tells reports whether w is the same event from a source of another format.
func (w *twin) tells(sum uint64, at event.Time, f *format, near event.Time) bool {
	return w.sum == sum && w.format != nil && w.format.name != f.name && max(at-w.at, w.at-at) <= near
}

// lookup does so for a lookup: the client, the name and the answers are the same.
func (t *twins) lookup(l *event.Lookup, f *format, exact bool) (told, as bool) {
	a := l.Client.Addr().Unmap().As16()
	b := append(append(t.buf[:0], 'l'), a[:]...)
	b = append(append(b, l.Name...), 0)
	for i := range l.Records {
		if r := &l.Records[i]; r.Type == event.A || r.Type == event.AAAA {
			x := r.Addr.As16()
			b = append(b, x[:]...)
		}
	}
	t.buf = b
	return t.known(l.Time, f, exact)
}

// connection does so for a connection. One without the client's port, as auditd's are, is the same as
// one with any.
func (t *twins) connection(c *event.Connection, f *format, exact bool) (told, as bool) {
	src, dst := c.Src.Addr().Unmap().As16(), c.Dst.Addr().Unmap().As16()
	b := append(append(append(t.buf[:0], 'c', byte(c.Proto)), src[:]...), dst[:]...)
	b = binary.BigEndian.AppendUint16(b, c.Dst.Port())
	t.buf = binary.BigEndian.AppendUint16(b, c.Src.Port())
	told, as = t.known(c.Time, f, exact)
	if !t.portless {
		return told, as
	}
	t.buf = append(b, 0, 0)
	w, sum := t.slot()
	if c.Src.Port() == 0 {
		w.portless = !as // else it is the one with a port that stays
		return told, as
	}
	if !told && w.portless && w.tells(sum, c.Time, f, t.near) {
		told, as = true, w.exact || !exact
	}
	*w = twin{sum: sum, at: c.Time, format: f, exact: exact}
	return told, as
}
