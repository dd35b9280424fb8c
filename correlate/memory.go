package correlate

import (
	"math/bits"
	"sync"
)

// bank is where arenas get their chunks. It asks for memory in large pieces, so that huge pages are full of what
// many arenas use, and however small these are.
type bank struct {
	mu    sync.Mutex
	alloc func(n int) []byte // zeroed bytes that begin at a multiple of 64; nil takes them from the heap
	piece int
	room  []byte
}

// Bounds of a piece: small tables waste little, and large ones fill huge pages.
const minPiece, maxPiece = 64 << 10, 32 << 20

func newBank(bytes int64, alloc func(n int) []byte) *bank {
	if alloc == nil {
		alloc = func(n int) []byte { return make([]byte, n) }
	}
	return &bank{alloc: alloc, piece: int(min(max(minPiece, bytes/16&^(minPiece-1)), maxPiece))}
}

func (b *bank) take(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > len(b.room) {
		if n > b.piece/4 { // what is left of the last piece would be lost
			return b.alloc(n)
		}
		b.room = b.alloc(b.piece)
	}
	c := b.room[:n:n]
	b.room = b.room[n:]
	return c
}

// arena is memory of a bounded size, taken from a bank in chunks, and from those in pages for pools. What is
// in it holds no pointer, so the garbage collector has nothing to look for there. Nothing is given back.
type arena struct {
	used, limit int64 // in chunks
	room        []byte
	bank        *bank
	chunk       int
	page        int // bytes of the page of a pool
}

// Bounds of a chunk and of the page of a pool. Large tables have few enough pages for the list of them to
// stay in the cache.
const (
	minChunk, maxChunk = 16 << 10, 256 << 10
	minPage, maxPage   = 4 << 10, 64 << 10
	cacheLine          = 64
)

func newArena(limit int64, from *bank) *arena {
	scaled := func(by uint, least, most int) int { return min(max(least, 1<<bits.Len64(uint64(limit>>by))), most) }
	return &arena{limit: limit, bank: from, chunk: scaled(8, minChunk, maxChunk), page: scaled(10, minPage, maxPage)}
}

// left returns the bytes that can still be taken.
func (a *arena) left() int64 { return a.limit - a.used + int64(len(a.room)) }

// bytes returns how many were taken.
func (a *arena) bytes() int64 { return a.used - int64(len(a.room)) }

// take returns n zeroed bytes that begin at a multiple of 64, nil when they are not to be had.
func (a *arena) take(n int) []byte {
	n = (n + cacheLine - 1) &^ (cacheLine - 1)
	if n > len(a.room) {
		size := max(n, min(a.chunk, int(a.limit-a.used)&^(cacheLine-1)))
		if a.used+int64(size) > a.limit {
			return nil
		}
		a.room = a.bank.take(size)
		a.used += int64(size)
	}
	b := a.room[:n:n]
	a.room = a.room[n:]
	return b
}

// pool hands out blocks of size elements each, numbered from 0. T holds no pointer, and
// blocks never move.
type pool[T any] struct {
	size  int  // elements in a block
	shift uint // blocks in a page, as a power of two
	pages [][]T
	next  uint32 // blocks handed out so far, those on the free list included
	free  []uint32
	arena *arena
	leave int64 // bytes of the arena that this pool leaves to others
}

func newPool[T any](from *arena, size int) pool[T] {
	perPage := max(1, from.page/(size*sizeOf[T]()))
	return pool[T]{size: size, shift: uint(bits.Len(uint(perPage)) - 1), arena: from}
}

// get returns a block with whatever its last owner left there; ok is false when memory is spent.
func (p *pool[T]) get() (id uint32, ok bool) {
	if n := len(p.free); n > 0 {
		id = p.free[n-1]
		p.free = p.free[:n-1]
		return id, true
	}
	if int(p.next>>p.shift) == len(p.pages) {
		elements := p.size << p.shift
		if p.arena.left() < p.leave {
			return 0, false
		}
		page := p.arena.take(elements * sizeOf[T]())
		if page == nil {
			return 0, false
		}
		p.pages = append(p.pages, elementsOf[T](page, elements))
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

// classSizes are the sizes of blocks. Few answers and fewer pending events are the rule.
var classSizes = [...]int{
	1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048,
}

// lists are the pools behind lists of one element type, one for each size of block.
type lists[T any] struct {
	classes [len(classSizes)]pool[T]
	move    func(to, from []T) // to a larger block; nil copies
}

// newLists returns lists whose elements take per T each.
func newLists[T any](from *arena, per int) (l lists[T]) {
	for k := range l.classes {
		l.classes[k] = newPool[T](from, per*classSizes[k])
	}
	return l
}

// of returns the elements of x; the slice holds until x grows or is freed.
func (l *lists[T]) of(x *list) []T {
	if x.class == 0 {
		return nil
	}
	return l.block(x)[:x.len]
}

// block returns the whole block of x, which has one.
func (l *lists[T]) block(x *list) []T { return l.classes[x.class-1].at(x.block) }

// grow makes room for one more element at the end and returns all, the new one with
// undefined content last; ok is false when that takes more than limit elements or
// memory is spent.
func (l *lists[T]) grow(x *list, limit int) (all []T, ok bool) {
	if int(x.len) >= limit || !l.fit(x, int(x.len)+1) {
		return nil, false
	}
	x.len++
	return l.of(x), true
}

// fit makes room for n elements in all; ok is false when there is none.
func (l *lists[T]) fit(x *list, n int) (ok bool) {
	class := int(x.class)
	if class != 0 && classSizes[class-1] >= n {
		return true
	}
	for class < len(classSizes) && classSizes[class] < n {
		class++
	}
	id := uint32(0)
	for ; !ok; class++ { // memory spent: a larger block may be free
		if class == len(classSizes) {
			return false
		}
		id, ok = l.classes[class].get()
	}
	class--
	if x.class != 0 {
		if to, from := l.classes[class].at(id), l.block(x); l.move != nil {
			l.move(to, from)
		} else {
			copy(to, from)
		}
		l.classes[x.class-1].put(x.block)
	}
	x.block, x.class = id, uint8(class+1)
	return true
}

func (l *lists[T]) release(x *list) {
	if x.class != 0 {
		l.classes[x.class-1].put(x.block)
	}
	*x = list{}
}
