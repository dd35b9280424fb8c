package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
)

func labCommand() *command {
	return &command{
		name:  "lab",
		brief: "shows it at work on a mirrored network with implants (root)",
		usage: []string{
			"portolan lab [--duration TIME] [--contacts N] [--background N] [--endpoint ebpf|auditd] [--json]",
			"portolan lab --load [--mix syn|dns|bulk] [--prefilter LIST] [--seconds N] [--rounds N] [--rate N] [--json]",
		},
		about: `Builds a router with clients and servers out of network namespaces, mirrors the router's port
with tc, lets benign clients and implants of several families talk across it, runs the live
sensor on the mirror with NATS inside, and prints which implants a subscriber heard of and
how soon. Nothing leaves the namespaces, and all is torn down in the end, also on Ctrl-C.
Exit status 0 means: every implant found, no false alert.

With --endpoint each implant is a process of its own, of a user of its own, and an endpoint agent watches this
host while an enricher joins what it sees with the hits: then exit status 0 means also that each connection of an
implant was given the right process, and the table says how soon. Audit records hold no port: with auditd the destination and the time have
to do, and where this process connects to the same destination, nobody can tell, and nobody must claim to.

With --load it measures instead how many frames a second this machine can take without loss: one CPU or
more send over a veth pair, and after a ring that only counts, the yardstick, each stage of the live
sensor has to keep up. A rate is without loss when each frame sent was seen and none waited for long; a
rate that was not is tried once more. "ns/frame" is the time between frames, "CPU ns" what this process
worked on each, "share" that of the yardstick's rate, "gap" the longest between two reads of a ring.
It takes the whole machine: where others need it too, put chrt -r 1 in front.`,
		example: []string{"sudo portolan lab", "sudo portolan lab --endpoint ebpf", "sudo portolan lab --load --mix bulk"},
		declare: func(o *options) action {
			l := lab.DefaultConfig()
			asJSON := false
			o.bool(&asJSON, "json", "print the outcome as one JSON object")
			l.Contacts = labContacts
			o.duration(&l.Duration, "duration", "TIME", "of the traffic")
			o.int(&l.Contacts, "contacts", "N", "connections that each implant calculates")
			o.int(&l.Clients, "clients", "N", "benign clients")
			o.value("background", func(text string) (err error) { l.Background, err = strconv.ParseFloat(text, 64); return err })
			o.describe("background", "N", "frames a second that pass the mirror besides", "none")
			source, implant := "", -1
			o.value("endpoint", func(text string) error {
				if source = text; text != sourceEBPF && text != sourceAuditd {
					return fmt.Errorf("%q is neither %s nor %s", text, sourceEBPF, sourceAuditd)
				}
				return nil
			})
			o.describe("endpoint", "SOURCE", "name the implants' processes, too: ebpf or auditd", "")
			o.value("implant", func(text string) (err error) { implant, err = strconv.Atoi(text); return err })
			o.describe("implant", "N", "be the Nth implant, where a lab has started this process", "")
			load, ld := false, defaultLoad()
			o.bool(&load, "load", "measure how many frames a second can be taken")
			o.value("mix", func(text string) (err error) { ld.mix, err = lab.ParseMix(text); return err })
			o.describe("mix", "MIX", "with --load: syn, dns (responses) or bulk (500 bytes on average, 3 % of interest)", string(ld.mix))
			o.int(&ld.seconds, "seconds", "N", "with --load: length of each trial")
			o.int(&ld.rounds, "rounds", "N", "with --load: how often all is measured; medians count")
			o.int(&ld.senders, "senders", "N", "with --load: CPUs that send, each all it can")
			o.value("rate", func(text string) (err error) { ld.rate, err = strconv.ParseFloat(text, 64); return err })
			o.describe("rate", "N", "with --load: see what becomes of N frames a second, and look for no other rate", "")
			o.value("prefilter", ld.setPrefilters)
			o.describe("prefilter", "LIST", "with --load: prefilters to compare, of off, socket, ebpf and xdp", "socket; with bulk all four")
			o.settings("rings", "cpus", "block_timeout", "memory", "alert", "watch", "hold")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("lab: takes no arguments, got %q", args[0])
				}
				if err := ld.validate(); err != nil {
					return err
				}
				if err := l.Validate(); err != nil {
					return usagef("lab: %v", err)
				}
				if implant >= 0 {
					return p.labImplant(ctx, l, implant)
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				if !load {
					return p.lab(ctx, &cfg, l, source, asJSON)
				}
				if o.override["rings"] == "" {
					cfg.Capture.Rings = max(1, runtime.NumCPU()-ld.senders)
				}
				return p.load(ctx, &cfg, ld, asJSON)
			}
		},
	}
}

// labContacts is enough for six implants to say something of the 99th percentile.
const labContacts = 16

// withoutRoot is what to do where no lab can be built.
const withoutRoot = "run it with sudo; without root, portolan replay testdata/pcap/half-swap.pcap shows a detection"

// flushTimeout is how long the last messages may take to be stored.
const flushTimeout = 30 * time.Second

