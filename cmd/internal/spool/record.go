package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The file begins with two slots that take turns, so that one is whole at any time; then
// come records, each at a multiple of recordAlign. Integers are little endian.
//
//	slot    magic 8, generation 8, length of state 4, CRC-32C of what precedes and of the state 4, state
//	record  magic 4, length of body 4, CRC-32C of all that follows 4, kind 1, class 1, zero 2,
//	        number 8, ordinal 4, body
//
// The ordinal counts the messages that were written to this file before: a reader that
// skips spoilt bytes learns from the next good record how many messages were in them.
const (
	fileMagic   = "PORTSPL1"
	slotBytes   = 2048
	fileHeader  = 2 * slotBytes
	recordMagic = 0x314c5250 // "PRL1"
	recordBytes = 28         // before the body
	recordAlign = 8

	// maxBody bounds a body in bytes: a message with its headers, or a note.
	maxBody = 1 << 20
)

// kind says what a record holds.
type kind uint8

const (
	kindMessage kind = 1 + iota // one message
	kindNote                    // state, gaps, and numbers of messages that are done with
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errSpoilt says that bytes are not what was written.
var errSpoilt = errors.New("spoilt record")

// head is what stands before the body of a record.
type head struct {
	kind    kind
	class   Class
	number  uint64
	ordinal uint64
	body    int // bytes
}

// onDisk returns how many bytes a record with such a body takes.
func onDisk(body int) int64 {
	return int64(recordBytes+body+recordAlign-1) &^ (recordAlign - 1)
}

// appendRecord appends a record whose body fill writes.
func appendRecord(b []byte, h head, fill func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, recordBytes)...)
	b = fill(b)
	r := b[at:]
	le := binary.LittleEndian
	le.PutUint32(r[0:], recordMagic)
	le.PutUint32(r[4:], uint32(len(r)-recordBytes))
	r[12], r[13] = byte(h.kind), byte(h.class)
	le.PutUint64(r[16:], h.number)
	for len(b)%recordAlign != at%recordAlign {
		b = append(b, 0)
	}
	setOrdinal(b[at:], h.ordinal)
	return b
}

// setOrdinal completes a record; it depends on where in the file the record comes to lie.
func setOrdinal(r []byte, ordinal uint64) {
	le := binary.LittleEndian
	le.PutUint32(r[24:], uint32(ordinal))
	end := recordBytes + int(le.Uint32(r[4:]))
	le.PutUint32(r[8:], crc32.Checksum(r[12:end], castagnoli))
}

// readHead reads what precedes the body; the checksum is not checked.
func readHead(r []byte) (h head, ok bool) {
	le := binary.LittleEndian
	if len(r) < recordBytes || le.Uint32(r) != recordMagic {
		return h, false
	}
	h = head{
		kind: kind(r[12]), class: Class(r[13]),
		number: le.Uint64(r[16:]), ordinal: uint64(le.Uint32(r[24:])),
		body: int(le.Uint32(r[4:])),
	}
	return h, h.body <= maxBody && h.class < numClasses && (h.kind == kindMessage || h.kind == kindNote)
}

// readRecord reads a whole record. The body aliases r.
func readRecord(r []byte) (h head, body []byte, err error) {
	h, ok := readHead(r)
	if !ok || len(r) < recordBytes+h.body {
		return h, nil, errSpoilt
	}
	end := recordBytes + h.body
	if crc32.Checksum(r[12:end], castagnoli) != binary.LittleEndian.Uint32(r[8:]) {
		return h, nil, errSpoilt
	}
	return h, r[recordBytes:end], nil
}

func appendMessage(b []byte, m *Message) []byte {
	b = binary.AppendUvarint(b, m.Sequence)
	b = appendText(b, m.ID)
	b = appendText(b, m.Subject)
	b = binary.AppendUvarint(b, uint64(len(m.Header)))
	for _, f := range m.Header {
		b = appendText(b, f.Key)
		b = appendText(b, f.Value)
	}
	return append(b, m.Data...)
}

// bodyBytes bounds what appendMessage appends.
func bodyBytes(m *Message) int {
	n := 4*binary.MaxVarintLen64 + len(m.ID) + len(m.Subject) + len(m.Data)
	for _, f := range m.Header {
		n += 2*binary.MaxVarintLen32 + len(f.Key) + len(f.Value)
	}
	return n
}

