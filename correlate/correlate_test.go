package correlate

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"portolan/sensor/event"
)

// collector is a Sink that keeps the hits.
type collector struct {
	c    *Correlator
	hits []Hit
}

func (k *collector) Lookup(l *event.Lookup)         { k.hits = k.c.ObserveLookup(k.hits, l) }
func (k *collector) Connection(x *event.Connection) { k.hits = k.c.ObserveConnection(k.hits, x) }

// run feeds a story to a fresh correlator and returns all that it gave out.
func run(t *testing.T, cfg Config, story string) []Hit {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k := &collector{c: c}
	if err := event.ReadText(strings.NewReader(story), k); err != nil {
		t.Fatal(err)
	}
	return c.Flush(k.hits)
}

func finals(hits []Hit) (f []Hit) {
	for _, h := range hits {
		if h.State == Final {
			f = append(f, h)
		}
	}
	return f
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*Config){
		"Shards":             func(c *Config) { c.Shards = 3 },
		"MemoryBytes":        func(c *Config) { c.MemoryBytes = 1 },
		"AddressWindow":      func(c *Config) { c.AddressWindow = 0 },
		"PortWindow":         func(c *Config) { c.PortWindow = -time.Second },
		"MaxTTL":             func(c *Config) { c.MaxTTL = 1000 * time.Hour },
		"Hold":               func(c *Config) { c.Hold = time.Hour },
		"AnswersPerClient":   func(c *Config) { c.AnswersPerClient = 1 << 20 },
		"PendingPerClient":   func(c *Config) { c.PendingPerClient = 0 },
		"Watch":              func(c *Config) { c.Watch = 1 },
		"Alert":              func(c *Config) { c.Alert = 5 },
		"VolumeThreshold":    func(c *Config) { c.VolumeThreshold = 0 },
		"ResolverWhitelist":  func(c *Config) { c.ResolverWhitelist = []netip.Prefix{{}} },
		"EphemeralPortRange": func(c *Config) { c.EphemeralPortRange = [2]uint16{9, 8} },
	} {
		cfg := DefaultConfig()
		spoil(&cfg)
		if _, err := New(cfg); err == nil || !strings.HasPrefix(err.Error(), field+" ") {
			t.Errorf("%s out of range: error %v", field, err)
		}
	}
}

func TestResolverWhitelist(t *testing.T) {
	const story = `
0s  lookup     client=10.0.0.7 resolver=8.8.8.8:53 name=a.example ttl=60 a=87.243.45.156
1s  connection src=10.0.0.7:4000 dst=45.156.87.243:443 proto=tcp`
	cfg := DefaultConfig()
	if f := finals(run(t, cfg, story)); len(f) != 1 || f[0].Level != Alert {
		t.Fatalf("not listed: %+v, want one alert", f)
	}
	cfg.ResolverWhitelist = []netip.Prefix{netip.MustParsePrefix("8.8.8.0/24")}
	if f := finals(run(t, cfg, story)); len(f) != 0 {
		t.Errorf("listed: %+v, want no hit", f)
	}
}

func TestVolumeThreshold(t *testing.T) {
	cfg := DefaultConfig()
	cfg.VolumeThreshold = 2
	f := finals(run(t, cfg, `
0s  lookup     client=10.0.0.7 name=a.example ttl=60 a=87.243.45.156 a=34.245.45.153
1s  connection src=10.0.0.7:4000 dst=45.156.87.243:443 proto=tcp
2s  connection src=10.0.0.7:4001 dst=45.153.34.245:443 proto=tcp`))
	if len(f) != 2 || f[0].Level != Watch || f[1].Level != Alert {
		t.Errorf("got %+v, want a watch and an alert", f)
	}
}

