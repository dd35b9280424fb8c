package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/archive"
	"portolan/cmd/internal/hunt"
	"portolan/sensor/event"
)

func huntCommand() *command {
	return &command{
		name:  "hunt",
		brief: "looks back through captures and logs, and reports what would have been found",
		usage: []string{"portolan hunt [--since T] [--until T] [--json] [--html FILE] [--hits FILE] PATH..."},
		about: `Reads files and folders of captures and logs as one traffic, in the order of time, and runs it
through the engine of a mirror port: what would have been found, how many hits a day, and how
many by chance. Formats are told by content, compressed or not; "portolan help" of a source
tells what it cannot see, and so does the report. Times are UTC: 2026-03-14, 2026-03-14T09:26 or
RFC 3339. With --since the time --learn before it teaches what is ordinary and gives no hits.

Every trial is weighed by what came before it alone, so an e-value means what it means live.
The number of cores changes nothing. With --state a hunt that was broken off goes on where it was,
to the same report. --publish sends the hits as revisions marked "retro" (see --nats): their
revision is the second in which the hunt began, which is above that of any sensor, so that
subscribers keep the later hunt's.`,
		example: []string{"portolan hunt --html hunt.html testdata/pcap/half-swap.pcap", "portolan hunt --json --hits - testdata/pcap/mul-add.pcap"},
		declare: func(o *options) action {
			h := huntOptions{learn: 24 * time.Hour, every: time.Minute}
			o.moment(&h.since, "since", "hits from this time on; before it is only learned from (default the first event)")
			o.moment(&h.until, "until", "hits before this time (default the last event)")
			o.duration(&h.learn, "learn", "TIME", "how much before --since is learned from")
			o.bool(&h.json, "json", "print the report as one JSON object, hits included")
			o.string(&h.html, "html", "FILE", "write the report as one page that needs nothing else")
			o.string(&h.hits, "hits", "FILE", "write one hit a line, as subscribers get it; - is standard output, instead of the report")
			o.bool(&h.publish, "publish", "send the hits over NATS, marked as retro")
			o.string(&h.state, "state", "FILE", "keep the place there, and go on from it")
			o.duration(&h.every, "save", "TIME", "how often the place is kept")
			o.int(&h.cores, "cores", "N", "cores that correlate (default all)")
			o.bool(&h.progress, "progress", "show progress even when stderr is no terminal")
			h.origin = o.hostAddresses()
			o.fallback = map[string]string{"nats.url": "none: --publish needs one"}
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "sensor", "alert", "watch",
				"address_window", "port_window", "max_ttl", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses", "memory",
				"vxlan_ports")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) == 0 {
					return &usageError{text: "hunt: name files or folders", hint: "portolan help hunt has an example"}
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				switch {
				case h.cores < 0:
					return usagef("hunt: --cores is %d, want 1 or more", h.cores)
				case h.since != 0 && h.until != 0 && h.until <= h.since:
					return usagef("hunt: --until is not after --since")
				case h.publish && cfg.NATS.URL == "":
					return &usageError{text: "hunt: no server to publish to", hint: "name it with --nats"}
				}
				if h.cores == 0 {
					h.cores = runtime.GOMAXPROCS(0)
				}
				h.progress = h.progress || p.isTerminal(p.stderr)
				return p.hunt(ctx, &cfg, args, h)
			}
		},
	}
}

type huntOptions struct {
	since, until            event.Time // 0 where not given
	learn, every            time.Duration
	json, publish, progress bool
	html, hits, state       string
	cores                   int
	origin                  *feed.Origin
}

// moment adds a flag for a time in UTC.
func (o *options) moment(to *event.Time, name, help string) {
	o.value(name, func(text string) error {
		for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
			if t, err := time.Parse(form, text); err == nil && t.Unix() > 0 {
				*to = event.TimeOf(t)
				return nil
			}
		}
		return fmt.Errorf("%q is not a time such as 2026-03-14 or 2026-03-14T09:26:53Z", text)
	})
	o.describe(name, "TIME", help, "")
}

// hunt reads, reports and publishes.
func (p *program) hunt(ctx context.Context, cfg *config.Config, paths []string, o huntOptions) error {
	began := time.Now()
	m := &huntMeter{to: p.stderr, on: o.progress, start: began}
	ac := archive.DefaultConfig()
	ac.Origin, ac.Decode, ac.Progress = *o.origin, cfg.Capture.Decode, m.read
	a, err := archive.Open(paths, ac)
	if err != nil {
		return huntHint(err)
	}
	page, err := create(o.html) // before the work, so that a wrong path costs no time
	if err != nil {
		return err
	}
	hits, err := create(o.hits)
	if err != nil {
		return err
	}

	sources, of := huntSources(paths, a.List())
	var read archive.Report
	hc := hunt.Config{
		Correlate: cfg.Correlate, Since: o.since, Until: o.until, Learn: o.learn, Cores: o.cores, Checkpoint: o.state, Every: o.every, Progress: m.hunted,
	}
	hc.Correlate.Alloc = hugePages
	hc.Key, hc.Correlate.Seed = huntKey(a.List(), o.origin, &hc)
	found, err := hunt.Run(ctx, hc, hunt.Archive{
		Read: func(ctx context.Context, to feed.Sink) (err error) {
			read, err = a.Run(ctx, to)
			return err
		},
		At:      func() int { return of[a.At()] },
		Sources: sources,
	})
	m.clear()
	if err != nil {
		err = errors.Join(err, discard(page), discard(hits))
	}
	switch {
	case errors.Is(err, hunt.ErrOther):
		return withHint(fmt.Errorf("%s: %w", o.state, err), "remove it to begin afresh, or give --state another file")
	case err != nil && o.state != "" && ctx.Err() != nil:
		return withHint(err, "the same command goes on where this one was")
	case err != nil:
		return err
	}
	if found.Resumed {
		fmt.Fprintf(p.stderr, "portolan: went on from %s\n", o.state)
	}
	r := newHuntReport(cfg, &hc, found, &read, of, began)
	if err := p.writeHunt(r, o, page, hits); err != nil {
		return err
	}
	if o.publish {
		return p.publishHunt(ctx, cfg, r)
	}
	return nil
}

