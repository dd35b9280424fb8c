//go:build cgo

package main

import (
	"context"
	"io"
	"log/slog"
	"math"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// gate is a sink that stands still while it is shut.
type gate struct {
	to  event.BatchSink
	way sync.Mutex // held while it is shut
}

func (g *gate) Batch(b *event.Batch) {
	g.way.Lock()
	defer g.way.Unlock()
	g.to.Batch(b)
}

// TestLossIsReported has the reader of a small ring stand still while frames come, three times. How many are missing
// is known, as every frame makes a connection; what hits and coverage say of it is true within 1 %.
func TestLossIsReported(t *testing.T) {
	needWire(t)
	wire, err := lab.NewWire(lab.MixSYN, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS = "tester", t.TempDir(), config.NATS{Listen: "127.0.0.1:0"}
	b, err := openBus(t.Context(), &cfg, slog.New(slog.DiscardHandler), true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := cfg.Capture
	c.Device, c.Rings, c.BlockSize, c.Blocks = lab.WireDevice, 1, 64<<10, 4
	var s *sensor.Sensor
	if err := wire.Do(func() (err error) { s, err = sensor.Open(c); return err }); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	line, err := newPipeline(&cfg, lab.WireDevice, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{to: line.newSink(0)}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := wire.Do(func() error { return s.Run(ctx, func(int) event.BatchSink { return g }) }); err != nil {
			t.Error(err)
		}
	})

	offered := uint64(0)
	send := func(n uint64) {
		t.Helper()
		if err := wire.Send(20_000); err != nil {
			t.Fatal(err)
		}
		soon(t, "frames to be sent", func() bool {
			n2, err := wire.Counts()
			if err != nil {
				t.Fatal(err)
			}
			return n2.Offered.Frames >= n
		})
		if err := wire.Stop(); err != nil {
			t.Fatal(err)
		}
		counted, err := wire.Counts()
		if err != nil {
			t.Fatal(err)
		}
		if counted.Arrived != counted.Offered.Frames {
			t.Fatalf("%+v: lost on the wire", counted)
		}
		offered += counted.Offered.Frames
	}
	for range 3 {
		send(2000)
		g.way.Lock()
		send(6000) // five times what the ring holds
		g.way.Unlock()
	}
	watch := newMonitor(line, []*sensor.Sensor{s}, io.Discard, slog.New(slog.DiscardHandler))
	soon(t, "all frames to be accounted for", func() bool {
		n := s.Stats()
		return n.Frames+n.Rings[0].Dropped == offered && line.correlator.Stats().Connections == n.Frames
	})
	watch.look()
	missing := float64(offered - line.correlator.Stats().Connections)
	said, _ := line.judged(&correlate.Hit{})
	if reported := float64(said.Loss.NIC + said.Loss.Ring); missing < 3000 || math.Abs(reported-missing) > missing/100 {
		t.Errorf("%.0f of %d frames are missing, and hits say %.0f", missing, offered, reported)
	}
	s1 := watch.snapshot()
	record := watch.makeRecord(time.Now(), &s1)
	if record.Loss.Ring != said.Loss.Ring || record.Loss.NIC != 0 {
		t.Errorf("the record says %+v, hits say %+v", record.Loss, said.Loss)
	}
	if said.Verdict != bus.Blind || said.Rule != "loss.ring" || record.Rule != "loss.ring" {
		t.Errorf("verdict %s by %q, %v; of the record by %q", said.Verdict, said.Rule, said.Why, record.Rule)
	}
}

// soon waits for a condition.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}