func TestEphemeralPortRange(t *testing.T) {
	const story = `
0s  lookup     client=10.0.0.7 name=a.example ttl=60 a=198.51.100.23
1s  connection src=10.0.0.7:4000 dst=198.51.100.23:10198 proto=tcp`
	cfg := DefaultConfig()
	if f := finals(run(t, cfg, story)); len(f) != 1 || f[0].Level != Watch {
		t.Fatalf("all ports: %+v, want one watch", f)
	}
	cfg.EphemeralPortRange = [2]uint16{32768, 60999}
	if f := finals(run(t, cfg, story)); len(f) != 0 {
		t.Errorf("dynamic ports only: %+v, want no hit", f)
	}
}

// A lookup that was stamped before a connection but arrives after it takes the hit away.
func TestLateExplanationRetracts(t *testing.T) {
	hits := run(t, DefaultConfig(), `
0ms    lookup     client=10.0.0.7 name=a.example ttl=60 a=87.243.45.156
20ms   connection src=10.0.0.7:4000 dst=45.156.87.243:443 proto=tcp
10ms   lookup     client=10.0.0.7 name=b.example ttl=60 a=45.156.87.243`)
	if len(hits) != 2 || hits[0].State != Provisional || hits[1].State != Retracted || hits[0].ID != hits[1].ID || hits[1].Revision != 2 {
		t.Errorf("got %+v, want a provisional hit and its retraction", hits)
	}
}

// An event that comes after a later one of its client is counted.
func TestInversionsAreCounted(t *testing.T) {
	c := freshTable(t)
	answer := netip.MustParseAddr("198.51.100.23")
	c.ObserveLookup(nil, lookupOf(10, "10.0.0.7", answer))
	c.ObserveConnection(nil, connectionOf(20, "10.0.0.7", netip.AddrPortFrom(answer, 443)))
	c.ObserveConnection(nil, connectionOf(5, "10.0.0.8", netip.AddrPortFrom(answer, 443))) // of another client
	if n := c.Stats().Inverted; n != 0 {
		t.Errorf("%d inversions of events in order", n)
	}
	c.ObserveLookup(nil, lookupOf(15, "10.0.0.7", answer))
	if n := c.Stats().Inverted; n != 1 {
		t.Errorf("%d inversions, want 1", n)
	}
}

// "By the first distinct answer a watch, by the second an alert", and the same port of the
// same answer is one trial however often it is tried.
func TestOnePortMatchIsNeverAnAlert(t *testing.T) {
	for port := 1; port < 1<<16; port += 7 { // every seventh: all take half a minute under the race detector
		for _, answer := range []string{fmt.Sprintf("1.0.%d.%d", port/256, port%256), p1Answer(port)} {
			if answer == "" {
				continue
			}
			cor := freshTable(t)
			addr := netip.MustParseAddr(answer)
			var hits []Hit
			for i := range 3 {
				at := event.Time(i) * event.Time(time.Minute)
				hits = cor.ObserveLookup(hits, lookupOf(at, "10.0.0.7", addr))
				hits = cor.ObserveConnection(hits, connectionOf(at+1, "10.0.0.7", netip.AddrPortFrom(addr, uint16(port))))
			}
			for _, h := range cor.Flush(hits) {
				if h.Level == Alert {
					t.Fatalf("port %d of %s: one distinct trial gave an alert, e-value %v", port, answer, h.Calc.EValue)
				}
			}
		}
	}
}

// p1Answer returns an address a.b.c.9 with a·b+c = port, "" where there is none.
func p1Answer(port int) string {
	for a := 1; a < 224; a++ {
		if b := port / a; b < 256 && port-a*b < 256 {
			return fmt.Sprintf("%d.%d.%d.9", a, b, port-a*b)
		}
	}
	return ""
}

