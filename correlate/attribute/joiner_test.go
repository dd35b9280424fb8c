package attribute

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

var noon = at("2026-03-14T12:00:00Z")

func newJoiner(t testing.TB, cfg Config) *Joiner {
	t.Helper()
	j, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func smallConfig() Config {
	c := DefaultConfig()
	c.HitBytes, c.RecordBytes, c.HostBytes = 4<<20, 1<<20, 1<<20
	return c
}

func TestSizes(t *testing.T) {
	if n := reflect.TypeFor[sighting]().Size(); n != sightingBytes {
		t.Errorf("a sighting has %d bytes, and is counted as %d", n, sightingBytes)
	}
}

func testHit(n byte) *Hit {
	return &Hit{
		ID: [16]byte{n}, Ref: uint64(n), Revision: 1, Time: noon, Proto: event.TCP, Src: netip.MustParseAddrPort("10.0.0.7:49152"),
		Dst: netip.MustParseAddrPort("198.51.100.23:10198"), CommunityID: "1:abc", Name: "cdn.example", LookupTime: noon.Add(-time.Second),
	}
}

// says returns a host's word on itself.
func says(host string, t event.Time, addrs ...string) *Record {
	r := &Record{ID: "h", Kind: Host, HostID: host, Host: host, Source: "ebpf", Time: t, About: &HostFacts{Interval: int64(time.Minute)}}
	for _, a := range addrs {
		r.About.Addresses = append(r.About.Addresses, netip.MustParseAddr(a))
	}
	return r
}

// connects returns a record of a process that connects to the test hit's destination; local is empty
// for a source that does not know.
func connects(host, local string, pid uint32, t event.Time) *Record {
	r := &Record{
		ID: "c", Kind: Connect, HostID: host, Source: "ebpf", Time: t, Proto: event.TCP, Remote: netip.MustParseAddrPort("198.51.100.23:10198"),
		Process: Process{PID: pid, Start: event.Time(pid) * 1e9},
	}
	if local != "" {
		r.Local = netip.MustParseAddrPort(local)
	}
	return r
}

func asks(host, name string, pid uint32, t event.Time) *Record {
	return &Record{
		ID: "l", Kind: Lookup, HostID: host, Source: "ebpf", Time: t, Proto: event.UDP, Query: name,
		Process: Process{PID: pid, Start: event.Time(pid) * 1e9},
	}
}

// TestMethods shows what each kind of record makes of a hit.
func TestMethods(t *testing.T) {
	const host = "host-7"
	mine := says(host, noon, "10.0.0.7", "172.17.0.2")
	later := says(host, noon.Add(30*time.Second), "10.0.0.7", "172.17.0.2")
	community := connects(host, "", 8, noon)
	community.Remote, community.CommunityID = netip.AddrPort{}, "1:abc"
	nat := func(inside, outside string) func(*Config, *Hit) {
		return func(c *Config, h *Hit) {
			c.NAT = []NAT{{Inside: netip.MustParsePrefix(inside), Outside: netip.MustParsePrefix(outside)}}
			h.Src = netip.MustParseAddrPort("203.0.113.7:49152")
		}
	}
	blind := says(host, noon.Add(time.Second), "10.0.0.7")
	blind.About.Sees = []string{"lookup"}
	for _, tt := range []struct {
		name    string
		records []*Record
		change  func(*Config, *Hit)
		status  Status
		method  Method
		pids    []uint32
		reason  string
	}{
		{"the five-tuple", []*Record{mine, connects(host, "10.0.0.7:49152", 8, noon)}, nil, Matched, ByTuple, []uint32{8}, ""},
		{"the five-tuple beside another process there", []*Record{mine, connects(host, "10.0.0.7:49152", 8, noon), connects(host, "", 9, noon)}, nil,
			Matched, ByTuple, []uint32{8}, ""},
		{"the port used again a minute before", []*Record{mine, connects(host, "10.0.0.7:49152", 8, noon), connects(host, "10.0.0.7:49152", 9, noon.Add(-time.Minute))},
			nil, Matched, ByTuple, []uint32{8}, ""},
		{"a pid used again is another process", []*Record{mine, connects(host, "", 8, noon), {ID: "c", Kind: Connect, HostID: host, Source: "ebpf", Time: noon, Proto: event.TCP,
			Remote: netip.MustParseAddrPort("198.51.100.23:10198"), Process: Process{PID: 8, Start: 99e9}}}, nil, Ambiguous, ByDestination, []uint32{8, 8}, "2 processes"},
		{"the Community ID", []*Record{mine, community}, nil, Matched, ByCommunityID, []uint32{8}, ""},
		{"destination and time", []*Record{mine, connects(host, "", 8, noon.Add(time.Second))}, nil, Matched, ByDestination, []uint32{8}, ""},
		{"two connections of one process", []*Record{mine, connects(host, "", 8, noon), connects(host, "", 8, noon.Add(time.Second))}, nil, Matched, ByDestination, []uint32{8}, ""},
		{"two processes race", []*Record{mine, connects(host, "", 8, noon), connects(host, "", 9, noon)}, nil, Ambiguous, ByDestination, []uint32{8, 9}, "2 processes"},
		{"destination at another time", []*Record{mine, connects(host, "", 8, noon.Add(time.Minute))}, nil, Unmatched, ByHost, nil, "another time"},
		{"another port of the host", []*Record{mine, later, connects(host, "10.0.0.7:49153", 8, noon)}, nil, Unmatched, ByHost, nil, "not seen"},
		{"a container's address behind the host's", []*Record{mine, connects(host, "172.17.0.2:5000", 8, noon)}, nil, Matched, ByDestination, []uint32{8}, ""},
		{"who asked", []*Record{mine, asks(host, "cdn.example", 8, noon.Add(-time.Second))}, nil, Matched, ByLookup, []uint32{8}, ""},
		{"two asked", []*Record{mine, asks(host, "cdn.example", 8, noon.Add(-time.Second)), asks(host, "cdn.example", 9, noon)}, nil, Ambiguous, ByLookup, []uint32{8, 9}, ""},
		{"another question", []*Record{mine, later, asks(host, "www.example", 8, noon)}, nil, Unmatched, ByHost, nil, "not seen"},
		{"no endpoint", nil, nil, Unmatched, "", nil, "no agent"},
		{"an endpoint that fell silent", []*Record{says(host, noon.Add(-time.Minute), "10.0.0.7")}, nil, Unmatched, ByHost, nil, "late"},
		{"a source that sees no connections", []*Record{blind}, nil, Unmatched, ByHost, nil, "filtered source"},
		{"a foreign host with the very five-tuple", []*Record{mine, later, says("liar", noon, "10.0.0.99"), connects("liar", "10.0.0.7:49152", 6, noon)}, nil,
			Unmatched, ByHost, nil, "not seen"},
		{"a foreign host that says nothing of itself", []*Record{connects("liar", "10.0.0.7:49152", 6, noon)}, nil, Unmatched, "", nil, "no agent"},
		{"two hosts claim the address", []*Record{mine, says("liar", noon, "10.0.0.7"), connects("liar", "10.0.0.7:49152", 6, noon)}, nil,
			Ambiguous, ByTuple, []uint32{6}, "2 endpoints"},
		{"two hosts claim it and the sensor saw a name", []*Record{mine, says("liar", noon, "10.0.0.7"), connects("liar", "10.0.0.7:49152", 6, noon), connects(host, "10.0.0.7:49152", 8, noon)},
			func(_ *Config, h *Hit) { h.Host = "HOST-7.example.net" }, Matched, ByTuple, []uint32{8}, ""},
		{"the address was another's an hour before", []*Record{says("before", noon.Add(-time.Hour), "10.0.0.7"), mine, connects(host, "10.0.0.7:49152", 8, noon)}, nil,
			Matched, ByTuple, []uint32{8}, ""},
		{"static NAT, one to one", []*Record{mine, connects(host, "10.0.0.7:49152", 8, noon), connects(host, "10.0.0.7:49153", 9, noon)}, nat("10.0.0.0/24", "203.0.113.0/24"),
			Matched, ByTuple, []uint32{8}, ""},
		{"NAT of many behind one", []*Record{mine, connects(host, "10.0.0.7:49152", 8, noon)}, nat("10.0.0.0/24", "203.0.113.7/32"), Matched, ByDestination, []uint32{8}, ""},
		{"two of many behind one", []*Record{mine, connects(host, "10.0.0.7:1", 8, noon), says("host-8", noon, "10.0.0.8"), connects("host-8", "10.0.0.8:1", 9, noon)},
			nat("10.0.0.0/24", "203.0.113.7/32"), Ambiguous, ByDestination, []uint32{8, 9}, "2 processes"},
		{"NAT with nobody behind", []*Record{says("host-8", noon, "10.9.0.8")}, nat("10.0.0.0/24", "203.0.113.7/32"), Unmatched, "", nil, "nat:"},
		{"UDP to the same port is another connection", []*Record{mine, later, {ID: "c", Kind: Connect, HostID: host, Source: "ebpf", Time: noon, Proto: event.UDP,
			Local: netip.MustParseAddrPort("10.0.0.7:49152"), Remote: netip.MustParseAddrPort("198.51.100.23:10198"), Process: Process{PID: 8}}}, nil, Unmatched, ByHost, nil, "not seen"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, h := smallConfig(), testHit(1)
			if tt.change != nil {
				tt.change(&cfg, h)
			}
			j := newJoiner(t, cfg)
			var got []Finding
			for i, r := range tt.records {
				got = j.ObserveRecord(got, r, uint64(i), noon)
			}
			got = j.ObserveHit(got, h, noon)
			got = j.Advance(got, noon.Add(time.Minute))
			if len(got) != 1 {
				t.Fatalf("%d findings, want 1: %+v", len(got), got)
			}
			f := got[0]
			var pids []uint32
			for _, c := range f.Candidates {
				pids = append(pids, c.PID)
			}
			slices.Sort(pids)
			if f.Status != tt.status || f.Method != tt.method || !slices.Equal(pids, tt.pids) || !strings.Contains(f.Reason, tt.reason) || f.Reason == "" {
				t.Errorf("%s by %q, processes %v: %s\nwant %s by %q, processes %v: …%s…", f.Status, f.Method, pids, f.Reason, tt.status, tt.method, tt.pids, tt.reason)
			}
			if f.Confidence < 0 || f.Confidence > 1 || f.Step == 0 || f.Step > MaxStep {
				t.Errorf("confidence %v, step %d", f.Confidence, f.Step)
			}
		})
	}
}

