// Package doctor looks at a host, at a device that a mirror feeds, and at where hits go, and says what of it
// keeps Portolan from seeing, with the command that mends it. It reads and asks; it changes nothing.
package doctor

import (
	"slices"
	"strings"
)

// Status says how a check came out.
type Status string

// The statuses, worst first.
const (
	Bad     Status = "bad"     // blind, or unable to capture
	Warn    Status = "warn"    // something to mend
	Unknown Status = "unknown" // it could not be looked at, and the evidence says why
	OK      Status = "ok"
)

// rank orders statuses, worst first.
func (s Status) rank() int { return slices.Index([]Status{Bad, Warn, Unknown, OK}, s) }

// Finding is what one check found.
type Finding struct {
	Area        string `json:"area"`  // one of Areas
	Check       string `json:"check"` // keeps its name for ever, such as "ring-size"
	Status      Status `json:"status"`
	Evidence    string `json:"evidence"`              // what was seen, with numbers
	Consequence string `json:"consequence,omitempty"` // what Portolan misses because of it
	Advice      string `json:"advice,omitempty"`      // what to do where no command on this host does it
	Remedy      string `json:"remedy,omitempty"`      // a command that works as pasted
}

// Areas returns what is looked at, in the order of a report.
func Areas() []string { return []string{"host", "device", "traffic", "nats", "state"} }

// Report is all findings of one examination.
type Report struct {
	Device   string    `json:"device,omitempty"`
	Span     float64   `json:"span_s"` // for how long traffic was watched
	Status   Status    `json:"status"` // the worst; Unknown counts as OK
	Findings []Finding `json:"findings"`
}

// Add adds findings and keeps the worst status.
func (r *Report) Add(all ...Finding) {
	r.Findings = append(r.Findings, all...)
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return slices.Index(Areas(), a.Area) - slices.Index(Areas(), b.Area)
	})
	r.Status = OK
	for _, f := range r.Findings {
		if f.Status != Unknown && f.Status.rank() < r.Status.rank() {
			r.Status = f.Status
		}
	}
}

// Find returns the finding of a check, the first of that name, or nil.
func (r *Report) Find(check string) *Finding {
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Check == check })
	if i < 0 {
		return nil
	}
	return &r.Findings[i]
}

// list joins texts with commas, "none" when there are none.
func list(texts []string) string {
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, ", ")
}
