// Package traffic makes labelled events to tune and test the correlator with: hosts that do
// what hosts do, and implants of every family that DETECTION lists among them. What comes out depends
// on the Config alone. The arithmetic of the implants is written forwards and by itself; nothing is shared
// with package hypothesis, so that agreement between the two says something.
//
// Names end in .test; outside addresses are drawn at random from all public ones. Events are values for
// a Sink; nothing here sends packets.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"portolan/sensor/event"
)

// Config describes a world. Take DefaultConfig and change what must differ.
type Config struct {
	Seed uint64
	// Clients is the number of hosts without an implant, 0 to 1,000,000.
	Clients int
	// Implants is the number of infected hosts for each family, 0 to 1000. They differ in what
	// else goes on there: a quiet host, a busy one, one behind NAT with others, one with a crowd
	// of destinations (see Surroundings).
	Implants int
	// Families lists the families by ID or by group; nil means all.
	Families []string

	// Start is the stamp the world begins at, Duration how long it lasts, more than 0.
	Start    event.Time
	Duration time.Duration
	// Connections ends the world after so many, queries to resolvers not counted; 0 means no limit.
	Connections uint64

	// Mix is the share of clients, 0 to 1, that run each model.
	Mix [NumModels]float64
	// NAT is the share of clients, 0 to 1, that stand behind an address with three others.
	NAT float64
	// Interval bounds the mean time between two contacts of an implant; each has its own.
	Interval [2]time.Duration
}

// DefaultConfig returns the default world: 300 clients and four infected hosts of each
// family for a day.
func DefaultConfig() Config {
	cfg := Config{
		Seed:     1,
		Clients:  300,
		Implants: 4,
		Start:    event.Time(1767254400e9), // 2026-01-01 08:00 UTC: people are awake from 7 to 22
		Duration: 24 * time.Hour,
		NAT:      .2,
		Interval: [2]time.Duration{5 * time.Minute, 3 * time.Hour},
	}
	for m := range models {
		cfg.Mix[m] = models[m].share
	}
	return cfg
}

// Validate names the first field that is out of range.
func (c Config) Validate() error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s %v: want %s", field, value, want)
	}
	switch {
	case c.Clients < 0 || c.Clients > 1e6:
		return bad("Clients", c.Clients, "0 to 1000000")
	case c.Implants < 0 || c.Implants > 1000:
		return bad("Implants", c.Implants, "0 to 1000")
	case c.Clients == 0 && c.Implants == 0:
		return bad("Clients", c.Clients, "at least 1, or some Implants")
	case c.Start < 0:
		return bad("Start", int64(c.Start), "0 or later")
	case c.Duration <= 0 || c.Duration > 366*24*time.Hour:
		return bad("Duration", c.Duration, "more than 0 and at most 8784h")
	case !(c.NAT >= 0 && c.NAT <= 1):
		return bad("NAT", c.NAT, "0 to 1")
	case c.Interval[0] < time.Second || c.Interval[1] < c.Interval[0]:
		return bad("Interval", c.Interval, "least and greatest mean, rising, from 1s")
	}
	for m, share := range c.Mix {
		if !(share >= 0 && share <= 1) {
			return bad("Mix "+Model(m).String(), share, "0 to 1")
		}
	}
	for _, name := range c.Families {
		if len(selectFamilies([]string{name})) == 0 {
			return bad("Families", name, "ids or groups that Families lists")
		}
	}
	return nil
}

// Label says where an event comes from.
type Label struct {
	Source  string // id of the family, or name of the benign model
	Implant bool
	// Contact numbers an implant's contacts from 1. Retries and repeats have the number of the
	// contact they repeat.
	Contact int
	Query   bool // a query to a resolver
}

// Event is a lookup or a connection with its label. What it points to holds until the
// function it was handed to returns.
type Event struct {
	Lookup     *event.Lookup
	Connection *event.Connection
	Host       int // the machine, from 0; several may have one address
	Label      Label
}

