package correlate

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// This file says what a hit is, slowly and obviously: all events of a client sorted by
// stamp, every answer tried with every hypothesis, every trial multiplied in. It knows no
// bounds, no arrival and no revisions. The Correlator agrees with it.

// happening is one event or one record of a lookup, on its client's time line.
type happening struct {
	t          event.Time
	connection *event.Connection // nil for a record
	kind       kind
	addr       netip.Addr
	ttl        uint32
	name       string
}

type slowAnswer struct {
	last, ttlEnd event.Time
	name         string
}

type slowKey struct {
	kind kind
	addr netip.Addr
}

type slowHit struct {
	level            Level
	hypothesis       string
	logE             float64
	answers, support int
	lookup           event.Time
	name             string
	trials, own      uint64
}

type slowClient struct {
	zone  event.Zone
	addr  netip.Addr
	items []happening
}

func slowHits(cfg Config, lookups []event.Lookup, connections []event.Connection) map[ID]slowHit {
	clients := map[string]*slowClient{}
	client := func(z event.Zone, a netip.Addr) *slowClient {
		k := z.String() + " " + a.String()
		if clients[k] == nil {
			clients[k] = &slowClient{zone: z, addr: a}
		}
		return clients[k]
	}
	for i := range lookups {
		l := &lookups[i]
		c := client(l.Zone, l.Client.Addr())
		add := func(k kind, a netip.Addr, ttl uint32) {
			c.items = append(c.items, happening{t: l.Time, kind: k, addr: a, ttl: ttl, name: string(l.Name)})
		}
		for _, r := range l.Records {
			switch r.Type {
			case event.A:
				add(kindA, r.Addr, r.TTL)
			case event.AAAA:
				add(kindAAAA, r.Addr, r.TTL)
			case event.Hint:
				add(kindExplains, r.Addr, r.TTL)
			case event.TXT:
				hypothesis.DecodeTXT(r.Text, func(v hypothesis.Via, x uint32) { add(kind(v), addr4(x), r.TTL) })
			}
		}
		c.items = append(c.items, happening{t: l.Time.Add(-cfg.Hold / 2), kind: kindResolver, addr: l.Resolver.Addr()})
	}
	for i := range connections {
		x := &connections[i]
		c := client(x.Zone, x.Src.Addr())
		c.items = append(c.items, happening{t: x.Time, connection: x})
	}
	hits := map[ID]slowHit{}
	for _, c := range clients {
		slices.SortStableFunc(c.items, func(a, b happening) int {
			if a.t != b.t {
				return cmp.Compare(a.t, b.t)
			}
			if a.connection == nil || b.connection == nil {
				return cmp.Compare(b2i(a.connection != nil), b2i(b.connection != nil))
			}
			x, y := a.connection, b.connection
			return cmp.Or(x.Dst.Addr().Compare(y.Dst.Addr()), cmp.Compare(x.Dst.Port(), y.Dst.Port()),
				cmp.Compare(x.Proto, y.Proto), cmp.Compare(x.Src.Port(), y.Src.Port()))
		})
		c.run(cfg, hits)
	}
	return hits
}

func addr4(x uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x)))
}

func word4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// slowTrial is one trial of one mixture: which hypotheses predict it, and their ratios.
type slowTrial map[string]float64

var slowCatalogue = hypothesis.Catalogue()

