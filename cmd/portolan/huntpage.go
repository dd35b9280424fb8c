package main

import (
	"cmp"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/page"
)

// writePage writes the report as one HTML page.
func (r *huntReport) writePage(w io.Writer) error {
	p := page.Page{
		Title:    "Portolan hunt",
		Subtitle: fmt.Sprintf("%s to %s UTC, %s", page.Moment(r.From), page.Moment(r.To), lagText(r.To.Sub(r.From))),
		Verdict:  &page.Badge{Text: "coverage " + r.Verdict, Class: verdictClass(r.Verdict)},
		Foot: []string{
			fmt.Sprintf("Portolan %s, hunt begun %s UTC, decoys drawn by seed %d.", r.Version, page.Moment(r.Began), r.Seed),
			"Each trial was weighed by what came before it alone: an e-value means here what it means on a mirror port.",
		},
	}
	for _, l := range r.Levels {
		class := page.ClassNone
		if l.Hits > 0 {
			class = levelClass(l.Level)
		}
		label := l.Level + "s"
		if l.Hits == 1 {
			label = l.Level
		}
		if l.Level == "watch" && l.Hits != 1 {
			label = "watches"
		}
		p.Facts = append(p.Facts, page.Fact{Value: page.Number(float64(l.Hits)), Label: fmt.Sprintf("%s, %.2g a day", label, l.PerDay), Class: class})
	}
	p.Facts = append(p.Facts,
		page.Fact{Value: page.Number(float64(r.Lookups)), Label: "lookups"},
		page.Fact{Value: page.Number(float64(r.Connections)), Label: "connections"},
		page.Fact{Value: page.Percent(share(r.Explained, r.Connections)), Label: "of them explained by a lookup"})
	p.Sections = append(p.Sections, r.pageDays(), r.pageHits(), r.pageVisible(), r.pageThresholds(), r.pageSources())
	return p.Write(w)
}

func verdictClass(verdict string) page.Class {
	switch verdict {
	case bus.Good:
		return page.ClassGood
	case bus.Partial:
		return page.ClassPartial
	case bus.Unknown:
		return page.ClassMissing
	}
	return page.ClassBlind
}

func levelClass(level string) page.Class {
	switch level {
	case "alert":
		return page.ClassBlind
	case "watch":
		return page.ClassPartial
	}
	return page.ClassMissing
}

// span is the time that was read.
func (r *huntReport) span() page.Span {
	if len(r.Bins) == 0 {
		return page.Span{From: r.From, To: r.To}
	}
	return page.Span{From: r.Bins[0].Time, To: r.Bins[len(r.Bins)-1].Time.Add(r.step())}
}

func (r *huntReport) step() time.Duration { return time.Duration(r.BinSeconds * float64(time.Second)) }

// chart returns a chart over the time that was read, of values of each bin; bins without an event have none.
func (r *huntReport) chart(caption, note string, of map[string]func(*huntBin) float64, series ...page.Series) *page.Chart {
	c := &page.Chart{Caption: caption, Note: note, Span: r.span(), Step: r.step(), Series: series}
	next := time.Time{}
	for i := range r.Bins {
		b := &r.Bins[i]
		if i > 0 && b.Time.After(next) { // a hole in lines
			c.At = append(c.At, next)
			for j := range c.Series {
				c.Series[j].Values = append(c.Series[j].Values, math.NaN())
			}
		}
		next = b.Time.Add(r.step())
		c.At = append(c.At, b.Time)
		for j := range c.Series {
			c.Series[j].Values = append(c.Series[j].Values, of[c.Series[j].Label](b))
		}
	}
	return c
}

