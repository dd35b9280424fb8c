package correlate

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"runtime"

	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// A snapshot is for the same program on the same machine: tables go out as they lie in memory, which is what
// makes it fast, and layout tells one build from another. What the Baseline knows is not in it.

// ErrSnapshot says that a snapshot was made by another build, with another Config, or is none.
var ErrSnapshot = errors.New("not a snapshot of this correlator")

// layout is what has to be the same for memory to mean the same.
func (c *Correlator) layout() string {
	cfg := c.cfg
	cfg.Baseline, cfg.Alloc = nil, nil
	return fmt.Sprintf("1 %s %d %d %d %d %d %d %+v", runtime.GOARCH, sizeOf[client](), sizeOf[history](), sizeOf[pending](), sizeOf[learner](),
		sizeOf[pair](), sizeOf[offset](), cfg)
}

type (
	headState struct {
		Layout string
		Site   []siteState
	}
	siteState struct {
		Family hypothesis.Learned
		Key    uint32
		Since  event.Time
	}
	shardState struct {
		Clock                 event.Time
		Count                 int
		Hand, PastHand        uint32
		Slots                 []uint32 // of the index that are in use
		Entries               []uint64 // what stands there
		Arena                 arenaState
		Clients, Pasts        poolState
		Answers, Pending      []poolState
		Names                 []byte
		NamesHead             uint64
		NamesSlots, NamesRefs []uint32
		Queue                 []byte
		Real, Decoy           sideState
		Stats                 Stats
		Zones                 []ZoneStats
	}
	arenaState struct {
		Used int64
		Room int
	}
	poolState struct {
		Next  uint32
		Bytes []byte // of all blocks handed out
		Free  []uint32
	}
	sideState struct {
		Support        []supportState
		Arena          arenaState
		Learners       poolState
		Pairs, Offsets []poolState
		Hand           uint32
	}
	supportState struct {
		Client    uint32
		Processes []processState
		Predicted []byte
		Open      []Hit
	}
	processState struct {
		Process  evidence.Process
		Key      uint64
		Trials   int
		Operands [][16]byte
	}
)

// Snapshot writes all that c knows to w, so that Restore goes on where it was. No method may be called meanwhile.
func (c *Correlator) Snapshot(w io.Writer) error {
	enc := gob.NewEncoder(w)
	head := headState{Layout: c.layout()}
	if p := c.site.all.Load(); p != nil {
		for _, k := range *p {
			head.Site = append(head.Site, siteState{k.family, k.key, k.since})
		}
	}
	if err := enc.Encode(&head); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	for _, s := range c.shards {
		if err := enc.Encode(s.save()); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
	}
	return nil
}

