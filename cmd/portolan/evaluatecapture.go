package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"portolan/cmd/internal/config"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// captureReport is what evaluate prints of capture files; the JSON form is the struct.
type captureReport struct {
	Files       int         `json:"files"` // that could be read, or begun to
	Lookups     uint64      `json:"lookups"`
	Connections uint64      `json:"connections"`
	Found       levelCounts `json:"found"`
	Decoys      levelCounts `json:"decoys"`
	Naive       struct {
		Hits     uint64 `json:"hits"`
		Distinct int    `json:"distinct"` // destinations and ports among them
	} `json:"naive"`
	Examples []captureExample `json:"examples"`
}

// captureExample is a hit of a rule, or of Portolan, in one file.
type captureExample struct {
	File   string `json:"file"`
	By     string `json:"by"` // the level, or the rule
	Client string `json:"client"`
	To     string `json:"to"`
	Text   string `json:"text"`
}

// evaluateCaptures measures innocent traffic from files. One that cannot be read does not keep the next
// ones from being read.
func (p *program) evaluateCaptures(ctx context.Context, cfg *config.Config, paths []string, asJSON bool) error {
	if err := captureArgs("evaluate", paths); err != nil {
		return err
	}
	r := &captureReport{Examples: []captureExample{}}
	var failed error
	for _, path := range paths {
		if err := p.evaluateCapture(ctx, cfg, path, r); err != nil {
			if ctx.Err() != nil {
				return err
			}
			p.report(err)
			failed = silent{err}
		}
	}
	var err error
	if asJSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetEscapeHTML(false)
		err = enc.Encode(r)
	} else {
		_, err = fmt.Fprint(p.stdout, r.text())
	}
	return errors.Join(err, failed)
}

func (p *program) evaluateCapture(ctx context.Context, cfg *config.Config, path string, to *captureReport) error {
	m := &captureMeasure{report: to, file: captureName(path), distinct: map[netip.AddrPort]bool{}}
	d, err := decode.New(decode.DefaultConfig())
	if err != nil {
		return err
	}
	if m.correlator, _, err = newCorrelator(cfg); err != nil {
		return err
	}
	stats, err := p.readCapture(ctx, path, sensor.ReplayConfig{Decoder: d}, m)
	if err != nil && stats.Frames == 0 {
		return err
	}
	m.hits = m.correlator.Flush(m.hits[:0])
	m.count()
	s := m.correlator.Stats()
	to.Files++
	to.Lookups += s.Lookups
	to.Connections += s.Connections
	to.Decoys.Watches += s.Decoys[correlate.Watch]
	to.Decoys.Alerts += s.Decoys[correlate.Alert]
	to.Naive.Distinct += len(m.distinct)
	return err
}

// captureMeasure is an event.Sink for one file.
type captureMeasure struct {
	report     *captureReport
	file       string
	correlator *correlate.Correlator
	next       event.Time
	hits       []correlate.Hit
	distinct   map[netip.AddrPort]bool
}

// Lookup hands a lookup to the correlator.
func (m *captureMeasure) Lookup(l *event.Lookup) {
	m.tick(l.Time)
	m.hits = m.correlator.ObserveLookup(m.hits[:0], l)
	m.count()
}

// Connection hands a connection to the correlator, and tries the naive rules on it.
func (m *captureMeasure) Connection(x *event.Connection) {
	m.tick(x.Time)
	if naive(x) {
		m.report.Naive.Hits++
		if !m.distinct[x.Dst] {
			m.distinct[x.Dst] = true
			m.example("a·b+c, a·(b+c)", x, "the port of the destination by itself")
		}
	}
	m.hits = m.correlator.ObserveConnection(m.hits[:0], x)
	m.count()
}

// tick advances the correlator each second of packet time.
func (m *captureMeasure) tick(t event.Time) {
	if t >= m.next {
		m.next = t + 1e9
		m.hits = m.correlator.Advance(m.hits[:0], t)
		m.count()
	}
}

func (m *captureMeasure) example(by string, x *event.Connection, text string) {
	m.report.Examples = append(m.report.Examples, captureExample{m.file, by, x.Src.Addr().String(), fmt.Sprintf("%s/%s", x.Dst, x.Proto), text})
}

// count enters the final hits.
func (m *captureMeasure) count() {
	for i := range m.hits {
		h := &m.hits[i]
		if h.State != correlate.Final {
			continue
		}
		switch f := &m.report.Found; h.Level {
		case correlate.Alert:
			f.Alerts++
		case correlate.Watch:
			f.Watches++
		case correlate.Lead:
			f.Leads++
		default:
			continue
		}
		m.example(h.Level.String(), &h.Connection, h.Calc.Expression)
	}
}

// text writes the report for people.
func (r *captureReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, taken to be innocent: %d lookups, %d connections\n\n", count(r.Files, "capture", "captures"), r.Lookups, r.Connections)
	rows := [][]string{{"", "alerts", "watches", "leads"}}
	for _, l := range []struct {
		name   string
		counts *levelCounts
	}{{"found", &r.Found}, {"decoys (scrambled answers)", &r.Decoys}} {
		rows = append(rows, []string{l.name, fmt.Sprint(l.counts.Alerts), fmt.Sprint(l.counts.Watches), fmt.Sprint(l.counts.Leads)})
	}
	writeColumns(&b, rows)
	fmt.Fprintf(&b, "\nWithout lookups and baseline (port is a·b+c or a·(b+c)): %d connections, to %s\n", r.Naive.Hits,
		count(r.Naive.Distinct, "place", "places"))
	if len(r.Examples) == 0 {
		return b.String()
	}
	b.WriteString("\nWhat they are\n")
	rows = [][]string{{"file", "by", "client", "to", ""}}
	for _, x := range r.Examples {
		rows = append(rows, []string{x.File, x.By, x.Client, x.To, x.Text})
	}
	writeColumns(&b, rows)
	return b.String()
}
