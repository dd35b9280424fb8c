package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/lab"
	"portolan/sensor/event"
)

// The made-up lab: one benign client, one implant with two contacts.
var (
	benign  = netip.MustParseAddr("10.0.0.7")
	implant = netip.MustParseAddr("10.0.0.101")
	wire    = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
)

func labHosts() []lab.Host {
	return []lab.Host{{Addr: benign, Role: "browser"}, {Addr: implant, Role: "mul-add", Implant: true}}
}

func contact(port, to uint16, level string) lab.Contact {
	answer := netip.MustParseAddr("198.51.100.23")
	return lab.Contact{
		Family: "mul-add", Source: netip.AddrPortFrom(implant, port), Destination: netip.AddrPortFrom(answer, to),
		Proto: event.TCP, Answer: answer, Level: level,
	}
}

func heardAt(after time.Duration, src netip.Addr, sport, dport uint16, rev uint32, state, level string) heardHit {
	return heardHit{Message: &bus.Message{
		Timestamp: wire, Source: bus.Source{IP: src, Port: sport},
		Destination: bus.Destination{IP: netip.MustParseAddr("198.51.100.23"), Port: dport},
		Network:     bus.Network{Transport: "tcp"},
		Portolan:    bus.Portolan{Revision: rev, State: state, Level: level},
	}, received: wire.Add(after)}
}

func TestJudgeLab(t *testing.T) {
	truth := []lab.Contact{contact(40001, 10198, "watch"), contact(40002, 10199, "alert")}
	first := heardAt(time.Millisecond, implant, 40001, 10198, 1, "provisional", "watch")
	second := heardAt(3*time.Millisecond, implant, 40002, 10199, 1, "provisional", "alert")
	for _, tt := range []struct {
		name   string
		heard  []heardHit
		passed bool
		found  int
		level  string
		falses int // alerts
		others int
	}{
		{"all heard", []heardHit{first, second}, true, 2, "alert", 0, 0},
		{"nothing heard", nil, false, 0, "", 0, 0},
		{"only a watch", []heardHit{first}, false, 1, "watch", 0, 0},
		{"the second with too low a level", []heardHit{first, heardAt(0, implant, 40002, 10199, 1, "final", "watch")}, false, 1, "watch", 0, 0},
		{"taken back later", []heardHit{first, second, heardAt(time.Second, implant, 40002, 10199, 2, "retracted", "alert")},
			false, 1, "watch", 0, 0},
		{"a benign client is no implant", []heardHit{first, second, heardAt(0, benign, 40001, 10198, 1, "final", "alert")},
			false, 2, "alert", 1, 0},
		{"a benign client on watch", []heardHit{first, second, heardAt(0, benign, 40001, 10198, 1, "final", "watch")},
			true, 2, "alert", 0, 1},
		{"the implant's other connections are innocent", []heardHit{first, second, heardAt(0, implant, 50000, 443, 1, "final", "alert")},
			false, 2, "alert", 1, 0},
		{"a false alert that was taken back", []heardHit{first, second,
			heardAt(0, benign, 1, 2, 1, "provisional", "alert"), heardAt(0, benign, 1, 2, 2, "retracted", "alert")}, true, 2, "alert", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := judgeLab(labHosts(), truth, lab.Traffic{Lookups: 5, Connections: 6}, tt.heard, "")
			if len(o.Implants) != 1 || o.Benign != 1 {
				t.Fatalf("%d implants and %d benign clients, want one each", len(o.Implants), o.Benign)
			}
			i := o.Implants[0]
			if o.Passed != tt.passed || i.Found != tt.found || i.Level != tt.level || i.Contacts != len(truth) {
				t.Errorf("passed %v, found %d of %d at level %q; want %v, %d of %d, %q", o.Passed, i.Found, i.Contacts, i.Level,
					tt.passed, tt.found, len(truth), tt.level)
			}
			if len(o.FalseAlerts) != tt.falses || len(o.FalseOthers) != tt.others {
				t.Errorf("false alerts %v, others %v; want %d and %d", o.FalseAlerts, o.FalseOthers, tt.falses, tt.others)
			}
			var text bytes.Buffer
			if err := o.write(&text); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(text.String(), "\nPASSED"); got != tt.passed {
				t.Errorf("the table says passed %v:\n%s", got, &text)
			}
		})
	}
}

