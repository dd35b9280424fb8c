package bus

import (
	"fmt"
	"time"
)

// Retro marks a hit that was found afterwards, in an archive. It is a further revision of the hit that a sensor
// may have found in the same packets, which have one id: Revision says which.
type Retro struct {
	Began   time.Time     `json:"began"` // when the hunt began, by the clock of whoever hunted
	From    time.Time     `json:"from"`  // the time that was hunted through: of its events, the first
	To      time.Time     `json:"to"`    // and the last
	Sources []RetroSource `json:"sources"`
}

// RetroSource is what was read.
type RetroSource struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`             // "capture", "zeek", …
	Limits []string `json:"limits,omitempty"` // what it cannot tell
}

// maxRetroSources bounds the sources that a message names.
const maxRetroSources = 16

// Revision returns the number of the revisions that the hunt makes: the second in which it began, since 1970. It is above those of any
// sensor, which count from 1, and of any earlier hunt, so that the latest hunt's word holds.
func (r *Retro) Revision() uint32 { return uint32(max(1, r.Began.Unix())) }

// clean returns a copy that may be shown.
func (r *Retro) clean() *Retro {
	if r == nil {
		return nil
	}
	c := &Retro{Began: r.Began.UTC(), From: r.From.UTC(), To: r.To.UTC(), Sources: []RetroSource{}}
	for _, s := range r.Sources[:min(len(r.Sources), maxRetroSources)] {
		c.Sources = append(c.Sources, RetroSource{clean(s.Name), clean(s.Kind), cleanAll(s.Limits)})
	}
	return c
}

// text says for people where the hit comes from.
func (r *Retro) text() string {
	const form = "2006-01-02 15:04"
	s := fmt.Sprintf("found afterwards, on %s, in %s to %s", r.Began.UTC().Format(form), r.From.UTC().Format(form), r.To.UTC().Format(form))
	if n := len(r.Sources); n == 1 {
		s += fmt.Sprintf(" of %s (%s)", clean(r.Sources[0].Name), clean(r.Sources[0].Kind))
	} else if n > 1 {
		s += fmt.Sprintf(" of %d sources", n)
	}
	return s
}
