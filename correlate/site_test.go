package correlate

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// An operator's own hypotheses are tried like those of the catalogue.
func TestOwnHypotheses(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Hypotheses = []hypothesis.Custom{
		{ID: "acme", Name: "Acme's formula", Kind: hypothesis.ToPort, Expr: "a*b + c + 7"},
		{ID: "emca", Kind: hypothesis.ToAddress, Expr: "rol(x, 5) ^ 0x1234567"},
	}
	f := finals(run(t, cfg, `
0s   lookup     client=10.0.0.7 name=a.example ttl=60 a=198.51.100.23
1s   connection src=10.0.0.7:4000 dst=198.51.100.23:10205 proto=tcp
1m   lookup     client=10.0.0.7 name=b.example ttl=60 a=203.113.77.9
61s  connection src=10.0.0.7:4001 dst=203.113.77.9:23023 proto=tcp
2m   lookup     client=10.0.0.8 name=c.example ttl=60 a=198.51.100.23
121s connection src=10.0.0.8:4002 dst=`+addr4(bits.RotateLeft32(0xC6336417, 5)^0x1234567).String()+`:443 proto=tcp`))
	slices.SortFunc(f, func(a, b Hit) int { return cmp.Compare(a.Connection.Time, b.Connection.Time) })
	if len(f) != 3 || f[0].Calc.Chance <= 0 || f[0].Level != Watch || f[1].Level != Alert || f[2].Level != Alert {
		t.Fatalf("got %+v, want a watch and two alerts", f)
	}
	for i, want := range []string{"U:acme", "U:acme", "U:emca"} {
		if got := f[i].Calc.Hypothesis; got != want {
			t.Errorf("hit %d is by %s, want %s", i, got, want)
		}
	}
	if want := "a*b + c + 7 with 198.51.100.23 = 10205"; f[0].Calc.Expression != want {
		t.Errorf("expression %q, want %q", f[0].Calc.Expression, want)
	}
	cfg.Hypotheses[0].Expr = "a*b + nonsense"
	if _, err := New(cfg); err == nil {
		t.Error("an expression that means nothing was taken")
	}
}

func withBaseline(t *testing.T, cfg Config) Config {
	t.Helper()
	m, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Baseline = m
	return cfg
}

// A destination and a port that many clients of a zone use are ordinary there: what a
// formula or a transform makes of them afterwards is no alert. Without the baseline it is.
func TestBaselineOfAZone(t *testing.T) {
	for _, learning := range []bool{false, true} {
		cfg := DefaultConfig()
		if learning {
			cfg = withBaseline(t, cfg)
		}
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		sinkhole := netipAddrPort(0x2D9C57F3, 443)
		var given []Hit
		at := event.Time(0)
		for i := range 600 {
			at = at.Add(time.Second)
			client := fmt.Sprintf("10.0.%d.%d", i%60/30, i%30+10)
			given = c.Advance(given, at)
			given = c.ObserveLookup(given, lookupOf(at, client, addr4(0x60000000+uint32(i)*65537)))
			given = c.ObserveConnection(given, connectionOf(at+1, client, sinkhole))
		}
		given = given[:0]
		at = at.Add(5 * time.Minute)
		given = c.Advance(given, at)
		given = c.ObserveLookup(given, lookupOf(at, "10.0.9.9", addr4(0x57F32D9C)))
		given = c.ObserveConnection(given, connectionOf(at+1, "10.0.9.9", sinkhole))
		f := finals(c.Flush(given))
		if alert := len(f) == 1 && f[0].Level == Alert; alert == learning {
			t.Errorf("with a baseline %v: hits %+v", learning, f)
		}
	}
}

