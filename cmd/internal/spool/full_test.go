//go:build unix

package spool

import (
	"os"
	"os/exec"
	ossignal "os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const fullVariable = "PORTOLAN_TEST_FULL_SPOOL"

// The file may not grow: what comes waits in memory, leads make room for alerts there, all
// can be sent, and a process that ends then leaves no sequence to be given out twice.
func TestDiskFull(t *testing.T) {
	c := config(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiskFullChild$", "-test.v")
	cmd.Env = append(os.Environ(), fullVariable+"="+c.Path)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "SKIP") {
		t.Fatalf("child: %v\n%s", err, out)
	}

	s := open(t, c)
	st := s.Stats()
	if st.Sequence < 1000 || st.Recovered == 0 {
		t.Errorf("after the kill %+v, want what was on disk, and sequences that were set aside left out", st)
	}
	_, got := take(t, s)
	if !slices.Equal(got, run(1, uint64(len(got)))) {
		t.Errorf("%v came back, want the first ones", got)
	}
	gaps, _ := s.TakeGaps(100)
	if len(gaps) == 0 || gaps[len(gaps)-1] != (Gap{uint64(len(got)) + 1, st.Sequence, Unused}) {
		t.Errorf("gaps %v, want %d to %d unused", gaps, len(got)+1, st.Sequence)
	}
}

// TestDiskFullChild is the process of TestDiskFull: a limit on the size of its files stands for the
// full disk.
func TestDiskFullChild(t *testing.T) {
	path := os.Getenv(fullVariable)
	if path == "" {
		t.Skip("runs as a child of TestDiskFull")
	}
	ossignal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: fileHeader + 20<<10, Max: 1 << 30}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	const queue = 40
	s, err := Open(Config{Path: path, Bytes: 8 << 20, Memory: 1 << 20, Queue: queue})
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for !s.Stats().Failing {
		n++
		if err := put(s, Lead, 1000); err != nil {
			t.Fatal(err)
		}
		wait(t, s, "written or refused", func(st Stats) bool { return st.InMemory == 0 || st.Failing })
	}
	for range queue {
		n++
		_ = put(s, Alert, 1000)
	}
	st := s.Stats()
	if st.InMemory != queue || st.Accepted != n-queue-1 || st.LostSpool != 1 || st.LostQueue != 0 || st.EverLost["lead"] != 1 {
		t.Errorf("%+v: of %d want %d in memory, and the lead there lost", st, n, queue)
	}
	if err := put(s, Lead, 1000); err == nil {
		t.Error("a lead finds room among alerts")
	}
	if st = s.Stats(); st.LostQueue != 1 || st.Sequence != n+1 {
		t.Errorf("%+v: want one lost in the queue, and its sequence spent", st)
	}
	items, got := take(t, s)
	if uint64(len(got)) != n-1 || got[len(got)-1] != n {
		t.Errorf("%d can be sent, want %d", len(got), n-1)
	}
	for _, it := range items[len(items)-5:] {
		s.Done(it, false) // from memory
	}
	if again := s.Stats(); again.Accepted != st.Accepted+5 {
		t.Errorf("%d accepted, want the 5 that were acknowledged too: %+v", again.Accepted, st)
	}
	if t.Failed() {
		return
	}
	os.Exit(0) // as if it were killed
}