func freshTable(t testing.TB) *Correlator {
	cfg := DefaultConfig()
	cfg.Shards, cfg.MemoryBytes = 1, 1<<20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lookupOf(at event.Time, client string, answers ...netip.Addr) *event.Lookup {
	l := &event.Lookup{
		Time: at, Client: netip.AddrPortFrom(netip.MustParseAddr(client), 4000), Resolver: netip.MustParseAddrPort("10.0.0.53:53"),
		Proto: event.UDP, Type: event.A, Name: []byte("cdn.example"),
	}
	for _, a := range answers {
		l.Records = append(l.Records, event.Record{Type: event.A, TTL: 60, Addr: a, Owner: l.Name})
	}
	return l
}

func connectionOf(at event.Time, client string, dst netip.AddrPort) *event.Connection {
	return &event.Connection{Time: at, Src: netip.AddrPortFrom(netip.MustParseAddr(client), 40000), Dst: dst, Proto: event.TCP}
}

// One client that opens connections without end costs a bounded amount, and another
// client is served as if it were not there.
func TestFloodStaysBounded(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Shards, cfg.MemoryBytes = 4, 4<<20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var hits []Hit
	hits = c.ObserveLookup(hits, lookupOf(0, "10.0.0.7", netip.MustParseAddr("87.243.45.156")))
	hits = c.ObserveLookup(hits, lookupOf(0, "10.9.9.9", netip.MustParseAddr("192.0.2.1")))
	for i := range 300_000 {
		at := event.Time(i) * 1000
		dst := netip.AddrPortFrom(addr4(0x51000000+uint32(i)*2654435761>>8), uint16(i))
		hits = c.ObserveConnection(hits[:0], connectionOf(at, "10.9.9.9", dst))
		// Spoofed sources, one connection each.
		x := connectionOf(at, "10.0.0.1", dst)
		x.Src = netip.AddrPortFrom(addr4(0xC6120000+uint32(i)), 5)
		hits = c.ObserveConnection(hits[:0], x)
	}
	hits = c.ObserveConnection(hits[:0], connectionOf(400_000_000, "10.0.0.7", netip.MustParseAddrPort("45.156.87.243:443")))
	if len(hits) != 1 || hits[0].Level != Alert {
		t.Errorf("the quiet client's hit: %+v, want an alert", hits)
	}
	st := c.Stats()
	if st.MemoryBytes > uint64(cfg.MemoryBytes) {
		t.Errorf("%d bytes in use, want at most %d", st.MemoryBytes, cfg.MemoryBytes)
	}
	if st.EvictedStrangers == 0 || st.Early == 0 {
		t.Errorf("no bound was reached: %+v", st)
	}
}

// Answers without end leave room for what a client is known by: whoever calculates is found all the same.
func TestAnswersStayBounded(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Shards, cfg.MemoryBytes = 2, 2<<20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var hits []Hit
	const clients = 64
	for i := range uint32(clients * 400) {
		l := lookupOf(event.Time(i)*1e6, "10.9.9.9", addr4(0x51000000+i*2654435761>>8))
		l.Client = netip.AddrPortFrom(addr4(0x0A090000+i%clients), 4000)
		hits = c.ObserveLookup(hits[:0], l)
	}
	now := event.Time(clients * 400 * 1e6)
	hits = c.ObserveLookup(hits[:0], lookupOf(now, "10.0.0.7", netip.MustParseAddr("87.243.45.156")))
	hits = c.ObserveConnection(hits[:0], connectionOf(now+1e6, "10.0.0.7", netip.MustParseAddrPort("45.156.87.243:443")))
	if len(hits) != 1 || hits[0].Level != Alert {
		t.Errorf("the quiet client's hit: %+v, want an alert", hits)
	}
	if st := c.Stats(); st.EvictedAnswers == 0 || st.Refused != 0 || st.MemoryBytes > uint64(cfg.MemoryBytes) {
		t.Errorf("%+v: want answers to make room for others, and nothing refused", st)
	}
}

// A host that opens 100,000 connections a second, to random ports of random hosts and of one it asked for, costs
// its neighbours in the same shard next to nothing: counted, not timed.
func TestFloodSlowsNobody(t *testing.T) {
	const perSecond, quietEvery = 100_000, 100
	const events = perSecond * 5 / 2 // longer than they are held
	work := func(flood bool) (quiet, flooder uint64) {
		cfg := DefaultConfig()
		cfg.Shards = 1
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(5, 6))
		var hits []Hit
		// Each has as many answers as fit: the worst that judging can meet.
		for i := range cfg.AnswersPerClient {
			at := event.Time(i)
			hits = c.ObserveLookup(hits[:0], lookupOf(at, "10.9.9.9", addr4(0x60000000+uint32(i)*65537)))
			for k := range 10 {
				hits = c.ObserveLookup(hits[:0], lookupOf(at, fmt.Sprintf("10.0.0.%d", k), addr4(0x50000000+uint32(i)*65537)))
			}
		}
		before := c.Stats().Compared
		for i := range events {
			at := event.Time(time.Minute).Add(time.Duration(i) * time.Second / perSecond)
			var x *event.Connection
			if i%quietEvery == 0 {
				k := i / quietEvery
				dst := netipAddrPort(0x50000000+uint32(k%128)*65537, 443)
				if k%20 == 0 {
					dst = netipAddrPort(0x58000000+uint32(k/20%5)<<16, 443) // no answer of theirs
				}
				x = connectionOf(at, fmt.Sprintf("10.0.0.%d", k%10), dst)
			} else if flood {
				y := 0x60000000 + uint32(5*65537)
				if i%2 == 0 {
					y = 0x51000000 + r.Uint32()>>8
				}
				x = connectionOf(at, "10.9.9.9", netipAddrPort(y, uint16(r.Uint32())))
			} else {
				continue
			}
			hits = c.ObserveConnection(hits[:0], x)
			now := c.Stats().Compared
			if i%quietEvery == 0 {
				quiet += now - before
			} else {
				flooder += now - before
			}
			before = now
		}
		return quiet, flooder
	}
	alone, _ := work(false)
	beside, flooder := work(true)
	if alone == 0 || beside > alone+alone/4 {
		t.Errorf("the others cost %d comparisons beside the flood and %d without it, want at most a quarter more", beside, alone)
	}
	// Each is judged on arrival and when it is settled, and reads all answers and pending events twice.
	if most := uint64(events * 2 * 2 * (128 + 64) * 2); flooder > most {
		t.Errorf("the flood costs %d comparisons, want at most %d", flooder, most)
	}
	t.Logf("the others cost %d comparisons beside the flood, %d without it; the flood %d", beside, alone, flooder)
}

