package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// evaluated runs "portolan evaluate" without a configuration file and returns what it prints.
func evaluated(t *testing.T, args ...string) string {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: []string{"PORTOLAN_CONFIG=" + none}}
	if err := evaluateCommand().run(context.Background(), p, args); err != nil {
		t.Fatalf("evaluate %v: %v\n%s", args, err, errs.String())
	}
	return out.String()
}

func evaluatedJSON(t *testing.T, args ...string) (r evaluationReport) {
	t.Helper()
	if err := json.Unmarshal([]byte(evaluated(t, append(args, "--json")...)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// The half swap is known outright and found at the first contact, the mul-add at the second; the
// counts of the report agree with each other.
func TestEvaluateFindsImplants(t *testing.T) {
	r := evaluatedJSON(t, "--clients", "30", "--days", "0.5", "--families", "A1,P1")
	if len(r.Families) != 2 || r.Families[0].ID != "A1" || r.Families[1].ID != "P1" {
		t.Fatalf("families %+v, want A1 and P1", r.Families)
	}
	for _, f := range r.Families {
		if len(f.Implants) != 4 {
			t.Errorf("%s: %d implants, want 4", f.ID, len(f.Implants))
		}
		for _, i := range f.Implants {
			want := map[string]int{"A1": 1, "P1": 2}[f.ID]
			if i.Alert < 1 || i.Alert > want || i.Watch < 1 || i.Watch > i.Alert || i.Contacts < i.Alert || !i.Named || !strings.HasPrefix(i.As, f.ID) {
				t.Errorf("%s, %s: %+v, want an alert of that name by contact %d", f.ID, i.Around, i, want)
			}
			if (f.ID == "P1") != (i.Naive == 1) {
				t.Errorf("%s, %s: the rules without lookups found it at contact %d", f.ID, i.Around, i.Naive)
			}
		}
	}
	if n := len(r.ByLevel); n != 7 || r.ByLevel[0].EValue != 1e3 || r.ByLevel[n-1].EValue != 1e9 {
		t.Fatalf("thresholds %+v, want 1e3 to 1e9", r.ByLevel)
	}
	for i, level := range r.ByLevel {
		if level.FoundFirst > level.FoundThird || level.FoundThird > level.Found {
			t.Errorf("at %g: found %v at first, %v by the third, %v ever", level.EValue, level.FoundFirst, level.FoundThird, level.Found)
		}
		if i > 0 && (level.Found > r.ByLevel[i-1].Found || level.False > r.ByLevel[i-1].False) {
			t.Errorf("at %g more is found than at %g", level.EValue, r.ByLevel[i-1].EValue)
		}
	}
	if r.ByLevel[3].Found != 1 {
		t.Errorf("share found at 1e6 %v, want 1", r.ByLevel[3].Found)
	}
	clean := r.False.Clean
	if r.ByLevel[0].False != clean.Watches+clean.Alerts || r.ByLevel[3].False != clean.Alerts {
		t.Errorf("false hits by threshold %+v and by level %+v disagree", r.ByLevel, clean)
	}
	var sum levelCounts
	for _, s := range r.Sources {
		if !s.Infected {
			sum.Alerts += s.Alerts
			sum.Watches += s.Watches
			sum.Leads += s.Leads
		}
	}
	if sum != clean {
		t.Errorf("by source %+v, by level %+v", sum, clean)
	}
	if w := r.World; w.Connections == 0 || w.Lookups == 0 || w.Infected != 8 || w.Addresses <= w.Infected || w.Days <= .49 || w.Days > .5 {
		t.Errorf("world %+v", w)
	}
	if r.Unlabelled != 0 {
		t.Errorf("%d hits without a label", r.Unlabelled)
	}
}

// The same flags give the same report; another seed gives another one.
func TestEvaluateRepeats(t *testing.T) {
	args := []string{"--clients", "20", "--implants", "1", "--days", "0.1", "--families", "A1,W3"}
	first := evaluated(t, args...)
	if again := evaluated(t, args...); first != again {
		t.Errorf("two runs differ:\n%s\n%s", first, again)
	}
	if other := evaluated(t, append(args, "--seed", "2")...); first == other {
		t.Errorf("seeds 1 and 2 give the same report")
	}
}

func TestEvaluateForPeople(t *testing.T) {
	out := evaluated(t, "--clients", "10", "--implants", "1", "--days", "0.3", "--families", "A9,P1")
	for _, want := range []string{"World: seed 1", "A9 (21)", "permute", "P1 ", "mul-add", "1e+06", "decoys", "Without lookups"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if strings.TrimRight(line, " \n")+"\n" != line {
			t.Errorf("line %q ends in spaces", line)
		}
	}
}

// Implants that came to an alert later than wanted are told contact by contact, and the first one's
// e-value is the arithmetic that stands above the table.
func TestEvaluateTellsWhatIsLate(t *testing.T) {
	args := []string{"--clients", "0", "--days", "0.2", "--families", "A3", "--watch", "10"}
	r := evaluatedJSON(t, args...)
	late, weight := 0, map[string]float64{}
	for _, h := range hypothesis.Catalogue() {
		weight[h.ID] = h.Weight
	}
	for i := range r.Families {
		for _, x := range r.Families[i].Implants {
			if x.Alert > 0 && x.Alert <= wanted(&r.Families[i]) {
				continue
			}
			late++
			for _, c := range x.Trials {
				expected := weight[c.As] * evidence.MeanShare() / (float64(c.Answers) * c.Chance)
				if c.Support == 1 && (c.EValue < .9*expected || c.EValue > 1.2*expected+10) {
					t.Errorf("%s, %s: first match is worth %.3g, the arithmetic says %.3g", c.As, x.Around, c.EValue, expected)
				}
			}
		}
	}
	if text := evaluated(t, args...); late == 0 || !strings.Contains(text, "Alerts later than wanted") {
		t.Errorf("%d late implants, told as\n%s", late, text)
	}
}

// Captures are measured as innocent traffic: of one with an implant both the rules and Portolan say so.
func TestEvaluateCaptures(t *testing.T) {
	pcap := func(name string) string { return filepath.Join("..", "..", "testdata", "pcap", name) }
	measure := func(paths ...string) (r captureReport) {
		if err := json.Unmarshal([]byte(evaluated(t, append([]string{"--json"}, paths...)...)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := measure(pcap("benign.pcap")); r.Files != 1 || r.Connections == 0 || r.Lookups == 0 || r.Found.Alerts+r.Found.Watches > 0 {
		t.Errorf("innocent traffic: %+v", r)
	}
	if r := measure(pcap("benign.pcap"), pcap("mul-add.pcap")); r.Files != 2 || r.Found.Alerts == 0 || r.Naive.Hits == 0 || len(r.Examples) < 2 {
		t.Errorf("with an implant: %+v", r)
	}
	if out := evaluated(t, pcap("mul-add.pcap")); !strings.Contains(out, "ALERT") && !strings.Contains(out, "alert ") {
		t.Errorf("for people:\n%s", out)
	}
}

// The plot is well-formed, and what it draws lies within its frame.
func TestEvaluateSVG(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plot.svg")
	evaluated(t, "--clients", "10", "--implants", "1", "--days", "0.2", "--families", "P1", "--svg", path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := xml.NewDecoder(f)
	seen := map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		seen[e.Name.Local]++
		for _, a := range e.Attr {
			if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
				t.Errorf("%s has %s=%q", e.Name.Local, a.Name.Local, a.Value)
			}
		}
	}
	if seen["svg"] != 1 || seen["polyline"] != 7 {
		t.Errorf("elements %v, want seven curves", seen)
	}
}

func TestEvaluateRefuses(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--clients many", "--clients: \"many\" is not a number from 0 to 1000000"},
		{"--days 0", "--days: \"0\" is not a number of days"},
		{"--families A99", "Families A99: want ids or groups"},
		{"--clients 0 --implants 0", "at least 1, or some Implants"},
		{"--watch 1e9 --alert 1e9", "--watch: 1e+09 leaves fewer than two thresholds"},
		{"no-such-file", "open no-such-file"},
		{"--svg x.svg day.pcap", "--svg: there is a plot of generated traffic only"},
		{"--svg /nowhere/plot.svg", "write plot: open /nowhere/plot.svg"},
	} {
		p := &program{stdout: io.Discard, stderr: io.Discard}
		err := evaluateCommand().run(context.Background(), p, strings.Fields(tt.args))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("evaluate %s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

// Every family is listed under a name that the catalogue has, so that "named" can be true; what it does
// not have yet is said here.
func TestFamiliesAreInTheCatalogue(t *testing.T) {
	for _, f := range traffic.Families() {
		found := false
		for _, h := range hypothesis.Catalogue() {
			found = found || listedAs(h.ID, &f)
		}
		if !found {
			t.Errorf("family %s: not in the catalogue as %q", f.ID, f.Catalogue)
		}
	}
}

func TestNaiveRules(t *testing.T) {
	for dst, want := range map[string]bool{
		"198.51.100.23:10198":  true,  // 198·51+100
		"198.51.100.23:29898":  true,  // 198·(51+100)
		"198.51.100.23:10199":  false, // one off
		"250.250.250.1:62750":  true,  // 250·250+250
		"250.250.250.1:59464":  true,  // 250·500 mod 65536
		"[2001:db8::1]:10198":  false,
		"203.0.113.5:113":      true, // 203·0+113
		"198.51.100.200:10198": true, // the last octet does not count
	} {
		if got := naive(&event.Connection{Dst: netip.MustParseAddrPort(dst)}); got != want {
			t.Errorf("naive(%s) = %v, want %v", dst, got, want)
		}
	}
}
