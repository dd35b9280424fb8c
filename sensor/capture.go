package sensor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"portolan/sensor/decode"
)

const (
	// maxFrame bounds the captured bytes of one frame. It is the greatest snap length
	// that libpcap grants; a record that claims more is taken for damage.
	maxFrame = 256 << 10
	// maxWindow bounds what a zstd stream may make its decompressor remember. It is what
	// zstd writes with --long, and reads without being told.
	maxWindow = 128 << 20
	// bufferSize holds the longest frame with what formats put around it.
	bufferSize = maxFrame + 64<<10
)

// format reads the records of one file format.
type format interface {
	// next fills in f, but for its number and point; f.Data holds until the next call. It
	// returns io.EOF only between two records.
	next(f *decode.Frame) error
}

// capture is a capture file as a source of frames.
type capture struct {
	format
	*stream
	close func()
}

// openCapture reads the start of a capture and returns the reader for its format.
func openCapture(in *counter) (*capture, error) {
	c := &capture{stream: newStream(in, in), close: func() {}}
	if _, err := c.Peek(1); errors.Is(err, io.EOF) {
		return nil, ErrEmpty
	}
	err := c.open()
	if err == nil {
		return c, nil
	}
	c.close()
	var bad *incomplete
	switch {
	case in.err != nil:
		return nil, fmt.Errorf("read capture: %w", in.err)
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w after decompression", ErrEmpty)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: it ends within its header", ErrNotCapture)
	case errors.As(err, &bad):
		return nil, fmt.Errorf("%w: %s", ErrNotCapture, bad.what)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, fmt.Errorf("read capture: zstd: more than %d MiB are needed to decompress it: %w", maxWindow>>20, err)
	case errors.Is(err, ErrNotCapture):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrNotCapture, err)
}

func (c *capture) open() error {
	if err := c.decompress(); err != nil {
		return err
	}
	head, err := c.peek(4)
	if err != nil {
		return err
	}
	if bytes.Equal(head, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		c.format, err = newPcapng(c.stream)
	} else {
		c.format, err = newPcap(c.stream)
	}
	return err
}

// decompress puts a decompressor in front of the stream when it begins like the output of
// a compressor. Several members, or frames, one after the other are one stream.
func (c *capture) decompress() error {
	head, err := c.peek(4)
	if err != nil {
		return err
	}
	switch {
	case head[0] == 0x1f && head[1] == 0x8b: // RFC 1952, section 2.3.1
		z, err := gzip.NewReader(c.stream)
		if err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
		c.stream, c.close = newStream(z, c.raw), func() { z.Close() }
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), // RFC 8878, section 3.1.1
		head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}): // section 3.1.2
		z, err := zstd.NewReader(c.stream, zstd.WithDecoderConcurrency(1), // no goroutine but ours
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		c.stream, c.close = newStream(z, c.raw), z.Close
	}
	return nil
}

// locate turns what stopped the format at the given frame into an error with its place.
func (c *capture) locate(err error, frame uint64) error {
	var bad *incomplete
	switch {
	case c.raw.err != nil:
		return fmt.Errorf("read capture after byte %d: %w", c.raw.n, c.raw.err)
	case errors.As(err, &bad):
	case errors.Is(err, io.ErrUnexpectedEOF):
		bad = &incomplete{what: "cut off"}
	default:
		bad = &incomplete{what: "decompressor: " + err.Error(), corrupt: true}
	}
	bad.frame, bad.offset = frame, c.mark
	return bad
}

// incomplete says why a capture file ended early, and where.
type incomplete struct {
	what    string
	frame   uint64 // number of the first frame that could not be read
	offset  int64  // bytes of the file, uncompressed, before its record
	corrupt bool   // rather than cut off
}

func (e *incomplete) Error() string {
	return fmt.Sprintf("%s in the record at byte %d, frame %d", e.what, e.offset, e.frame)
}

// corruptf returns damage after which no record can be found.
func corruptf(format string, args ...any) error {
	return &incomplete{what: fmt.Sprintf(format, args...), corrupt: true}
}

// counter counts what is read from r, and keeps its error.
type counter struct {
	r   io.Reader
	n   int64
	err error // but io.EOF
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// stream hands out the uncompressed bytes of a file.
type stream struct {
	*bufio.Reader
	raw  *counter // the file itself
	off  int64    // bytes taken
	mark int64    // off at the start of the record that is being read
}

func newStream(r io.Reader, raw *counter) *stream {
	return &stream{Reader: bufio.NewReaderSize(r, bufferSize), raw: raw}
}

// peek returns the next n bytes, at most bufferSize; they hold until the next call of any
// method. The error is io.EOF only when nothing at all is left.
func (s *stream) peek(n int) ([]byte, error) {
	b, err := s.Peek(n)
	if errors.Is(err, io.EOF) && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// begin marks the start of a record and takes its first n bytes.
func (s *stream) begin(n int) ([]byte, error) {
	s.mark = s.off
	b, err := s.peek(n)
	if err != nil {
		return nil, err
	}
	return b, s.skip(n)
}

// take takes n further bytes of a record.
func (s *stream) take(n int) ([]byte, error) {
	b, err := s.peek(n)
	if err != nil {
		return nil, cutOff(err)
	}
	return b, s.skip(n)
}

// skip passes over n further bytes of a record, however many.
func (s *stream) skip(n int) error {
	m, err := s.Discard(n)
	s.off += int64(m)
	return cutOff(err)
}

// cutOff returns err as it is to be seen within a record.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
