package lab

import (
	"testing"
	"time"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", deadline, what)
		}
	}
}

func testWire(t *testing.T, m Mix) *Wire {
	t.Helper()
	inSpace(t, func() error { return nil })
	w, err := NewWire(m, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func counts(t *testing.T, w *Wire) Traversed {
	t.Helper()
	n, err := w.Counts()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Every frame that a sender counts comes out of the other end, once, of the kinds and in the shares that
// the mix says, and a bare ring sees each of them.
func TestWire(t *testing.T) {
	for _, m := range Mixes() {
		w := testWire(t, m)
		var ring *BareRing
		if err := w.Do(func() (err error) {
			ring, err = OpenBareRing(WireDevice, 128<<10, 256, time.Millisecond, nil)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		const enough = 20000
		before := uint64(0)
		for round := range 2 { // counts begin anew
			if err := w.Send(100_000); err != nil {
				t.Fatal(err)
			}
			until(t, "frames to be sent", func() bool { return counts(t, w).Offered.Frames >= enough })
			if err := w.Stop(); err != nil {
				t.Fatal(err)
			}
			n := counts(t, w)
			if n.Arrived != n.Offered.Frames || n.Rejected != 0 || n.CPU <= 0 {
				t.Errorf("%s, round %d: %+v", string(m), round, n)
			}
			until(t, "the ring to see every frame", func() bool { return ring.Frames()-before == n.Arrived })
			before = ring.Frames()
			share := func(n uint64, of uint64) float64 { return 100 * float64(n) / float64(of) }
			syn, dns := share(n.Offered.Connections, n.Offered.Frames), share(n.Offered.Lookups, n.Offered.Frames)
			want := map[Mix][2]float64{MixSYN: {100, 0}, MixDNS: {0, 100}, MixBulk: {2, 1}}[m]
			if syn < 0.6*want[0] || syn > 1.5*want[0] || dns < 0.6*want[1] || dns > 1.5*want[1] {
				t.Errorf("%s: %.2f %% SYNs and %.2f %% DNS, want %v", string(m), syn, dns, want)
			}
		}
		if n, err := ring.Dropped(); n != 0 || err != nil {
			t.Errorf("%s: ring dropped %d, %v", string(m), n, err)
		}
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestParseMix(t *testing.T) {
	for _, m := range Mixes() {
		if got, err := ParseMix(string(m)); got != m || err != nil {
			t.Errorf("%s: %v, %v", string(m), got, err)
		}
	}
	if _, err := ParseMix("web"); err == nil {
		t.Error("web is a mix")
	}
}
