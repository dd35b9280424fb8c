package correlate

import (
	"hash/maphash"
	"math/bits"
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
)

// explains reports whether an answer of kind k makes a destination explained.
func (k kind) explains(port uint16) bool {
	return k == kindA || k == kindAAAA || k == kindExplains || k == kindResolver && port == 53
}

// operand reports whether transforms are tried on an answer of kind k.
func (k kind) operand() bool { return k < kindExplains }

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

// trialMemory is how many trials that nothing predicted a client is known by; one made again
// while it is remembered is no new trial.
const trialMemory = 8

// client is what the table keeps of one host.
type client struct {
	key
	answers    list // of answer
	pending    list // of pending, in order of time
	recent     [trialMemory]uint32
	trials     [hypothesis.NumMixtures]uint32 // made so far; the ordinals of evidence
	recentNext uint8
	used       bool // since the clock hand last passed
	live       bool
	queued     bool   // stands in the shard's queue
	evidence   bool   // has an entry in shard.real.support
	chance     bool   // has an entry in shard.decoy.support
	learner    uint32 // place in shard.real.learners plus 1, 0 for none
	decoy      uint32 // the same in shard.decoy.learners
	generation uint32 // tells the owners of one place apart
	lookups    uint32
	conns      uint32
	explained  uint32
	late       uint32
	forgotten  uint32
}

// shard is a part of the table with a lock of its own.
type shard struct {
	mu    sync.Mutex
	cfg   *Config
	seed  maphash.Seed
	clock event.Time // newest time seen

	budget      budget
	fixed       int64    // bytes of the index and the names, taken from the start
	index       []uint64 // open addressing: high half of the hash, then client number + 1
	count       int      // clients in index
	hand        uint32   // of the eviction clock
	clients     pool[client]
	answers     lists[answer]
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
	candidates []candidate
	slots      [256]uint8
	heads      [256]uint16
	links      []uint16
	set        []fresh
	words      []uint32
	scratch    []byte // of takeRecords
	stats      Stats
	_          [64]byte // keeps two shards' locks off one cache line
}

// What a client costs at least: its place, its index slots and the smallest lists.
const (
	clientBytes    = 184
	minClientBytes = clientBytes + 2*8 + 4*48 + 4*80
	maxSupport     = 4096    // clients with evidence in one shard
	maxStrings     = 1 << 20 // bytes of names in one shard
)

func newShard(cfg *Config, seed maphash.Seed, decoy *evidence.Decoy, own hypothesis.Programs, site *siteKeys) *shard {
	limit := cfg.MemoryBytes / int64(cfg.Shards)
	s := &shard{cfg: cfg, seed: seed, budget: budget{limit: limit}}
	slots := 1 << bits.Len64(uint64(2*limit/minClientBytes))
	s.index = make([]uint64, slots)
	s.strings = newRing(int(min(limit/8, maxStrings)))
	s.fixed = int64(8*slots) + int64(len(s.strings.buf)) + int64(4*len(s.strings.index))
	s.fixed += limit / 4 // the learners' share
	s.budget.used = s.fixed
	s.clients = newPool[client](1)
	s.answers, s.pending = newLists[answer](), newLists[pending]()
	s.real, s.decoy, s.decoyKey = newSide(limit/8), newSide(limit/8), decoy
	s.own, s.site = own, site
	return s
}

func (s *shard) client(n uint32) *client { return &s.clients.at(n)[0] }

// find returns the number of the client k with hash h.
func (s *shard) find(k *key, h uint64) (n uint32, ok bool) {
	mask := uint64(len(s.index) - 1)
	for i := h & mask; s.index[i] != 0; i = (i + 1) & mask {
		if s.index[i]>>32 != h>>32 {
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
	n, ok = s.clients.get(&s.budget)
	for !ok {
		if !s.evict() {
			return 0, false
		}
		n, ok = s.clients.get(&s.budget)
	}
	c := s.client(n)
	*c = client{key: *k, live: true, generation: c.generation + 1}
	mask := uint64(len(s.index) - 1)
	i := h & mask
	for s.index[i] != 0 {
		i = (i + 1) & mask
	}
	s.index[i] = h&^(1<<32-1) | uint64(n+1)
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
	h := s.hash(&c.key)
	mask := uint64(len(s.index) - 1)
	i := h & mask
	for uint32(s.index[i]) != n+1 {
		i = (i + 1) & mask
	}
	// Close the gap: move back what stands behind it and hashes before it.
	for j := (i + 1) & mask; s.index[j] != 0; j = (j + 1) & mask {
		home := s.homeOf(s.index[j]) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.index[i] = s.index[j]
			i = j
		}
	}
	s.index[i] = 0
	s.count--
	s.answers.release(&c.answers)
	s.pending.release(&c.pending)
	s.forget(&s.real, c)
	s.forget(&s.decoy, c)
	if c.evidence {
		delete(s.real.support, n)
	}
	if c.chance {
		delete(s.decoy.support, n)
	}
	c.live = false
	s.clients.put(n)
}

func (s *shard) hash(k *key) uint64 { return maphash.Comparable(s.seed, *k) }

// homeOf returns the hash whose lower bits say where an index entry would best stand.
func (s *shard) homeOf(entry uint64) uint64 { return s.hash(&s.client(uint32(entry) - 1).key) }

// keep records that client c was given p at p.time. Answers are kept until newer ones need the room.
func (s *shard) keep(c *client, p *pending) {
	all := s.answers.of(&c.answers)
	oldest := 0
	for i := range all {
		a := &all[i]
		if a.kind == p.kind && a.addr == p.addr {
			if p.time >= a.last {
				a.last, a.origin, a.ttl = p.time, p.origin, p.ttl
			}
			a.ttlEnd = max(a.ttlEnd, p.ttlEnd)
			return
		}
		if a.last < all[oldest].last {
			oldest = i
		}
	}
	if grown, ok := s.answers.grow(&c.answers, s.cfg.AnswersPerClient, &s.budget); ok {
		all, oldest = grown, len(grown)-1
	} else {
		if len(all) == 0 {
			s.stats.Refused++
			return
		}
		c.forgotten++
		s.stats.EvictedAnswers++
	}
	all[oldest] = answer{addr: p.addr, last: p.time, ttlEnd: p.ttlEnd, origin: p.origin, ttl: p.ttl, kind: p.kind}
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
