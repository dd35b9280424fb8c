package decode

import "portolan/sensor/event"

// blockLen makes a block 2 KiB: one Ethernet frame's worth of payload.
const blockLen = 2020

// none ends a chain of blocks.
const none int32 = -1

// block holds bytes of one datagram or stream; pool chains them by their sequence numbers.
type block struct {
	at    event.Time // of the newest frame that gave bytes
	frame uint64     // its number
	seq   uint32     // of the first byte
	next  int32      // index of the block after this one, or none
	n     uint16     // bytes used
	data  [blockLen]byte
}

func (b *block) end() uint32 { return b.seq + uint32(b.n) }

// pool is a fixed number of blocks. Pages of blocks that were never used stay untouched.
type pool struct {
	blocks []block
	free   int32 // first of the chain of blocks given back, or none
	fresh  int32 // first of the blocks never used
	avail  int   // blocks that alloc can still give
}

func newPool(bytes int) pool {
	n := bytes / (blockLen + 28)
	return pool{blocks: make([]block, n), free: none, avail: n}
}

func (p *pool) alloc() int32 {
	if p.avail == 0 {
		return none
	}
	p.avail--
	i := p.free
	if i == none {
		p.fresh++
		return p.fresh - 1
	}
	p.free = p.blocks[i].next
	return i
}

func (p *pool) release(i int32) (next int32) {
	next = p.blocks[i].next
	p.blocks[i].next, p.free = p.free, i
	p.avail++
	return next
}

// piece is bytes on their way into a chain.
type piece struct {
	seq   uint32
	data  []byte
	at    event.Time
	frame uint64
}

// insert puts into the chain at head those bytes of p that it does not hold: of bytes that
// come twice the first count. base is the sequence number that the chain's holder waits
// for; blocks that follow it without a hole are filled up, others keep the boundaries of
// their segments. It takes at most limit blocks, and reports how many it took, how many
// bytes it stored, and whether that was all.
func (l *pool) insert(head *int32, base uint32, p piece, limit int) (took, stored int, ok bool) {
	link, last := head, none
	edge := base // up to here there is no hole
	for len(p.data) > 0 {
		i := *link
		if i != none && int32(l.blocks[i].seq-p.seq) <= 0 {
			b := &l.blocks[i]
			if int32(b.seq-edge) <= 0 && int32(b.end()-edge) > 0 {
				edge = b.end()
			}
			if over := int32(b.end() - p.seq); over > 0 {
				n := min(int(over), len(p.data))
				p.seq, p.data = p.seq+uint32(n), p.data[n:]
			}
			link, last = &b.next, i
			continue
		}
		gap := len(p.data)
		if i != none {
			gap = min(gap, int(l.blocks[i].seq-p.seq))
		}
		for gap > 0 {
			if last == none || edge != p.seq || l.blocks[last].end() != p.seq || l.blocks[last].n == blockLen {
				j := none
				if took < limit {
					j = l.alloc()
				}
				if j == none {
					return took, stored, false
				}
				took++
				b := &l.blocks[j]
				b.seq, b.n, b.next = p.seq, 0, i
				*link = j
				link, last = &b.next, j
			}
			b := &l.blocks[last]
			n := copy(b.data[b.n:], p.data[:gap])
			if edge == p.seq {
				edge += uint32(n)
			}
			b.n += uint16(n)
			b.at, b.frame = p.at, p.frame
			p.seq, p.data = p.seq+uint32(n), p.data[n:]
			gap -= n
			stored += n
		}
	}
	return took, stored, true
}

// whole copies to dst the bytes of the chain from base on, up to the first hole, and
// returns how many there are, with the time and number of the newest frame among those
// that gave them.
func (l *pool) whole(head int32, base uint32, dst []byte) (n int, at event.Time, frame uint64) {
	for i := head; i != none && n < len(dst); i = l.blocks[i].next {
		b := &l.blocks[i]
		skip := int32(base + uint32(n) - b.seq)
		if skip < 0 {
			break
		}
		if skip >= int32(b.n) {
			continue
		}
		n += copy(dst[n:], b.data[skip:b.n])
		if frame == 0 || b.at > at {
			at, frame = b.at, b.frame
		}
	}
	return n, at, frame
}

// run returns how many bytes the chain holds from base on without a hole.
func (l *pool) run(head int32, base uint32) int {
	edge := base
	for i := head; i != none; i = l.blocks[i].next {
		b := &l.blocks[i]
		if int32(b.seq-edge) > 0 {
			break
		}
		if int32(b.end()-edge) > 0 {
			edge = b.end()
		}
	}
	return int(edge - base)
}
