package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/doctor"
)

// examined returns what doctor --json says, and its exit status.
func examined(t *testing.T, args ...string) (r doctor.Report, status int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, environ: []string{"PORTOLAN_CONFIG=" + none, "PORTOLAN_SENSOR=tester"}}
	status = p.run(t.Context(), append([]string{"doctor", "--json"}, args...))
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("doctor %v: %v in %q, %s", args, err, stdout.String(), stderr.String())
	}
	return r, status
}

// TestDoctorNamesMirrors has the doctor name each way in which a mirror fails, with the status of the
// coverage verdict.
func TestDoctorNamesMirrors(t *testing.T) {
	whole := filepath.Join("..", "..", "testdata", "pcap", "benign.pcap")
	for _, m := range mirrors {
		r, status := examined(t, faulty(t, whole, m.make))
		want := map[string]int{"GOOD": exitDone, "PARTIAL": 1, "BLIND": 2}[m.verdict]
		verdict := r.Find("verdict")
		if status != want || verdict == nil || !strings.HasPrefix(verdict.Evidence, m.verdict) {
			t.Errorf("%s: status %d, want %d: %+v", m.name, status, want, verdict)
		}
		if m.rule == "" {
			continue
		}
		if f := r.Find(m.rule); f == nil || f.Status == doctor.OK || f.Evidence == "" || f.Consequence == "" || f.Advice+f.Remedy == "" {
			t.Errorf("%s: %s is not named with what mends it: %+v", m.name, m.rule, f)
		}
	}
	r, status := examined(t, filepath.Join("..", "..", "testdata", "pcap", "tunnel", "vxlan.pcap"))
	if f := r.Find("tunnel.inside"); f == nil || !strings.Contains(f.Evidence, "vxlan") || status != exitDone {
		t.Errorf("in VXLAN: status %d, %+v", status, r.Findings)
	}
}

// TestEveryRuleCanBeMended: the doctor knows what to do about each rule of coverage that limits a verdict.
func TestEveryRuleCanBeMended(t *testing.T) {
	for _, rule := range coverage.Rules() {
		if rule == "tunnel.inside" {
			continue // nothing is wrong with it
		}
		w := doctor.Watched{Device: "eth1", Counts: &coverage.Counts{Frames: 1}, View: &coverage.View{}}
		a := coverage.Assessment{Verdict: coverage.Partial, Findings: []coverage.Finding{{Rule: rule, Severity: coverage.Limits, Evidence: "x", Consequence: "y"}}}
		var r doctor.Report
		r.Add(w.Traffic(&a)...)
		f := r.Find(rule)
		if f == nil || f.Status != doctor.Warn || f.Advice+f.Remedy == "" || strings.Contains(f.Remedy, "DEVICE") {
			t.Errorf("%s: %+v", rule, f)
		}
	}
}
