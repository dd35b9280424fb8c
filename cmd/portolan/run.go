package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/sensor"
)

func runCommand() *command {
	return &command{
		name:  "run",
		brief: "looks for hits on a mirror port and publishes them",
		usage: []string{"portolan run -i DEVICE [--dnstap ADDRESS] [--nats URL] [--json] [FLAGS]"},
		about: `Captures on a device that a SPAN port or a TAP feeds, prints each hit, and publishes it to NATS:
to the server that --nats names, else to one inside the process, which "portolan watch" on
this host finds by itself. DNS servers can tell by dnstap of lookups that the mirror does not show;
without a device their lookups alone are taken in, and published with --observations. Within 10 s it prints on stderr what can be seen here. Capturing
needs root or CAP_NET_RAW; what is not needed any more once all is open is given up. SIGINT
and SIGTERM end it cleanly, SIGHUP has it read its configuration again, but from a terminal.`,
		example: []string{"sudo portolan run -i eth1 --sensor hq-egress"},
		declare: func(o *options) action {
			asJSON, quiet := false, false
			o.bool(&asJSON, "json", "print every revision of a hit as one line of JSON")
			o.bool(&quiet, "quiet", "print no hits, only publish them")
			o.set.BoolFunc("observations", "", func(text string) error {
				o.override["observations.publish"] = text
				return config.Find("observations.publish").Check(text)
			})
			o.describe("observations", "", config.Find("observations.publish").Help, "")
			o.settings("device", "sensor", "rings", "cpus", "block_timeout", "ignore_outgoing", "prefilter", "mirror_port", "vxlan_ports",
				"dnstap.listen", "dnstap.tolerance",
				"nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain", "nats.listen", "state_dir", "spool",
				"alert", "watch", "address_window", "port_window", "max_ttl", "hold", "memory",
				"answers_per_client", "pending_per_client", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses",
				"observations.partitions", "observations.zone", "attribution.expected", "selftest", "metrics.listen", "user", "sandbox", "log_level")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return &usageError{text: fmt.Sprintf("run: unexpected argument %q", args[0]), hint: "the device goes after -i"}
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				if len(cfg.Device) == 0 && cfg.Dnstap.Listen == "" {
					return &usageError{text: "run: no device to capture on", hint: "name it with -i; ip link lists them"}
				}
				show := newPrinter(bufio.NewWriter(p.stdout), asJSON, quiet, p.useColor(p.stdout))
				return p.live(ctx, &cfg, func() (config.Config, error) { return o.load(p) }, show)
			}
		},
	}
}

// live wires capture, correlation and publishing together, and runs until ctx ends. It gives up
// privileges when the devices are open, and files and networks when all is; load reads the configuration again.
func (p *program) live(ctx context.Context, cfg *config.Config, load func() (config.Config, error), show *printer) (err error) {
	log, level := p.newLog(cfg)
	held, err := p.hold(cfg)
	if err != nil {
		return err
	}
	sensors, err := openSensors(cfg, log)
	if err != nil {
		return err
	}
	defer closeSensors(sensors)
	if err := held.drop(sensors); err != nil {
		return err
	}
	b, err := openBus(ctx, cfg, log, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	line, err := newPipeline(cfg, deviceNames(cfg), b, show.put)
	if err != nil {
		return err
	}
	if line.observations, err = openObservations(cfg, b, log); err != nil {
		return err
	}
	tap, err := line.openDnstap(log)
	if err != nil {
		return err
	}
	known, err := openLearned(cfg, line.baseline, log)
	if err != nil {
		return err
	}
	watch := newMonitor(line, sensors, p.stderr, log)
	watch.known, watch.tap = known, tap
	svc, err := p.openService(runService(cfg, watch, &reloader{cfg: *cfg, load: load, level: level, line: line, log: log}), log)
	if err != nil {
		return err
	}
	defer svc.close()
	if err := held.confine(); err != nil {
		return err
	}
	log.Info("capturing", "device", strings.Join(cfg.Device, ","), "filter", inForce(sensors), "sensor", cfg.Sensor, "nats", b.URL(), "state", cfg.StateDir,
		"rights", held)
	svc.start(ctx)
	endTests, err := startSelfTests(ctx, line, log)
	if err != nil {
		return err
	}
	var printing sync.WaitGroup
	printing.Go(show.run)
	err = line.run(ctx, sensors, watch.look)
	endTests()
	show.close()
	printing.Wait()
	err = errors.Join(err, line.closeObservations())
	return errors.Join(err, show.err, watch.finish())
}

// openSensors opens every device; each is an observation point of its own, in the order
// in which they were named.
func openSensors(cfg *config.Config, log *slog.Logger) (sensors []*sensor.Sensor, err error) {
	for i, device := range cfg.Device {
		c := cfg.Capture
		c.Device, c.Point, c.Logger = device, uint16(i), log
		c.MirrorPort = slices.Contains(cfg.MirrorPorts, device)
		s, err := sensor.Open(c)
		if err != nil {
			closeSensors(sensors)
			return nil, withHint(err, captureHint(err))
		}
		sensors = append(sensors, s)
	}
	return sensors, nil
}

func closeSensors(sensors []*sensor.Sensor) {
	for _, s := range sensors {
		s.Close()
	}
}

// captureHint returns a remedy for an error of sensor.Open, or "".
func captureHint(err error) string {
	switch {
	case errors.Is(err, sensor.ErrNotMirrorPort):
		return "--mirror-port declares a device that nothing else on this host uses; --prefilter ebpf drops frames for nobody else"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "capturing needs CAP_NET_RAW: run it with sudo, or see deploy/README.md, \"Capabilities\""
	case errors.Is(err, sensor.ErrNoInterface), errors.Is(err, syscall.ENODEV):
		return "ip link lists the devices of this host"
	case errors.Is(err, sensor.ErrDown), errors.Is(err, syscall.ENETDOWN):
		return "ip link set DEVICE up"
	case errors.Is(err, sensor.ErrLinkType):
		return "capture on the device that the mirror's cable is plugged into"
	case errors.Is(err, sensor.ErrUnsupported):
		return "portolan replay reads capture files everywhere"
	case errors.Is(err, syscall.ENOMEM):
		return "fewer --rings take less memory"
	}
	return ""
}

// printerQueue bounds how many messages wait to be printed.
const printerQueue = 256

// printer writes hits in a goroutine of its own, so that a terminal that stands still does
// not hold up what is published.
type printer struct {
	out   *hitWriter
	see   *follower
	quiet bool
	queue chan *bus.Message

	unseen uint64 // not printed for lack of room; by put alone
	err    error  // the first of writing; valid after run
}

func newPrinter(to *bufio.Writer, asJSON, quiet, color bool) *printer {
	return &printer{
		out:   &hitWriter{to: to, json: asJSON, color: color},
		see:   newFollower(asJSON),
		quiet: quiet,
		queue: make(chan *bus.Message, printerQueue),
	}
}

// put queues a message without waiting. One goroutine at a time may call it.
func (w *printer) put(m *bus.Message) {
	if w.quiet || !w.see.matters(m) {
		return
	}
	select {
	case w.queue <- m:
	default:
		w.unseen++
	}
}

// run writes until close.
func (w *printer) run() {
	for m := range w.queue {
		if w.err == nil {
			w.err = w.out.write(m)
		}
	}
	if w.unseen > 0 && w.err == nil {
		w.err = fmt.Errorf("print hits: the output was too slow for %s; all were published", count(w.unseen, "hit", "hits"))
	}
}

// close ends run once everything queued is written; put is not called any more.
func (w *printer) close() { close(w.queue) }
