package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/selftest"
	"portolan/correlate"
	"portolan/sensor/decode"
)

// selfTester proves now and then that a live pipeline still finds what it has to: it hands a pair to the
// receive path of each device and waits for the hit. Its methods may be called from any goroutine, and on
// nil, where there are no self-tests.
type selfTester struct {
	line     *pipeline
	log      *slog.Logger
	patience time.Duration
	replay   *replayTest
	each     snapshot // what one probe adds to counts

	probe atomic.Pointer[selftest.Probe] // that is under way; nil when none is
	came  chan struct{}                  // has room for one: it came out
	last  atomic.Pointer[bus.SelfTest]
}

// startSelfTests has every hypothesis tried, and then the devices of a pipeline tested at once and in
// intervals, as its configuration says. The returned function ends that, and waits for it.
func startSelfTests(ctx context.Context, l *pipeline, log *slog.Logger) (end func(), err error) {
	every := l.cfg.SelfTest
	if every == 0 {
		return func() {}, nil
	}
	replay, err := replayHypotheses(l.cfg)
	if err != nil {
		return nil, err
	}
	t, err := newSelfTester(l, replay, log)
	if err != nil {
		return nil, err
	}
	l.tester = t
	ctx, cancel := context.WithCancel(ctx)
	var testing sync.WaitGroup
	testing.Go(func() { t.run(ctx, every) })
	return func() { cancel(); testing.Wait() }, nil
}

// newSelfTester returns one that has tested nothing yet.
func newSelfTester(l *pipeline, replay *replayTest, log *slog.Logger) (*selfTester, error) {
	t := &selfTester{line: l, log: log, patience: selftest.Patience, replay: replay, came: make(chan struct{}, 1)}
	d, err := decode.New(l.cfg.Capture.Decode)
	if err != nil {
		return nil, err
	}
	c, err := correlate.New(selftest.Room(l.cfg.Correlate))
	if err != nil {
		return nil, err
	}
	take := &look{Tally: coverage.NewTally(), correlator: c}
	s := &t.each.stats
	for i, b := range selftest.NewProbe().Frames() {
		f := decode.Frame{Time: 1, Data: b, Len: len(b), Number: uint64(i + 1), Link: decode.Ethernet}
		s.Reasons[d.Decode(&f, take)]++
		s.Frames++
		s.Bytes += uint64(len(b))
	}
	c.Flush(nil)
	s.CapturedBytes, s.Counters, t.each.correlate = s.Bytes, d.Counters(), c.Stats()
	return t, nil
}

// run tests the devices until ctx ends.
func (t *selfTester) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		t.test(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probeTries is how often a probe may be lost, as when a link flaps or a ring is full, before that is an
// alarm.
const probeTries = 2

// test tests each device, and raises the alarm if one of them does not show what it has to.
func (t *selfTester) test(ctx context.Context) {
	r := bus.SelfTest{Time: time.Now().UTC(), Path: pathDevice, Hypotheses: t.replay.Hypotheses, Fired: t.replay.Fired}
	if len(t.replay.Missing) > 0 {
		r.Why = t.replay.text() + "; missing " + t.replay.why()
	}
	for _, device := range t.line.cfg.Device {
		var err error
		for range probeTries {
			begin := time.Now()
			if err = t.through(ctx, device); errors.Is(err, selftest.ErrPrivilege) {
				r.Path = pathLoopback
				err = t.loopback(ctx)
			}
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				r.After = max(r.After, time.Since(begin).Seconds())
				break
			}
		}
		if err != nil && r.Why == "" {
			r.Why = err.Error()
		}
	}
	r.OK = r.Why == ""
	before := t.last.Swap(&r)
	switch {
	case !r.OK:
		t.log.Error("self-test failed: what has to be found is not", "path", r.Path, "why", r.Why)
	case before == nil || !before.OK:
		t.log.Info("self-test passed", "path", r.Path, "after", lagText(time.Duration(r.After*float64(time.Second))), "hypotheses", t.replay.text())
	}
}

