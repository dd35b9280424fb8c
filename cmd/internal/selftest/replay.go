// Package selftest makes what Portolan has to find: a lookup and the connection calculated from it for every
// hypothesis in force, as events, and one such pair as frames that can be told from all others and harm
// nobody.
package selftest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"portolan/correlate"
	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// Correlator is what Replay asks: a *correlate.Correlator, or what stands in for one.
type Correlator interface {
	ObserveLookup(dst []correlate.Hit, l *event.Lookup) []correlate.Hit
	ObserveConnection(dst []correlate.Hit, x *event.Connection) []correlate.Hit
	Flush(dst []correlate.Hit) []correlate.Hit
}

// Outcome is what became of one hypothesis.
type Outcome struct {
	ID    string `json:"id"` // as the catalogue lists it
	Name  string `json:"name"`
	Fired bool   `json:"fired"`
	// Contacts is by which contact of one client it was named by a hit of level watch or alert; 0 when it was
	// not.
	Contacts int    `json:"contacts"`
	Level    string `json:"level,omitempty"`
	// Why says why it did not, where that is known.
	Why string `json:"why,omitempty"`
}

// maxContacts is how often a client contacts what a hypothesis calculates before it is given up. The lightest
// of those that are known are found by the third, one with a constant to be learned by the fifth.
const maxContacts = 12

// Room returns cfg with as much memory, and as few parts of it, as the clients of Replay need: what a
// hypothesis finds does not depend on either, but what is forgotten early does.
func Room(cfg correlate.Config) correlate.Config {
	cfg.MemoryBytes, cfg.Shards = 64<<20, 4
	return cfg
}

// Replay has a client of its own contact what each hypothesis calculates from random answers, maxContacts
// times at most, and says which were named by a hit. The answers are the same each time. c is a correlator
// that has seen nothing, with the Config cfg.
func Replay(cfg *correlate.Config, c Correlator) ([]Outcome, error) {
	all, err := contacts(cfg)
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(all))
	seen := make([][]correlate.Hit, len(all))
	keep := func(hits []correlate.Hit) {
		for _, h := range hits {
			if i := int(h.Zone.ID) - 1; h.State == correlate.Final && h.Level >= correlate.Watch && i >= 0 && i < len(seen) {
				seen[i] = append(seen[i], h)
			}
		}
	}
	listed := map[string]bool{}
	for i := range all {
		listed[all[i].ID] = true
		outcomes[i] = Outcome{ID: all[i].ID, Name: all[i].Name}
	}
	var hits []correlate.Hit
	for i := range all {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		for n := range maxContacts {
			l, x, ok := all[i].draw(random, cfg)
			if !ok {
				outcomes[i].Why = "no answer gives a port that is looked at (ephemeral_port_range)"
				break
			}
			place(l, x, i, n)
			hits = c.ObserveLookup(hits[:0], l)
			keep(hits)
			hits = c.ObserveConnection(hits[:0], x)
			keep(hits)
		}
	}
	hits = c.Flush(hits[:0])
	keep(hits)
	for i := range outcomes {
		outcomes[i].judge(seen[i], listed)
	}
	return outcomes, nil
}

// began is when the events of Replay are stamped from.
var began = event.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

// place gives the n-th contact of client i its time, and its zone: each client is alone in one.
func place(l *event.Lookup, x *event.Connection, i, n int) {
	zone := event.Zone{Kind: event.VNI, ID: uint32(i + 1)}
	client := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	l.Zone, x.Zone = zone, zone
	l.Time = began.Add(time.Duration(n)*time.Minute + time.Duration(i)*time.Hour)
	x.Time = l.Time.Add(2 * time.Millisecond)
	l.Client = netip.AddrPortFrom(client, 40000+uint16(n))
	l.Resolver = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 53}), 53)
	l.Proto, l.Name = event.UDP, []byte(Name)
	x.Src = netip.AddrPortFrom(client, 50000+uint16(n))
	x.Proto, x.Start = event.TCP, event.SYN
}

