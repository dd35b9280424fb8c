package main

import (
	"fmt"

	"portolan/cmd/internal/bus"
	"portolan/correlate/attribute"
)

// followed bounds how many hits a follower remembers.
const followed = 1 << 16

// follower decides which revisions of a hit a person wants to see: the first, and later
// ones that change what to think of it. One goroutine at a time may use it.
type follower struct {
	all   bool // show every revision
	shown map[string]shown
	order []string // ids in the order in which they came first; the oldest is forgotten
	next  int
}

// shown is what a person has seen of a hit.
type shown struct {
	revision uint32
	level    string
	state    string
	who      string // what the attribution says
}

func newFollower(all bool) *follower {
	return &follower{all: all, shown: make(map[string]shown), order: make([]string, followed)}
}

// matters says whether to show m, and remembers it. A revision that is not above the one
// seen is old. Final after provisional says nothing new while the level stays.
func (f *follower) matters(m *bus.Message) bool {
	p := &m.Portolan
	last, known := f.shown[p.HitID]
	who := whoText(&p.Attribution)
	if known && p.Revision <= last.revision {
		return false
	}
	if !known {
		delete(f.shown, f.order[f.next])
		f.order[f.next] = p.HitID
		f.next = (f.next + 1) % len(f.order)
	}
	f.shown[p.HitID] = shown{p.Revision, p.Level, p.State, who}
	switch {
	case f.all:
		return true
	case !known:
		return p.State != "retracted" // what was never shown need not be taken back
	case p.Level != last.level:
		return true
	}
	if p.State == "enriched" {
		// That nobody is known says nothing new.
		return p.Attribution.Status != string(attribute.Unmatched) && (p.State != last.state || who != last.who)
	}
	return p.State == "retracted" && p.State != last.state
}

// whoText tells one attribution from another.
func whoText(a *bus.Attribution) string {
	pid := uint32(0)
	if a.Process != nil {
		pid = a.Process.PID
	}
	return fmt.Sprint(a.Status, " ", a.Method, " ", pid, " ", a.Processes)
}
