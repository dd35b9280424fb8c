package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/correlate"
)

// openHits bounds the hits that are remembered because subscribers have a revision of them
// that may still change.
const openHits = 1 << 16

// allowRules keep hits from being published, and count them. Methods may be called concurrently.
type allowRules struct {
	mu    sync.Mutex
	rules []allowRule
	held  [correlate.Alert + 1]uint64 // hits by level that no subscriber got
	open  map[string]struct{}         // ids of hits, given out and not final
}

type allowRule struct {
	config.AllowRule
	held   uint64 // final hits that it kept back
	passed uint64 // final hits that it would have kept back, had it not expired
	told   bool   // that it has expired
}

func newAllowRules(list []config.AllowRule) *allowRules {
	r := &allowRules{open: map[string]struct{}{}}
	for _, a := range list {
		r.rules = append(r.rules, allowRule{AllowRule: a})
	}
	return r
}

// replace puts other rules in the place of those there are. What was counted for rules that stay goes on.
func (r *allowRules) replace(list []config.AllowRule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.rules
	r.rules = nil
	for _, a := range list {
		rule := allowRule{AllowRule: a}
		if i := slices.IndexFunc(old, func(o allowRule) bool { return o.AllowRule == a }); i >= 0 {
			rule = old[i]
		}
		r.rules = append(r.rules, rule)
	}
}

// Match returns the reason of the first rule that fits m and has not expired at now.
func (r *allowRules) Match(m *bus.Message, now time.Time) (reason string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rule := r.matchLocked(m, now); rule != nil {
		return rule.Reason, true
	}
	return "", false
}

func (r *allowRules) matchLocked(m *bus.Message, now time.Time) *allowRule {
	for i := range r.rules {
		if a := &r.rules[i]; !a.expired(now) && a.fits(m) {
			return a
		}
	}
	return nil
}

// holds reports whether m is not to be given out at now, and counts it with its rule once it
// is final. When subscribers have an earlier revision of the hit, they get the later
// ones too: a name that came late or a rule that ended meanwhile leaves nobody with half a story.
func (r *allowRules) holds(level correlate.Level, m *bus.Message, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, final := m.Portolan.HitID, m.Portolan.State != correlate.Provisional.String()
	_, known := r.open[id]
	rule := r.matchLocked(m, now)
	counts := m.Portolan.State == correlate.Final.String()
	if rule == nil || known {
		switch {
		case final:
			delete(r.open, id)
		case len(r.open) < openHits:
			r.open[id] = struct{}{}
		}
		if counts && rule == nil {
			r.passLocked(m)
		}
		return false
	}
	if counts {
		rule.held++
		r.held[level]++
	}
	return true
}

// passLocked counts a hit with the first expired rule that fits it, so that its owner sees what it is
// still good for.
func (r *allowRules) passLocked(m *bus.Message) {
	for i := range r.rules {
		if a := &r.rules[i]; a.fits(m) {
			a.passed++
			return
		}
	}
}

func (a *allowRule) expired(now time.Time) bool { return !a.Until.IsZero() && !now.Before(a.Until) }

// fits reports whether everything that the rule says is so.
func (a *allowRule) fits(m *bus.Message) bool {
	switch {
	case a.Client.IsValid() && !a.Client.Contains(m.Source.IP):
		return false
	case a.Destination.IsValid() && !a.Destination.Contains(m.Destination.IP):
		return false
	case a.Ports[1] != 0 && (m.Destination.Port < a.Ports[0] || m.Destination.Port > a.Ports[1]):
		return false
	case a.Proto != 0 && a.Proto.String() != m.Network.Transport:
		return false
	case a.Name != "" && !fitsName(a.Name, m.Portolan.Lookup.Name):
		return false
	}
	return a.Hypothesis == "" || fitsID(a.Hypothesis, m.Rule.ID)
}

// fitsName compares names without case; *.example fits all below example.
func fitsName(pattern, name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if below, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return name == pattern
}

func fitsID(pattern, id string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(id, prefix)
	}
	return id == pattern
}

// expiredNow returns the rules that have expired at now, each once, as text.
func (r *allowRules) expiredNow(now time.Time) (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.rules {
		if a := &r.rules[i]; a.expired(now) && !a.told {
			a.told = true
			texts = append(texts, fmt.Sprintf("allow rule %d (%s) expired %s", i+1, a.Reason, dayOf(a.Until)))
		}
	}
	return texts
}

// dayOf writes when a rule ended: the last day when it ended with one.
func dayOf(until time.Time) string {
	if until = until.UTC(); until.Equal(until.Truncate(24 * time.Hour)) {
		return "after " + until.AddDate(0, 0, -1).Format(time.DateOnly)
	}
	return "at " + until.Format(time.RFC3339)
}

// allowed is what the rules came to.
type allowed struct {
	hits  [correlate.Alert + 1]uint64 // by level, kept back
	lines []string                    // one for each rule that had to do with a hit
}

// result returns what the rules came to so far.
func (r *allowRules) result() allowed {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := allowed{hits: r.held}
	for i := range r.rules {
		a := &r.rules[i]
		if a.held > 0 {
			x.lines = append(x.lines, fmt.Sprintf("%s by rule %d (%s), not published", count(a.held, "hit", "hits"), i+1, a.Reason))
		}
		if a.passed > 0 {
			x.lines = append(x.lines, fmt.Sprintf("%s published that rule %d (%s) fits: it expired %s",
				count(a.passed, "hit was", "hits were"), i+1, a.Reason, dayOf(a.Until)))
		}
	}
	return x
}

// total returns how many hits were kept back.
func (x *allowed) total() (n uint64) {
	for _, k := range x.hits {
		n += k
	}
	return n
}