// TestSkew: a clock that is wrong by three seconds is learnt from matches of five-tuples, and then
// tells two processes apart that connected a second after each other.
func TestSkew(t *testing.T) {
	const host, skew = "host-7", 3 * time.Second
	j := newJoiner(t, smallConfig())
	got := j.ObserveRecord(nil, says(host, noon, "10.0.0.7"), 1, noon)
	h := testHit(9)
	got = j.ObserveHit(got, h, noon)
	got = j.ObserveRecord(got, connects(host, "", 8, noon.Add(skew)), 2, noon)
	got = j.ObserveRecord(got, connects(host, "", 9, noon.Add(skew+time.Second)), 3, noon)
	got = j.Advance(got, noon.Add(time.Minute))
	if f := got[len(got)-1]; f.Status != Ambiguous || f.Processes != 2 {
		t.Fatalf("before the clock is known: %+v", f)
	}
	for n := range byte(3) {
		x := testHit(n)
		x.Src = netip.AddrPortFrom(x.Src.Addr(), 50000+uint16(n))
		got = j.ObserveHit(got, x, noon)
		got = j.ObserveRecord(got, connects(host, x.Src.String(), 7, noon.Add(skew)), 4, noon)
		if f := got[len(got)-1]; n < 2 && (f.Method != ByTuple || f.Skew != skew || !f.HasSkew) {
			t.Fatalf("match of the five-tuple: %+v", f)
		}
	}
	if f := got[len(got)-1]; f.Hit != h.ID || f.Status != Matched || f.Candidates[0].PID != 8 || f.Skew != skew || f.Confidence != sureSkew {
		t.Errorf("with the clock known: %+v", f)
	}
}

