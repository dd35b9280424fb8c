// Package correlate decides which connections a lookup explains by calculation: no I/O, no
// clock, no goroutine. Events go in, in whatever order they arrive; hits come out.
//
// # What a hit is
//
// Take all events of one client (an address in a zone) in order of their stamps, lookups
// before connections stamped alike. An address that the client was given explains every
// later connection to it. A connection that is explained, on a port that no well-known
// service uses, is a trial of the port formulas on that address; one that is not explained
// is a trial of the transforms on the answers still fresh. What the hypotheses predict is
// weighed as package evidence says, and a trial that reaches a threshold is a hit.
//
// # Order
//
// Rings deliver out of turn, so an event waits for Config.Hold of packet time before it
// is settled. A connection is judged at once, with what has arrived, and its hit given
// out as provisional; an event that arrives later but was stamped earlier makes those after it
// be judged again, which may revise or retract a hit. When the wait is over the hit is given
// out as final. The final hits depend on the events alone as long as none arrives more
// than Hold/2 late and no bound of the Config is reached; Stats counts where either happened.
package correlate

import (
	"math"
	"math/bits"
	"net/netip"
	"sync"

	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// Correlator is the table of clients. Its methods may be called by several goroutines.
type Correlator struct {
	cfg    Config
	seeds  *seeds
	shift  uint
	shards []*shard
	decoy  evidence.Decoy
	site   siteKeys
	plans  sync.Pool // of *plan
}

// New returns a Correlator that has seen nothing. The error names the field of cfg that is out of range.
func New(cfg Config) (*Correlator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	by := drawnBy(cfg.Seed)
	c := &Correlator{cfg: cfg, seeds: newSeeds(by), shards: make([]*shard, cfg.Shards), decoy: evidence.NewDecoy(by)}
	c.shift = uint(64 - bits.Len(uint(cfg.Shards-1)))
	c.plans.New = func() any { return &plan{first: make([]int32, cfg.Shards+1)} }
	own, err := hypothesis.CompileAll(cfg.Hypotheses)
	if err != nil {
		return nil, err
	}
	from := newBank(cfg.MemoryBytes, cfg.Alloc)
	for i := range c.shards {
		c.shards[i] = newShard(&c.cfg, from, c.seeds, &c.decoy, own, &c.site)
	}
	return c, nil
}

// place returns the number of the shard that keeps the clients with hash h.
func (c *Correlator) place(h uint64) uint32 { return uint32(h>>c.shift) & uint32(len(c.shards)-1) }

// ObserveLookup takes in a lookup and appends to dst the hits it gives: of connections
// that arrived before it and were stamped after it, and those that time has made final.
func (c *Correlator) ObserveLookup(dst []Hit, l *event.Lookup) []Hit {
	h := c.seeds.hash(&key{l.Client.Addr().As16(), l.Zone})
	s := c.shards[c.place(h)]
	listed := c.listed(l.Resolver.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookup(dst, h, c.seeds.origin(l), l, listed)
}

// ObserveConnection takes in a connection and appends to dst the hits it gives.
func (c *Correlator) ObserveConnection(dst []Hit, x *event.Connection) []Hit {
	h := c.seeds.hash(&key{x.Src.Addr().As16(), x.Zone})
	s := c.shards[c.place(h)]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connection(dst, h, x)
}

// servedEach is how many other clients an event settles whose time has come.
const servedEach = 2

// lookup takes in a lookup of the client with hash h; origin is the hash of what is remembered of it.
func (s *shard) lookup(dst []Hit, h, origin uint64, l *event.Lookup, listed bool) []Hit {
	s.stats.Lookups++
	n, ok := s.touch(&key{l.Client.Addr().As16(), l.Zone}, h, l.Time)
	if !ok {
		return dst
	}
	dst = s.settle(dst, n, s.horizon())
	cl := s.client(n)
	s.countInversion(cl, l.Time)
	cl.lookups++
	cl.used = true
	first := l.Time
	dst = s.takeRecords(dst, n, cl, origin, l, listed)
	resolver := pending{time: l.Time.Add(-s.cfg.Hold / 2), addr: l.Resolver.Addr().As16(), kind: kindResolver}
	if l.Resolver.IsValid() && !s.knows(cl, &resolver) && !mentioned(s.pending.of(&cl.pending), &resolver) {
		// The query that this lookup answers was a connection to port 53, and came before it.
		first = resolver.time
		dst, _ = s.take(dst, n, cl, &resolver)
	}
	dst = s.rejudge(dst, n, cl, first)
	return s.wait(dst, n, cl, servedEach)
}

// connection takes in a connection of the client with hash h.
func (s *shard) connection(dst []Hit, h uint64, x *event.Connection) []Hit {
	s.stats.Connections++
	n, ok := s.touch(&key{x.Src.Addr().As16(), x.Zone}, h, x.Time)
	if !ok {
		return dst
	}
	dst = s.settle(dst, n, s.horizon())
	cl := s.client(n)
	s.countInversion(cl, x.Time)
	p := pending{
		time: x.Time, addr: x.Dst.Addr().As16(), frame: x.Frame, sport: x.Src.Port(), dport: x.Dst.Port(),
		kind: kindConn, proto: x.Proto, start: x.Start, mac: x.MAC,
	}
	if mark := markOf(&p); mark != kindConn {
		m := pending{time: p.time, addr: p.addr, kind: mark}
		if mark == kindMedia {
			m.addr = [16]byte{}
		}
		dst, _ = s.take(dst, n, cl, &m)
	}
	dst, at := s.take(dst, n, cl, &p)
	if at < 0 {
		return s.wait(dst, n, cl, servedEach)
	}
	all := s.pending.of(&cl.pending)
	v := s.judge(cl, all[:at], &all[at])
	s.enter(&all[at], &v)
	if v.class != unjudged {
		cl.used = true
	}
	if v.class == predicted || at < len(all)-1 && s.matters(n, cl) {
		dst = s.reconcile(dst, n, cl)
	}
	return s.wait(dst, n, cl, servedEach)
}

// Advance tells the correlator that packet time has come to now, and appends to dst the
// hits that became final. Call it each second or so, and when no frames arrive.
func (c *Correlator) Advance(dst []Hit, now event.Time) []Hit {
	for _, s := range c.shards {
		s.mu.Lock()
		s.clock = max(s.clock, now)
		dst = s.advance(dst, math.MaxInt)
		s.mu.Unlock()
	}
	if c.cfg.Baseline != nil {
		// A client that was served just before an event of its was due stands behind all that came meanwhile,
		// so that settling may take twice as long.
		c.cfg.Baseline.Rotate(now.Add(-2 * c.cfg.Hold))
	}
	return dst
}

// Flush settles everything at the end of the input and appends the final hits to dst.
func (c *Correlator) Flush(dst []Hit) []Hit {
	for _, s := range c.shards {
		s.mu.Lock()
		for n := range s.clients.next {
			if s.client(n).live {
				dst = s.settle(dst, n, math.MaxInt64)
				s.client(n).queued = false
			}
		}
		s.queue = queue{}
		s.mu.Unlock()
	}
	return dst
}

func (c *Correlator) listed(a netip.Addr) bool {
	for _, p := range c.cfg.ResolverWhitelist {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// touch returns the number of the client, a new one if need be, and moves the clock.
func (s *shard) touch(k *key, h uint64, t event.Time) (n uint32, ok bool) {
	n, ok = s.find(k, h)
	if !ok {
		if n, ok = s.add(k, h); !ok {
			s.stats.Refused++
			return 0, false
		}
	}
	if t < s.horizon() {
		s.history(n, s.client(n)).late++
		s.stats.Late++
	}
	s.clock = max(s.clock, t)
	return n, true
}

// countInversion counts an event stamped t when one with a later stamp came before it.
func (s *shard) countInversion(c *client, t event.Time) {
	if all := s.pending.of(&c.pending); len(all) > 0 && all[len(all)-1].time > t {
		s.stats.Inverted++
	}
}

// horizon is the time before which everything is settled.
func (s *shard) horizon() event.Time {
	if s.clock < math.MinInt64+event.Time(s.cfg.Hold) {
		return math.MinInt64
	}
	return s.clock.Add(-s.cfg.Hold)
}

// take puts p among the pending events of client n and returns its place. When there is
// no room the older half is settled early; without any memory p is settled by itself, and
// the place is -1.
func (s *shard) take(dst []Hit, n uint32, c *client, p *pending) ([]Hit, int) {
	if at, _, ok := s.insert(c, p); ok {
		return dst, at
	}
	if all := s.pending.of(&c.pending); len(all) > 0 {
		s.stats.Early++
		dst = s.settle(dst, n, all[len(all)/2].time+1)
		if at, _, ok := s.insert(c, p); ok {
			return dst, at
		}
	}
	if p.kind != kindConn {
		s.keep(n, c, p)
		return dst, -1
	}
	v := s.judge(c, s.pending.of(&c.pending), p)
	s.enter(p, &v)
	return s.takeUp(dst, n, c, p), -1
}

// rejudge judges again the connections of client n stamped from t on, and brings its hits in line.
func (s *shard) rejudge(dst []Hit, n uint32, c *client, t event.Time) []Hit {
	all := s.pending.of(&c.pending)
	changed := false
	for i := len(all) - 1; i >= 0 && all[i].time >= t; i-- {
		if x := &all[i]; x.kind == kindConn {
			v := s.judge(c, all[:i], x)
			changed = changed || v.class != x.class || v.class == predicted
			s.enter(x, &v)
		}
	}
	if changed && s.matters(n, c) {
		dst = s.reconcile(dst, n, c)
	}
	return dst
}

// matters reports whether client n has a pending connection that a hypothesis predicts,
// or a hit that may have to be taken back.
func (s *shard) matters(n uint32, c *client) bool {
	if c.evidence && len(s.real.support[n].open) > 0 {
		return true
	}
	all := s.pending.of(&c.pending)
	for i := range all {
		if all[i].class == predicted {
			return true
		}
	}
	return false
}

// wait makes sure that client n is settled in time, settles what of it came too late to
// wait, and serves up to served others whose time has come.
func (s *shard) wait(dst []Hit, n uint32, c *client, served int) []Hit {
	dst = s.settle(dst, n, s.horizon())
	if c.pending.len > 0 && !c.queued {
		c.queued = true
		s.queue.push(queued{s.pending.of(&c.pending)[0].time, n, c.generation})
	}
	return s.advance(dst, served)
}

// advance settles up to served clients whose time has come, and forgets those that were
// never told an address.
func (s *shard) advance(dst []Hit, served int) []Hit {
	for ; served > 0 && !s.queue.empty() && s.queue.front().time < s.horizon(); served-- {
		q := *s.queue.front()
		s.queue.pop()
		c := s.client(q.client)
		if !c.live || c.generation != q.generation {
			continue
		}
		c.queued = false
		dst = s.settle(dst, q.client, s.horizon())
		switch {
		case c.pending.len > 0:
			c.queued = true
			s.queue.push(queued{s.pending.of(&c.pending)[0].time, q.client, c.generation})
		case c.answers.len == 0 && !c.evidence:
			s.remove(q.client)
		}
	}
	return dst
}

// Powers is how many powers of ten Stats counts e-values at, from 10 up.
const Powers = 9

// reach counts the e-value e at each power of ten that it reaches.
func reach(counts *[Powers]uint64, e float64) {
	for i, t := 0, 10.0; i < Powers && e >= t; i, t = i+1, t*10 {
		counts[i]++
	}
}

// Stats counts what the correlator did, over all shards.
type Stats struct {
	Clients     uint64 // remembered now
	MemoryBytes uint64 // in use now, evidence left out
	FixedBytes  uint64 // of those, for the index and the names, whatever the number of clients

	Lookups, Connections uint64
	Explained            uint64                  // connections to an address that a lookup gave
	ExplainedBy          [numExplanations]uint64 // all explained connections, by what explains them; see ExplanationNames
	Unjudged             uint64                  // connections about which nothing can be said: no lookup of the client, or no possible result
	PortTrials           uint64
	AddressTrials        uint64

	Gated  uint64            // trials of clients that walk through many destinations, from which no constant was learned
	Leads  uint64            // given out; in Final too
	Decoys [Alert + 1]uint64 // what scrambled answers reached, by Level: what chance reaches here

	// Settled trials whose e-value reached 10, 100 and so on, by answers as they are and by scrambled ones.
	Reached, ReachedByDecoys [Powers]uint64

	Provisional uint64 // hits given out at once
	Revised     uint64 // of those, how many changed
	Retracted   uint64
	Final       [Alert + 1]uint64 // by Level

	// Compared is what judging cost: the answers, pending events and remembered pairs that connections were
	// compared with.
	Compared uint64

	Inverted         uint64 // events that came after one of the same client with a later stamp
	Late             uint64 // events more than Config.Hold behind the newest
	Early            uint64 // times that events were settled early because one client had too many pending
	EvictedClients   uint64 // that had answers
	EvictedStrangers uint64 // that had none
	EvictedAnswers   uint64 // that made room for newer ones of the same client
	EvictedEvidence  uint64 // clients whose evidence was dropped
	EvictedLearners  uint64 // clients whose pairs were dropped
	Refused          uint64 // events or answers without room
}

// Stats returns the counts so far.
func (c *Correlator) Stats() (sum Stats) {
	for _, s := range c.shards {
		s.mu.Lock()
		x := s.stats
		x.Clients, x.MemoryBytes, x.FixedBytes = uint64(s.count), uint64(s.fixed+s.arena.bytes()), uint64(s.fixed)
		s.mu.Unlock()
		sum.add(&x)
	}
	return sum
}

func (s *Stats) add(x *Stats) {
	s.Clients += x.Clients
	s.MemoryBytes += x.MemoryBytes
	s.FixedBytes += x.FixedBytes
	s.Lookups += x.Lookups
	s.Connections += x.Connections
	s.Explained += x.Explained
	s.Unjudged += x.Unjudged
	s.PortTrials += x.PortTrials
	s.AddressTrials += x.AddressTrials
	s.Provisional += x.Provisional
	s.Revised += x.Revised
	s.Retracted += x.Retracted
	s.Gated += x.Gated
	s.Leads += x.Leads
	for i := range s.ExplainedBy {
		s.ExplainedBy[i] += x.ExplainedBy[i]
	}
	for i := range s.Final {
		s.Final[i] += x.Final[i]
		s.Decoys[i] += x.Decoys[i]
	}
	for i := range s.Reached {
		s.Reached[i] += x.Reached[i]
		s.ReachedByDecoys[i] += x.ReachedByDecoys[i]
	}
	s.Compared += x.Compared
	s.EvictedLearners += x.EvictedLearners
	s.Inverted += x.Inverted
	s.Late += x.Late
	s.Early += x.Early
	s.EvictedClients += x.EvictedClients
	s.EvictedStrangers += x.EvictedStrangers
	s.EvictedAnswers += x.EvictedAnswers
	s.EvictedEvidence += x.EvictedEvidence
	s.Refused += x.Refused
}
