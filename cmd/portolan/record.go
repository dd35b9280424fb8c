package main

import (
	"cmp"
	"slices"
	"time"

	"portolan/bpffilter"
	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/coverage"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// publishRecord publishes what happened since the last record. One that finds no room, as in a spool full of alerts,
// is made up for by the next, which is of the longer time.
func (m *monitor) publishRecord(now time.Time, s *snapshot) {
	m.tried = now
	if err := m.line.bus.PublishCoverage(m.makeRecord(now, s)); err != nil {
		m.log.Warn("coverage record not sent", "error", err)
		return
	}
	m.record, m.last = now, *s
}

// makeRecord says what could be judged since the last record.
func (m *monitor) makeRecord(now time.Time, s *snapshot) *bus.CoverageRecord {
	n, o := s.counts.Since(&m.last.counts), &m.last
	span := now.Sub(m.record)
	source := coverage.Source{Live: true, Span: span, SelfTest: m.line.tester.failed(), Beside: m.line.told}
	v := coverage.Assess(&n, &s.view, source)
	c := coverageOf(&v, &n, true)
	hits := map[string]uint64{}
	for level := correlate.Lead; level <= correlate.Alert; level++ {
		hits[level.String()] = s.correlate.Final[level] - o.correlate.Final[level]
	}
	return &bus.CoverageRecord{
		Schema: bus.CoverSchema, Time: now.UTC(), Sensor: m.line.cfg.Sensor, Version: thisBuild().Version,
		Device: m.line.device, Interval: span.Seconds(),
		Verdict: c.Verdict, Rule: c.Rule, Why: c.Why, Findings: v.Findings, Loss: c.Loss, Counter: s.stats.Counter, Directions: c.Directions,
		Wire:    wireOf(&n, s, o),
		Clients: m.clientsOf(&s.view),
		Zones:   zonesOf(s.view.Zones, m.line.correlator.Zones()),
		Gaps:    gapsOf(s.stats.Gaps, m.record),
		Frames:  n.Frames, Bytes: n.Bytes, Reasons: reasonCounts(&n.Reasons), Tunnels: tunnelCounts(&n.Decoder),
		Filter: inForce(m.sensors), Prefilter: classCounts(prefilterSince(s.stats.Prefilter, &o.stats.Prefilter)),
		Inverted: s.correlate.Inverted - o.correlate.Inverted,
		Lookups:  n.Lookups, Connections: n.Connections, Hits: hits, Allowed: s.allowed - o.allowed,
		Published: m.line.bus.PublishStats(),
		SelfTest:  m.line.tester.result(),
	}
}

// prefilterSince returns what a prefilter saw after o.
func prefilterSince(n bpffilter.Counts, o *bpffilter.Counts) *bpffilter.Counts {
	for class := range n {
		n[class].Frames -= o[class].Frames
		n[class].Bytes -= o[class].Bytes
	}
	return &n
}

func wireOf(n *coverage.Counts, s, o *snapshot) *bus.Wire {
	d, t := &n.Decoder, &n.Traffic
	return &bus.Wire{
		Queries: d.Queries, Answers: d.Responses, Iterative: d.Iterative, SYN: d.SYN, SYNACK: d.SYNACK, Copies: d.Copies,
		Truncated: n.Reasons[decode.Truncated], PartialDNS: d.DNSPartial, Oversize: n.Oversize,
		DoT: t.DoT, DoQ: t.DoQ, DoH: t.DoH,
		ClockSteps: n.ClockSteps, LinkDowns: n.LinkDowns, Reopens: n.Reopens,
		Settled: n.Settled, Explained: n.Explained,
		Downgraded: s.downgraded - o.downgraded, Muted: s.muted - o.muted,
	}
}

func (m *monitor) clientsOf(v *coverage.View) *bus.Clients {
	c := &bus.Clients{
		Known: v.Clients, Answered: v.Answered, Elsewhere: v.Elsewhere, Only: v.Only, Resolvers: v.Resolvers, Shared: v.Alternates, NAT: v.NAT,
		Tenths: m.line.correlator.Survey(),
	}
	for i := range v.Examples {
		x := &v.Examples[i]
		c.Examples = append(c.Examples, x.Addr.Unmap().String()+" in zone "+x.Zone.String()+": "+x.Why())
	}
	return c
}

// recordZones bounds the zones in a record.
const recordZones = 64

// zonesOf joins what was seen in each zone with what was settled there.
func zonesOf(wire []coverage.Zone, settled []correlate.ZoneStats) []bus.ZoneCoverage {
	explained := map[event.Zone]correlate.ZoneStats{}
	for _, z := range settled {
		explained[z.Zone] = z
	}
	var all []bus.ZoneCoverage
	for _, z := range wire {
		e := explained[z.Zone]
		all = append(all, bus.ZoneCoverage{
			Zone: z.Zone.String(), Lookups: z.Lookups, Connections: e.Connections, Explained: e.Explained,
			Share: share(e.Explained, e.Connections), SYN: z.SYN, SYNACK: z.SYNACK, Hidden: z.Hidden(),
		})
	}
	slices.SortStableFunc(all, func(a, b bus.ZoneCoverage) int { return cmp.Compare(b.Connections, a.Connections) })
	return all[:min(len(all), recordZones)]
}

// gapsOf returns the gaps that did not end before since.
func gapsOf(gaps []sensor.Gap, since time.Time) (all []bus.Gap) {
	for _, g := range gaps {
		if !g.To.IsZero() && g.To.Before(since) {
			continue
		}
		x := bus.Gap{From: g.From.UTC(), Cause: g.Cause}
		if !g.To.IsZero() {
			to := g.To.UTC()
			x.To = &to
		}
		all = append(all, x)
	}
	return all
}
