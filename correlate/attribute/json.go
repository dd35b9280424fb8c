package attribute

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"portolan/sensor/event"
)

const (
	maxDepth = 16  // of objects and lists in a record
	maxItems = 512 // of a list that is read; more are an error
)

// reader reads JSON from valid UTF-8, once, from its beginning. The first error ends it: what is
// read after that is zero. What it hands out are parts of s, so that a record costs one copy.
type reader struct {
	s     string
	at    int
	fresh bool // a value comes next, not what follows one
	depth int
	key   string // of the member that comes next
	err   error

	// Of a record, until its kind is known.
	schema, kind string
	about        HostFacts
	addresses    []netip.Addr
}

func (d *reader) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("byte %d: %s", d.at, fmt.Sprintf(format, args...))
	}
	d.at, d.fresh = len(d.s), false
}

// space passes over white space.
func (d *reader) space() {
	for d.at < len(d.s) && (d.s[d.at] == ' ' || d.s[d.at] == '\n' || d.s[d.at] == '\t' || d.s[d.at] == '\r') {
		d.at++
	}
}

// next returns the byte that comes next, behind white space; 0 at the end.
func (d *reader) next() byte {
	if d.space(); d.at < len(d.s) {
		return d.s[d.at]
	}
	return 0
}

// take passes over c, which has to come next.
func (d *reader) take(c byte) bool {
	if d.next() != c || c == 0 {
		d.fail("want %q", c)
		return false
	}
	d.at++
	return true
}

// enter opens what begins with open when a value comes next; then it goes on from element to
// element, until what ends with closing is over. It reports whether an element comes.
func (d *reader) enter(open, closing byte) bool {
	if d.err != nil {
		return false
	}
	first := d.fresh
	if d.fresh = false; first {
		if !d.take(open) {
			return false
		}
		if d.depth++; d.depth > maxDepth {
			d.fail("more than %d objects and lists in each other", maxDepth)
			return false
		}
	}
	if d.next() == closing {
		d.at++
		d.depth--
		return false
	}
	return first || d.take(',')
}

// members reports whether the object that comes next has another member, and reads its name into
// key. The caller then reads the value.
func (d *reader) members() bool {
	if !d.enter('{', '}') {
		return false
	}
	d.space()
	d.fresh = true
	d.key = d.text()
	d.fresh = d.take(':')
	return d.fresh
}

// items reports whether the list that comes next has another element, which the caller then reads.
func (d *reader) items() bool {
	d.fresh = d.enter('[', ']')
	return d.fresh
}

// value says that the value which came next has been read.
func (d *reader) value() { d.fresh = false }

// text reads a string.
func (d *reader) text() string {
	if !d.take('"') {
		return ""
	}
	d.value()
	start := d.at
	for ; d.at < len(d.s); d.at++ {
		switch c := d.s[d.at]; {
		case c == '"':
			d.at++
			return d.s[start : d.at-1]
		case c == '\\':
			return d.escaped(start)
		case c < ' ':
			d.fail("control character in a string")
			return ""
		}
	}
	d.fail("string without an end")
	return ""
}

// escaped reads a string that began at start and has an escape here.
func (d *reader) escaped(start int) string {
	b := []byte(d.s[start:d.at])
	for d.at < len(d.s) {
		c := d.s[d.at]
		d.at++
		switch {
		case c == '"':
			return string(b)
		case c < ' ':
			d.fail("control character in a string")
			return ""
		case c != '\\':
			b = append(b, c)
			continue
		case d.at == len(d.s):
			d.fail("string without an end")
			return ""
		}
		c = d.s[d.at]
		d.at++
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := d.unit()
			if utf16.IsSurrogate(r) {
				low := utf8.RuneError
				if len(d.s)-d.at >= 6 && d.s[d.at] == '\\' && d.s[d.at+1] == 'u' {
					at := d.at
					d.at += 2
					if low = utf16.DecodeRune(r, d.unit()); low == utf8.RuneError {
						d.at = at // half a pair; what follows stands for itself
					}
				}
				r = low
			}
			b = utf8.AppendRune(b, r)
		default:
			d.fail("escape \\%c is none", c)
			return ""
		}
	}
	d.fail("string without an end")
	return ""
}

