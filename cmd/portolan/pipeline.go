package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/fleet"
	"portolan/cmd/internal/selftest"
	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/correlate/baseline"
	"portolan/sensor"
	"portolan/sensor/event"
)

// pipeline carries events from the rings through the correlator, and hits from there to
// NATS. A ring's goroutine never waits: a hit that does not fit the queue is counted and lost.
type pipeline struct {
	cfg        *config.Config
	device     string
	correlator *correlate.Correlator
	allow      *allowRules
	baseline   *baseline.Model
	hosts      *attribute.Hosts
	bus        *bus.Bus
	show       func(*bus.Message) // sees each message after it was queued for NATS; must not block; may be nil

	observations *fleet.Publisher // nil unless they are published too

	told   []string                        // not nil when lookups come beside the devices: what that does not tell
	beside func(ctx context.Context) error // takes in what does not come from a device, until ctx ends; may be nil

	queue   chan correlate.Hit
	taken   atomic.Uint64        // hits out of the queue
	lost    atomic.Uint64        // hits that did not fit the queue, or could not be encoded
	context atomic.Pointer[seen] // what was seen, as of the last second
	chance  atomic.Pointer[chanceReport]
	history coverage.History

	tester *selfTester // nil unless there are self-tests
	own    ownHits

	muted, downgraded atomic.Uint64 // leads not published, and alerts published as watches, because of coverage

	mu    sync.Mutex
	sinks []*ringSink
}

// seen is what the whole pipeline had counted at one moment.
type seen struct {
	at     time.Time
	counts coverage.Counts
	view   coverage.View
}

// chanceReport is what chance reaches here, as of the last second.
type chanceReport struct {
	expected [correlate.Alert + 1]expectation
	stats    correlate.Stats
}

const (
	queueHits    = 4096                   // hits that wait for the publisher
	advanceEvery = 100 * time.Millisecond // between two looks at packet time
	idleLag      = 500 * time.Millisecond // longer than any frame stays in the kernel: what a quiet ring cannot hold back
)

func newPipeline(cfg *config.Config, device string, b *bus.Bus, show func(*bus.Message)) (*pipeline, error) {
	c, m, err := newCorrelator(cfg)
	if err != nil {
		return nil, err
	}
	hosts, err := attribute.NewHosts(attribute.DefaultHostsConfig())
	if err != nil {
		return nil, err
	}
	l := &pipeline{
		cfg: cfg, device: device, correlator: c, allow: newAllowRules(cfg.Allow), baseline: m, hosts: hosts, bus: b, show: show,
		queue: make(chan correlate.Hit, queueHits),
	}
	l.context.Store(&seen{at: time.Now()})
	l.chance.Store(&chanceReport{})
	return l, nil
}

// run captures until ctx ends or a sensor fails, settles what is pending, and returns when
// every hit has been handed to the bus. Report is called each second.
func (l *pipeline) run(ctx context.Context, sensors []*sensor.Sensor, report func()) error {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var publishing, ticking, capturing sync.WaitGroup
	publishing.Go(l.publish)
	stop := make(chan struct{})
	ticking.Go(func() { l.tick(stop, report) })
	for _, s := range sensors {
		capturing.Go(func() {
			if err := s.Run(running, l.newSink); err != nil {
				cancel(err) // one sensor that fails ends the others
			}
		})
	}
	if l.beside != nil {
		capturing.Go(func() {
			if err := l.beside(running); err != nil {
				cancel(err)
			}
		})
	}
	capturing.Wait()
	close(stop)
	ticking.Wait()
	for _, h := range l.correlator.Flush(nil) {
		l.queue <- h // nothing is captured any more, so this may wait
	}
	close(l.queue)
	publishing.Wait()
	if ctx.Err() != nil {
		return nil // being told to stop is no failure
	}
	return context.Cause(running)
}

// publish hands each hit to the bus until the queue is closed.
func (l *pipeline) publish() {
	for h := range l.queue {
		l.taken.Add(1)
		if selftest.Marked(&h.Connection) {
			l.own.take(&h)
			l.tester.see(&h)
			continue
		}
		c, publish := l.judged(&h)
		if !publish {
			l.muted.Add(1)
			continue
		}
		if c.Downgraded != nil {
			l.downgraded.Add(1)
		}
		c.Created, c.Attributed = time.Now(), l.cfg.Attribution.Expected
		report := l.chance.Load()
		report.expected[h.Level].put(&c, &report.stats)
		c.Holder, _ = l.hosts.At(h.Zone, h.Connection.Src.Addr(), h.Connection.Time)
		m := bus.NewMessage(&h, c)
		if l.allow.holds(h.Level, m, c.Created) {
			continue
		}
		if err := l.bus.Publish(m); err != nil && !errors.Is(err, bus.ErrQueueFull) {
			l.lost.Add(1) // a full queue is counted by the bus
		}
		if l.show != nil {
			l.show(m)
		}
	}
}