// pageDays shows hits over time, beside what chance reaches.
func (r *huntReport) pageDays() page.Section {
	hits := r.chart("Hits", "by the time of the connection", map[string]func(*huntBin) float64{
		"alerts": func(b *huntBin) float64 { return float64(b.Alerts) }, "watches": func(b *huntBin) float64 { return float64(b.Watches) },
		"leads": func(b *huntBin) float64 { return float64(b.Leads) },
	}, page.Series{Label: "alerts", Class: page.ClassBlind}, page.Series{Label: "watches", Class: page.ClassPartial}, page.Series{Label: "leads", Class: page.ClassMissing})
	hits.Bars, hits.Height = true, 130
	decoys := r.chart("What chance reaches", "the same hypotheses on scrambled answers", map[string]func(*huntBin) float64{
		"as an alert": func(b *huntBin) float64 { return float64(b.DecoyAlerts) }, "as a watch": func(b *huntBin) float64 { return float64(b.DecoyWatch) },
	}, page.Series{Label: "as an alert", Class: page.ClassD}, page.Series{Label: "as a watch", Class: page.ClassE})
	decoys.Bars, decoys.Height = true, 60
	t := page.Table{Head: []string{"", "hits", "a day", "scrambled answers", "expected by chance a day, at most"}, Numbers: []bool{false, true, true, true, true}}
	for _, l := range r.Levels {
		t.Rows = append(t.Rows, page.Row{Cells: []string{l.Level, page.Number(float64(l.Hits)), fmt.Sprintf("%.3g", l.PerDay), l.decoys(), l.chance()}, Class: levelClass(l.Level)})
	}
	text := ""
	if r.WarmFrom != nil {
		text = fmt.Sprintf("Until %s UTC what is ordinary here had been learned from less than a day.", page.Moment(*r.WarmFrom))
	}
	return page.Section{Title: "What would have come", Text: text, Blocks: []template.HTML{t.HTML(), hits.HTML(), decoys.HTML()}}
}

// pageHits shows who did what, and the strongest hits with their evidence.
func (r *huntReport) pageHits() page.Section {
	who := page.Table{
		Head:    []string{"client", "calculation", "hits", "first, UTC", "last, UTC", "destinations", "strongest", "explained"},
		Numbers: []bool{false, false, true, false, false, true, true, true}, Empty: "No hit.",
	}
	groups := r.groups()
	for _, g := range groups[:min(len(groups), hitsShown)] {
		who.Rows = append(who.Rows, page.Row{Class: levelClass(g.level), Cells: []string{
			g.client, g.calculation, page.Number(float64(g.hits)), page.Moment(g.first), page.Moment(g.last), page.Number(float64(len(g.destinations))),
			evidenceText(g.level, g.log10), page.Percent(g.explained),
		}})
	}
	if len(r.Hits) == 0 {
		return page.Section{Title: "Hits", Blocks: []template.HTML{who.HTML()}}
	}
	t := page.Table{
		Head:    []string{"time, UTC", "connection", "looked up", "arithmetic", "e-value", "stays so up to"},
		Numbers: []bool{false, false, false, false, true, false},
	}
	const most = 40
	shown := r.strongest()
	shown = shown[:min(len(shown), most)]
	for _, m := range shown {
		t.Rows = append(t.Rows, page.Row{Cells: r.pageHit(m), Class: levelClass(m.Portolan.Level)})
	}
	text := "Below, the evidence of each."
	if left := uint64(len(r.Hits)-len(shown)) + r.HitsLeft; left > 0 {
		text = fmt.Sprintf("Below, the evidence of the strongest %d; %s.", len(shown), count(left, "more is not shown", "more are not shown"))
	}
	return page.Section{Title: "Hits", Text: text, Blocks: []template.HTML{who.HTML(), t.HTML()}}
}

// hitGroup is what one client did by one calculation.
type hitGroup struct {
	level, client, calculation string
	hits, severity             int
	first, last                time.Time
	destinations               map[string]bool
	log10                      float64 // of the strongest e-value
	explained                  float64 // share of the client's connections, as of the last hit
}

