package fleet

import (
	"encoding/json"
	"errors"
	"regexp"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
)

// TestSplitVisibility: answers pass one tap, connections another; two workers in processes of their
// own share the work, and one is killed half way. The final hits are those of one sensor that saw it all.
func TestSplitVisibility(t *testing.T) {
	const partitions = 8
	all := traffic(1)
	want := alone(t, all)
	if len(want) < 60 {
		t.Fatalf("%d hits in the traffic, want at least 60", len(want))
	}
	url := startServer(t)
	admin := openBus(t, url, "admin")
	js, err := jetstream.New(admin.Conn())
	if err != nil {
		t.Fatal(err)
	}
	one, two := startWorker(t, url, "worker-1", partitions), startWorker(t, url, "worker-2", partitions)
	eventually(t, "each worker has half of the partitions", func() bool {
		o := owners(t, js)
		return o["worker-1"] == partitions/2 && o["worker-2"] == partitions/2
	})
	hits := follow(t, admin)
	north, south := openTap(t, url, "north", partitions), openTap(t, url, "south", partitions)
	taps := []tap{north, south}
	split := func(h *happening) []tap {
		if h.lookup != nil {
			return []tap{north}
		}
		return []tap{south}
	}

	half := len(all) / 2
	play(t, all[:half], taps, split)
	eventually(t, "both workers have published hits", func() bool { return hits.by()["worker-1"] > 0 && hits.by()["worker-2"] > 0 })
	eventually(t, "both have left word of how far they came", func() bool {
		for _, c := range claims(t, js) {
			if c.Position.Sequence == 0 {
				return false
			}
		}
		return true
	})
	one.kill(t)
	play(t, all[half:], taps, split)
	north.close(t)
	south.close(t)

	eventually(t, "the survivor has all partitions", func() bool { return owners(t, js)["worker-2"] == partitions })
	eventually(t, "the hits are those of one sensor that saw everything", func() bool { return equal(hits.final(), want) || t.Failed() })
	got := hits.final()
	for _, m := range missing(want, got) {
		t.Errorf("missing or different: %s", m)
	}
	for _, m := range missing(got, want) {
		t.Errorf("too much: %s", m)
	}
	if taken := regexp.MustCompile(`from=worker-1 position=[1-9]`).FindAllString(two.log.String(), -1); len(taken) != partitions/2 {
		t.Errorf("%d partitions taken over from the dead worker at its position, want %d", len(taken), partitions/2)
	}
	hits.mu.Lock()
	for id, n := range hits.count {
		if n != 1 {
			t.Errorf("message %s is stored %d times", id, n)
		}
	}
	hits.mu.Unlock()

	// Told to stop, a worker gives back what it has.
	if err := two.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the partitions are free", func() bool { return owners(t, js)[""] == partitions })

	// A subscriber can prove that it missed nothing of it: what did not come, the worker has named.
	ops, err := js.Stream(t.Context(), bus.OpsStream)
	if err != nil {
		t.Fatal(err)
	}
	record := new(bus.CoverageRecord)
	eventually(t, "its record is stored", func() bool {
		raw, err := ops.GetLastMsgForSubject(t.Context(), bus.CoverSubject("worker-2"))
		return err == nil && json.Unmarshal(raw.Data, record) == nil
	})
	hits.mu.Lock()
	defer hits.mu.Unlock()
	came := hits.came["worker-2"]
	came.Record(record)
	if d := record.Delivery; d == nil || d.Sequence == 0 || len(came.Missing()) != 0 {
		t.Errorf("delivery %+v; missing %v, want nothing", d, came.Missing())
	}
}

// TestSeenTwice: two taps that see the same packets give each hit once.
func TestSeenTwice(t *testing.T) {
	const partitions = 4
	all := traffic(2)[:400]
	want := alone(t, all)
	url := startServer(t)
	b := openBus(t, url, "worker")
	hits := follow(t, b)
	runWorker(t, b, testWorkerConfig("worker", partitions))
	east, west := openTap(t, url, "east", partitions), openTap(t, url, "west", partitions)
	// West's clock is 40 µs ahead, as two kernels' may be.
	both := func(h *happening) []tap {
		h.show(east.sink)
		if h.lookup != nil {
			l := *h.lookup
			l.Time += 40_000
			west.sink.Lookup(&l)
		} else {
			x := *h.conn
			x.Time += 40_000
			west.sink.Connection(&x)
		}
		return nil
	}
	play(t, all, []tap{east, west}, both)
	east.close(t)
	west.close(t)
	eventually(t, "each hit is there, once", func() bool { return equal(hits.final(), want) })
}

