package correlate

import "portolan/sensor/event"

// A batch is dealt out to the shards first. Each shard's lock is taken once, and what its events need is
// asked of memory for ahead events at a time: a table of a million clients fits in no cache,
// and waiting for many lines at once takes little longer than for one.
const ahead = 16

// plan is the order in which the events of one batch are taken.
type plan struct {
	unsorted []planned
	sorted   []planned // by shard, within it in the order of the batch
	first    []int32   // of each shard in sorted, and the end
}

type planned struct {
	hash   uint64 // of the client
	origin uint64 // of a lookup: the hash of what is remembered of it
	time   event.Time
	event  int32 // place in the batch
	shard  uint32
}

// ObserveBatch takes in the events of b and appends to dst the hits they give. It is what observing them
// one by one in their order comes to, but that hits of different clients may come in
// another order.
func (c *Correlator) ObserveBatch(dst []Hit, b *event.Batch) []Hit {
	return c.ObservePart(dst, b, 0, 1)
}

// ObservePart takes in those events of b that belong to one of several parts, numbered from 0. Each client
// belongs to one part, so that several goroutines can take a part each at once; when all are done, it is what
// ObserveBatch comes to, whatever the number of parts, but for the order of the hits of different clients.
func (c *Correlator) ObservePart(dst []Hit, b *event.Batch, part, parts int) []Hit {
	p := c.plans.Get().(*plan)
	defer c.plans.Put(p)
	p.deal(c, b, part, parts)
	for i, s := range c.shards {
		if from, to := p.first[i], p.first[i+1]; from < to {
			dst = c.observeShard(dst, s, b, p.sorted[from:to])
		}
	}
	return dst
}

func (c *Correlator) observeShard(dst []Hit, s *shard, b *event.Batch, events []planned) []Hit {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(events) > 0 {
		n := min(ahead, len(events))
		s.fetch(events[:n])
		for _, e := range events[:n] {
			if l, x := b.At(int(e.event)); l != nil {
				dst = s.lookup(dst, e.hash, e.origin, l, c.listed(l.Resolver.Addr()))
			} else {
				dst = s.connection(dst, e.hash, x)
			}
		}
		events = events[n:]
	}
	return dst
}

// deal sorts the events of a part of b by shard.
func (p *plan) deal(c *Correlator, b *event.Batch, part, parts int) {
	if n := b.Len(); cap(p.sorted) < n {
		p.unsorted, p.sorted = make([]planned, n), make([]planned, n)
	}
	p.unsorted = p.unsorted[:0]
	clear(p.first)
	for i := range b.Len() {
		l, x := b.At(i)
		k := key{}
		if l != nil {
			k = key{l.Client.Addr().As16(), l.Zone}
		} else {
			k = key{x.Src.Addr().As16(), x.Zone}
		}
		u := planned{hash: c.seeds.hash(&k), event: int32(i)}
		if u.shard = c.place(u.hash); int(u.shard)%parts != part {
			continue
		}
		if l != nil {
			u.origin, u.time = c.seeds.origin(l), l.Time
		} else {
			u.time = x.Time
		}
		p.unsorted = append(p.unsorted, u)
		p.first[u.shard]++
	}
	n := len(p.unsorted)
	p.sorted = p.sorted[:n]
	end := int32(0) // turns counts into ends, which the loop below turns into beginnings
	for i, n := range p.first {
		end += n
		p.first[i] = end
	}
	for i := n - 1; i >= 0; i-- {
		u := &p.unsorted[i]
		p.first[u.shard]--
		p.sorted[p.first[u.shard]] = *u
	}
}

// fetch reads what the given events are about to need, and the clients that will be settled meanwhile.
// Reads that do not depend on each other are under way together.
func (s *shard) fetch(events []planned) {
	var (
		entries [ahead]uint64
		lists   [(1 + servedEach) * ahead][2]list
	)
	mask := uint32(len(s.index) - 1)
	clock, sum := s.clock, s.touched
	for i := range events {
		e := &events[i]
		entries[i] = s.index[uint32(e.hash)&mask]
		clock = max(clock, e.time)
		if e.origin != 0 {
			sum += s.strings.touch(e.origin)
		}
	}
	n := 0
	for i := range events {
		if e := entries[i]; e != 0 && uint32(e>>32) == uint32(events[i].hash) {
			c := s.client(uint32(e) - 1)
			lists[n] = [2]list{c.answers, c.pending}
			n++
		}
	}
	due := s.queue.items[s.queue.first:]
	for _, q := range due[:min(servedEach*len(events), len(due))] {
		if q.time.Add(s.cfg.Hold) >= clock {
			break
		}
		c := s.client(q.client)
		lists[n] = [2]list{c.answers, c.pending}
		n++
	}
	for i := range lists[:n] {
		if l := &lists[i][0]; l.class != 0 {
			w := s.answers.block(l)
			for at := 0; at < min(len(w), most); at += wordsPerLine {
				sum += w[at]
			}
		}
		if l := &lists[i][1]; l.class != 0 {
			p := s.pending.block(l)
			sum += uint64(p[0].time) + uint64(p[0].by)
		}
	}
	s.touched = sum // so that no compiler leaves the reads out
}

const (
	wordsPerLine = cacheLine / 8
	most         = 2 * wordsPerLine // the tags of sixteen answers
)
