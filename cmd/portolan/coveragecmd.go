package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"portolan/cmd/internal/audit"
	"portolan/cmd/internal/bus"
)

func coverageCommand() *command {
	return &command{
		name:  "coverage",
		brief: "reports what sensors could see over a time, for an audit",
		usage: []string{"portolan coverage [--since TIME] [--until TIME] [--from NAME] [--nats URL] [--json] [--html FILE]"},
		about: `Reads the coverage records and hits that the streams still hold and reports, hour by hour
and sensor by sensor, what was visible: frames lost, directions, DNS answers, the share of
connections that a lookup explains, the rules that limited it, gaps, hits, and how far back
the streams reach. A time is a duration before now, such as 24h, or a moment in UTC, such as
2026-03-02T15:04:05Z. With --html the report is also written as a page that needs nothing
else, fit to be kept. Without --nats it connects to the server inside a portolan run on
this host, ` + localServer + `.`,
		example: []string{"portolan coverage --since 24h", "portolan coverage --since 168h --html week.html"},
		declare: func(o *options) action {
			c := coverageOptions{since: ago(24 * time.Hour), until: ago(0)}
			o.value("since", func(text string) error { return setMoment(&c.since, text) })
			o.describe("since", "TIME", "where the report begins", "24h")
			o.value("until", func(text string) error { return setMoment(&c.until, text) })
			o.describe("until", "TIME", "where it ends", "now")
			o.string(&c.sensor, "from", "NAME", "report of this sensor only")
			o.bool(&c.json, "json", "print the report as JSON")
			o.string(&c.html, "html", "FILE", "also write the report as an HTML page")
			o.fallback = map[string]string{"nats.url": localServer}
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("coverage: takes no arguments, got %q", args[0])
				}
				if c.sensor != "" {
					if err := bus.ValidateSensor(c.sensor); err != nil {
						return usagef("coverage: --from: %v", err)
					}
				}
				now := time.Now()
				from, to := c.since(now), c.until(now)
				if !from.Before(to) {
					return usagef("coverage: --since %s is not before --until %s", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				b, err := p.openReader(ctx, &cfg)
				if err != nil {
					return err
				}
				r, err := readAudit(ctx, b, from, to, now, c.sensor)
				if err = errors.Join(err, b.Close()); err != nil {
					return err
				}
				return p.writeAudit(r, &c)
			}
		},
	}
}

type coverageOptions struct {
	since, until moment
	sensor, html string
	json         bool
}

// moment is a time that may depend on the present.
type moment func(now time.Time) time.Time

func ago(d time.Duration) moment { return func(now time.Time) time.Time { return now.Add(-d) } }

// setMoment reads a duration before now, or a time.
func setMoment(to *moment, text string) error {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		*to = ago(d)
		return nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(form, text); err == nil {
			*to = func(time.Time) time.Time { return t }
			return nil
		}
	}
	return fmt.Errorf("%q is neither a duration, such as 24h, nor a time, such as 2026-03-02T15:04:05Z", text)
}

// readAudit reads what the streams hold of a time range.
func readAudit(ctx context.Context, b *bus.Bus, from, to, now time.Time, sensor string) (*audit.Report, error) {
	builder := audit.Builder{From: from, To: to, Only: sensor}
	if err := b.Records(ctx, from, sensor, builder.Record); err != nil {
		return nil, err
	}
	if err := b.Hits(ctx, from, bus.Filter{Sensor: sensor}, builder.Hit); err != nil {
		return nil, err
	}
	var retention []bus.Stored
	for _, name := range []string{bus.OpsStream, bus.HitsStream} {
		s, err := b.Stored(ctx, name)
		if err != nil {
			return nil, err
		}
		retention = append(retention, s)
	}
	return builder.Report(now, retention), nil
}

// writeAudit prints the report, and writes the page when there is to be one.
func (p *program) writeAudit(r *audit.Report, o *coverageOptions) error {
	if o.html != "" {
		if err := writeFile(o.html, r.Page(thisBuild().Version).Write); err != nil {
			return err
		}
	}
	if o.json {
		e := json.NewEncoder(p.stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.Write(p.stdout)
}

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
