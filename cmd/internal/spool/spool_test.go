package spool

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

func config(t testing.TB) Config {
	return Config{Path: filepath.Join(t.TempDir(), "spool"), Bytes: 8 << 20, Memory: 8 << 20, Queue: 4096}
}

func open(t testing.TB, c Config) *Spool {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func closeSpool(t testing.TB, s *Spool) {
	t.Helper()
	if n, err := s.Close(); n != 0 || err != nil {
		t.Fatalf("Close: %d messages not saved, %v", n, err)
	}
}

// put puts a message of n bytes that says its sequence.
func put(s *Spool, class Class, n int) error {
	return s.PutNext(func(sequence uint64) (*Message, error) {
		data := make([]byte, n)
		copy(data, fmt.Sprintf("message %d", sequence))
		return &Message{
			Class: class, Sequence: sequence, ID: fmt.Sprint(sequence), Subject: "portolan.v1.hit." + class.String(),
			Header: []Field{{"Content-Type", "application/json"}}, Data: data,
		}, nil
	})
}

// wait waits until the counts are as ok wants them.
func wait(t testing.TB, s *Spool, what string, ok func(Stats) bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(s.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: does not happen: %+v", what, s.Stats())
		}
	}
}

func saved(n uint64) func(Stats) bool {
	return func(s Stats) bool { return s.Accepted == n && s.InMemory == 0 }
}

// take takes all that waits, without acknowledging, and returns the sequences.
func take(t testing.TB, s *Spool) (items []*Item, sequences []uint64) {
	t.Helper()
	for {
		it, _ := s.Next()
		if it == nil {
			return items, sequences
		}
		m := it.Message
		if want := fmt.Sprintf("message %d", m.Sequence); !bytes.HasPrefix(m.Data, []byte(want)) ||
			m.ID != fmt.Sprint(m.Sequence) || len(m.Header) != 1 || m.Header[0].Value != "application/json" {
			t.Fatalf("sequence %d came back as %s %q %v", m.Sequence, m.ID, m.Data[:min(20, len(m.Data))], m.Header)
		}
		items = append(items, it)
		sequences = append(sequences, m.Sequence)
	}
}

func run(first, last uint64) (list []uint64) {
	for n := first; n <= last; n++ {
		list = append(list, n)
	}
	return list
}

// What was accepted is there after a restart, in order; what was acknowledged is not; sequences go on.
func TestRestart(t *testing.T) {
	c := config(t)
	s := open(t, c)
	for i := range 10 {
		if err := put(s, Class(i%int(numClasses)), 100+i); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, s, "10 accepted", saved(10))
	items, got := take(t, s)
	if !slices.Equal(got, run(1, 10)) {
		t.Errorf("taken %v, want 1 to 10", got)
	}
	for _, it := range items[:4] {
		s.Done(it, false)
	}
	s.Return(items[7], time.Time{})
	s.Return(items[5], time.Time{})
	if _, again := take(t, s); !slices.Equal(again, []uint64{6, 8}) {
		t.Errorf("what was returned comes again as %v, want 6 8", again)
	}
	closeSpool(t, s)

	s = open(t, c)
	if st := s.Stats(); st.Recovered != 6 || st.Pending != 6 || st.Lost() != 0 || st.Sequence != 10 {
		t.Errorf("after the restart %+v, want 6 recovered, sequence 10", st)
	}
	if err := put(s, Alert, 30); err != nil {
		t.Fatal(err)
	}
	wait(t, s, "one more accepted", saved(1))
	if _, got := take(t, s); !slices.Equal(got, run(5, 11)) {
		t.Errorf("taken after the restart %v, want 5 to 11", got)
	}
}

