//go:build cgo

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/natstest"
	"portolan/sensor"
)

// TestSpoolLossIsReported has a sensor whose spool is as small as it may be find more hits than fit while the server is
// away. How many were made is known, and how many arrive is counted in the stream; what the coverage record and a later
// hit say was lost between is true within 1 %, and said of the spool alone.
func TestSpoolLossIsReported(t *testing.T) {
	const pairs = 200 // of which the spool holds half, about
	srv := natstest.Start(t, "hub", "")
	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS.URL, cfg.Spool = "tester", t.TempDir(), srv.URL, 1<<20
	b, err := openBus(t.Context(), &cfg, slog.New(slog.DiscardHandler), true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// From here on this goroutine is in a namespace of its own; the server and the bus are not.
	socket := newPair(t)
	c := sensor.DefaultConfig()
	c.Device, c.Rings = "mirror", 1
	s, err := sensor.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &stretch{t: t, socket: socket, s: s}
	if w.line, err = newPipeline(&cfg, "mirror", b, func(*bus.Message) { w.hits.Add(1) }); err != nil {
		t.Fatal(err)
	}
	watch := newMonitor(w.line, []*sensor.Sensor{s}, io.Discard, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.line.run(ctx, []*sensor.Sensor{s}, watch.look); err != nil {
			t.Error(err)
		}
	})
	w.comeUp()
	stored := func() (n int, newest *bus.Message) {
		t.Helper()
		err := b.Hits(t.Context(), time.Time{}, bus.Filter{}, func(m *bus.Message) { n, newest = n+1, m })
		if err != nil {
			t.Fatal(err)
		}
		return n, newest
	}
	arrived := func(made uint64) {
		t.Helper()
		w.await("the server to have what the spool kept", func() bool {
			p := b.PublishStats()
			return w.hits.Load() >= made && p.Pending == 0 && p.Stored > 0
		})
	}
	arrived(1)
	before, _ := stored()

	srv.Kill()
	made := w.hits.Load()
	for range pairs {
		w.pair()
		time.Sleep(time.Millisecond)
	}
	w.await("hits", func() bool { return w.hits.Load() >= made+pairs })
	back := make(chan struct{})
	go func() { // in the namespace of the others
		defer close(back)
		srv.Start()
	}()
	<-back
	arrived(made + pairs)
	after, _ := stored()
	if n := w.hits.Load() - made; n != pairs {
		t.Fatalf("%d hits made of %d pairs", n, pairs)
	}
	lost := float64(pairs - (after - before))
	if lost < pairs/4 || lost > 3*pairs/4 {
		t.Fatalf("%.0f of %d hits lost: the test wants some to arrive, and others not", lost, pairs)
	}
	near := func(n uint64) bool { return math.Abs(float64(n)-lost) <= lost/100 }
	w.await("the loss to be seen", func() bool { return w.line.context.Load().counts.Loss.Spool >= uint64(lost*99/100) })

	made = w.hits.Load()
	w.pair()
	arrived(made + 1)
	_, later := stored()
	said := &later.Portolan.Coverage
	if !near(said.Loss.Spool) || said.Loss.Queue+said.Loss.Ring+said.Loss.NIC+said.Loss.Decoder != 0 {
		t.Errorf("%.0f messages lost, and a later hit says %+v", lost, said.Loss)
	}
	// The link came up while it was watched, which is said first.
	why := fmt.Sprintf("loss.messages: %.0[1]f messages lost before NATS, 0 in the queue and %.0[1]f in the spool", lost)
	t.Logf("%d messages made while the server was away, %.0f lost: the later hit says %d", pairs, lost, said.Loss.Spool)
	if said.Verdict != bus.Partial || !slices.Contains(said.Why, why) {
		t.Errorf("verdict %s because of %q, want %q", said.Verdict, said.Why, why)
	}

	cancel()
	running.Wait()
	flush := func() {
		t.Helper()
		ctx, enough := context.WithTimeout(context.Background(), patience)
		defer enough()
		if err := b.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	record := func() {
		last := watch.snapshot()
		watch.publishRecord(time.Now(), &last)
		flush()
	}
	record() // what was settled at the end may have filled the spool again, and leave no room for it
	record()
	total, _ := stored()
	lost = float64(w.hits.Load()) - float64(total)
	var loss bus.Loss
	named := false
	err = b.Records(t.Context(), time.Time{}, cfg.Sensor, func(r *bus.CoverageRecord) {
		loss.Spool, loss.Queue = loss.Spool+r.Loss.Spool, loss.Queue+r.Loss.Queue
		named = named || slices.ContainsFunc(r.Findings, func(f coverage.Finding) bool { return f.Rule == "loss.messages" })
	})
	if err != nil {
		t.Fatal(err)
	}
	if !near(loss.Spool) || loss.Queue != 0 || !named {
		t.Errorf("%.0f messages lost, and records say %+v, and name the rule: %t", lost, loss, named)
	}
	t.Logf("%d messages made, %.0f lost: the records say %d", w.hits.Load(), lost, loss.Spool)
}
