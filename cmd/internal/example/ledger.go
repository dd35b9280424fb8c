package example

import "sync"

// Ledger remembers what came: the highest revision of each hit, and which sequences of each sensor.
// A sensor numbers its messages from 1 without a gap, over restarts too. Its methods are safe for
// concurrent use. A real program would forget hits after the stream has, 30 days by default.
type Ledger struct {
	mu        sync.Mutex
	revisions map[string]uint32
	sensors   map[string]*account
}

// account is what is known of one sensor's sequence.
type account struct {
	next  uint64          // all below have come, or the sensor has said that they will not
	ahead map[uint64]bool // likewise, above next
	last  uint64          // the highest that came or was promised
	lost  uint64          // of the latter, those with which something is lost
}

// NewLedger returns an empty Ledger.
func NewLedger() *Ledger {
	return &Ledger{revisions: map[string]uint32{}, sensors: map[string]*account{}}
}

// Came enters a message, and reports whether its revision of the hit is news. Sequence 0 is none:
// a replay gives out none.
func (l *Ledger) Came(sensor string, sequence uint64, hit string, revision uint32) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sequence > 0 {
		l.account(sensor).settle(sequence)
	}
	if revision <= l.revisions[hit] {
		return false
	}
	l.revisions[hit] = revision
	return true
}

// Promised enters what a coverage record says: up to which sequence messages were given out, and
// which of them will not come.
func (l *Ledger) Promised(sensor string, last uint64, gone []Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(sensor)
	a.last = max(a.last, last)
	for _, g := range gone {
		for n := max(g.First, a.next); n <= min(g.Last, last); n++ {
			if n >= a.next && !a.ahead[n] { // settling one may settle others
				if g.Reason == "lost" {
					a.lost++
				}
				a.settle(n)
			}
		}
	}
}

// Missing returns what has neither come nor been named by the sensor. It is empty when nothing is
// under way: then lost counts everything that will never come.
func (l *Ledger) Missing(sensor string) (missing []Gap, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(sensor)
	return missingOf(a.next, a.last, a.ahead), a.lost
}

func (l *Ledger) account(sensor string) *account {
	a := l.sensors[sensor]
	if a == nil {
		a = &account{next: 1, ahead: map[uint64]bool{}}
		l.sensors[sensor] = a
	}
	return a
}

func (a *account) settle(n uint64) {
	if n < a.next {
		return
	}
	a.ahead[n] = true
	a.last = max(a.last, n)
	for a.ahead[a.next] {
		delete(a.ahead, a.next)
		a.next++
	}
}