// readMessage reads what appendMessage wrote. Data aliases b.
func readMessage(class Class, b []byte) (*Message, error) {
	r := reader{b: b}
	m := &Message{Class: class, Sequence: r.number(), ID: r.text(), Subject: r.text()}
	for range min(r.number(), uint64(len(b))) {
		m.Header = append(m.Header, Field{r.text(), r.text()})
	}
	m.Data = r.b
	if r.bad {
		return nil, errSpoilt
	}
	return m, nil
}

// state is what outlives messages.
type state struct {
	version  uint64             // grows with every change: of two states the newer counts
	number   uint64             // of the next message
	sequence uint64             // the last one given out
	reserved uint64             // not 0: up to here sequences may have been given out without a trace in the file
	lost     [numClasses]uint64 // since the spool was made
	spoilt   uint64             // messages found unreadable since the spool was made
	known    uint64             // of spoilt: those that still lie in this file
	written  uint64             // messages in this file when its header was written
	unlisted uint64             // sequences that are missing and did not fit the list of gaps
}

func (s *state) fields() []*uint64 {
	f := []*uint64{&s.version, &s.number, &s.sequence, &s.reserved, &s.spoilt, &s.known, &s.written, &s.unlisted}
	for i := range s.lost {
		f = append(f, &s.lost[i])
	}
	return f
}

func appendState(b []byte, s state, gaps []Gap) []byte {
	fields := s.fields()
	b = binary.AppendUvarint(b, uint64(len(fields)))
	for _, f := range fields {
		b = binary.AppendUvarint(b, *f)
	}
	b = binary.AppendUvarint(b, uint64(len(gaps)))
	for _, g := range gaps {
		b = binary.AppendUvarint(b, g.First)
		b = binary.AppendUvarint(b, g.Last-g.First)
		b = append(b, byte(g.Reason))
	}
	return b
}

func (r *reader) state() (s state, gaps []Gap) {
	n := r.number()
	fields := s.fields()
	for i := range min(n, 64) {
		v := r.number()
		if i < uint64(len(fields)) {
			*fields[i] = v
		}
	}
	for range min(r.number(), maxGaps) {
		g := Gap{First: r.number()}
		g.Last = g.First + r.number()
		g.Reason = Reason(r.octet())
		gaps = append(gaps, g)
	}
	return s, gaps
}

// appendNote appends the body of a note.
func appendNote(b []byte, s state, gaps []Gap, done []uint64) []byte {
	b = appendState(b, s, gaps)
	b = binary.AppendUvarint(b, uint64(len(done)))
	for _, n := range done {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func readNote(b []byte) (s state, gaps []Gap, done []uint64, err error) {
	r := reader{b: b}
	s, gaps = r.state()
	for range min(r.number(), uint64(len(b))) {
		done = append(done, r.number())
	}
	if r.bad {
		err = errSpoilt
	}
	return s, gaps, done, err
}

func appendSlot(b []byte, generation uint64, s state, gaps []Gap) []byte {
	le := binary.LittleEndian
	b = append(b, fileMagic...)
	b = le.AppendUint64(b, generation)
	body := appendState(nil, s, gaps)
	if len(body) > slotBytes-24 { // the notes have the rest of the gaps
		body = appendState(nil, s, nil)
	}
	b = le.AppendUint32(b, uint32(len(body)))
	sum := crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, body)
	b = le.AppendUint32(b, sum)
	return append(b, body...)
}

func readSlot(b []byte) (generation uint64, s state, gaps []Gap, ok bool) {
	le := binary.LittleEndian
	if len(b) < slotBytes || string(b[:8]) != fileMagic {
		return 0, s, nil, false
	}
	n := le.Uint32(b[16:])
	if n > slotBytes-24 {
		return 0, s, nil, false
	}
	body := b[24 : 24+n]
	if crc32.Update(crc32.Checksum(b[:20], castagnoli), castagnoli, body) != le.Uint32(b[20:]) {
		return 0, s, nil, false
	}
	r := reader{b: body}
	s, gaps = r.state()
	return le.Uint64(b[8:]), s, gaps, !r.bad
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader takes values from the front of b; bad says that one was not there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) octet() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
