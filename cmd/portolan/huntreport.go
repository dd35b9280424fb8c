package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/archive"
	"portolan/cmd/internal/hunt"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// huntSchema names the form of the report. Minor versions only add.
const huntSchema = "portolan.hunt/1.0"

// huntReport is what a hunt came to; the JSON form is the struct.
type huntReport struct {
	Schema  string    `json:"schema"`
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
	From    time.Time `json:"from"` // of the events that could be hits, the first
	To      time.Time `json:"to"`   // and the last
	// WarmFrom is when what is ordinary was learned from a day or more; absent when that was so from the beginning.
	WarmFrom *time.Time `json:"warm_from,omitempty"`
	Seed     uint64     `json:"seed"` // of the decoys; the same archive has the same
	Alert    float64    `json:"alert"`
	Watch    float64    `json:"watch"`

	Verdict  string             `json:"verdict"`
	Findings []coverage.Finding `json:"findings"`

	Lookups      uint64 `json:"lookups"`
	Connections  uint64 `json:"connections"`
	Explained    uint64 `json:"explained"`
	Unjudged     uint64 `json:"unjudged"`
	PortTrials   uint64 `json:"port_trials"`
	AddressTries uint64 `json:"address_trials"`
	Late         uint64 `json:"late"` // events out of order by more than could be put right

	Levels     []huntLevel     `json:"levels"` // alert, watch, lead
	Thresholds []huntThreshold `json:"thresholds"`
	Sources    []huntSource    `json:"sources"`
	BinSeconds float64         `json:"bin_s"`
	Bins       []huntBin       `json:"bins"` // those in which something happened
	Hits       []*bus.Message  `json:"hits"` // in order of time; the first 10,000 of each level
	HitsLeft   uint64          `json:"hits_left_out"`
	Allowed    []string        `json:"allowed,omitempty"` // hits that allow rules kept back
}

// huntLevel is what a level would have meant for whoever looks at hits.
type huntLevel struct {
	Level    string  `json:"level"`
	Hits     uint64  `json:"hits"`
	PerDay   float64 `json:"per_day"`
	Decoys   uint64  `json:"decoys"`                 // what scrambled answers reached
	Expected float64 `json:"expected_false_per_day"` // 0 for leads, which claim no calculation
	Basis    string  `json:"expected_false_basis,omitempty"`
}

// huntThreshold is how many trials reached an e-value: with a threshold there, they would have been hits.
type huntThreshold struct {
	EValue float64 `json:"e_value"`
	Trials uint64  `json:"trials"`
	Decoys uint64  `json:"decoys"`
}

// huntSource is what was read of a source.
type huntSource struct {
	Name        string       `json:"name"`
	Kind        string       `json:"kind"`
	Files       int          `json:"files"`
	Records     uint64       `json:"records"` // lines, messages or frames
	Lookups     uint64       `json:"lookups"`
	Connections uint64       `json:"connections"`
	First       *time.Time   `json:"first,omitempty"`
	Last        *time.Time   `json:"last,omitempty"`
	Limits      []string     `json:"limits,omitempty"` // what it cannot tell
	Refused     uint64       `json:"refused"`          // records of which nothing could be made
	Problems    []string     `json:"problems,omitempty"`
	Gaps        []bus.Window `json:"gaps,omitempty"` // the longest, of 10 minutes or more
	GapCount    int          `json:"gap_count"`
}

// huntBin is what happened in a span of time.
type huntBin struct {
	Time        time.Time `json:"time"`
	Sources     []uint64  `json:"sources"` // events of each
	Lookups     uint64    `json:"lookups"`
	Connections uint64    `json:"connections"`
	Settled     uint64    `json:"settled"`
	Explained   uint64    `json:"explained"`
	Alerts      uint64    `json:"alerts"`
	Watches     uint64    `json:"watches"`
	Leads       uint64    `json:"leads"`
	DecoyAlerts uint64    `json:"decoy_alerts"`
	DecoyWatch  uint64    `json:"decoy_watches"`
	Learning    bool      `json:"learning,omitempty"` // before --since
}

