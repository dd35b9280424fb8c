package coverage

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// whole is a minute of traffic without fault.
func whole() (Counts, View, Source) {
	return Counts{
			Frames: 10000, Lookups: 100, Connections: 600, Settled: 600, Explained: 500,
			Decoder: decode.Counters{Queries: 200, Responses: 200, Lookups: 200, Connections: 600, SYN: 500, SYNACK: 500},
		},
		View{Clients: 50, Answered: 50},
		Source{Live: true, Span: time.Minute}
}

func TestAssess(t *testing.T) {
	tests := []struct {
		name string
		make func(*Counts, *View, *Source)
		rule string // "" for a good verdict
		want Verdict
		text string // in the evidence
	}{
		{"nothing wrong", func(*Counts, *View, *Source) {}, "", Good, ""},
		{"a frame in ten thousand lost", func(c *Counts, _ *View, _ *Source) { c.Loss.Ring = 1 }, "", Good, ""},
		{"one in a hundred lost", func(c *Counts, _ *View, _ *Source) { c.Loss.Ring = 101 }, "loss.ring", Partial, "1 % of frames"},
		{"half lost", func(c *Counts, _ *View, _ *Source) { c.Loss.Ring = 10000 }, "loss.ring", Blind, "50 % of frames"},
		{"lost at the adapter", func(c *Counts, _ *View, _ *Source) { c.Loss.NIC = 500 }, "loss.nic", Partial, "4.8 % of frames"},
		{"decoder full", func(c *Counts, _ *View, _ *Source) { c.Loss.Decoder = 2 }, "loss.decoder", Partial, "too small 2 times"},
		{"table full", func(c *Counts, _ *View, _ *Source) { c.Loss.Correlator = 1 }, "loss.correlator", Partial, "1 remembered facts"},
		{"messages lost", func(c *Counts, _ *View, _ *Source) { c.Loss.Queue, c.Loss.Spool = 1, 2 }, "loss.messages", Partial, "1 in the queue and 2 in the spool"},
		{"link away for a while", func(c *Counts, _ *View, _ *Source) { c.Dark, c.LinkDowns = 5e9, 2 }, "link.down", Partial, "no link for 5s, down 2 times"},
		{"link away", func(c *Counts, _ *View, _ *Source) { c.Dark, c.LinkDowns = 60e9, 1 }, "link.down", Blind, "no link for 1m0s"},
		{"no frame", func(c *Counts, _ *View, _ *Source) { *c = Counts{} }, "mirror.silent", Blind, "no frame in 1m0s"},
		{"no frame yet", func(c *Counts, _ *View, s *Source) { *c, s.Span = Counts{}, time.Second }, "dns.none", Partial, "no DNS seen"},
		{"no DNS", func(c *Counts, _ *View, _ *Source) { c.Decoder.Queries, c.Decoder.Responses = 0, 0 }, "dns.none", Blind, "beside 600 connections"},
		{"queries alone", func(c *Counts, _ *View, _ *Source) { c.Decoder.Responses = 0 }, "dns.answers-missing", Blind, "none of 200"},
		{"few queries alone", func(c *Counts, _ *View, _ *Source) { c.Decoder.Queries, c.Decoder.Responses = 3, 0 }, "dns.answers-missing", Partial, "0 % of 3"},
		{"every fifth answer missing", func(c *Counts, _ *View, _ *Source) { c.Decoder.Responses = 160 }, "dns.answers-missing", Partial, "80 % of 200"},
		{"answers alone", func(c *Counts, _ *View, _ *Source) { c.Decoder.Queries = 0 }, "dns.answers-only", Partial, "200 DNS answers"},
		{"what clients send", func(c *Counts, _ *View, _ *Source) { c.Decoder.Responses, c.Decoder.SYNACK = 0, 0 }, "mirror.one-way", Blind, "no answer"},
		{"what clients get", func(c *Counts, _ *View, _ *Source) { c.Decoder.Queries, c.Decoder.SYN = 0, 0 }, "mirror.one-way", Partial, "only what clients get"},
		{"SYN alone", func(c *Counts, _ *View, _ *Source) { c.Decoder.SYNACK = 0 }, "tcp.one-way", Partial, "from clients only"},
		{"hardly a SYN", func(c *Counts, _ *View, _ *Source) { c.Decoder.SYN = 1 }, "tcp.one-way", Partial, "to clients only"},
		{"behind the resolver", func(c *Counts, v *View, _ *Source) { c.Decoder.Iterative, v.Answered = 199, 1 }, "dns.resolver-side", Blind, "to 1 clients"},
		{"a resolver among hosts", func(c *Counts, v *View, _ *Source) { c.Decoder.Iterative, v.Resolvers = 60, 1 }, "", Good, ""},
		{"one client with DNS over TLS", func(c *Counts, v *View, _ *Source) { c.Traffic.DoT, v.Elsewhere = 3, 1 }, "", Good, ""},
		{"some clients with DNS over TLS", func(c *Counts, v *View, _ *Source) { c.Traffic.DoT, v.Elsewhere, v.Only = 3, 20, 10 }, "dns.elsewhere", Partial, "3 connections of DNS over TLS"},
		{"all clients with DNS over HTTPS", func(c *Counts, v *View, _ *Source) { c.Traffic.DoH, v.Elsewhere, v.Only, v.Answered = 9, 50, 50, 0 }, "dns.elsewhere", Blind, "DNS over HTTPS"},
		{"few explained", func(c *Counts, _ *View, _ *Source) { c.Explained = 60 }, "dns.unexplained", Partial, "only 10 % of 600"},
		{"few explained, and few connections", func(c *Counts, _ *View, _ *Source) { c.Settled, c.Explained = 10, 0 }, "", Good, ""},
		{"copies", func(c *Counts, _ *View, _ *Source) { c.Decoder.Copies = 250 }, "mirror.duplicates", Partial, "25 %"},
		{"frames cut", func(c *Counts, _ *View, _ *Source) { c.Reasons[decode.Truncated], c.Truncated = 400, 5000 }, "frames.truncated", Partial, "400 frames"},
		{"answers cut", func(c *Counts, _ *View, _ *Source) { c.Decoder.DNSPartial, c.Truncated = 100, 5000 }, "frames.truncated", Partial, "100 of 200"},
		{"cut by the kernel filter where nothing decides", func(c *Counts, _ *View, _ *Source) { c.Truncated = 9000 }, "", Good, ""},
		{"merged", func(c *Counts, _ *View, _ *Source) { c.Oversize = 100 }, "frames.merged", Partial, "GRO or LRO"},
		{"clock set", func(c *Counts, _ *View, _ *Source) { c.ClockSteps, c.ClockStepped = 1, 3e9 }, "clock.step", Partial, "set once, by 3s"},
		{"stamps go back", func(c *Counts, _ *View, _ *Source) { c.Backward = 7 }, "clock.step", Partial, "7 frames"},
		{"one direction tagged", func(_ *Counts, v *View, _ *Source) {
			v.Zones = []Zone{
				{Zone: event.Zone{Kind: event.VLAN, ID: 7}, Traffic: Traffic{SYN: 40, Asked: 10}},
				{Zone: event.Zone{}, Lookups: 10, Traffic: Traffic{SYNACK: 40}},
			}
		}, "zone.split", Partial, "zone 0/vlan7 has only what clients send, zone 0 only"},
		{"an address of two", func(_ *Counts, v *View, _ *Source) {
			v.Alternates = 1
			v.Examples = []ClientView{{Addr: netip.MustParseAddr("10.0.0.7"), Alternates: true}}
		}, "zone.shared", Partial, "10.0.0.7"},
		{"tunnels that hold nothing readable", func(c *Counts, _ *View, _ *Source) { c.Reasons[decode.Tunnel] = 900 }, "tunnel.opaque", Partial, "9 %"},
		{"tunnels", func(c *Counts, _ *View, _ *Source) { c.Decoder.Tunnels[decode.VXLAN] = 900 }, "", Good, ""},
		{"late", func(c *Counts, _ *View, _ *Source) { c.Late = 100 }, "order.late", Partial, "100 of 700"},
		{"no DNS, and lookups by dnstap", func(c *Counts, _ *View, s *Source) {
			c.Decoder.Queries, c.Decoder.Responses, c.Lookups, s.Beside = 0, 0, 200, []string{"another clock"}
		}, "", Good, ""},
		{"queries alone, and lookups by dnstap", func(c *Counts, _ *View, s *Source) {
			c.Decoder.Responses, c.Lookups, s.Beside = 0, 200, []string{"another clock"}
		}, "dns.answers-missing", Partial, "0 % of 200"},
		{"records that leave things out", func(c *Counts, _ *View, s *Source) {
			*c = Counts{Lookups: 200, Connections: 600, Settled: 600, Explained: 500}
			s.Live, s.Records = false, []string{"no source port", "whole seconds"}
		}, "records.limits", Partial, "no source port; whole seconds"},
		{"the self-test found nothing", func(_ *Counts, _ *View, s *Source) { s.SelfTest = "no hit came out" }, "selftest.failed", Partial, "no hit came out"},
		{"half a file", func(_ *Counts, _ *View, s *Source) { s.Live, s.Incomplete = false, true }, "file.incomplete", Partial, "ends early"},
	}
	named := map[string]bool{"client.resolver": true, "nat.suspected": true, "tunnel.inside": true, "records.beside": true} // notes, in TestNotes
	for _, tt := range tests {
		c, v, s := whole()
		tt.make(&c, &v, &s)
		a := Assess(&c, &v, s)
		if a.Verdict != tt.want || a.Rule() != tt.rule || !strings.Contains(strings.Join(a.Why(), "; "), tt.text) {
			t.Errorf("%s: %s by %q, want %s by %q because of %q", tt.name, a.Text(), a.Rule(), tt.want, tt.rule, tt.text)
		}
		named[tt.rule] = true
	}
	for _, name := range Rules() {
		if !named[name] {
			t.Errorf("no test has rule %s give the verdict", name)
		}
	}
}