// TestRevisions: a newer revision of the sensor gets what was told of the hit before, at once.
func TestRevisions(t *testing.T) {
	j := newJoiner(t, smallConfig())
	h := testHit(1)
	got := j.ObserveRecord(nil, says("host-7", noon, "10.0.0.7"), 1, noon)
	got = j.ObserveHit(got, h, noon)
	got = j.ObserveRecord(got, connects("host-7", "10.0.0.7:49152", 8, noon), 2, noon)
	if len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	newer := *h
	newer.Revision, newer.Ref = 2, 77
	again := j.ObserveHit(nil, &newer, noon)
	want := Finding{Hit: h.ID, Ref: 77, Revision: 2, Step: got[0].Step, Kept: true}
	if len(again) != 1 || !reflect.DeepEqual(again[0], want) {
		t.Fatalf("%+v, want %+v", again, want)
	}
	if more := j.ObserveHit(nil, &newer, noon); len(more) > 0 {
		t.Errorf("told twice: %+v", more)
	}

	// One that begins anew and reads what was published says nothing twice either.
	j = newJoiner(t, smallConfig())
	newer.Told, newer.ToldRevision = got[0].Step, 2
	more := j.ObserveRecord(nil, says("host-7", noon, "10.0.0.7"), 1, noon)
	more = j.ObserveHit(more, &newer, noon)
	more = j.ObserveRecord(more, connects("host-7", "10.0.0.7:49152", 8, noon), 2, noon)
	if more = j.Advance(more, noon.Add(time.Hour)); len(more) > 0 {
		t.Errorf("told again after a restart: %+v", more)
	}
}

