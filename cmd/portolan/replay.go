package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/feed"
	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

func replayCommand() *command {
	return &command{
		name:  "replay",
		brief: "looks for hits in capture files and other programs' records",
		usage: []string{"portolan replay [--json] [--nats URL] [--cores N] [--host-address ADDR] FILE..."},
		about: `Runs capture files through the same engine as a mirror port, in packet time, and prints each
hit once, as it is when nothing can change it any more. Files are pcap or pcapng, plain or
in gzip or zstd; - stands for standard input. Several files are read as one traffic, in the
order given. Records of other programs are read as well, alone, in folders and beside captures,
then all in the order of time: dns.log and conn.log of Zeek, Suricata's EVE, dnstap, dnsmasq with
log-queries=extra, PowerDNS protobuf, and connects and lookups of auditd, laurel, Tetragon, Falco, Sysmon, osquery
and Elastic's agents (ECS); connects of auditd and laurel want --host-address. What they cannot tell is in the coverage of each hit. Summary and progress go to
stderr. Hits do not change the exit status, and the
number of cores does not change the hits.`,
		example: []string{"portolan replay testdata/pcap/half-swap.pcap", "portolan replay --json testdata/pcap/mul-add.pcap"},
		declare: func(o *options) action {
			asJSON, progress, cores := false, false, 0
			o.bool(&asJSON, "json", "print one hit a line, as subscribers get it")
			o.bool(&progress, "progress", "show progress even when stderr is no terminal")
			o.int(&cores, "cores", "N", "cores that share the work, of which there is enough for four (default all)")
			origin := o.hostAddresses()
			o.fallback = map[string]string{"nats.url": "none: hits are printed, not published"}
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "sensor", "alert", "watch",
				"address_window", "port_window", "max_ttl", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses", "memory",
				"vxlan_ports")
			return func(ctx context.Context, p *program, args []string) error {
				if err := captureArgs("replay", args); err != nil {
					return err
				}
				if cores < 0 {
					return usagef("replay: --cores is %d, want 1 or more", cores)
				} else if cores == 0 {
					cores = runtime.GOMAXPROCS(0)
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				_, publish := o.override["nats.url"] // a configured server is for live hits
				return p.replay(ctx, &cfg, args, replayOptions{asJSON, progress || p.isTerminal(p.stderr), publish, cores, origin})
			}
		},
	}
}

type replayOptions struct {
	json, progress, publish bool
	cores                   int
	origin                  *feed.Origin
}

// replay reads the files one after the other. A file that cannot be read does not keep the
// next ones from being read, and the hits before an error count.
func (p *program) replay(ctx context.Context, cfg *config.Config, paths []string, o replayOptions) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &replayer{
		cfg:   cfg,
		log:   p.stderr,
		out:   &hitWriter{to: bufio.NewWriter(p.stdout), json: o.json, color: p.useColor(p.stdout)},
		fail:  cancel,
		clock: math.MinInt64,
		cores: o.cores,
	}
	if err := r.restart(); err != nil {
		return err
	}
	if o.publish {
		b, openErr := openBus(ctx, cfg, nil, false)
		if openErr != nil {
			return openErr
		}
		r.publish = func(m *bus.Message) error { return b.PublishWait(ctx, m) }
		defer func() { err = errors.Join(err, b.Close()) }()
	}
	if p.holdRecords(paths) {
		return p.replayRecords(ctx, r, o.origin, paths, o.progress)
	}
	var failed error
	for i, path := range paths {
		if i > 0 && r.isEarlier(ctx, path) {
			fmt.Fprintf(p.stderr, "portolan: %s starts before what was read so far: read as another traffic\n", captureName(path))
			if err := errors.Join(r.settle(), r.restart()); err != nil {
				return err
			}
		}
		if err := p.replayFile(ctx, r, path, o.progress); err != nil {
			if ctx.Err() != nil {
				failed = err
				break
			}
			p.report(err)
			failed = silent{err}
		}
	}
	if err := r.settle(); err != nil {
		return err
	}
	if failed == nil {
		failed = context.Cause(ctx) // set when a hit could not be given out
	}
	return failed
}

func (p *program) replayFile(ctx context.Context, r *replayer, path string, progress bool) error {
	m := p.newMeter(path, progress)
	r.device = captureName(path)
	r.out.before = m.clear
	stats, err := p.readCapture(ctx, path, sensor.ReplayConfig{Decoder: r.decoder, Cores: r.cores, AsOf: &r.asOf, Progress: m.show}, r)
	m.clear()
	if stats.Frames > 0 || err == nil {
		r.summary.add(r.device, &stats)
	}
	if stats.Incomplete != "" && err == nil {
		fmt.Fprintf(p.stderr, "portolan: %s ends early: %s; what came before counts\n", captureName(path), stats.Incomplete)
	}
	return err
}

// replayer is an event.Sink that hands events to the correlator and gives out the final
// hits. Packet time drives it.
type replayer struct {
	cfg     *config.Config
	log     io.Writer // for summaries
	out     *hitWriter
	publish func(*bus.Message) error // nil without --nats
	fail    context.CancelCauseFunc
	cores   int
	summary summary

	decoder    *decode.Decoder // may be ahead of the correlator
	asOf       decode.Counters // of the decoder, at the event at hand
	correlator *correlate.Correlator
	allow      *allowRules
	hosts      *attribute.Hosts
	tally      *coverage.Tally
	history    *coverage.History
	device     string     // base name of the file
	untold     []string   // of an archive: what its records do not tell; else nil
	begin      event.Time // of this traffic; valid once clock moved
	clock      event.Time // latest stamp
	next       event.Time // when to advance the correlator
	sequence   uint64
	hits       []correlate.Hit
}

