package decode

import "encoding/binary"

// The bounds of one name: 255 bytes on the wire with the root (RFC 1035, section 3.1), and
// so many compression pointers in a row.
const (
	maxName = 255
	maxHops = 64
)

// namesLen is the length of the buffer for all names and texts of a message.
const namesLen = 256 << 10

// names reads domain names out of a message. What it returns lies in its buffer and holds
// until begin.
type names struct {
	msg    []byte
	next   int    // where reading goes on
	buf    []byte // never grows, so that what points into it stays
	budget int    // labels and pointers that may still be read in this message
	full   bool   // the buffer had no room

	// Names read of late, the newest at read-1: most owners are one pointer to one of them.
	recent [recentNames]seen
	read   uint
}

// recentNames is how many names are remembered.
const recentNames = 4

// seen is where in the message a name has its first label, and where in the buffer it lies.
type seen struct{ at, from, to int32 }

func newNames() names { return names{buf: make([]byte, 0, namesLen)} }

// begin turns to another message. Its budget grows with its length, so that no arrangement
// of pointers makes the work more than proportional to the bytes on the wire.
func (s *names) begin(msg []byte) {
	s.msg, s.next, s.buf = msg, 0, s.buf[:0]
	s.budget, s.full = 1024+2*len(msg), false
	s.read = 0
}

// over reports whether the message asked for more than it is worth.
func (s *names) over() bool { return s.budget < 0 || s.full }

// room reports whether n more bytes fit.
func (s *names) room(n int) bool {
	if cap(s.buf)-len(s.buf) < n {
		s.full = true
		return false
	}
	return true
}

// name reads the name at s.next and moves on to what follows it: labels in lower case,
// joined by dots, "." for the root. As in zone files, a dot or backslash within a label
// comes after a backslash, and a byte outside the printable ones as a backslash and three
// digits (RFC 4343, section 2.1). Compression pointers may point anywhere (RFC 1035,
// section 4.1.4, would have them point back); a loop ends by the bounds.
func (s *names) name() ([]byte, bool) {
	msg := s.msg
	at, after, first := s.next, -1, -1
	wire, hops := 1, 0
	start := len(s.buf)
	if !s.room(maxName * 4) {
		return nil, false
	}
	out := s.buf[start : start+maxName*4]
	n := 0
	for {
		if s.budget--; s.budget < 0 || at >= len(msg) {
			return nil, false
		}
		c := int(msg[at])
		switch {
		case c == 0:
			if after < 0 {
				after = at + 1
			}
			s.next = after
			if n == 0 {
				out[0], n = '.', 1
			}
			s.buf = s.buf[:start+n]
			if first >= 0 {
				s.recent[s.read%recentNames] = seen{int32(first), int32(start), int32(start + n)}
				s.read++
			}
			return s.buf[start : start+n : start+n], true
		case c < 0x40:
			wire += 1 + c
			if wire > maxName || at+1+c > len(msg) {
				return nil, false
			}
			if first < 0 {
				first = at
			} else {
				out[n] = '.'
				n++
			}
			n += copyLabel(out[n:], msg[at+1:at+1+c])
			at += 1 + c
		case c >= 0xc0:
			if hops++; hops > maxHops || at+2 > len(msg) {
				return nil, false
			}
			if after < 0 {
				after = at + 2
			}
			at = int(binary.BigEndian.Uint16(msg[at:]) & 0x3fff)
			if first >= 0 {
				continue
			}
			for _, r := range s.recent[:min(s.read, recentNames)] {
				if int(r.at) == at {
					s.next = after
					return s.buf[r.from:r.to:r.to], true
				}
			}
		default: // RFC 6891, section 5: extended labels are no longer in use
			return nil, false
		}
	}
}

// copyLabel writes a label to dst, which has four bytes for each of its, and returns how
// many it wrote.
func copyLabel(dst, label []byte) int {
	to := dst[:len(label)] // one bounds check for the loop below
	for i, c := range label {
		l := canonical[c]
		if l == 0 {
			return i + escapeLabel(dst[i:], label[i:])
		}
		to[i] = l
	}
	return len(label)
}

// escapeLabel is copyLabel for a label with bytes that need a backslash.
func escapeLabel(dst, label []byte) int {
	n := 0
	for _, c := range label {
		switch l := canonical[c]; {
		case l != 0:
			dst[n] = l
			n++
		case c == '.' || c == '\\':
			dst[n], dst[n+1] = '\\', c
			n += 2
		default:
			dst[n], dst[n+1], dst[n+2], dst[n+3] = '\\', '0'+c/100, '0'+c/10%10, '0'+c%10
			n += 4
		}
	}
	return n
}

// canonical says how a byte of a label is written: in lower case, 0 for one that needs a backslash.
var canonical = func() (t [256]byte) {
	for c := byte('!'); c <= '~'; c++ {
		t[c] = c
	}
	for c := byte('A'); c <= 'Z'; c++ {
		t[c] = c + 'a' - 'A'
	}
	t['.'], t['\\'] = 0, 0
	return t
}()