// newHuntReport makes the report; of is the source of each file.
func newHuntReport(cfg *config.Config, hc *hunt.Config, found *hunt.Result, read *archive.Report, of []int, began time.Time) *huntReport {
	r := &huntReport{
		Schema: huntSchema, Version: thisBuild().Version, Began: began.UTC().Truncate(time.Second), From: found.Begin.UTC(), To: found.End.UTC(),
		Seed: hc.Correlate.Seed, Alert: cfg.Correlate.Alert, Watch: cfg.Correlate.Watch, Lookups: found.Stats.Lookups,
		Connections: found.Stats.Connections, Explained: found.Stats.Explained, Unjudged: found.Stats.Unjudged,
		PortTrials: found.Stats.PortTrials, AddressTries: found.Stats.AddressTrials, Late: read.Late, Hits: []*bus.Message{},
		BinSeconds: found.Width.Seconds(),
	}
	if found.Warm != 0 {
		warm := found.Warm.UTC()
		r.WarmFrom = &warm
	}
	stats := r.sources(found, read, of)
	counts := counted(stats, &found.All, lostMessages{}, found.Coverage.Traffic())
	view := found.Coverage.View()
	a := coverage.Assess(&counts, &view, coverage.Source{Incomplete: stats.Incomplete != ""})
	r.Verdict, r.Findings = string(a.Verdict), a.Findings
	r.hits(cfg, found, &a, &counts)
	r.levels(cfg, found)
	r.bins(found)
	return r
}

// sources sums up the files of each source, and returns what capture files held.
func (r *huntReport) sources(found *hunt.Result, read *archive.Report, of []int) *sensor.Stats {
	stats := &sensor.Stats{}
	for _, s := range found.Sources {
		x := huntSource{Name: s.Name, Kind: s.Kind, Lookups: s.Lookups, Connections: s.Connections, GapCount: s.GapCount}
		if s.Lookups+s.Connections > 0 {
			first, last := s.First.UTC(), s.Last.UTC()
			x.First, x.Last = &first, &last
		}
		for _, g := range s.Gaps {
			x.Gaps = append(x.Gaps, bus.Window{From: g.From.UTC(), To: g.To.UTC()})
		}
		r.Sources = append(r.Sources, x)
	}
	lacks := make([]feed.Limits, len(r.Sources))
	for i := range read.Sources {
		f := &read.Sources[i]
		if i >= len(of) { // not recognised
			continue
		}
		x := &r.Sources[of[i]]
		x.Files++
		x.Records += f.Lines
		x.Refused += f.RefusedLines()
		if x.Files == 1 {
			lacks[of[i]] = f.Limits
		} else { // what one file of a source lacks, another may have
			const whole = feed.NoLookups | feed.NoConns
			lacks[of[i]] = (lacks[of[i]]|f.Limits)&^whole | lacks[of[i]]&f.Limits&whole
		}
		if f.Incomplete != "" {
			x.problem(fmt.Sprintf("%s: %s", f.Path, f.Incomplete))
		}
		for _, y := range f.Refused {
			x.problem(fmt.Sprintf("%s: %s, first in line %d: %s", f.Path, count(y.Count, "line", "lines")+" of no use", y.Line, y.Why))
		}
		if f.Capture != nil {
			stats.Add(f.Capture)
		}
	}
	for i := range r.Sources {
		x := &r.Sources[i]
		x.Limits = lacks[i].Texts()
		if x.Kind != "capture" { // an entry of a log is both directions
			n := &stats.Counters
			n.Queries += x.Lookups
			n.Responses += x.Lookups
			n.SYN += x.Connections
			n.SYNACK += x.Connections
		}
	}
	return stats
}

// maxProblems bounds what is said of a source.
const maxProblems = 20

func (s *huntSource) problem(text string) {
	if len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, printable(text))
	}
}

