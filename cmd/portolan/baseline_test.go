package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/state"
	"portolan/correlate/baseline"
	"portolan/sensor/event"
)

// stateOf writes the state of a sensor in whose zone clients used a port until then.
func stateOf(t *testing.T, name string, until event.Time, zone event.Zone, port uint16, clients uint64) string {
	t.Helper()
	m, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		t.Fatal(err)
	}
	for n := range clients {
		m.Port(zone, until.Add(-5*time.Minute), port, (n+uint64(port)<<20)*0x9E3779B97F4A7C15)
		m.Destination(zone, until.Add(-5*time.Minute), 0x5DB8D822, (n+uint64(port)<<20)*0x9E3779B97F4A7C15)
	}
	m.Rotate(until)
	path := filepath.Join(t.TempDir(), name)
	if err := state.Write(path, m.Export()); err != nil {
		t.Fatal(err)
	}
	return path
}

// baselineRun runs the command and returns status, stdout and stderr.
func baselineRun(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
	status := p.run(t.Context(), append([]string{"baseline"}, args...))
	return status, out.String(), errs.String()
}

// What two sensors learned is ordinary to the third, the older state faded; a sensor whose clock runs ahead
// does not make its counts stand for ever.
func TestBaselineMerge(t *testing.T) {
	now := event.TimeOf(time.Now())
	zone := event.Zone{Kind: event.VLAN, ID: 7}
	hq := stateOf(t, "hq.state", now, zone, 27015, 40)
	branch := stateOf(t, "branch.state", now.Add(-24*time.Hour), zone, 32400+1, 40)
	ahead := stateOf(t, "ahead.state", now.Add(1000*24*time.Hour), event.Zone{}, 4242, 40)
	out := filepath.Join(t.TempDir(), "all.state")
	status, _, errs := baselineRun(t, "merge", hq, branch, ahead, "--out", out)
	if status != exitDone || !strings.Contains(errs, "ahead.state is from the future, by 2") {
		t.Fatalf("status %d: %s", status, errs)
	}
	_, text, _ := baselineRun(t, "show", out, "--json")
	var r baselineReport
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	share := map[string]float64{}
	for _, z := range r.Zones {
		for _, k := range z.Ordinary {
			share[z.Zone+" "+k.Kind+" "+k.Key] = k.Share
		}
	}
	at := func(zone, key string) float64 { return share[zone+" "+key] }
	v := zone.String()
	switch {
	case at(v, "port 27015") < .3 || at(v, "port 27015") < 1.8*at(v, "port 32401") || at(v, "port 32401") < .1:
		t.Errorf("a day old counts half: %v", share)
	case at(v, "destination 93.184.216.34") < .5:
		t.Errorf("the destination of both: %v", share)
	case at(event.Zone{}.String(), "port 4242") < .3:
		t.Errorf("the state from the future: %v", share)
	case r.Time.After(time.Now()):
		t.Errorf("merged up to %v", r.Time)
	}
	if _, text, _ := baselineRun(t, "show", out); !strings.Contains(text, "27015") || !strings.Contains(text, "Zone "+v) {
		t.Errorf("for people:\n%s", text)
	}
}

func TestBaselineUsage(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "say show or merge"},
		{"merge a", "name the states to merge, and --out"},
		{"show a b", "takes one file"},
		{"show /nowhere/baseline.state", "open /nowhere/baseline.state"},
		{"merge ../../go.mod --out x", "is damaged"},
	} {
		if status, _, errs := baselineRun(t, strings.Fields(tt.args)...); status == exitDone || !strings.Contains(errs, tt.want) {
			t.Errorf("baseline %s: status %d, %q; want %q", tt.args, status, errs, tt.want)
		}
	}
}
