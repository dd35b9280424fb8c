package correlate

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
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
			if r.Type == event.SRV {
				add(kindService, netip.AddrFrom16(service(r.Port)), r.TTL)
			}
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

// slowTrial is one trial of one mixture: which hypotheses predict it.
type slowTrial map[string]slowMatch

type slowMatch struct {
	ratio, weight float64
	order         uint64 // decides between equals
	origin        slowKey
	competing     int
}

func (t slowTrial) add(id string, ratio, weight float64, order found, origin slowKey, competing int) {
	m := t[id]
	t[id] = slowMatch{m.ratio + ratio, weight, order.key(), origin, competing}
}

// slowPair is an answer and a destination that no lookup explained.
type slowPair struct {
	x, y   uint32
	family hypothesis.Learned
}

// last returns the newest n of all.
func lastOf[T any](all []T, n int) []T { return all[max(0, len(all)-n):] }

func (c *slowClient) run(cfg Config, hits map[ID]slowHit) {
	told := map[slowKey]slowAnswer{}
	trials := map[hypothesis.Mixture][]slowTrial{}
	var recent []string // misses that would not count again
	predictedBefore := map[string]bool{}
	own := uint64(0)
	capped := func(ttl uint32) time.Duration { return min(time.Duration(ttl)*time.Second, cfg.MaxTTL) }
	var walk *learner // from the first trial on
	var pairs [3][]slowPair
	var ports []offset
	control := map[netip.Addr]event.Time{}
	media := event.Time(math.MinInt64)

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
		y, port := x.Dst.Addr(), x.Dst.Port()
		if stun(x.Proto, port) {
			media = x.Time
		}
		controlled := false
		if t, ok := control[y]; ok && !controls(x.Proto, port) && x.Time-t <= ctrlTime {
			controlled = true
		}
		if controls(x.Proto, port) {
			control[y] = x.Time
		}
		if x.Proto == event.UDP && x.Src.Port() == 53 {
			continue
		}
		isAnswer, operand := false, slowKey{}
		portEnd := event.Time(math.MinInt64)
		for k, a := range told {
			if k.addr != y || !k.kind.explains(port) {
				continue
			}
			isAnswer = true
			if k.kind.operand() {
				operand = k
				portEnd = max(portEnd, a.ttlEnd, a.last.Add(cfg.PortWindow))
			}
		}
		_, service := told[slowKey{kindService, netip.AddrFrom16(service(port))}]
		peers := x.Proto == event.UDP && media != math.MinInt64 && x.Time-media <= mediaTime
		quiet := service || controlled || peers
		if isAnswer {
			own++
			if walk != nil {
				walk.pass(x.Time, -walkStep)
			}
			if !operand.addr.IsValid() || x.Time > portEnd || baseline.Ordinary(port) || service || controlled {
				continue
			}
		}
		set := map[hypothesis.Mixture]slowTrial{}
		key := y.String()
		q := 0.0
		var near baseline.Near
		var answers []uint32 // fresh ones, newest first
		switch {
		case isAnswer:
			key += fmt.Sprint(" ", port)
			q = baseline.Port(port)
			if walk != nil && walk.uses > 0 {
				q = walk.portChance(port, q)
			}
			t := slowTrial{}
			if operand.kind == kindA {
				set[hypothesis.Port4] = t
				for f := range hypothesis.Predicting(word4(operand.addr), port).All() {
					t.add(f.ID(), 1/q, f.Weight(), found{mixture: hypothesis.Port4, via: hypothesis.ViaA, which: uint8(f)}, operand, 1)
				}
				break
			}
			set[hypothesis.Port6] = t
			ip := operand.addr.As16()
			mask := hypothesis.Predicting6(&ip, port)
			for g := range hypothesis.Group(hypothesis.NumGroups) {
				if mask>>g&1 != 0 {
					t.add(g.ID(), 1/q, g.Weight(), found{mixture: hypothesis.Port6, via: hypothesis.ViaAAAA, which: uint8(g)}, operand, 1)
				}
			}
		case y.Is4() && baseline.Reachable(word4(y)):
			w := word4(y)
			n := map[kind]int{}
			embedded := false
			var freshA []fresh
			for k, a := range told {
				if k.kind == kindA {
					near.Measure(word4(k.addr), w)
				}
				if k.kind.operand() && x.Time <= max(a.ttlEnd, a.last.Add(cfg.AddressWindow)) {
					n[min(k.kind, kind(hypothesis.ViaTXTPlain))]++
					ip := k.addr.As16()
					if k.kind == kindA {
						freshA = append(freshA, fresh{word: word4(k.addr), last: a.last})
					} else if ip4, ok := translated(&ip); ok && ip4 == w {
						embedded = true
					}
				}
			}
			if len(n) == 0 {
				continue
			}
			if embedded {
				own++
				if walk != nil {
					walk.pass(x.Time, -walkStep)
				}
				continue
			}
			slices.SortFunc(freshA, func(a, b fresh) int { return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.word, b.word)) })
			for _, f := range freshA {
				answers = append(answers, f.word)
			}
			ownAddr := uint32(0)
			if c.addr.Is4() {
				ownAddr = word4(c.addr)
			}
			q = baseline.Destination(w, ownAddr, &near)
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
				competing := n[min(k.kind, kind(hypothesis.ViaTXTPlain))]
				try := func(via hypothesis.Via, from uint32) {
					m := hypothesis.AddressA
					if via >= hypothesis.ViaTXTPlain {
						m = hypothesis.AddressT
					}
					for tr := range hypothesis.NumTransforms {
						if tr.Weight(via) == 0 || tr.Apply(from) != w {
							continue
						}
						id, _ := tr.In(via)
						set[m].add(id, 1/(float64(competing)*q), tr.Weight(via), found{mixture: m, via: via, which: uint8(tr)}, k, competing)
					}
				}
				ip := k.addr.As16()
				switch _, standard := translated(&ip); {
				case k.kind != kindAAAA:
					try(hypothesis.Via(k.kind), word4(k.addr))
				case !standard:
					for _, e := range hypothesis.Embedded {
						try(e.Via, binary.BigEndian.Uint32(ip[e.Offset:]))
					}
				}
				if k.kind == kindA {
					if o, ok := hypothesis.OctetKey(word4(k.addr), w); ok && !hypothesis.OctetKeyKnown(o) {
						set[hypothesis.AddressA].add(hypothesis.OctetID(o), 1/(float64(competing)*q), hypothesis.OctetWeight(),
							found{mixture: hypothesis.AddressA, sort: sortOctet, constant: uint32(o)}, k, competing)
					}
				}
			}
			c.slowPairs(told, freshA, w, q, set[hypothesis.AddressA])
		default:
			continue
		}
		matched := func() (yes bool) {
			for _, t := range set {
				yes = yes || len(t) > 0
			}
			return yes
		}
		if !matched() && slices.Contains(recent, key) {
			continue
		}
		if isAnswer && operand.kind == kindA {
			tried := 0
			for _, p := range ports {
				if p.x == word4(operand.addr) && p.port != port {
					tried++
				}
			}
			if tried >= maxPorts {
				continue // a scan
			}
		}
		if walk == nil {
			walk = &learner{}
		}
		if !isAnswer {
			walk.pass(x.Time, walkStep)
		}
		if walk.gated && !isAnswer {
			maps.DeleteFunc(set[hypothesis.AddressA], func(id string, _ slowMatch) bool { return strings.HasPrefix(id, "A5:k8") })
		}
		// What was learned from earlier trials, and learning from this one.
		qLearn := q
		if near.Prefix8 > 0 {
			qLearn = max(q, baseline.Neighbour(8))
		}
		switch {
		case quiet:
		case isAnswer && operand.kind == kindA && !baseline.Public(word4(operand.addr)):
		case isAnswer && operand.kind == kindA:
			from := word4(operand.addr)
			for o := range hypothesis.NumOffsets {
				times := 0
				for _, p := range ports {
					if p.port-o.Value(p.x) == port-o.Value(from) && o.Value(p.x) != o.Value(from) && p.x>>16 != from>>16 {
						times++
					}
				}
				if constant := port - o.Value(from); times > 0 && constant != 0 {
					set[hypothesis.Port4].add(fmt.Sprintf("%s+%d", o.ID(), constant), float64(times)/(float64(len(ports))*q), o.Weight(),
						found{mixture: hypothesis.Port4, sort: sortOffset, which: uint8(o), constant: uint32(constant)}, operand, 1)
				}
			}
			if !slices.Contains(ports, offset{x: from, port: port}) {
				ports = lastOf(append(ports, offset{x: from, port: port}), maxOffsets)
			}
		case !isAnswer && !walk.gated && baseline.Public(word4(y)) && near.Prefix12 == 0:
			for i, r := range []struct {
				newest, bound int
				first, before hypothesis.Learned
			}{{learnXor, maxXor, 0, 1}, {learnAdd, maxAdd, 1, 4}, {learnPermute, maxPermute, 4, hypothesis.NumLearned}} {
				pairs[i] = slowLearn(answers[:min(r.newest, len(answers))], word4(y), qLearn, r.first, r.before, pairs[i], r.bound, set[hypothesis.AddressA])
			}
		}
		if !matched() {
			if recent = append(recent, key); len(recent) > trialMemory {
				recent = recent[1:]
			}
			for m, t := range set {
				trials[m] = append(trials[m], t)
			}
			if isAnswer {
				walk.usePort(port)
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
			for _, id := range slices.SortedFunc(maps.Keys(t), func(a, b string) int { return cmp.Compare(t[a].order, t[b].order) }) {
				e, n := slowE(trials[m], id)
				e *= t[id].weight
				sum += e
				if e > top {
					top, topID, support = e, id, n
				}
			}
			if topID != "" && math.Log(sum) > best.logE {
				a := told[t[topID].origin]
				best = slowHit{s0(cfg, sum), topID, math.Log(sum), t[topID].competing, support, a.last, a.name, uint64(len(trials[m]) - 1), own}
			}
		}
		if isAnswer {
			walk.usePort(port)
		}
		if best.level > None {
			hits[idOf(c.zone, c.addr, x.Proto, x.Dst)] = best
		}
	}
}