// With a baseline too, neither the number of shards nor lateness changes the final hits,
// as long as packet time is told to all.
func TestBaselineKeepsOrder(t *testing.T) {
	base := DefaultConfig()
	base.Hold, base.AddressWindow, base.PortWindow, base.MemoryBytes = 10*time.Second, 60*time.Second, 30*time.Second, 256<<20
	hits := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		var lookups []event.Lookup
		var connections []event.Connection
		for i := range 8 { // many times one world, so that epochs pass
			l, x := worldOf(rand.New(rand.NewPCG(seed, 4)), base)
			for k := range l {
				l[k].Time += event.Time(i) * event.Time(3*time.Minute)
			}
			for k := range x {
				x[k].Time += event.Time(i) * event.Time(3*time.Minute)
				x[k].Dst = netipAddrPort(word4(addr4(0x40000000))+r.Uint32()%64, x[k].Dst.Port())
			}
			more, calls := worldOf(r, base)
			lookups, connections = append(append(lookups, l...), more...), append(append(connections, x...), calls...)
		}
		var want []brief
		for i, shards := range []int{1, 64, 4} {
			cfg := withBaseline(t, base)
			cfg.Shards = shards
			lateness := int64(1)
			if i > 0 {
				lateness = int64(cfg.Hold / 2)
			}
			got := arriving(t, cfg, rand.New(rand.NewPCG(seed, uint64(i))), lateness, lookups, connections)
			if late := cfg.Baseline.Stats().Late; late > 0 {
				t.Errorf("seed %d: %d shards: %d trials were settled after their epoch was counted", seed, shards, late)
			}
			if i == 0 {
				want = got
				hits += len(got)
			} else if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %d shards, late: %v, want %v", seed, shards, got, want)
			}
		}
	}
	if hits < 100 {
		t.Errorf("%d hits: the events test too little", hits)
	}
}

// arriving feeds events each late by up to lateness, with packet time told every second.
func arriving(t *testing.T, cfg Config, r *rand.Rand, lateness int64, lookups []event.Lookup, connections []event.Connection) (all []brief) {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	type arrival struct {
		at event.Time
		l  *event.Lookup
		x  *event.Connection
	}
	var arrivals []arrival
	for i := range lookups {
		arrivals = append(arrivals, arrival{lookups[i].Time.Add(time.Duration(r.Int64N(lateness))), &lookups[i], nil})
	}
	for i := range connections {
		arrivals = append(arrivals, arrival{connections[i].Time.Add(time.Duration(r.Int64N(lateness))), nil, &connections[i]})
	}
	slices.SortStableFunc(arrivals, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	var given []Hit
	told := event.Time(0)
	for _, a := range arrivals {
		for ; told+event.Time(time.Second) <= a.at; told += event.Time(time.Second) {
			given = c.Advance(given, told)
		}
		if a.l != nil {
			given = c.ObserveLookup(given, a.l)
		} else {
			given = c.ObserveConnection(given, a.x)
		}
	}
	for range 2 * int(cfg.Hold/time.Second) {
		told += event.Time(time.Second)
		given = c.Advance(given, told)
	}
	for _, h := range finals(c.Flush(given)) {
		if h.Level != Lead {
			all = append(all, brief{h.ID, h.Level, h.Calc.EValue})
		}
	}
	slices.SortFunc(all, func(a, b brief) int { return slices.Compare(a.id[:], b.id[:]) })
	return all
}

// A constant that an alert confirmed at one client is known at the next one's first contact.
func TestConstantOfASite(t *testing.T) {
	c, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	const key = 0x5A17C3E9
	answers := []uint32{0xC6336417, 0xCB714D09, 0x57F32D9C, 0x22F52D99}
	var given []Hit
	at := event.Time(0)
	contact := func(client string, x uint32) {
		at = at.Add(10 * time.Minute)
		given = c.Advance(given, at)
		given = c.ObserveLookup(given, lookupOf(at, client, addr4(x)))
		given = c.ObserveConnection(given, connectionOf(at+1, client, netipAddrPort(x^key, 443)))
		given = c.Advance(given, at.Add(time.Minute))
	}
	for _, x := range answers {
		contact("10.0.0.7", x)
	}
	given = given[:0]
	contact("10.0.0.8", 0x2D5DC1A6)
	f := finals(given)
	if len(f) != 1 || f[0].Level != Alert || f[0].Calc.Hypothesis != "A2:5A17C3E9" {
		t.Fatalf("first contact of another client: %+v, want an alert by A2:5A17C3E9", f)
	}
}
