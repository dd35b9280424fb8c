package coverage

import (
	"sync"

	"portolan/sensor/event"
)

// How far a History reaches back: seconds for the first minutes, minutes for more than a day, as answers with long TTLs
// can explain connections for so long. It takes some 2 MB when it is full.
const (
	keepSeconds = 5 * 60
	keepMinutes = 26 * 60
	second      = event.Time(1e9)
	minute      = 60 * second
)

// LeastWindow is the time over which at least a hit is assessed: of less, too little is known.
const LeastWindow = 5 * minute

// moment is what had been counted at a time.
type moment struct {
	at     event.Time
	counts Counts
}

// History remembers what had been counted each second and each minute, so that a hit can be assessed by the time
// between its lookup and its connection. Its methods may be called from any goroutine. The zero value is empty.
type History struct {
	mu      sync.Mutex
	seconds trail
	minutes trail
}

// trail holds the newest moments, at most so many.
type trail struct {
	all  []moment
	next int // of all, once it is full: the oldest
}

func (t *trail) add(m moment, most int) {
	if len(t.all) < most {
		t.all = append(t.all, m)
		return
	}
	t.all[t.next] = m
	t.next = (t.next + 1) % most
}

// newest returns the ith newest moment, nil beyond the oldest.
func (t *trail) newest(i int) *moment {
	n := len(t.all)
	if i >= n {
		return nil
	}
	return &t.all[(t.next-1-i+2*n)%n]
}

// before returns the newest moment not later than at, else nil.
func (t *trail) before(at event.Time) *moment {
	for i := range t.all {
		if m := t.newest(i); m.at <= at {
			return m
		}
	}
	return nil
}

// Add remembers what has been counted up to now. More than one moment a second is not kept.
func (h *History) Add(at event.Time, c *Counts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.seconds.newest(0); last == nil || at-last.at >= second || at < last.at {
		h.seconds.add(moment{at, *c}, keepSeconds)
	}
	if last := h.minutes.newest(0); last == nil || at-last.at >= minute || at < last.at {
		h.minutes.add(moment{at, *c}, keepMinutes)
	}
}

// Since returns what was counted from a time on, or from a little earlier, up to c, and when that began: at what Since
// knows, or 0 for the beginning of everything.
func (h *History) Since(from event.Time, c *Counts) (d Counts, began event.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.seconds.before(from)
	if m == nil {
		m = h.minutes.before(from)
	}
	if m == nil {
		return *c, 0
	}
	return c.Since(&m.counts), m.at
}
