package bus

import (
	"slices"

	"portolan/cmd/internal/spool"
)

// Sequences proves, from the hits and coverage records of one sensor in any order, that a
// subscriber missed none: Missing is empty then. Its zero value is ready; it is for one
// goroutine. It remembers runs, not numbers.
type Sequences struct {
	known []spool.Gap // runs of sequences that came or were named, ascending, apart
	first uint64      // nothing is asked of sequences before it
	last  uint64      // the last one that is known to have been given out
}

// From begins at a sequence: what came before is not asked for.
func (s *Sequences) From(sequence uint64) { s.first = sequence }

// Hit takes a hit that came, once or more often.
func (s *Sequences) Hit(m *Message) {
	if q := m.Portolan.Sequence; q > 0 {
		s.add(q, q)
		s.last = max(s.last, q)
	}
}

// Record takes a coverage record of the sensor.
func (s *Sequences) Record(r *CoverageRecord) {
	if r.Delivery == nil {
		return
	}
	s.last = max(s.last, r.Delivery.Sequence)
	for _, g := range r.Delivery.Missing {
		if g.First > 0 && g.First <= g.Last {
			s.add(g.First, g.Last)
		}
	}
}

// Missing returns the runs of sequences up to the last one given out that neither came nor
// were named by a record. They may be on their way.
func (s *Sequences) Missing() []spool.Gap {
	var out []spool.Gap
	next := max(s.first, 1)
	for _, g := range s.known {
		if g.First > next {
			out = append(out, spool.Gap{First: next, Last: g.First - 1, Reason: spool.Lost})
		}
		next = max(next, g.Last+1)
	}
	if s.last >= next {
		out = append(out, spool.Gap{First: next, Last: s.last, Reason: spool.Lost})
	}
	return out
}

// add joins a run with those that it touches.
func (s *Sequences) add(first, last uint64) {
	i, _ := slices.BinarySearchFunc(s.known, first, func(g spool.Gap, first uint64) int {
		if g.Last+1 < first {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(s.known) && s.known[j].First <= last+1; j++ {
		first, last = min(first, s.known[j].First), max(last, s.known[j].Last)
	}
	s.known = slices.Replace(s.known, i, j, spool.Gap{First: first, Last: last})
}