func (c *slowClient) run(cfg Config, hits map[ID]slowHit) {
	told := map[slowKey]slowAnswer{}
	trials := map[hypothesis.Mixture][]slowTrial{}
	var recent []string // misses that would not count again
	predictedBefore := map[string]bool{}
	own := uint64(0)
	capped := func(ttl uint32) time.Duration { return min(time.Duration(ttl)*time.Second, cfg.MaxTTL) }

	for _, it := range c.items {
		if it.connection == nil {
			k := slowKey{it.kind, it.addr}
			a, known := told[k]
			if !known {
				a.ttlEnd = math.MinInt64
			}
			a.last, a.name = it.t, it.name
			a.ttlEnd = max(a.ttlEnd, it.t.Add(capped(it.ttl)))
			told[k] = a
			continue
		}
		x := it.connection
		if x.Proto == event.UDP && x.Src.Port() == 53 {
			continue
		}
		isAnswer, operand := false, slowKey{}
		portEnd := event.Time(math.MinInt64)
		for k, a := range told {
			if k.addr != x.Dst.Addr() || !k.kind.explains(x.Dst.Port()) {
				continue
			}
			isAnswer = true
			if k.kind.operand() {
				operand = k
				portEnd = max(portEnd, a.ttlEnd, a.last.Add(cfg.PortWindow))
			}
		}
		set := map[hypothesis.Mixture]slowTrial{}
		origin := map[string]slowKey{}
		competing := map[string]int{}
		key := x.Dst.Addr().String()
		switch {
		case isAnswer:
			own++
			if !operand.addr.IsValid() || x.Time > portEnd || baseline.Ordinary(x.Dst.Port()) {
				continue
			}
			key += fmt.Sprint(" ", x.Dst.Port())
			q := baseline.Port(x.Dst.Port())
			t := slowTrial{}
			m := hypothesis.Port6
			if operand.kind == kindA {
				m = hypothesis.Port4
				for f := range hypothesis.Predicting(word4(operand.addr), x.Dst.Port()).All() {
					t[f.ID()] += 1 / q
					origin[f.ID()], competing[f.ID()] = operand, 1
				}
			} else {
				ip := operand.addr.As16()
				mask := hypothesis.Predicting6(&ip, x.Dst.Port())
				for g := range hypothesis.Group(hypothesis.NumGroups) {
					if mask>>g&1 != 0 {
						t[g.ID()] += 1 / q
						origin[g.ID()], competing[g.ID()] = operand, 1
					}
				}
			}
			set[m] = t
		case x.Dst.Addr().Is4() && baseline.Reachable(word4(x.Dst.Addr())):
			y := word4(x.Dst.Addr())
			n := map[kind]int{}
			near := baseline.Anywhere
			for k, a := range told {
				if k.kind.operand() && x.Time <= max(a.ttlEnd, a.last.Add(cfg.AddressWindow)) {
					group := min(k.kind, kind(hypothesis.ViaTXTPlain))
					n[group]++
					if k.kind == kindA {
						near = max(near, baseline.Closeness(word4(k.addr), y))
					}
				}
			}
			if len(n) == 0 {
				continue
			}
			ownAddr := uint32(0)
			if c.addr.Is4() {
				ownAddr = word4(c.addr)
			}
			q := baseline.Destination(y, ownAddr, near)
			if n[kindA]+n[kindAAAA] > 0 {
				set[hypothesis.AddressA] = slowTrial{}
			}
			if n[kind(hypothesis.ViaTXTPlain)] > 0 {
				set[hypothesis.AddressT] = slowTrial{}
			}
			for k, a := range told {
				if !k.kind.operand() || x.Time > max(a.ttlEnd, a.last.Add(cfg.AddressWindow)) {
					continue
				}
				try := func(via hypothesis.Via, w uint32) {
					m := hypothesis.AddressA
					if via >= hypothesis.ViaTXTPlain {
						m = hypothesis.AddressT
					}
					for tr := range hypothesis.NumTransforms {
						if tr.Weight(via) == 0 || tr.Apply(w) != y {
							continue
						}
						id, _ := tr.In(via)
						competing[id] = n[min(k.kind, kind(hypothesis.ViaTXTPlain))]
						set[m][id] += 1 / (float64(competing[id]) * q)
						origin[id] = k
					}
				}
				if k.kind != kindAAAA {
					try(hypothesis.Via(k.kind), word4(k.addr))
					continue
				}
				ip := k.addr.As16()
				if translated(&ip) {
					continue
				}
				for _, e := range hypothesis.Embedded {
					try(e.Via, binary.BigEndian.Uint32(ip[e.Offset:]))
				}
			}
		default:
			continue
		}
		matched := false
		for _, t := range set {
			matched = matched || len(t) > 0
		}
		if !matched {
			if slices.Contains(recent, key) {
				continue
			}
			if recent = append(recent, key); len(recent) > trialMemory {
				recent = recent[1:]
			}
			for m, t := range set {
				trials[m] = append(trials[m], t)
			}
			continue
		}
		if predictedBefore[key] {
			continue
		}
		predictedBefore[key] = true
		best := slowHit{logE: math.Inf(-1)}
		for m, t := range set {
			trials[m] = append(trials[m], t)
			sum, top, topID, support := 0.0, 0.0, "", 0
			for _, h := range slowCatalogue {
				id := h.ID
				if t[id] == 0 {
					continue
				}
				e, n := slowE(trials[m], id)
				e *= h.Weight
				sum += e
				if e > top {
					top, topID, support = e, id, n
				}
			}
			if topID != "" && math.Log(sum) > best.logE {
				a := told[origin[topID]]
				best = slowHit{s0(cfg, sum), topID, math.Log(sum), competing[topID], support, a.last, a.name,
					uint64(len(trials[m]) - 1), own}
			}
		}
		if best.level > None {
			hits[idOf(c.zone, c.addr, x.Proto, x.Dst)] = best
		}
	}
}