func TestLabLatencyIsToTheFirstMessage(t *testing.T) {
	o := judgeLab(labHosts(), []lab.Contact{contact(40001, 10198, "watch")}, lab.Traffic{}, []heardHit{
		heardAt(2*time.Millisecond, implant, 40001, 10198, 1, "provisional", "watch"),
		heardAt(2*time.Second, implant, 40001, 10198, 2, "final", "alert"),
	}, "")
	if want := (latency{1, 2 * time.Millisecond, 2 * time.Millisecond, 2 * time.Millisecond}); o.Latency != want || o.Implants[0].Latency != want {
		t.Errorf("latency %v and %v, want %v", o.Latency, o.Implants[0].Latency, want)
	}
}

func TestLatencyOf(t *testing.T) {
	var all []time.Duration
	for i := range 101 {
		all = append(all, time.Duration(100-i))
	}
	if got, want := latencyOf(all), (latency{101, 50, 99, 100}); got != want {
		t.Errorf("latency %v, want %v", got, want)
	}
}

// TestJudgeProcesses: what was said of a process has to be what the implant knows of itself, and no more than
// the source can know.
func TestJudgeProcesses(t *testing.T) {
	const pid, user = 4711, labUser
	uid, stranger := uint32(user), uint32(user+1)
	host := labHosts()[1]
	named := func(status, method string, p *bus.Process, others ...bus.Process) heardHit {
		h := heardAt(3*time.Second, implant, 40001, 10198, 100_001, "enriched", "alert")
		h.Portolan.Attribution = bus.Attribution{Status: status, Method: method, Reason: "r", Process: p, Candidates: others}
		return h
	}
	right := &bus.Process{PID: pid, Executable: "/x/mul-add", UID: &uid}
	for _, tt := range []struct {
		name   string
		source string
		rival  bool
		heard  heardHit
		ok     bool
	}{
		{"right", sourceEBPF, false, named("matched", "exact", right), true},
		{"right in spite of a rival, as ports differ", sourceEBPF, true, named("matched", "exact", right), true},
		{"by less than could be", sourceEBPF, false, named("matched", "dst-tuple", right), false},
		{"another process", sourceEBPF, false, named("matched", "exact", &bus.Process{PID: pid + 1, Executable: "/x/mul-add", UID: &uid}), false},
		{"another executable", sourceEBPF, false, named("matched", "exact", &bus.Process{PID: pid, Executable: "/x/curl", UID: &uid}), false},
		{"another user", sourceEBPF, false, named("matched", "exact", &bus.Process{PID: pid, Executable: "/x/mul-add", UID: &stranger}), false},
		{"nobody", sourceEBPF, false, named("unmatched", "", nil), false},
		{"without ports", sourceAuditd, false, named("matched", "dst-tuple", right), true},
		{"a guess", sourceAuditd, true, named("matched", "dst-tuple", right), false},
		{"two candidates", sourceAuditd, true, named("ambiguous", "dst-tuple", nil, bus.Process{PID: 1}, *right), true},
		{"two candidates without the right one", sourceAuditd, true, named("ambiguous", "dst-tuple", nil, bus.Process{PID: 1}, bus.Process{PID: 2}), false},
		{"two candidates without a rival", sourceAuditd, false, named("ambiguous", "dst-tuple", nil, bus.Process{PID: 1}, *right), false},
	} {
		k := contact(40001, 10198, "watch")
		k.PID, k.Rival = pid, tt.rival
		o := judgeLab([]lab.Host{host}, []lab.Contact{k}, lab.Traffic{}, []heardHit{tt.heard}, tt.source)
		p := o.Implants[0].Process
		if ok := len(p.Wrong) == 0; ok != tt.ok || o.Passed != tt.ok {
			t.Errorf("%s: %q, passed %v, want %v", tt.name, p.Wrong, o.Passed, tt.ok)
		}
		if p.InTime != 0 {
			t.Errorf("%s: in time after 3 s", tt.name)
		}
	}
}
