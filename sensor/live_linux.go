//go:build linux && cgo

package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portolan/bpffilter"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

const (
	statsInterval  = time.Second            // between two looks at the interface
	countInterval  = 100 * time.Millisecond // between two looks at a ring's counters in the kernel
	reopenInterval = 100 * time.Millisecond // between two looks for an interface that went away
)

// Sensor captures from one interface. Stats and Close may be called from any goroutine at
// any time.
type Sensor struct {
	cfg   Config
	log   *slog.Logger
	rings []*ring

	link      link       // when Run, which alone uses it, looked last
	linkUp    bool       // likewise
	prefilter *prefilter // of the sockets that are open; nil when none are

	mu     sync.Mutex
	force  InForce
	passed bpffilter.Counts // by prefilters that are no more
	now    bpffilter.Counts // by the one in force
	nic    Interface        // counted since Open
	last   Interface        // as the interface itself counts
	driver driverCounters   // of its adapter
	gaps   []Gap
	dark   time.Duration // of the gaps that are over
	cancel func()        // ends Run; nil before it began
	done   chan struct{} // closed when Run has ended; nil before it began
	closed bool
}

// Open opens the rings and starts capturing: what comes before Run waits in them. It needs
// CAP_NET_RAW, and so does Run when the interface goes away and comes back.
func Open(cfg Config) (*Sensor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sensor{cfg: cfg, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("device", cfg.Device)
	for i := range cfg.Rings {
		d, err := decode.New(cfg.Decode)
		if err != nil {
			return nil, err
		}
		r := &ring{index: i, decoder: d, down: func() { s.goesDark(GapLink, time.Now()) }}
		if n := len(cfg.CPUs); n > 0 {
			r.cpus = []int{cfg.CPUs[i%n]}
		}
		s.rings = append(s.rings, r)
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	s.nic = Interface{} // what it counted before is not ours
	return s, nil
}

// open opens a handle for each ring.
func (s *Sensor) open() error {
	l, err := findLink(s.cfg.Device)
	if err == nil && l.flags&unix.IFF_UP == 0 {
		err = ErrDown
	}
	var handles []*handle
	var p *prefilter
	if err == nil {
		handles, p, err = openHandles(&s.cfg, l)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", s.cfg.Device, err)
	}
	for i, h := range handles {
		s.rings[i].handle = h
		s.rings[i].n.longest = l.mtu + lineOverhead
	}
	s.prefilter = p
	s.mu.Lock()
	s.force = p.inForce
	s.mu.Unlock()
	s.link = l
	s.linkUp = l.flags&unix.IFF_LOWER_UP != 0
	if s.linkUp {
		s.isBack(time.Now())
	} else {
		s.goesDark(GapLink, time.Now())
	}
	s.findCounters(l.name)
	s.countInterface(s.count(l))
	return nil
}

// Run reads the rings until ctx ends or Close is called, and then returns nil. newSink is
// called once for each ring, before any frame is read; each sink is used by one goroutine.
// When the interface is removed, Run waits until one of its name is there again. It looks
// for it in the network namespace of the thread it runs on.
func (s *Sensor) Run(ctx context.Context, newSink func(ring int) event.BatchSink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	s.mu.Lock()
	if s.closed || s.done != nil {
		s.mu.Unlock()
		return fmt.Errorf("run %s: the sensor ran before, or was closed", s.cfg.Device)
	}
	s.cancel, s.done = cancel, done
	s.mu.Unlock()
	defer close(done)

	for i, r := range s.rings {
		r.sink = newSink(i)
	}
	for {
		if err := s.read(ctx); err != nil && !errors.Is(err, errGone) {
			return fmt.Errorf("run %s: %w", s.cfg.Device, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.goesDark(GapInterface, time.Now())
		s.log.Warn("interface gone, waiting for it")
		if err := s.reopen(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s.log.Info("interface back, capturing")
	}
}

// read runs a goroutine for each ring, which closes its handle in the end, and returns
// when all are through: nil because ctx ended, or the first error.
func (s *Sensor) read(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error)
	for _, r := range s.rings {
		go func() { results <- r.read(ctx) }()
	}
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	var first error
	defer s.disengage()
	for running := len(s.rings); running > 0; {
		select {
		case err := <-results:
			running--
			if first == nil {
				first = err
			}
			if !errors.Is(err, errGone) { // all rings find that out, when they are empty
				cancel()
			}
		case <-tick.C:
			s.look()
		}
	}
	return first
}

// disengage takes the prefilter out of the kernel.
func (s *Sensor) disengage() {
	n := s.prefilter.counts()
	s.prefilter.close()
	s.prefilter = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed.Add(&n)
	s.now = bpffilter.Counts{}
}

// look takes the prefilter's and the interface's counts and tells when its link changes.
func (s *Sensor) look() {
	n := s.prefilter.counts()
	s.mu.Lock()
	s.now = n
	s.mu.Unlock()
	l, err := linkAt(s.link.index)
	if err != nil {
		return // gone, which the rings find out
	}
	if l.name != s.link.name { // the sockets do not mind
		s.log.Warn("interface renamed, capturing on", "name", l.name)
		s.findCounters(l.name)
	}
	s.link = l
	s.countInterface(s.count(l))
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	isUp := l.flags&up == up
	if isUp {
		s.isBack(time.Now())
	} else {
		s.goesDark(GapLink, time.Now().Add(-statsInterval)) // when it was looked at last it was up
	}
	if s.linkUp != isUp {
		s.linkUp = isUp
		s.log.Info("link changed", "up", isUp)
	}
}

// findCounters looks up which counters of its own the driver of an interface has.
func (s *Sensor) findCounters(name string) {
	c := findDriverCounters(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.driver = c
}

// count returns what the interface counts now, in all ways there are.
func (s *Sensor) count(l link) Interface {
	n := l.counts
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	n.Driver = s.driver.read(last.Driver)
	if l.kind == "ifb" {
		n.Queue = queueDrops(l.index, last.Queue)
	}
	return n
}

// goesDark begins a gap, unless there is one. That the interface is gone is said of one that began with its link.
func (s *Sensor) goesDark(cause string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.gaps); n > 0 && s.gaps[n-1].To.IsZero() {
		if cause == GapInterface {
			s.gaps[n-1].Cause = cause
		}
		return
	}
	if len(s.gaps) == maxGaps {
		s.gaps = slices.Delete(s.gaps, 0, 1)
	}
	s.gaps = append(s.gaps, Gap{From: at, Cause: cause})
}

// isBack ends the gap that there is, if any.
func (s *Sensor) isBack(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.gaps); n > 0 && s.gaps[n-1].To.IsZero() {
		g := &s.gaps[n-1]
		g.To = at
		s.dark += g.To.Sub(g.From)
	}
}

// reopen opens the rings again as soon as there is an interface to open them on.
func (s *Sensor) reopen(ctx context.Context) error {
	const tries = 10 // an interface can go away again while it is being opened
	wait := time.NewTicker(reopenInterval)
	defer wait.Stop()
	for failed := 0; ; {
		err := s.open()
		switch {
		case err == nil:
			for _, r := range s.rings {
				r.n.Reopens++
			}
			return nil
		case errors.Is(err, ErrNoInterface) || errors.Is(err, ErrDown):
			failed = 0
		default:
			if failed++; failed == tries {
				return err
			}
		}
		for _, r := range s.rings { // which have no goroutine now
			r.n.Turns++
			r.publish()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
	}
}

func (s *Sensor) countInterface(now Interface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nic = s.nic.plus(now.since(s.last))
	s.last = now
}

// Stats returns the counts so far: of the kernel and the interface not older than about a
// second, of the decoders not older than the last block, and final once Run has returned.
func (s *Sensor) Stats() Stats {
	var sum Stats
	for _, r := range s.rings {
		n := r.stats()
		sum.Rings = append(sum.Rings, n)
		sum.add(&n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sum.Interface = s.nic
	sum.Counter = s.nic.counter(&s.driver)
	sum.Gaps = slices.Clone(s.gaps)
	sum.Dark = s.dark
	if n := len(s.gaps); n > 0 && s.gaps[n-1].To.IsZero() {
		sum.Dark += time.Since(s.gaps[n-1].From)
	}
	sum.Prefilter = s.passed
	sum.Prefilter.Add(&s.now)
	return sum
}

// Turns returns RingStats.Turns of one ring: whether its goroutine makes progress.
func (s *Sensor) Turns(ring int) uint64 { return s.rings[ring].stats().Turns }

// InForce returns what filters and shares out frames since the interface was opened last.
func (s *Sensor) InForce() InForce {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.force
}

// Close ends Run, waits for it, and closes the rings.
func (s *Sensor) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	cancel, done := s.cancel, s.done
	s.mu.Unlock()
	if done != nil {
		cancel()
		<-done
		return nil
	}
	if first {
		for _, r := range s.rings {
			r.handle.close() // no goroutine ever owned it
		}
		s.disengage()
	}
	return nil
}
