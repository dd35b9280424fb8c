package hunt

import (
	"context"
	"math"

	"portolan/cmd/internal/coverage"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// position says how far the events of an archive have been given out.
type position struct {
	Given uint64     // events read, those outside of the hunt's time included
	Clock event.Time // latest so far, the event included that comes next
	Due   event.Time // when the correlator is told the time
}

// advanceEvery is how often the correlator is told the time. A baseline has what it says of a minute ready a minute before, so that
// this is often enough; and batches of so long are worth sharing among workers.
const advanceEvery = 20e9

// batch is what the feeder hands on.
type batch struct {
	events   event.Batch
	source   []uint16 // where each came from
	advance  bool     // the correlator is to be told position.Clock, when the next event comes
	position position // behind the events
}

// feeder is the sink of an archive's reader: it makes batches of the events. Where one ends depends on the
// events alone.
type feeder struct {
	ctx          context.Context
	stop         func() // the reader, when nothing more is wanted
	at           func() int
	since, until event.Time // events outside are passed over
	skip         uint64     // events that were given out before
	position     position
	coverage     *coverage.Tally // what is passed over counts, too, so that it need not be kept
	b            *batch
	out, free    chan *batch
	ended        bool // nobody takes batches any more
}

// afterUntil is how much disorder is waited for at the end.
const afterUntil = 60e9

// Lookup takes a lookup.
func (f *feeder) Lookup(l *event.Lookup) {
	f.coverage.Lookup(l)
	if f.admit(l.Time) {
		f.b.events.Lookup(l)
	}
}

// Connection takes a connection.
func (f *feeder) Connection(c *event.Connection) {
	f.coverage.Connection(c)
	if f.admit(c.Time) {
		f.b.events.Connection(c)
	}
}

// Record passes over what an endpoint recorded: hits are made of the network alone.
func (f *feeder) Record(*attribute.Record) {}

// admit makes room for an event of time t; it reports false when the event is passed over.
func (f *feeder) admit(t event.Time) bool {
	if f.skip > 0 {
		f.skip--
		return false
	}
	defer func() { f.position.Given++ }()
	if t < f.since || t >= f.until {
		if t.Add(-afterUntil) >= f.until {
			f.stop()
		}
		return false
	}
	p := &f.position
	p.Clock = max(p.Clock, t)
	if due := p.Clock >= p.Due; due || f.b.events.Full() {
		if f.b.advance = due; due {
			p.Due = p.Clock.Add(advanceEvery)
		}
		f.hand()
	}
	f.b.source = append(f.b.source, uint16(f.at()))
	return true
}

// hand hands the batch on and takes another one.
func (f *feeder) hand() {
	f.b.position = f.position
	// Once a batch was not handed on, none is: what goes out ends where the events say.
	if f.ended = f.ended || f.ctx.Err() != nil; !f.ended {
		select {
		case f.out <- f.b:
		case <-f.ctx.Done():
			f.ended = true
		}
	}
	if f.ended {
		f.b.events.Reset()
		f.b.source = f.b.source[:0]
		return
	}
	select {
	case f.b = <-f.free:
	case <-f.ctx.Done():
		f.b = &batch{}
	}
	f.b.events.Reset()
	f.b.source, f.b.advance = f.b.source[:0], false
}

// newFeeder returns a feeder that goes on from a position, nil for the beginning.
func newFeeder(from *position) *feeder {
	f := &feeder{position: position{Clock: math.MinInt64, Due: math.MinInt64}}
	if from != nil {
		f.position, f.skip = *from, from.Given
	}
	return f
}
