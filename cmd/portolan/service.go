package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/health"
)

// When a service looks at itself.
const (
	serviceTick   = time.Second
	statusEvery   = 10 * time.Second
	stuckAfter    = 20 * time.Second // longer than a server may hold up the publisher
	maxScrapes    = 4                // at a time
	scrapeTimeout = 5 * time.Second
)

// serviceConfig is what a command that runs for long tells about itself.
type serviceConfig struct {
	metrics config.Metrics
	collect prometheus.Collector
	parts   []health.Part
	ready   func() error               // why it does not do its work now; nil when it does
	status  func() string              // how it fares, on one line
	reload  func(*health.Server) error // reads the configuration again; nil when it cannot
}

// service surrounds a command that runs for long: it tells systemd and whoever asks over HTTP how the
// command fares, and reads the configuration again on SIGHUP.
type service struct {
	cfg    serviceConfig
	log    *slog.Logger
	notify *health.Notifier
	server *health.Server // nil when nobody may ask
	watch  *health.Watch
	hangup chan os.Signal

	stuck   atomic.Pointer[[]string] // parts that make no progress
	reloads reloads

	running sync.WaitGroup
	stop    context.CancelFunc
}

// reloads counts how often the configuration was read again.
type reloads struct {
	failed atomic.Bool  // the last one
	at     atomic.Int64 // ns since 1970 of the last that succeeded, the first read included
}

// openService listens and connects to the service manager; start does the rest.
func (p *program) openService(cfg serviceConfig, log *slog.Logger) (*service, error) {
	s := &service{cfg: cfg, log: log, hangup: make(chan os.Signal, 1), stop: func() {}}
	s.stuck.Store(&[]string{})
	s.reloads.at.Store(time.Now().UnixNano())
	var err error
	if s.notify, err = health.NewNotifier(p.getenv); err != nil {
		return nil, err
	}
	if cfg.reload != nil && !p.isTerminal(p.stderr) { // from a terminal it means that the terminal is gone
		signal.Notify(s.hangup, syscall.SIGHUP)
	}
	s.watch = health.NewWatch(stuckAfter, time.Now(), cfg.parts...)
	if cfg.metrics.Listen != "" {
		registry := prometheus.NewRegistry()
		registry.MustRegister(append(process(), cfg.collect, &s.reloads)...)
		s.server, err = health.NewServer(health.Config{
			Listen: cfg.metrics.Listen, Cert: cfg.metrics.Cert, Key: cfg.metrics.Key, TokenFile: cfg.metrics.TokenFile, Log: log,
			Metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout}),
			Alive:   s.alive, Ready: s.ready,
		})
		if err != nil {
			s.close()
			return nil, withHint(fmt.Errorf("metrics: %w", err), "metrics.listen is HOST:PORT; off loopback it takes metrics.cert, metrics.key and metrics.token_file")
		}
	}
	return s, nil
}

// start begins to look at the parts, until ctx ends or the service is closed.
func (s *service) start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.running.Go(func() { s.run(ctx) })
}

// close says that the process is about to end and takes the listener away.
func (s *service) close() {
	signal.Stop(s.hangup)
	s.stop()
	s.running.Wait()
	if err := s.server.Close(); err != nil {
		s.log.Warn("metrics and health", "error", err)
	}
	s.notify.Close()
}

func (s *service) run(ctx context.Context) {
	every := serviceTick
	if w := s.notify.WatchdogEvery(); w > 0 {
		every = min(every, w)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	begun, told := false, time.Time{}
	for {
		select {
		case <-ctx.Done():
			s.notify.Stopping()
			return
		case <-s.hangup:
			s.notify.Reloading()
			s.reload()
			s.notify.Ready()
		case now := <-tick.C:
			s.look(now)
			if !begun && s.watch.Begun() {
				begun, told = true, time.Time{}
				s.notify.Ready()
			}
			if now.Sub(told) >= statusEvery {
				told = now
				s.notify.Status(s.cfg.status())
			}
		}
	}
}

// look sees whether all parts make progress; only then the manager's watchdog hears of us.
func (s *service) look(now time.Time) {
	stuck := s.watch.Look(now)
	if old := *s.stuck.Load(); !slices.Equal(old, stuck) {
		if len(stuck) > 0 {
			s.log.Error("no progress", "parts", strings.Join(stuck, ","), "for", stuckAfter)
		} else {
			s.log.Info("progress again", "parts", strings.Join(old, ","))
		}
		s.stuck.Store(&stuck)
	}
	if len(stuck) == 0 && s.notify.WatchdogEvery() > 0 {
		s.notify.Watchdog()
	}
}

func (s *service) reload() {
	err := s.cfg.reload(s.server)
	s.reloads.failed.Store(err != nil)
	if err != nil {
		s.log.Warn("configuration not read again: what holds stays", "error", err)
		return
	}
	s.reloads.at.Store(time.Now().UnixNano())
}

// alive says what makes no progress.
func (s *service) alive() error {
	if stuck := *s.stuck.Load(); len(stuck) > 0 {
		return errors.New("no progress: " + strings.Join(stuck, ", "))
	}
	return nil
}

// ready says what keeps the command from its work.
func (s *service) ready() error {
	if err := s.alive(); err != nil {
		return err
	}
	if !s.watch.Begun() {
		return errors.New("not begun yet")
	}
	return s.cfg.ready()
}

// runService describes a sensor.
func runService(cfg *config.Config, m *monitor, r *reloader) serviceConfig {
	line := m.line
	parts := []health.Part{
		{Name: "publisher", Count: func() uint64 { return line.bus.Condition().Turns }},
		{Name: "monitor", Count: func() uint64 {
			if v := m.saw.Load(); v != nil {
				return uint64(v.at.UnixNano())
			}
			return 0
		}},
		{Name: "hits", Count: line.taken.Load, Idle: func() bool { return len(line.queue) == 0 }},
	}
	for i, s := range m.sensors {
		for ring := range cfg.Capture.Rings {
			parts = append(parts, health.Part{
				Name: fmt.Sprintf("%s ring %d", cfg.Device[i], ring), Count: func() uint64 { return s.Turns(ring) },
			})
		}
	}
	return serviceConfig{
		metrics: cfg.Metrics, collect: &runCollector{m: m, cfg: cfg}, parts: parts, reload: r.reload,
		ready: func() error { return m.ready(cfg.Device) },
		status: func() string {
			if v := m.saw.Load(); v != nil {
				return v.line
			}
			return "starting"
		},
	}
}

var errSpoolFailing = errors.New("the spool cannot be written")

// ready says why the sensor does not do its work: it captures, and what it finds reaches a server or the disk.
func (m *monitor) ready(devices []string) error {
	v := m.saw.Load()
	if v == nil {
		return errors.New("not begun yet")
	}
	for i := range v.snapshot.each {
		if v.snapshot.each[i].Gone() {
			return fmt.Errorf("%s is gone", devices[i])
		}
	}
	if c := m.line.bus.Condition(); c.Failing {
		return errSpoolFailing
	}
	if v.coverage.Verdict == coverage.Blind {
		return errors.New("coverage: " + v.coverage.Text())
	}
	return nil
}
