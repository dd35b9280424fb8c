package spool

import (
	"slices"
	"testing"
	"time"
)

// idle returns a spool whose writer does not run: what the disk has is up to flushed.
func idle(t *testing.T, c Config) *Spool {
	t.Helper()
	s := newSpool(c)
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	s.reserveLocked()
	t.Cleanup(func() { s.file.Close() })
	return s
}

// flushed writes all there is to write.
func flushed(t *testing.T, s *Spool) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = s.flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func putN(t *testing.T, s *Spool, n int) {
	t.Helper()
	for range n {
		if err := put(s, Alert, 100); err != nil {
			t.Fatal(err)
		}
	}
}

// Messages can be sent before the disk has them, as many as sequences were set aside on it.
func TestAheadOfTheDisk(t *testing.T) {
	c := config(t)
	c.Ahead = 8
	s := idle(t, c)
	putN(t, s, 1)
	if _, got := take(t, s); len(got) != 0 {
		t.Errorf("%v can be sent before the disk knows that sequences are set aside", got)
	}
	flushed(t, s)
	if _, got := take(t, s); !slices.Equal(got, run(1, 1)) {
		t.Errorf("%v can be sent, want the first, which the disk has", got)
	}
	putN(t, s, 20)
	items, got := take(t, s)
	if !slices.Equal(got, run(2, 8)) {
		t.Errorf("%v can be sent, want 2 to 8: further ones are not set aside", got)
	}
	if st := s.Stats(); st.Accepted != 1 || st.InMemory != 20 {
		t.Errorf("%+v, want one accepted and 20 in memory: sent is not safe", st)
	}
	s.Done(items[0], false)
	if st := s.Stats(); st.Accepted != 2 {
		t.Errorf("%+v, want two accepted: the receiver has the second", st)
	}
	flushed(t, s)
	if _, got := take(t, s); !slices.Equal(got, run(9, 21)) {
		t.Errorf("%v can be sent, want 9 to 21", got)
	}
}

// After a kill no sequence is given out that a message which was sent may have had, and the
// ones that nobody will see are named.
func TestAheadAndKilled(t *testing.T) {
	c := config(t)
	c.Ahead = 8
	s := idle(t, c)
	flushed(t, s)
	putN(t, s, 2)
	items, _ := take(t, s)
	s.Done(items[1], false) // the disk never sees it
	flushed(t, s)
	putN(t, s, 3)
	if _, got := take(t, s); !slices.Equal(got, run(3, 5)) {
		t.Fatalf("%v can be sent, want 3 to 5", got)
	}
	killed := c
	killed.Path = copyOf(t, c.Path)
	next := open(t, killed)
	if _, got := take(t, next); !slices.Equal(got, run(1, 1)) {
		t.Errorf("after a kill %v come back, want the first, which was not acknowledged", got)
	}
	gaps, unlisted := next.TakeGaps(10)
	last := next.Stats().Sequence
	if want := []Gap{{First: 2, Last: last, Reason: Unused}}; !slices.Equal(gaps, want) || unlisted != 0 || last < 5 || last > 2+8 {
		t.Errorf("gaps %v, %d unlisted, last sequence %d; want what was set aside, and 3 to 5 among it", gaps, unlisted, last)
	}
	closeSpool(t, next)
	if st := open(t, killed).Stats(); st.Sequence != last {
		t.Errorf("after a proper end sequences go on after %d, want %d", st.Sequence, last)
	}
}

// A receiver that has not yet written what it acknowledged does not spare our own disk the work.
func TestAheadAndKeep(t *testing.T) {
	c := config(t)
	c.Ahead, c.Keep = 8, time.Hour
	s := idle(t, c)
	flushed(t, s)
	putN(t, s, 2)
	items, _ := take(t, s)
	s.Done(items[0], false)
	if st := s.Stats(); st.Accepted != 0 || st.Pending != 2 {
		t.Errorf("%+v, want none accepted and both pending", st)
	}
	flushed(t, s)
	if st := s.Stats(); st.Accepted != 2 || st.Pending != 1 {
		t.Errorf("%+v, want both accepted and one pending", st)
	}
	killed := c
	killed.Path = copyOf(t, c.Path)
	if _, got := take(t, open(t, killed)); !slices.Equal(got, run(1, 2)) {
		t.Errorf("after a kill %v come back, want both", got)
	}

	// A disk that takes nothing keeps nobody waiting.
	putN(t, s, 1)
	items, _ = take(t, s)
	s.Done(items[0], false)
	s.fail(errSpoilt)
	if st := s.Stats(); st.Accepted != 3 || st.InMemory != 0 {
		t.Errorf("%+v, want three accepted and none in memory", st)
	}
}
