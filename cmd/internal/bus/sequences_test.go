package bus

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/spool"
)

func sequenceHit(q uint64) *Message {
	m := new(Message)
	m.Portolan.Sequence = q
	return m
}

// In whatever order runs come, Missing is what a list of all numbers says.
func TestSequences(t *testing.T) {
	const n = 60
	for range 500 {
		var s Sequences
		known := make([]bool, n+2)
		for range rand.IntN(40) {
			first := uint64(1 + rand.IntN(n))
			last := min(first+uint64(rand.IntN(6)), n)
			if first == last {
				s.Hit(sequenceHit(first))
			} else {
				s.Record(&CoverageRecord{Delivery: &Delivery{Missing: []spool.Gap{{First: first, Last: last}}}})
			}
			for q := first; q <= last; q++ {
				known[q] = true
			}
		}
		s.Record(&CoverageRecord{Delivery: &Delivery{Sequence: n}})
		var want []uint64
		for q := uint64(1); q <= n; q++ {
			if !known[q] {
				want = append(want, q)
			}
		}
		var got []uint64
		for _, g := range s.Missing() {
			for q := g.First; q <= g.Last; q++ {
				got = append(got, q)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("missing %v, want %v; runs %v", got, want, s.known)
		}
	}
}

// A subscriber can prove that it missed nothing, although the stream left out what another
// sensor had published, and the spool had to lose leads; and it sees what it did miss.
func TestNothingMissed(t *testing.T) {
	c := testConfig(t)
	b := open(t, c)
	live := subscribe(t, b, Filter{})
	for n := range uint64(30) {
		e, err := NewMessage(numberedHit(n+1), Context{Sensor: "dmz-2"}).Envelope()
		if err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 { // another tap was faster
			if err := b.Send(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	flush(t, b)
	publishNumbers(t, b, 1, 30, 0)
	flush(t, b)
	if err := b.PublishCoverage(&CoverageRecord{Schema: CoverSchema, Sensor: "dmz-1", Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	flush(t, b)

	var all, some Sequences
	for i := range 30 {
		if m := receive(t, live).m; m.Observer.Name == "dmz-1" {
			all.Hit(m)
			if i != 25 {
				some.Hit(m)
			}
		}
	}
	r := lastRecord(t, b)
	if r.Delivery == nil || r.Delivery.Sequence != 30 || len(r.Delivery.Missing) != 10 {
		t.Fatalf("delivery %+v, want 30 sequences, 10 of them named", r.Delivery)
	}
	all.Record(r)
	some.Record(r)
	if m := all.Missing(); len(m) != 0 {
		t.Errorf("missing %v, want nothing", m)
	}
	if m := some.Missing(); len(m) != 1 || m[0].First != m[0].Last {
		t.Errorf("missing %v, want the one that was left out", m)
	}
}

// lastRecord returns the newest coverage record in the stream.
func lastRecord(t *testing.T, b *Bus) *CoverageRecord {
	t.Helper()
	var s jetstream.Stream
	s, err := b.js.Stream(t.Context(), OpsStream)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.GetLastMsgForSubject(t.Context(), CoverSubject("dmz-1"))
	if err != nil {
		t.Fatal(err)
	}
	r := new(CoverageRecord)
	if err := json.Unmarshal(raw.Data, r); err != nil {
		t.Fatal(err)
	}
	return r
}
