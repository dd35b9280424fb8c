// Package hunt runs what an archive holds, captures and records, through the correlator that a mirror port
// feeds, as it would have seen them when they were new.
//
// # Evidence
//
// There is one pass, in the order of the events' times. The probability that a trial is weighed by was made of what
// came before it alone (package baseline): neither the trial itself nor anything after it has a share in it, so
// that an e-value means the same as live. Learning from the whole archive first would not do: what the implants
// of a later day did would have made ordinary what those of an earlier day do. Where Config.Since is set the events
// of the time Learn before it teach the baseline and the table of answers, and give no hits; else the archive
// begins with a baseline that knows nothing, and Result says until when it was young.
//
// # Order, cores, interruptions
//
// Batches of events end where the events say, never where a clock or a core does, every client belongs to one worker,
// and workers meet after each batch: any number of them finds the same. A checkpoint holds the whole table and
// how many events it has seen, which are read again and passed over: going on from it finds what an
// uninterrupted run does.
package hunt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"time"

	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/feed"
	"portolan/correlate"
	"portolan/correlate/baseline"
	"portolan/sensor/event"
)

// Config says how to hunt.
type Config struct {
	// Correlate is the configuration of the sensor whose verdict is wanted. Its Seed is not 0; Baseline is
	// made here.
	Correlate correlate.Config
	// Since and Until bound the hunt; 0 means from the first event, and to the last. The time Learn before Since
	// is read too.
	Since, Until event.Time
	Learn        time.Duration
	// Cores is how many goroutines correlate, from 1. It changes nothing in what is found.
	Cores int

	// Checkpoint names a file that a hunt broken off goes on from; "" for none. It is written each Every, as long
	// as that takes a small share of the time, and removed at the end. Key is what has to be the same to go on.
	Checkpoint string
	Every      time.Duration
	Key        string

	// Progress, when set, is called about twice a second.
	Progress func(Progress)
}

// Validate returns an error that names the first field out of range.
func (c *Config) Validate() error {
	switch {
	case c.Correlate.Seed == 0:
		return errors.New("hunt: Correlate.Seed is 0: a hunt has to be repeatable")
	case c.Cores < 1:
		return fmt.Errorf("hunt: Cores %d: want at least 1", c.Cores)
	case c.Learn < 0:
		return fmt.Errorf("hunt: Learn %v: want 0 or more", c.Learn)
	case c.Until != 0 && c.Until <= c.Since:
		return fmt.Errorf("hunt: Until %v is not after Since %v", c.Until.UTC(), c.Since.UTC())
	}
	return c.Correlate.Validate()
}

// Progress says how far a hunt has come.
type Progress struct {
	Events uint64     // correlated, in this process
	Clock  event.Time // of the newest; 0 before the first
}

// Result is what a hunt came to.
type Result struct {
	Sources []SourceResult
	Width   time.Duration
	Bins    map[int64]*Bin // by number of the Width since 1970

	Begin, End event.Time          // of the events after Since; equal when there was none
	Stats      correlate.Stats     // of the hunt; what was only learned from is not in it
	All        correlate.Stats     // with that
	Baseline   baseline.ModelStats // at the end
	Warm       event.Time          // from then on the baseline is as old as it lasts; 0 when it was before Begin
	Hits       []correlate.Hit     // final, in order of time; the first maxHits of each level
	Found      [correlate.Alert + 1]uint64
	Coverage   *coverage.Tally // of all that was read
	Resumed    bool            // it went on from a checkpoint
}

// hunter is a hunt under way.
type hunter struct {
	cfg        *Config
	correlator *correlate.Correlator
	model      *baseline.Model
	tally      *tally
	coverage   *coverage.Tally // the reader's until it has ended
	events     uint64
	shown      time.Time
	saved      time.Time     // when the last checkpoint was done
	cost       time.Duration // of it
	found      [][]correlate.Hit
}

// Archive is what a hunt reads.
type Archive struct {
	// Read hands all events to a sink in the order of their times, the same ones each time, until ctx ends.
	Read func(ctx context.Context, to feed.Sink) error
	// At returns which of Sources the event comes from that Read is handing over.
	At      func() int
	Sources []Source
}

// errEnough ends reading behind Until.
var errEnough = errors.New("the end of the hunt's time is reached")

// Run hunts through an archive. When ctx ends, it leaves a checkpoint and returns the cause.
func Run(ctx context.Context, cfg Config, from Archive) (*Result, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Until == 0 {
		cfg.Until = math.MaxInt64
	}
	h := &hunter{cfg: &cfg, coverage: coverage.NewTally(), tally: newTally(from.Sources), found: make([][]correlate.Hit, cfg.Cores), saved: time.Now()}
	at, err := h.load()
	if err != nil {
		return nil, err
	}
	if err := h.run(ctx, &from, at); err != nil {
		return nil, err
	}
	r := h.result()
	r.Resumed = at != nil
	return r, h.forget()
}

