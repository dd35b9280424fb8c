package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/correlate"
	"portolan/sensor/event"
)

func testPipeline(t *testing.T) *pipeline {
	t.Helper()
	cfg := config.Default()
	cfg.Correlate.MemoryBytes = 16 << 20
	l, err := newPipeline(&cfg, "test0", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A ring that is behind holds packet time back; one that is quiet does not.
func TestPacketTimeWaitsForBusyRings(t *testing.T) {
	l := testPipeline(t)
	quick, slow := &single{to: l.newSink(0)}, &single{to: l.newSink(1)}
	const now = event.Time(1_000_000e9)
	if got, want := l.reached(now), now.Add(-idleLag); got != want {
		t.Errorf("without traffic time reaches %d, want %d", got, want)
	}
	quick.Connection(&event.Connection{Time: now - 1e6})
	slow.Connection(&event.Connection{Time: now - 5e9})
	if got, want := l.reached(now), now-5e9; got != want {
		t.Errorf("time reaches %d, want %d, where the slow ring is", got, want)
	}
	quick.Connection(&event.Connection{Time: now})
	if got, want := l.reached(now), now.Add(-idleLag); got != want {
		t.Errorf("time reaches %d, want %d: the other ring is quiet now", got, want)
	}
	var sum coverage.View
	for _, x := range l.tallies() {
		v := x.View()
		sum.Add(&v)
	}
	if len(sum.Zones) != 1 || sum.Zones[0].SYN != 3 {
		t.Errorf("zones %+v, want one with three connections", sum.Zones)
	}
}

// A queue that is full loses hits, and counts them; it never waits.
func TestFullQueueLosesAndCounts(t *testing.T) {
	l := testPipeline(t)
	l.give(make([]correlate.Hit, queueHits+3))
	if len(l.queue) != queueHits || l.lost.Load() != 3 {
		t.Errorf("%d queued and %d lost, want %d and 3", len(l.queue), l.lost.Load(), queueHits)
	}
}

// A lookup that dnstap told and a connection that the mirror showed make one alert, also where the mirror shows no DNS;
// it says what dnstap leaves out.
func TestHitOfTwoSources(t *testing.T) {
	l := testPipeline(t)
	l.told = []string{"another clock"}
	tap, ring := &single{to: &tapSink{line: l}}, &single{to: l.newSink(0)}
	client, now := netip.MustParseAddr("10.0.0.7"), event.TimeOf(time.Now())
	tap.Lookup(&event.Lookup{
		Time: now, Client: netip.AddrPortFrom(client, 0), Resolver: netip.MustParseAddrPort("10.0.0.53:53"), Type: event.A, Name: []byte("a.example"),
		Records: []event.Record{{Type: event.A, Owner: []byte("a.example"), TTL: 60, Addr: netip.MustParseAddr("87.243.45.156")}},
	})
	ring.Connection(&event.Connection{
		Time: now + 1e6, Proto: event.TCP, Src: netip.AddrPortFrom(client, 40000), Dst: netip.MustParseAddrPort("45.156.87.243:5123"),
	})
	if len(l.queue) != 1 {
		t.Fatalf("%d hits, want one", len(l.queue))
	}
	h := <-l.queue
	counts := coverage.Counts{Frames: 1000, Lookups: 100, Connections: 500, Settled: 500, Explained: 400}
	counts.Decoder.Connections, counts.Decoder.SYN, counts.Decoder.SYNACK = 500, 500, 500
	l.context.Store(&seen{at: time.Now(), counts: counts})
	c, publish := l.judged(&h)
	if !publish || h.Level != correlate.Alert || c.Downgraded != nil || c.Verdict != bus.Good || !slices.Contains(c.Notes, "records.beside: another clock") {
		t.Errorf("published %v as %v, downgraded %v, coverage %s %q %q", publish, h.Level, c.Downgraded, c.Verdict, c.Why, c.Notes)
	}
	l.told = nil
	if c, _ = l.judged(&h); c.Verdict != string(coverage.Blind) || c.Downgraded == nil {
		t.Errorf("without dnstap coverage is %s and the hit downgraded %v, want blind", c.Verdict, c.Downgraded)
	}
}

// Namings that come without events are taken in, and say nothing of how far packets have come.
func TestNamingsAlone(t *testing.T) {
	l := testPipeline(t)
	ring := l.newSink(0)
	const now = event.Time(1_000_000e9)
	client := netip.MustParseAddr("10.0.0.7")
	(&single{to: ring}).Connection(&event.Connection{Time: now - 5e9})
	var b event.Batch
	b.Naming(&event.Naming{Time: now, Via: event.ARP, Addr: client, MAC: event.MAC{2, 0, 0, 0, 0, 7}})
	if b.Empty() || b.Len() != 0 {
		t.Fatalf("a batch of one naming has %d events, empty %v", b.Len(), b.Empty())
	}
	ring.Batch(&b)
	if got, want := l.reached(now), now-5e9; got != want {
		t.Errorf("time reaches %d, want %d, where the last event was", got, want)
	}
	if h, ok := l.hosts.At(event.Zone{}, client, now); !ok || h.Via != event.ARP {
		t.Errorf("the address is held by %+v, %v", h, ok)
	}
}
