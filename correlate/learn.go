package correlate

import (
	"cmp"
	"math/bits"
	"slices"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// Learning is for the constants of malware that nobody has taken apart yet: every pair of a
// fresh answer and an unexplained destination fits one constant of each family, and is
// remembered with it. A later pair that fits a constant again is evidence, the weaker the more
// constants were remembered and answers tried. It happens when a connection is settled.

// Bounds of what is remembered for one client. Of the answers still fresh the newest are
// tried; malware connects soon after it has asked.
const (
	learnXor     = 16 // answers tried with XOR
	learnAdd     = 8  // with the additions
	learnPermute = 4  // with a permutation and XOR
	maxXor       = 256
	maxAdd       = 384
	maxPermute   = 736
	maxOffsets   = 64 // trials of a port
	maxUsed      = 16 // ports
)

// pair is an answer and a destination with the constant that leads from one to the other.
type pair struct {
	x, y, key uint32
	network   uint16 // upper half of the answer as it was given; x may be scrambled
	family    hypothesis.Learned
}

// offset is a trial of a port: the answer and the port.
type offset struct {
	x       uint32
	network uint16 // as in pair
	port    uint16
}

// cycle is a list that overwrites its oldest element when it may not grow.
type cycle struct {
	list
	next uint16 // the oldest, once the list does not grow any more
}

// put enters x among the elements of r.
func put[T any](in *lists[T], r *cycle, x T, bound int) {
	all, ok := in.grow(&r.list, bound)
	if ok {
		all[len(all)-1] = x
		return
	}
	if all = in.of(&r.list); len(all) > 0 {
		r.next %= uint16(len(all))
		all[r.next] = x
		r.next++
	}
}

// learner is what is remembered of one client in order to learn.
type learner struct {
	xor, add, permute cycle             // of pair
	offsets           cycle             // of offset
	used              [maxUsed]usedPort // unusual ports to answered addresses, by when they were first used
	uses              uint32
	owner             uint32 // the client's number, plus 1; 0 when nobody's
	usedNext          uint8
	gated             bool
	led               bool
	burst             uint8 // unexplained destinations since burstAt
	burstAt           event.Time
	leadAt            event.Time // when the client last gave a lead
	walk              float64    // evidence that the client walks through many destinations
	walkAt            event.Time // when that was last brought up to date
}

type usedPort struct {
	port  uint16
	count uint32
}

// The gate is a sequential test (threshold random walk): of a benign client at most one
// distinct destination in five is unexplained, of one that walks through many at least four.
const (
	walkStep  = 1.3863          // ln(0.8/0.2)
	gateAbove = 9.2             // ln(0.99/0.0001)
	gateBelow = gateAbove / 2   // the gate opens again
	walkMax   = 2 * gateAbove   // so that it does
	walkDecay = walkStep / 60e9 // per nanosecond: a step a minute is forgotten
	portShare = 0.3             // of the predictive chance of a port, what the client's own history decides
	mediaTime = 5 * 60 * 1e9    // nanoseconds: how long after STUN peers may follow
	ctrlTime  = 10 * 60 * 1e9   // nanoseconds: how long after a control channel its data may follow
)

// pass moves the walk by step at time t and reports whether the gate is shut.
func (l *learner) pass(t event.Time, step float64) bool {
	if t > l.walkAt {
		l.walk -= walkDecay * float64(t-l.walkAt)
		l.walkAt = t
	}
	l.walk = min(max(l.walk, 0)+step, walkMax)
	l.walk = max(l.walk, 0)
	if l.walk >= gateAbove {
		l.gated = true
	} else if l.walk < gateBelow {
		l.gated = false
	}
	return l.gated
}

// portChance mixes what the client's own history says of a port into the prior q.
func (l *learner) portChance(port uint16, q float64) float64 {
	for _, u := range l.used {
		if u.count > 0 && u.port == port {
			return (1-portShare)*q + portShare*float64(u.count)/float64(l.uses)
		}
	}
	return (1 - portShare) * q
}

// usePort enters a trial of a port.
func (l *learner) usePort(port uint16) {
	l.uses++
	for i := range l.used {
		if l.used[i].count > 0 && l.used[i].port == port {
			l.used[i].count++
			return
		}
	}
	l.used[l.usedNext] = usedPort{port, 1}
	l.usedNext = (l.usedNext + 1) % maxUsed
}

// weighPort puts what the zone and the client's own history say into the chance of a
// port, and reports whether the client has used the port before. L may be nil.
func (s *shard) weighPort(c *client, l *learner, x *pending, v *verdict) (used bool) {
	if v.kind != Port || v.class < tried {
		return false
	}
	if m := s.cfg.Baseline; m != nil {
		v.q, v.known = m.PortChance(c.zone, x.time, x.dport)
	}
	if l == nil || l.uses == 0 {
		return false
	}
	without := v.q
	v.q = l.portChance(x.dport, v.q)
	v.known += float64(l.uses)
	return v.q > without
}

// maxPorts is how many unusual ports of one answer a client may try: more are a scan.
const maxPorts = 4

// scans reports whether trial x is one more port of an answer that the client scans.
func (d *side) scans(l *learner, x *pending) bool {
	w, ok := word(&x.addr)
	if !ok || l == nil {
		return false
	}
	n := 0
	for _, o := range d.offsets.of(&l.offsets.list) {
		if o.x == w && o.port != x.dport {
			n++
		}
	}
	return n >= maxPorts
}

// predictedSample is of how many clients one counts in the zone for a trial that a hypothesis predicts.
const predictedSample = 16

// note enters a settled trial into the client's history and the zone's; e is the evidence of one that a
// hypothesis predicts, 0 of any other. The first hosts that are infected must not make ordinary what
// the next ones do. So an alert stays out of the zone's history, and of other predicted trials a
// sample goes in: a service whose port a formula gives by chance is never an alert, as its port does not
// move with its address, and it becomes ordinary once enough clients use it.
func (s *shard) note(c *client, l *learner, x *pending, v *verdict, e float64) {
	if v.kind == Port {
		l.usePort(x.dport)
	}
	m := s.cfg.Baseline
	if m == nil {
		return
	}
	who := baseline.ClientHash(c.zone, c.addr)
	if l.gated || e >= s.cfg.Alert || e > 0 && who%predictedSample != 0 {
		return
	}
	if v.kind == Port {
		m.Port(c.zone, x.time, x.dport, who)
	} else if y, ok := word(&x.addr); ok {
		m.Destination(c.zone, x.time, y, who)
	}
}

// fresh is an A answer that competes.
type fresh struct {
	word    uint32
	decoy   uint32 // what scrambling makes of it
	last    event.Time
	origin  uint32
	network uint16 // as in pair: which answers are left out is the same for those that are scrambled
	inSet   bool   // used by forSets
}

// learnAddress appends to t.found the constants remembered that lead from the fresh
// answers, to the destination y, and remembers the new pairs.
//
// Services come in blocks of addresses, and two blocks have many pairs with one constant
// between them. So nothing is learned from a destination in the same /12 as any answer that the client was
// ever given, and in the same /8 it counts as the neighbour it may be.
func (s *shard) learnAddress(t *tries, d *side, l *learner, y uint32, v *verdict) {
	if len(t.fresh) == 0 || !baseline.Public(y) || v.near.Prefix12 > 0 {
		return
	}
	// The newest first; among answers given at once the order is theirs.
	slices.SortFunc(t.fresh, func(a, b fresh) int { return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.word, b.word)) })
	s.learnFamilies(t, d, &l.xor, maxXor, learnXor, y, v, hypothesis.XorLearned, hypothesis.XorLearned+1)
	s.learnFamilies(t, d, &l.add, maxAdd, learnAdd, y, v, hypothesis.AddBig, hypothesis.AddOctets+1)
	s.learnFamilies(t, d, &l.permute, maxPermute, learnPermute, y, v, hypothesis.AddOctets+1, hypothesis.NumLearned)
}