// Restore returns a Correlator that goes on where Snapshot was called. Cfg has to be the same, its Seed not 0.
// The error is ErrSnapshot when it is not, or when another build wrote the snapshot.
func Restore(cfg Config, r io.Reader) (*Correlator, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	dec := gob.NewDecoder(r)
	var head headState
	if err := dec.Decode(&head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if cfg.Seed == 0 || head.Layout != c.layout() {
		return nil, fmt.Errorf("%w: the program or its settings are others", ErrSnapshot)
	}
	for _, k := range head.Site {
		c.site.add(k.Family, k.Key, k.Since)
	}
	for _, s := range c.shards {
		var x shardState
		if err := dec.Decode(&x); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
		if err := s.load(&x); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (s *shard) save() *shardState {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &shardState{
		Clock: s.clock, Count: s.count, Hand: s.hand, PastHand: s.pastHand, Arena: s.arena.save(), Clients: s.clients.save(), Pasts: s.pasts.save(),
		Answers: s.answers.save(), Pending: s.pending.save(), NamesHead: s.strings.head, Queue: bytesOf(s.queue.items[s.queue.first:]),
		Real: s.real.save(), Decoy: s.decoy.save(), Stats: s.stats,
	}
	for _, z := range s.zones {
		x.Zones = append(x.Zones, *z)
	}
	for i, e := range s.index {
		if e != 0 {
			x.Slots, x.Entries = append(x.Slots, uint32(i)), append(x.Entries, e)
		}
	}
	x.Names = s.strings.buf[:min(s.strings.head, uint64(len(s.strings.buf)))]
	for i, ref := range s.strings.index {
		if ref != 0 {
			x.NamesSlots, x.NamesRefs = append(x.NamesSlots, uint32(i)), append(x.NamesRefs, ref)
		}
	}
	return x
}

// load makes a shard that has seen nothing what x says.
func (s *shard) load(x *shardState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(x.Slots) != len(x.Entries) || len(x.NamesSlots) != len(x.NamesRefs) || len(x.Names) > len(s.strings.buf) {
		return ErrSnapshot
	}
	s.clock, s.count, s.hand, s.pastHand, s.stats = x.Clock, x.Count, x.Hand, x.PastHand, x.Stats
	for _, z := range x.Zones {
		*s.in(z.Zone) = z
	}
	for i, at := range x.Slots {
		if int(at) >= len(s.index) {
			return ErrSnapshot
		}
		s.index[at] = x.Entries[i]
	}
	copy(s.strings.buf, x.Names)
	s.strings.head = x.NamesHead
	for i, at := range x.NamesSlots {
		if int(at) >= len(s.strings.index) {
			return ErrSnapshot
		}
		s.strings.index[at] = x.NamesRefs[i]
	}
	s.queue.items = make([]queued, len(x.Queue)/sizeOf[queued]())
	copy(bytesOf(s.queue.items), x.Queue)
	return errors.Join(s.clients.load(&x.Clients), s.pasts.load(&x.Pasts), s.answers.load(x.Answers), s.pending.load(x.Pending),
		s.real.load(&x.Real), s.decoy.load(&x.Decoy), s.arena.load(x.Arena))
}

func (a *arena) save() arenaState { return arenaState{a.used, len(a.room)} }

// load counts what pools took from the bank for themselves.
func (a *arena) load(x arenaState) error {
	if x.Used < 0 || x.Used > a.limit || x.Room < 0 || int64(x.Room) > x.Used {
		return ErrSnapshot
	}
	a.used, a.room = x.Used, nil
	if x.Room > 0 {
		a.room = a.bank.take(x.Room)
	}
	return nil
}

func (p *pool[T]) save() poolState {
	x := poolState{Next: p.next, Free: p.free}
	for i, page := range p.pages {
		x.Bytes = append(x.Bytes, bytesOf(page[:min(len(page), (int(p.next)-i<<p.shift)*p.size)])...)
	}
	return x
}

func (p *pool[T]) load(x *poolState) error {
	perPage := p.size << p.shift * sizeOf[T]()
	if len(x.Bytes) != int(x.Next)*p.size*sizeOf[T]() || int64(len(x.Bytes)) > p.arena.limit {
		return ErrSnapshot
	}
	p.next, p.free = x.Next, x.Free
	for b := x.Bytes; len(b) > 0; {
		page := p.arena.bank.take((perPage + cacheLine - 1) &^ (cacheLine - 1))
		b = b[copy(page[:perPage], b):]
		p.pages = append(p.pages, elementsOf[T](page, p.size<<p.shift))
	}
	return nil
}

func (l *lists[T]) save() []poolState {
	all := make([]poolState, len(l.classes))
	for i := range l.classes {
		all[i] = l.classes[i].save()
	}
	return all
}

func (l *lists[T]) load(all []poolState) error {
	if len(all) != len(l.classes) {
		return ErrSnapshot
	}
	for i := range all {
		if err := l.classes[i].load(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *side) save() sideState {
	x := sideState{Arena: d.arena.save(), Learners: d.learners.save(), Pairs: d.pairs.save(), Offsets: d.offsets.save(), Hand: d.hand}
	for n, p := range d.support {
		y := supportState{Client: n, Predicted: bytesOf(p.predicted), Open: p.open}
		for i := range p.processes {
			q := &p.processes[i]
			y.Processes = append(y.Processes, processState{q.Process, q.key, q.trials, q.operands})
		}
		x.Support = append(x.Support, y)
	}
	return x
}

func (d *side) load(x *sideState) error {
	d.hand = x.Hand
	for i := range x.Support {
		y := &x.Support[i]
		p := &support{open: y.Open, predicted: make([]trial, len(y.Predicted)/sizeOf[trial]())}
		copy(bytesOf(p.predicted), y.Predicted)
		for _, q := range y.Processes {
			p.processes = append(p.processes, process{q.Process, q.Key, q.Trials, q.Operands})
		}
		d.support[y.Client] = p
	}
	return errors.Join(d.learners.load(&x.Learners), d.pairs.load(x.Pairs), d.offsets.load(x.Offsets), d.arena.load(x.Arena))
}
