package sensor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
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

	// Cores is how many goroutines share the work, the caller's among them; 0 means 1. It changes
	// nothing in what the sink gets. More than there are steps, four, are not used.
	Cores int

	// AsOf, when set, holds the decoder's counters as they were when it found the event that
	// the sink is at work on, and in the end all of them.
	AsOf *decode.Counters

	// Progress, when set, is called now and then, about twice a second, and once at the
	// end, never while the sink is at work.
	Progress func(Progress)
}

// DefaultReplayConfig returns a configuration with the default bounds that uses every core.
func DefaultReplayConfig() ReplayConfig {
	return ReplayConfig{Decode: decode.DefaultConfig(), Cores: runtime.GOMAXPROCS(0)}
}

// Validate returns an error that names a field out of bounds, and its value.
func (c ReplayConfig) Validate() error {
	if c.Cores < 0 {
		return fmt.Errorf("replay: Cores is %d, want 0 or more", c.Cores)
	}
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

// progressInterval is the least time between two reports of progress.
const progressInterval = 500 * time.Millisecond

// Replay reads one capture, pcap or pcapng, plain or compressed with gzip or zstd, and
// hands its events to the sink in the order of its frames. Memory does not depend on what
// the file says about itself.
//
// A file that ends in the middle of a record is no error: Stats.Incomplete says where, and
// what came before counts. Damage in the middle is ErrCorrupt, likewise with Incomplete
// and the Stats so far. ErrEmpty and ErrNotCapture mean that there was nothing to count.
// Other errors come from r or ctx; a Read that blocks is not interrupted.
//
// The file is read some hundred KiB ahead of the sink, but no Read waits for more than there
// is: what a pipe holds reaches the sink before the next Read, or while it waits.
// Calls of r, and calls of the sink, can come from several goroutines, one at a time.
//
// Every frame belongs to observation point 0, whichever interface of a pcapng file it
// names: the interfaces of one file see parts of one traffic, often the two directions of
// a tap, and a lookup on one has to meet its connection on the other.
func Replay(ctx context.Context, r io.Reader, cfg ReplayConfig, to event.Sink) (stats Stats, err error) {
	if err := cfg.Validate(); err != nil {
		return Stats{}, err
	}
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

	w := walker{format: c.format, after: c.begin, count: RingStats{longest: jumbo}}
	decoded := decoding{Decoder: d, count: RingStats{longest: jumbo}}
	out := delivery{to: to, asOf: cfg.AsOf, progress: cfg.Progress, last: time.Now()}
	chunks := make([]*chunk, chunksAhead)
	for i := range chunks {
		chunks[i] = &chunk{}
	}
	newLine(chunks,
		func(k *chunk) bool { return k.fill(ctx, c) },
		func(k *chunk) bool { w.walk(k); return true },
		func(k *chunk) bool { decoded.decode(k); return true },
		func(k *chunk) bool { out.deliver(ctx, k); return true },
	).run(max(1, cfg.Cores))
	out.report(Progress{Bytes: in.n, Frames: w.frames})

	decoded.count.Counters = d.Counters()
	if cfg.AsOf != nil {
		*cfg.AsOf = d.Counters()
	}
	stats.add(&w.count)
	stats.add(&decoded.count)
	if ctx.Err() != nil {
		return stats, ctx.Err()
	}
	err = w.locate(in)
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

// chunksAhead is how many chunks are under way: one in each step, and one between any two.
const chunksAhead = 8

// decoding is the step from frames to events. It keeps a copy of those, as the correlator may
// take its time with them.
type decoding struct {
	*decode.Decoder
	count   RingStats
	to      *chunk
	reasons []decode.Reason
}

func (d *decoding) decode(c *chunk) {
	c.events.Reset()
	c.asOf = c.asOf[:0]
	d.to = c
	d.reasons = d.DecodeAll(d.reasons[:0], c.frames, d)
	for i, r := range d.reasons {
		d.count.count(&c.frames[i], r)
	}
}

// Lookup keeps a lookup.
func (d *decoding) Lookup(l *event.Lookup) {
	d.to.events.Lookup(l)
	d.to.asOf = append(d.to.asOf, d.Counters())
}

// Connection keeps a connection.
func (d *decoding) Connection(c *event.Connection) {
	d.to.events.Connection(c)
	d.to.asOf = append(d.to.asOf, d.Counters())
}

// Naming keeps what a frame said of a host.
func (d *decoding) Naming(n *event.Naming) { d.to.events.Naming(n) }

// delivery is the step from events to the sink.
type delivery struct {
	to       event.Sink
	asOf     *decode.Counters // may be nil
	progress func(Progress)   // may be nil
	last     time.Time        // of the last report
}

func (d *delivery) deliver(ctx context.Context, c *chunk) {
	hosts, named := d.to.(event.NamingSink)
	next := 0
	for i := range c.events.Len() {
		if i%pollEvents == 0 && ctx.Err() != nil {
			return
		}
		if named {
			next = c.events.EachNaming(hosts, next, i)
		}
		if d.asOf != nil {
			*d.asOf = c.asOf[i]
		}
		if l, x := c.events.At(i); l != nil {
			d.to.Lookup(l)
		} else {
			d.to.Connection(x)
		}
	}
	if named {
		c.events.EachNaming(hosts, next, c.events.Len())
	}
	if now := time.Now(); now.Sub(d.last) >= progressInterval {
		d.last = now
		d.report(Progress{Bytes: c.taken, Frames: c.last})
	}
}

// pollEvents is how many events the sink gets between two looks at the context.
const pollEvents = 256

func (d *delivery) report(p Progress) {
	if d.progress != nil {
		d.progress(p)
	}
}
