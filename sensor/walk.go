package sensor

import (
	"context"
	"errors"
	"fmt"
	"io"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

const (
	// chunkBytes is what is read at once: so much that handing it from one core to another costs
	// little, and so little that it stays in the cache.
	chunkBytes = 256 << 10
	// headroom is in front of each chunk, for the record that the one before ends within. Longer
	// ones are put together elsewhere.
	headroom = 16 << 10
)

// chunk is a piece of a file, uncompressed, on its way from the disk to the sink. Each step owns
// it while at work on it.
type chunk struct {
	buf    []byte // headroom and what was read; nil until first used
	joined []byte // what did not fit the headroom
	n      int    // bytes read
	err    error  // why reading ended after these
	taken  int64  // bytes of the input that were taken so far, still compressed if it is

	frames []decode.Frame // those that the decoder has to see, aliasing buf or joined
	last   uint64         // number of the last frame

	events event.Batch
	asOf   []decode.Counters // the decoder's, for each event
}

// fill reads once, so that what a pipe holds goes on at once, and says whether there can be more.
func (c *chunk) fill(ctx context.Context, in *capture) bool {
	if c.buf == nil {
		c.buf = make([]byte, headroom+chunkBytes)
	}
	c.n, c.err = 0, ctx.Err()
	for tries := 0; c.n == 0 && c.err == nil; tries++ {
		if tries == 100 {
			c.err = io.ErrNoProgress
			break
		}
		c.n, c.err = in.Read(c.buf[headroom:])
	}
	c.taken = in.raw.n
	return c.err == nil
}

// join returns what was read behind what was left over from the chunk before.
func (c *chunk) join(rest []byte) []byte {
	if at := headroom - len(rest); at >= 0 {
		copy(c.buf[at:], rest)
		return c.buf[at : headroom+c.n]
	}
	c.joined = append(append(c.joined[:0], rest...), c.buf[headroom:headroom+c.n]...)
	return c.joined
}

// walker finds the records in chunks.
type walker struct {
	format
	rest   []byte       // bytes of a record that goes on in the next chunk
	pass   int          // bytes to pass over yet, of a record that holds no frame
	off    int64        // bytes of the file, uncompressed, before the record at hand
	after  int64        // and after it
	frame  decode.Frame // at hand
	frames uint64
	count  RingStats // of the frames that the decoder need not see
	err    error     // what ended it, but io.EOF
}

// walk collects the frames that the decoder has to see, and counts the others. After an error
// there are no more.
func (w *walker) walk(c *chunk) {
	c.frames = c.frames[:0]
	if w.err == nil {
		w.err = w.records(c)
	}
	c.last = w.frames
}

func (w *walker) records(c *chunk) error {
	b := c.join(w.rest)
	f := &w.frame
	for {
		if w.pass > 0 {
			n := min(w.pass, len(b))
			b, w.pass = b[n:], w.pass-n
			if w.pass > 0 {
				break
			}
		}
		w.off = w.after
		kind, n, err := w.next(b, f)
		if err != nil {
			return err
		}
		if kind == partial {
			break
		}
		w.after += int64(n)
		if kind == other {
			w.pass = n
			continue
		}
		b = b[n:]
		w.frames++
		f.Number = w.frames
		if decode.Inert(f) {
			w.count.count(f, decode.NotOpening)
		} else {
			c.frames = append(c.frames, *f)
		}
	}
	w.rest = append(w.rest[:0], b...)
	switch {
	case !errors.Is(c.err, io.EOF):
		return c.err
	case len(w.rest) > 0 || w.pass > 0:
		return io.ErrUnexpectedEOF
	}
	return nil
}

// locate turns what stopped the walk into an error with its place, nil if nothing did.
func (w *walker) locate(in *counter) error {
	var bad *incomplete
	switch {
	case w.err == nil:
		return nil
	case in.err != nil:
		return fmt.Errorf("read capture after byte %d: %w", in.n, in.err)
	case errors.As(w.err, &bad):
	case errors.Is(w.err, io.ErrUnexpectedEOF):
		bad = &incomplete{what: "cut off"}
	default:
		bad = &incomplete{what: "decompressor: " + w.err.Error(), corrupt: true}
	}
	bad.frame, bad.offset = w.frames+1, w.off
	return bad
}
