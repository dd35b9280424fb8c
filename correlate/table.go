package correlate

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync"

	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// key names a client: one address in one zone.
type key struct {
	addr [16]byte // IPv4 as mapped into IPv6
	zone event.Zone
}

// kind says what an answer or a pending event is. The first are hypothesis.Via of records
// that were answers in themselves.
type kind uint8

const (
	kindA        = kind(hypothesis.ViaA)
	kindAAAA     = kind(hypothesis.ViaAAAA)
	kindExplains = kind(200 + iota) // an address that explains connections but is no operand: a hint, or given by a listed resolver
	kindResolver                    // an address that answered DNS: explains connections to its port 53
	kindService                     // a port that a record or a name gave
	kindControl                     // the far end of a control channel
	kindMedia                       // the client asked for its own address by STUN: peers may follow
	kindConn                        // pending only: a connection
	kindRest                        // settled only: the slot before has the address
)

// explains reports whether an answer of kind k makes a destination explained.
func (k kind) explains(port uint16) bool {
	return k == kindA || k == kindAAAA || k == kindExplains || k == kindResolver && port == 53
}

// operand reports whether transforms are tried on an answer of kind k.
func (k kind) operand() bool { return k < kindExplains }

// portOnly reports whether what stands for an address in a record of kind k is none: a port, or nothing.
func (k kind) portOnly() bool { return k == kindService || k == kindMedia }

// trialMemory is how many trials that nothing predicted a client is known by; one made again
// while it is remembered is no new trial.
const trialMemory = 8

// client is what the table keeps of one host: what every event needs, in one cache line.
type client struct {
	key
	answers    list   // of slots; see told
	pending    list   // of pending, in order of time
	past       uint32 // place in shard.pasts plus 1, 0 for none
	generation uint32 // tells the owners of one place apart
	lookups    uint32
	conns      uint32
	explained  uint32
	used       bool // since the clock hand last passed
	live       bool
	queued     bool // stands in the shard's queue
	evidence   bool // has an entry in shard.real.support
}

// history is what the table keeps besides of a client that made a trial.
type history struct {
	trials     [hypothesis.NumMixtures]uint32 // made so far; the ordinals of evidence
	recent     [trialMemory]uint32
	owner      uint32 // the client's number plus 1, 0 when nobody's
	learner    uint32 // place in shard.real.learners plus 1, 0 for none
	decoy      uint32 // the same in shard.decoy.learners
	late       uint32
	forgotten  uint32
	recentNext uint8
	chance     bool // has an entry in shard.decoy.support
}

// shard is a part of the table with a lock of its own.
type shard struct {
	mu    sync.Mutex
	cfg   *Config
	seeds *seeds
	clock event.Time // newest time seen

	arena       *arena
	fixed       int64    // bytes of the index, the names and the learners, whatever the number of clients
	index       []uint64 // open addressing: lower half of the hash, then client number + 1
	count       int      // clients in index
	hand        uint32   // of the eviction clock
	pastHand    uint32   // of the one of histories
	clients     pool[client]
	pasts       pool[history]
	answers     lists[uint64] // see told
	pending     lists[pending]
	strings     ring
	queue       queue
	real, decoy side
	decoyKey    *evidence.Decoy
	own         hypothesis.Programs // the operator's
	site        *siteKeys

	inverses   hypothesis.Inverses
	tries      tries // of the answers as they are
	chance     tries // of the answers scrambled
	spare      learner
	nothing    history // stands in where there is no memory
	candidates []candidate
	slots      [256]uint8
	heads      [256]uint16
	links      []uint16
	set        []fresh
	words      []uint32
	scratch    []byte // of takeRecords
	stats      Stats
	zones      map[event.Zone]*ZoneStats
	zone       *ZoneStats // of the connection settled last
	touched    uint64     // of what fetch read
	_          [64]byte   // keeps two shards' locks off one cache line
}

// What a client costs at least: its place, its index slots, two answers and one pending event.
const (
	clientBytes    = cacheLine
	minClientBytes = clientBytes + 2*8 + 2*8*slotWords + 80
	maxSupport     = 4096    // clients with evidence in one shard
	maxStrings     = 1 << 20 // bytes of names in one shard
)