func s0(cfg Config, e float64) Level {
	switch {
	case e >= cfg.Alert:
		return Alert
	case e >= cfg.Watch:
		return Watch
	}
	return None
}

// slowE multiplies in all trials of hypothesis id; see package evidence for the shares.
func slowE(trials []slowTrial, id string) (e float64, support int) {
	for i, s := range []struct{ pi, weight float64 }{{.9, .4}, {.5, .3}, {.2, .1}, {.1, .1}, {.02, .1}} {
		m := 1.0
		for _, t := range trials {
			r, ok := t[id]
			if ok && i == 0 {
				support++
			}
			m = max(1, m) * (1 - s.pi + s.pi*r)
		}
		e += s.weight * m
	}
	return e, support
}

// worldOf makes random events of a few clients whose connections are often calculated.
func worldOf(r *rand.Rand, cfg Config) (lookups []event.Lookup, connections []event.Connection) {
	clients := []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.1.8"), netip.MustParseAddr("2001:db8::7")}
	zones := []event.Zone{{}, {Kind: event.VLAN, ID: 12}}
	resolvers := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:53"), netip.MustParseAddrPort("8.8.8.8:53")}
	var pool []netip.Addr
	for range 6 {
		pool = append(pool, addr4(r.Uint32()))
	}
	swapped := word4(pool[0])<<16 | word4(pool[0])>>16 // explained or calculated, as the lookups have it
	pool = append(pool, addr4(word4(pool[0])^7), addr4(swapped))
	var pool6 []netip.Addr
	for range 2 {
		var b [16]byte
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		pool6 = append(pool6, netip.AddrFrom16(b))
	}
	texts := []string{"wAACBw==", "c0000207", "198.51.100.23", "hello"}
	at := event.Time(0)
	for range 60 {
		at = at.Add(time.Duration(r.Int64N(int64(cfg.Hold / 20))))
		if r.IntN(25) == 0 {
			at = at.Add(time.Duration(r.Int64N(int64(cfg.AddressWindow))))
		}
		client, zone := clients[r.IntN(3)], zones[r.IntN(2)]
		if r.IntN(2) == 0 {
			l := event.Lookup{Time: at, Zone: zone, Client: netip.AddrPortFrom(client, 4000), Resolver: resolvers[r.IntN(2)], Proto: event.UDP}
			l.Name = []byte(fmt.Sprintf("n%d.example", at))
			for range r.IntN(4) {
				rec := event.Record{TTL: uint32(r.IntN(30))}
				switch r.IntN(8) {
				case 0:
					rec.Type, rec.Addr = event.AAAA, pool6[r.IntN(len(pool6))]
				case 1:
					rec.Type, rec.Text = event.TXT, []byte(texts[r.IntN(len(texts))])
				case 2:
					rec.Type, rec.Addr = event.Hint, pool[r.IntN(len(pool))]
				default:
					rec.Type, rec.Addr = event.A, pool[r.IntN(len(pool))]
				}
				if !slices.ContainsFunc(l.Records, func(o event.Record) bool { return o.Addr == rec.Addr && string(o.Text) == string(rec.Text) }) {
					l.Records = append(l.Records, rec)
				}
			}
			lookups = append(lookups, l)
			continue
		}
		x := event.Connection{Time: at, Zone: zone, Proto: []event.Proto{event.TCP, event.UDP}[r.IntN(2)]}
		from := pool[r.IntN(len(pool))]
		dst := from
		port := uint16(r.IntN(65536))
		switch r.IntN(6) {
		case 0: // calculated port
			ports := hypothesis.Ports(nil, word4(from))
			port = ports[r.IntN(len(ports))]
		case 1: // calculated port of an IPv6 answer
			dst = pool6[r.IntN(len(pool6))]
			ip := dst.As16()
			ports := hypothesis.Ports6(nil, &ip)
			port = ports[r.IntN(len(ports))]
		case 2: // calculated address
			dst = addr4(hypothesis.Transform(r.IntN(int(hypothesis.NumTransforms))).Apply(word4(from)))
		case 3: // out of a TXT or an IPv6 answer
			w := []uint32{0xc0000207, 0xc6336417, 0}[r.IntN(3)]
			if w == 0 {
				ip := pool6[r.IntN(len(pool6))].As16()
				w = binary.BigEndian.Uint32(ip[4*r.IntN(4):])
			}
			ts := []hypothesis.Transform{0, 3, 4, 7, hypothesis.NumTransforms - 4}
			dst = addr4(ts[r.IntN(len(ts))].Apply(w))
		case 4: // a resolver
			dst, port = resolvers[r.IntN(2)].Addr(), 53
		case 5:
			dst = addr4(r.Uint32())
		}
		x.Src, x.Dst = netip.AddrPortFrom(client, 40000+uint16(r.IntN(3))), netip.AddrPortFrom(dst, port)
		connections = append(connections, x)
	}
	return lookups, connections
}

