package correlate

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"portolan/correlate/baseline"
	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// journal runs a world in batches: with so many goroutines at work, and going on from snapshots
// at random places when r is there. It returns the final hits in order, and the counts.
func journal(t *testing.T, cfg Config, world traffic.Config, parts int, r *rand.Rand) ([]Hit, counts) {
	t.Helper()
	model, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Baseline = model
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g, err := traffic.New(world)
	if err != nil {
		t.Fatal(err)
	}
	var hits []Hit
	var b event.Batch
	next, snapshots := world.Start, 0
	give := func(now event.Time) {
		found := make([][]Hit, parts)
		var at sync.WaitGroup
		for i := range parts {
			at.Go(func() { found[i] = c.ObservePart(nil, &b, i, parts) })
		}
		at.Wait()
		b.Reset()
		hits = append(hits, finals(slices.Concat(found...))...)
		if now < next {
			return
		}
		next = now.Add(time.Second)
		hits = append(hits, finals(c.Advance(nil, now))...)
		if r == nil || r.IntN(100) > 0 {
			return
		}
		snapshots++
		var table, ordinary bytes.Buffer
		if err := errors.Join(c.Snapshot(&table), model.Snapshot(&ordinary)); err != nil {
			t.Fatal(err)
		}
		if model, err = baseline.Restore(baseline.DefaultModelConfig(), &ordinary); err != nil {
			t.Fatal(err)
		}
		cfg.Baseline = model
		if c, err = Restore(cfg, &table); err != nil {
			t.Fatal(err)
		}
	}
	last := world.Start
	err = g.Run(context.Background(), func(e traffic.Event) {
		var now event.Time
		if e.Lookup != nil {
			now = e.Lookup.Time
		} else {
			now = e.Connection.Time
		}
		if now >= next || b.Full() {
			give(now)
		}
		last = now
		if e.Lookup != nil {
			b.Lookup(e.Lookup)
		} else {
			b.Connection(e.Connection)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	give(last)
	hits = append(hits, finals(c.Flush(nil))...)
	if r != nil && snapshots < 3 {
		t.Errorf("%d snapshots: too few", snapshots)
	}
	slices.SortFunc(hits, func(a, b Hit) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return hits, counts{c.Stats(), c.Zones()}
}

// counts are all that a correlator counted.
type counts struct {
	Stats
	zones []ZoneStats
}

// Neither how many goroutines share the clients nor how often the work is broken off and taken up from a snapshot
// changes anything: not the hits, not what scrambled answers reach, not with a table too small for all.
func TestPartsAndSnapshots(t *testing.T) {
	world := traffic.DefaultConfig()
	world.Clients, world.Implants, world.Duration = 20, 1, 2*time.Hour
	world.Families = []string{"A1", "A2", "A7", "P1", "P2"}
	for _, memory := range []int64{64 << 20, 1 << 20} {
		cfg := DefaultConfig()
		cfg.Seed, cfg.MemoryBytes = 7, memory
		if memory == 1<<20 {
			cfg.Shards = 4
		}
		hits, stats := journal(t, cfg, world, 1, nil)
		if memory > 1<<20 && len(hits) < 10 {
			t.Fatalf("%d hits: the events test too little", len(hits))
		}
		if evicted := stats.EvictedClients + stats.EvictedAnswers + stats.EvictedLearners; memory == 1<<20 && evicted == 0 {
			t.Errorf("no bound was reached with %d bytes", memory)
		}
		for name, run := range map[string]func() ([]Hit, counts){
			"three goroutines":          func() ([]Hit, counts) { return journal(t, cfg, world, 3, nil) },
			"snapshots":                 func() ([]Hit, counts) { return journal(t, cfg, world, 1, rand.New(rand.NewPCG(1, 1))) },
			"two goroutines, snapshots": func() ([]Hit, counts) { return journal(t, cfg, world, 2, rand.New(rand.NewPCG(2, 2))) },
		} {
			got, gotStats := run()
			if !reflect.DeepEqual(got, hits) {
				t.Errorf("%d bytes, %s: %d hits, or others than the %d of one run", memory, name, len(got), len(hits))
			}
			if !reflect.DeepEqual(gotStats, stats) {
				t.Errorf("%d bytes, %s: counts\n%+v\nnot\n%+v", memory, name, gotStats, stats)
			}
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Seed, cfg.MemoryBytes = 1, 1<<20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	other := cfg
	other.Watch = 100
	for name, try := range map[string]func() error{
		"other settings": func() error { _, err := Restore(other, bytes.NewReader(whole)); return err },
		"cut":            func() error { _, err := Restore(cfg, bytes.NewReader(whole[:len(whole)/2])); return err },
		"empty":          func() error { _, err := Restore(cfg, bytes.NewReader(nil)); return err },
	} {
		if err := try(); !errors.Is(err, ErrSnapshot) {
			t.Errorf("%s: %v, want ErrSnapshot", name, err)
		}
	}
	if _, err := Restore(cfg, bytes.NewReader(whole)); err != nil {
		t.Error(err)
	}
}