// sparse reports whether at least two octets of a constant are 0. Services that come in
// pairs, such as one in each of two data centres, differ in an octet or two by design; a key that somebody
// chose is not like that but once in ten thousand.
func sparse(key uint32) bool {
	zeros := 0
	for ; key != 0; key >>= 8 {
		if key&255 != 0 {
			zeros--
		}
	}
	return zeros+4 >= 2
}

// candidate is a pair that is being tried.
type candidate struct {
	pair
	times int     // constants remembered that it fits
	worth float64 // the same, those of neighbours counting less
	known bool    // this very pair is remembered
}

// learnFamilies tries the families from first to before last on the newest answers.
//
// Two destinations in one network, and two answers in another, have a constant in common that is the likelier
// the smaller the networks are; so have two answers each in the network of the other's destination. An
// earlier pair counts as much less as the destination is likelier for being a neighbour of either.
func (s *shard) learnFamilies(t *tries, d *side, r *cycle, bound, newest int, y uint32, v *verdict, first, last hypothesis.Learned) {
	xs := t.fresh[:min(newest, len(t.fresh))]
	s.candidates = s.candidates[:0]
	for _, x := range xs {
		if uint32(x.network) == y>>16 {
			continue // a neighbour of the answer: a constant with zero high bits proves nothing
		}
		for f := first; f < last; f++ {
			if key := f.Key(x.word, y); !sparse(key) && !f.Fixed(key) {
				s.candidates = append(s.candidates, candidate{pair: pair{x.word, y, key, x.network, f}})
			}
		}
	}
	all := s.candidates
	if len(all) == 0 {
		return
	}
	q := v.q
	if v.near.Prefix8 > 0 {
		q = max(q, baseline.Neighbour(8))
	}
	s.index256(all)
	var remembered [hypothesis.NumLearned]int
	earlier := d.pairs.of(&r.list)
	s.stats.Compared += uint64(len(all) + len(earlier))
	for i := range earlier {
		p := &earlier[i]
		remembered[p.family]++
		for at := candidateSlot(p.family, p.key); s.slots[at] != 0; at = (at + 1) % len(s.slots) {
			c := &all[s.slots[at]-1]
			if c.family != p.family || c.key != p.key {
				continue
			}
			switch {
			case c.x == p.x && c.y == p.y, c.x == p.y && c.y == p.x:
				c.known = true // the pair itself, or what it is by symmetry
			case c.network != p.network && c.y != p.y:
				c.times++
				c.worth += min(1, q/baseline.Neighbour(bits.LeadingZeros32(min(c.y^p.y, c.y^p.x))))
			}
		}
	}
	for i := range all {
		c := &all[i]
		if c.times > 0 && !c.known {
			// What the client taught itself says more than what it shares with others.
			t.found = slices.DeleteFunc(t.found, func(f found) bool {
				return f.site && f.which == uint8(c.family) && f.constant == c.key
			})
			t.found = append(t.found, found{
				mixture: hypothesis.AddressA, sort: sortLearned, which: uint8(c.family), constant: c.key, word: c.x, operand: mapped(c.x),
				times: c.times, of: len(xs), keys: remembered[c.family], worth: c.worth / float64(c.times) * v.q / q,
			})
		}
	}
	var room []pair // of one block, so that most pairs cost no call
	if d.pairs.fit(&r.list, min(int(r.len)+len(all), bound)) {
		room = d.pairs.block(&r.list)
		room = room[:min(len(room), bound)]
	}
	for i := range all {
		switch c := &all[i]; {
		case c.known:
		case int(r.len) < len(room):
			room[r.len] = c.pair
			r.len++
		default:
			put(&d.pairs, r, c.pair, bound)
		}
	}
}