func hitOf(h *Hit) slowHit {
	return slowHit{h.Level, h.Calc.Hypothesis, math.Log(h.Calc.EValue), h.Calc.Answers, h.Calc.SupportTrials,
		h.Lookup.Time, h.Lookup.Name, h.Baseline.Trials, h.Coverage.Explained}
}

// The final hits are the slow function's, whatever the order of arrival and the number of
// shards, and what was given out on the way leads there.
func TestAgreesWithSlow(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Hold, cfg.AddressWindow, cfg.PortWindow = 10*time.Second, 60*time.Second, 30*time.Second
	cfg.MemoryBytes = 64 << 20
	hits, retracted, revised := 0, 0, 0
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 1))
		lookups, connections := worldOf(r, cfg)
		want := slowHits(cfg, lookups, connections)
		cfg.Shards = []int{1, 64}[seed%2]
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		// Each event arrives late by up to just under half the hold.
		type arrival struct {
			at event.Time
			l  *event.Lookup
			x  *event.Connection
		}
		var arrivals []arrival
		lateness := int64(cfg.Hold/2) - 1
		if seed%3 == 0 {
			lateness = 1 // in order, for the most part
		}
		for i := range lookups {
			arrivals = append(arrivals, arrival{lookups[i].Time.Add(time.Duration(r.Int64N(lateness))), &lookups[i], nil})
		}
		for i := range connections {
			arrivals = append(arrivals, arrival{connections[i].Time.Add(time.Duration(r.Int64N(lateness))), nil, &connections[i]})
		}
		slices.SortStableFunc(arrivals, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
		var given []Hit
		for _, a := range arrivals {
			if a.l != nil {
				given = c.ObserveLookup(given, a.l)
			} else {
				given = c.ObserveConnection(given, a.x)
			}
		}
		given = c.Flush(given)
		last := map[ID]Hit{}
		for _, h := range given {
			if o, ok := last[h.ID]; ok && h.Revision != o.Revision+1 || !ok && h.Revision != 1 {
				t.Fatalf("seed %d: hit %s: revision %d after %d", seed, h.ID, h.Revision, o.Revision)
			}
			if o := last[h.ID]; o.State == Final {
				t.Fatalf("seed %d: hit %s changed after it was final", seed, h.ID)
			}
			last[h.ID] = h
		}
		for id, h := range last {
			if h.State == Retracted {
				delete(last, id)
			} else if h.State != Final {
				t.Fatalf("seed %d: hit %s is left %s", seed, id, h.State)
			}
		}
		st := c.Stats()
		if st.Late+st.Early+st.Refused+st.EvictedClients != 0 {
			t.Fatalf("seed %d: a bound was reached: %+v", seed, st)
		}
		hits, retracted, revised = hits+len(want), retracted+int(st.Retracted), revised+int(st.Revised)
		for id, w := range want {
			h, ok := last[id]
			if !ok {
				t.Fatalf("seed %d: hit %s is missing: %+v", seed, id, w)
			}
			g := hitOf(&h)
			if math.Abs(g.logE-w.logE) > 1e-9 {
				t.Fatalf("seed %d: hit %s: log e %v, want %v (%+v)", seed, id, g.logE, w.logE, w)
			}
			g.logE = w.logE
			if g != w {
				t.Fatalf("seed %d: hit %s:\n got %+v\nwant %+v", seed, id, g, w)
			}
			delete(last, id)
		}
		for id, h := range last {
			t.Fatalf("seed %d: hit %s is too much: %+v", seed, id, h)
		}
	}
	t.Logf("%d hits; on the way %d were revised and %d retracted", hits, revised, retracted)
	if hits < 500 || retracted == 0 || revised == 0 {
		t.Errorf("%d hits, %d revised, %d retracted: the events test too little", hits, revised, retracted)
	}
}
