package correlate

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"unsafe"
)

// budget bounds the bytes of one shard.
type budget struct{ used, limit int64 }

func (b *budget) take(n int64) bool {
	if b.used+n > b.limit {
		return false
	}
	b.used += n
	return true
}

// pageBytes is about how much a pool asks for at a time.
const pageBytes = 4 << 10

// pool hands out blocks of size elements each, numbered from 0. T holds no pointer, so
// the garbage collector never looks inside a page, and blocks never move.
type pool[T any] struct {
	size  int  // elements in a block
	shift uint // blocks in a page, as a power of two
	pages [][]T
	next  uint32 // blocks handed out so far, those on the free list included
	free  []uint32
}

func newPool[T any](size int) pool[T] {
	var zero T
	perPage := max(1, pageBytes/(size*int(unsafe.Sizeof(zero))))
	return pool[T]{size: size, shift: uint(bits.Len(uint(perPage)) - 1)}
}

// get returns a block with whatever its last owner left there; ok is false when the budget is spent.
func (p *pool[T]) get(b *budget) (id uint32, ok bool) {
	if n := len(p.free); n > 0 {
		id = p.free[n-1]
		p.free = p.free[:n-1]
		return id, true
	}
	if int(p.next>>p.shift) == len(p.pages) {
		var zero T
		elements := p.size << p.shift
		if !b.take(int64(elements) * int64(unsafe.Sizeof(zero))) {
			return 0, false
		}
		p.pages = append(p.pages, make([]T, elements))
	}
	p.next++
	return p.next - 1, true
}

func (p *pool[T]) put(id uint32) { p.free = append(p.free, id) }

func (p *pool[T]) at(id uint32) []T {
	from := int(id&(1<<p.shift-1)) * p.size
	return p.pages[id>>p.shift][from : from+p.size : from+p.size]
}

// list is a growing array in blocks of rising size. The zero value is empty and owns no block.
type list struct {
	block uint32
	len   uint16
	class uint8 // 1 + the class of block; 0 means none
}

// lists are the pools behind lists of one element type; their classes have blocks of 4, 6,
// 8, 12, 16 and so on up to 1024 elements.
type lists[T any] struct{ classes [17]pool[T] }

func newLists[T any]() (l lists[T]) {
	for k := range l.classes {
		l.classes[k] = newPool[T]((4 + k&1*2) << (k / 2))
	}
	return l
}

// of returns the elements of x; the slice holds until x grows or is freed.
func (l *lists[T]) of(x *list) []T {
	if x.class == 0 {
		return nil
	}
	return l.classes[x.class-1].at(x.block)[:x.len]
}

// grow makes room for one more element at the end and returns all, the new one with
// undefined content last; ok is false when that takes more than limit elements or the
// budget is spent.
func (l *lists[T]) grow(x *list, limit int, b *budget) (all []T, ok bool) {
	if int(x.len) >= limit {
		return nil, false
	}
	if x.class == 0 || int(x.len) == l.classes[x.class-1].size {
		if int(x.class) == len(l.classes) {
			return nil, false
		}
		id, ok := l.classes[x.class].get(b)
		if !ok {
			return nil, false
		}
		copy(l.classes[x.class].at(id), l.of(x))
		if x.class != 0 {
			l.classes[x.class-1].put(x.block)
		}
		x.block, x.class = id, x.class+1
	}
	x.len++
	return l.of(x), true
}

// reserve makes room for n elements in all at once, where the budget allows.
func (l *lists[T]) reserve(x *list, n int, b *budget) {
	class := int(x.class)
	for class < len(l.classes) && (class == 0 || l.classes[class-1].size < n) {
		class++
	}
	if class == int(x.class) || l.classes[class-1].size < n {
		return
	}
	id, ok := l.classes[class-1].get(b)
	if !ok {
		return
	}
	copy(l.classes[class-1].at(id), l.of(x))
	if x.class != 0 {
		l.classes[x.class-1].put(x.block)
	}
	x.block, x.class = id, uint8(class)
}

func (l *lists[T]) release(x *list) {
	if x.class != 0 {
		l.classes[x.class-1].put(x.block)
	}
	*x = list{}
}

// ring remembers short byte strings in a circular buffer: the newest push out the oldest.
// A string put in again while it is young keeps its place.
type ring struct {
	buf   []byte
	head  uint64   // bytes written since the beginning; always a multiple of 8
	index []uint32 // by hash: the ref of a string that may be equal
	seed  maphash.Seed
}

// maxString bounds one string; longer ones are cut.
const maxString = 512

func newRing(size int) ring {
	size = max(size, 4*maxString) &^ 7
	return ring{buf: make([]byte, size), index: make([]uint32, 1<<bits.Len(uint(size/64))), seed: maphash.MakeSeed()}
}

// put returns a ref to s; 0 stands for the empty string.
func (r *ring) put(s []byte) uint32 {
	if len(s) == 0 {
		return 0
	}
	s = s[:min(len(s), maxString)]
	slot := &r.index[maphash.Bytes(r.seed, s)&uint64(len(r.index)-1)]
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