// through sends a probe through a device, and returns nil when it came out of this pipeline.
func (t *selfTester) through(ctx context.Context, device string) error {
	p := selftest.NewProbe()
	select {
	case <-t.came: // late, of the one before
	default:
	}
	t.probe.Store(p)
	defer t.probe.Store(nil)
	if err := p.Inject(device); err != nil {
		return err
	}
	wait := time.NewTimer(t.patience)
	defer wait.Stop()
	select {
	case <-t.came:
		return nil
	case <-wait.C:
		return fmt.Errorf("%d frames went into %s, and no hit came out in %v", selftest.NumFrames, device, t.patience)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loopback sends a probe through lo, past this pipeline.
func (t *selfTester) loopback(ctx context.Context) error {
	c, err := correlate.New(selftest.Room(t.line.cfg.Correlate))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	return selftest.NewProbe().Loopback(ctx, t.line.cfg.Capture, c)
}

// see looks at a hit that is some probe's.
func (t *selfTester) see(h *correlate.Hit) {
	if t == nil {
		return
	}
	if p := t.probe.Load(); p != nil && p.Found(h) {
		select {
		case t.came <- struct{}{}:
		default:
		}
	}
}

// underWay reports whether a probe's events may come.
func (t *selfTester) underWay() bool { return t != nil && t.probe.Load() != nil }

// result returns what became of the newest test, nil before the first.
func (t *selfTester) result() *bus.SelfTest {
	if t == nil {
		return nil
	}
	return t.last.Load()
}

// failed returns why the newest test failed, "" when it did not.
func (t *selfTester) failed() string {
	if r := t.result(); r != nil {
		return r.Why
	}
	return ""
}

// leaveOut takes what probes that came out put in out of what was counted.
func (t *selfTester) leaveOut(s *snapshot) {
	if t == nil {
		return
	}
	n := t.line.own.probes.Load()
	less := func(from *uint64, each uint64) { *from -= min(*from, n*each) }
	for r, each := range t.each.stats.Reasons {
		less(&s.stats.Reasons[r], each)
	}
	for by, each := range t.each.correlate.ExplainedBy {
		less(&s.correlate.ExplainedBy[by], each)
	}
	a, b := &s.stats, &t.each.stats
	c, d := &s.correlate, &t.each.correlate
	for _, x := range []struct {
		from *uint64
		each uint64
	}{
		{&a.Frames, b.Frames}, {&a.Bytes, b.Bytes}, {&a.CapturedBytes, b.CapturedBytes},
		{&a.Counters.Queries, b.Counters.Queries}, {&a.Counters.Responses, b.Counters.Responses},
		{&a.Counters.Lookups, b.Counters.Lookups}, {&a.Counters.Connections, b.Counters.Connections},
		{&a.Counters.SYN, b.Counters.SYN}, {&a.Counters.SYNACK, b.Counters.SYNACK},
		{&c.Lookups, d.Lookups}, {&c.Connections, d.Connections}, {&c.Explained, d.Explained}, {&c.Unjudged, d.Unjudged},
		{&c.PortTrials, d.PortTrials}, {&c.AddressTrials, d.AddressTrials},
	} {
		less(x.from, x.each)
	}
}

// ownHits counts hits that are some probe's. The zero value has counted none.
type ownHits struct {
	probes atomic.Uint64 // that came out, of other processes too
	final  [correlate.Alert + 1]atomic.Uint64
}

func (o *ownHits) take(h *correlate.Hit) {
	if h.Revision == 1 {
		o.probes.Add(1)
	}
	if h.State == correlate.Final {
		o.final[h.Level].Add(1)
	}
}

// leaveOut takes them out of what a correlator counted.
func (o *ownHits) leaveOut(s *correlate.Stats) {
	for level := range o.final {
		s.Final[level] -= min(s.Final[level], o.final[level].Load())
	}
}