// Generator makes the events of one world, once. It is for one goroutine.
type Generator struct {
	cfg      Config
	world    *world
	families []family
	hosts    []host
	actors   []actor
	infected map[netip.Addr]string // surroundings by address
	clients  int                   // addresses

	ran         bool
	queue       []item
	sequence    uint32
	lookups     []*lookup
	freeLookups []uint32
	conns       []connection
	freeConns   []uint32
	frame       uint64
	counted     uint64 // connections that are no queries
}

// actor is one model or implant on one host.
type actor struct {
	dice
	number  uint32
	host    uint32
	model   Model
	implant *implant // nil for benign models
	self    uint64   // what tells this actor from others for good
	count   uint32   // what the model counts
	until   event.Time
}

func (a *actor) label(contact int32, query bool) Label {
	if a.implant != nil {
		return Label{a.implant.family.ID, true, int(contact), query}
	}
	return Label{a.model.String(), false, 0, query}
}

// lookup is a lookup on its way, with room for its names.
type lookup struct {
	event.Lookup
	buf     []byte
	actor   uint32
	contact int32
}

// connection is a connection on its way.
type connection struct {
	event.Connection
	actor   uint32
	contact int32
	query   bool
}

// New returns the world that cfg describes. The error names the field that is out of range.
func New(cfg Config) (*Generator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Generator{cfg: cfg, world: newWorld(cfg.Seed), families: selectFamilies(cfg.Families), infected: map[netip.Addr]string{}}
	d := &dice{*rand.NewPCG(cfg.Seed, 0x686f737473)}
	g.addClients(d)
	g.addImplants(d)
	g.clients = int(g.numbered())
	for i := range g.actors {
		g.wake(uint32(i), cfg.Start.Add(g.actors[i].begin()))
	}
	return g, nil
}

// numbered returns how many addresses are given out.
func (g *Generator) numbered() uint32 {
	if len(g.hosts) == 0 {
		return 0
	}
	return g.hosts[len(g.hosts)-1].number + 1
}

// Addresses returns how many client addresses there are; behind NAT several hosts share one.
func (g *Generator) Addresses() int { return g.clients }

// Infected returns what surrounds the implant on the host with this address, one of
// Surroundings, and "" when there is none.
func (g *Generator) Infected(client netip.Addr) string { return g.infected[client] }

// InfectedAddresses returns how many client addresses have an implant.
func (g *Generator) InfectedAddresses() int { return len(g.infected) }

func (g *Generator) addHost(d *dice, shared bool) uint32 {
	n := g.numbered()
	if shared {
		n--
	}
	g.hosts = append(g.hosts, host{})
	g.hosts[len(g.hosts)-1].place(n, d)
	return uint32(len(g.hosts) - 1)
}

func (g *Generator) addActor(host uint32, m Model, i *implant) *actor {
	id := uint64(len(g.actors))
	g.actors = append(g.actors, actor{dice: dice{*rand.NewPCG(g.cfg.Seed, mix(id))}, number: uint32(id), host: host, model: m, implant: i})
	a := &g.actors[id]
	a.self = a.Uint64()
	return a
}

const natGroup = 4 // hosts behind one address

func (g *Generator) addClients(d *dice) {
	var ran [NumModels]bool
	behind := 0
	for i := range g.cfg.Clients {
		shared := behind%natGroup != 0
		if shared {
			behind++
		} else if d.chance(g.cfg.NAT / (natGroup - g.cfg.NAT*(natGroup-1))) { // begins a group
			behind = 1
		}
		if behind == natGroup {
			behind = 0
		}
		h := g.addHost(d, shared)
		some := false
		for m := range NumModels {
			if d.chance(g.cfg.Mix[m]) {
				g.addActor(h, m, nil)
				some, ran[m] = true, true
			}
		}
		if !some && g.cfg.Mix[Browsing] > 0 {
			g.addActor(h, Browsing, nil)
			ran[Browsing] = true
		}
		if i == g.cfg.Clients-1 { // a rare model is not left out of a small world
			for m := range NumModels {
				if !ran[m] && g.cfg.Mix[m] > 0 {
					g.addActor(uint32(int(m)%g.cfg.Clients), m, nil)
				}
			}
		}
	}
}