// The oldest leads make room first, then records, watches, alerts; what is lower than all goes itself.
func TestOldestLowestGoFirst(t *testing.T) {
	c := config(t)
	c.Bytes = MinBytes
	s := open(t, c)
	const size = 10 << 10
	room := int(s.liveLimit() / onDisk(size+100))
	n := uint64(0)
	add := func(class Class, want error) {
		t.Helper()
		n++
		if err := put(s, class, size); !errors.Is(err, want) {
			t.Fatalf("put %d: %v, want %v", n, err, want)
		}
		wait(t, s, "written", func(st Stats) bool { return st.InMemory == 0 })
	}
	classes := []Class{Lead, Watch, Record, Lead, Alert}
	for i := range room {
		add(classes[min(i, 4)], nil)
	}
	for range 5 {
		add(Alert, nil) // in place of 1, 4 (leads), 3 (record), 2 (watch), 5 (alert)
	}
	add(Watch, ErrFull)
	st := s.Stats()
	if st.LostSpool != 6 || st.LostQueue != 0 || st.Accepted != n-1 || st.Pending != uint64(room) {
		t.Errorf("%+v, want 6 lost of %d, %d pending", st, n, room)
	}
	want := map[string]uint64{"lead": 2, "record": 1, "watch": 2, "alert": 1}
	for class, n := range want {
		if st.EverLost[class] != n {
			t.Errorf("%d of class %s lost, want %d", st.EverLost[class], class, n)
		}
	}
	closeSpool(t, s)

	s = open(t, c)
	if st := s.Stats(); fmt.Sprint(st.EverLost) != fmt.Sprint(want) || st.Pending != uint64(room) {
		t.Errorf("after a restart %+v, want %v lost ever", st, want)
	}
	if _, got := take(t, s); !slices.Equal(got, run(6, n-1)) {
		t.Errorf("left %v, want 6 to %d", got, n-1)
	}
	gaps, unlisted := s.TakeGaps(100)
	lost := map[uint64]bool{}
	for _, g := range gaps {
		for q := g.First; q <= g.Last; q++ {
			lost[q] = g.Reason == Lost
		}
	}
	if len(lost) != 6 || !lost[1] || !lost[5] || !lost[n] || unlisted != 0 {
		t.Errorf("gaps %v, %d not listed: want 1 to 5 and %d", gaps, unlisted, n)
	}
	if again, _ := s.TakeGaps(100); len(again) != 0 {
		t.Errorf("gaps %v are handed out twice", again)
	}
}

// The file stays within its bound, however much goes through it and however much waits.
func TestFileIsBounded(t *testing.T) {
	c := config(t)
	c.Bytes = 2 << 20
	s := open(t, c)
	largest := int64(0)
	for i := range 3000 {
		if err := put(s, Lead, 4000); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		if i%10 == 0 {
			wait(t, s, "written", func(st Stats) bool { return st.InMemory == 0 })
			size := int64(0)
			for _, name := range []string{c.Path, c.Path + ".new"} {
				if info, err := os.Stat(name); err == nil {
					size += info.Size()
				}
			}
			largest = max(largest, size)
		}
	}
	if largest > c.Bytes || largest < c.Bytes/3 {
		t.Errorf("the file had up to %d bytes, want at most %d", largest, c.Bytes)
	}
	wait(t, s, "written", func(st Stats) bool { return st.InMemory == 0 })
	st := s.Stats()
	if st.Accepted+st.LostQueue != 3000 || st.LostSpool+st.Pending != st.Accepted {
		t.Errorf("%+v: does not add up to 3000", st)
	}
	items, got := take(t, s)
	if !slices.IsSorted(got) || uint64(len(got)) != st.Pending || got[len(got)-1] != 3000 {
		t.Errorf("%d left, the last is %d, want the newest %d in order", len(got), got[len(got)-1], st.Pending)
	}
	for _, it := range items {
		s.Done(it, false)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		info, err := os.Stat(c.Path)
		if err == nil && info.Size() < 2*fileHeader {
			break // nothing is left, and the space is given back
		}
		if time.Now().After(end) {
			t.Fatalf("the file is not emptied: %v %v", info.Size(), err)
		}
	}
	closeSpool(t, s)
	if st := open(t, c).Stats(); st.Pending != 0 || st.Sequence != 3000 || st.EverLost["lead"] != 3000-uint64(len(got)) {
		t.Errorf("after a restart %+v, want nothing pending, sequence 3000", st)
	}
}

