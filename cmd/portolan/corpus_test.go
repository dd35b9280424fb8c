package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
)

// corpus returns the captures of public projects that lie beside the repository.
func corpus(t *testing.T) []string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "captures")
	index, err := os.ReadFile(filepath.Join(dir, "INDEX.tsv"))
	if err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var paths []string
	for line := range strings.Lines(string(index)) {
		name, _, _ := strings.Cut(line, "\t")
		if path := filepath.Join(dir, name); strings.Contains(name, ".") {
			if _, err := os.Stat(path); err == nil {
				paths = append(paths, path)
			}
		}
	}
	const least = 100 // of 165, in case the index changes
	if len(paths) < least {
		t.Fatalf("%d captures found in %s", len(paths), dir)
	}
	return paths
}

// TestNoAlertOnRealTraffic: none of the corpus holds a calculation, so nothing may claim one.
// Leads claim none; those that come are remote-access tools on ports of their own.
func TestNoAlertOnRealTraffic(t *testing.T) {
	for _, path := range corpus(t) {
		var stdout, stderr bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
		if status := p.run(t.Context(), []string{"replay", "--json", path}); status == exitUsage {
			t.Errorf("%s: status %d\n%s", path, status, &stderr)
		}
		for line := range strings.Lines(stdout.String()) {
			m, err := bus.Decode([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			if m.Portolan.Level != correlate.Lead.String() {
				t.Errorf("%s: hit on innocent traffic: %s", path, m.Message)
			} else {
				t.Logf("%s: lead: %s", filepath.Base(path), m.Message)
			}
		}
	}
}

// TestEvaluateRealTraffic: beside the rules that need neither lookups nor a baseline, and the decoys.
func TestEvaluateRealTraffic(t *testing.T) {
	var stdout, stderr bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	if status := p.run(t.Context(), append([]string{"evaluate", "--json"}, corpus(t)...)); status == exitUsage {
		t.Fatalf("status %d\n%s", status, &stderr)
	}
	var r captureReport
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Found.Alerts+r.Found.Watches > 0 || r.Files < 100 || r.Connections < 4000 {
		t.Errorf("%+v", r)
	}
	t.Logf("%d captures, %d connections: %+v, decoys %+v; rules without lookups and baseline %+v", r.Files, r.Connections, r.Found, r.Decoys, r.Naive)
}

// TestEventsSurviveRealTraffic: every capture of the corpus is read to its end, whatever
// it holds, and its frames are accounted for.
func TestEventsSurviveRealTraffic(t *testing.T) {
	paths := corpus(t)
	files := 0
	for line := range strings.Lines(outputOf(t, append([]string{"events"}, paths...)...)) {
		if !strings.HasPrefix(line, `{"k":"file"`) {
			continue
		}
		files++
		var r struct {
			File    string
			Frames  int
			Reasons map[string]int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		sum := 0
		for _, n := range r.Reasons {
			sum += n
		}
		if sum != r.Frames {
			t.Errorf("%s: reasons add up to %d of %d frames", r.File, sum, r.Frames)
		}
	}
	if files != len(paths) {
		t.Errorf("%d captures summed up, want %d", files, len(paths))
	}
}
