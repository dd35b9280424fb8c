// Package jsonline walks through one line of JSON (RFC 8259) in place: members of objects and elements of
// arrays, in their order, without allocating and without taking apart what nobody asks for. The
// work is proportional to the bytes times the depth that is entered. It looks at the structure
// only as far as it must: what stands where a value belongs is handed out as it is.
package jsonline

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// Value is a value as it stands in the line: an object with its braces, a string with its quotes.
type Value []byte

// Object walks through the members of an object.
type Object struct {
	rest []byte
	bad  bool
	some bool // a member was read
}

// Members returns a walk through v; when v is no object, one that is Bad.
func (v Value) Members() Object {
	if len(v) < 2 || v[0] != '{' {
		return Object{bad: true}
	}
	return Object{rest: v[1:]}
}

// Bad reports whether the walk ended early because the text is no JSON.
func (o *Object) Bad() bool { return o.bad }

// Next returns the next member. The key stands without its quotes, and with its escapes, if any.
func (o *Object) Next() (key []byte, v Value, ok bool) {
	if o.bad || o.rest == nil {
		return nil, nil, false
	}
	b := space(o.rest)
	if len(b) > 0 && b[0] == '}' {
		o.rest = nil
		return nil, nil, false
	}
	if o.some {
		if len(b) == 0 || b[0] != ',' {
			return o.fail()
		}
		b = space(b[1:])
	}
	n := stringEnd(b)
	if n < 0 {
		return o.fail()
	}
	key, b = b[1:n-1], space(b[n:])
	if len(b) == 0 || b[0] != ':' {
		return o.fail()
	}
	b = space(b[1:])
	if n = valueEnd(b); n <= 0 {
		return o.fail()
	}
	o.rest, o.some = b[n:], true
	return key, Value(b[:n:n]), true
}

func (o *Object) fail() ([]byte, Value, bool) {
	o.bad = true
	return nil, nil, false
}

// Array walks through the elements of an array.
type Array struct{ o Object }

// Elements returns a walk through v; when v is no array, one that is Bad.
func (v Value) Elements() Array {
	if len(v) < 2 || v[0] != '[' {
		return Array{Object{bad: true}}
	}
	return Array{Object{rest: v[1:]}}
}

// Bad reports whether the walk ended early because the text is no JSON.
func (a *Array) Bad() bool { return a.o.bad }

// Next returns the next element.
func (a *Array) Next() (v Value, ok bool) {
	o := &a.o
	if o.bad || o.rest == nil {
		return nil, false
	}
	b := space(o.rest)
	if len(b) > 0 && b[0] == ']' {
		o.rest = nil
		return nil, false
	}
	if o.some {
		if len(b) == 0 || b[0] != ',' {
			o.bad = true
			return nil, false
		}
		b = space(b[1:])
	}
	n := valueEnd(b)
	if n <= 0 {
		o.bad = true
		return nil, false
	}
	o.rest, o.some = b[n:], true
	return Value(b[:n:n]), true
}

// Get returns the member with the key, nil when v is no object or has none.
func (v Value) Get(key string) Value {
	o := v.Members()
	for k, m, ok := o.Next(); ok; k, m, ok = o.Next() {
		if string(k) == key {
			return m
		}
	}
	return nil
}

// IsNull reports whether v is null, or absent.
func (v Value) IsNull() bool { return len(v) == 0 || v[0] == 'n' }

// Plain returns a string without its quotes when it holds no escape, and any number, true or false
// as it stands; nil otherwise.
func (v Value) Plain() []byte {
	if len(v) == 0 || v[0] == '{' || v[0] == '[' || v[0] == 'n' {
		return nil
	}
	if v[0] != '"' {
		return v
	}
	if s := v[1 : len(v)-1]; bytes.IndexByte(s, '\\') < 0 {
		return s
	}
	return nil
}

// Text is Plain for strings with escapes, too: what they stand for is appended to buf, and the result
// lies there. Half of a surrogate pair gives U+FFFD.
func (v Value) Text(buf *[]byte) []byte {
	if len(v) < 2 || v[0] != '"' {
		return v.Plain()
	}
	s := v[1 : len(v)-1]
	i := bytes.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	from := len(*buf)
	out := *buf
	for ; i >= 0; i = bytes.IndexByte(s, '\\') {
		out = append(out, s[:i]...)
		if s = s[i+1:]; len(s) == 0 {
			break
		}
		c := s[0]
		s = s[1:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, n := escaped(s)
			out, s = utf8.AppendRune(out, r), s[n:]
			continue
		}
		out = append(out, c)
	}
	out = append(out, s...)
	*buf = out
	return out[from:len(out):len(out)]
}

// escaped reads the rune after \u and says how many bytes it took.
func escaped(s []byte) (rune, int) {
	r, ok := hex4(s)
	if !ok {
		return utf8.RuneError, 0
	}
	if utf16.IsSurrogate(r) && len(s) >= 10 && s[4] == '\\' && s[5] == 'u' {
		if low, ok := hex4(s[6:]); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return both, 10
			}
		}
	}
	return r, 4
}

func hex4(s []byte) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for _, c := range s[:4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// space returns b without white space before it.
func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// stringEnd returns the length of the string that b begins with, quotes and all; −1 when it begins with none.
func stringEnd(b []byte) int {
	if len(b) < 2 || b[0] != '"' {
		return -1
	}
	for n := 1; ; {
		i := bytes.IndexByte(b[n:], '"')
		if i < 0 {
			return -1
		}
		n += i
		slashes := 0
		for b[n-1-slashes] == '\\' {
			slashes++
		}
		if n++; slashes%2 == 0 {
			return n
		}
	}
}

// valueEnd returns the length of the value that b begins with; not more than 0 when there is none.
func valueEnd(b []byte) int {
	if len(b) == 0 {
		return -1
	}
	switch b[0] {
	case '"':
		return stringEnd(b)
	case '{', '[':
		return nestEnd(b)
	}
	for i, c := range b {
		switch c {
		case ',', '}', ']', ' ', '\t', '\n', '\r':
			return i
		case '"', '{', '[', ':':
			return -1
		}
	}
	return len(b)
}

// nestEnd returns the length of the object or array that b begins with, −1 when it does not end.
func nestEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := stringEnd(b[i:])
			if n < 0 {
				return -1
			}
			i += n - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}
