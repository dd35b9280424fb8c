package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/export"
	"portolan/sensor/event"
)

// exportFormats are the forms that hits are written in, by name.
func exportFormats() map[string]func(io.Writer, []*bus.Message) error {
	return map[string]func(io.Writer, []*bus.Message) error{
		"stix": export.WriteSTIX, "csv": export.WriteCSV,
		"sigma-map": func(w io.Writer, _ []*bus.Message) error { return export.WriteSigmaMap(w) },
	}
}

func exportCommand() *command {
	return &command{
		name:  "export",
		brief: "writes hits as STIX, CSV, or the mapping that Sigma rules need",
		usage: []string{"portolan export --format stix|csv [--since T] [FILE...]", "portolan export --format stix|csv --nats URL [--since T]", "portolan export --format sigma-map"},
		about: `Reads hits as JSON lines, from files or standard input, as replay --json, watch --json and
hunt --hits write them, or with --nats what the stream holds, and writes the latest revision of
each; retracted ones are left out.

stix is a STIX 2.1 bundle: the same hits give the same identifiers, so that importing twice
adds nothing. csv follows RFC 4180, and what a spreadsheet would take for a formula begins with
an apostrophe. sigma-map is how the fields of Sigma's network categories are called in hits; the rules
that go with it are in deploy/sigma. The columns of csv:

` + columnText(),
		example: []string{"portolan hunt --hits - testdata/pcap/half-swap.pcap | portolan export --format stix"},
		declare: func(o *options) action {
			format := ""
			since := event.Time(0)
			o.string(&format, "format", "NAME", "stix, csv or sigma-map")
			o.moment(&since, "since", "only hits whose connection is not older")
			o.fallback = map[string]string{"nats.url": "none: hits are read from files"}
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key")
			return func(ctx context.Context, p *program, args []string) error {
				write := exportFormats()[format]
				switch {
				case format == "":
					return &usageError{text: "export: no --format", hint: "stix, csv and sigma-map are there"}
				case write == nil:
					return usagef("export: --format %q is none of stix, csv and sigma-map", format)
				case format == "sigma-map" && len(args) > 0:
					return usagef("export: sigma-map reads no hits")
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				hits, err := p.latestHits(ctx, &cfg, format, args, o.override["nats.url"] != "", since)
				if err != nil {
					return err
				}
				if err := write(p.stdout, hits); err != nil {
					return fmt.Errorf("export: %w", err)
				}
				return nil
			}
		},
	}
}

// columnText is the list of columns for help.
func columnText() string {
	lines := slices.Clone(export.ColumnHelp())
	for i := range lines {
		lines[i] = "    " + lines[i]
	}
	return strings.Join(lines, "\n")
}

// latestHits returns the latest revision of each hit that is not retracted.
func (p *program) latestHits(ctx context.Context, cfg *config.Config, format string, args []string, stream bool, since event.Time) (hits []*bus.Message, err error) {
	var list hitList
	switch {
	case format == "sigma-map":
		return nil, nil
	case stream && len(args) > 0:
		return nil, usagef("export: files or --nats, not both")
	case stream:
		err = p.readStream(ctx, cfg, list.add)
	case len(args) == 0:
		args = []string{"-"}
	}
	for _, path := range args {
		err = errors.Join(err, p.readHits(path, list.add))
	}
	for _, id := range list.order {
		if m := list.hits[id]; m.Portolan.State != "retracted" && event.TimeOf(m.Timestamp) >= since {
			hits = append(hits, m)
		}
	}
	return hits, err
}