func newShard(cfg *Config, from *bank, seeds *seeds, decoy *evidence.Decoy, own hypothesis.Programs, site *siteKeys) *shard {
	limit := cfg.MemoryBytes / int64(cfg.Shards)
	s := &shard{cfg: cfg, seeds: seeds}
	s.strings = newRing(int(min(limit/8, maxStrings)))
	slots := 1 << (bits.Len64(uint64(2*limit/minClientBytes)) - 1)
	s.index = elementsOf[uint64](from.take(8*slots), slots)
	sides := limit / 4
	s.fixed = int64(8*slots) + int64(len(s.strings.buf)) + int64(4*len(s.strings.index)) + sides
	s.arena = newArena(limit-s.fixed, from)
	s.clients, s.pasts = newPool[client](s.arena, 1), newPool[history](s.arena, 1)
	s.answers, s.pending = newLists[uint64](s.arena, slotWords), newLists[pending](s.arena, 1)
	s.answers.move = moveTold
	// However many answers come, they leave room for the histories of those who make trials; and
	// strangers, who have no answers, for the lists of those who have.
	for k := range classSizes {
		s.answers.classes[k].leave, s.pending.classes[k].leave = s.arena.limit/16, s.arena.limit/16
	}
	leave := s.arena.limit / 8
	s.clients.leave, s.pending.classes[0].leave, s.pending.classes[1].leave = leave, leave, leave
	s.real, s.decoy, s.decoyKey = newSide(newArena(sides/2, from)), newSide(newArena(sides/2, from)), decoy
	s.own, s.site = own, site
	return s
}

func (s *shard) client(n uint32) *client { return &s.clients.at(n)[0] }

// find returns the number of the client k with hash h.
func (s *shard) find(k *key, h uint64) (n uint32, ok bool) {
	mask := uint32(len(s.index) - 1)
	for i := uint32(h) & mask; s.index[i] != 0; i = (i + 1) & mask {
		if uint32(s.index[i]>>32) != uint32(h) {
			continue
		}
		n := uint32(s.index[i]) - 1
		if s.client(n).key == *k {
			return n, true
		}
	}
	return 0, false
}

// add makes a new client, at the price of another one when memory is spent. ok is false
// when there is no other one to pay.
func (s *shard) add(k *key, h uint64) (n uint32, ok bool) {
	if s.count >= len(s.index)/2 && !s.evict() {
		return 0, false
	}
	n, ok = s.clients.get()
	for !ok {
		if !s.evict() {
			return 0, false
		}
		n, ok = s.clients.get()
	}
	c := s.client(n)
	*c = client{key: *k, live: true, generation: c.generation + 1}
	mask := uint32(len(s.index) - 1)
	i := uint32(h) & mask
	for s.index[i] != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = h<<32 | uint64(n+1)
	s.count++
	return n, true
}

// handSteps bounds the search for a client to evict.
const handSteps = 32

// evict removes a client that was not used lately: one that never looked up a name if one is near,
// one with evidence last of all.
func (s *shard) evict() bool {
	if s.count == 0 {
		return false
	}
	victim, best := uint32(0), -1
	for step := 0; step < handSteps || best < 0; step++ {
		if s.hand >= s.clients.next {
			s.hand = 0
		}
		n := s.hand
		c := s.client(n)
		s.hand++
		if !c.live {
			continue
		}
		worth := 0
		if c.lookups > 0 {
			worth++
		}
		if c.used {
			worth += 2
			c.used = false
		}
		if c.evidence {
			worth += 4
		}
		if best < 0 || worth < best {
			victim, best = n, worth
		}
		if best == 0 {
			break
		}
	}
	if s.client(victim).lookups > 0 {
		s.stats.EvictedClients++
	} else {
		s.stats.EvictedStrangers++
	}
	if s.client(victim).evidence {
		s.stats.EvictedEvidence++
	}
	s.remove(victim)
	return true
}

// remove forgets client n and everything about it.
func (s *shard) remove(n uint32) {
	c := s.client(n)
	mask := uint32(len(s.index) - 1)
	i := uint32(s.seeds.hash(&c.key)) & mask
	for uint32(s.index[i]) != n+1 {
		i = (i + 1) & mask
	}
	// Close the gap: move back what stands behind it and hashes before it.
	for j := (i + 1) & mask; s.index[j] != 0; j = (j + 1) & mask {
		home := uint32(s.index[j]>>32) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.index[i] = s.index[j]
			i = j
		}
	}
	s.index[i] = 0
	s.count--
	s.answers.release(&c.answers)
	s.pending.release(&c.pending)
	s.forgetPast(n, c)
	if c.evidence {
		delete(s.real.support, n)
	}
	c.live = false
	s.clients.put(n)
}