// hits makes messages of the hits. Coverage of the whole time decides what becomes of each.
func (r *huntReport) hits(cfg *config.Config, found *hunt.Result, a *coverage.Assessment, counts *coverage.Counts) {
	base := coverageOf(a, counts, false)
	base.Sensor, base.Version = cfg.Sensor, r.Version
	base.Window = &bus.Window{From: r.From, To: r.To}
	base.Retro = &bus.Retro{Began: r.Began, From: r.From, To: r.To}
	for _, s := range r.Sources {
		base.Retro.Sources = append(base.Retro.Sources, bus.RetroSource{Name: s.Name, Kind: s.Kind, Limits: s.Limits})
		for _, l := range s.Limits {
			base.Notes = append(base.Notes, s.Name+": "+l)
		}
	}
	allow := newAllowRules(cfg.Allow)
	expected := expectedFalse(&cfg.Correlate, &found.Stats, found.End.Sub(found.Begin))
	for i := range found.Hits {
		h := &found.Hits[i]
		before := h.Level
		c := base
		client, _ := found.Coverage.Client(h.Zone, h.Client)
		publish := judge(h, a, client, &c)
		expected[h.Level].put(&c, &found.Stats)
		h.Revision = base.Retro.Revision()
		m := bus.NewMessage(h, c)
		if publish = publish && !allow.holds(h.Level, m, h.Connection.Time.UTC()); publish {
			r.Hits = append(r.Hits, m)
		}
		if publish && before == h.Level {
			continue
		}
		bin := found.Bins[int64(h.Connection.Time)/int64(found.Width)]
		found.Found[before]--
		bin.Hits[before]--
		if publish {
			found.Found[h.Level]++
			bin.Hits[h.Level]++
		}
	}
	for _, n := range found.Found {
		r.HitsLeft += n
	}
	r.HitsLeft -= uint64(len(r.Hits))
	r.Allowed = allow.result().lines
}

// days is the length of the time hunted through; what is shorter than an hour says nothing of a day.
func (r *huntReport) days() float64 {
	return max(r.To.Sub(r.From), time.Hour).Hours() / 24
}

func (r *huntReport) levels(cfg *config.Config, found *hunt.Result) {
	expected := expectedFalse(&cfg.Correlate, &found.Stats, found.End.Sub(found.Begin))
	for l := correlate.Alert; l > correlate.None; l-- {
		r.Levels = append(r.Levels, huntLevel{
			Level: l.String(), Hits: found.Found[l], PerDay: float64(found.Found[l]) / r.days(), Decoys: found.Stats.Decoys[l],
			Expected: expected[l].perDay, Basis: expected[l].basis,
		})
	}
	for i := range correlate.Powers {
		r.Thresholds = append(r.Thresholds, huntThreshold{math.Pow10(i + 1), found.Stats.Reached[i], found.Stats.ReachedByDecoys[i]})
	}
}

func (r *huntReport) bins(found *hunt.Result) {
	for _, n := range slices.Sorted(maps.Keys(found.Bins)) {
		b := found.Bins[n]
		r.Bins = append(r.Bins, huntBin{
			Time: event.Time(n * int64(found.Width)).UTC(), Sources: b.Sources, Lookups: b.Lookups, Connections: b.Connections, Settled: b.Settled,
			Explained: b.Explained, Alerts: b.Hits[correlate.Alert], Watches: b.Hits[correlate.Watch], Leads: b.Hits[correlate.Lead],
			DecoyAlerts: b.Decoys[correlate.Alert], DecoyWatch: b.Decoys[correlate.Watch], Learning: b.Learning,
		})
	}
}

func (r *huntReport) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// hitsShown is how many hits the forms for people show, the strongest first.
const hitsShown = 100

