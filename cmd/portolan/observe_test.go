package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/fleet"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// TestObservations: what a pipeline publishes gives a worker the hits that the pipeline itself finds.
func TestObservations(t *testing.T) {
	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS.Listen = "north", filepath.Join(t.TempDir(), "state"), ""
	cfg.Observations.Publish, cfg.Observations.Partitions, cfg.Observations.FleetZone = true, 4, 7
	b, err := openBus(t.Context(), &cfg, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	line, err := newPipeline(&cfg, "test0", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if line.observations, err = openObservations(&cfg, b, nil); err != nil {
		t.Fatal(err)
	}
	// A capture comes faster than a wire: packet time is told as the rings would.
	sink := single{to: line.newSink(0)}
	f, err := os.Open(filepath.Join("..", "..", "testdata", "pcap", "half-swap.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	paced := &pacedSink{to: &sink, step: func(now event.Time) {
		line.observations.Reached(now)
		if err := line.observations.Drain(ctx); err != nil {
			t.Fatal(err)
		}
	}}
	if _, err := sensor.Replay(ctx, f, sensor.DefaultReplayConfig(), paced); err != nil {
		t.Fatal(err)
	}
	if err := line.closeObservations(); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	line.correlator.Flush(nil)
	close(line.queue)
	for h := range line.queue {
		want[h.ID.String()] = true
	}
	if len(want) == 0 {
		t.Fatal("the pipeline finds no hit")
	}

	w := fleet.DefaultWorkerConfig()
	w.Name, w.Partitions = "work-1", 4
	worker, err := fleet.NewWorker(b, w)
	if err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		if err := worker.Run(working); err != nil {
			t.Error(err)
		}
	})
	defer done.Wait()
	defer stop()
	var mu sync.Mutex
	got := map[string]bool{}
	done.Go(func() {
		err := b.Subscribe(working, bus.Filter{All: true, Sensor: "work-1"}, func(m *bus.Message, _ bus.Meta) {
			mu.Lock()
			defer mu.Unlock()
			if m.Portolan.State == correlate.Final.String() {
				got[m.Portolan.HitID] = true
			}
			if m.Portolan.Zone.Point != 7 {
				t.Errorf("hit %s in zone %s, want that of the fleet, 7", m.Portolan.HitID, m.Portolan.Zone.Text)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	for {
		mu.Lock()
		ids := slices.Sorted(maps.Keys(got))
		mu.Unlock()
		if slices.Equal(ids, slices.Sorted(maps.Keys(want))) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the worker found %v, want %v", ids, slices.Sorted(maps.Keys(want)))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// single hands each event on in a batch of its own.
type single struct {
	to    event.BatchSink
	batch event.Batch
}

func (s *single) Lookup(l *event.Lookup)         { s.batch.Lookup(l); s.flush() }
func (s *single) Connection(c *event.Connection) { s.batch.Connection(c); s.flush() }

func (s *single) flush() {
	s.to.Batch(&s.batch)
	s.batch.Reset()
}

// pacedSink calls step after each tenth of a second of packet time.
type pacedSink struct {
	to   event.Sink
	step func(event.Time)
	last event.Time
}

func (p *pacedSink) passed(t event.Time) {
	if t >= p.last+event.Time(100*time.Millisecond) {
		p.last = t
		p.step(t)
	}
}

func (p *pacedSink) Lookup(l *event.Lookup) {
	p.to.Lookup(l)
	p.passed(l.Time)
}

func (p *pacedSink) Connection(c *event.Connection) {
	p.to.Connection(c)
	p.passed(c.Time)
}
