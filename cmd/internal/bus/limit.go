package bus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limit bounds how many hits of one client, hypothesis and level are published one by one: a
// broken allow rule, or somebody who triggers matches on purpose, must not bury the rest.
// Of the others a summary goes out, a hit of its own with portolan.suppressed. Counts since the last
// summary are in memory only: a sensor that is killed takes those of at most Every with it.
type Limit struct {
	Burst     int           // hits at once, from 1; 0 for no limit
	PerMinute float64       // hits beyond that, above 0
	Every     time.Duration // between two summaries of the same, from 1 s
}

// Validate returns an error that names the first field with a value that cannot be.
func (l Limit) Validate() error {
	switch {
	case l.Burst < 0:
		return fmt.Errorf("limit: burst %d: want 0 or above", l.Burst)
	case l.Burst > 0 && !(l.PerMinute > 0):
		return fmt.Errorf("limit: %g a minute: want above 0", l.PerMinute)
	case l.Burst > 0 && l.Every < time.Second:
		return fmt.Errorf("limit: summaries every %v: want at least 1s", l.Every)
	}
	return nil
}

// Suppressed says, in a summary, what was not published one by one.
type Suppressed struct {
	Count    uint64    `json:"count"`    // hits and revisions
	Since    time.Time `json:"since"`    // the first of them, by the time of its connection
	Until    time.Time `json:"until"`    // the last of them
	Examples []Example `json:"examples"` // the first ones, at most maxExamples
}

// Example is a hit that was not published.
type Example struct {
	HitID       string    `json:"hit_id"`
	Time        time.Time `json:"time"`
	Destination string    `json:"destination"` // address, port and transport
	Name        string    `json:"name,omitempty"`
}

const (
	maxExamples = 8
	maxBuckets  = 1 << 16 // clients, hypotheses and levels at once; beyond, hits pass: then no single client is at fault
	maxPassed   = 256     // hits of a bucket whose later revisions pass too
)

// limiter is safe for concurrent use.
type limiter struct {
	cfg        Limit
	suppressed atomic.Uint64

	mu      sync.Mutex
	buckets map[bucketKey]*bucket
}

type bucketKey struct {
	zone       Zone
	client     netip.Addr
	hypothesis string
	level      string
}

// bucket has a token for each hit that may pass.
type bucket struct {
	tokens  float64
	at      time.Time // when tokens were counted
	passed  []string  // newest last
	summary *Message  // made of the first hit that did not pass since the last summary; nil when all did
	since   time.Time // when that was
}

func newLimiter(cfg Limit) *limiter {
	return &limiter{cfg: cfg, buckets: make(map[bucketKey]*bucket)}
}

// allow reports whether m may be published; otherwise it counts for a summary. A later
// revision of a hit that was published may pass on credit: a retraction must not be lost.
func (l *limiter) allow(m *Message, now time.Time) bool {
	k := bucketKey{m.Portolan.Zone, m.Source.IP, m.Portolan.Calc.Hypothesis, m.Portolan.Level}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.Burst == 0 || m.enriched() {
		return true
	}
	b := l.buckets[k]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			return true
		}
		b = &bucket{tokens: float64(l.cfg.Burst), at: now}
		l.buckets[k] = b
	}
	l.refill(b, now)
	least := 1.0
	id := m.Portolan.HitID
	known := m.Portolan.Revision > 1 && slices.Contains(b.passed, id)
	if known {
		least = -float64(l.cfg.Burst)
	}
	if b.tokens >= least {
		b.tokens--
		if !known {
			if len(b.passed) >= maxPassed {
				b.passed = append(b.passed[:0], b.passed[maxPassed/2:]...)
			}
			b.passed = append(b.passed, id)
		}
		return true
	}
	l.suppressed.Add(1)
	b.suppress(m, now)
	return false
}

// set replaces the bounds. What buckets hold stays, up to the new bound.
func (l *limiter) set(cfg Limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
}

func (l *limiter) refill(b *bucket, now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(b.tokens+d.Minutes()*l.cfg.PerMinute, float64(l.cfg.Burst))
		b.at = now
	}
}

func (b *bucket) suppress(m *Message, now time.Time) {
	if b.summary == nil {
		c := *m
		c.Portolan.Suppressed = &Suppressed{Since: m.Timestamp, Until: m.Timestamp}
		b.summary, b.since = &c, now
	}
	s := b.summary.Portolan.Suppressed
	s.Count++
	if m.Timestamp.Before(s.Since) {
		s.Since = m.Timestamp
	}
	if m.Timestamp.After(s.Until) {
		s.Until = m.Timestamp
	}
	if len(s.Examples) < maxExamples {
		s.Examples = append(s.Examples, Example{
			HitID: m.Portolan.HitID, Time: m.Timestamp, Destination: m.destination(), Name: m.Portolan.Lookup.Name,
		})
	}
}

// due returns the summaries of buckets that have had hits to tell of for Limit.Every, and
// forgets buckets that are full again. The zero time asks for all summaries.
func (l *limiter) due(now time.Time) []*Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*Message
	for k, b := range l.buckets {
		switch {
		case b.summary != nil && (now.IsZero() || now.Sub(b.since) >= l.cfg.Every):
			out = append(out, summarized(b.summary))
			b.summary = nil
		case b.summary == nil && !now.IsZero():
			if l.refill(b, now); b.tokens >= float64(l.cfg.Burst) {
				delete(l.buckets, k)
			}
		}
	}
	slices.SortFunc(out, func(a, b *Message) int { return a.Timestamp.Compare(b.Timestamp) })
	return out
}

// summarized completes a summary: it has an id of its own, and stands for what it counts.
func summarized(m *Message) *Message {
	p := &m.Portolan
	s := p.Suppressed
	sum := sha256.Sum256(fmt.Appendf(nil, "portolan.summary/1\x00%s\x00%s\x00%s\x00%d", m.Observer.Name, s.Examples[0].HitID,
		p.Level, s.Since.UnixNano()))
	p.HitID, p.Revision = hex.EncodeToString(sum[:16]), 1
	m.Event.ID = MessageID(p.HitID, p.Revision)
	m.Message = fmt.Sprintf("%s more like this one between %s and %s, not published one by one: %s",
		count(s.Count), s.Since.UTC().Format(time.TimeOnly), s.Until.UTC().Format(time.TimeOnly), m.sentence())
	return m
}
