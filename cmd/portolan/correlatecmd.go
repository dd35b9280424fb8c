package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/fleet"
	"portolan/cmd/internal/health"
)

func correlateCommand() *command {
	return &command{
		name:  "correlate",
		brief: "correlates what several sensors observed: answers at one tap, connections at another",
		usage: []string{"portolan correlate --nats URL [--name NAME] [--partitions N] [FLAGS]"},
		about: `Works on the observations that "portolan run --observations" publishes, and publishes hits as a
sensor does. Any number of these may run: they share out the clients among themselves, and
take over from one that dies after the time of a lease, having read again what it knew. Each
needs a name of its own; the number of partitions is the same for all and for the sensors. What
waits for the server, and the sequence of its messages, it keeps in worker-NAME of the state directory.`,
		example: []string{"portolan correlate --nats nats://hub:4222 --name worker-1"},
		declare: func(o *options) action {
			w := fleet.DefaultWorkerConfig()
			w.Lookback = 0 // follows the windows unless it is given
			o.string(&w.Name, "name", "NAME", "name of this worker in messages and subjects; else that of the sensor")
			o.duration(&w.Lease, "lease", "TIME", "how long a part stays with a worker that is silent, from 1s")
			o.duration(&w.Lookback, "lookback", "TIME",
				"how much of the stream is read again to take a part over; else --address-window and --hold together")
			o.settings("sensor", "nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain",
				"state_dir", "spool", "observations.partitions", "alert", "watch", "address_window", "port_window", "max_ttl", "hold", "memory",
				"answers_per_client", "pending_per_client", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses",
				"metrics.listen", "user", "sandbox", "log_level")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("correlate: takes no arguments, got %q", args[0])
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				return p.correlate(ctx, &cfg, w)
			}
		},
	}
}

// correlate works until ctx ends.
func (p *program) correlate(ctx context.Context, cfg *config.Config, w fleet.WorkerConfig) (err error) {
	if cfg.NATS.URL == "" {
		return &usageError{text: "correlate: no server", hint: "name it with --nats; one sensor alone correlates by itself"}
	}
	if w.Name == "" {
		w.Name = cfg.Sensor
	}
	w.Partitions = cfg.Observations.Partitions
	if w.Correlate = cfg.Correlate; w.Lookback == 0 {
		w.Lookback = w.Correlate.AddressWindow + w.Correlate.Hold
	}
	w.Version = thisBuild().Version
	w.Log, _ = p.newLog(cfg)
	if err := w.Validate(); err != nil {
		return usagef("correlate: %v", err)
	}
	held, err := p.hold(cfg)
	if err != nil {
		return err
	}
	if err := held.drop(nil); err != nil {
		return err
	}
	c := natsConfig(cfg)
	c.Name, c.Observations, c.Log = w.Name, true, w.Log
	// What was not stored is worked on again, by whoever takes over; the spool makes the sequence of
	// this worker's messages last.
	c.StateDir = filepath.Join(cfg.StateDir, "worker-"+w.Name)
	b, err := bus.Open(ctx, c)
	if err != nil {
		return withHint(err, busHint(&c, err))
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	worker, err := fleet.NewWorker(b, w)
	if err != nil {
		return err
	}
	report := &workerReport{b: b, w: worker, cfg: &w, start: time.Now()}
	svc, err := p.openService(report.service(cfg), w.Log)
	if err != nil {
		return err
	}
	defer svc.close()
	if err := held.confine(); err != nil {
		return err
	}
	w.Log.Info("correlating", "worker", w.Name, "nats", b.URL(), "partitions", w.Partitions, "rights", held)
	svc.start(ctx)

	var beating sync.WaitGroup
	stop := make(chan struct{})
	beating.Go(func() { report.run(stop) })
	err = worker.Run(ctx)
	close(stop)
	beating.Wait()
	report.record(time.Now())
	s := worker.Stats()
	fmt.Fprintf(p.stderr, "portolan: %s, %d of them again; %s; %s lost on the way\n",
		count(s.Observations, "observation", "observations"), s.Again, count(s.Hits, "hit published", "hits published"),
		count(s.Lost, "batch", "batches"))
	return err
}

// workerReport tells whoever listens that a worker lives, and leaves records of its sequence.
type workerReport struct {
	b     *bus.Bus
	w     *fleet.Worker
	cfg   *fleet.WorkerConfig
	start time.Time
	last  time.Time // when a record was made
}

// run reports until stop is closed.
func (r *workerReport) run(stop <-chan struct{}) {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	r.last = r.start
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			s := r.w.Stats()
			err := r.b.PublishStat(&bus.Stat{
				Schema: bus.StatSchema, Time: now.UTC(), Sensor: r.cfg.Name, Version: r.cfg.Version, Verdict: r.verdict(&s),
				Uptime: now.Sub(r.start).Seconds(), Hits: s.Hits, Published: r.b.PublishStats(),
			})
			if err != nil {
				r.cfg.Log.Warn("heartbeat not sent", "error", err)
			}
			if now.Sub(r.last) >= recordEvery {
				r.record(now)
			}
		}
	}
}

// service describes a worker.
func (r *workerReport) service(cfg *config.Config) serviceConfig {
	return serviceConfig{
		metrics: cfg.Metrics,
		collect: &workerCollector{b: r.b, w: r.w, cfg: cfg, start: r.start},
		parts:   []health.Part{{Name: "publisher", Count: func() uint64 { return r.b.Condition().Turns }}},
		ready: func() error {
			if c := r.b.Condition(); !c.Connected {
				return errors.New("nats is not connected")
			} else if c.Failing {
				return errSpoolFailing
			}
			return nil
		},
		status: func() string {
			s := r.w.Stats()
			return fmt.Sprintf("%s, %s, %s", count(uint64(s.Partitions), "part", "parts"),
				count(s.Observations, "observation", "observations"), count(s.Hits, "hit", "hits"))
		},
	}
}

// verdict is never good: a worker sees no frames.
func (r *workerReport) verdict(s *fleet.WorkerStats) string {
	if s.Lost > 0 {
		return bus.Partial
	}
	return bus.Unknown
}

// record publishes a coverage record. What it says of frames stands in those of the sensors.
func (r *workerReport) record(now time.Time) {
	s := r.w.Stats()
	var why []string
	if s.Lost > 0 {
		why = append(why, count(s.Lost, "batch of observations", "batches of observations")+" lost before they reached the stream")
	}
	err := r.b.PublishCoverage(&bus.CoverageRecord{
		Schema: bus.CoverSchema, Time: now.UTC(), Sensor: r.cfg.Name, Version: r.cfg.Version, Interval: now.Sub(r.last).Seconds(),
		Verdict: r.verdict(&s), Why: why, Loss: bus.Loss{Queue: s.Lost, Unknown: []string{"nic", "ring", "decoder"}},
		Directions: bus.Directions{DNS: bus.Unknown, TCP: bus.Unknown},
		Reasons:    map[string]uint64{}, Hits: map[string]uint64{}, Published: r.b.PublishStats(),
	})
	if err != nil {
		r.cfg.Log.Warn("coverage record not sent", "error", err)
	}
	r.last = now
}