func candidateSlot(f hypothesis.Learned, key uint32) int {
	return int((key ^ uint32(f)*0x85EBCA6B) * 0x9E3779B1 >> 24)
}

// index256 makes s.slots an open-addressing index of the candidates, of which there are at most 92.
func (s *shard) index256(all []candidate) {
	s.slots = [256]uint8{}
	for i := range all {
		at := candidateSlot(all[i].family, all[i].key)
		for s.slots[at] != 0 {
			at = (at + 1) % len(s.slots)
		}
		s.slots[at] = uint8(i + 1)
	}
}

// learnPort appends to t.found the constants that lead from formulas of the answer to the port, and
// remembers the trial (C*).
func (t *tries) learnPort(d *side, l *learner, answer *fresh, port uint16) {
	x := answer.word
	earlier := d.offsets.of(&l.offsets.list)
	for o := range hypothesis.NumOffsets {
		key := port - o.Value(x)
		if key == 0 {
			continue // a formula of its own
		}
		times := 0
		for _, p := range earlier {
			if p.port-o.Value(p.x) == key && o.Value(p.x) != o.Value(x) && p.network != answer.network {
				times++
			}
		}
		if times > 0 {
			t.found = append(t.found, found{
				mixture: hypothesis.Port4, sort: sortOffset, which: uint8(o), constant: uint32(key), word: x, operand: mapped(x),
				times: times, keys: len(earlier),
			})
		}
	}
	if this := (offset{x, answer.network, port}); !slices.Contains(earlier, this) {
		put(&d.offsets, &l.offsets, this, maxOffsets)
	}
}

