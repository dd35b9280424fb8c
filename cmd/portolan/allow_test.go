package main

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/correlate"
	"portolan/sensor/event"
)

var allowTime = time.Date(2027, 3, 31, 12, 0, 0, 0, time.UTC)

// hitOf returns a message about 192.0.2.7 → 198.51.100.23:10198 over TCP.
func hitOf(id byte, state correlate.State, name string) *bus.Message {
	h := correlate.Hit{
		ID: correlate.ID{id}, Revision: 1, State: state, Level: correlate.Alert,
		Client: netip.MustParseAddr("192.0.2.7"),
		Connection: event.Connection{
			Proto: event.TCP, Src: netip.MustParseAddrPort("192.0.2.7:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
		},
		Lookup: correlate.Source{Name: name, Answer: netip.MustParseAddr("198.51.100.23"), Via: "a"},
		Calc:   correlate.Calc{Match: correlate.Match{Hypothesis: "P1"}},
	}
	return bus.NewMessage(&h, bus.Context{Sensor: "test"})
}

func TestAllowRuleFits(t *testing.T) {
	m := hitOf(1, correlate.Final, "Cam.Site.Example")
	for _, tt := range []struct {
		name string
		rule config.AllowRule
		want bool
	}{
		{"client", config.AllowRule{Client: netip.MustParsePrefix("192.0.2.0/24")}, true},
		{"another client", config.AllowRule{Client: netip.MustParsePrefix("192.0.2.8/32")}, false},
		{"client of the other family", config.AllowRule{Client: netip.MustParsePrefix("::/0")}, false},
		{"destination", config.AllowRule{Destination: netip.MustParsePrefix("198.51.100.23/32")}, true},
		{"another destination", config.AllowRule{Destination: netip.MustParsePrefix("192.0.2.0/24")}, false},
		{"first port of a range", config.AllowRule{Ports: [2]uint16{10198, 10200}}, true},
		{"last port of a range", config.AllowRule{Ports: [2]uint16{1, 10198}}, true},
		{"another port", config.AllowRule{Ports: [2]uint16{10199, 10199}}, false},
		{"protocol", config.AllowRule{Proto: event.TCP}, true},
		{"another protocol", config.AllowRule{Proto: event.UDP}, false},
		{"name, whatever its case", config.AllowRule{Name: "cam.site.example"}, true},
		{"names below", config.AllowRule{Name: "*.site.example"}, true},
		{"names below a part of a label", config.AllowRule{Name: "*.ite.example"}, false},
		{"names below the name itself", config.AllowRule{Name: "*.cam.site.example"}, false},
		{"the name above", config.AllowRule{Name: "site.example"}, false},
		{"hypothesis", config.AllowRule{Hypothesis: "P1"}, true},
		{"one that begins alike", config.AllowRule{Hypothesis: "P10"}, false},
		{"id without star is no prefix", config.AllowRule{Hypothesis: "P"}, false},
		{"prefix", config.AllowRule{Hypothesis: "P*"}, true},
		{"all at once", config.AllowRule{Client: netip.MustParsePrefix("192.0.2.7/32"), Ports: [2]uint16{10198, 10198}, Proto: event.TCP}, true},
		{"all but one", config.AllowRule{Client: netip.MustParsePrefix("192.0.2.7/32"), Ports: [2]uint16{10198, 10198}, Proto: event.UDP}, false},
		{"not expired yet", config.AllowRule{Proto: event.TCP, Until: allowTime.Add(1)}, true},
		{"expired", config.AllowRule{Proto: event.TCP, Until: allowTime}, false},
	} {
		tt.rule.Reason = "a reason"
		reason, ok := newAllowRules([]config.AllowRule{tt.rule}).Match(m, allowTime)
		if ok != tt.want || ok && reason != "a reason" {
			t.Errorf("%s: %q, %v, want %v", tt.name, reason, ok, tt.want)
		}
	}
	nameless := hitOf(1, correlate.Final, "")
	if _, ok := newAllowRules([]config.AllowRule{{Name: "*.example"}}).Match(nameless, allowTime); ok {
		t.Error("a hit whose name is not known fits a rule about names")
	}
}

func TestAllowedHitsAreCounted(t *testing.T) {
	r := newAllowRules([]config.AllowRule{
		{Proto: event.UDP, Reason: "never fits"},
		{Ports: [2]uint16{10198, 10198}, Reason: "cameras"},
		{Proto: event.TCP, Reason: "comes second"},
	})
	for id := range byte(3) {
		for _, state := range []correlate.State{correlate.Provisional, correlate.Provisional, correlate.Final} {
			if !r.holds(correlate.Alert, hitOf(id, state, ""), allowTime) {
				t.Errorf("hit %d was given out", id)
			}
		}
	}
	if !r.holds(correlate.Watch, hitOf(9, correlate.Retracted, ""), allowTime) {
		t.Error("a retraction of what nobody got was given out")
	}
	x := r.result()
	if want := "3 hits by rule 2 (cameras), not published"; len(x.lines) != 1 || x.lines[0] != want {
		t.Errorf("lines %q, want %q alone", x.lines, want)
	}
	if x.total() != 3 || x.hits[correlate.Alert] != 3 {
		t.Errorf("%v were kept back, want three alerts: revisions and retractions are no hits", x.hits)
	}
	if len(r.open) != 0 {
		t.Errorf("%d hits are remembered though nobody got them", len(r.open))
	}
}

// Who got one revision gets the later ones too.
func TestNobodyIsLeftWithHalfAStory(t *testing.T) {
	name := []config.AllowRule{{Name: "cam.example", Reason: "cameras"}}
	brief := []config.AllowRule{{Proto: event.TCP, Until: allowTime.Add(time.Second), Reason: "today"}}
	for _, tt := range []struct {
		what  string
		rules []config.AllowRule
		seen  []*bus.Message
		held  []bool
	}{
		{"the name comes late", name,
			[]*bus.Message{hitOf(1, correlate.Provisional, ""), hitOf(1, correlate.Final, "cam.example"), hitOf(1, correlate.Final, "cam.example")},
			[]bool{false, false, true}}, // the last one is another connection of the same trial
		{"retracted after the name came", name,
			[]*bus.Message{hitOf(1, correlate.Provisional, ""), hitOf(1, correlate.Retracted, "cam.example")}, []bool{false, false}},
		{"the name goes", name,
			[]*bus.Message{hitOf(1, correlate.Provisional, "cam.example"), hitOf(1, correlate.Final, "")}, []bool{true, false}},
		{"the rule ends meanwhile", brief,
			[]*bus.Message{hitOf(1, correlate.Provisional, ""), hitOf(1, correlate.Final, "")}, []bool{true, false}},
	} {
		r := newAllowRules(tt.rules)
		var held []bool
		for i, m := range tt.seen {
			held = append(held, r.holds(correlate.Alert, m, allowTime.Add(time.Duration(i)*time.Second)))
		}
		if !slices.Equal(held, tt.held) {
			t.Errorf("%s: held %v, want %v", tt.what, held, tt.held)
		}
	}
}

func TestExpiredRulesAreTold(t *testing.T) {
	r := newAllowRules([]config.AllowRule{
		{Proto: event.TCP, Until: time.Date(2027, 3, 31, 0, 0, 0, 0, time.UTC), Reason: "until yesterday"},
		{Proto: event.TCP, Until: allowTime.Add(time.Hour), Reason: "soon"},
		{Proto: event.UDP, Reason: "for ever"},
	})
	if got := r.expiredNow(allowTime); len(got) != 1 || got[0] != "allow rule 1 (until yesterday) expired after 2027-03-30" {
		t.Errorf("expired: %q", got)
	}
	if got := r.expiredNow(allowTime); got != nil {
		t.Errorf("told twice: %q", got)
	}
	later := allowTime.Add(time.Hour)
	if got := r.expiredNow(later); len(got) != 1 || got[0] != "allow rule 2 (soon) expired at 2027-03-31T13:00:00Z" {
		t.Errorf("expired: %q", got)
	}
	if r.holds(correlate.Alert, hitOf(1, correlate.Final, ""), later) {
		t.Error("a rule that has expired keeps a hit back")
	}
	want := "1 hit was published that rule 1 (until yesterday) fits: it expired after 2027-03-30"
	if x := r.result(); x.total() != 0 || len(x.lines) != 1 || x.lines[0] != want {
		t.Errorf("lines %q, want %q", x.lines, want)
	}
}

func TestOpenHitsAreBounded(t *testing.T) {
	r := newAllowRules([]config.AllowRule{{Proto: event.UDP, Reason: "never fits"}})
	m := hitOf(1, correlate.Provisional, "")
	for i := range openHits + 10 {
		m.Portolan.HitID = fmt.Sprint(i)
		r.holds(correlate.Alert, m, allowTime)
	}
	if len(r.open) != openHits {
		t.Errorf("%d hits are remembered, want %d", len(r.open), openHits)
	}
}

func TestAllowRulesConcurrently(t *testing.T) {
	r := newAllowRules([]config.AllowRule{{Proto: event.TCP, Until: allowTime.Add(time.Hour), Reason: "x"}})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 100 {
				r.holds(correlate.Watch, hitOf(byte(i), correlate.Final, ""), allowTime)
				r.result()
				r.expiredNow(allowTime)
			}
		})
	}
	all.Wait()
	if x := r.result(); x.hits[correlate.Watch] != 400 {
		t.Errorf("%d were kept back, want 400", x.hits[correlate.Watch])
	}
}

// What a rule keeps back reaches neither NATS nor the terminal: without a bus, publishing would panic.
func TestPipelineHoldsAllowedHits(t *testing.T) {
	cfg := config.Default()
	cfg.Correlate.MemoryBytes = 16 << 20
	cfg.Allow = []config.AllowRule{{Client: netip.MustParsePrefix("192.0.2.0/24"), Reason: "lab"}}
	l, err := newPipeline(&cfg, "test0", nil, func(m *bus.Message) { t.Errorf("hit %s was shown", m.Portolan.HitID) })
	if err != nil {
		t.Fatal(err)
	}
	for id := range byte(3) {
		l.give([]correlate.Hit{{
			ID: correlate.ID{id}, Revision: 1, State: correlate.Final, Level: correlate.Watch, Client: netip.MustParseAddr("192.0.2.7"),
			Connection: event.Connection{
				Proto: event.TCP, Src: netip.MustParseAddrPort("192.0.2.7:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
			},
		}})
	}
	close(l.queue)
	l.publish()
	if x := l.allow.result(); x.hits[correlate.Watch] != 3 {
		t.Errorf("%v were kept back, want three watches", x.hits)
	}
}