// groups returns hits by client and calculation, the strongest first.
func (r *huntReport) groups() []*hitGroup {
	var all []*hitGroup
	at := map[[2]string]*hitGroup{}
	for _, m := range r.Hits {
		p := &m.Portolan
		key := [2]string{m.Source.IP.String() + " zone " + p.Zone.Text, p.Calc.Hypothesis}
		g := at[key]
		if g == nil {
			g = &hitGroup{client: m.Source.IP.String(), calculation: printable(p.Calc.Hypothesis + " " + p.Calc.Name), first: m.Timestamp, destinations: map[string]bool{}}
			if p.Zone.Kind != "untagged" {
				g.client += " (" + p.Zone.Text + ")"
			}
			at[key] = g
			all = append(all, g)
		}
		g.hits++
		g.last = m.Timestamp
		g.destinations[m.Destination.IP.String()] = true
		g.log10 = max(g.log10, p.Calc.EValueLog10)
		g.explained = p.Coverage.Client.Share
		if m.Event.Severity > g.severity {
			g.severity, g.level = m.Event.Severity, p.Level
		}
	}
	slices.SortStableFunc(all, func(a, b *hitGroup) int {
		return cmp.Or(cmp.Compare(b.severity, a.severity), cmp.Compare(b.log10, a.log10), cmp.Compare(a.client, b.client))
	})
	return all
}

// evidenceText writes an e-value; a lead has none.
func evidenceText(level string, log10 float64) string {
	switch {
	case level == "lead":
		return "-"
	case log10 < 4:
		return page.Number(math.Pow(10, log10))
	}
	return fmt.Sprintf("1e%.0f", math.Floor(log10))
}

func (r *huntReport) pageHit(m *bus.Message) []string {
	p := &m.Portolan
	until := "-"
	if p.Level != "lead" {
		until = fmt.Sprintf("--%s 1e%.0f", p.Level, math.Floor(p.Calc.EValueLog10))
	}
	name := printable(p.Lookup.Name)
	if p.Lookup.Answer.IsValid() {
		name += " → " + p.Lookup.Answer.String()
	}
	return []string{
		page.Moment(m.Timestamp), fmt.Sprintf("%s → %s/%s", m.Source.IP, netip.AddrPortFrom(m.Destination.IP, m.Destination.Port), m.Network.Transport),
		fmt.Sprintf("%s, %s before", name, lagText(time.Duration(p.Timing.LagNS))),
		printable(fmt.Sprintf("%s %s: %s", p.Calc.Hypothesis, p.Calc.Name, p.Calc.Expression)), evidenceText(p.Level, p.Calc.EValueLog10), until,
	}
}

// pageVisible shows what could be seen when.
func (r *huntReport) pageVisible() page.Section {
	strip := page.Strip{
		Caption: "Events of each source", Note: "and its gaps of 10 minutes or more", Span: r.span(),
		Legend: []page.Key{{Class: page.ClassGood, Label: "events"}, {Class: page.ClassMissing, Label: "none"}},
	}
	for i, s := range r.Sources {
		strip.Rows = append(strip.Rows, page.StripRow{Label: shortPath(s.Name, s.Kind), Cells: r.cells(i, &s)})
	}
	volume := r.chart("Lookups and connections", "", map[string]func(*huntBin) float64{
		"lookups": func(b *huntBin) float64 { return float64(b.Lookups) }, "connections": func(b *huntBin) float64 { return float64(b.Connections) },
	}, page.Series{Label: "lookups", Class: page.ClassA}, page.Series{Label: "connections", Class: page.ClassB})
	explained := r.chart("Share of connections that a lookup explains", "below one half, no lead is made of destinations that nothing explains",
		map[string]func(*huntBin) float64{"explained": func(b *huntBin) float64 {
			if b.Settled == 0 {
				return math.NaN()
			}
			return min(1, float64(b.Explained)/float64(b.Settled))
		}}, page.Series{Label: "explained", Class: page.ClassC})
	explained.Top, explained.Format, explained.Height = 1, page.Percent, 90
	findings := page.Table{Head: []string{"finding", "what was counted", "what cannot be judged"}, Empty: "Nothing stands in the way."}
	for _, f := range r.Findings {
		findings.Rows = append(findings.Rows, page.Row{Cells: []string{f.Rule, f.Evidence, f.Consequence}, Class: verdictClass(r.Verdict)})
	}
	return page.Section{Title: "What was visible when", Blocks: []template.HTML{strip.HTML(), volume.HTML(), explained.HTML(), findings.HTML()}}
}

