package correlate

import (
	"encoding/binary"

	"portolan/sensor/event"
)

// answer is an address that a client was given, or that a TXT record decodes to.
type answer struct {
	addr      [16]byte
	last      event.Time // when it was last given
	ttlEnd    event.Time // when the longest TTL seen runs out, capped
	origin    uint32     // a ref: where it came from
	ttl       uint32     // seconds, as last given
	kind      kind
	contacted bool // the client connected to it
}

// told is what one client was told, packed: 32 bytes an answer, and the tags that every
// connection is compared with side by side in one or two cache lines. In a block of n slots
// come n tags, then for each slot last, ttlEnd, and origin with ttl in the upper half. An address
// that is not IPv4 takes two slots; of the second, last and ttlEnd hold the address.
type told struct {
	w    []uint64
	size int // slots in the block
	len  int // of those, in use
}

// tag says in its lower half the IPv4 address (or port, or a hash of any other address),
// then the kind.
type tag = uint64

const (
	tagWide      tag = 1 << 40 // the address stands in the next slot
	tagContacted tag = 1 << 41
	tagAddress       = tagWide | 1<<32 - 1 // what depends on the address alone
	slotWords        = 4
)

func kindOfTag(t tag) kind { return kind(t >> 32) }

// tagOf returns the tag of an address. Two addresses share one only where it is wide.
func tagOf(k kind, addr *[16]byte) tag {
	hi, lo := binary.BigEndian.Uint64(addr[:]), binary.BigEndian.Uint64(addr[8:])
	prefix := uint64(0xffff) // ::ffff:0:0/96 (RFC 4291, section 2.5.5.2)
	if k.portOnly() {
		prefix = 0
	}
	if hi == 0 && lo>>32 == prefix || k == kindA { // an A record holds nothing else
		return tag(k)<<32 | lo&(1<<32-1)
	}
	return tag(k)<<32 | tagWide | (hi*0x9E3779B97F4A7C15^lo)*0xC2B2AE3D27D4EB4F>>32
}

// told returns what client c was told; it holds until that grows.
func (s *shard) told(c *client) told {
	if c.answers.class == 0 {
		return told{}
	}
	return told{s.answers.block(&c.answers), classSizes[c.answers.class-1], int(c.answers.len)}
}

// tags returns the tags of all slots in use.
func (t *told) tags() []tag { return t.w[:t.len] }

// rest returns what slot i holds beside its tag.
func (t *told) rest(i int) *[3]uint64 { return (*[3]uint64)(t.w[t.size+3*i:]) }

// next returns the slot of the answer after that in slot i.
func (t *told) next(i int) int {
	if t.w[i]&tagWide != 0 {
		return i + 2
	}
	return i + 1
}

func (t *told) last(i int) event.Time   { return event.Time(t.rest(i)[0]) }
func (t *told) ttlEnd(i int) event.Time { return event.Time(t.rest(i)[1]) }
func (t *told) origin(i int) uint32     { return uint32(t.rest(i)[2]) }

// addr returns the address in slot i.
func (t *told) addr(i int) (a [16]byte) {
	x := t.w[i]
	if x&tagWide != 0 {
		r := t.rest(i + 1)
		binary.BigEndian.PutUint64(a[:], r[0])
		binary.BigEndian.PutUint64(a[8:], r[1])
		return a
	}
	if !kindOfTag(x).portOnly() {
		return mapped(uint32(x))
	}
	binary.BigEndian.PutUint32(a[12:], uint32(x))
	return a
}

// at returns the answer in slot i.
func (t *told) at(i int) answer {
	r, x := t.rest(i), t.w[i]
	return answer{
		addr: t.addr(i), last: event.Time(r[0]), ttlEnd: event.Time(r[1]), origin: uint32(r[2]), ttl: uint32(r[2] >> 32),
		kind: kindOfTag(x), contacted: x&tagContacted != 0,
	}
}

