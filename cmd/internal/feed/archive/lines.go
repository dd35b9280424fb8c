package archive

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"portolan/cmd/internal/feed"
)

// maxLine bounds a line. What is longer is refused and passed over.
const maxLine = 1 << 20

const (
	errLong = feed.Skip("a line longer than 1 MiB")
	errCut  = feed.Skip("a last line cut short")
)

// lines reads a file line by line. What Next returns holds until the call after it.
type lines struct {
	in   *bufio.Reader
	long []byte // of a line that does not fit the reader's buffer
	end  error  // why reading ended, io.EOF at the end
}

// Next returns the next line without its newline, or a beginning of it with errLong or errCut.
func (l *lines) Next() ([]byte, error) {
	if l.end != nil {
		return nil, l.end
	}
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
		return nil, err
	case errors.Is(err, io.EOF):
		return b, nil // a last line without a newline is whole as far as anybody can tell
	}
	return b, errCut
}