// run reads, correlates and counts until everything is read.
func (h *hunter) run(ctx context.Context, from *Archive, at *position) error {
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	const under = 3 // batches: one that is filled, one that waits, one at work
	f := newFeeder(at)
	f.ctx, f.stop, f.at, f.coverage = reading, func() { cancel(errEnough) }, from.At, h.coverage
	f.since, f.until = math.MinInt64, h.cfg.Until
	if h.cfg.Since != 0 {
		f.since = h.cfg.Since.Add(-h.cfg.Learn)
	}
	f.out, f.free, f.b = make(chan *batch, under), make(chan *batch, under+1), &batch{}
	for range under {
		f.free <- &batch{}
	}
	var reader sync.WaitGroup
	var failed error // of the reader, once it is waited for
	reader.Go(func() {
		defer close(f.out)
		failed = from.Read(reading, f)
		if cause := context.Cause(reading); cause != nil {
			failed = cause
		}
		if failed == nil || errors.Is(failed, errEnough) {
			failed = nil
			f.b.position = f.position
			f.out <- f.b // the last; the consumer takes all
		}
	})
	for b := range f.out {
		h.take(b)
		at = &position{}
		*at = b.position
		select {
		case f.free <- b:
		default: // ctx has ended, and the reader made another one
		}
		if err := h.checkpoint(at, false); err != nil {
			cancel(err)
		}
		h.show(false)
	}
	reader.Wait()
	if failed != nil {
		if at != nil {
			failed = errors.Join(failed, h.checkpoint(at, true))
		}
		return failed
	}
	h.tally.hits(h.correlator.Flush(nil), h.since())
	if h.tally.Any {
		h.tally.settle(h.correlator, h.tally.Clock, h.learning())
	}
	h.show(true)
	return nil
}

// since returns the time from which hits count.
func (h *hunter) since() event.Time {
	if h.cfg.Since == 0 {
		return math.MinInt64
	}
	return h.cfg.Since
}

func (h *hunter) learning() bool { return h.tally.Clock < h.since() }

// take correlates a batch. Each worker has its part of the clients.
func (h *hunter) take(b *batch) {
	t := h.tally
	t.events(b)
	if h.cfg.Since == 0 && t.Any && !t.Began {
		t.Began, t.First = true, t.Seen
	}
	h.events += uint64(b.events.Len())
	parts := h.cfg.Cores
	if b.events.Len() < 32*parts {
		parts = 1 // less than it costs to wake anybody
	}
	var working sync.WaitGroup
	for i := 1; i < parts; i++ {
		working.Go(func() { h.found[i] = h.correlator.ObservePart(h.found[i][:0], &b.events, i, parts) })
	}
	h.found[0] = h.correlator.ObservePart(h.found[0][:0], &b.events, 0, parts)
	working.Wait()
	all := slices.Concat(h.found[:parts]...)
	sortHits(all) // so that the workers' order makes no difference
	t.hits(all, h.since())
	if !b.advance || !t.Any {
		return
	}
	now := b.position.Clock
	t.hits(h.correlator.Advance(h.found[0][:0], now), h.since())
	if int64(now)/int64(t.Width) != t.Bin || !t.Began && now >= h.since() {
		t.settle(h.correlator, now, !t.Began && now >= h.since() || h.learning())
	}
	if !t.Began && now >= h.since() {
		t.Began, t.First, t.Before = true, now, h.correlator.Stats()
	}
}

func (h *hunter) show(end bool) {
	if now := time.Now(); h.cfg.Progress != nil && (end || now.Sub(h.shown) >= 500*time.Millisecond) {
		h.shown = now
		h.cfg.Progress(Progress{h.events, h.tally.Clock})
	}
}

// result sums up.
func (h *hunter) result() *Result {
	t := h.tally
	r := &Result{
		Sources: t.Sources, Width: t.Width, Bins: t.Bins, Begin: t.First, End: t.First, All: h.correlator.Stats(), Baseline: h.model.Stats(), Hits: t.Hits, Found: t.Found, Coverage: h.coverage,
	}
	r.Stats = minus(r.All, t.Before)
	if t.Began {
		r.End = t.Clock
		if warm := t.Seen.Add(baseline.DefaultModelConfig().HalfLife); warm > r.Begin {
			r.Warm = warm
		}
	}
	for i := range r.Sources {
		s := &r.Sources[i]
		slices.SortFunc(s.Gaps, func(a, b Gap) int { return cmp.Compare(a.From, b.From) })
	}
	sortHits(r.Hits)
	return r
}

// minus takes the counts of before from those of now.
func minus(now, before correlate.Stats) correlate.Stats {
	var less func(now, before reflect.Value)
	less = func(now, before reflect.Value) {
		switch now.Kind() {
		case reflect.Struct:
			for i := range now.NumField() {
				less(now.Field(i), before.Field(i))
			}
		case reflect.Array:
			for i := range now.Len() {
				less(now.Index(i), before.Index(i))
			}
		default:
			now.SetUint(now.Uint() - before.Uint())
		}
	}
	sum := now
	less(reflect.ValueOf(&sum).Elem(), reflect.ValueOf(before))
	sum.Clients, sum.MemoryBytes, sum.FixedBytes = now.Clients, now.MemoryBytes, now.FixedBytes // these are no counts
	return sum
}
