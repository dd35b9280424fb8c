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
	// maxRecord bounds a record that holds a frame: the longest frame with what formats put around it.
	maxRecord = maxFrame + 64<<10
)

// format knows how the records of one file format look.
type format interface {
	// next reads the record that b begins with, and returns its length in bytes. Of a frame it
	// fills in f, but for its number and point, with Data in b. Of partial the length is
	// without meaning, and of others it can exceed that of b.
	next(b []byte, f *decode.Frame) (kind, int, error)
}

// kind says what b begins with.
type kind uint8

const (
	partial kind = iota // a record that b does not hold all of
	frame               // a record with a frame
	other               // a record without one
)

// capture is a capture file, opened.
type capture struct {
	*bufio.Reader // the file, uncompressed
	format
	raw   *counter // the file itself
	begin int64    // bytes, uncompressed, before the first record
	close func()
}

// openCapture reads the start of a capture and finds out its format.
func openCapture(in *counter) (*capture, error) {
	c := &capture{Reader: bufio.NewReader(in), raw: in, close: func() {}}
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
		if head, err = c.peek(sectionLen); err != nil {
			return err
		}
		c.format = &pcapng{}
		_, _, err = c.next(head, nil)
		return err
	}
	head, err = c.peek(pcapHeaderLen)
	var bad error
	if c.format, bad = newPcap(head); bad != nil {
		return bad
	}
	if err != nil {
		return err
	}
	c.begin = pcapHeaderLen
	_, err = c.Discard(pcapHeaderLen)
	return err
}

// decompress puts a decompressor in front of the file when it begins like the output of
// a compressor. Several members, or frames, one after the other are one stream.
func (c *capture) decompress() error {
	head, err := c.peek(4)
	if err != nil {
		return err
	}
	switch {
	case head[0] == 0x1f && head[1] == 0x8b: // RFC 1952, section 2.3.1
		z, err := gzip.NewReader(c.Reader)
		if err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
		c.Reader, c.close = bufio.NewReader(z), func() { z.Close() }
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), // RFC 8878, section 3.1.1
		head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}): // section 3.1.2
		z, err := zstd.NewReader(c.Reader, zstd.WithDecoderConcurrency(1), // no goroutine but ours
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		c.Reader, c.close = bufio.NewReader(z), z.Close
	}
	return nil
}

// peek returns the next n bytes. The error is io.EOF only when nothing at all is left.
func (c *capture) peek(n int) ([]byte, error) {
	b, err := c.Peek(n)
	if errors.Is(err, io.EOF) && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
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
