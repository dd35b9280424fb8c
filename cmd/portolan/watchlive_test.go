package main

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/lab"
	"portolan/correlate"
)

// finalAlerts hears one sensor: the client of each hit whose last word is an alert, by id.
type finalAlerts struct {
	mu   sync.Mutex
	hits map[string]string
}

func (f *finalAlerts) take(m *bus.Message, _ bus.Meta) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &m.Portolan
	delete(f.hits, p.HitID)
	if p.State == correlate.Final.String() && p.Level == "alert" {
		f.hits[p.HitID] = m.Source.IP.String()
	}
}

func (f *finalAlerts) all() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.hits)
}

// TestObservationsLive: on a mirror of a true network, portolan correlate finds by the observations that
// portolan run publishes the alerts that portolan run finds by itself, each implant's among them.
func TestObservationsLive(t *testing.T) {
	if err := lab.Check(); err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	s := startResumeServer(t)
	c := lab.DefaultConfig()
	c.Duration = 4 * time.Second
	network, err := lab.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()

	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := func(args ...string) (out *output) {
		out = new(output)
		p := testProgram(t, out, out)
		running.Go(func() {
			if status := p.run(ctx, append(args, "--nats", s.url, "--partitions", "4")); status != exitDone {
				t.Errorf("%s ended with status %d:\n%s", args[0], status, out)
			}
		})
		return out
	}
	sensed := start("run", "-i", network.MirrorDevice(), "--quiet", "--sensor", "tap", "--state-dir", t.TempDir()+"/state",
		"--observations")
	sensed.await(t, "msg=capturing")
	worked := start("correlate", "--name", "work-1")
	for end := time.Now().Add(patience); strings.Count(worked.String(), "partition taken") < 4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the worker has not all partitions:\n%s", worked)
		}
	}
	// Both find the same hits, and the stream keeps one of two messages with the same ID: they
	// have to be heard as they pass.
	b := openTestReader(t, s.url)
	hear := func(sensor string) *finalAlerts {
		f := &finalAlerts{hits: map[string]string{}}
		ready := make(chan struct{})
		running.Go(func() {
			filter := bus.Filter{Sensor: sensor, Core: true, Ready: func() { close(ready) }}
			if err := b.Subscribe(ctx, filter, f.take); err != nil {
				t.Error(err)
			}
		})
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatalf("not subscribed to %s", sensor)
		}
		return f
	}
	tap, worker := hear("tap"), hear("work-1")
	if err := network.Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	// The worker knows packet time by what the sensor says of it, also when nothing is on the wire.
	implants := map[string]bool{}
	for _, x := range network.Truth() {
		if x.Level == "alert" {
			implants[x.Source.Addr().String()] = true
		}
	}
	if len(implants) == 0 {
		t.Fatal("no contact warrants an alert")
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		alone, fleet := tap.all(), worker.all()
		complete := maps.Equal(alone, fleet)
		for client := range implants {
			complete = complete && slices.Contains(slices.Collect(maps.Values(fleet)), client)
		}
		if complete {
			t.Logf("%d alerts, of %d implants", len(fleet), len(implants))
			return
		}
		if time.Now().After(end) {
			t.Fatalf("implants %v\nalone: %v\nfleet: %v\nsensor:\n%s\nworker:\n%s", implants, alone, fleet, sensed, worked)
		}
	}
}

func openTestReader(t *testing.T, url string) *bus.Bus {
	t.Helper()
	c := bus.DefaultConfig()
	c.Name, c.URL, c.Reader = "tester", url, true
	b, err := bus.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
