// Package coverage says how far a sensor could judge what went by, and where it was blind: counts go in,
// findings and a verdict come out. It has no clock, does no I/O and knows no NATS; a live sensor, a capture
// file and a check of a mirror port are assessed alike.
package coverage

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"portolan/sensor/decode"
)

// Verdict says how much what was seen is worth.
type Verdict string

// The verdicts. A hit on Blind coverage is no alert.
const (
	Good    Verdict = "good"    // what was looked for would have been seen
	Partial Verdict = "partial" // something is missing, and Findings say what
	Blind   Verdict = "blind"   // what is missing decides: that nothing was found, or that nothing explains a connection, means nothing
	Unknown Verdict = "unknown" // nobody looked
)

// Severity says what a finding does to the verdict.
type Severity string

// The severities, mildest first.
const (
	Note     Severity = "note"    // worth knowing; the verdict stays
	Limits   Severity = "partial" // makes the verdict Partial
	Disables Severity = "blind"   // makes it Blind
)

// Finding is one thing that is true of a mirror and limits what it shows.
type Finding struct {
	Rule        string   `json:"rule"` // keeps its name for ever, such as "loss.ring"; see Rules
	Severity    Severity `json:"severity"`
	Evidence    string   `json:"evidence"`    // what was counted
	Consequence string   `json:"consequence"` // what cannot be judged because of it
}

// Loss counts what was lost, by place.
type Loss struct {
	NIC        uint64 // frames that the adapter, or its queue, had no room for
	Ring       uint64 // frames that the kernel filter passed and no ring had room for
	Decoder    uint64 // entries of the decoder's tables that made room before their time
	Correlator uint64 // entries of the correlator's tables, likewise
	Queue      uint64 // messages that did not fit the publisher's queue
	Spool      uint64 // messages that did not fit the spool
}

// Counts is what was counted in an interval, or since the start. Every field is a uint64, or is made of them, so that
// Since holds for all.
type Counts struct {
	Frames       uint64 // handed to a decoder
	Bytes        uint64 // on the wire, of these
	Truncated    uint64 // frames of which less was captured than was on the wire; live, the kernel filter shortens those that only count
	Oversize     uint64 // frames longer than the line can carry: merged by the adapter or the kernel
	Backward     uint64 // frames stamped more than a second before one that came earlier
	Reasons      [decode.NumReasons]uint64
	Decoder      decode.Counters
	Loss         Loss
	ClockSteps   uint64 // times that the clock was set
	ClockStepped uint64 // nanoseconds that it was set by, forward or backward, added up
	LinkDowns    uint64 // times the link was found down
	Reopens      uint64 // times the interface went away and came back
	Dark         uint64 // nanoseconds during which link or interface were away
	Lookups      uint64 // that the correlator took
	Connections  uint64 // that it took
	Settled      uint64 // connections that it judged for good
	Explained    uint64 // of those settled, to an address that a lookup gave
	Late         uint64 // events further behind than it waits
	Traffic      Traffic
}

// Since returns what was counted after the moment of o.
func (c *Counts) Since(o *Counts) (d Counts) {
	subtract(reflect.ValueOf(&d).Elem(), reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem())
	return d
}

// subtract sets to to a less b. A count that went back counts as 0: it was another's.
func subtract(to, a, b reflect.Value) {
	switch to.Kind() {
	case reflect.Struct:
		for i := range to.NumField() {
			subtract(to.Field(i), a.Field(i), b.Field(i))
		}
	case reflect.Array:
		for i := range to.Len() {
			subtract(to.Index(i), a.Index(i), b.Index(i))
		}
	default:
		if a.Uint() > b.Uint() {
			to.SetUint(a.Uint() - b.Uint())
		}
	}
}

// Source says where frames came from.
type Source struct {
	Live       bool          // a mirror port; else a capture file, which does not tell what was lost before it was written
	Incomplete bool          // a capture file that ends in the middle of a frame
	Span       time.Duration // over which was counted; 0 when unknown
	Records    []string      // not nil when other programs recorded it: what they do not tell
	Beside     []string      // not nil when lookups come from elsewhere beside the frames: what that does not tell
	SelfTest   string        // why the newest self-test failed; "" when it did not
}

// Assessment is a verdict with what led to it.
type Assessment struct {
	Verdict  Verdict
	Findings []Finding // those that give the verdict first, then in the order of Rules
}

// Rule returns the name of the rule that gave the verdict, "" when it is Good.
func (a *Assessment) Rule() string {
	if len(a.Findings) > 0 && a.Findings[0].Severity != Note {
		return a.Findings[0].Rule
	}
	return ""
}

// Why returns the evidence of all findings that make the verdict what it is, with the rule's name: "loss.ring: 12 % of frames".
func (a *Assessment) Why() (why []string) {
	for _, f := range a.Findings {
		if f.Severity != Note {
			why = append(why, f.Rule+": "+f.Evidence)
		}
	}
	return why
}

// Notes returns the evidence of findings that leave the verdict alone, written like Why.
func (a *Assessment) Notes() (notes []string) {
	for _, f := range a.Findings {
		if f.Severity == Note {
			notes = append(notes, f.Rule+": "+f.Evidence)
		}
	}
	return notes
}

// Text returns the verdict with its reasons on one line: "GOOD", "PARTIAL (why; why)".
func (a *Assessment) Text() string {
	text := strings.ToUpper(string(a.Verdict))
	if why := append(a.Why(), a.Notes()...); len(why) > 0 {
		text += " (" + strings.Join(why, "; ") + ")"
	}
	return text
}

// Has reports whether a rule applies.
func (a *Assessment) Has(rule string) bool {
	for _, f := range a.Findings {
		if f.Rule == rule {
			return true
		}
	}
	return false
}

// conclude orders the findings and gives the verdict.
func conclude(all []Finding) (a Assessment) {
	a.Verdict = Good
	for _, s := range []Severity{Disables, Limits, Note} {
		for _, f := range all {
			if f.Severity == s {
				a.Findings = append(a.Findings, f)
			}
		}
	}
	if len(a.Findings) > 0 {
		switch a.Findings[0].Severity {
		case Disables:
			a.Verdict = Blind
		case Limits:
			a.Verdict = Partial
		}
	}
	return a
}

// Percent writes a share from 0 to 1 for people, without pretending that nearly nothing is nothing.
func Percent(share float64) string {
	switch p := 100 * share; {
	case p == 0 || p >= 9.95:
		return fmt.Sprintf("%.0f %%", p)
	case p < 0.01:
		return "under 0.01 %"
	default:
		return fmt.Sprintf("%.2g %%", p)
	}
}

// share returns part of whole from 0 to 1; 0 of nothing.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}
