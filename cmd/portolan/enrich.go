package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/enrich"
)

func enrichCommand() *command {
	return &command{
		name:  "enrich",
		brief: "joins hits with endpoint records, and says which process it was",
		usage: []string{"portolan enrich --nats URL [--name NAME] [--nat INSIDE=OUTSIDE] [--foreign SUBJECT=FORMAT] [--json]"},
		about: `Reads hits and what "portolan endpoint" publishes, and publishes revisions of the hits that name
process, user and container: by five-tuple, by Community ID, by destination and time, or by who
asked for the name. Where several processes may be meant it says which, and guesses nothing.

Any number of these may run, each under a name of its own: all publish the same revisions, of which the
stream keeps one. A record that comes a day late still counts, as long as the stream has the hit. Records
of a host that speaks for another, and connections from addresses that their host does not have, are
refused; --json prints once a minute, and at the end, how many and why.

--foreign makes records of what other programs publish under a subject of theirs, and may be given more than once:
lines of tetragon, falco (and falcosidekick), sysmon, ecs, osquery, laurel or auditd; auto tells them apart. A line
speaks for the host that it names, and a connection's own address is taken for its host's: so whoever may
publish there speaks for every host. Messages are taken as they pass: what comes while nobody enriches is
not read later. Lines that cannot be used are counted, by reason.`,
		example: []string{
			"portolan enrich --nats nats://hub:4222 --name enrich-1",
			"portolan enrich --nats nats://hub:4222 --foreign 'falco.>=falco' --foreign logs.endpoint=ecs",
		},
		declare: func(o *options) action {
			name, asJSON := "", false
			var foreign []enrich.Foreign
			o.string(&name, "name", "NAME", "name of this enricher; else enrich- and that of the sensor")
			o.value("foreign", func(text string) error {
				f, err := enrich.ParseForeign(text)
				foreign = append(foreign, f)
				return err
			})
			o.describe("foreign", "SUBJECT=FORMAT", "make records of what another program publishes there", "")
			o.bool(&asJSON, "json", "print what was done as JSON, one object a line")
			o.settings("sensor", "nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain",
				"attribution.wait", "attribution.nat", "attribution.memory")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("enrich: takes no arguments, got %q", args[0])
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				return p.enrich(ctx, &cfg, name, foreign, asJSON)
			}
		},
	}
}

// enrich works until ctx ends.
func (p *program) enrich(ctx context.Context, cfg *config.Config, name string, foreign []enrich.Foreign, asJSON bool) (err error) {
	if cfg.NATS.URL == "" {
		return &usageError{text: "enrich: no server", hint: "name it with --nats; such as --nats nats://127.0.0.1:4222, where portolan run or a nats-server listens"}
	}
	c := enrich.DefaultConfig()
	if c.Name = name; name == "" {
		c.Name = bus.SensorToken("enrich-" + cfg.Sensor)
	}
	c.Join, c.Log = cfg.Attribution.Join, slog.New(slog.NewTextHandler(p.stderr, nil))
	if err := c.Validate(); err != nil {
		return usagef("enrich: %v", err)
	}
	n := natsConfig(cfg)
	// What was not stored follows from records that were not acknowledged, so there is nothing to spool.
	n.Name, n.Log, n.Spool, n.Limit = c.Name, c.Log, 0, bus.Limit{}
	b, err := bus.Open(ctx, n)
	if err != nil {
		return withHint(err, busHint(&n, err))
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	e, err := enrich.New(b, c)
	if err != nil {
		return err
	}
	imports, err := newImports(ctx, &n, foreign)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, imports.close()) }()
	c.Log.Info("enriching", "enricher", c.Name, "nats", b.URL())
	report := &enrichReport{p: p, b: b, e: e, imports: imports, name: c.Name, log: c.Log, start: time.Now(), json: asJSON}
	stop := make(chan struct{})
	var reporting sync.WaitGroup
	reporting.Go(func() { report.run(stop) })
	err = imports.beside(ctx, e.Run)
	close(stop)
	reporting.Wait()
	return errors.Join(err, report.end())
}

// imports is what reads other programs' subjects, if any.
type imports struct {
	b *bus.Bus // of its own: revisions do not wait for what is imported
	i *enrich.Importer
}