// find returns the slot of the answer of kind k with the given address, -1 when there is none.
func (t *told) find(k kind, addr *[16]byte) int {
	want := tagOf(k, addr)
	for i, x := range t.tags() {
		if x&^tagContacted == want && (x&tagWide == 0 || t.addr(i) == *addr) {
			return i
		}
	}
	return -1
}

// set fills slot i, and the next where the address is wide.
func (t *told) set(i int, a *answer) {
	x := tagOf(a.kind, &a.addr)
	if a.contacted {
		x |= tagContacted
	}
	t.w[i] = x
	*t.rest(i) = [3]uint64{uint64(a.last), uint64(a.ttlEnd), uint64(a.ttl)<<32 | uint64(a.origin)}
	if x&tagWide != 0 {
		t.w[i+1] = tag(kindRest) << 32
		*t.rest(i + 1) = [3]uint64{binary.BigEndian.Uint64(a.addr[:]), binary.BigEndian.Uint64(a.addr[8:])}
	}
}

// remove takes slots i to j out, and leaves the others in order.
func (t *told) remove(i, j int) {
	copy(t.w[i:t.len], t.w[j:t.len])
	copy(t.w[t.size+3*i:t.size+3*t.len], t.w[t.size+3*j:])
	t.len -= j - i
}

// moveTold moves what a client was told to a larger block.
func moveTold(to, from []uint64) {
	m, n := len(to)/slotWords, len(from)/slotWords
	copy(to, from[:n])
	copy(to[m:], from[n:])
}

// keep records that client c was given p at p.time. Answers are kept until newer ones need the room.
func (s *shard) keep(n uint32, c *client, p *pending) {
	t := s.told(c)
	if i := t.find(p.kind, &p.addr); i >= 0 {
		r := t.rest(i)
		if p.time >= event.Time(r[0]) {
			r[0], r[2] = uint64(p.time), uint64(p.ttl)<<32|uint64(p.origin)
		}
		r[1] = uint64(max(event.Time(r[1]), p.ttlEnd))
		return
	}
	a := answer{addr: p.addr, last: p.time, ttlEnd: p.ttlEnd, origin: p.origin, ttl: p.ttl, kind: p.kind}
	slots := 1
	if tagOf(a.kind, &a.addr)&tagWide != 0 {
		slots = 2
	}
	for {
		kept, oldest := 0, -1
		if t.len >= s.cfg.AnswersPerClient { // else it cannot be full: an answer takes a slot or two
			kept, oldest = t.census()
		}
		if kept < s.cfg.AnswersPerClient && s.answers.fit(&c.answers, t.len+slots) {
			break
		}
		if t.len == 0 {
			s.stats.Refused++
			return
		}
		if oldest < 0 {
			_, oldest = t.census()
		}
		t.remove(oldest, t.next(oldest))
		c.answers.len = uint16(t.len)
		s.stats.EvictedAnswers++
		s.history(n, c).forgotten++
	}
	at := t.len
	c.answers.len = uint16(at + slots)
	t = s.told(c)
	t.set(at, &a)
}

// census returns how many answers there are and the slot of the one that was given longest ago.
func (t *told) census() (n, oldest int) {
	for i := 0; i < t.len; i = t.next(i) {
		if n++; t.last(i) < t.last(oldest) {
			oldest = i
		}
	}
	return n, oldest
}

// known returns the settled answer that p mentions.
func (s *shard) known(c *client, p *pending) (a answer, ok bool) {
	t := s.told(c)
	if i := t.find(p.kind, &p.addr); i >= 0 {
		return t.at(i), true
	}
	return a, false
}

// knows reports whether a settled answer is what p mentions.
func (s *shard) knows(c *client, p *pending) bool {
	t := s.told(c)
	return t.find(p.kind, &p.addr) >= 0
}

// freshUntil returns until when an answer competes to be an operand of a transform.
func (s *shard) freshUntil(last, ttlEnd event.Time) event.Time {
	return max(ttlEnd, last.Add(s.cfg.AddressWindow))
}