// TestScale: more workers take their share, fewer take it back, and what was published before is
// not published again.
func TestScale(t *testing.T) {
	const partitions = 6
	url := startServer(t)
	first := openBus(t, url, "worker-1")
	hits := follow(t, first)
	a, stopA := runWorker(t, first, testWorkerConfig("worker-1", partitions))
	eventually(t, "one worker has all", func() bool { return a.Stats().Partitions == partitions })

	north := openTap(t, url, "north", partitions)
	all := traffic(3)[:600]
	see := func(*happening) []tap { return []tap{north} }
	play(t, all[:300], []tap{north}, see)
	b, _ := runWorker(t, openBus(t, url, "worker-2"), testWorkerConfig("worker-2", partitions))
	c, _ := runWorker(t, openBus(t, url, "worker-3"), testWorkerConfig("worker-3", partitions))
	eventually(t, "three workers have a third each", func() bool {
		return a.Stats().Partitions == 2 && b.Stats().Partitions == 2 && c.Stats().Partitions == 2
	})
	eventually(t, "the new ones have read again what came before", func() bool { return b.Stats().Again+c.Stats().Again > 0 })
	stopA()
	eventually(t, "two workers have a half each", func() bool { return b.Stats().Partitions == 3 && c.Stats().Partitions == 3 })
	play(t, all[300:], []tap{north}, see)
	north.close(t)
	want := alone(t, all)
	eventually(t, "the hits are those of one sensor", func() bool { return equal(hits.final(), want) })
	if n := a.Stats().Hits + b.Stats().Hits + c.Stats().Hits; n != uint64(len(hits.count)) {
		t.Errorf("%d hits published, %d of them different", n, len(hits.count))
	}
}

// TestPaused: a worker that stands still for longer than its lease is replaced; when it goes on it
// notices, takes its share again, and no hit is stored twice.
func TestPaused(t *testing.T) {
	const partitions = 4
	all := traffic(4)
	want := alone(t, all)
	url := startServer(t)
	admin := openBus(t, url, "admin")
	js, err := jetstream.New(admin.Conn())
	if err != nil {
		t.Fatal(err)
	}
	one := startWorker(t, url, "worker-1", partitions)
	startWorker(t, url, "worker-2", partitions)
	halves := func() bool {
		o := owners(t, js)
		return o["worker-1"] == partitions/2 && o["worker-2"] == partitions/2
	}
	eventually(t, "each worker has half of the partitions", halves)
	hits := follow(t, admin)
	north := openTap(t, url, "north", partitions)
	see := func(*happening) []tap { return []tap{north} }
	third := len(all) / 3
	play(t, all[:third], []tap{north}, see)
	if err := one.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other has all partitions", func() bool { return owners(t, js)["worker-2"] == partitions })
	play(t, all[third:2*third], []tap{north}, see)
	if err := one.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "each worker has half of the partitions again", halves)
	play(t, all[2*third:], []tap{north}, see)
	north.close(t)
	eventually(t, "the hits are those of one sensor", func() bool { return equal(hits.final(), want) })
	hits.mu.Lock()
	defer hits.mu.Unlock()
	for id, n := range hits.count {
		if n != 1 {
			t.Errorf("message %s is stored %d times", id, n)
		}
	}
}

// TestUpdateBrokenOff: a claim that was stored although the worker heard nothing of it is still its own.
func TestUpdateBrokenOff(t *testing.T) {
	w, err := NewWorker(openBus(t, startServer(t), "worker-1"), testWorkerConfig("worker-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	if w.board, err = w.openBoard(t.Context()); err != nil {
		t.Fatal(err)
	}
	unheard := func(c claim) {
		t.Helper()
		known := w.board.partitions[0]
		if err := w.board.put(t.Context(), 0, c); err != nil {
			t.Fatal(err)
		}
		w.board.partitions[0] = known
	}
	w.take(t.Context(), 0)
	unheard(w.claim(position{Sequence: 7}))
	if err := w.update(t.Context(), 0, w.claim(position{Sequence: 8})); err != nil {
		t.Error(err)
	}
	unheard(w.claim(position{Sequence: 9}))
	w.release(t.Context(), 0)
	if err := w.board.refresh(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if c := w.board.partitions[0].claim; c.Worker != "" {
		t.Errorf("after it was given back: %+v", c)
	}

	unheard(claim{Worker: "worker-2", Instance: "x"})
	if err := w.update(t.Context(), 0, w.claim(position{})); !errors.Is(err, errConflict) {
		t.Errorf("over another worker's claim: %v, want %v", err, errConflict)
	}
}
