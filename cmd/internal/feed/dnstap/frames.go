package dnstap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"portolan/cmd/internal/feed"
)

// ContentType is what a stream of dnstap messages says that it holds.
const ContentType = "protobuf:dnstap.Dnstap"

// The control frames of Frame Streams (https://farsightsec.github.io/fstrm/).
const (
	controlAccept = 1
	controlStart  = 2
	controlStop   = 3
	controlReady  = 4
	controlFinish = 5

	fieldContentType = 1
)

// The bounds of frames in bytes. A message holds a query and a response of 64 KiB each at most.
const (
	maxControl = 512
	maxMessage = 256 << 10
)

const errLong = feed.Skip("a message longer than 256 KiB")

// Frames reads the data frames of a stream. A file may hold several streams, one after the other.
type Frames struct {
	in     *bufio.Reader
	reply  io.Writer // who writes to a socket wants answers; nil for a file
	buf    []byte
	begun  bool
	header [4]byte
}

// NewFrames returns the frames of a file, or of a socket's writer, to which reply goes.
func NewFrames(in *bufio.Reader, reply io.Writer) *Frames { return &Frames{in: in, reply: reply} }

// Recognise reports whether a file that begins with head is a stream of dnstap messages.
func Recognise(head []byte) bool {
	if len(head) < 12 || binary.BigEndian.Uint32(head) != 0 || binary.BigEndian.Uint32(head[8:]) != controlStart {
		return false
	}
	n := binary.BigEndian.Uint32(head[4:])
	return n >= 4 && n <= maxControl && bytes.Contains(head[:min(len(head), 8+int(n))], []byte(ContentType))
}

// Next returns the next message.
func (f *Frames) Next() ([]byte, error) {
	for {
		n, err := f.word()
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if err := f.control(); err != nil {
				return nil, err
			}
			continue
		}
		if !f.begun {
			return nil, errors.New("messages before the stream's start")
		}
		if n > maxMessage {
			head, _ := f.in.Peek(16)
			f.buf = append(f.buf[:0], head...)
			if _, err := io.CopyN(io.Discard, f.in, int64(n)); err != nil {
				return nil, cut(err)
			}
			return f.buf, errLong
		}
		if uint32(cap(f.buf)) < n {
			f.buf = make([]byte, n)
		}
		f.buf = f.buf[:n]
		if _, err := io.ReadFull(f.in, f.buf); err != nil {
			return nil, cut(err)
		}
		return f.buf, nil
	}
}

// word reads a number of four bytes; the error is io.EOF only when there is none of them.
func (f *Frames) word() (uint32, error) {
	if _, err := io.ReadFull(f.in, f.header[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(f.header[:]), nil
}

// cut is err, but that no end is expected here.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// control reads a control frame, whose escape was read, and answers it.
func (f *Frames) control() error {
	n, err := f.word()
	if err != nil {
		return cut(err)
	}
	if n < 4 || n > maxControl {
		return fmt.Errorf("a control frame of %d bytes", n)
	}
	var room [maxControl]byte
	b := room[:n]
	if _, err := io.ReadFull(f.in, b); err != nil {
		return cut(err)
	}
	switch kind := binary.BigEndian.Uint32(b); kind {
	case controlReady:
		if !offers(b[4:]) {
			return errors.New("the stream does not offer " + ContentType)
		}
		return f.answer(controlAccept)
	case controlStart:
		if len(b) > 4 && !offers(b[4:]) {
			return errors.New("the stream is not of " + ContentType)
		}
		f.begun = true
	case controlStop:
		f.begun = false
		_ = f.answer(controlFinish) // which a writer that has gone does not miss
	case controlAccept, controlFinish: // the reader's own
	default:
		return fmt.Errorf("a control frame of unknown kind %d", kind)
	}
	return nil
}

// offers reports whether one of the fields of a control frame is our content type.
func offers(b []byte) bool {
	for len(b) >= 8 {
		kind, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		if b = b[8:]; uint64(n) > uint64(len(b)) {
			return false
		}
		if kind == fieldContentType && string(b[:n]) == ContentType {
			return true
		}
		b = b[n:]
	}
	return false
}

// answer writes a control frame to who writes the stream.
func (f *Frames) answer(kind uint32) error {
	if f.reply == nil {
		return nil
	}
	b := binary.BigEndian.AppendUint32(nil, 0)
	if kind == controlAccept {
		b = binary.BigEndian.AppendUint32(b, uint32(4+8+len(ContentType)))
		b = binary.BigEndian.AppendUint32(b, kind)
		b = binary.BigEndian.AppendUint32(b, fieldContentType)
		b = binary.BigEndian.AppendUint32(b, uint32(len(ContentType)))
		b = append(b, ContentType...)
	} else {
		b = binary.BigEndian.AppendUint32(b, 4)
		b = binary.BigEndian.AppendUint32(b, kind)
	}
	_, err := f.reply.Write(b)
	return err
}
