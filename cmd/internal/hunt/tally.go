package hunt

import (
	"cmp"
	"slices"
	"time"

	"portolan/correlate"
	"portolan/sensor/event"
)

// Source is what a person calls one: a folder of captures of one mirror port, the logs of one resolver.
type Source struct {
	Name, Kind string
}

// SourceResult is what was read of a source.
type SourceResult struct {
	Source
	Lookups, Connections uint64
	First, Last          event.Time // of its events; 0 without any
	Gaps                 []Gap      // the longest, in order of time
	GapCount             int        // all of them
}

// Gap is a time without an event, at least LeastGap long.
type Gap struct{ From, To event.Time }

// Bounds of what is kept.
const (
	LeastGap = event.Time(10 * 60 * 1e9)
	maxGaps  = 50    // of a source
	maxBins  = 20000 // above, they become twice as wide
	maxHits  = 10000 // of a level
)

// Bin is what happened in a span of time.
type Bin struct {
	Sources              []uint64 // events of each
	Lookups, Connections uint64
	Settled, Explained   uint64 // connections that were judged, and of those to an address that a lookup gave
	Hits                 [correlate.Alert + 1]uint64
	Decoys               [correlate.Alert + 1]uint64
	Learning             bool // before the hunt began
}

// tally is everything that is counted, in a form that a checkpoint keeps.
type tally struct {
	Width   time.Duration
	Bins    map[int64]*Bin // by number of the span since 1970
	Sources []SourceResult
	Before  correlate.Stats
	Last    correlate.Stats // when a bin was last closed
	Bin     int64           // to which what has happened since belongs
	Any     bool            // there was an event
	Seen    event.Time      // the first
	Began   bool            // the hunt, after what was only learned from
	First   event.Time      // of the hunt's events
	Clock   event.Time
	Hits    []correlate.Hit
	Kept    [correlate.Alert + 1]int
	Found   [correlate.Alert + 1]uint64
}

func newTally(sources []Source) *tally {
	t := &tally{Width: time.Hour, Bins: map[int64]*Bin{}}
	for _, s := range sources {
		t.Sources = append(t.Sources, SourceResult{Source: s})
	}
	return t
}

// bin returns the bin of a time.
func (t *tally) bin(at event.Time) *Bin {
	n := int64(at) / int64(t.Width)
	b := t.Bins[n]
	if b == nil {
		if len(t.Bins) == maxBins {
			t.widen()
			return t.bin(at)
		}
		b = &Bin{Sources: make([]uint64, len(t.Sources))}
		t.Bins[n] = b
	}
	return b
}

// widen makes one bin of each two.
func (t *tally) widen() {
	wide := map[int64]*Bin{}
	for n, b := range t.Bins {
		w := wide[n/2]
		if w == nil {
			wide[n/2] = b
			continue
		}
		for i := range b.Sources {
			w.Sources[i] += b.Sources[i]
		}
		w.Lookups += b.Lookups
		w.Connections += b.Connections
		w.Settled += b.Settled
		w.Explained += b.Explained
		for l := range b.Hits {
			w.Hits[l] += b.Hits[l]
			w.Decoys[l] += b.Decoys[l]
		}
		w.Learning = w.Learning && b.Learning
	}
	t.Bins, t.Width, t.Bin = wide, 2*t.Width, t.Bin/2
}

// events counts what a batch brings.
func (t *tally) events(b *batch) {
	for i := range b.events.Len() {
		src := int(b.source[i])
		s := &t.Sources[src]
		var at event.Time
		l, x := b.events.At(i)
		if l != nil {
			at = l.Time
		} else {
			at = x.Time
		}
		if !t.Any {
			t.Any, t.Seen, t.Bin = true, at, int64(at)/int64(t.Width)
		}
		n := t.bin(at)
		n.Sources[src]++
		if l != nil {
			s.Lookups++
			n.Lookups++
		} else {
			s.Connections++
			n.Connections++
		}
		switch {
		case s.First == 0 && s.Last == 0:
			s.First = at
		case at-s.Last >= LeastGap:
			s.gap(Gap{s.Last, at})
		}
		s.Last = max(s.Last, at)
		t.Clock = max(t.Clock, at)
	}
}

// gap notes a gap; of too many the longest are kept.
func (s *SourceResult) gap(g Gap) {
	s.GapCount++
	s.Gaps = append(s.Gaps, g)
	if len(s.Gaps) <= maxGaps {
		return
	}
	shortest := 0
	for i, o := range s.Gaps {
		if o.To-o.From < s.Gaps[shortest].To-s.Gaps[shortest].From {
			shortest = i
		}
	}
	s.Gaps = slices.Delete(s.Gaps, shortest, shortest+1)
}

// settle enters what the correlator has settled since the last call into the bin that was current then.
func (t *tally) settle(c *correlate.Correlator, now event.Time, learning bool) {
	s := c.Stats()
	b := t.bin(event.Time(t.Bin * int64(t.Width)))
	settled := func(s *correlate.Stats) uint64 { return s.Explained + s.Unjudged + s.AddressTrials }
	b.Settled += settled(&s) - settled(&t.Last)
	b.Explained += s.Explained - t.Last.Explained
	if b.Learning = learning; !learning {
		for l := range b.Decoys {
			b.Decoys[l] += s.Decoys[l] - t.Last.Decoys[l]
		}
	}
	t.Last = s
	t.bin(now) // it may widen them
	t.Bin = int64(now) / int64(t.Width)
}

// hits takes final hits in.
func (t *tally) hits(found []correlate.Hit, since event.Time) {
	for i := range found {
		h := &found[i]
		if h.State != correlate.Final || h.Level == correlate.None || h.Connection.Time < since {
			continue
		}
		t.Found[h.Level]++
		t.bin(h.Connection.Time).Hits[h.Level]++
		if t.Kept[h.Level] < maxHits {
			t.Kept[h.Level]++
			t.Hits = append(t.Hits, *h)
		}
	}
}

// sortHits puts hits in an order that does not depend on how they were found.
func sortHits(all []correlate.Hit) {
	slices.SortFunc(all, func(a, b correlate.Hit) int {
		return cmp.Or(cmp.Compare(a.Connection.Time, b.Connection.Time), slices.Compare(a.ID[:], b.ID[:]))
	})
}
