package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"portolan/bpffilter"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// loadStage is one way to take the frames off a wire.
type loadStage struct {
	name string
	open func(ctx context.Context, w *lab.Wire, cfg *config.Config) (loadRun, error)
}

// loadRun is a stage at work. All its counts are since it was opened.
type loadRun interface {
	counts() (loadCounts, error)
	close() error
}

// loadCounts is what a stage has seen.
type loadCounts struct {
	frames      uint64 // taken out of the ring
	dropped     uint64 // for which the ring had no room
	connections uint64 // TCP connections that were decoded
	lookups     uint64
	refused     uint64 // events for which the correlator had no room
	gap         time.Duration
	settled     bool // the counts hold for what came before the last change of frames
}

// loadStages returns the stages in the order of the table: the yardstick, what comes between, and the
// whole sensor behind each of some prefilters.
func loadStages(prefilters []sensor.Prefilter) []loadStage {
	stages := []loadStage{
		{"bare ring", openBare(false)},
		{"bare ring + filter", openBare(true)},
		{"decode only", openDecode},
	}
	for _, f := range prefilters {
		stages = append(stages, loadStage{"all, prefilter " + string(f), openPipeline(f)})
	}
	return stages
}

// bareRun is a ring that only counts.
type bareRun struct {
	ring    *lab.BareRing
	dropped uint64
}

func openBare(filtered bool) func(context.Context, *lab.Wire, *config.Config) (loadRun, error) {
	return func(_ context.Context, w *lab.Wire, cfg *config.Config) (loadRun, error) {
		c := &cfg.Capture
		filter, err := bpffilter.Assemble(bpffilter.Options{SnapLen: uint32(c.SnapLen), DropTunnels: c.DropTunnels})
		if err != nil {
			return nil, err
		}
		if !filtered {
			filter = nil
		}
		r := &bareRun{}
		err = w.Do(func() (err error) {
			r.ring, err = lab.OpenBareRing(lab.WireDevice, c.BlockSize, c.Blocks, c.BlockTimeout, filter)
			return err
		})
		return r, err
	}
}

func (r *bareRun) counts() (loadCounts, error) {
	n, err := r.ring.Dropped()
	r.dropped += n
	return loadCounts{frames: r.ring.Frames(), dropped: r.dropped, settled: true}, err
}

func (r *bareRun) close() error { return r.ring.Close() }

// sensorRun is a sensor with what takes its events.
type sensorRun struct {
	sensor     *sensor.Sensor
	correlator *correlate.Correlator // nil when nothing is correlated
	sinks      []*loadSink
	end        func() error

	frames  uint64 // when counts looked last,
	changed time.Time
}

// loadSink counts the events of one ring and hands them on.
type loadSink struct {
	to                   event.BatchSink // may be nil
	connections, lookups atomic.Uint64
}

// Batch counts and hands on.
func (s *loadSink) Batch(b *event.Batch) {
	tcp := uint64(0)
	for i := range b.Connections() {
		if b.Connections()[i].Proto == event.TCP {
			tcp++
		}
	}
	if s.to != nil {
		s.to.Batch(b)
	}
	s.connections.Add(tcp)
	s.lookups.Add(uint64(len(b.Lookups())))
}

// runSensor runs a sensor on the wire whose rings' events go to what newSink returns.
func runSensor(ctx context.Context, w *lab.Wire, c sensor.Config, newSink func(ring int) event.BatchSink) (*sensorRun, error) {
	r := &sensorRun{}
	c.Device, c.MirrorPort = lab.WireDevice, true
	err := w.Do(func() (err error) {
		r.sensor, err = sensor.Open(c)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range c.Rings {
		s := &loadSink{}
		if newSink != nil {
			s.to = newSink(i)
		}
		r.sinks = append(r.sinks, s)
	}
	done := make(chan error, 1)
	go func() {
		done <- w.Do(func() error {
			return r.sensor.Run(ctx, func(i int) event.BatchSink { return r.sinks[i] })
		})
	}()
	r.end = func() error {
		return errors.Join(r.sensor.Close(), <-done)
	}
	return r, nil
}

func openDecode(ctx context.Context, w *lab.Wire, cfg *config.Config) (loadRun, error) {
	c := cfg.Capture
	c.Prefilter = sensor.PrefilterSocket
	r, err := runSensor(ctx, w, c, nil)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openPipeline runs what portolan run runs behind a prefilter, up to the hits, which go nowhere.
func openPipeline(f sensor.Prefilter) func(context.Context, *lab.Wire, *config.Config) (loadRun, error) {
	return func(ctx context.Context, w *lab.Wire, cfg *config.Config) (loadRun, error) {
		return runPipeline(ctx, w, cfg, f)
	}
}

func runPipeline(ctx context.Context, w *lab.Wire, cfg *config.Config, f sensor.Prefilter) (loadRun, error) {
	line, err := newPipeline(cfg, lab.WireDevice, nil, nil)
	if err != nil {
		return nil, err
	}
	c := cfg.Capture
	c.Prefilter = f
	r, err := runSensor(ctx, w, c, line.newSink)
	if err != nil {
		return nil, err
	}
	r.correlator = line.correlator
	var ticking, draining sync.WaitGroup
	stop := make(chan struct{})
	ticking.Go(func() { line.tick(stop, func() {}) })
	draining.Go(func() {
		for range line.queue {
		}
	})
	capture := r.end
	r.end = func() error {
		err := capture()
		close(stop)
		ticking.Wait()
		close(line.queue)
		draining.Wait()
		return err
	}
	return r, nil
}

func (r *sensorRun) counts() (n loadCounts, err error) {
	for _, s := range r.sinks {
		n.connections += s.connections.Load()
		n.lookups += s.lookups.Load()
	}
	s := r.sensor.Stats()
	n.frames = s.Frames
	for _, ring := range s.Rings {
		n.dropped += ring.Dropped
		n.gap = max(n.gap, ring.LongestGap)
	}
	if r.correlator != nil {
		n.refused = r.correlator.Stats().Refused
	}
	// The kernel's counters are looked at now and then.
	if now := time.Now(); n.frames != r.frames {
		r.frames, r.changed = n.frames, now
	} else {
		n.settled = now.Sub(r.changed) > sensor.StatsDelay
	}
	return n, nil
}

func (r *sensorRun) close() error { return r.end() }