// newImports connects once more as n says, when there is anything to import.
func newImports(ctx context.Context, n *bus.Config, foreign []enrich.Foreign) (*imports, error) {
	x := new(imports)
	if len(foreign) == 0 {
		return x, nil
	}
	var err error
	if x.b, err = bus.Open(ctx, *n); err != nil {
		return nil, withHint(err, busHint(n, err))
	}
	if x.i, err = enrich.NewImporter(x.b, foreign, n.Log); err != nil {
		return nil, errors.Join(err, x.b.Close())
	}
	return x, nil
}

func (x *imports) close() error {
	if x.b == nil {
		return nil
	}
	return x.b.Close()
}

// beside imports while run runs; when one of both ends, so does the other.
func (x *imports) beside(ctx context.Context, run func(context.Context) error) error {
	if x.i == nil {
		return run(ctx)
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	var importing sync.WaitGroup
	var imported error
	importing.Go(func() {
		defer end()
		imported = x.i.Run(ctx, func() {})
	})
	err := run(ctx)
	end()
	importing.Wait()
	return errors.Join(err, imported)
}

// enrichReport tells whoever listens that an enricher lives, and leaves records of what it did.
type enrichReport struct {
	p       *program
	b       *bus.Bus
	e       *enrich.Enricher
	imports *imports
	name    string
	log     *slog.Logger
	json    bool
	start   time.Time
	last    time.Time // when a record was made
}

// run reports until stop is closed.
func (r *enrichReport) run(stop <-chan struct{}) {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	r.last = r.start
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			err := r.b.PublishStat(&bus.Stat{
				Schema: bus.StatSchema, Time: now.UTC(), Sensor: r.name, Version: thisBuild().Version, Verdict: bus.Unknown,
				Uptime: now.Sub(r.start).Seconds(), Published: r.b.PublishStats(),
			})
			if err != nil {
				r.log.Warn("heartbeat not sent", "error", err)
			}
			if now.Sub(r.last) >= recordEvery {
				if err := r.record(now); err != nil {
					r.log.Warn("what was done cannot be told", "error", err)
				}
			}
		}
	}
}

// record publishes a coverage record. What it says of frames stands in those of the sensors.
func (r *enrichReport) record(now time.Time) error {
	counts := r.counts()
	err := r.b.PublishCoverage(&bus.CoverageRecord{
		Schema: bus.CoverSchema, Time: now.UTC(), Sensor: r.name, Version: thisBuild().Version, Interval: now.Sub(r.last).Seconds(),
		Verdict: bus.Unknown, Loss: bus.Loss{Unknown: []string{"nic", "ring", "decoder"}},
		Directions: bus.Directions{DNS: bus.Unknown, TCP: bus.Unknown},
		Reasons:    map[string]uint64{}, Hits: map[string]uint64{}, Published: r.b.PublishStats(), Enrich: &counts,
	})
	r.last = now
	if !r.json {
		return err
	}
	return errors.Join(err, json.NewEncoder(r.p.stdout).Encode(&counts))
}

// end leaves the last record, and says in a line what was done.
func (r *enrichReport) end() error {
	err := r.record(time.Now())
	c := r.counts()
	line := count(c.Records, "endpoint record", "endpoint records") + refusals(c.Refused)
	if c.Foreign > 0 {
		line += fmt.Sprintf(", %d from addresses that their host does not have", c.Foreign)
	}
	if i := c.Import; i != nil {
		line += "; " + count(i.Lines, "foreign line", "foreign lines") + refusals(i.Refused)
		if i.Lost > 0 {
			line += fmt.Sprintf(", %s lost", count(i.Lost, "message", "messages"))
		}
	}
	var revised []string
	for _, status := range slices.Sorted(maps.Keys(c.Revised)) {
		revised = append(revised, fmt.Sprintf("%d %s", c.Revised[status], status))
	}
	if len(revised) == 0 {
		revised = []string{"none"}
	}
	fmt.Fprintf(r.p.stderr, "portolan: %s; revisions: %s\n", line, strings.Join(revised, ", "))
	return err
}

// counts returns what was done so far.
func (r *enrichReport) counts() bus.EnrichCounts {
	c := r.e.Counts()
	if r.imports.i != nil {
		i := r.imports.i.Counts()
		c.Import = &i
	}
	return c
}

// refusals says how many were refused and why, if any.
func refusals(by map[string]uint64) string {
	refused := uint64(0)
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(by)) {
		refused += by[reason]
		why = append(why, fmt.Sprintf("%d %s", by[reason], reason))
	}
	if refused == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them refused (%s)", refused, strings.Join(why, ", "))
}
