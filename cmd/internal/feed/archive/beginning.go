package archive

import (
	"bufio"
	"bytes"
	"context"
	"os"

	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor"
	"portolan/sensor/event"
)

// beginning is a sink that finds out when a file begins: the least time of its first events,
// as a log that is written when connections end does not begin with what was first.
type beginning struct {
	at     event.Time
	limits feed.Limits
	events int
	enough func() // called once there are enough events; may be nil
}

// beginningEvents is how many events say when a file begins.
const beginningEvents = 64

func (b *beginning) take(t event.Time) {
	b.at = min(b.at, t)
	if b.events++; b.events == beginningEvents && b.enough != nil {
		b.enough()
	}
}

// Lookup takes the time of a lookup.
func (b *beginning) Lookup(l *event.Lookup) { b.take(l.Time) }

// Connection takes the time of a connection.
func (b *beginning) Connection(c *event.Connection) { b.take(c.Time) }

// Record takes the time of a record.
func (b *beginning) Record(r *attribute.Record) { b.take(r.Time) }

// lines looks at the first lines or messages of a file, of which head is the beginning. The last
// of them may be cut; its time, which comes early in all formats, is hardly ever the least.
func (b *beginning) lines(head []byte, f *format, origin *feed.Origin, modified event.Time) {
	p := f.parser(origin, modified)
	from := f.split(bufio.NewReaderSize(bytes.NewReader(head), headBytes))
	for b.events < beginningEvents {
		line, err := from.Next()
		if err != nil {
			break
		}
		_ = p.Line(line, b) // what is wrong with it is counted when it is read
	}
	p.Flush(b)
	if limited, ok := p.(feed.Limited); ok {
		b.limits = limited.Limits()
	}
}

// capture looks at the first events of a capture file.
func (b *beginning) capture(path string, cfg *Config) {
	f, err := os.Open(path)
	if err != nil {
		return // reading will say so
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.enough = cancel
	_, _ = sensor.Replay(ctx, f, sensor.ReplayConfig{Decode: cfg.Decode, Cores: 1}, b)
}
