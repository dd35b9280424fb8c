package audit

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/page"
)

var classes = map[string]page.Class{
	bus.Good: page.ClassGood, bus.Partial: page.ClassPartial, bus.Blind: page.ClassBlind, bus.Unknown: page.ClassMissing,
	"alert": page.ClassBlind, "watch": page.ClassPartial, "lead": page.ClassA, "note": page.ClassNone,
}

// maxCells bounds how many pieces a strip has; a sensor that changes more often is drawn slot by slot.
const maxCells = 2000

// Page returns the report as a page; version is what made it.
func (r *Report) Page(version string) *page.Page {
	var sum Totals
	var names []string
	gaps := 0
	for i := range r.Sensors {
		s := &r.Sensors[i]
		sum.plus(&s.Totals)
		names = append(names, s.Name)
		gaps += len(s.Gaps)
	}
	p := &page.Page{
		Title:    "Coverage report",
		Subtitle: fmt.Sprintf("%s to %s UTC, %s", page.Moment(r.From), page.Moment(r.To), sensorsText(names)),
		Verdict:  &page.Badge{Text: strings.ToUpper(r.Verdict), Class: classes[r.Verdict]},
		Foot: []string{
			fmt.Sprintf("Made by portolan %s on %s UTC from the streams %s and %s.", version, page.Moment(r.Made), bus.OpsStream, bus.HitsStream),
			"Good: what was looked for would have been seen. Partial: something named here was missing. Blind: that nothing was found means nothing. " +
				"No record: nothing is known of that time.",
		},
	}
	lost := sum.LostNIC + sum.LostRing
	p.Facts = []page.Fact{
		{Value: page.Percent(r.Share.Good), Label: "of the time good coverage"},
		{Value: page.Percent(r.Share.Blind + r.Share.Unknown), Label: "of the time blind or without record", Class: classIf(r.Share.Blind+r.Share.Unknown > 0, page.ClassBlind)},
		{Value: page.Number(float64(sum.Frames)), Label: "frames judged"},
		{Value: shareText(lost, sum.Frames+lost), Label: "of frames lost at NIC and ring", Class: classIf(lost > 0, page.ClassPartial)},
		{Value: page.Number(float64(sum.Answers)), Label: "DNS answers seen"},
		{Value: shareText(sum.Explained, sum.Settled), Label: "of connections explained by a lookup"},
		{Value: fmt.Sprint(gaps), Label: "gaps", Class: classIf(gaps > 0, page.ClassPartial)},
		{Value: fmt.Sprint(r.Hits.Levels["alert"]), Label: "alerts", Class: classIf(r.Hits.Levels["alert"] > 0, page.ClassBlind)},
	}
	p.Sections = append(p.Sections, r.overview())
	for i := range r.Sensors {
		p.Sections = append(p.Sections, r.sensorSection(&r.Sensors[i]))
	}
	p.Sections = append(p.Sections, r.hitsSection(), r.retentionSection())
	return p
}

func (t *Totals) plus(o *Totals) {
	t.Frames += o.Frames
	t.Lookups += o.Lookups
	t.Connections += o.Connections
	t.Answers += o.Answers
	t.Settled += o.Settled
	t.Explained += o.Explained
	t.LostNIC += o.LostNIC
	t.LostRing += o.LostRing
}

func classIf(is bool, c page.Class) page.Class {
	if is {
		return c
	}
	return page.ClassNone
}

func shareText(part, whole uint64) string {
	if whole == 0 {
		return "–"
	}
	return page.Percent(float64(part) / float64(whole))
}

func sensorsText(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "no sensor"
	case n == 1:
		return "sensor " + names[0]
	case n <= 4:
		return "sensors " + strings.Join(names, ", ")
	default:
		return fmt.Sprintf("%d sensors", n)
	}
}

func (r *Report) span() page.Span { return page.Span{From: r.From, To: r.To} }

