package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// whole is a traffic without fault.
func whole() (sensor.Stats, correlate.Stats) {
	return sensor.Stats{
			Frames:   10000,
			Counters: decode.Counters{Queries: 100, Responses: 100, SYN: 500, SYNACK: 500},
			Rings:    make([]sensor.RingStats, 2),
		},
		correlate.Stats{Connections: 500, Explained: 400}
}

func TestAssess(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*sensor.Stats, *correlate.Stats) uint64 // returns messages lost
		why  string                                       // "" for a good verdict
	}{
		{"nothing wrong", func(*sensor.Stats, *correlate.Stats) uint64 { return 0 }, ""},
		{"a frame in ten thousand lost", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Rings[1].Dropped = 1; return 0 }, ""},
		{"one in a hundred lost", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Rings[1].Dropped = 101; return 0 }, "1 % of frames lost"},
		{"lost at the adapter", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Interface.Missed = 5000; return 0 }, "33 % of frames lost"},
		{"queries alone", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Counters.Responses = 0; return 0 }, "the mirror shows one direction"},
		{"responses alone", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Counters.Queries = 0; return 0 }, "the mirror shows one direction"},
		{"no DNS", func(s *sensor.Stats, _ *correlate.Stats) uint64 {
			s.Counters.Queries, s.Counters.Responses = 0, 0
			return 0
		}, "no DNS responses seen"},
		{"SYN alone", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Counters.SYNACK = 0; return 0 }, "TCP seen from clients only"},
		{"SYN+ACK alone", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Counters.SYN = 0; return 0 }, "TCP seen to clients only"},
		{"few explained", func(_ *sensor.Stats, c *correlate.Stats) uint64 { c.Explained = 50; return 0 }, "explains only 10 % of connections"},
		{"few explained, and few connections", func(_ *sensor.Stats, c *correlate.Stats) uint64 {
			c.Connections, c.Explained = 10, 0
			return 0
		}, ""},
		{"decoder full", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Counters.FlowsEvicted = 2; return 0 }, "too small 2 times"},
		{"table full", func(_ *sensor.Stats, c *correlate.Stats) uint64 { c.EvictedClients = 1; return 0 }, "1 remembered fact made room"},
		{"messages lost", func(*sensor.Stats, *correlate.Stats) uint64 { return 3 }, "3 messages lost before NATS"},
		{"half a file", func(s *sensor.Stats, _ *correlate.Stats) uint64 { s.Incomplete = "cut"; return 0 }, "ends early"},
	} {
		s, c := whole()
		lost := tt.make(&s, &c)
		v := assess(&s, &c, lostMessages{queue: lost})
		want := bus.Good
		if tt.why != "" {
			want = bus.Partial
		}
		if v.verdict != want || !strings.Contains(strings.Join(v.why, "; "), tt.why) {
			t.Errorf("%s: %s, want %s because of %q", tt.name, v.text(), want, tt.why)
		}
	}
}

// What was lost before a file was written nobody knows, and the coverage says so.
func TestAssessFile(t *testing.T) {
	s, c := whole()
	s.Rings = nil
	if v := assess(&s, &c, lostMessages{}); len(v.loss.Unknown) == 0 {
		t.Error("a capture file claims to know its losses")
	}
}

func TestExpectedFalse(t *testing.T) {
	cfg := correlate.DefaultConfig()
	traffic := correlate.Stats{PortTrials: 900_000, AddressTrials: 100_000}
	traffic.Decoys[correlate.Watch] = 9
	got := expectedFalse(&cfg, &traffic, 24*time.Hour)
	if want := (expectation{1e6 / cfg.Alert, "bound"}); got[correlate.Alert] != want {
		t.Errorf("alerts: %+v for a million trials a day, want %+v", got[correlate.Alert], want)
	}
	if want := (expectation{10, "measured"}); got[correlate.Watch] != want {
		t.Errorf("watches: %+v with nine decoys a day, want %+v", got[correlate.Watch], want)
	}
	short := expectedFalse(&cfg, &correlate.Stats{PortTrials: 1}, time.Millisecond)
	if short[correlate.Alert].perDay != 1440/cfg.Alert {
		t.Errorf("one trial within a millisecond counts as %v a day, want as one a minute", short[correlate.Alert].perDay*cfg.Alert)
	}
}

// A record counts what happened since the last one.
func TestSnapshotSince(t *testing.T) {
	s, c := whole()
	first := snapshot{stats: s, correlate: c, lost: lostMessages{queue: 1}}
	second := first
	second.stats.Frames += 7
	second.stats.Reasons[decode.ICMP] = 7
	second.stats.Counters.Queries += 5
	second.stats.Rings = []sensor.RingStats{{Dropped: 3}, {}}
	second.correlate.Final[correlate.Alert] = 2
	second.lost = lostMessages{4, 2}
	d := second.since(&first)
	if d.stats.Frames != 7 || d.stats.Reasons[decode.ICMP] != 7 || d.stats.Counters.Queries != 5 ||
		d.stats.Counters.Responses != 0 || d.stats.Rings[0].Dropped != 3 || d.correlate.Final[correlate.Alert] != 2 ||
		d.correlate.Connections != 0 || d.lost != (lostMessages{3, 2}) {
		t.Errorf("difference %+v", d)
	}
	if second.stats.Rings[0].Dropped != 3 {
		t.Error("the newer snapshot was changed")
	}
}

func TestSumStats(t *testing.T) {
	a := sensor.Stats{Frames: 1, First: 5, Last: 6, Rings: make([]sensor.RingStats, 1), Counters: decode.Counters{SYN: 2}}
	b := sensor.Stats{Frames: 2, First: 3, Last: 4, Rings: make([]sensor.RingStats, 2), Counters: decode.Counters{SYN: 3}}
	for _, s := range []sensor.Stats{sumStats(sumStats(sensor.Stats{}, a), b), sumStats(b, a)} {
		if s.Frames != 3 || s.First != 3 || s.Last != 6 || len(s.Rings) != 3 || s.Counters.SYN != 5 {
			t.Errorf("sum %+v", s)
		}
	}
}

// What explained connections besides an answer is named in the summary.
func TestExplainedText(t *testing.T) {
	var c correlate.Stats
	for i, name := range correlate.ExplanationNames() {
		c.ExplainedBy[i] = uint64(10 * (i + 1))
		if name == "control-channel" {
			c.ExplainedBy[i] = 0
		}
	}
	if got, want := explainedText(&c), "30 by service, 50 by embedded-ipv4"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Coverage names the tunnels of its interval, and the summary those of all time.
func TestTunnelCounts(t *testing.T) {
	var old, now snapshot
	old.stats.Counters.Tunnels[decode.VXLAN] = 3
	now.stats.Counters.Tunnels[decode.VXLAN] = 5
	now.stats.Counters.Tunnels[decode.GRE] = 1
	now.stats.Counters.TunnelsTooDeep = 4
	d := now.since(&old)
	if got := fmt.Sprint(tunnelCounts(&d.stats.Counters)); got != "map[gre:1 too-deep:4 vxlan:2]" {
		t.Errorf("of the interval: %s", got)
	}
	if tunnelCounts(new(decode.Counters)) != nil {
		t.Error("something is counted where there was nothing")
	}
	if got, want := tunnelsText(&now.stats.Counters), "1 gre, 5 vxlan, 4 too deep"; got != want {
		t.Errorf("of all time: %q, want %q", got, want)
	}
}
