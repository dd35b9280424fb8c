package correlate

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// A constant that an alert has confirmed at one client is tried on all: one family's
// implants share it, and the next infected host need not teach it anew.

const (
	maxSiteKeys = 16                          // the newest are kept
	siteDelay   = event.Time(2 * time.Minute) // of packet time until a constant is tried elsewhere, so that order decides nothing
)

// siteKey is a constant that was confirmed at some client.
type siteKey struct {
	family hypothesis.Learned
	key    uint32
	since  event.Time
}

// siteKeys are the constants that all shards share. Readers take no lock.
type siteKeys struct {
	mu  sync.Mutex
	all atomic.Pointer[[]siteKey]
}

// add enters a constant confirmed at time t; the earliest time of it counts.
func (k *siteKeys) add(f hypothesis.Learned, key uint32, t event.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []siteKey
	if p := k.all.Load(); p != nil {
		all = slices.Clone(*p)
	}
	if i := slices.IndexFunc(all, func(s siteKey) bool { return s.family == f && s.key == key }); i >= 0 {
		if all[i].since <= t {
			return
		}
		all[i].since = t
	} else {
		all = append(all, siteKey{f, key, t})
	}
	// In which order shards come to confirm them makes no difference.
	slices.SortFunc(all, func(a, b siteKey) int {
		return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.family, b.family), cmp.Compare(a.key, b.key))
	})
	all = all[max(0, len(all)-maxSiteKeys):]
	k.all.Store(&all)
}

// expectSite has s.inverses take notice of the words from which the constants known at the site lead
// to the destination y at time at.
func (s *shard) expectSite(y uint32, at event.Time) {
	p := s.site.all.Load()
	if p == nil {
		return
	}
	for _, k := range *p {
		if k.since+siteDelay <= at {
			s.inverses.Expect(k.family.Undo(y, k.key))
		}
	}
}

// trySite appends to t.found the constants known at the site that lead from the fresh
// answers to the destination y at time at.
func (s *shard) trySite(t *tries, y uint32, at event.Time) {
	p := s.site.all.Load()
	if p == nil {
		return
	}
	known := 0
	from := len(t.found)
	for _, k := range *p {
		if k.since+siteDelay > at {
			continue
		}
		known++
		want := k.family.Undo(y, k.key)
		for i := range t.fresh {
			if t.fresh[i].word == want {
				t.found = append(t.found, found{
					mixture: hypothesis.AddressA, sort: sortLearned, which: uint8(k.family), constant: k.key, word: want, operand: mapped(want),
					times: 1, site: true,
				})
			}
		}
	}
	for i := from; i < len(t.found); i++ {
		t.found[i].of, t.found[i].keys = len(t.fresh), known
	}
}

// confirmed enters the constants that a hit of level Alert rests on.
func (s *shard) confirmed(w *weighed, at event.Time) {
	for i := range w.shares {
		if f := &w.shares[i]; f.sort == sortLearned && f.trials >= 2 && f.eValue >= s.cfg.Alert {
			s.site.add(hypothesis.Learned(f.which), f.constant, at)
		}
	}
}
