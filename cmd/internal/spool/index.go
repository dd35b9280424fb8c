package spool

// list holds the entries of a class in the order of their numbers.
type list struct{ first, last *entry }

func (l *list) push(e *entry) {
	e.prev, e.next = l.last, nil
	if l.last != nil {
		l.last.next = e
	} else {
		l.first = e
	}
	l.last = e
}

func (l *list) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.last = e.prev
	}
	e.prev, e.next = nil, nil
}

// oldest returns the first entry that may go and for which ok holds. What the sender has
// stays: it may be acknowledged any moment, and would be counted wrongly. The sender has few.
func (l *list) oldest(ok func(*entry) bool) *entry {
	for e := l.first; e != nil; e = e.next {
		if !e.flying && ok(e) {
			return e
		}
	}
	return nil
}

// byNumber is a heap of entries, oldest first.
type byNumber []*entry

func (h byNumber) Len() int           { return len(h) }
func (h byNumber) Less(i, j int) bool { return h[i].number < h[j].number }
func (h byNumber) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byNumber) Push(x any)        { *h = append(*h, x.(*entry)) }
func (h *byNumber) Pop() any          { return popLast((*[]*entry)(h)) }

// byTime is a heap of entries, the first to be sent again first.
type byTime []*entry

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h byTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)        { *h = append(*h, x.(*entry)) }
func (h *byTime) Pop() any          { return popLast((*[]*entry)(h)) }

func popLast(h *[]*entry) *entry {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return e
}

// Gap is a run of sequences that subscribers may never see.
type Gap struct {
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	Reason Reason `json:"reason"`
}

// Reason says why a sequence is missing.
type Reason uint8

// The reasons.
const (
	Lost      Reason = iota // made room for others, or could not be read back
	Duplicate               // the stream had a message of this ID already
	Unused                  // set aside and not all given out when the process was killed; some may come all the same
)

var reasonNames = [...]string{"lost", "duplicate", "unused"}

// MarshalText returns the reason's name.
func (r Reason) MarshalText() ([]byte, error) {
	if int(r) >= len(reasonNames) {
		return []byte("unknown"), nil
	}
	return []byte(reasonNames[r]), nil
}

// UnmarshalText reads what MarshalText writes; what it does not know counts as Unused.
func (r *Reason) UnmarshalText(b []byte) error {
	*r = Unused
	for i, n := range reasonNames {
		if n == string(b) {
			*r = Reason(i)
		}
	}
	return nil
}

// maxGaps bounds the list of gaps; what does not fit is counted.
const maxGaps = 1024

// nearGaps bounds how many gaps, newest first, are tried for one that a sequence extends.
const nearGaps = 64

func (s *Spool) addGapLocked(sequence uint64, why Reason) {
	if sequence == 0 {
		return
	}
	for i := len(s.gaps) - 1; i >= max(0, len(s.gaps)-nearGaps); i-- {
		g := &s.gaps[i]
		if g.Reason != why {
			continue
		}
		switch {
		case sequence >= g.First && sequence <= g.Last:
			return
		case sequence == g.Last+1:
			g.Last++
			return
		case sequence+1 == g.First:
			g.First--
			return
		}
	}
	s.addGapsLocked(Gap{sequence, sequence, why})
}

func (s *Spool) addGapsLocked(g Gap) {
	if len(s.gaps) >= maxGaps {
		s.state.unlisted += g.Last - g.First + 1
		return
	}
	s.gaps = append(s.gaps, g)
}

// TakeGaps returns up to n gaps to be published, oldest first, and forgets them; unlisted is
// how many further sequences are missing since the spool was made that no list names.
func (s *Spool) TakeGaps(n int) (gaps []Gap, unlisted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.gaps))
	gaps = append(gaps, s.gaps[:n]...)
	s.gaps = append([]Gap(nil), s.gaps[n:]...)
	if n > 0 {
		s.dirty = true
		signal(s.work)
	}
	return gaps, s.state.unlisted
}
