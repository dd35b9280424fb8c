package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/dnsmasq"
	"portolan/cmd/internal/feed/dnstap"
	"portolan/cmd/internal/feed/eve"
	"portolan/cmd/internal/feed/powerdns"
	"portolan/cmd/internal/feed/process"
	"portolan/cmd/internal/feed/zeek"
	"portolan/sensor/event"
)

// format is a kind of content. A capture has no parser: package sensor reads it.
type format struct {
	name      string
	recognise func(head []byte) bool // head is what a file begins with, up to headBytes, decompressed
	split     func(in *bufio.Reader) feed.Splitter
	parser    func(origin *feed.Origin, modified event.Time) feed.Parser // of a file that was last written then
}

// formats returns the kinds of content in the order in which they are tried: those that
// begin like nothing else first.
func formats() []format {
	text := func(in *bufio.Reader) feed.Splitter { return &lines{in: in} }
	all := []format{
		{name: Capture, recognise: isCapture},
		{name: "dnstap", recognise: dnstap.Recognise,
			split:  func(in *bufio.Reader) feed.Splitter { return dnstap.NewFrames(in, nil) },
			parser: func(*feed.Origin, event.Time) feed.Parser { return dnstap.New() }},
		{name: "powerdns", recognise: powerdns.Recognise,
			split:  func(in *bufio.Reader) feed.Splitter { return powerdns.NewFrames(in) },
			parser: func(*feed.Origin, event.Time) feed.Parser { return powerdns.New() }},
		{name: "zeek", recognise: zeek.Recognise, split: text, parser: func(*feed.Origin, event.Time) feed.Parser { return zeek.New() }},
		{name: "eve", recognise: eve.Recognise, split: text, parser: func(*feed.Origin, event.Time) feed.Parser { return eve.New() }},
		{name: "dnsmasq", recognise: dnsmasq.Recognise, split: text,
			parser: func(_ *feed.Origin, modified event.Time) feed.Parser { return dnsmasq.New(modified) }},
	}
	for _, f := range process.Formats() {
		all = append(all, format{name: f.String(), split: text,
			recognise: func(head []byte) bool { return process.Recognise(head) == f },
			parser:    func(o *feed.Origin, _ event.Time) feed.Parser { return process.New(process.Auto, *o) }})
	}
	return all
}

// isCapture reports whether head begins as pcap or pcapng.
func isCapture(head []byte) bool {
	for _, magic := range [][]byte{
		{0xd4, 0xc3, 0xb2, 0xa1}, {0xa1, 0xb2, 0xc3, 0xd4}, {0x4d, 0x3c, 0xb2, 0xa1}, {0xa1, 0xb2, 0x3c, 0x4d},
		{0x34, 0xcd, 0xb2, 0xa1}, {0xa1, 0xb2, 0xcd, 0x34}, {0x0a, 0x0d, 0x0d, 0x0a},
	} {
		if bytes.HasPrefix(head, magic) {
			return true
		}
	}
	return false
}

// recognise returns the format of a file that begins with head, nil when it is of none.
func recognise(head []byte) *format {
	all := formats()
	for i := range all {
		if all[i].recognise(head) {
			return &all[i]
		}
	}
	return nil
}

// The bounds of reading.
const (
	headBytes = 64 << 10 // decompressed, to recognise a format by
	rawBytes  = 64 << 10 // buffer for what is still compressed
	maxWindow = 128 << 20
)

// errTruncated says that a compressed file ends before its end.
var errTruncated = errors.New("the compressed data ends early")

// plain is a file without its compression.
type plain struct {
	*bufio.Reader
	close      func()
	compressed bool
}

// decompress reads r without its compression: gzip, of which several members are one stream,
// zstd, bzip2, or none.
func decompress(r io.Reader) (*plain, error) {
	in := bufio.NewReaderSize(r, rawBytes)
	head, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	p := &plain{Reader: in, close: func() {}, compressed: true}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b: // RFC 1952, section 2.3.1
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		p.Reader, p.close = bufio.NewReaderSize(z, headBytes), func() { z.Close() }
	case len(head) == 4 && (bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) || // RFC 8878, section 3.1.1
		head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18})): // section 3.1.2
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		p.Reader, p.close = bufio.NewReaderSize(z, headBytes), z.Close
	case len(head) == 4 && bytes.HasPrefix(head, []byte("BZh")) && head[3] >= '1' && head[3] <= '9':
		p.Reader = bufio.NewReaderSize(bzip2.NewReader(in), headBytes)
	default:
		p.compressed = false
	}
	return p, nil
}

// head returns what the file begins with. Damage after that is found by reading.
func (p *plain) head() ([]byte, error) {
	head, err := p.Peek(headBytes)
	if len(head) > 0 || errors.Is(err, io.EOF) {
		err = nil
	}
	return head, err
}

// Recognise returns the name of the format of what a file begins with, compressed or not:
// "capture", "zeek" and so on; "" when it is of none.
func Recognise(r io.Reader) string {
	p, err := decompress(r)
	if err != nil {
		return ""
	}
	defer p.close()
	head, err := p.head()
	if err != nil {
		return ""
	}
	if f := recognise(head); f != nil {
		return f.name
	}
	return ""
}

// Capture is the format of captures, as Recognise names it.
const Capture = "capture"
