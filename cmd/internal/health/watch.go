// Package health tells others how a process fares: whether its goroutines make progress, to systemd
// and over HTTP, with its metrics.
package health

import (
	"sync"
	"time"
)

// Part is something that has to make progress.
type Part struct {
	Name  string
	Count func() uint64 // grows while there is progress; safe for concurrent use
	Idle  func() bool   // whether there is nothing to do: then standing still is no fault; nil for never
}

// Watch sees whether parts make progress. Its methods are safe for concurrent use.
type Watch struct {
	patience time.Duration
	parts    []Part

	mu    sync.Mutex
	state []progress
}

// progress is what was seen of one part.
type progress struct {
	count uint64
	at    time.Time // when it was seen to grow, or to be idle
	begun bool      // it has grown
}

// NewWatch returns a Watch of parts, each of which may stand still for patience, from now on.
func NewWatch(patience time.Duration, now time.Time, parts ...Part) *Watch {
	w := &Watch{patience: patience, parts: parts, state: make([]progress, len(parts))}
	for i, p := range parts {
		w.state[i] = progress{count: p.Count(), at: now}
	}
	return w
}

// Look looks at all parts, and is called again and again, several times within the patience. It returns the
// names of those that stand still.
func (w *Watch) Look(now time.Time) (stuck []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, p := range w.parts {
		s := &w.state[i]
		if n := p.Count(); n != s.count {
			*s = progress{n, now, true}
		} else if p.Idle != nil && p.Idle() {
			s.at, s.begun = now, true
		}
		if now.Sub(s.at) > w.patience {
			stuck = append(stuck, p.Name)
		}
	}
	return stuck
}

// Begun reports whether each part has been seen to make progress, or to have nothing to do.
func (w *Watch) Begun() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.state {
		if !s.begun {
			return false
		}
	}
	return true
}
