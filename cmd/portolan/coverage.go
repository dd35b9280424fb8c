package main

import (
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/coverage"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// lostMessages counts hits that never reached NATS, by where they were lost.
type lostMessages struct{ queue, spool uint64 }

// counted returns what capture, correlation and publishing counted, for package coverage.
func counted(s *sensor.Stats, c *correlate.Stats, lost lostMessages, t coverage.Traffic) coverage.Counts {
	n := &s.Counters
	counts := coverage.Counts{
		Frames: s.Frames, Bytes: s.Bytes, Truncated: s.Truncated, Oversize: s.Oversize, Backward: s.Backward,
		Reasons: s.Reasons, Decoder: *n,
		Loss: coverage.Loss{
			NIC:        s.Interface.Lost(),
			Decoder:    n.StartsEvicted + n.FlowsEvicted + n.FragmentsEvicted + n.StreamsEvicted + n.StreamsCut,
			Correlator: c.EvictedClients + c.EvictedAnswers + c.EvictedEvidence + c.Refused,
			Queue:      lost.queue,
			Spool:      lost.spool,
		},
		Dark:    uint64(s.Dark),
		Lookups: c.Lookups, Connections: c.Connections, Explained: c.Explained, Late: c.Late,
		Settled: c.Unjudged + c.PortTrials + c.AddressTrials,
		Traffic: t,
	}
	for _, n := range c.ExplainedBy {
		counts.Settled += n
	}
	for _, r := range s.Rings {
		counts.Loss.Ring += r.Dropped
		counts.LinkDowns = max(counts.LinkDowns, r.LinkDowns)
		counts.Reopens = max(counts.Reopens, r.Reopens)
	}
	return counts
}

// coverageOf returns an assessment as messages carry it; client and window are left to the caller.
func coverageOf(a *coverage.Assessment, n *coverage.Counts, live bool) bus.Context {
	return bus.Context{
		Verdict: string(a.Verdict), Rule: a.Rule(), Why: a.Why(), Notes: a.Notes(),
		Loss:       lossOf(&n.Loss, live),
		Directions: directionsOf(n),
	}
}

// directionsOf returns which ways traffic was seen; records of other programs do not tell.
func directionsOf(n *coverage.Counts) bus.Directions {
	if n.Frames+n.Decoder.Connections+n.Decoder.Queries+n.Decoder.Responses == 0 && n.Lookups+n.Connections > 0 {
		return bus.Directions{DNS: bus.Unknown, TCP: bus.Unknown}
	}
	return bus.Directions{
		DNS: bus.Direction(n.Decoder.Queries, n.Decoder.Responses), TCP: bus.Direction(n.Decoder.SYN, n.Decoder.SYNACK),
	}
}

// lossOf returns losses as messages carry them. A capture file does not tell of all.
func lossOf(l *coverage.Loss, live bool) bus.Loss {
	loss := bus.Loss{NIC: l.NIC, Ring: l.Ring, Decoder: l.Decoder, Correlator: l.Correlator, Queue: l.Queue, Spool: l.Spool}
	if !live {
		loss.Unknown = []string{"before the capture was written"}
	}
	return loss
}

// judge applies what coverage means for a hit: it lowers the level of an alert that coverage is too poor for, and
// says so in c. It returns false for a lead that is not to be published.
func judge(h *correlate.Hit, a *coverage.Assessment, client coverage.ClientView, c *bus.Context) (publish bool) {
	c.Client = client
	muted, lower, rule, why := a.Judge(coverage.Hit{
		Alert: h.Level == correlate.Alert, Absent: h.Level == correlate.Lead && h.Calc.Kind == correlate.Address,
	}, &client)
	if lower {
		c.Downgraded = &bus.Downgrade{From: h.Level.String(), Rule: rule, Why: why}
		h.Level = correlate.Watch
	}
	return !muted
}

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// leastSpan is the shortest time over which a rate of trials is taken.
const leastSpan = time.Minute

// expectation is how many false hits of a level to expect in a day, and how that is known.
type expectation struct {
	perDay float64
	basis  string // "bound" or "measured"
}

// expectedFalse says for each level how many hits chance makes in a day: what the decoys
// reached, with one more as if it came next, or the bound of package evidence (trials over threshold)
// where that is less.
func expectedFalse(cfg *correlate.Config, c *correlate.Stats, span time.Duration) (all [correlate.Alert + 1]expectation) {
	perDay := float64(24*time.Hour) / float64(max(span, leastSpan))
	trials := float64(c.PortTrials+c.AddressTrials) * perDay
	for level, threshold := range map[correlate.Level]float64{correlate.Watch: cfg.Watch, correlate.Alert: cfg.Alert} {
		reached := uint64(0)
		for l := level; l <= correlate.Alert; l++ {
			reached += c.Decoys[l]
		}
		all[level] = expectation{trials / threshold, "bound"}
		if measured := float64(reached+1) * perDay; measured < all[level].perDay {
			all[level] = expectation{measured, "measured"}
		}
	}
	return all
}

// put writes the expectation for a level, and the decoys it comes from, into c.
func (e *expectation) put(c *bus.Context, s *correlate.Stats) {
	c.ExpectedFalsePerDay, c.ExpectedFalseBasis = e.perDay, e.basis
	c.Decoys = bus.Decoys{Watch: s.Decoys[correlate.Watch], Alert: s.Decoys[correlate.Alert]}
}

// tunnelCounts returns the tunnels that occurred, by name; nil when there were none.
func tunnelCounts(c *decode.Counters) map[string]uint64 {
	var m map[string]uint64
	put := func(name string, n uint64) {
		if n == 0 {
			return
		}
		if m == nil {
			m = map[string]uint64{}
		}
		m[name] = n
	}
	for k, n := range c.Tunnels {
		put(decode.TunnelKind(k).String(), n)
	}
	put("too-deep", c.TunnelsTooDeep)
	return m
}

// reasonCounts returns the reasons that occurred, by name.
func reasonCounts(reasons *[decode.NumReasons]uint64) map[string]uint64 {
	m := map[string]uint64{}
	for r := range decode.NumReasons {
		if n := reasons[r]; n > 0 {
			m[r.String()] = n
		}
	}
	return m
}