// side is the evidence of a shard: the real one, or that of the decoys.
type side struct {
	support  map[uint32]*support
	learners pool[learner]
	pairs    lists[pair]
	offsets  lists[offset]
	arena    *arena
	hand     uint32 // of the eviction clock
}

func newSide(a *arena) side {
	return side{
		support: make(map[uint32]*support), learners: newPool[learner](a, 1), pairs: newLists[pair](a, 1), offsets: newLists[offset](a, 1), arena: a,
	}
}

// learner returns the one in place n-1, nil for place 0.
func (d *side) learner(n uint32) *learner {
	if n == 0 {
		return nil
	}
	return &d.learners.at(n - 1)[0]
}

// learnerOf returns what is remembered of client c in order to learn, nil when nothing is.
func (s *shard) learnerOf(c *client) *learner {
	if c.past == 0 {
		return nil
	}
	return s.real.learner(s.pasts.at(c.past - 1)[0].learner)
}

// release forgets the learner in place n-1.
func (d *side) release(n uint32) {
	l := d.learner(n)
	if l == nil {
		return
	}
	d.pairs.release(&l.xor.list)
	d.pairs.release(&l.add.list)
	d.pairs.release(&l.permute.list)
	d.offsets.release(&l.offsets.list)
	l.owner = 0
	d.learners.put(n - 1)
}

// newLearner returns the place of a new learner for client n with history h, plus 1; one of another
// client makes room when memory is spent. It is 0 when there is none.
func (s *shard) newLearner(d *side, n uint32, h *history) uint32 {
	if h == &s.nothing {
		return 0
	}
	at, ok := d.learners.get()
	for step := uint32(0); !ok && step < d.learners.next; step++ {
		d.hand = (d.hand + 1) % d.learners.next
		if l := d.learner(d.hand + 1); l.owner != 0 {
			s.stats.EvictedLearners++
			s.forget(d, s.client(l.owner-1))
			at, ok = d.learners.get()
		}
	}
	if !ok {
		return 0
	}
	*d.learner(at + 1) = learner{owner: n + 1}
	return at + 1
}

// forget drops the learner of client c, which has one, on side d.
func (s *shard) forget(d *side, c *client) {
	h := &s.pasts.at(c.past - 1)[0]
	place := &h.learner
	if d == &s.decoy {
		place = &h.decoy
	}
	d.release(*place)
	*place = 0
}

// teach has the client's learner try a settled trial, appends to t.found what it
// predicts, and remembers the trial.
func (s *shard) teach(t *tries, d *side, l *learner, x *pending, v *verdict) {
	if v.kind == Address {
		if y, ok := word(&x.addr); ok && !v.quiet && !l.gated {
			s.learnAddress(t, d, l, y, v)
		}
		if l.gated { // one trial is no evidence for an unknown octet on a host with so many
			t.found = slices.DeleteFunc(t.found, func(f found) bool { return f.sort == sortOctet })
		}
	} else if w, ok := word(&x.addr); ok && baseline.Public(w) && len(t.fresh) > 0 && !v.quiet {
		// Of their own hosts sites number the ports by the last octet.
		t.learnPort(d, l, &t.fresh[0], x.dport)
	}
	v.class = tried
	if len(t.found) > 0 {
		v.class = predicted
	}
}
