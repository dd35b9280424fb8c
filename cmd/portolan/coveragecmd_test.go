package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/audit"
	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
)

// TestCoverageCommand stores records and a hit, and has the command report of them in its three forms.
func TestCoverageCommand(t *testing.T) {
	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS = "hq-1", t.TempDir(), config.NATS{Listen: "127.0.0.1:0"}
	b, err := openBus(t.Context(), &cfg, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	now := time.Now()
	for i := range 5 {
		verdict := bus.Good
		if i == 2 {
			verdict = bus.Partial
		}
		record := &bus.CoverageRecord{
			Schema: bus.CoverSchema, Time: now.Add(time.Duration(i-4) * time.Minute), Sensor: "hq-1", Interval: 60, Verdict: verdict, Frames: 100,
			Reasons: map[string]uint64{}, Hits: map[string]uint64{},
		}
		if err := b.PublishCoverage(record); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, "the records to be stored", func() bool {
		s, err := b.Stored(t.Context(), bus.OpsStream)
		return err == nil && s.Messages == 5
	})
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(status int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: []string{"PORTOLAN_CONFIG=" + none}}
		if got := p.run(t.Context(), append([]string{"coverage", "--nats", b.URL()}, args...)); got != status {
			t.Fatalf("coverage %q: status %d, want %d: %s", args, got, status, errs.String())
		}
		return out.String(), errs.String()
	}
	page := filepath.Join(t.TempDir(), "audit.html")
	text, _ := run(exitDone, "--since", "5m", "--html", page)
	for _, want := range []string{"PARTIAL", "Sensor hq-1", "good 80 %, partial 20 %", "PORTOLAN_OPS"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	html, err := os.ReadFile(page)
	if err != nil || !bytes.HasPrefix(html, []byte("<!DOCTYPE html>")) || !bytes.Contains(html, []byte("Sensor hq-1")) {
		t.Errorf("the page: %v", err)
	}
	out, _ := run(exitDone, "--since", now.Add(-3*time.Hour).UTC().Format(time.RFC3339), "--json", "--from", "hq-1")
	var r audit.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Sensors) != 1 || r.Sensors[0].Totals.Frames != 500 || len(r.Sensors[0].Gaps) != 1 || len(r.Retention) != 2 {
		t.Errorf("as JSON: %v, %+v", err, r)
	}
	for what, args := range map[string][]string{
		"not a time": {"--since", "yesterday"}, "not before": {"--since", "1h", "--until", "2h"}, "a sensor": {"--from", "a b"},
	} {
		if _, errs := run(exitUsage, args...); !strings.HasPrefix(errs, "portolan: coverage: ") || strings.Count(strings.TrimSpace(errs), "\n") > 1 {
			t.Errorf("%s: %q", what, errs)
		}
	}
	if _, errs := run(exitFailed, "--html", filepath.Join(t.TempDir(), "no", "audit.html")); !strings.Contains(errs, "audit.html") {
		t.Errorf("a page that cannot be written: %q", errs)
	}
}
