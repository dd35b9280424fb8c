package decode

import "portolan/sensor/event"

// assembly is what the pieces of one datagram, or of one direction of a TCP connection,
// have come to.
type assembly struct {
	tag    uint64     // hash of what the pieces have in common; 0 when the place is empty
	at     event.Time // datagram: of its first piece; stream: of its newest segment
	stuck  event.Time // stream: since when a hole stops it; 0 when none does
	base   uint32     // stream: sequence number where the next message starts; datagram: 0
	total  int32      // datagram: its length in bytes; -1 until the last piece came
	held   int32      // bytes in blocks
	head   int32      // first block, or none
	blocks uint16     // how many
	xfer   uint16     // stream: message ID of a zone transfer, when transfer is set
	proto  uint8      // datagram: what its first fragment says comes next
	synced bool       // stream: base is known to be where a message starts
	xfers  bool       // stream: a zone transfer was seen
}

// maxBlocks bounds the blocks of one assembly: enough for 65,535 bytes in pieces of 1,024.
const maxBlocks = 64

// reserve is how many blocks one frame may need: the greatest segment, cut up by blocks
// already there.
const reserve = 65536/blockLen + maxBlocks + 1

// assemblies is a table of them, in buckets like those of starts, and the blocks they share.
type assemblies struct {
	slots   []assembly
	pool    pool
	window  event.Time // how long one is worth keeping
	hand    int        // where the search for blocks to take away goes on
	evicted *uint64    // made room for others in their bucket
	cut     *uint64    // lost their blocks to others
}

func newAssemblies(entries, bytes int, window event.Time, evicted, cut *uint64) assemblies {
	t := assemblies{
		slots:   make([]assembly, buckets(entries)*ways),
		pool:    newPool(bytes),
		window:  window,
		evicted: evicted,
		cut:     cut,
	}
	return t
}

// get returns the assembly of h, or nil.
func (t *assemblies) get(h uint64) *assembly {
	b := t.bucket(h)
	for i := range b {
		if b[i].tag == h {
			return &b[i]
		}
	}
	return nil
}

func (t *assemblies) bucket(h uint64) []assembly {
	i := int(h&uint64(len(t.slots)/ways-1)) * ways
	return t.slots[i : i+ways]
}

// add returns a new assembly for h, which is not in the table, in the place of the oldest
// of its bucket if all are taken.
func (t *assemblies) add(h uint64, now event.Time) *assembly {
	b := t.bucket(h)
	oldest := &b[0]
	for i := range b {
		if b[i].tag == 0 {
			oldest = &b[i]
			break
		}
		if b[i].at < oldest.at {
			oldest = &b[i]
		}
	}
	if oldest.tag != 0 {
		if now-oldest.at <= t.window {
			*t.evicted++
		}
		t.drop(oldest)
	}
	*oldest = assembly{tag: h, at: now, total: -1, head: none}
	return oldest
}

// drop empties the place of a.
func (t *assemblies) drop(a *assembly) {
	t.clear(a)
	a.tag = 0
}

// clear gives the blocks of a back.
func (t *assemblies) clear(a *assembly) {
	if a.blocks == 0 {
		return
	}
	for i := a.head; i != none; {
		i = t.pool.release(i)
	}
	a.head, a.blocks, a.held = none, 0, 0
}

// insert stores p in a, and reports whether all of it found room.
func (t *assemblies) insert(a *assembly, p piece) bool {
	t.reserve(a)
	took, stored, ok := t.pool.insert(&a.head, a.base, p, maxBlocks-int(a.blocks))
	a.blocks += uint16(took)
	a.held += int32(stored)
	return ok
}

// reserve takes blocks away from others than a until one frame's worth is available. The
// hand goes around the table, so that each holder is left alone for a whole round, and the
// steps it takes between two holders are few: blocks are only short when many hold some.
func (t *assemblies) reserve(a *assembly) {
	for steps := 0; t.pool.avail < reserve && steps < len(t.slots); steps++ {
		t.hand++
		if t.hand >= len(t.slots) {
			t.hand = 0
		}
		b := &t.slots[t.hand]
		if b == a || b.blocks == 0 {
			continue
		}
		*t.cut++
		t.drop(b)
	}
}

// advance gives back the blocks of a that end at or before its base.
func (t *assemblies) advance(a *assembly) {
	for a.blocks > 0 && int32(t.pool.blocks[a.head].end()-a.base) <= 0 {
		a.held -= int32(t.pool.blocks[a.head].n)
		a.head = t.pool.release(a.head)
		a.blocks--
	}
}