// TestLate: records that came before those in memory are asked for, and a hit that is told to have no
// process gets it when its record comes a day later.
func TestLate(t *testing.T) {
	j := newJoiner(t, smallConfig())
	j.Advance(nil, noon.Add(time.Hour))
	got := j.ObserveRecord(nil, says("host-7", noon, "10.0.0.7"), 1, noon.Add(time.Hour))
	got = j.ObserveHit(got, testHit(1), noon.Add(time.Hour))
	if w := j.Wants(); len(w) != 1 || w[0] != (Want{"host-7", noon.Add(-2 * time.Minute)}) {
		t.Errorf("asks for %+v", w)
	}
	got = j.Advance(got, noon.Add(2*time.Hour))
	if len(got) != 1 || got[0].Status != Unmatched {
		t.Fatalf("%+v", got)
	}
	got = j.ObserveRecord(got, connects("host-7", "10.0.0.7:49152", 8, noon), 2, noon.Add(25*time.Hour))
	if len(got) != 2 || got[1].Method != ByTuple || got[1].Step <= got[0].Step {
		t.Fatalf("%+v", got)
	}

	j = newJoiner(t, smallConfig())
	j.Advance(nil, noon)
	got = j.ObserveRecord(nil, says("host-7", noon, "10.0.0.7"), 1, noon)
	h := testHit(1)
	h.Time = noon.Add(time.Hour)
	if got = j.ObserveHit(got, h, noon.Add(time.Hour)); len(got) > 0 || len(j.Wants()) > 0 {
		t.Error("asks for records that are in memory")
	}
	old := testHit(2)
	old.Time = noon.Add(-48 * time.Hour)
	j.ObserveHit(nil, old, noon.Add(time.Hour))
	if got = j.Advance(nil, noon.Add(24*time.Hour)); len(got) != 1 || got[0].Hit != h.ID {
		t.Errorf("of hits from before anybody listened it tells %+v", got)
	}
}

