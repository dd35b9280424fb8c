package audit

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/page"
)

const stamp = "2006-01-02 15:04"

// Write writes the report as text.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Coverage from %s to %s UTC: %s\n", page.Moment(r.From), page.Moment(r.To), strings.ToUpper(r.Verdict))
	fmt.Fprintf(&b, "  %s\n", r.Share.text())
	for i := range r.Sensors {
		r.Sensors[i].write(&b)
	}
	if len(r.Sensors) == 0 {
		b.WriteString("  no sensor has a record in this time\n")
	}
	r.writeHits(&b)
	b.WriteString("\nRetention\n")
	table(&b, func(t io.Writer) {
		fmt.Fprintln(t, "  stream\tmessages\toldest\tkept for\tbytes")
		for _, s := range r.Retention {
			fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\n", s.Stream, s.Messages, oldest(&s), keptFor(&s), bytesOf(&s))
		}
	})
	_, err := io.WriteString(w, b.String())
	return err
}

// table aligns what do writes with tabs.
func table(b *strings.Builder, do func(io.Writer)) {
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	do(t)
	_ = t.Flush() // to memory
}

func (p *Share) text() string {
	return fmt.Sprintf("good %s, partial %s, blind %s, no record %s of the time",
		page.Percent(p.Good), page.Percent(p.Partial), page.Percent(p.Blind), page.Percent(p.Unknown))
}

func (s *Sensor) write(b *strings.Builder) {
	fmt.Fprintf(b, "\nSensor %s", s.Name)
	if s.Device != "" {
		fmt.Fprintf(b, " on %s", s.Device)
	}
	fmt.Fprintf(b, ": %s\n", s.Share.text())
	table(b, func(t io.Writer) {
		fmt.Fprintln(t, "  from UTC\tcoverage\tframes\tlost\tanswers\tconnections\texplained\twhy")
		for i := range s.Slots {
			h := &s.Slots[i]
			fmt.Fprintf(t, "  %s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\n", h.From.Format(stamp), coverageText(h), h.Frames, lostText(&h.Totals), h.Answers,
				h.Connections, explainedText(&h.Totals), strings.Join(h.Rules, " "))
		}
	})
	for _, f := range s.Findings {
		fmt.Fprintf(b, "  %s (%s for %s): %s\n      so %s\n", f.Rule, f.Severity, lasted(f.Seconds), f.Evidence, f.Consequence)
	}
	for _, g := range s.Gaps {
		fmt.Fprintf(b, "  gap from %s to %s (%s): %s\n", page.Moment(g.From), page.Moment(g.To), lasted(g.To.Sub(g.From).Seconds()), g.Cause)
	}
	for _, z := range s.Zones {
		fmt.Fprintf(b, "  zone %s: %d lookups; a lookup explains %d of %d connections (%s)\n", z.Zone, z.Lookups, z.Explained, z.Connections, page.Percent(z.Share))
	}
	for _, line := range s.delivery() {
		fmt.Fprintf(b, "  %s\n", line)
	}
}

// delivery says which of the sensor's messages are missing.
func (s *Sensor) delivery() (lines []string) {
	count := func(runs int, n uint64, what string) {
		if n > 0 {
			lines = append(lines, fmt.Sprintf("%d messages in %d runs %s", n, runs, what))
		}
	}
	var missing, named uint64
	for _, g := range s.Missing {
		missing += g.Last - g.First + 1
	}
	for _, g := range s.Named {
		named += g.Last - g.First + 1
	}
	count(len(s.Missing), missing, "are missing and not accounted for: on their way, or expired")
	count(len(s.Named), named, "will never come, as the sensor says")
	return lines
}

func (r *Report) writeHits(b *strings.Builder) {
	h := &r.Hits
	fmt.Fprintf(b, "\nHits: %d alert, %d watch, %d lead", h.Levels["alert"], h.Levels["watch"], h.Levels["lead"])
	for _, x := range []struct {
		n    uint64
		text string
	}{
		{uint64(h.Retracted), "taken back"}, {uint64(h.Downgraded), "a watch only because coverage was blind"}, {h.Suppressed, "not published one by one"},
	} {
		if x.n > 0 {
			fmt.Fprintf(b, "; %d %s", x.n, x.text)
		}
	}
	b.WriteByte('\n')
	if len(h.List) == 0 {
		return
	}
	table(b, func(t io.Writer) {
		fmt.Fprintln(t, "  time UTC\tlevel\tclient\tdestination\trule\tcoverage\tattribution\tsensor")
		for _, x := range h.List {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", page.Moment(x.Time), x.Level, x.Client, x.Destination, x.Rule, x.Verdict, x.Status, x.Sensor)
		}
	})
	if h.Unlisted > 0 {
		fmt.Fprintf(b, "  and %d more\n", h.Unlisted)
	}
}

// coverageText says what a slot was, with the share of it that was so when it was not all.
func coverageText(h *Slot) string {
	worst := h.Worst()
	var part float64
	switch worst {
	case bus.Good:
		part = h.Share.Good
	case bus.Partial:
		part = h.Share.Partial
	case bus.Blind:
		part = h.Share.Blind
	default:
		worst, part = "no record", h.Share.Unknown
	}
	if part > 0.999 || worst == bus.Good {
		return worst
	}
	return worst + " " + page.Percent(part)
}

func lostText(t *Totals) string {
	lost := t.LostNIC + t.LostRing
	if lost == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", lost, page.Percent(float64(lost)/float64(t.Frames+lost)))
}

func explainedText(t *Totals) string {
	if t.Settled == 0 {
		return "-"
	}
	return page.Percent(float64(t.Explained) / float64(t.Settled))
}

func lasted(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	case d >= time.Hour:
		m := int(d.Round(time.Minute).Minutes())
		if m%60 == 0 {
			return fmt.Sprintf("%dh", m/60)
		}
		return fmt.Sprintf("%dh%dm", m/60, m%60)
	}
	return d.Round(time.Second).String()
}

func oldest(s *bus.Stored) string {
	if s.Messages == 0 {
		return "-"
	}
	return page.Moment(s.First)
}

func keptFor(s *bus.Stored) string {
	if s.MaxAge == 0 {
		return "ever"
	}
	return lasted(s.MaxAge.Seconds())
}

func bytesOf(s *bus.Stored) string {
	if s.MaxBytes <= 0 {
		return page.Number(float64(s.Bytes))
	}
	return page.Number(float64(s.Bytes)) + " of " + page.Number(float64(s.MaxBytes))
}
