package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/fleet"
)

func correlateCommand() *command {
	return &command{
		name:  "correlate",
		brief: "correlates what several sensors observed: answers at one tap, connections at another",
		usage: []string{"portolan correlate --nats URL [--name NAME] [--partitions N] [FLAGS]"},
		about: `Works on the observations that "portolan run --observations" publishes, and publishes hits as a
sensor does. Any number of these may run: they share out the clients among themselves, and
take over from one that dies after the time of a lease, having read again what it knew. Each
needs a name of its own; the number of partitions is the same for all and for the sensors.`,
		example: []string{"portolan correlate --nats nats://hub:4222 --name worker-1"},
		declare: func(o *options) action {
			w := fleet.DefaultWorkerConfig()
			w.Lookback = 0 // follows the windows unless it is given
			o.string(&w.Name, "name", "NAME", "name of this worker in messages and subjects; else that of the sensor")
			o.duration(&w.Lease, "lease", "TIME", "how long a part stays with a worker that is silent, from 1s")
			o.duration(&w.Lookback, "lookback", "TIME",
				"how much of the stream is read again to take a part over; else --address-window and --hold together")
			o.settings("sensor", "nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key",
				"observations.partitions", "alert", "watch", "address_window", "port_window", "max_ttl", "hold", "memory",
				"answers_per_client", "pending_per_client", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses")
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
	w.Version, w.Log = thisBuild().Version, slog.New(slog.NewTextHandler(p.stderr, nil))
	if err := w.Validate(); err != nil {
		return usagef("correlate: %v", err)
	}
	c := bus.DefaultConfig()
	c.Name, c.Observations, c.Log = w.Name, true, w.Log
	c.Spool = 0 // the stream of observations is the spool: what was not stored is worked on again
	c.URL, c.Creds, c.NKey = cfg.NATS.URL, cfg.NATS.Creds, cfg.NATS.NKey
	c.CA, c.Cert, c.Key = cfg.NATS.CA, cfg.NATS.Cert, cfg.NATS.Key
	b, err := bus.Open(ctx, c)
	if err != nil {
		return withHint(err, busHint(&c, err))
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	worker, err := fleet.NewWorker(b, w)
	if err != nil {
		return err
	}
	w.Log.Info("correlating", "worker", w.Name, "nats", b.URL(), "partitions", w.Partitions)

	var beating sync.WaitGroup
	stop := make(chan struct{})
	beating.Go(func() { workerHeartbeat(stop, b, worker, &w) })
	err = worker.Run(ctx)
	close(stop)
	beating.Wait()
	s := worker.Stats()
	fmt.Fprintf(p.stderr, "portolan: %s, %d of them again; %s; %s lost on the way\n",
		count(s.Observations, "observation", "observations"), s.Again, count(s.Hits, "hit published", "hits published"),
		count(s.Lost, "batch", "batches"))
	return err
}

// workerHeartbeat tells whoever listens that the worker lives, until stop is closed.
func workerHeartbeat(stop <-chan struct{}, b *bus.Bus, w *fleet.Worker, cfg *fleet.WorkerConfig) {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	start := time.Now()
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			s := w.Stats()
			verdict := bus.Unknown // a worker sees no frames
			if s.Lost > 0 {
				verdict = bus.Partial
			}
			err := b.PublishStat(&bus.Stat{
				Schema: bus.StatSchema, Time: now.UTC(), Sensor: cfg.Name, Version: cfg.Version, Verdict: verdict,
				Uptime: now.Sub(start).Seconds(), Hits: s.Hits, Published: b.PublishStats(),
			})
			if err != nil {
				cfg.Log.Warn("heartbeat not sent", "error", err)
			}
		}
	}
}