// TestBounds: memory stays what was given, whatever comes, and what makes room is counted.
func TestBounds(t *testing.T) {
	cfg := smallConfig()
	cfg.HitBytes, cfg.RecordBytes, cfg.HostBytes = minBytes, minBytes, minBytes
	j := newJoiner(t, cfg)
	const n = 2500
	for i := range n {
		now := noon.Add(time.Duration(i) * time.Millisecond)
		j.Advance(nil, now)
		id := fmt.Sprint("host-", i)
		j.ObserveRecord(nil, says(id, now, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), uint64(i), now)
		j.ObserveRecord(nil, connects("host-1", "10.0.0.1:1", uint32(i), now), uint64(i), now)
		h := testHit(0)
		h.ID, h.Time = [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}, now
		j.ObserveHit(nil, h, now)
	}
	s := j.Stats()
	if s.Hits*hitCost > minBytes || s.Records*sightingBytes > minBytes || s.Hosts*hostCost > minBytes || j.hitBytes > minBytes || j.hosts.bytes > minBytes {
		t.Errorf("%+v: hits of %d and hosts of %d bytes", s, j.hitBytes, j.hosts.bytes)
	}
	if s.Hits+int(s.HitsEvicted) != n || s.Homeless == 0 || s.RecordsEvicted == 0 {
		t.Errorf("%+v", s)
	}
	if len(j.byClient) != 1 || len(j.byKey) > 3 || len(j.byClient[testHit(0).Src.Addr()]) != s.Hits {
		t.Errorf("indices of %d clients and %d keys for %d hits", len(j.byClient), len(j.byKey), s.Hits)
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		want   string
		change func(*Config)
	}{
		{"hit bytes 1", func(c *Config) { c.HitBytes = 1 }},
		{"near 0s", func(c *Config) { c.Near = 0 }},
		{"far 1h0m0s", func(c *Config) { c.Far = time.Hour }},
		{"settle -1s", func(c *Config) { c.Settle = -time.Second }},
		{"wait 0s", func(c *Config) { c.Wait = 0 }},
		{"recall 0s", func(c *Config) { c.Recall = 0 }},
		{"nat 1: inside 10.0.0.1/8", func(c *Config) { c.NAT = []NAT{{Inside: netip.MustParsePrefix("10.0.0.1/8")}} }},
		{"nat 1: outside", func(c *Config) { c.NAT = []NAT{{Inside: netip.MustParsePrefix("10.0.0.0/8")}} }},
		{"nat 1: until", func(c *Config) {
			p := netip.MustParsePrefix("10.0.0.0/8")
			c.NAT = []NAT{{Inside: p, Outside: p, From: 2, Until: 1}}
		}},
	} {
		c := DefaultConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
	one := NAT{Inside: netip.MustParsePrefix("10.4.0.0/14"), Outside: netip.MustParsePrefix("100.64.0.0/14")}
	if got := one.inside(netip.MustParseAddr("100.66.3.4")); got != netip.MustParseAddr("10.6.3.4") {
		t.Errorf("behind 100.66.3.4 is %v", got)
	}
}

// BenchmarkJoin measures records of 1,000 hosts, parsed and joined, beside hits that some of them explain.
func BenchmarkJoin(b *testing.B) {
	const hosts = 1000
	records := make([][]byte, 0, 1<<14)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range cap(records) {
		host := i % hosts
		r := golden()["connect"]
		r.ID, r.HostID = fmt.Sprint("c", i), fmt.Sprint("host-", host)
		r.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(host >> 8), byte(host)}), uint16(32768+i%28000))
		r.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(rng.Uint32()), byte(rng.Uint32())}), 443)
		r.Time = noon
		records = append(records, encode(b, r))
	}
	for _, parse := range []bool{true, false} {
		b.Run(map[bool]string{true: "parse+join", false: "join"}[parse], func(b *testing.B) {
			j := newJoiner(b, DefaultConfig())
			for i := range hosts {
				j.ObserveRecord(nil, says(fmt.Sprint("host-", i), noon, fmt.Sprintf("10.0.%d.%d", i>>8, i&255)), 0, noon)
			}
			for i := range 5000 {
				h := testHit(0)
				h.ID = [16]byte{byte(i), byte(i >> 8)}
				h.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i % hosts >> 8), byte(i % hosts)}), 9)
				j.ObserveHit(nil, h, noon)
			}
			parsed := make([]Record, len(records))
			for i, t := range records {
				if err := parsed[i].Parse(t); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			var dst []Finding
			n := uint64(0)
			for b.Loop() {
				r := &parsed[n%uint64(len(records))]
				if parse {
					if err := r.Parse(records[n%uint64(len(records))]); err != nil {
						b.Fatal(err)
					}
				}
				r.Time = noon.Add(time.Duration(n) * 10 * time.Microsecond)
				n++
				dst = j.ObserveRecord(dst[:0], r, n, r.Time)
				if n%1024 == 0 {
					dst = j.Advance(dst[:0], r.Time)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
