package archive

import (
	"slices"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// run is some of a file's events, in the order of their times once sort was called.
type run struct {
	events  event.Batch
	records []attribute.Record
	order   []entry
	next    int        // of order, to be handed on
	reached event.Time // how far the file had come
	source  int
	number  uint64 // of the file's runs
	size    int    // bytes, about; by sort
}

// entry is one event of a run.
type entry struct {
	at event.Time
	i  int32 // a place among the events, or the complement of one among the records
}

// recordBytes is what an endpoint's record takes, about, with its texts.
const recordBytes = 1024

// Lookup takes a copy of a lookup.
func (r *run) Lookup(l *event.Lookup) {
	r.order = append(r.order, entry{l.Time, int32(r.events.Len())})
	r.events.Lookup(l)
}

// Connection takes a copy of a connection.
func (r *run) Connection(c *event.Connection) {
	r.order = append(r.order, entry{c.Time, int32(r.events.Len())})
	r.events.Connection(c)
}

// Record takes a copy of an endpoint's record.
func (r *run) Record(x *attribute.Record) {
	r.order = append(r.order, entry{x.Time, ^int32(len(r.records))})
	r.records = append(r.records, *x)
	c := &r.records[len(r.records)-1]
	c.Process.Args = slices.Clone(x.Process.Args)
	if x.About != nil {
		about := *x.About
		about.Addresses, about.Sees, about.Blind = slices.Clone(about.Addresses), slices.Clone(about.Sees), slices.Clone(about.Blind)
		c.About = &about
	}
}

func (r *run) reset() {
	r.events.Reset()
	clear(r.records)
	r.records, r.order, r.next, r.size = r.records[:0], r.order[:0], 0, 0
}

// full reports whether the run is to be handed on.
func (r *run) full() bool { return r.events.Full() || len(r.records) >= 512 }

// sort brings the events in order; those of one time stay as they stood.
func (r *run) sort() {
	byTime := func(a, b entry) int {
		if a.at < b.at {
			return -1
		} else if a.at > b.at {
			return 1
		}
		return 0
	}
	if !slices.IsSortedFunc(r.order, byTime) {
		slices.SortStableFunc(r.order, byTime)
	}
	r.size = r.events.Bytes() + len(r.order)*16 + len(r.records)*recordBytes
}

// before reports whether r's next event comes before o's.
func (r *run) before(o *run) bool {
	a, b := r.order[r.next].at, o.order[o.next].at
	switch {
	case a != b:
		return a < b
	case r.source != o.source:
		return r.source < o.source
	}
	return r.number < o.number
}

// heap is runs that have events left, ordered as a heap by their next one.
type heap []*run

func (h *heap) push(r *run) {
	*h = append(*h, r)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s[i].before(s[up]) {
			return
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

// fix restores the order after the first run's next event changed, or takes it out when it has none left.
func (h *heap) fix() {
	s := *h
	if s[0].next == len(s[0].order) {
		last := len(s) - 1
		s[0], s[last] = s[last], nil
		s = s[:last]
		*h = s
	}
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(s); c++ {
			if s[c].before(s[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}

// second returns the time of the next event of any run but the first; there are at least two.
func (h heap) second() event.Time {
	t := h[1].order[h[1].next].at
	if len(h) > 2 {
		t = min(t, h[2].order[h[2].next].at)
	}
	return t
}
