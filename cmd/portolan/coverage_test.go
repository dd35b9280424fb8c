package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/coverage"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// What capture, correlation and publishing counted comes to where package coverage looks for it.
func TestCounted(t *testing.T) {
	s := sensor.Stats{
		Frames: 10000, Oversize: 3, Backward: 4, Dark: time.Minute,
		Counters:  decode.Counters{Queries: 100, Copies: 7, FlowsEvicted: 1, StreamsCut: 1},
		Interface: sensor.Interface{Dropped: 1, Missed: 2, Driver: 5, Queue: 10},
		Rings:     []sensor.RingStats{{Dropped: 3, LinkDowns: 2}, {Dropped: 4, LinkDowns: 2, Reopens: 1}},
	}
	c := correlate.Stats{Connections: 9, Explained: 4, Unjudged: 1, PortTrials: 2, AddressTrials: 3, EvictedClients: 1, Refused: 1}
	c.ExplainedBy[1] = 2
	got := counted(&s, &c, lostMessages{8, 9}, coverage.Traffic{DoT: 6})
	if got.Loss != (coverage.Loss{NIC: 15, Ring: 7, Decoder: 2, Correlator: 2, Queue: 8, Spool: 9}) {
		t.Errorf("loss %+v", got.Loss)
	}
	if got.Frames != 10000 || got.Oversize != 3 || got.Backward != 4 || got.Dark != 60e9 || got.LinkDowns != 2 || got.Reopens != 1 ||
		got.Decoder.Copies != 7 || got.Settled != 8 || got.Explained != 4 || got.Traffic.DoT != 6 {
		t.Errorf("counts %+v", got)
	}
}

// What was lost before a file was written nobody knows, and the coverage says so.
func TestCoverageOfFile(t *testing.T) {
	var n coverage.Counts
	a := coverage.Assess(&n, nil, coverage.Source{})
	if c := coverageOf(&a, &n, false); len(c.Loss.Unknown) == 0 {
		t.Error("a capture file claims to know its losses")
	}
}

// An alert on blind coverage is published as a watch that says why; its id and evidence stay. A lead that rests on the
// absence of lookups is not published there.
func TestJudgeHit(t *testing.T) {
	n := coverage.Counts{Frames: 100, Loss: coverage.Loss{Ring: 100}}
	blind := coverage.Assess(&n, nil, coverage.Source{Live: true})
	alert := correlate.Hit{ID: correlate.ID{7}, Revision: 1, Level: correlate.Alert, Calc: correlate.Calc{Kind: correlate.Address, EValue: 1e9}}
	c := coverageOf(&blind, &n, true)
	if !judge(&alert, &blind, coverage.ClientView{}, &c) || alert.Level != correlate.Watch {
		t.Fatalf("an alert became %v", alert.Level)
	}
	m := bus.NewMessage(&alert, c)
	p := &m.Portolan
	if p.Level != "watch" || p.HitID != alert.ID.String() || p.Calc.EValue != 1e9 || p.Coverage.Verdict != bus.Blind || p.Coverage.Rule != "loss.ring" ||
		p.Downgraded == nil || p.Downgraded.From != "alert" || p.Downgraded.Rule != "loss.ring" || !strings.Contains(p.Downgraded.Why, "50 %") {
		t.Errorf("message: level %s, coverage %+v, downgraded %+v", p.Level, p.Coverage, p.Downgraded)
	}
	lead := correlate.Hit{Level: correlate.Lead, Calc: correlate.Calc{Kind: correlate.Address}}
	if judge(&lead, &blind, coverage.ClientView{}, &c) {
		t.Error("a lead by absence is published although half was lost")
	}
	port := correlate.Hit{Level: correlate.Lead, Calc: correlate.Calc{Kind: correlate.Port}}
	if !judge(&port, &blind, coverage.ClientView{}, &c) {
		t.Error("a lead that an answer led to is held back")
	}
}

// The clock that stamps frames was set when it and the monotonic one disagree about how long a second is.
func TestClockWatch(t *testing.T) {
	const second = int64(time.Second)
	for _, tt := range []struct {
		name    string
		wall    []int64 // at each second of the monotonic clock
		steps   uint64
		stepped int64
	}{
		{"none", []int64{0, second, 2 * second, 3 * second}, 0, 0},
		{"slewed", []int64{0, second + 1e6, 2*second + 2e6, 3*second + 3e6}, 0, 0},
		{"set forward", []int64{0, second, 12 * second, 13 * second}, 1, 10 * second},
		{"set back and forth", []int64{0, -9 * second, 2 * second, 3 * second}, 2, 20 * second},
	} {
		var c clockWatch
		for i, w := range tt.wall {
			c.look(w, time.Duration(i)*time.Second)
		}
		if c.steps != tt.steps || int64(c.stepped) != tt.stepped {
			t.Errorf("%s: %d steps of %v, want %d of %v", tt.name, c.steps, time.Duration(c.stepped), tt.steps, time.Duration(tt.stepped))
		}
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
	var n decode.Counters
	n.Tunnels[decode.VXLAN], n.Tunnels[decode.GRE], n.TunnelsTooDeep = 2, 1, 4
	if got := fmt.Sprint(tunnelCounts(&n)); got != "map[gre:1 too-deep:4 vxlan:2]" {
		t.Errorf("of the interval: %s", got)
	}
	if tunnelCounts(new(decode.Counters)) != nil {
		t.Error("something is counted where there was nothing")
	}
	if got, want := tunnelsText(&n), "1 gre, 2 vxlan, 4 too deep"; got != want {
		t.Errorf("of all time: %q, want %q", got, want)
	}
}