// lab builds the network, runs the sensor on its mirror, and reports.
func (p *program) lab(ctx context.Context, cfg *config.Config, l lab.Config, source string, asJSON bool) (err error) {
	if err := lab.Check(); err != nil {
		return withHint(err, withoutRoot)
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	l.Logger, l.Progress = log, func(line string) { fmt.Fprintf(p.stderr, "lab: %s\n", line) }

	state, err := os.MkdirTemp("", "portolan-lab-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	cfg.Sensor, cfg.StateDir, cfg.NATS = "lab", state, config.NATS{Listen: "127.0.0.1:0"}
	if source != "" {
		cfg.Attribution.Expected, cfg.NATS.ListenPassword, l.Rivals = true, rand.Text(), true
		if l.Program, err = labPrograms(state, l); err != nil {
			return err
		}
	}

	network, err := lab.Start(ctx, l)
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		return withHint(err, withoutRoot)
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	heard, err := p.watchLab(ctx, cfg, network, source, log)
	if err != nil {
		return err
	}
	outcome := judgeLab(network.Hosts(), network.Truth(), network.Traffic(), heard, source)
	if asJSON {
		err = outcome.writeJSON(p.stdout)
	} else {
		err = outcome.write(p.stdout)
	}
	if err == nil && !outcome.Passed {
		err = silent{errors.New("lab: not passed")}
	}
	return err
}

// watchLab runs the traffic of the lab past the sensor, and returns what a subscriber on a
// connection of its own heard.
func (p *program) watchLab(ctx context.Context, cfg *config.Config, network *lab.Lab, source string, log *slog.Logger) (heard []heardHit, err error) {
	cfg.Device = []string{network.MirrorDevice()}
	b, err := openBus(ctx, cfg, log, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	ear, err := listen(ctx, b.URL(), log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ear.close()) }()
	if source != "" {
		e, err := startLabEndpoint(ctx, source, b, cfg.NATS.ListenPassword, log)
		if err != nil {
			return nil, withHint(err, endpointHint(err))
		}
		defer func() { err = errors.Join(err, e.close()) }()
	}
	sensors, err := openSensors(cfg, log)
	if err != nil {
		return nil, err
	}
	defer closeSensors(sensors)
	line, err := newPipeline(cfg, cfg.Device[0], b, nil)
	if err != nil {
		return nil, err
	}
	watch := newMonitor(line, sensors, p.stderr, log)

	capture, stop := context.WithCancel(ctx)
	defer stop()
	var capturing sync.WaitGroup
	var failed error
	capturing.Go(func() { failed = line.run(capture, sensors, watch.look) })
	err = network.Run(ctx)
	if err == nil {
		wait(ctx, drain)
	}
	stop()
	capturing.Wait()
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	flush, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := b.Flush(flush); err != nil {
		return nil, err
	}
	if source != "" {
		return ear.hearProcesses(ctx, network.Truth())
	}
	published := b.PublishStats()
	return ear.hear(flush, int(published.Stored-published.Duplicates))
}

// drain is how long the last frames may take from the wire to the correlator.
const drain = time.Second

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// heardHit is a message, when the stream had it, and when it came.
type heardHit struct {
	*bus.Message
	stored   time.Time // zero when it did not come from a stream
	received time.Time
}

// listener is a subscriber with a connection of its own.
type listener struct {
	bus   *bus.Bus
	stop  context.CancelFunc
	ended chan error

	mu    sync.Mutex
	hits  []heardHit
	heard chan struct{} // one token when hits has grown
}

// listen connects and returns once every message published from then on will be heard.
func listen(ctx context.Context, url string, log *slog.Logger) (*listener, error) {
	c := bus.DefaultConfig()
	c.URL, c.Reader, c.Log = url, true, log
	b, err := bus.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	l := &listener{bus: b, stop: stop, ended: make(chan error, 1), heard: make(chan struct{}, 1)}
	ready := make(chan struct{})
	go func() {
		l.ended <- b.Subscribe(ctx, bus.Filter{Ready: func() { close(ready) }}, l.take)
	}()
	select {
	case <-ready:
		return l, nil
	case err = <-l.ended:
		l.ended <- err
	}
	return nil, errors.Join(err, ctx.Err(), l.close())
}

func (l *listener) take(m *bus.Message, meta bus.Meta) {
	l.mu.Lock()
	l.hits = append(l.hits, heardHit{m, meta.Time, meta.Received})
	l.mu.Unlock()
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

// hear waits until n messages have come, and returns them.
func (l *listener) hear(ctx context.Context, n int) ([]heardHit, error) {
	for {
		l.mu.Lock()
		hits := l.hits
		l.mu.Unlock()
		if len(hits) >= n {
			return hits, nil
		}
		select {
		case <-l.heard:
		case <-ctx.Done():
			return nil, fmt.Errorf("subscriber: %d of %d messages came: %w", len(hits), n, context.Cause(ctx))
		}
	}
}

// close ends the subscription and waits for it.
func (l *listener) close() error {
	l.stop()
	return errors.Join(<-l.ended, l.bus.Close())
}