// Notes say what is known and leave the verdict alone.
func TestNotes(t *testing.T) {
	c, v, s := whole()
	c.Decoder.Tunnels[decode.VXLAN] = 900
	v.Resolvers, v.NAT = 1, 1
	v.Examples = []ClientView{{Addr: netip.MustParseAddr("10.0.0.53"), Servers: 30}, {Addr: netip.MustParseAddr("10.0.0.1"), NAT: "x"}}
	v.Elsewhere, c.Traffic.DoQ = 1, 4
	s.Beside = []string{"another clock"}
	a := Assess(&c, &v, s)
	want := []string{"dns.elsewhere", "client.resolver", "nat.suspected", "records.beside", "tunnel.inside"}
	var got []string
	for _, f := range a.Findings {
		got = append(got, f.Rule)
	}
	if a.Verdict != Good || a.Rule() != "" || a.Why() != nil || !slices.Equal(got, want) {
		t.Errorf("%s, rules %q, want good with %q", a.Text(), got, want)
	}
	for _, text := range []string{"GOOD (", "another clock", "900 vxlan", "such as 10.0.0.53", "1 clients are perhaps several hosts each, such as 10.0.0.1:", "4 connections of DNS over QUIC"} {
		if !strings.Contains(a.Text(), text) {
			t.Errorf("%q lacks %q", a.Text(), text)
		}
	}
}