func (a *actor) begin() time.Duration {
	if a.implant != nil {
		return a.exp(a.implant.interval / 4)
	}
	return a.between(0, models[a.model].warmUp)
}

// Run hands every event to emit in order of time, and returns when the world ends or ctx does.
func (g *Generator) Run(ctx context.Context, emit func(Event)) error {
	if g.ran {
		return errors.New("run traffic: a generator runs once")
	}
	g.ran = true
	end := g.cfg.Start.Add(g.cfg.Duration)
	for n := uint32(0); len(g.queue) > 0; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		next := g.pop()
		if next.time >= end {
			break
		}
		switch next.ref & refKind {
		case refActor:
			id := next.ref >> refBits
			g.wake(id, next.time.Add(g.act(id, next.time)))
		case refLookup:
			g.emitLookup(next.ref>>refBits, emit)
		default:
			g.emitConnection(next.ref>>refBits, emit)
			if g.cfg.Connections != 0 && g.counted >= g.cfg.Connections {
				g.queue = nil
			}
		}
	}
	g.queue = nil
	return nil
}

// Feed hands every event to a sink, without labels.
func (g *Generator) Feed(ctx context.Context, to event.Sink) error {
	return g.Run(ctx, func(e Event) {
		if e.Lookup != nil {
			to.Lookup(e.Lookup)
		} else {
			to.Connection(e.Connection)
		}
	})
}

func (g *Generator) act(id uint32, t event.Time) time.Duration {
	a := &g.actors[id]
	if a.implant != nil {
		return g.contact(a, t)
	}
	return max(time.Millisecond, models[a.model].step(g, a, t))
}

func (g *Generator) emitLookup(slot uint32, emit func(Event)) {
	l := g.lookups[slot]
	a := &g.actors[l.actor]
	g.frame++
	l.Frame = g.frame
	emit(Event{Lookup: &l.Lookup, Host: int(a.host), Label: a.label(l.contact, false)})
	g.freeLookups = append(g.freeLookups, slot)
}

func (g *Generator) emitConnection(slot uint32, emit func(Event)) {
	c := &g.conns[slot]
	a := &g.actors[c.actor]
	g.frame++
	c.Frame = g.frame
	if !c.query {
		g.counted++
	}
	emit(Event{Connection: &c.Connection, Host: int(a.host), Label: a.label(c.contact, c.query)})
	g.freeConns = append(g.freeConns, slot)
}

// item is something that happens at a time: an actor acts, or an event is given out.
type item struct {
	time     event.Time
	sequence uint32 // orders what happens at one time
	ref      uint32 // what, by kind and place
}

const (
	refBits = 2
	refKind = 1<<refBits - 1

	refActor = iota - 2
	refLookup
	refConnection
)

func (i *item) before(j *item) bool {
	return i.time < j.time || i.time == j.time && i.sequence < j.sequence
}

func (g *Generator) wake(actor uint32, t event.Time) { g.push(t, actor<<refBits|refActor) }

// push adds to the queue, a heap with four branches: half as deep as one with two.
func (g *Generator) push(t event.Time, ref uint32) {
	g.sequence++
	x := item{t, g.sequence, ref}
	g.queue = append(g.queue, x)
	i := len(g.queue) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !x.before(&g.queue[up]) {
			break
		}
		g.queue[i] = g.queue[up]
		i = up
	}
	g.queue[i] = x
}

func (g *Generator) pop() item {
	q := g.queue
	top, last := q[0], q[len(q)-1]
	q = q[:len(q)-1]
	g.queue = q
	i := 0
	for {
		first := 4*i + 1
		if first >= len(q) {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, len(q)); c++ {
			if q[c].before(&q[least]) {
				least = c
			}
		}
		if !q[least].before(&last) {
			break
		}
		q[i] = q[least]
		i = least
	}
	if len(q) > 0 {
		q[i] = last
	}
	return top
}