// Every answer given to a client that is told of more than fit pushes out the oldest.
func TestAnswersPerClient(t *testing.T) {
	cfg := DefaultConfig()
	cfg.AnswersPerClient = 8
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var hits []Hit
	for i := range 20 {
		hits = c.ObserveLookup(hits, lookupOf(event.Time(i)*event.Time(time.Second), "10.0.0.7", addr4(0x57F32D00+uint32(i))))
	}
	at := event.Time(time.Minute)
	for i := range 20 {
		x := 0x57F32D00 + uint32(i)
		hits = c.ObserveConnection(hits, connectionOf(at, "10.0.0.7", netip.AddrPortFrom(addr4(x<<16|x>>16), 443)))
	}
	f := finals(c.Flush(hits))
	// One place is the resolver's until an answer needs it.
	if len(f) < 7 || len(f) > 8 {
		t.Errorf("%d hits, want those of the newest answers only", len(f))
	}
	for _, h := range f {
		if h.Lookup.Answer.Less(addr4(0x57F32D00 + 12)) {
			t.Errorf("answer %s was to be forgotten", h.Lookup.Answer)
		}
		if h.Coverage.Forgotten == 0 {
			t.Error("the hit does not say that answers were forgotten")
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	c := freshTable(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var hits []Hit
			for i := range 5000 {
				at := event.Time(i) * event.Time(time.Millisecond)
				client := fmt.Sprintf("10.0.%d.%d", (g+i)%3, i%50)
				hits = c.ObserveLookup(hits[:0], lookupOf(at, client, addr4(uint32(i)*7919)))
				hits = c.ObserveConnection(hits[:0], connectionOf(at+1, client, netip.AddrPortFrom(addr4(uint32(i)*7919), 443)))
				if i%100 == 0 {
					hits = c.Advance(hits[:0], at)
					c.Stats()
				}
			}
		})
	}
	wg.Wait()
	c.Flush(nil)
	if st := c.Stats(); st.Lookups != 20000 || st.Connections != 20000 || st.Explained+st.Unjudged+st.AddressTrials != 20000 {
		t.Errorf("counts do not add up: %+v", st)
	}
}