// cells makes of a source's bins and gaps what it showed when.
func (r *huntReport) cells(i int, s *huntSource) (cells []page.Cell) {
	for k := range r.Bins {
		b := &r.Bins[k]
		if b.Sources[i] == 0 {
			continue
		}
		from, to := b.Time, b.Time.Add(r.step())
		if n := len(cells); n > 0 && cells[n-1].To.Equal(from) {
			cells[n-1].To = to
			continue
		}
		cells = append(cells, page.Cell{From: from, To: to, Class: page.ClassGood, Text: s.Name})
	}
	for _, g := range s.Gaps {
		cells = append(cells, page.Cell{From: g.From, To: g.To, Class: page.ClassMissing,
			Text: fmt.Sprintf("nothing from %s for %s", page.Moment(g.From), lagText(g.To.Sub(g.From)))})
	}
	return cells
}

// shortPath returns the end of a path, which tells it from others.
func shortPath(path, kind string) string {
	path = strings.TrimSuffix(path, "/")
	return path[strings.LastIndexByte(path, '/')+1:] + " " + kind
}

// pageThresholds shows what other thresholds would have given.
func (r *huntReport) pageThresholds() page.Section {
	t := page.Table{Head: []string{"threshold", "trials", "a day", "scrambled answers", "a day"}, Numbers: []bool{false, true, true, true, true}}
	bars := page.Bars{Caption: "Trials that reach an e-value"}
	for _, x := range r.Thresholds {
		name := fmt.Sprintf("%.0e", x.EValue)
		switch x.EValue {
		case r.Alert:
			name += " (alert)"
		case r.Watch:
			name += " (watch)"
		}
		t.Rows = append(t.Rows, page.Row{Cells: []string{
			name, page.Number(float64(x.Trials)), fmt.Sprintf("%.3g", float64(x.Trials)/r.days()), page.Number(float64(x.Decoys)),
			fmt.Sprintf("%.3g", float64(x.Decoys)/r.days()),
		}})
		bars.Rows = append(bars.Rows, page.Bar{Label: name, Value: float64(x.Trials), Class: page.ClassB},
			page.Bar{Label: "scrambled", Value: float64(x.Decoys), Class: page.ClassD})
	}
	return page.Section{
		Title: "Where thresholds would change it", Text: "With --watch or --alert at an e-value, these would have been hits of that level, and so many by chance.",
		Blocks: []template.HTML{t.HTML(), bars.HTML()},
	}
}

// pageSources lists what was read, and what it cannot tell.
func (r *huntReport) pageSources() page.Section {
	t := page.Table{
		Head:    []string{"source", "kind", "files", "records", "lookups", "connections", "gaps", "cannot tell"},
		Numbers: []bool{false, false, true, true, true, true, true, false},
	}
	var problems page.Table
	problems.Head = []string{"problem"}
	for _, s := range r.Sources {
		limits := strings.Join(s.Limits, ", ")
		if limits == "" {
			limits = "-"
		}
		t.Rows = append(t.Rows, page.Row{Cells: []string{
			s.Name, s.Kind, fmt.Sprint(s.Files), page.Number(float64(s.Records)), page.Number(float64(s.Lookups)), page.Number(float64(s.Connections)),
			fmt.Sprint(s.GapCount), limits,
		}})
		for _, p := range s.Problems {
			problems.Rows = append(problems.Rows, page.Row{Cells: []string{p}})
		}
	}
	blocks := []template.HTML{t.HTML()}
	if len(problems.Rows) > 0 {
		blocks = append(blocks, problems.HTML())
	}
	return page.Section{Title: "What was read", Blocks: blocks}
}
