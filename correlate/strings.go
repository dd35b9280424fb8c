package correlate

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// ring remembers short byte strings in a circular buffer: the newest push out the oldest.
// A string put in again while it is young keeps its place.
type ring struct {
	buf   []byte
	head  uint64   // bytes written since the beginning; always a multiple of 8
	index []uint32 // by hash: the ref of a string that may be equal
}

// maxString bounds one string; longer ones are cut.
const maxString = 512

func newRing(size int) ring {
	size = max(size, 4*maxString) &^ 7
	return ring{buf: make([]byte, size), index: make([]uint32, 1<<bits.Len(uint(size/64)))}
}

// put returns a ref to s, which has hash h; 0 stands for the empty string.
func (r *ring) put(h uint64, s []byte) uint32 {
	if len(s) == 0 {
		return 0
	}
	s = s[:min(len(s), maxString)]
	slot := &r.index[h&uint64(len(r.index)-1)]
	if old, age := r.find(*slot); bytes.Equal(old, s) && age < uint64(len(r.buf))/2 {
		return *slot
	}
	n := (2 + len(s) + 7) &^ 7
	at := int(r.head % uint64(len(r.buf)))
	if at+n > len(r.buf) { // does not fit before the end: start over
		r.head += uint64(len(r.buf) - at)
		at = 0
	}
	binary.LittleEndian.PutUint16(r.buf[at:], uint16(len(s)))
	copy(r.buf[at+2:], s)
	*slot = uint32(r.head/8) + 1
	if *slot == 0 { // the 2^32nd place has no ref of its own
		*slot = 1
	}
	ref := *slot
	r.head += uint64(n)
	return ref
}

// touch reads what a put of a string with hash h is about to need.
func (r *ring) touch(h uint64) uint64 {
	s, _ := r.find(r.index[h&uint64(len(r.index)-1)])
	if len(s) == 0 {
		return 0
	}
	return uint64(s[0])
}

// get returns what ref stands for, nil when it has been pushed out. The bytes hold until
// the next put. A ref that is 32 GiB of strings old may find another string.
func (r *ring) get(ref uint32) []byte {
	s, _ := r.find(ref)
	return s
}

func (r *ring) find(ref uint32) (s []byte, age uint64) {
	if ref == 0 {
		return nil, 0
	}
	age = uint64(uint32(r.head/8)-(ref-1)) * 8
	if age == 0 || age > uint64(len(r.buf)) || age > r.head {
		return nil, 0
	}
	at := int((r.head - age) % uint64(len(r.buf)))
	n := int(binary.LittleEndian.Uint16(r.buf[at:]))
	if at+2+n > len(r.buf) {
		return nil, 0
	}
	return r.buf[at+2 : at+2+n], age
}
