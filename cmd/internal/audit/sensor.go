package audit

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"portolan/cmd/internal/bus"
)

// sensor makes of one sensor's records what it could see.
func (b *Builder) sensor(name string, records []*bus.CoverageRecord) Sensor {
	slices.SortFunc(records, func(a, b *bus.CoverageRecord) int { return a.Time.Compare(b.Time) })
	s := Sensor{Name: name, Records: len(records)}
	findings := map[string]*Finding{}
	s.divide(b.From, b.To)
	for _, r := range records {
		s.take(r, findings)
	}
	for _, f := range findings {
		s.Findings = append(s.Findings, *f)
	}
	slices.SortFunc(s.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Rule, b.Rule))
	})
	s.close(b.From, b.To)
	if o := b.orders[name]; o != nil {
		if o.first > 0 {
			o.From(o.first) // what came before the range was not read
			s.Missing = o.Missing()
		}
		s.Named = o.named
	}
	return s
}

// divide makes the empty slots of the range. They begin at whole hours, or parts of them, but for the first.
func (s *Sensor) divide(from, to time.Time) {
	step := step(from, to)
	for from.Before(to) {
		end := from.UTC().Truncate(step).Add(step)
		if end.After(to) {
			end = to
		}
		s.Slots = append(s.Slots, Slot{From: from.UTC(), To: end.UTC(), lasted: map[string]time.Duration{}})
		from = end
	}
}

// slot returns the slot in which a time is; nil outside the range.
func (s *Sensor) slot(at time.Time) *Slot {
	i, _ := slices.BinarySearchFunc(s.Slots, at, func(h Slot, at time.Time) int {
		if !h.To.After(at) {
			return -1
		}
		return 1
	})
	if i == len(s.Slots) {
		return nil
	}
	return &s.Slots[i]
}

// take adds a record, and what it found, to the slot in which its interval lies.
func (s *Sensor) take(r *bus.CoverageRecord, findings map[string]*Finding) {
	lasted := time.Duration(r.Interval * float64(time.Second))
	s.minutes = append(s.minutes, minute{r.Time.Add(-lasted), r.Time, r.Verdict})
	s.Totals.add(r)
	if r.Device != "" {
		s.Device = r.Device
	}
	s.Versions, s.Counters, s.Filters = with(s.Versions, r.Version), with(s.Counters, r.Counter), with(s.Filters, r.Filter)
	if r.Zones != nil {
		s.Zones = r.Zones
	}
	if r.Clients != nil {
		s.Clients = r.Clients
	}
	h := s.slot(r.Time.Add(-lasted / 2))
	if h != nil {
		h.Totals.add(r)
	}
	for _, f := range r.Findings {
		x := findings[f.Rule]
		if x == nil {
			x = &Finding{Rule: f.Rule, Severity: string(f.Severity), First: r.Time.Add(-lasted).UTC()}
			findings[f.Rule] = x
		}
		if f.Severity == "blind" || x.Severity == "note" {
			x.Severity = string(f.Severity)
		}
		x.Seconds += lasted.Seconds()
		x.Last, x.Evidence, x.Consequence = r.Time.UTC(), f.Evidence, f.Consequence
		if h != nil && f.Severity != "note" {
			h.lasted[f.Rule] += lasted
		}
	}
	for _, g := range r.Gaps {
		s.away(g, r.Time)
	}
}

// away enters a gap that a record tells of. The same one stands in all records that it touches.
func (s *Sensor) away(g bus.Gap, until time.Time) {
	to := until
	if g.To != nil {
		to = *g.To
	}
	for i := range s.Gaps {
		if s.Gaps[i].From.Equal(g.From) {
			s.Gaps[i].To, s.Gaps[i].Cause = to.UTC(), g.Cause
			return
		}
	}
	s.Gaps = append(s.Gaps, Gap{g.From.UTC(), to.UTC(), g.Cause})
}

func with(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// close finds the times without a record, and what share of each slot and of the range was what.
func (s *Sensor) close(from, to time.Time) {
	reached := from
	for _, m := range s.minutes {
		if m.from.Sub(reached) > tolerableGap {
			s.Gaps = append(s.Gaps, Gap{reached.UTC(), m.from.UTC(), NoRecord})
		}
		if m.to.After(reached) {
			reached = m.to
		}
	}
	const due = time.Minute // the record of the last minute may not have been made yet
	if to.Sub(reached) > due+tolerableGap {
		s.Gaps = append(s.Gaps, Gap{reached.UTC(), to.UTC(), NoRecord})
	}
	slices.SortFunc(s.Gaps, func(a, b Gap) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })

	end := to
	if to.Sub(reached) <= due+tolerableGap && reached.Before(to) {
		end = reached
	}
	s.Share = s.share(from, end)
	for i := range s.Slots {
		h := &s.Slots[i]
		until := h.To
		if until.Equal(to) && end.After(h.From) {
			until = end
		}
		h.Share = s.share(h.From, until)
		for rule := range h.lasted {
			h.Rules = append(h.Rules, rule)
		}
		slices.SortFunc(h.Rules, func(a, b string) int { return cmp.Or(cmp.Compare(h.lasted[b], h.lasted[a]), cmp.Compare(a, b)) })
	}
}

// share says what coverage was between two times.
func (s *Sensor) share(from, to time.Time) (p Share) {
	whole := to.Sub(from).Seconds()
	if whole <= 0 {
		return Share{Unknown: 1}
	}
	reached := from
	for _, m := range s.minutes {
		a, b := m.from, m.to
		if a.Before(reached) {
			a = reached
		}
		if b.After(to) {
			b = to
		}
		if !b.After(a) {
			continue
		}
		// A few seconds between two records are the time that it took to make the first.
		if gap := a.Sub(reached); gap > 0 && gap <= tolerableGap {
			a = reached
		}
		reached = b
		part := b.Sub(a).Seconds() / whole
		switch m.verdict {
		case bus.Good:
			p.Good += part
		case bus.Partial:
			p.Partial += part
		case bus.Blind:
			p.Blind += part
		}
	}
	if rest := to.Sub(reached); rest > 0 && rest <= tolerableGap && p != (Share{}) && whole > tolerableGap.Seconds() {
		scale := 1 / (1 - rest.Seconds()/whole) // likewise at the end
		p.Good, p.Partial, p.Blind = p.Good*scale, p.Partial*scale, p.Blind*scale
	}
	p.Unknown = max(0, 1-p.Good-p.Partial-p.Blind)
	if p.Unknown < 1e-9 {
		p.Unknown = 0
	}
	return p
}

// destination writes where a hit went.
func destination(m *bus.Message) string {
	return netip.AddrPortFrom(m.Destination.IP, m.Destination.Port).String() + "/" + m.Network.Transport
}