func (r *Report) overview() page.Section {
	s := page.Section{Title: "What was visible"}
	strip := page.Strip{
		Caption: "Verdict on coverage", Note: "by sensor, each minute as its record says", Span: r.span(),
		Legend: []page.Key{{Class: page.ClassGood, Label: "good"}, {Class: page.ClassPartial, Label: "partial"}, {Class: page.ClassBlind, Label: "blind"}, {Class: page.ClassMissing, Label: "no record"}},
	}
	for i := range r.Sensors {
		x := &r.Sensors[i]
		strip.Rows = append(strip.Rows, page.StripRow{Label: x.Name, Cells: x.cells(r.From, r.To)})
	}
	if len(r.Sensors) == 0 {
		s.Text = "No sensor has a record in this time."
		return s
	}
	s.Blocks = append(s.Blocks, strip.HTML())
	return s
}

// cells returns runs of minutes with one verdict, and the times between them.
func (s *Sensor) cells(from, to time.Time) (cells []page.Cell) {
	reached := from
	add := func(a, b time.Time, verdict string) {
		if n := len(cells); n > 0 && cells[n-1].Class == classes[verdict] && cells[n-1].To.Equal(a) {
			cells[n-1].To = b
		} else if b.After(a) {
			cells = append(cells, page.Cell{From: a, To: b, Class: classes[verdict]})
		}
	}
	for _, m := range s.minutes {
		if m.from.Sub(reached) > tolerableGap {
			add(reached, m.from, bus.Unknown)
			reached = m.from
		}
		if m.to.After(reached) {
			add(reached, m.to, m.verdict)
			reached = m.to
		}
	}
	if to.Sub(reached) > tolerableGap {
		add(reached, to, bus.Unknown)
	}
	if len(cells) > maxCells {
		cells = nil
		for i := range s.Slots {
			add(s.Slots[i].From, s.Slots[i].To, s.Slots[i].Worst())
		}
	}
	for i := range cells {
		c := &cells[i]
		word := string(c.Class)
		if c.Class == page.ClassMissing {
			word = "no record"
		}
		c.Text = fmt.Sprintf("%s from %s to %s UTC", word, c.From.UTC().Format(stamp), c.To.UTC().Format(stamp))
	}
	return cells
}

func (r *Report) sensorSection(s *Sensor) page.Section {
	title := "Sensor " + s.Name
	if s.Device != "" {
		title += " on " + s.Device
	}
	x := page.Section{Title: title, Text: fmt.Sprintf("%d records; %s.", s.Records, s.Share.text())}
	if len(s.Filters) > 0 {
		x.Text += " Filter in the kernel: " + strings.Join(s.Filters, "; ") + "."
	}
	if len(s.Counters) > 0 {
		x.Text += " Loss at the NIC is read from " + strings.Join(s.Counters, "; ") + "."
	}
	for _, line := range s.delivery() {
		x.Text += " " + strings.ToUpper(line[:1]) + line[1:] + "."
	}
	x.Blocks = append(x.Blocks, r.charts(s)...)
	x.Blocks = append(x.Blocks, s.findingsTable(), s.gapsTable(), s.slotsTable(), s.zonesTable())
	if c := s.Clients; c != nil {
		x.Blocks = append(x.Blocks, clientBars(c), clientsTable(c))
	}
	return x
}

