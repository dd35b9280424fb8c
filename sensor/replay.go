package sensor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// Errors that say what is wrong with a capture file. Replay wraps them.
var (
	// ErrEmpty: the input holds no byte at all.
	ErrEmpty = errors.New("empty input")
	// ErrNotCapture: the input does not begin as pcap or pcapng, plain or compressed.
	ErrNotCapture = errors.New("not a capture file")
	// ErrCorrupt: a part of the file contradicts itself, so that nothing after it can be found.
	ErrCorrupt = errors.New("corrupt capture file")
)

// ReplayConfig says how Replay reads. The zero value wants its Decode set.
type ReplayConfig struct {
	Decode decode.Config // bounds of the decoder that Replay makes; unused with Decoder

	// Decoder, when set, decodes instead of one made for this call, so that what it
	// remembers lasts over several files. Its counters go on, too.
	Decoder *decode.Decoder

	// Progress, when set, is called now and then, about twice a second, and once at the
	// end, by the goroutine that called Replay.
	Progress func(Progress)
}

// DefaultReplayConfig returns a configuration with the default bounds.
func DefaultReplayConfig() ReplayConfig { return ReplayConfig{Decode: decode.DefaultConfig()} }

// Validate returns an error that names a field out of bounds, and its value.
func (c ReplayConfig) Validate() error {
	if c.Decoder != nil {
		return nil
	}
	return c.Decode.Validate()
}

// Progress says how far Replay has come.
type Progress struct {
	Bytes  int64  // read from the input, still compressed if it is
	Frames uint64 // handed to the decoder
}

const (
	pollFrames       = 1024                   // frames between two looks at the context and the clock
	progressInterval = 500 * time.Millisecond // least time between two reports of progress
)

// Replay reads one capture, pcap or pcapng, plain or compressed with gzip or zstd, and
// hands its events to the sink in the order of its frames. Memory does not depend on what
// the file says about itself.
//
// A file that ends in the middle of a record is no error: Stats.Incomplete says where, and
// what came before counts. Damage in the middle is ErrCorrupt, likewise with Incomplete
// and the Stats so far. ErrEmpty and ErrNotCapture mean that there was nothing to count.
// Other errors come from r or ctx; a Read that blocks is not interrupted.
//
// Every frame belongs to observation point 0, whichever interface of a pcapng file it
// names: the interfaces of one file see parts of one traffic, often the two directions of
// a tap, and a lookup on one has to meet its connection on the other.
func Replay(ctx context.Context, r io.Reader, cfg ReplayConfig, to event.Sink) (stats Stats, err error) {
	d := cfg.Decoder
	if d == nil {
		if d, err = decode.New(cfg.Decode); err != nil {
			return Stats{}, err
		}
	}
	in := &counter{r: r}
	c, err := openCapture(in)
	if err != nil {
		return Stats{}, err
	}
	defer c.close()

	var n RingStats
	err = c.each(ctx, d, to, &n, newReporter(cfg.Progress, in))
	n.Counters = d.Counters()
	stats.add(&n)
	var cut *incomplete
	if errors.As(err, &cut) {
		stats.Incomplete = cut.Error()
		err = nil
		if cut.corrupt {
			err = fmt.Errorf("%w: %s", ErrCorrupt, stats.Incomplete)
		}
	}
	return stats, err
}

// each decodes the frames of c one after the other and counts them in n.
func (c *capture) each(ctx context.Context, d *decode.Decoder, to event.Sink, n *RingStats, rep *reporter) error {
	defer func() { rep.report(n.Frames) }()
	var f decode.Frame
	for {
		if n.Frames%pollFrames == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			rep.maybe(n.Frames)
		}
		switch err := c.next(&f); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.locate(err, n.Frames+1)
		}
		f.Number = n.Frames + 1
		n.count(&f, d.Decode(&f, to))
	}
}

// reporter calls a progress function, not too often. Nil reports nothing.
type reporter struct {
	to   func(Progress)
	in   *counter
	last time.Time
}

func newReporter(to func(Progress), in *counter) *reporter {
	if to == nil {
		return nil
	}
	return &reporter{to: to, in: in, last: time.Now()}
}

func (r *reporter) maybe(frames uint64) {
	if r != nil && time.Since(r.last) >= progressInterval {
		r.report(frames)
		r.last = time.Now()
	}
}

func (r *reporter) report(frames uint64) {
	if r != nil {
		r.to(Progress{Bytes: r.in.n, Frames: frames})
	}
}
