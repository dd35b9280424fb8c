package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"portolan/cmd/internal/lab"
)

// loadOutcome is the table of portolan lab --load.
type loadOutcome struct {
	Mix      lab.Mix       `json:"mix"`
	Contents string        `json:"contents"`
	Senders  int           `json:"senders"`
	CPUs     int           `json:"cpus"`
	Rounds   int           `json:"rounds"`
	Seconds  int           `json:"seconds"`
	Stages   []stageResult `json:"stages"`
}

// stageResult is one line of it: medians of the rounds.
type stageResult struct {
	Name  string  `json:"stage"`
	Best  trial   `json:"lossless"`        // or, at a rate that was asked for, what became of it
	Share float64 `json:"share"`           // of the first stage's rate
	Worse *trial  `json:"lossy,omitempty"` // the lowest rate with loss; none when the senders were the limit
}

func (o *loadOutcome) add(name string, rounds []searched) {
	m := medianSearch(rounds)
	r := stageResult{Name: name, Best: m.best, Worse: m.worse, Share: 1}
	for _, x := range rounds { // what is longest is no matter of luck
		r.Best.Gap, r.Best.Pause = max(r.Best.Gap, x.best.Gap), max(r.Best.Pause, x.best.Pause)
	}
	if len(o.Stages) > 0 {
		r.Share = 0
		if first := o.Stages[0].Best.Rate; first > 0 {
			r.Share = r.Best.Rate / first
		}
	}
	o.Stages = append(o.Stages, r)
}

func (o *loadOutcome) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(o)
}

// why says in which way a trial was not without loss.
func (t *trial) why() string {
	var parts []string
	for _, l := range []struct {
		place string
		n     uint64
	}{{"veth", t.Lost.Veth}, {"ring", t.Lost.Ring}, {"decoder", t.Lost.Decoder}, {"correlator", t.Lost.Correlator}} {
		if l.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %.2g %%", l.place, 100*float64(l.n)/float64(t.Offered)))
		}
	}
	if len(parts) == 0 && t.Backlog > backlogAllowed {
		parts = append(parts, fmt.Sprintf("none yet, %s behind", lagText(t.Backlog)))
	}
	if len(parts) == 0 {
		return "none"
	}
	return fmt.Sprintf("at %.0f/s: %s", t.Rate, strings.Join(parts, ", "))
}

func (o *loadOutcome) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", string(o.Mix), o.Contents)
	fmt.Fprintf(&b, "%s of %s send; medians of %s\n\n", count(o.Senders, "CPU", "CPUs"), fmt.Sprint(o.CPUs), count(o.Rounds, "round", "rounds"))
	const line = "%-22s %12s %9s %8s %7s  %9s %9s  %s\n"
	fmt.Fprintf(&b, line, "stage", "frames/s", "ns/frame", "CPU ns", "share", "gap", "GC pause", "first loss")
	for _, s := range o.Stages {
		loss := "none: the senders can no more"
		if s.Worse != nil {
			loss = s.Worse.why()
		}
		each, gap := "-", "-"
		if s.Best.Rate > 0 {
			each = fmt.Sprintf("%.0f", 1e9/s.Best.Rate)
		}
		if s.Best.Gap > 0 {
			gap = lagText(s.Best.Gap.Round(time.Microsecond))
		}
		fmt.Fprintf(&b, line, s.Name, fmt.Sprintf("%.0f", s.Best.Rate), each, fmt.Sprintf("%.0f", s.Best.CPU), fmt.Sprintf("%.2f", s.Share),
			gap, lagText(s.Best.Pause.Round(time.Microsecond)), loss)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
