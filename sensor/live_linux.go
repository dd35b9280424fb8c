//go:build linux && cgo

package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

	linkUp    bool       // when Run, which alone uses it, looked last
	prefilter *prefilter // of the sockets that are open; nil when none are

	mu     sync.Mutex
	force  InForce
	passed bpffilter.Counts // by prefilters that are no more
	now    bpffilter.Counts // by the one in force
	nic    Interface        // counted since Open
	last   Interface        // as the interface itself counts
	cancel func()           // ends Run; nil before it began
	done   chan struct{}    // closed when Run has ended; nil before it began
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
		r := &ring{index: i, decoder: d}
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
	}
	s.prefilter = p
	s.mu.Lock()
	s.force = p.inForce
	s.mu.Unlock()
	s.linkUp = l.flags&unix.IFF_LOWER_UP != 0
	s.countInterface(l.counts)
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
	l, err := findLink(s.cfg.Device)
	if err != nil {
		return
	}
	s.countInterface(l.counts)
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	if was := s.linkUp; was != (l.flags&up == up) {
		s.linkUp = !was
		s.log.Info("link changed", "up", s.linkUp)
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
	sum.Prefilter = s.passed
	sum.Prefilter.Add(&s.now)
	return sum
}

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