// unit reads four hex digits.
func (d *reader) unit() rune {
	if len(d.s)-d.at < 4 {
		d.fail("escape is cut short")
		return 0
	}
	v, err := strconv.ParseUint(d.s[d.at:d.at+4], 16, 16)
	if err != nil {
		d.fail("escape of %q", d.s[d.at:d.at+4])
		return 0
	}
	d.at += 4
	return rune(v)
}

// texts reads a list of strings.
func (d *reader) texts() (list []string) {
	for d.items() {
		if list = append(list, d.text()); len(list) > maxItems {
			d.fail("more than %d elements", maxItems)
		}
	}
	return list
}

// uint reads a whole number from 0 to most.
func (d *reader) uint(most uint64) uint64 {
	d.space()
	start := d.at
	for d.at < len(d.s) && '0' <= d.s[d.at] && d.s[d.at] <= '9' {
		d.at++
	}
	digits := d.s[start:d.at]
	v, err := strconv.ParseUint(digits, 10, 64)
	switch c := d.next(); {
	case err != nil || v > most || len(digits) > 1 && digits[0] == '0':
		d.fail("want a whole number from 0 to %d", most)
		return 0
	case c == '.' || c == 'e' || c == 'E':
		d.fail("want a whole number")
		return 0
	}
	d.value()
	return v
}

// uid reads a user's number, which is a string as ECS has it.
func (d *reader) uid() uint32 {
	s := d.text()
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil && d.err == nil {
		d.fail("user id %q: want a number up to %d", brief(s), uint32(math.MaxUint32))
	}
	return uint32(v)
}

// time reads a moment as RFC 3339 has it, after 1970 and up to 2262.
func (d *reader) time() event.Time {
	s := d.text()
	if d.err != nil {
		return 0
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Unix() < 0 || t.Unix() > math.MaxInt64/int64(time.Second)-1 {
		d.fail("time %q: want one such as 2026-01-02T03:04:05Z, from 1970 to 2262", brief(s))
		return 0
	}
	return event.TimeOf(t)
}

// addr reads an address. An IPv4 address written as IPv6 is IPv4, and there is no zone.
func (d *reader) addr() netip.Addr {
	s := d.text()
	if d.err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		d.fail("address %q is none", brief(s))
		return netip.Addr{}
	}
	return a.Unmap()
}

// socket reads an object with ip and port.
func (d *reader) socket() netip.AddrPort {
	var a netip.Addr
	var port uint16
	for d.members() {
		switch d.key {
		case "ip":
			a = d.addr()
		case "port":
			port = uint16(d.uint(1<<16 - 1))
		default:
			d.skip()
		}
	}
	return netip.AddrPortFrom(a, port)
}

// skip passes over a value of any kind.
func (d *reader) skip() {
	switch c := d.next(); {
	case c == '{':
		for d.members() {
			d.skip()
		}
	case c == '[':
		for d.items() {
			d.skip()
		}
	case c == '"':
		d.text()
	case c == '-' || '0' <= c && c <= '9':
		d.passNumber()
		d.value()
	default:
		for _, word := range [...]string{"true", "false", "null"} {
			if len(d.s)-d.at >= len(word) && d.s[d.at:d.at+len(word)] == word {
				d.at += len(word)
				d.value()
				return
			}
		}
		d.fail("want a value")
	}
}

// passNumber passes over a number (RFC 8259, section 6).
func (d *reader) passNumber() {
	if d.s[d.at] == '-' {
		d.at++
	}
	if d.at < len(d.s) && d.s[d.at] == '0' {
		d.at++
	} else {
		d.passDigits()
	}
	if d.at < len(d.s) && d.s[d.at] == '.' {
		d.at++
		d.passDigits()
	}
	if d.at < len(d.s) && (d.s[d.at] == 'e' || d.s[d.at] == 'E') {
		d.at++
		if d.at < len(d.s) && (d.s[d.at] == '-' || d.s[d.at] == '+') {
			d.at++
		}
		d.passDigits()
	}
}

func (d *reader) passDigits() {
	start := d.at
	for d.at < len(d.s) && '0' <= d.s[d.at] && d.s[d.at] <= '9' {
		d.at++
	}
	if d.at == start {
		d.fail("want a digit")
	}
}
