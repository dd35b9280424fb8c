package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/doctor"
	"portolan/cmd/internal/selftest"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

func doctorCommand() *command {
	return &command{
		name:  "doctor",
		brief: "says what a mirror port, a host or a capture cannot show, and what mends it",
		usage: []string{"portolan doctor [-i DEVICE] [--for TIME] [--json] [FLAGS]", "portolan doctor [--json] FILE..."},
		about: `Looks at the host, at the device and what arrives there, at NATS and at the state directory, as
portolan run with the same flags would find them, and changes nothing. Each finding has what
was seen, what Portolan misses because of it, and the command that mends it. Traffic is judged
by the rules of the coverage verdict. Without -i only the host, NATS and the state directory
are looked at; without root what takes it is unknown. Capture files are judged by their
traffic alone, each by itself. NATS is tried with empty messages that no stream keeps.

Exit status: 0 nothing to mend, 1 something to mend, 2 blind or unable to capture (and, as
with every command, wrong usage).`,
		example: []string{"sudo portolan doctor -i eth1", "portolan doctor testdata/pcap/half-swap.pcap"},
		declare: func(o *options) action {
			asJSON, span := false, 10*time.Second
			o.bool(&asJSON, "json", "print one JSON object for each device or file")
			o.duration(&span, "for", "TIME", "how long traffic is watched")
			o.settings("device", "sensor", "rings", "prefilter", "mirror_port", "vxlan_ports",
				"nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain", "nats.listen", "state_dir", "spool")
			return func(ctx context.Context, p *program, args []string) error {
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				x := &examination{p: p, cfg: &cfg, span: span, json: asJSON}
				if len(args) > 0 {
					if len(o.override["device"]) > 0 {
						return &usageError{text: "doctor: a device and capture files at a time", hint: "one or the other"}
					}
					if err := captureArgs("doctor", args); err != nil {
						return err
					}
					return x.files(ctx, args)
				}
				return x.live(ctx)
			}
		},
	}
}

// examination is one run of the doctor.
type examination struct {
	p       *program
	cfg     *config.Config
	span    time.Duration
	json    bool
	worst   doctor.Status // of all reports
	reports int
}

