package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

func newGenerator(t testing.TB, change func(*Config)) *Generator {
	t.Helper()
	cfg := DefaultConfig()
	change(&cfg)
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func run(t testing.TB, g *Generator, emit func(Event)) {
	t.Helper()
	if err := g.Run(context.Background(), emit); err != nil {
		t.Fatal(err)
	}
}

func small(c *Config) { c.Clients, c.Implants, c.Duration = 40, 1, 2*time.Hour }

// The text of all events decides whether two worlds are the same.
func TestSameSeedSameWorld(t *testing.T) {
	hashSeed := maphash.MakeSeed()
	sum := func(seed uint64) uint64 {
		var h maphash.Hash
		h.SetSeed(hashSeed)
		var line []byte
		run(t, newGenerator(t, func(c *Config) { small(c); c.Seed = seed }), func(e Event) {
			line = fmt.Appendf(line[:0], "%d %+v ", e.Host, e.Label)
			if e.Lookup != nil {
				line = e.Lookup.AppendText(line, 0)
			} else {
				line = e.Connection.AppendText(line, 0)
			}
			h.Write(line)
		})
		return h.Sum64()
	}
	if one, again := sum(3), sum(3); one != again {
		t.Errorf("seed 3 gave two different worlds")
	}
	if sum(3) == sum(4) {
		t.Errorf("seeds 3 and 4 gave the same world")
	}
}

// What events are made of is what a sensor would give: rising stamps and frame numbers, a
// query before its response, addresses in place.
func TestEventsAreWellFormed(t *testing.T) {
	g := newGenerator(t, small)
	end := g.cfg.Start.Add(g.cfg.Duration)
	last, frame := event.Time(0), uint64(0)
	queries := map[netip.AddrPort]event.Time{}
	check := func(at event.Time, f uint64) {
		if at < last || at < g.cfg.Start || at >= end {
			t.Fatalf("frame %d: stamp %d after %d, world from %d to %d", f, at, last, g.cfg.Start, end)
		}
		if f != frame+1 {
			t.Fatalf("frame %d after %d", f, frame)
		}
		last, frame = at, f
	}
	run(t, g, func(e Event) {
		if l := e.Lookup; l != nil {
			check(l.Time, l.Frame)
			if asked, ok := queries[l.Client]; !ok || asked >= l.Time {
				t.Fatalf("%s: the response was not asked for", l.AppendText(nil, 0))
			}
			if len(l.Records) == 0 || len(l.Name) == 0 || l.Resolver.Port() != 53 {
				t.Fatalf("%s: incomplete", l.AppendText(nil, 0))
			}
			for _, r := range l.Records {
				switch r.Type {
				case event.A, event.AAAA, event.Hint:
					if !r.Addr.IsValid() || len(r.Owner) == 0 || r.Type != event.Hint && r.Addr.Is4() != (r.Type == event.A) {
						t.Fatalf("%s: bad record %+v", l.AppendText(nil, 0), r)
					}
				}
			}
			return
		}
		x := e.Connection
		check(x.Time, x.Frame)
		if x.Dst.Port() == 0 || x.Src.Port() == 0 || x.Src.Addr().Is4() != x.Dst.Addr().Is4() ||
			(x.Proto == event.UDP) != (x.Start == event.Datagram) {
			t.Fatalf("%s: malformed", x.AppendText(nil, 0))
		}
		if e.Label.Query {
			queries[x.Src] = x.Time
		}
	})
	if frame == 0 {
		t.Fatal("no events")
	}
}

// TestStatistics prints what each model does, and checks that it is within reason.
func TestStatistics(t *testing.T) {
	g := newGenerator(t, func(c *Config) { c.Clients, c.Implants = 400, 1 })
	type row struct{ lookups, queries, connections, hosts int }
	rows := map[string]*row{}
	seen := map[string]bool{}
	run(t, g, func(e Event) {
		name := e.Label.Source
		if e.Label.Implant {
			name = "implants"
		}
		r := rows[name]
		if r == nil {
			r = &row{}
			rows[name] = r
		}
		if k := fmt.Sprint(name, " ", e.Host); !seen[k] {
			seen[k] = true
			r.hosts++
		}
		switch {
		case e.Lookup != nil:
			r.lookups++
		case e.Label.Query:
			r.queries++
		default:
			r.connections++
		}
	})
	days := g.cfg.Duration.Hours() / 24
	t.Logf("%-14s %8s %10s %12s %14s", "model", "hosts", "lookups", "connections", "per host, day")
	// Connections a host makes a day, least and most.
	bounds := map[string][2]float64{
		"browsing": {500, 8000}, "cdn": {300, 4000}, "swarm": {2000, 60000}, "dht": {2000, 40000}, "game": {2, 300},
		"sip": {10, 200}, "webrtc": {10, 400}, "inner-scanner": {10000, 60000}, "outer-scanner": {5000, 60000},
		"port-scanner": {1000, 400000}, "discovery": {50, 400}, "cameras": {50, 1000}, "vpn": {4, 60}, "monitoring": {8000, 9000},
		"ntp": {40, 200}, "mail": {30, 300}, "iot": {100, 400}, "ftp": {5, 200}, "rpc": {30, 300}, "meeting": {10, 300},
		"doh": {300, 6000}, "forwarded": {200, 3000}, "nat64": {100, 600}, "mapped": {40, 250}, "twins": {80, 500},
		"proxied": {200, 2000}, "implants": {8, 600},
	}
	for m := range NumModels + 1 {
		name := "implants"
		if m < NumModels {
			name = m.String()
		}
		r := rows[name]
		if r == nil {
			t.Errorf("%s: nothing", name)
			continue
		}
		rate := float64(r.connections) / float64(r.hosts) / days
		t.Logf("%-14s %8d %10d %12d %14.0f", name, r.hosts, r.lookups, r.connections, rate)
		if b := bounds[name]; rate < b[0] || rate > b[1] {
			t.Errorf("%s: %.0f connections per host and day, want %v to %v", name, rate, b[0], b[1])
		}
		if d := r.queries - r.lookups; d < 0 || d > 40 { // responses after the end are missing
			t.Errorf("%s: %d queries, %d responses", name, r.queries, r.lookups)
		}
	}
	if len(rows) != int(NumModels)+1 {
		t.Errorf("%d sources, want %d", len(rows), NumModels+1)
	}
}

// A world without implants has no label that says otherwise.
func TestBenignWorld(t *testing.T) {
	g := newGenerator(t, func(c *Config) { small(c); c.Implants = 0 })
	n := 0
	run(t, g, func(e Event) {
		n++
		if e.Label.Implant || e.Label.Contact != 0 {
			t.Fatalf("label %+v in a world without implants", e.Label)
		}
	})
	if n == 0 || g.InfectedAddresses() != 0 {
		t.Errorf("%d events, %d infected addresses; want some, and none", n, g.InfectedAddresses())
	}
}

func TestConnectionLimitAndContext(t *testing.T) {
	g := newGenerator(t, func(c *Config) { small(c); c.Connections = 1000 })
	n := 0
	run(t, g, func(e Event) {
		if e.Connection != nil && !e.Label.Query {
			n++
		}
	})
	if n != 1000 {
		t.Errorf("%d connections, want 1000", n)
	}
	if err := g.Run(context.Background(), func(Event) {}); err == nil {
		t.Errorf("a second run gave no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := newGenerator(t, small).Run(ctx, func(Event) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("run with a context that has ended: %v", err)
	}
}

type counter struct{ lookups, connections int }

func (c *counter) Lookup(*event.Lookup)         { c.lookups++ }
func (c *counter) Connection(*event.Connection) { c.connections++ }

func TestFeed(t *testing.T) {
	var want, got counter
	run(t, newGenerator(t, small), func(e Event) {
		if e.Lookup != nil {
			want.lookups++
		} else {
			want.connections++
		}
	})
	if err := newGenerator(t, small).Feed(context.Background(), &got); err != nil {
		t.Fatal(err)
	}
	if got != want || got.lookups == 0 {
		t.Errorf("fed %+v, want %+v", got, want)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("default: %v", err)
	}
	for want, change := range map[string]func(*Config){
		"Clients -1":      func(c *Config) { c.Clients = -1 },
		"Clients 0":       func(c *Config) { c.Clients, c.Implants = 0, 0 },
		"Implants 1001":   func(c *Config) { c.Implants = 1001 },
		"Start -1":        func(c *Config) { c.Start = -1 },
		"Duration 0s":     func(c *Config) { c.Duration = 0 },
		"NAT 2":           func(c *Config) { c.NAT = 2 },
		"Interval [0s 1s": func(c *Config) { c.Interval = [2]time.Duration{0, time.Second} },
		"Mix dht 1.5":     func(c *Config) { c.Mix[DHT] = 1.5 },
		"Families A99":    func(c *Config) { c.Families = []string{"A1", "A99"} },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want one that starts with %q", err, want)
		}
	}
}

// Hosts behind NAT share an address, and infected ones have the surroundings they should.
func TestHostsShareAddresses(t *testing.T) {
	g := newGenerator(t, func(c *Config) {
		c.Clients, c.Families, c.Duration = 400, []string{"A1", "P1", "A6", "A4"}, 6*time.Hour
	})
	hosts := map[netip.Addr][]int{}
	run(t, g, func(e Event) {
		if x := e.Connection; x != nil && x.Src.Addr().Is4() && !e.Label.Query && !slices.Contains(hosts[x.Src.Addr()], e.Host) {
			hosts[x.Src.Addr()] = append(hosts[x.Src.Addr()], e.Host)
		}
	})
	shared, behind := 0, 0
	around := map[string]int{}
	for a, list := range hosts {
		if s := g.Infected(a); s != "" {
			around[s]++
			if want := 1 + 3*b2i(s == "nat"); len(list) != want {
				t.Errorf("%s host %s: %d machines, want %d", s, a, len(list), want)
			}
			continue
		}
		if len(list) > natGroup {
			t.Errorf("%s: %d hosts, want at most %d", a, len(list), natGroup)
		}
		if len(list) > 1 {
			shared++
			behind += len(list)
		}
	}
	if behind < 40 || behind > 140 {
		t.Errorf("%d of 400 clients share %d addresses, want about 80", behind, shared)
	}
	want := map[string]int{"quiet": 4, "busy": 4, "nat": 4, "swarm": 1, "inner-scanner": 1, "cameras": 1, "dht": 1}
	if fmt.Sprint(around) != fmt.Sprint(want) {
		t.Errorf("surroundings %v, want %v", around, want)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Events are made in place: once the queues have grown, hardly anything is allocated.
func TestAllocations(t *testing.T) {
	const warm, measured = 300_000, 1_000_000
	g := newGenerator(t, func(c *Config) { c.Clients, c.Implants = 300, 1 })
	var before, after runtime.MemStats
	n := 0
	run(t, g, func(Event) {
		switch n++; n {
		case warm:
			runtime.ReadMemStats(&before)
		case warm + measured:
			runtime.ReadMemStats(&after)
		}
	})
	if n < warm+measured {
		t.Fatalf("%d events, want at least %d", n, warm+measured)
	}
	if each := float64(after.Mallocs-before.Mallocs) / measured; each > .01 {
		t.Errorf("%.4f allocations per event, want at most 0.01", each)
	}
}

// The blocks of RFC 6890 and its registry, as the registry writes them.
func TestPublic(t *testing.T) {
	var special []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	} {
		special = append(special, netip.MustParsePrefix(s))
	}
	check := func(x uint32) {
		a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x)))
		want := !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
		if got := public(x); got != want {
			t.Errorf("public(%s) = %v, want %v", a, got, want)
		}
	}
	for _, p := range special {
		first := binary.BigEndian.Uint32(p.Addr().AsSlice())
		last := first + 1<<(32-p.Bits()) - 1
		check(first - 1)
		check(first)
		check(last)
		check(last + 1)
	}
	for x := uint64(0); x < 1<<32; x += 65521 {
		check(uint32(x))
	}
}

func BenchmarkGenerator(b *testing.B) {
	b.ReportAllocs()
	events := 0
	for b.Loop() {
		run(b, newGenerator(b, func(c *Config) { c.Duration, c.Implants = 2*time.Hour, 1 }), func(Event) { events++ })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
}
