package main

import (
	"testing"

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