// strongest returns the hits to show.
func (r *huntReport) strongest() []*bus.Message {
	all := slices.Clone(r.Hits)
	slices.SortStableFunc(all, func(a, b *bus.Message) int {
		if d := b.Event.Severity - a.Event.Severity; d != 0 {
			return d
		}
		switch x, y := a.Portolan.Calc.EValueLog10, b.Portolan.Calc.EValueLog10; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	return all[:min(len(all), hitsShown)]
}

// writeText writes the report for people.
func (r *huntReport) writeText(w io.Writer, color bool) error {
	b := &strings.Builder{}
	const form = "2006-01-02 15:04"
	fmt.Fprintf(b, "Hunt from %s to %s UTC, %s\n\n", r.From.Format(form), r.To.Format(form), lagText(r.To.Sub(r.From)))
	rows := [][]string{{"source", "kind", "files", "records", "lookups", "connections", "gaps"}}
	for _, s := range r.Sources {
		rows = append(rows, []string{s.Name, s.Kind, fmt.Sprint(s.Files), fmt.Sprint(s.Records), fmt.Sprint(s.Lookups), fmt.Sprint(s.Connections), fmt.Sprint(s.GapCount)})
	}
	writeColumns(b, rows)
	for _, s := range r.Sources {
		for _, l := range s.Limits {
			fmt.Fprintf(b, "  %s: %s\n", s.Name, l)
		}
		for _, p := range s.Problems {
			fmt.Fprintf(b, "  problem: %s\n", p)
		}
	}
	fmt.Fprintf(b, "\nA lookup explains %s of %d connections; %d ports and %d destinations were tried\n", percent(share(r.Explained, r.Connections)),
		r.Connections, r.PortTrials, r.AddressTries)
	fmt.Fprintf(b, "Coverage: %s\n", r.verdictText())
	if r.WarmFrom != nil {
		fmt.Fprintf(b, "Until %s what is ordinary here was learned from less than a day\n", r.WarmFrom.Format(form))
	}
	b.WriteByte('\n')
	rows = [][]string{{"", "hits", "a day", "scrambled answers", "by chance a day, at most"}}
	for _, l := range r.Levels {
		rows = append(rows, []string{l.Level, fmt.Sprint(l.Hits), fmt.Sprintf("%.3g", l.PerDay), l.decoys(), l.chance()})
	}
	writeColumns(b, rows)
	b.WriteString("\nTrials that reach an e-value, and scrambled answers that do:\n")
	rows = [][]string{{"e-value"}, {"trials"}, {"scrambled"}}
	for _, t := range r.Thresholds {
		rows[0] = append(rows[0], fmt.Sprintf("%.0e", t.EValue))
		rows[1] = append(rows[1], fmt.Sprint(t.Trials))
		rows[2] = append(rows[2], fmt.Sprint(t.Decoys))
	}
	writeColumns(b, rows)
	for _, line := range r.Allowed {
		fmt.Fprintf(b, "allowed: %s\n", line)
	}
	out := bufio.NewWriter(w)
	if _, err := out.WriteString(b.String()); err != nil {
		return err
	}
	shown := r.strongest()
	for _, m := range shown {
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
		if err := m.WriteText(out, color); err != nil {
			return err
		}
	}
	if left := uint64(len(r.Hits)-len(shown)) + r.HitsLeft; left > 0 {
		fmt.Fprintf(out, "\n%s; --hits FILE writes %d\n", count(left, "more hit is not shown", "more hits are not shown"), len(r.Hits))
	}
	return out.Flush()
}

func (r *huntReport) verdictText() string {
	a := coverage.Assessment{Verdict: coverage.Verdict(r.Verdict), Findings: r.Findings}
	return a.Text()
}

// decoys and chance write what stands beside the hits of a level; leads claim no calculation.
func (l *huntLevel) decoys() string {
	if l.Basis == "" {
		return "-"
	}
	return fmt.Sprint(l.Decoys)
}

func (l *huntLevel) chance() string {
	if l.Basis == "" {
		return "-"
	}
	return fmt.Sprintf("%.2g (%s)", l.Expected, l.Basis)
}