// What is lost at the NIC and at the ring is told apart, and the shares are those of the frames there were.
func TestLossByPlace(t *testing.T) {
	c, v, s := whole()
	c.Frames, c.Loss.Ring, c.Loss.NIC = 8000, 1000, 1000
	a := Assess(&c, &v, s)
	if why := strings.Join(a.Why(), "\n"); !strings.Contains(why, "loss.nic: 10 % of frames lost at the NIC (1000 of 10000)") ||
		!strings.Contains(why, "loss.ring: 11 % of frames lost at the ring (1000 of 9000)") {
		t.Errorf("reasons:\n%s", why)
	}
}

func TestSince(t *testing.T) {
	var a, b Counts
	a.Frames, a.Loss.Ring, a.Decoder.Tunnels[decode.GRE], a.Traffic.DoH, a.Late = 5, 3, 2, 1, 9
	b.Frames, b.Loss.Ring, b.Decoder.Tunnels[decode.GRE], b.Traffic.DoH, b.Late = 12, 4, 7, 5, 2
	d := b.Since(&a)
	var want Counts
	want.Frames, want.Loss.Ring, want.Decoder.Tunnels[decode.GRE], want.Traffic.DoH = 7, 1, 5, 4
	if d != want {
		t.Errorf("since: %+v, want %+v; a count that went back is 0", d, want)
	}
}