// past returns the history of client c, an empty one when it has none.
func (s *shard) past(c *client) history {
	if c.past == 0 {
		return history{}
	}
	return s.pasts.at(c.past - 1)[0]
}

// history returns the history of client n to be written to; that of another client makes room
// when memory is spent. Where there is none at all, what is written is lost.
func (s *shard) history(n uint32, c *client) *history {
	if c.past != 0 {
		return &s.pasts.at(c.past - 1)[0]
	}
	at, ok := s.pasts.get()
	for step := 0; !ok && s.pasts.next > 0; step++ {
		s.pastHand = (s.pastHand + 1) % s.pasts.next
		m := s.pasts.at(s.pastHand)[0].owner - 1
		v := s.client(m) // memory is spent, so every place has an owner
		if v.evidence && step < handSteps {
			continue
		}
		if v.evidence {
			delete(s.real.support, m)
			v.evidence = false
			s.stats.EvictedEvidence++
		}
		s.forgetPast(m, v)
		at, ok = s.pasts.get()
	}
	if !ok {
		s.stats.Refused++
		s.nothing = history{}
		return &s.nothing
	}
	c.past = at + 1
	h := &s.pasts.at(at)[0]
	*h = history{owner: n + 1}
	return h
}

// forgetPast drops the history of client n.
func (s *shard) forgetPast(n uint32, c *client) {
	if c.past == 0 {
		return
	}
	h := &s.pasts.at(c.past - 1)[0]
	s.real.release(h.learner)
	s.decoy.release(h.decoy)
	if h.chance {
		delete(s.decoy.support, n)
	}
	s.pasts.put(c.past - 1)
	c.past = 0
}

// seeds make hashes that nobody outside can foresee.
type seeds struct{ words [4]uint64 }

func newSeeds(by *rand.Rand) *seeds {
	return &seeds{[4]uint64{by.Uint64(), by.Uint64(), by.Uint64(), by.Uint64()}}
}

// drawnBy returns where secrets are drawn from: chance, or a seed that is not 0.
func drawnBy(seed uint64) *rand.Rand {
	if seed == 0 {
		return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return rand.New(rand.NewPCG(seed, 0))
}

// bytes returns the hash of b, 16 bytes at a time.
func (s *seeds) bytes(b []byte) uint64 {
	h := s.words[0] ^ uint64(len(b))
	for ; len(b) > 16; b = b[16:] {
		h = fold(binary.LittleEndian.Uint64(b)^s.words[1], binary.LittleEndian.Uint64(b[8:])^h)
	}
	var last [16]byte
	copy(last[:], b)
	return fold(binary.LittleEndian.Uint64(last[:])^s.words[2], binary.LittleEndian.Uint64(last[8:])^h)
}

// origin returns the hash of what is remembered of l with its records. It is never 0.
func (s *seeds) origin(l *event.Lookup) uint64 {
	a := l.Resolver.Addr().As16()
	return s.mix(&a, s.bytes(l.Name)) | 1<<63
}

// hash returns the hash of k: the upper half chooses the shard, the lower one the place in its index.
func (s *seeds) hash(k *key) uint64 {
	return s.mix(&k.addr, uint64(k.zone.Point)<<48|uint64(k.zone.Kind)<<32|uint64(k.zone.ID))
}

// fingerprint tells a trial from others, but for one in two billion; it is never 0.
func (s *seeds) fingerprint(t *trial) uint32 { return uint32(s.mix(&t.addr, 1<<63|uint64(t.port))) | 1 }

func (s *seeds) mix(addr *[16]byte, with uint64) uint64 {
	a := fold(binary.NativeEndian.Uint64(addr[:])^s.words[0], binary.NativeEndian.Uint64(addr[8:])^s.words[1])
	return fold(a^s.words[2], with^s.words[3])
}

// fold multiplies two words and folds the product into one: what multiplies has to be secret.
func fold(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

// queue is a first-in first-out list of clients with pending events.
type queue struct {
	items []queued
	first int
}

type queued struct {
	time       event.Time
	client     uint32
	generation uint32
}

func (q *queue) empty() bool    { return q.first == len(q.items) }
func (q *queue) front() *queued { return &q.items[q.first] }

func (q *queue) push(x queued) {
	if q.first > 64 && q.first > len(q.items)/2 {
		q.items = q.items[:copy(q.items, q.items[q.first:])]
		q.first = 0
	}
	q.items = append(q.items, x)
}

func (q *queue) pop() { q.first++ }