// filled returns the path of a spool that holds n messages, 1 to n, and what lies in the file.
func filled(t *testing.T, c Config, n int) []byte {
	t.Helper()
	s := open(t, c)
	for range n {
		if err := put(s, Alert, 300); err != nil {
			t.Fatal(err)
		}
		wait(t, s, "written", func(st Stats) bool { return st.InMemory == 0 })
	}
	closeSpool(t, s)
	b, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever byte flips, all but the message that holds it are kept, and that one is counted
// once, for ever.
func TestFlippedByte(t *testing.T) {
	c := config(t)
	const n = 20
	b := filled(t, c, n)
	for range 300 {
		at := rand.IntN(len(b))
		if at < fileHeader && at%slotBytes > 200 {
			continue // nothing is there
		}
		bad := slices.Clone(b)
		bad[at] ^= 1 << rand.IntN(8)
		if err := os.WriteFile(c.Path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, c)
		st := s.Stats()
		if st.Recovered+st.Spoilt != n || st.Spoilt > 1 || st.Sequence != n {
			t.Errorf("byte %d flipped: %+v, want %d kept and at most one spoilt", at, st, n-1)
		}
		_, got := take(t, s)
		if !slices.IsSorted(got) || uint64(len(got)) != st.Recovered {
			t.Errorf("byte %d flipped: %v came back", at, got)
		}
		closeSpool(t, s)
		s = open(t, c)
		if again := s.Stats(); again.Spoilt != 0 || again.EverSpoilt != st.Spoilt || again.Recovered != st.Recovered {
			t.Errorf("byte %d flipped, opened again: %+v, want what it was", at, again)
		}
		closeSpool(t, s)
	}
}

// Wherever the file ends, what is whole before it is kept; the cut message was never accepted.
func TestTornTail(t *testing.T) {
	c := config(t)
	const n = 5
	b := filled(t, c, n)
	// The header as it is while the spool is open, not what Close says of the messages.
	first, _, _, _ := readSlot(b[:slotBytes])
	if first > 0 {
		t.Fatalf("generation %d in the first slot, want the one of the beginning", first)
	}
	clear(b[slotBytes:fileHeader])
	for cut := fileHeader; cut <= len(b); cut += 3 {
		if err := os.WriteFile(c.Path, b[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, c)
		st := s.Stats()
		_, got := take(t, s)
		if st.Spoilt != 0 || uint64(len(got)) != st.Recovered || !slices.Equal(got, run(1, uint64(len(got)))) {
			t.Fatalf("cut at %d of %d: %+v, took %v", cut, len(b), st, got)
		}
		if err := put(s, Alert, 30); err != nil { // the next one goes over what was cut
			t.Fatal(err)
		}
		wait(t, s, "written", saved(1))
		closeSpool(t, s)
		s = open(t, c)
		if again := s.Stats(); again.Recovered != st.Recovered+1 || again.Spoilt != 0 {
			t.Fatalf("cut at %d: after the next write %+v, want one more than %+v", cut, again, st)
		}
		closeSpool(t, s)
	}
}

func TestForeignFileIsLeftAlone(t *testing.T) {
	c := config(t)
	junk := bytes.Repeat([]byte("not ours"), 1000)
	if err := os.WriteFile(c.Path, junk, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err == nil {
		t.Error("a file that is no spool was opened")
	}
	if b, _ := os.ReadFile(c.Path); !bytes.Equal(b, junk) {
		t.Error("it was changed")
	}
}

// Without a file messages are volatile, bounded by number.
func TestWithoutFile(t *testing.T) {
	s := open(t, Config{Memory: 1 << 20, Queue: 3})
	for i := range 5 {
		if err := put(s, Alert, 100); errors.Is(err, ErrFull) != (i >= 3) {
			t.Errorf("put %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Accepted != 3 || st.LostQueue != 2 || st.Pending != 3 {
		t.Errorf("%+v, want 3 accepted, 2 lost", st)
	}
	items, _ := take(t, s)
	s.Done(items[0], false)
	if err := put(s, Alert, 100); err != nil {
		t.Error(err)
	}
}

func TestParked(t *testing.T) {
	s := open(t, Config{Memory: 1 << 20, Queue: 3})
	if err := put(s, Alert, 100); err != nil {
		t.Fatal(err)
	}
	it, _ := s.Next()
	until := time.Now().Add(time.Hour)
	s.Return(it, until)
	if it, due := s.Next(); it != nil || !due.Equal(until) {
		t.Errorf("a parked message: %v, due %v", it, due)
	}
	s.Unpark()
	if it, _ := s.Next(); it == nil {
		t.Error("nothing after Unpark")
	}
}

// What was acknowledged stays in the file for a while, for a process that follows a kill; it is gone after a proper end.
func TestKeep(t *testing.T) {
	c := config(t)
	c.Keep = time.Hour
	s := open(t, c)
	for range 5 {
		if err := put(s, Alert, 100); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, s, "written", saved(5))
	items, _ := take(t, s)
	for _, it := range items[:4] {
		s.Done(it, false)
	}
	if st := s.Stats(); st.Pending != 1 {
		t.Errorf("%+v, want 1 pending: what is kept is not", st)
	}
	s.Return(items[4], time.Time{})
	if err := put(s, Alert, 100); err != nil { // and a chance for acknowledgements to be noted
		t.Fatal(err)
	}
	wait(t, s, "written", saved(6))
	killed := c
	killed.Path = copyOf(t, c.Path)
	if _, got := take(t, open(t, killed)); !slices.Equal(got, run(1, 6)) {
		t.Errorf("after a kill %v come back, want 1 to 6", got)
	}
	closeSpool(t, s)
	if _, got := take(t, open(t, c)); !slices.Equal(got, run(5, 6)) {
		t.Errorf("after a proper end %v come back, want 5 and 6", got)
	}

	c = config(t)
	c.Keep = time.Millisecond
	s = open(t, c)
	if err := put(s, Alert, 100); err != nil {
		t.Fatal(err)
	}
	wait(t, s, "written", saved(1))
	it, _ := s.Next()
	s.Done(it, false)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		l := open(t, Config{Path: copyOf(t, c.Path), Bytes: c.Bytes, Memory: 1, Queue: 1})
		if l.Stats().Pending == 0 {
			break // noted although nothing else was put
		}
		if time.Now().After(end) {
			t.Fatal("the message is kept for ever")
		}
	}
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A record that is gone whole, so that its neighbours touch, is counted once and not at every start.
func TestWholeRecordGone(t *testing.T) {
	c := config(t)
	b := filled(t, c, 6)
	var at []int
	for o := fileHeader; o < len(b); {
		h, ok := readHead(b[o:])
		if !ok {
			t.Fatalf("no record at %d", o)
		}
		if h.kind == kindMessage {
			at = append(at, o)
		}
		o += int(onDisk(h.body))
	}
	if err := os.WriteFile(c.Path, slices.Delete(b, at[2], at[3]), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{1, 0, 0} {
		s := open(t, c)
		if st := s.Stats(); st.Spoilt != want || st.EverSpoilt != 1 || st.Pending != 5 {
			t.Errorf("%+v, want %d spoilt now, 1 ever, 5 pending", st, want)
		}
		closeSpool(t, s)
	}
}

// However a file is mangled, opening it neither fails for long nor makes up messages: what
// comes back was written, in order, and counts add up.
func TestMangledFile(t *testing.T) {
	c := config(t)
	const n = 6
	b := filled(t, c, n)
	for range 500 {
		bad := slices.Clone(b)
		for range 1 + rand.IntN(6) {
			at := fileHeader + rand.IntN(len(bad)-fileHeader)
			switch to := at + rand.IntN(len(bad)-at); rand.IntN(3) {
			case 0:
				bad[at] = byte(rand.IntN(256))
			case 1:
				bad = append(bad, bad[at:to]...)
			case 2:
				bad = slices.Delete(bad, at, to)
			}
		}
		if err := os.WriteFile(c.Path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, c)
		items, got := take(t, s)
		if !slices.IsSorted(got) || uint64(len(got)) != s.Stats().Recovered || len(got) > n {
			t.Errorf("%v came back, %+v", got, s.Stats())
		}
		for _, it := range items {
			s.Done(it, false)
		}
		closeSpool(t, s)
		s = open(t, c)
		if st := s.Stats(); st.Pending != 0 || st.Spoilt != 0 || st.Sequence < n {
			t.Errorf("opened again: %+v, want nothing pending, sequence %d", st, n)
		}
		closeSpool(t, s)
	}
}

// Reading is total, and what is read is what would be written.
func FuzzRecord(f *testing.F) {
	m := &Message{Class: Alert, Sequence: 7, ID: "1", Subject: "s", Header: []Field{{"a", "b"}}, Data: []byte("data")}
	st := state{version: 3, number: 9, sequence: 8}
	gaps := []Gap{{1, 5, Lost}}
	f.Add(appendMessage(nil, m))
	f.Add(appendNote(nil, st, gaps, []uint64{1, 2}))
	f.Add(appendSlot(nil, 4, st, gaps))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := readMessage(Alert, b); err == nil {
			again, err := readMessage(Alert, appendMessage(nil, m))
			if err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
				t.Errorf("%v read again: %v, %v", m, again, err)
			}
		}
		if st, gaps, done, err := readNote(b); err == nil {
			st2, gaps2, done2, err := readNote(appendNote(nil, st, gaps, done))
			if err != nil || st2 != st || !slices.Equal(gaps, gaps2) || !slices.Equal(done, done2) {
				t.Errorf("note read again: %v", err)
			}
		}
		r := appendRecord(nil, head{kind: kindMessage, class: Alert, number: 5, ordinal: 6}, func(r []byte) []byte { return append(r, b...) })
		if h, body, err := readRecord(r); len(b) <= maxBody && (err != nil || h.number != 5 || h.ordinal != 6 || !bytes.Equal(body, b)) {
			t.Errorf("record read again: %+v %v", h, err)
		}
		readSlot(b)
		readHead(b)
	})
}

// BenchmarkPut measures what a hit of an ordinary size costs until the disk has it, and
// until its end is noted; waits for the disk are shared by all that wait.
func BenchmarkPut(b *testing.B) {
	c := config(b)
	c.Bytes, c.Memory, c.Queue = 512<<20, 64<<20, 1<<14
	s := open(b, c)
	data := make([]byte, 3000)
	b.SetBytes(3000)
	b.ReportAllocs()
	for b.Loop() {
		m := &Message{Class: Alert, ID: "0112233445566778899aabbccddeef00.1", Subject: "portolan.v1.hit.alert.dmz-1.0a000007", Data: data}
		for s.Put(m) != nil {
			<-s.Room()
		}
		for it, _ := s.Next(); it != nil; it, _ = s.Next() {
			s.Done(it, false)
		}
	}
	st := s.Stats()
	b.ReportMetric(float64(st.LostQueue), "refused")
}