// judged says what could be seen between the lookup of a hit and now, and what that makes of the hit. It returns false for one that
// is not to be published.
func (l *pipeline) judged(h *correlate.Hit) (c bus.Context, publish bool) {
	now := l.context.Load()
	from := min(h.Lookup.Time, event.TimeOf(now.at)-coverage.LeastWindow)
	counts, began := l.history.Since(from, &now.counts)
	a := coverage.Assess(&counts, &now.view, coverage.Source{Live: true, Beside: l.told})
	c = coverageOf(&a, &counts, true)
	if began > 0 {
		c.Window = &bus.Window{From: began.UTC(), To: now.at.UTC()}
	}
	c.Sensor, c.Version, c.Device = l.cfg.Sensor, thisBuild().Version, l.device
	return c, judge(h, &a, l.client(h.Zone, h.Client), &c)
}

// client returns what is known of a client. With rings that the kernel does not fill by client, it is what the one
// knows that saw most of it.
func (l *pipeline) client(z event.Zone, addr netip.Addr) (most coverage.ClientView) {
	most = coverage.ClientView{Addr: addr, Zone: z}
	for _, s := range l.tallies() {
		if v, ok := s.Client(z, addr); ok && v.Connections+v.Lookups > most.Connections+most.Lookups {
			most = v
		}
	}
	return most
}

func (l *pipeline) tallies() (all []*coverage.Tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sinks {
		all = append(all, s.tally)
	}
	return all
}

// give queues hits without waiting.
func (l *pipeline) give(hits []correlate.Hit) {
	for i := range hits {
		select {
		case l.queue <- hits[i]:
		default:
			l.lost.Add(1)
		}
	}
}

// tick tells the correlator how far packet time has come, and calls report each second.
func (l *pipeline) tick(stop <-chan struct{}, report func()) {
	t := time.NewTicker(advanceEvery)
	defer t.Stop()
	var hits []correlate.Hit
	latest := event.Time(0)
	next := time.Now().Add(time.Second)
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			if reached := l.reached(event.TimeOf(now)); reached > latest {
				latest = reached
				hits = l.correlator.Advance(hits[:0], latest)
				l.give(hits)
				if l.observations != nil {
					l.observations.Reached(latest)
				}
			}
			if now.After(next) {
				next = now.Add(time.Second)
				report()
			}
		}
	}
}

// reached returns the time up to which all rings have delivered. A ring that is behind
// holds it back; one that is quiet does not.
func (l *pipeline) reached(now event.Time) event.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := now.Add(-idleLag)
	for _, s := range l.sinks {
		if t := event.Time(s.latest.Load()); t != s.before {
			s.before = t
			all = min(all, t)
		}
	}
	return all
}

// newSink returns the sink of one ring, as sensor.Run wants it.
func (l *pipeline) newSink(int) event.BatchSink {
	s := &ringSink{line: l, tally: coverage.NewTally()}
	if l.observations != nil {
		s.observations = selftest.Without(l.observations.NewSink())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sinks = append(l.sinks, s)
	return s
}

// ringSink takes the events of one ring. Its goroutine owns hits.
type ringSink struct {
	line         *pipeline
	observations event.Sink // nil unless they are published too
	hits         []correlate.Hit
	tally        *coverage.Tally
	latest       atomic.Int64
	before       event.Time // latest, when pipeline.reached looked last; under pipeline.mu
}

// Batch correlates the events of a block.
func (s *ringSink) Batch(b *event.Batch) {
	if l := s.line; l.tester.underWay() {
		b.Each(selftest.Without(s.tally))
	} else {
		s.tally.Batch(b)
	}
	s.hits = s.line.correlator.ObserveBatch(s.hits[:0], b)
	s.line.give(s.hits)
	for i := range b.Namings() {
		s.line.hosts.Observe(&b.Namings()[i])
	}
	if n := b.Len(); n > 0 { // namings alone do not say how far packets have come
		if l, c := b.At(n - 1); l != nil {
			s.latest.Store(int64(l.Time))
		} else {
			s.latest.Store(int64(c.Time))
		}
	}
	if s.observations != nil {
		b.Each(s.observations)
	}
}

// lostMessages counts hits that never reached NATS.
func (l *pipeline) lostMessages() lostMessages {
	s := l.bus.PublishStats()
	return lostMessages{queue: l.lost.Load() + s.LostQueue, spool: s.LostSpool + s.Spoilt}
}

// deviceNames returns the devices as one name.
func deviceNames(cfg *config.Config) string {
	switch n := len(cfg.Device); n {
	case 0:
		return "dnstap"
	case 1:
		return cfg.Device[0]
	default:
		return fmt.Sprintf("%s and %d more", cfg.Device[0], n-1)
	}
}
