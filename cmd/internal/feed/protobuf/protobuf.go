// Package protobuf walks through the fields of a message in protocol buffers' wire format
// (https://protobuf.dev/programming-guides/encoding/), without allocating.
package protobuf

import "encoding/binary"

// Message is a walk through the fields of a message. The bytes come first, the rest is zero.
type Message struct {
	rest []byte
	bad  bool
}

// Field is one field: Number is an integer's value, Bytes what a length stands before.
type Field struct {
	ID     uint64
	Number uint64
	Bytes  []byte
}

// Of returns a walk through b.
func Of(b []byte) Message { return Message{rest: b} }

// Bad reports whether the walk ended early because the bytes are no message.
func (m *Message) Bad() bool { return m.bad }

// Next returns the next field.
func (m *Message) Next() (f Field, ok bool) {
	if m.bad || len(m.rest) == 0 {
		return f, false
	}
	tag, n := binary.Uvarint(m.rest)
	if n <= 0 || tag>>3 == 0 {
		m.bad = true
		return f, false
	}
	f.ID = tag >> 3
	b := m.rest[n:]
	switch tag & 7 {
	case 0:
		f.Number, n = binary.Uvarint(b)
	case 1:
		if n = 8; len(b) >= n {
			f.Number = binary.LittleEndian.Uint64(b)
		}
	case 5:
		if n = 4; len(b) >= n {
			f.Number = uint64(binary.LittleEndian.Uint32(b))
		}
	case 2:
		size, l := binary.Uvarint(b)
		if l <= 0 || size > uint64(len(b)-l) {
			m.bad = true
			return f, false
		}
		n = l + int(size)
		f.Bytes = b[l:n:n]
	default: // groups are no longer in use
		n = 0
	}
	if n <= 0 || n > len(b) {
		m.bad = true
		return f, false
	}
	m.rest = b[n:]
	return f, true
}