func TestNoAllocations(t *testing.T) {
	c := freshTable(t)
	hits := make([]Hit, 0, 8)
	var clients []string
	for i := range 32 {
		clients = append(clients, fmt.Sprintf("10.0.0.%d", i))
	}
	a := addr4(0xC6336417)
	dst, other := netip.AddrPortFrom(a, 443), netip.AddrPortFrom(addr4(0x5DB8D822), 8333)
	i := 0
	lookups := make([]*event.Lookup, len(clients))
	known, unknown := make([]*event.Connection, len(clients)), make([]*event.Connection, len(clients))
	for n, cl := range clients {
		lookups[n] = lookupOf(0, cl, a, addr4(0xC6336418))
		known[n], unknown[n] = connectionOf(0, cl, dst), connectionOf(0, cl, other)
	}
	step := func() {
		n := i % len(clients)
		at := event.Time(i) * event.Time(20*time.Millisecond)
		lookups[n].Time, known[n].Time, unknown[n].Time = at, at+1, at+2
		hits = c.ObserveLookup(hits[:0], lookups[n])
		hits = c.ObserveConnection(hits[:0], known[n])
		hits = c.ObserveConnection(hits[:0], unknown[n])
		i++
	}
	for range 5000 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations for a lookup and two connections, want 0", n)
	}
}

// The sizes that table.go reckons with.
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(client{}); n > clientBytes {
		t.Errorf("a client takes %d bytes, want at most %d", n, clientBytes)
	}
	if n := unsafe.Sizeof(history{}); n > 80 {
		t.Errorf("a history takes %d bytes, want at most 80", n)
	}
	if n := unsafe.Sizeof(pending{}); n > 80 {
		t.Errorf("a pending event takes %d bytes, want at most 80", n)
	}
}

func TestIDs(t *testing.T) {
	id := idOf(event.Zone{}, netip.MustParseAddr("10.0.0.7"), event.TCP, netip.MustParseAddrPort("45.156.87.243:443"))
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("ParseID(%s) = %v, %v", id, got, err)
	}
	if _, err := ParseID("12"); err == nil {
		t.Error("a short id was taken")
	}
	// The observation point is the sensor's, not the packets'.
	same := idOf(event.Zone{Point: 3}, netip.MustParseAddr("10.0.0.7"), event.TCP, netip.MustParseAddrPort("45.156.87.243:443"))
	if same != id {
		t.Error("the observation point changes the id")
	}
}

func TestRing(t *testing.T) {
	r := newRing(4096)
	seed := maphash.MakeSeed()
	refs := map[string]uint32{}
	for i := range 2000 {
		s := fmt.Sprintf("name-%d.example", i%300+i/600*1000)
		h := maphash.String(seed, s)
		ref := r.put(h, []byte(s))
		refs[s] = ref
		if got := string(r.get(ref)); got != s {
			t.Fatalf("put %q, got %q", s, got)
		}
		if again := r.put(h, []byte(s)); again != ref {
			t.Fatalf("%q put twice took two places", s)
		}
	}
	kept := 0
	for s, ref := range refs {
		switch got := string(r.get(ref)); got {
		case s:
			kept++
		case "":
		default:
			t.Errorf("ref of %q gives %q", s, got)
		}
	}
	if kept == 0 || kept == len(refs) {
		t.Errorf("%d of %d strings kept", kept, len(refs))
	}
}

func netipAddrPort(y uint32, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr4(y), port) }