// slowPairs tries every two answers of one RRset (A11).
func (c *slowClient) slowPairs(told map[slowKey]slowAnswer, freshA []fresh, y uint32, q float64, to slowTrial) {
	sets := map[string][]uint32{}
	for _, f := range freshA {
		a := told[slowKey{kindA, addr4(f.word)}]
		id := fmt.Sprint(a.last, a.name)
		sets[id] = append(sets[id], f.word)
	}
	pairs := 0
	for _, set := range sets {
		if n := len(set); n <= maxSet {
			pairs += n * (n - 1) / 2
		}
	}
	for _, set := range sets {
		for i := range set {
			for j := range set {
				for p := range hypothesis.NumPairs {
					if i == j || len(set) > maxSet || p != hypothesis.PairHalves && i > j || p.Apply(set[i], set[j]) != y {
						continue
					}
					of := pairs
					if p == hypothesis.PairHalves {
						of *= 2
					}
					to.add(p.ID(), 1/(float64(of)*q), p.Weight(), found{mixture: hypothesis.AddressA, sort: sortPair, which: uint8(p)},
						slowKey{kindA, addr4(set[i])}, of)
				}
			}
		}
	}
}

// slowLearn tries the constants of earlier pairs on the destination y, and returns the
// pairs with those of y added.
func slowLearn(answers []uint32, y uint32, q float64, first, before hypothesis.Learned, pairs []slowPair, bound int, to slowTrial) []slowPair {
	var fresh []slowPair
	for _, x := range answers {
		for f := first; f < before; f++ {
			key := f.Key(x, y)
			if x>>16 == y>>16 || sparse(key) || f.Fixed(key) {
				continue
			}
			worth, of, known := 0.0, 0, false // a neighbour of an earlier pair's addresses is that much likelier
			for _, p := range pairs {
				if p.family != f {
					continue
				}
				of++
				switch {
				case f.Key(p.x, p.y) != key:
				case p.x == x && p.y == y, p.x == y && p.y == x:
					known = true
				case p.x>>16 != x>>16 && p.y != y:
					worth += min(1, q/baseline.Neighbour(max(bits.LeadingZeros32(p.y^y), bits.LeadingZeros32(p.x^y))))
				}
			}
			if known {
				continue
			}
			fresh = append(fresh, slowPair{x, y, f})
			if worth > 0 {
				to.add(fmt.Sprintf("%s:%08X", f.ID(), key), worth/(float64(len(answers)*of)*q), f.Weight(),
					found{mixture: hypothesis.AddressA, sort: sortLearned, which: uint8(f), constant: key}, slowKey{kindA, addr4(x)}, len(answers))
			}
		}
	}
	return lastOf(append(pairs, fresh...), bound)
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
	for i, s := range []struct{ pi, weight float64 }{{.9, .4}, {.5, .25}, {.2, .1}, {.1, .1}, {.02, .1}, {.0005, .05}} {
		m := 1.0
		for _, t := range trials {
			x, ok := t[id]
			if ok && i == 0 {
				support++
			}
			m = max(1, m) * (1 - s.pi + s.pi*x.ratio)
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
	secret := r.Uint32()
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
				case 3:
					rec.Type, rec.Target, rec.Port = event.SRV, []byte("t.example"), uint16(7000+r.IntN(3))
					rec.Addr = addr4(uint32(rec.Port)) // tells the records apart below
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
		switch r.IntN(9) {
		case 6: // a constant that has to be learned, the world's own
			l := []hypothesis.Learned{hypothesis.XorLearned, hypothesis.AddLittle, hypothesis.AddOctets + 3}[r.IntN(3)]
			dst = addr4(l.Apply(word4(from), secret))
		case 7: // two answers, or a constant octet
			dst = addr4(hypothesis.Pair(r.IntN(3)).Apply(word4(from), word4(pool[r.IntN(len(pool))])))
			if r.IntN(2) == 0 {
				dst = addr4(word4(from) ^ 0x11111111)
			}
		case 8: // control channels, STUN, what follows them, ports that records give, a learned offset
			port = []uint16{21, 3478, 7000, 7001, 40000, uint16(word4(from)&255) + 20000}[r.IntN(6)]
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
	cfg.MemoryBytes = 256 << 20
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
			if h.Level != Lead { // a lead has no arithmetic for the slow function to do
				last[h.ID] = h
			}
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