// live examines the host, and each device.
func (x *examination) live(ctx context.Context) error {
	h := thisHost()
	common := h.Examine()
	common = append(common, x.nats(ctx)...)
	dir, err := filepath.Abs(x.cfg.StateDir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	common = append(common, h.ExamineState(doctor.Keeping{Dir: dir, Spool: x.cfg.Spool, Now: time.Now()})...)
	if len(x.cfg.Device) == 0 {
		var r doctor.Report
		r.Add(common...)
		if err := x.write("", &r); err != nil {
			return err
		}
		return x.end()
	}
	for point, device := range x.cfg.Device {
		r := doctor.Report{Device: device}
		r.Add(common...)
		if err := x.device(ctx, h, &r, device, uint16(point)); err != nil {
			return err
		}
		if err := x.write("", &r); err != nil {
			return err
		}
	}
	return x.end()
}

// thisHost is the machine that this program runs on.
func thisHost() *doctor.Host {
	self, err := os.Executable()
	if err != nil {
		self = "portolan"
	}
	return &doctor.Host{Files: os.DirFS("/"), Kernel: doctor.System{}, Self: self}
}

// device adds what is found of one device, and of what arrives there.
func (x *examination) device(ctx context.Context, h *doctor.Host, r *doctor.Report, device string, point uint16) error {
	d, err := h.Device(device)
	if err != nil {
		r.Add(doctor.NoDevice(device, err))
		return nil
	}
	r.Add(h.ExamineDevice(d)...)
	c := x.cfg.Capture
	c.Device, c.Point, c.MirrorPort = device, point, slices.Contains(x.cfg.MirrorPorts, device)
	s, err := sensor.Open(c)
	if err != nil {
		f := doctor.Finding{Area: "traffic", Check: "capture", Status: doctor.Bad, Evidence: err.Error(), Consequence: "nothing can be captured", Advice: captureHint(err)}
		if errors.Is(err, syscall.EPERM) {
			f.Remedy = "sudo portolan doctor -i " + device
		}
		r.Add(f)
		return nil
	}
	defer s.Close()
	look, err := newLook(x.cfg)
	if err != nil {
		return err
	}
	watching, cancel := context.WithTimeout(ctx, x.span)
	defer cancel()
	begin := time.Now()
	if err := s.Run(watching, func(int) event.BatchSink { return look }); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stats := s.Stats()
	w := look.watched(&stats)
	w.Device, w.Span, w.Counter, w.Filter = device, time.Since(begin), stats.Counter, s.InForce().String()
	w.Lag = event.TimeOf(time.Now()).Sub(stats.Last)
	r.Span = w.Span.Seconds()
	a := coverage.Assess(w.Counts, w.View, coverage.Source{Live: true, Span: w.Span})
	r.Add(w.Traffic(&a)...)
	return nil
}

// files examines the traffic of capture files, each by itself.
func (x *examination) files(ctx context.Context, paths []string) error {
	for _, path := range paths {
		look, err := newLook(x.cfg)
		if err != nil {
			return err
		}
		d, err := decode.New(x.cfg.Capture.Decode)
		if err != nil {
			return err
		}
		stats, err := x.p.readCapture(ctx, path, sensor.ReplayConfig{Decoder: d}, look)
		if ctx.Err() != nil {
			return err
		}
		if err != nil && stats.Frames == 0 {
			x.p.report(err)
			x.worst = doctor.Bad
			continue
		}
		w := look.watched(&stats)
		w.Span = stats.Last.Sub(stats.First)
		a := coverage.Assess(w.Counts, w.View, coverage.Source{Incomplete: stats.Incomplete != "" || err != nil})
		r := doctor.Report{Span: w.Span.Seconds()}
		r.Add(w.Traffic(&a)...)
		if err := x.write(captureName(path), &r); err != nil {
			return err
		}
	}
	return x.end()
}

// look takes events for the doctor.
type look struct {
	*coverage.Tally
	correlator *correlate.Correlator
	hits       []correlate.Hit
}

// newLook returns one that has seen nothing.
func newLook(cfg *config.Config) (*look, error) {
	c, err := correlate.New(selftest.Room(cfg.Correlate))
	return &look{Tally: coverage.NewTally(), correlator: c}, err
}

// Lookup takes a lookup of a file.
func (l *look) Lookup(e *event.Lookup) {
	l.Tally.Lookup(e)
	l.hits = l.correlator.ObserveLookup(l.hits[:0], e)
}

// Connection takes a connection of a file.
func (l *look) Connection(e *event.Connection) {
	l.Tally.Connection(e)
	l.hits = l.correlator.ObserveConnection(l.hits[:0], e)
}

// Batch takes the events of any ring.
func (l *look) Batch(b *event.Batch) {
	l.Tally.Batch(b)
	l.correlator.ObserveBatch(nil, b)
}

// watched returns what was seen.
func (l *look) watched(stats *sensor.Stats) *doctor.Watched {
	l.correlator.Flush(nil)
	c := l.correlator.Stats()
	n, v := counted(stats, &c, lostMessages{}, l.Traffic()), l.View()
	return &doctor.Watched{Counts: &n, View: &v}
}

// nats examines where hits go, as portolan run would connect.
func (x *examination) nats(ctx context.Context) []doctor.Finding {
	c := natsConfig(x.cfg)
	c.Name, c.Observations, c.Log = x.cfg.Sensor, x.cfg.Observations.Publish, slog.New(slog.DiscardHandler)
	if c.URL == "" {
		return doctor.Embedded(x.cfg.NATS.Listen)
	}
	found, err := bus.Examine(ctx, c)
	if err != nil {
		return doctor.Unreachable(err, busHint(&c, err))
	}
	return doctor.NATS(found)
}

// write writes a report.
func (x *examination) write(file string, r *doctor.Report) error {
	if x.worst == "" || r.Status == doctor.Bad || r.Status == doctor.Warn && x.worst == doctor.OK {
		x.worst = r.Status
	}
	x.reports++
	if x.json {
		e := json.NewEncoder(x.p.stdout)
		e.SetEscapeHTML(false)
		return e.Encode(struct {
			File string `json:"file,omitempty"`
			*doctor.Report
		}{file, r})
	}
	text := r.Text()
	if file != "" {
		text = file + "\n" + text
	}
	if x.reports > 1 {
		text = "\n" + text
	}
	_, err := io.WriteString(x.p.stdout, text+"\n"+x.summary(r))
	return err
}

// summary counts findings by status.
func (x *examination) summary(r *doctor.Report) string {
	var parts []string
	for _, s := range []doctor.Status{doctor.Bad, doctor.Warn, doctor.Unknown, doctor.OK} {
		n := 0
		for _, f := range r.Findings {
			if f.Status == s {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(parts, ", ") + "\n"
}

// end returns the exit status that the worst report gives.
func (x *examination) end() error {
	switch x.worst {
	case doctor.Bad:
		return statusError(exitUsage)
	case doctor.Warn:
		return statusError(exitFailed)
	}
	return nil
}