// restart begins another traffic: nothing of the one before is remembered.
func (r *replayer) restart() (err error) {
	r.clock, r.next, r.summary, r.asOf = math.MinInt64, math.MinInt64, summary{}, decode.Counters{}
	if r.decoder, err = decode.New(r.cfg.Capture.Decode); err != nil {
		return err
	}
	if r.hosts, err = attribute.NewHosts(attribute.DefaultHostsConfig()); err != nil {
		return err
	}
	r.allow = newAllowRules(r.cfg.Allow)
	r.tally, r.history = coverage.NewTally(), &coverage.History{}
	r.correlator, _, err = newCorrelator(r.cfg)
	return err
}

// settle ends a traffic and sums it up.
func (r *replayer) settle() error {
	r.hits = r.correlator.Flush(r.hits[:0])
	r.take()
	if len(r.summary.names) == 0 {
		return nil // nothing could be read
	}
	c := r.correlator.Stats()
	n := counted(&r.summary.stats, &c, lostMessages{}, r.tally.Traffic())
	view := r.tally.View()
	v := coverage.Assess(&n, &view, coverage.Source{Incomplete: r.summary.stats.Incomplete != "", Records: r.untold})
	r.summary.allowed = r.allow.result()
	if err := r.summary.write(r.log, &c, &v); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

// isEarlier says whether the events of the file begin before the newest so far, by more
// than an event may be late. Standard input cannot be looked at twice.
func (r *replayer) isEarlier(ctx context.Context, path string) bool {
	if path == "-" {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false // reading will say so
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := firstEvent{found: cancel}
	_, _ = sensor.Replay(ctx, f, sensor.DefaultReplayConfig(), &first)
	return first.seen && first.at < r.clock-event.Time(r.cfg.Correlate.Hold)
}

// firstEvent is an event.Sink that wants one event only.
type firstEvent struct {
	at    event.Time
	seen  bool
	found context.CancelFunc
}

func (f *firstEvent) take(t event.Time) {
	if !f.seen {
		f.at, f.seen = t, true
		f.found()
	}
}

// Lookup takes the time of a lookup.
func (f *firstEvent) Lookup(l *event.Lookup) { f.take(l.Time) }

// Connection takes the time of a connection.
func (f *firstEvent) Connection(c *event.Connection) { f.take(c.Time) }

// Lookup hands a lookup to the correlator.
func (r *replayer) Lookup(l *event.Lookup) {
	r.tick(l.Time)
	r.tally.Lookup(l)
	r.hits = r.correlator.ObserveLookup(r.hits[:0], l)
	r.take()
}

// Connection hands a connection to the correlator.
func (r *replayer) Connection(c *event.Connection) {
	r.tick(c.Time)
	r.tally.Connection(c)
	r.hits = r.correlator.ObserveConnection(r.hits[:0], c)
	r.take()
}

// Naming takes note of who holds an address.
func (r *replayer) Naming(n *event.Naming) { r.hosts.Observe(n) }

// tick advances the correlator each second of packet time.
func (r *replayer) tick(t event.Time) {
	if r.clock == math.MinInt64 {
		r.begin = t
	}
	r.clock = max(r.clock, t)
	if r.clock < r.next {
		return
	}
	r.next = r.clock + 1e9
	traffic := r.correlator.Stats()
	counts := r.counted(&traffic)
	r.history.Add(r.clock, &counts)
	r.hits = r.correlator.Advance(r.hits[:0], r.clock)
	r.take()
}

// counted returns what was counted up to the event at hand. What became of frames is not known by event.
func (r *replayer) counted(traffic *correlate.Stats) coverage.Counts {
	stats := sensor.Stats{Counters: r.asOf}
	return counted(&stats, traffic, lostMessages{}, r.tally.Traffic())
}

// judged says what could be seen between the lookup of a hit and now, and what that makes of the hit. It returns false for one that
// is not to be given out.
func (r *replayer) judged(h *correlate.Hit, traffic *correlate.Stats) (c bus.Context, publish bool) {
	all := r.counted(traffic)
	counts, began := r.history.Since(min(h.Lookup.Time, r.clock-coverage.LeastWindow), &all)
	view := r.tally.View()
	a := coverage.Assess(&counts, &view, coverage.Source{Records: r.untold})
	c = coverageOf(&a, &counts, false)
	if r.untold != nil {
		c.Loss.Unknown = []string{"before the records were written"}
	}
	if began > 0 {
		c.Window = &bus.Window{From: began.UTC(), To: r.clock.UTC()}
	}
	c.Sensor, c.Version, c.Device = r.cfg.Sensor, thisBuild().Version, r.device
	client, _ := r.tally.Client(h.Zone, h.Client)
	return c, judge(h, &a, client, &c)
}

// take gives out the final hits. Packet time settles the provisional ones before anybody
// could have acted on them.
func (r *replayer) take() {
	for i := range r.hits {
		h := &r.hits[i]
		if h.State != correlate.Final || h.Level == correlate.None {
			continue
		}
		traffic := r.correlator.Stats()
		c, publish := r.judged(h, &traffic)
		if !publish {
			continue
		}
		c.Sequence = r.sequence + 1
		expected := expectedFalse(&r.cfg.Correlate, &traffic, r.clock.Sub(r.begin))
		expected[h.Level].put(&c, &traffic)
		c.Holder, _ = r.hosts.At(h.Zone, h.Connection.Src.Addr(), h.Connection.Time)
		m := bus.NewMessage(h, c)
		if r.allow.holds(h.Level, m, r.clock.UTC()) {
			continue
		}
		r.sequence++
		r.summary.hits[h.Level]++
		err := r.out.write(m)
		if err == nil && r.publish != nil {
			err = r.publish(m)
		}
		if err != nil {
			r.fail(err)
			return
		}
	}
}