// judge finds the first hit that names the hypothesis.
func (o *Outcome) judge(hits []correlate.Hit, listed map[string]bool) {
	slices.SortFunc(hits, func(a, b correlate.Hit) int { return int(a.Connection.Src.Port()) - int(b.Connection.Src.Port()) })
	for i := range hits {
		h := &hits[i]
		named := Listed(h.Calc.Hypothesis, listed) == o.ID
		for _, m := range h.Calc.Alternatives {
			named = named || Listed(m.Hypothesis, listed) == o.ID
		}
		if named {
			o.Fired, o.Contacts, o.Level = true, int(h.Connection.Src.Port())-50000+1, h.Level.String()
			return
		}
	}
	if o.Why == "" && len(hits) > 0 {
		o.Why = "the hits name " + hits[0].Calc.Hypothesis
	} else if o.Why == "" {
		o.Why = fmt.Sprintf("no hit of level watch in %d contacts", maxContacts)
	}
}

// Listed returns what the catalogue lists a hit's hypothesis as: a learned constant stands behind a colon or
// a plus sign.
func Listed(id string, listed map[string]bool) string {
	if at := strings.LastIndexAny(id, ":+"); !listed[id] && at > 0 && listed[id[:at]] {
		return id[:at]
	}
	return id
}

// contact is a hypothesis with how to make a lookup and a connection that it explains.
type contact struct {
	hypothesis.Hypothesis
	make func(r *rand.Rand) (l *event.Lookup, x *event.Connection)
}

// tries is how many answers are drawn until one gives a connection that is looked at.
const tries = 20000

// draw makes a contact that the configuration lets the correlator try.
func (c *contact) draw(r *rand.Rand, cfg *correlate.Config) (*event.Lookup, *event.Connection, bool) {
	port := c.Mixture == hypothesis.Port4 || c.Mixture == hypothesis.Port6 || c.Mixture == hypothesis.CustomPort
	for range tries {
		l, x := c.make(r)
		p, dst := x.Dst.Port(), x.Dst.Addr()
		if port && (p == 0 || baseline.Ordinary(p) || p < cfg.EphemeralPortRange[0] || p > cfg.EphemeralPortRange[1]) {
			continue
		}
		if dst.Is4() {
			b := dst.As4()
			if !baseline.Public(binary.BigEndian.Uint32(b[:])) {
				continue
			}
		}
		if !port && slices.ContainsFunc(l.Records, func(r event.Record) bool { return r.Addr == dst }) {
			continue
		}
		return l, x, true
	}
	return nil, nil, false
}

func v4(x uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], x)
	return netip.AddrFrom4(b)
}

// public draws an address that a host on the Internet can have.
func public(r *rand.Rand) uint32 {
	for {
		if x := r.Uint32(); baseline.Public(x) {
			return x
		}
	}
}

// told makes a lookup with records of one type.
func told(t event.Type, records ...event.Record) *event.Lookup {
	for i := range records {
		records[i].Type, records[i].TTL, records[i].Owner = t, 60, []byte(Name)
	}
	return &event.Lookup{Type: t, Records: records}
}

func to(dst netip.Addr, port uint16) *event.Connection {
	return &event.Connection{Dst: netip.AddrPortFrom(dst, port)}
}

// portOf draws the port of a connection whose destination is calculated.
func portOf(r *rand.Rand) uint16 { return 20000 + uint16(r.UintN(10000)) }

// toPort is a contact of the answer itself.
func toPort(calc func(x uint32) uint16) func(*rand.Rand) (*event.Lookup, *event.Connection) {
	return func(r *rand.Rand) (*event.Lookup, *event.Connection) {
		x := public(r)
		return told(event.A, event.Record{Addr: v4(x)}), to(v4(x), calc(x))
	}
}

// toAddress is a contact of what is calculated from an A answer.
func toAddress(calc func(x uint32) uint32) func(*rand.Rand) (*event.Lookup, *event.Connection) {
	return func(r *rand.Rand) (*event.Lookup, *event.Connection) {
		x := public(r)
		return told(event.A, event.Record{Addr: v4(x)}), to(v4(calc(x)), portOf(r))
	}
}