func (r *Report) charts(s *Sensor) []template.HTML {
	step := time.Duration(r.Step * float64(time.Second))
	var at []time.Time
	var answers, connections, explained, answered, nic, ring []float64
	none := math.NaN()
	ratio := func(part, whole uint64) float64 {
		if whole == 0 {
			return none
		}
		return min(1, float64(part)/float64(whole))
	}
	for i := range s.Slots {
		h := &s.Slots[i]
		at = append(at, h.From)
		a, c := float64(h.Answers), float64(h.Connections)
		if h.Share.Unknown >= 1 {
			a, c = none, none
		}
		answers, connections = append(answers, a), append(connections, c)
		explained, answered = append(explained, ratio(h.Explained, h.Settled)), append(answered, ratio(h.Answers, h.Queries))
		all := h.Frames + h.LostNIC + h.LostRing
		nic, ring = append(nic, ratio(h.LostNIC, all)), append(ring, ratio(h.LostRing, all))
	}
	per := map[time.Duration]string{time.Minute: "per minute", 10 * time.Minute: "per 10 minutes", time.Hour: "per hour"}[step]
	if per == "" {
		per = "per " + lasted(r.Step)
	}
	traffic := page.Chart{
		Caption: "Traffic judged", Note: per, Span: r.span(), At: at, Step: step,
		Series: []page.Series{{Label: "DNS answers", Class: page.ClassA, Values: answers}, {Label: "connections", Class: page.ClassB, Values: connections}},
	}
	shares := page.Chart{
		Caption: "What lookups explain", Note: "shares, " + per, Span: r.span(), At: at, Step: step, Top: 1, Format: page.Percent,
		Series: []page.Series{{Label: "connections that a lookup explains", Class: page.ClassC, Values: explained}, {Label: "queries with an answer that was seen", Class: page.ClassD, Dashed: true, Values: answered}},
	}
	blocks := []template.HTML{traffic.HTML(), shares.HTML()}
	if s.Totals.LostNIC+s.Totals.LostRing > 0 {
		lost := page.Chart{
			Caption: "Frames lost", Note: "share of all frames, " + per, Span: r.span(), At: at, Step: step, Bars: true, Height: 110, Format: page.Percent,
			Series: []page.Series{{Label: "at the ring", Class: page.ClassBlind, Values: ring}, {Label: "at the NIC", Class: page.ClassE, Values: nic}},
		}
		blocks = append(blocks, lost.HTML())
	}
	return blocks
}

func (s *Sensor) findingsTable() template.HTML {
	t := page.Table{Caption: "What limited it", Head: []string{"Rule", "Verdict", "For", "What was counted, at the last", "So"}, Numbers: []bool{false, false, true}, Empty: "No finding: nothing limited this sensor."}
	for _, f := range s.Findings {
		t.Rows = append(t.Rows, page.Row{Cells: []string{f.Rule, f.Severity, lasted(f.Seconds), f.Evidence, f.Consequence}, Class: classes[f.Severity]})
	}
	return t.HTML()
}

func (s *Sensor) gapsTable() template.HTML {
	t := page.Table{Caption: "Gaps", Head: []string{"From UTC", "to UTC", "Lasted", "Cause"}, Numbers: []bool{false, false, true}, Empty: "No gap."}
	for _, g := range s.Gaps {
		t.Rows = append(t.Rows, page.Row{
			Cells: []string{page.Moment(g.From), page.Moment(g.To), lasted(g.To.Sub(g.From).Seconds()), g.Cause}, Class: page.ClassMissing,
		})
	}
	return t.HTML()
}

func (s *Sensor) slotsTable() template.HTML {
	t := page.Table{
		Caption: "In detail",
		Head:    []string{"From UTC", "Coverage", "Frames", "Lost", "Answers", "Connections", "Explained", "Rules"},
		Numbers: []bool{false, false, true, true, true, true, true},
	}
	var empty time.Time // where slots without a record begin
	for i := range s.Slots {
		h := &s.Slots[i]
		if h.Share.Unknown >= 1 {
			if i == 0 || s.Slots[i-1].Share.Unknown < 1 {
				empty = h.From
			}
			if i == len(s.Slots)-1 || s.Slots[i+1].Share.Unknown < 1 {
				t.Rows = append(t.Rows, page.Row{Class: page.ClassMissing, Cells: []string{empty.Format(stamp), "no record until " + h.To.Format(stamp), "", "", "", "", "", ""}})
			}
			continue
		}
		t.Rows = append(t.Rows, page.Row{Class: classes[h.Worst()], Cells: []string{
			h.From.Format(stamp), coverageText(h), page.Number(float64(h.Frames)), lostText(&h.Totals), page.Number(float64(h.Answers)),
			page.Number(float64(h.Connections)), explainedText(&h.Totals), strings.Join(h.Rules, ", "),
		}})
	}
	return t.HTML()
}