// A hit is assessed by the time it rests on: what was lost an hour before is not held against it, and what was lost
// an hour before a lookup whose answer still holds is.
func TestHistory(t *testing.T) {
	var h History
	var c Counts
	const hour = 60 * minute
	for at := event.Time(0); at <= 30*hour; at += second {
		c.Frames += 100
		if at == 10*hour {
			c.Loss.Ring += 5000
		}
		h.Add(at, &c)
	}
	now := 30 * hour
	for _, tt := range []struct {
		from event.Time
		loss uint64
		slop event.Time // how much earlier than asked for it may begin
	}{
		{now - 2*second, 0, second},
		{now - LeastWindow + second, 0, second},
		{now - 19*hour, 0, minute},
		{10*hour + 2*minute, 0, minute},
		{10*hour - second, 5000, minute},
		{5 * hour, 5000, minute},
	} {
		d, began := h.Since(tt.from, &c)
		if d.Loss.Ring != tt.loss || began > tt.from || began < tt.from-tt.slop {
			t.Errorf("since %v before the end: lost %d from %v before the end on, want %d", now-tt.from, d.Loss.Ring, now-began, tt.loss)
		}
		if want := uint64((now - began) / second * 100); d.Frames != want {
			t.Errorf("since %v before the end: %d frames, want %d", now-tt.from, d.Frames, want)
		}
	}
	// Longer ago than it remembers: everything, which is no less than the truth.
	if d, began := h.Since(second, &c); began != 0 || d != c {
		t.Errorf("since the beginning: from %v on, %d frames of %d", began, d.Frames, c.Frames)
	}
	// A clock that was set back does not hide what came before.
	c.Loss.Ring += 7
	h.Add(now-hour, &c)
	if d, _ := h.Since(now-2*hour, &c); d.Loss.Ring != 7 {
		t.Errorf("after the clock was set back %d lost, want 7", d.Loss.Ring)
	}
}

func TestJudge(t *testing.T) {
	blind := conclude([]Finding{{Rule: "tcp.one-way", Severity: Limits}, {Rule: "loss.ring", Severity: Disables, Evidence: "half"}})
	good, partial := conclude(nil), conclude([]Finding{{Rule: "loss.nic", Severity: Limits}})
	encrypted, plain := ClientView{Hidden: []string{"DNS over TLS"}}, ClientView{}
	for _, tt := range []struct {
		name              string
		a                 Assessment
		h                 Hit
		c                 ClientView
		muted, downgraded bool
		rule              string
	}{
		{"alert", good, Hit{Alert: true}, plain, false, false, ""},
		{"alert when some was lost", partial, Hit{Alert: true}, plain, false, false, ""},
		{"alert when half was lost", blind, Hit{Alert: true}, plain, false, true, "loss.ring"},
		{"watch when half was lost", blind, Hit{}, plain, false, false, ""},
		{"alert of a client with DNS over TLS", good, Hit{Alert: true}, encrypted, false, false, ""},
		{"lead by absence", good, Hit{Absent: true}, plain, false, false, ""},
		{"lead by absence when half was lost", blind, Hit{Absent: true}, plain, true, false, "loss.ring"},
		{"lead by absence of a client with DNS over TLS", good, Hit{Absent: true}, encrypted, true, false, "client"},
		{"lead by absence of a resolver", good, Hit{Absent: true}, ClientView{Servers: manyServers}, true, false, "client"},
		{"another lead of a client with DNS over TLS", good, Hit{}, encrypted, false, false, ""},
	} {
		muted, downgraded, rule, why := tt.a.Judge(tt.h, &tt.c)
		if muted != tt.muted || downgraded != tt.downgraded || rule != tt.rule || (rule != "") != (why != "") {
			t.Errorf("%s: muted %t, downgraded %t by %q because of %q; want %t, %t by %q", tt.name, muted, downgraded, rule, why,
				tt.muted, tt.downgraded, tt.rule)
		}
	}
}
