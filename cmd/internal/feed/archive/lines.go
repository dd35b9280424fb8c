package archive

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine bounds a line. What is longer is refused and passed over.
const maxLine = 1 << 20

var (
	errLong = errors.New("a line longer than 1 MiB")
	errCut  = errors.New("a last line cut short")
)

// lines reads a file line by line. What next returns holds until the call after it.
type lines struct {
	in   *bufio.Reader
	long []byte // of a line that does not fit the reader's buffer
	n    uint64 // number of the line, from 1
	end  error  // why reading ended, io.EOF at the end
}

// next returns the next line without its newline. The error errLong, or errCut, refuses a line; the
// line is a beginning of it then. Any other error is the end: io.EOF, or that of reading.
func (l *lines) next() ([]byte, error) {
	if l.end != nil {
		return nil, l.end
	}
	l.n++
	b, err := l.in.ReadSlice('\n')
	if err == nil {
		return b[:len(b)-1], nil
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], b...)
		dropped := false
		for errors.Is(err, bufio.ErrBufferFull) {
			b, err = l.in.ReadSlice('\n')
			if dropped = dropped || len(l.long)+len(b) > maxLine; !dropped {
				l.long = append(l.long, b...)
			}
		}
		if err != nil {
			l.end = err
		}
		switch {
		case dropped:
			return l.long, errLong
		case err == nil || errors.Is(err, io.EOF):
			return bytes.TrimSuffix(l.long, []byte("\n")), nil
		}
		return l.long, errCut
	}
	l.end = err
	switch {
	case len(b) == 0:
		l.n--
		return nil, err
	case errors.Is(err, io.EOF):
		return b, nil // a last line without a newline is whole as far as anybody can tell
	}
	return b, errCut
}