func huntHint(err error) error {
	switch {
	case errors.Is(err, archive.ErrFormat):
		return withHint(err, "a file that is named is to be a capture or a log; in folders, others are passed over")
	case errors.Is(err, archive.ErrNothing):
		return withHint(err, "captures and logs are told by content; portolan help hunt has more")
	}
	return err
}

// create makes a file for what is written at the end; nil when there is no name, or it is standard output.
func create(name string) (*os.File, error) {
	if name == "" || name == "-" {
		return nil, nil
	}
	return os.Create(name)
}

// discard closes a file that was not written, and removes it.
func discard(f *os.File) error {
	if f == nil {
		return nil
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// huntSources groups files by what a person calls a source: the argument that led to them and their format, or, of many
// arguments, the folder. It returns the source of each file.
func huntSources(paths []string, files []archive.File) (all []hunt.Source, of []int) {
	const fewArguments = 12
	for _, f := range files {
		name := filepath.Dir(f.Path)
		for _, p := range paths {
			if len(paths) <= fewArguments && (f.Path == p || inside(f.Path, p)) {
				name = p
				break
			}
		}
		s := hunt.Source{Name: name, Kind: f.Format}
		i := slices.Index(all, s)
		if i < 0 {
			i, all = len(all), append(all, s)
		}
		of = append(of, i)
	}
	return all, of
}

// inside reports whether a file lies in a folder, at any depth.
func inside(file, folder string) bool {
	rel, err := filepath.Rel(folder, file)
	return err == nil && filepath.IsLocal(rel)
}

// huntKey returns what tells this hunt from others, and a seed that is the same for the same archive and that nobody
// could know before there was one.
func huntKey(files []archive.File, origin *feed.Origin, c *hunt.Config) (key string, seed uint64) {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %s %d\n", filepath.Base(f.Path), f.Format, f.Size)
	}
	seed = max(1, binary.BigEndian.Uint64(h.Sum(nil))>>11)                                   // so that any reader of JSON has it exactly
	fmt.Fprintf(h, "%d %d %d %v %v\n", c.Since, c.Until, c.Learn, origin.Addr, origin.Addrs) // maps are printed in order
	return fmt.Sprintf("%x", h.Sum(nil)), seed
}

// publishHunt sends the hits.
func (p *program) publishHunt(ctx context.Context, cfg *config.Config, r *huntReport) (err error) {
	b, err := openBus(ctx, cfg, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, m := range r.Hits {
		if err := b.PublishWait(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// writeHunt writes the report in the forms that were asked for.
func (p *program) writeHunt(r *huntReport, o huntOptions, page, hits *os.File) error {
	write := func(to io.Writer, what func(io.Writer) error) error {
		if err := what(to); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
		return nil
	}
	if page != nil {
		if err := errors.Join(write(page, r.writePage), page.Close()); err != nil {
			return err
		}
	}
	if hits != nil {
		if err := errors.Join(write(hits, r.writeHits), hits.Close()); err != nil {
			return err
		}
	}
	switch {
	case o.hits == "-":
		return write(p.stdout, r.writeHits)
	case o.json:
		return write(p.stdout, r.writeJSON)
	}
	return write(p.stdout, func(w io.Writer) error { return r.writeText(w, p.useColor(p.stdout)) })
}

// huntMeter shows on one line how far a hunt has come.
type huntMeter struct {
	to    io.Writer
	on    bool
	start time.Time

	mu    sync.Mutex // protects what follows
	files archive.Progress
	wrote bool
}

// read is an archive.Config.Progress.
func (m *huntMeter) read(p archive.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = p
}

// hunted is a hunt.Config.Progress.
func (m *huntMeter) hunted(p hunt.Progress) {
	elapsed := time.Since(m.start)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.on || elapsed < 400*time.Millisecond && !m.wrote {
		return // short work needs no progress
	}
	m.wrote = true
	f := &m.files
	text := fmt.Sprintf("%.0f events/s", float64(p.Events)/elapsed.Seconds())
	if p.Clock != 0 {
		text = fmt.Sprintf("%s, %s", p.Clock.UTC().Format("2006-01-02 15:04"), text)
	}
	if f.Of > 0 && f.Bytes > 0 {
		left := time.Duration(float64(elapsed) * float64(max(0, f.Of-f.Bytes)) / float64(f.Bytes))
		text = fmt.Sprintf("%s of %s, %.0f %%, %s, %v left", bytesText(f.Bytes), bytesText(f.Of), 100*float64(f.Bytes)/float64(f.Of), text, left.Round(time.Second))
	}
	fmt.Fprintf(m.to, "\r\x1b[Khunt: %s", text)
}

// clear takes the line away before something else is written.
func (m *huntMeter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrote {
		fmt.Fprint(m.to, "\r\x1b[K")
		m.wrote = false
	}
}

// writeHits writes one hit a line.
func (r *huntReport) writeHits(w io.Writer) error {
	for _, m := range r.Hits {
		b, err := m.Encode()
		if err != nil {
			return err
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}
