package correlate

import (
	"fmt"
	"math"
	"time"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// A lead has no arithmetic: it is worth a look because of what the client did.
const (
	leadEvery      = event.Time(24 * time.Hour)   // at most one lead of a client in this time
	orphanMin      = 5                            // answers never contacted
	orphanAge      = event.Time(60 * time.Second) // how old they may be
	orphanLag      = event.Time(time.Second)      // the first destination follows the newest of them this soon
	burstMin       = 3                            // destinations never answered
	burstTime      = event.Time(60 * time.Second)
	abnormalLag    = event.Time(10 * time.Second) // an abnormal port follows the answer this soon
	abnormalChance = 1e-4                         // a port that the zone uses more often is not abnormal
	settledIn      = 30                           // connections that a client's baseline needs
	blindBelow     = 0.5                          // share of connections that a lookup explains: below, most lookups are not seen here
	unusualIn      = 30                           // at most one in so many of them on an unusual port: else no port is abnormal
)

// lead appends to dst a lead when the trial x, which no hypothesis predicts, gives cause for one.
func (s *shard) lead(dst []Hit, c *client, l *learner, x *pending, v *verdict, used bool) []Hit {
	if v.quiet || l.gated || l.led && x.time-l.leadAt < leadEvery {
		return dst
	}
	var what match
	if v.kind == Port {
		what = s.abnormalPort(c, l, x, v, used)
	} else {
		what = s.orphans(c, l, x)
	}
	if what.name == "" {
		return dst
	}
	l.led, l.leadAt = true, x.time
	mixture := hypothesis.Port4
	if v.kind == Address {
		mixture = hypothesis.AddressA
	}
	w := weighed{eValue: 1, mixture: mixture, ordinal: s.past(c).trials[mixture], shares: []share{{found: found{mixture: mixture, via: hypothesis.ViaA, operand: what.answer, word: what.word}, eValue: 1}}}
	h := s.hit(c, nil, x, v, &w)
	h.ID, h.Level, h.State, h.Revision = idOf(c.zone, client4(c), x.proto, destination(x)), Lead, Final, 1
	h.Calc.Match = Match{Hypothesis: what.id, Name: what.name, Expression: what.text, Operand: h.Calc.Operand, EValue: 1}
	h.Calc.Chance, h.Calc.SupportTrials, h.Calc.SupportAnswers = 1, 0, 0
	s.stats.Final[Lead]++
	s.stats.Leads++
	return append(dst, h)
}

// match is what a lead says.
type match struct {
	id, name, text string
	answer         [16]byte
	word           uint32
}

// orphans looks for a burst of destinations that no lookup explains, right after answers
// none of which is contacted: what transforms that nobody has written down look like. Of a client
// whose lookups go elsewhere (encrypted, cached, by a forwarder) it says nothing that no lookup explains a destination.
func (s *shard) orphans(c *client, l *learner, x *pending) (m match) {
	if y, ok := word(&x.addr); !ok || !baseline.Public(y) {
		return m
	}
	if c.conns >= settledIn && float64(c.explained) < blindBelow*float64(c.conns) {
		return m
	}
	orphans, newest := 0, answer{last: math.MinInt64}
	t := s.told(c)
	for i := 0; i < t.len; i = t.next(i) {
		a := t.at(i)
		if a.kind != kindA || a.last > x.time || x.time-a.last > orphanAge {
			continue
		}
		if !a.contacted {
			orphans++
		}
		if a.last > newest.last {
			newest = a
		}
	}
	if orphans < orphanMin {
		l.burst = 0
		return m
	}
	if l.burst == 0 || x.time-l.burstAt > burstTime {
		l.burst = 0
		if x.time-newest.last <= orphanLag {
			l.burst, l.burstAt = 1, x.time
		}
		return m
	}
	if l.burst++; l.burst < burstMin {
		return m
	}
	l.burst = 0
	m.id, m.name = "L1", "orphan answers"
	m.text = fmt.Sprintf("%d answers of the last minute were never contacted; %d destinations that no lookup explains were, the first within a second of an answer",
		orphans, burstMin)
	m.answer = newest.addr
	m.word, _ = word(&newest.addr)
	return m
}

// abnormalPort looks for a port that the client never used before, shortly after the
// answer that is the destination: the analytic's second sentence.
func (s *shard) abnormalPort(c *client, l *learner, x *pending, v *verdict, used bool) (m match) {
	a, ok := s.known(c, &pending{kind: kindA, addr: x.addr})
	if !ok || used || v.q > abnormalChance || c.conns < settledIn || l.uses*unusualIn > c.conns || x.time < a.last || x.time-a.last > abnormalLag || x.dport < 1024 {
		return m
	}
	m.id, m.name = "L2", "abnormal port"
	m.text = fmt.Sprintf("port %d was never used by this client in %d connections, and is used %s after the answer",
		x.dport, c.conns, x.time.Sub(a.last).Round(time.Microsecond))
	m.answer = x.addr
	m.word, _ = word(&x.addr)
	return m
}
