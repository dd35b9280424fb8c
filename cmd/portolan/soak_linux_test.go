//go:build cgo

package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
	"portolan/sensor"
)

// leastSoak is how long it takes at least until every table is full.
const leastSoak = 150 * time.Second

// soakTime returns for how long to soak: PORTOLAN_SOAK_TIME, 20 minutes by default. Without PORTOLAN_SOAK=1
// the test is a short one of the same steps, to see that they work.
func soakTime(t *testing.T) (d time.Duration, long bool) {
	if os.Getenv("PORTOLAN_SOAK") != "1" {
		return 0, false
	}
	d = 20 * time.Minute
	if text := os.Getenv("PORTOLAN_SOAK_TIME"); text != "" {
		var err error
		if d, err = time.ParseDuration(text); err != nil || d < leastSoak {
			t.Fatalf("PORTOLAN_SOAK_TIME=%s: want a time from %v up", text, leastSoak)
		}
	}
	return d, true
}

// footprint is what a process holds.
type footprint struct {
	rss, heap   int64 // bytes
	descriptors int
	goroutines  int
}

func (f footprint) String() string {
	return fmt.Sprintf("%d MiB resident, %d MiB on the heap, %d descriptors, %d goroutines", f.rss>>20, f.heap>>20, f.descriptors, f.goroutines)
}

func takeFootprint(t *testing.T) (f footprint) {
	t.Helper()
	debug.FreeOSMemory() // or what was freed a moment ago would count
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	text, err := os.ReadFile("/proc/self/statm") // proc(5): size, resident, and so on, in pages
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	if _, err := fmt.Fscan(bytes.NewReader(text), &size, &f.rss); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	f.rss *= int64(os.Getpagesize())
	f.heap, f.descriptors, f.goroutines = int64(m.HeapAlloc), len(open), runtime.NumGoroutine()
	return f
}

// TestSoak runs the sensor at 300,000 frames a second from clients that come and go, while the link goes down
// and up, and the interface away and back. It finds what there is to find after each of these, and
// holds no more memory and no more descriptors in the end than it did at a third.
func TestSoak(t *testing.T) {
	needWire(t)
	length, long := soakTime(t)
	rate := 300_000.0
	if !long {
		rate = 3000
	}
	wire, err := lab.NewWire(lab.MixBulk, []int{runtime.NumCPU() - 1})
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()

	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS = "soak", t.TempDir(), config.NATS{Listen: "127.0.0.1:0"}
	cfg.Correlate.MemoryBytes = 32 << 20 // full after a while, as on a large network
	b, err := openBus(t.Context(), &cfg, slog.New(slog.DiscardHandler), true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := cfg.Capture
	c.Device, c.Rings = lab.WireDevice, 1
	var s *sensor.Sensor
	if err := wire.Do(func() (err error) { s, err = sensor.Open(c); return err }); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var hits atomic.Int64
	line, err := newPipeline(&cfg, lab.WireDevice, b, func(m *bus.Message) {
		if m.Portolan.Revision == 1 {
			hits.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running, publishing sync.WaitGroup
	defer publishing.Wait()
	defer close(line.queue)
	defer running.Wait()
	defer cancel()
	publishing.Go(line.publish)
	running.Go(func() { line.tick(ctx.Done(), func() {}) })
	running.Go(func() { // as pipeline.run does, but on a thread in the wire's namespace, where the interface comes back
		if err := wire.Do(func() error { return s.Run(ctx, line.newSink) }); err != nil {
			t.Error(err)
		}
	})

	x := &soak{t: t, wire: wire, line: line, rate: rate, hits: &hits}
	x.send()
	x.finds("when it starts")
	began := time.Now()
	var prints []footprint
	for round := 0; ; round++ {
		x.cycle(round)
		prints = append(prints, takeFootprint(t))
		t.Logf("%6s round %d: %v; %d hits", time.Since(began).Round(time.Second), round, prints[round], hits.Load())
		if round >= 2 && time.Since(began) >= length {
			break
		}
	}
	n := s.Stats()
	if r := n.Rings[0]; r.LinkDowns < uint64(len(prints)) || r.Reopens < uint64(len(prints)) {
		t.Errorf("%d times down and %d times opened again in %d rounds, want as many of each", r.LinkDowns, r.Reopens, len(prints))
	}
	t.Logf("%d frames taken, %d lost in the ring, longest gap %v; %+v", n.Frames, n.Rings[0].Dropped, n.Rings[0].LongestGap, b.PublishStats())
	if long {
		checkFlat(t, prints)
	}
}

// checkFlat compares the last third with the second.
func checkFlat(t *testing.T, prints []footprint) {
	t.Helper()
	third := len(prints) / 3
	if third == 0 {
		t.Fatalf("%d rounds are too few to compare", len(prints))
	}
	middle := func(of []footprint, what func(footprint) int64) int64 {
		var all []int64
		for _, f := range of {
			all = append(all, what(f))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	for _, m := range []struct {
		name    string
		what    func(footprint) int64
		allowed func(before int64) int64
	}{
		{"bytes resident", func(f footprint) int64 { return f.rss }, func(n int64) int64 { return n/20 + 8<<20 }},
		{"bytes on the heap", func(f footprint) int64 { return f.heap }, func(n int64) int64 { return n/20 + 4<<20 }},
		{"descriptors", func(f footprint) int64 { return int64(f.descriptors) }, func(int64) int64 { return 2 }},
		{"goroutines", func(f footprint) int64 { return int64(f.goroutines) }, func(int64) int64 { return 3 }},
	} {
		before, after := middle(prints[third:2*third], m.what), middle(prints[2*third:], m.what)
		if after-before > m.allowed(before) {
			t.Errorf("%s grew from %d to %d", m.name, before, after)
		}
	}
}

// soak is what happens to the sensor.
type soak struct {
	t     *testing.T
	wire  *lab.Wire
	line  *pipeline
	rate  float64
	hits  *atomic.Int64
	pairs uint32
}

func (x *soak) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// send lets the senders go on.
func (x *soak) send() { x.t.Helper(); x.must(x.wire.Send(x.rate)) }

// cycle has new clients come, the link go down and up, and the interface go away and come back.
func (x *soak) cycle(round int) {
	x.t.Helper()
	x.must(x.wire.SetClients(round))
	time.Sleep(2 * time.Second)
	x.finds("in the middle")
	x.must(x.wire.SetUp(false))
	time.Sleep(500 * time.Millisecond)
	x.must(x.wire.SetUp(true))
	x.finds("after the link went down and up")
	time.Sleep(2 * time.Second)
	x.must(x.wire.Replace())
	x.send()
	x.finds("after the interface went and came back")
}

// finds sends what makes a hit until there is one more.
func (x *soak) finds(when string) {
	x.t.Helper()
	socket := -1
	x.must(x.wire.Do(func() (err error) {
		near, err := netlink.LinkByName(lab.NearDevice)
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: near.Attrs().Index})
	}))
	defer unix.Close(socket)
	time.Sleep(100 * time.Millisecond) // what was on its way is through
	was := x.hits.Load()
	for end := time.Now().Add(patience); x.hits.Load() == was; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("nothing was found %s; correlator %+v", when, x.line.correlator.Stats())
		}
		x.pairs++
		sendPair(x.t, socket, addrOf(0x0A010000+x.pairs), x.pairs)
	}
}
