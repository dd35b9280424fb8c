package coverage

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"portolan/sensor/event"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func port(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func conn(at event.Time, proto event.Proto, src, dst string) *event.Connection {
	c := &event.Connection{Time: at, Proto: proto, Src: port(src), Dst: port(dst), MAC: event.MAC{2, 0, 0, 0, 0, 1}}
	if proto == event.UDP {
		c.Start = event.Datagram
	}
	return c
}

// A client that resolves out of sight is known by where it connects: the ports of DNS over TLS and QUIC, and for
// HTTPS addresses that are known or that a name led to.
func TestHidden(t *testing.T) {
	for _, tt := range []struct {
		name  string
		proto event.Proto
		dst   string
		want  []string
	}{
		{"TLS", event.TCP, "192.0.2.53:853", []string{"DNS over TLS"}},
		{"QUIC", event.UDP, "192.0.2.53:853", []string{"DNS over QUIC"}},
		{"HTTPS at a known address", event.TCP, "9.9.9.9:443", []string{"DNS over HTTPS"}},
		{"HTTP/3 at a known address", event.UDP, "8.8.8.8:443", []string{"DNS over HTTPS"}},
		{"HTTPS where a name led to", event.TCP, "198.51.100.7:443", []string{"DNS over HTTPS"}},
		{"HTTPS anywhere else", event.TCP, "198.51.100.8:443", nil},
		{"plain DNS", event.UDP, "9.9.9.9:53", nil},
	} {
		x := NewTally()
		x.Lookup(&event.Lookup{
			Time: 1, Client: port("10.0.0.9:4000"), Resolver: port("10.0.0.53:53"), Name: []byte("dns.nextdns.io"),
			Records: []event.Record{{Type: event.A, Addr: addr("198.51.100.7")}},
		})
		x.Connection(conn(2, tt.proto, "10.0.0.7:5000", tt.dst))
		c, ok := x.Client(event.Zone{}, addr("10.0.0.7"))
		if !ok || !slices.Equal(c.Hidden, tt.want) || c.Connections != 1 {
			t.Errorf("%s: %+v, want hidden %v", tt.name, c, tt.want)
		}
		v := x.View()
		if v.Clients != 2 || v.Answered != 1 || (v.Elsewhere == 1) != (tt.want != nil) || v.Only != v.Elsewhere {
			t.Errorf("%s: view %+v", tt.name, v)
		}
		if other, _ := x.Client(event.Zone{Point: 1}, addr("10.0.0.7")); other.Connections != 0 {
			t.Errorf("%s: the same address in another zone: %+v", tt.name, other)
		}
		// It is forgotten when it has not happened for long.
		x.Connection(conn(3+hiddenFor, event.TCP, "10.0.0.7:5001", "198.51.100.8:80"))
		if c, _ := x.Client(event.Zone{}, addr("10.0.0.7")); c.Elsewhere() {
			t.Errorf("%s: still held against it an hour later: %+v", tt.name, c)
		}
	}
}

// One that asks many servers is a resolver; a host asks two or three.
func TestResolver(t *testing.T) {
	x := NewTally()
	for i := range 40 {
		x.Connection(conn(event.Time(i), event.UDP, "10.0.0.53:5000", fmt.Sprintf("198.51.100.%d:53", i)))
		x.Connection(conn(event.Time(i), event.UDP, "10.0.0.7:5000", fmt.Sprintf("10.0.0.%d:53", 53+i%3)))
	}
	for client, want := range map[string]bool{"10.0.0.53": true, "10.0.0.7": false} {
		if c, _ := x.Client(event.Zone{}, addr(client)); c.Resolver() != want {
			t.Errorf("%s asked %d servers: resolver %t, want %t", client, c.Servers, c.Resolver(), want)
		}
	}
	if v := x.View(); v.Resolvers != 1 || len(v.Examples) != 1 || v.Examples[0].Addr != addr("10.0.0.53") {
		t.Errorf("view %+v", v)
	}
}

// An address that two hosts have shows by Ethernet addresses that come by turns; a card that was replaced comes once.
func TestAlternates(t *testing.T) {
	macs := [2]event.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	for _, tt := range []struct {
		name  string
		which func(i int) int
		start event.Start
		want  bool
	}{
		{"by turns", func(i int) int { return i % 2 }, event.SYN, true},
		{"replaced", func(i int) int { return i / 10 }, event.SYN, false},
		{"one", func(int) int { return 0 }, event.SYN, false},
		{"another router on the way back", func(i int) int { return i % 2 }, event.SYNACK, false},
	} {
		x := NewTally()
		for i := range 20 {
			c := conn(event.Time(i), event.TCP, "10.0.0.7:5000", "198.51.100.8:443")
			c.MAC, c.Start = macs[tt.which(i)], tt.start
			x.Connection(c)
		}
		if c, _ := x.Client(event.Zone{}, addr("10.0.0.7")); c.Alternates != tt.want {
			t.Errorf("%s: %+v, want alternates %t", tt.name, c, tt.want)
		}
	}
}

// Memory is bounded: of more clients than fit, those that come on are remembered.
func TestTallyBounds(t *testing.T) {
	x := NewTally()
	host := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255) }
	for i := range 3 * generation {
		x.Connection(conn(event.Time(i), event.TCP, host(i+1)+":5000", "192.0.2.1:853"))
		if i%1000 == 0 {
			x.Connection(conn(event.Time(i), event.TCP, "192.0.2.7:5000", "192.0.2.1:853"))
		}
	}
	if n := len(x.now) + len(x.old); n > 2*generation {
		t.Errorf("%d clients remembered, want at most %d", n, 2*generation)
	}
	if c, ok := x.Client(event.Zone{}, addr("192.0.2.7")); !ok || c.Connections < 90 {
		t.Errorf("one that came on is known with %d connections", c.Connections)
	}
	if _, ok := x.Client(event.Zone{}, addr(host(1))); ok {
		t.Error("one that came once, long ago, is remembered")
	}
	for i := range 2 * maxZones {
		c := conn(0, event.TCP, "10.0.0.1:5000", "192.0.2.1:80")
		c.Zone = event.Zone{Kind: event.VNI, ID: uint32(i)}
		x.Connection(c)
	}
	if len(x.zones) > maxZones {
		t.Errorf("%d zones", len(x.zones))
	}
}

// What two rings know of one zone is added up.
func TestViewAdd(t *testing.T) {
	zone := event.Zone{Kind: event.VLAN, ID: 7}
	view := func(client string) View {
		x := NewTally()
		for range 3 {
			c := conn(1, event.TCP, client+":5000", "192.0.2.1:853")
			c.Zone = zone
			x.Connection(c)
		}
		return x.View()
	}
	a, b := view("10.0.0.1"), view("10.0.0.2")
	sum := a
	sum.Add(&b)
	if len(sum.Zones) != 1 || sum.Zones[0].SYN != 6 || sum.Zones[0].DoT != 6 || sum.Elsewhere != 2 || sum.Only != 2 || len(sum.Examples) != 2 {
		t.Errorf("sum %+v", sum)
	}
	if a.Zones[0].SYN != 3 || len(a.Examples) != 1 {
		t.Errorf("what was added to changed: %+v", a)
	}
}

func BenchmarkTally(b *testing.B) {
	x := NewTally()
	var batch event.Batch
	for i := range 256 {
		batch.Connection(conn(event.Time(i), event.TCP, fmt.Sprintf("10.0.%d.%d:5000", i%16, i), "198.51.100.8:443"))
	}
	b.ReportAllocs()
	for b.Loop() {
		x.Batch(&batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/event")
}