func (s *Sensor) zonesTable() template.HTML {
	t := page.Table{
		Caption: "Zones, since the sensor started",
		Head:    []string{"Zone", "Lookups", "Connections", "Explained", "Share", "SYN", "SYN+ACK first", "Encrypted DNS"},
		Numbers: []bool{false, true, true, true, true, true, true, true}, Empty: "No zone.",
	}
	for _, z := range s.Zones {
		cells := []string{z.Zone}
		for _, n := range []uint64{z.Lookups, z.Connections, z.Explained} {
			cells = append(cells, page.Number(float64(n)))
		}
		cells = append(cells, page.Percent(z.Share))
		for _, n := range []uint64{z.SYN, z.SYNACK, z.Hidden} {
			cells = append(cells, page.Number(float64(n)))
		}
		t.Rows = append(t.Rows, page.Row{Cells: cells})
	}
	return t.HTML()
}

func clientBars(c *bus.Clients) template.HTML {
	b := page.Bars{Caption: "Clients by the share of their connections that a lookup explains", Note: "those with 30 connections or more, at the last"}
	for i, n := range slices.Backward(c.Tenths[:]) {
		class := page.ClassGood
		if i < 5 {
			class = page.ClassPartial
		}
		if i < 1 {
			class = page.ClassBlind
		}
		b.Rows = append(b.Rows, page.Bar{Label: fmt.Sprintf("%d to %d %%", 10*i, 10*i+10), Value: float64(n), Class: class})
	}
	return b.HTML()
}

func clientsTable(c *bus.Clients) template.HTML {
	t := page.Table{Caption: "Clients, at the last", Head: []string{"", "Number"}, Numbers: []bool{false, true}}
	for _, x := range []struct {
		label string
		n     uint64
	}{
		{"remembered", c.Known}, {"with an answer that was seen", c.Answered}, {"that resolve out of sight", c.Elsewhere},
		{"of those, without any answer that was seen", c.Only}, {"that ask many servers, as resolvers do", c.Resolvers}, {"with two Ethernet addresses by turns", c.Shared},
		{"that are perhaps several hosts each", c.NAT},
	} {
		t.Rows = append(t.Rows, page.Row{Cells: []string{x.label, page.Number(float64(x.n))}})
	}
	for _, e := range c.Examples {
		t.Rows = append(t.Rows, page.Row{Cells: []string{"such as " + e, ""}})
	}
	return t.HTML()
}

func (r *Report) hitsSection() page.Section {
	h := &r.Hits
	s := page.Section{Title: "Hits"}
	s.Text = fmt.Sprintf("%d alerts, %d watches, %d leads; %d taken back; %d published as watches because coverage was blind; %d not published one by one.",
		h.Levels["alert"], h.Levels["watch"], h.Levels["lead"], h.Retracted, h.Downgraded, h.Suppressed)
	t := page.Table{Head: []string{"Time UTC", "Level", "Client", "Destination", "Rule", "Name", "Coverage", "Attribution", "Sensor"}, Empty: "No hit."}
	for _, x := range h.List {
		t.Rows = append(t.Rows, page.Row{Class: classes[x.Level], Cells: []string{
			page.Moment(x.Time), x.Level, x.Client, x.Destination, x.Rule, x.Name, x.Verdict, x.Status, x.Sensor,
		}})
	}
	if len(h.Attribution) > 0 {
		b := page.Bars{Caption: "Hits by attribution"}
		for _, status := range []string{"matched", "ambiguous", "unmatched", "pending", "not-configured"} {
			if n := h.Attribution[status]; n > 0 {
				b.Rows = append(b.Rows, page.Bar{Label: status, Value: float64(n), Class: page.ClassA})
			}
		}
		s.Blocks = append(s.Blocks, b.HTML())
	}
	s.Blocks = append(s.Blocks, t.HTML())
	if h.Unlisted > 0 {
		s.Text += fmt.Sprintf(" %d are not listed.", h.Unlisted)
	}
	return s
}

func (r *Report) retentionSection() page.Section {
	t := page.Table{Head: []string{"Stream", "Messages", "Oldest UTC", "Kept for", "Bytes"}, Numbers: []bool{false, true}, Empty: "No stream."}
	for i := range r.Retention {
		x := &r.Retention[i]
		t.Rows = append(t.Rows, page.Row{Cells: []string{x.Stream, page.Number(float64(x.Messages)), oldest(x), keptFor(x), bytesOf(x)}})
	}
	return page.Section{Title: "Retention", Text: "What the streams held when this was made: of what is older there is no record any more.", Blocks: []template.HTML{t.HTML()}}
}
