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
}

type twin struct {
	sum    uint64
	at     event.Time
	format *format
	exact  bool
}

const rememberedTwins = 1 << 15

// newTwins returns nil when the sources are of one kind, so that none tells what another does.
func newTwins(sources []*source, tolerance time.Duration) *twins {
	kinds := map[string]bool{}
	near := event.Time(2 * tolerance) // one of the two may have been moved by it
	for _, s := range sources {
		kinds[s.format.name] = true
		if s.report.Limits&feed.NoSubSecond != 0 {
			near = event.Time(2*tolerance + time.Second)
		}
	}
	if len(kinds) < 2 {
		return nil
	}
	return &twins{seed: maphash.MakeSeed(), last: make([]twin, rememberedTwins), near: near}
}

// known reports whether the event in buf was told by a source of another format, and whether that was
// with a time as exact as this one's, so that nothing is gained by handing this one on.
func (t *twins) known(at event.Time, f *format, exact bool) (told, as bool) {
	sum := maphash.Bytes(t.seed, t.buf)
	w := &t.last[sum%rememberedTwins]
	told = w.sum == sum && w.format != f && w.format != nil && max(at-w.at, w.at-at) <= t.near
	if as = told && (w.exact || !exact); !as {
		*w = twin{sum, at, f, exact}
	}
	return told, as
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

// connection does so for a connection.
func (t *twins) connection(c *event.Connection, f *format, exact bool) (told, as bool) {
	src, dst := c.Src.Addr().Unmap().As16(), c.Dst.Addr().Unmap().As16()
	b := append(append(append(t.buf[:0], 'c', byte(c.Proto)), src[:]...), dst[:]...)
	b = binary.BigEndian.AppendUint16(b, c.Src.Port())
	t.buf = binary.BigEndian.AppendUint16(b, c.Dst.Port())
	return t.known(c.Time, f, exact)
}
