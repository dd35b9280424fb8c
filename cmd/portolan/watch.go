package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
)

// localServer is where portolan run listens unless told otherwise.
const localServer = "nats://127.0.0.1:4222"

func watchCommand() *command {
	return &command{
		name:  "watch",
		brief: "prints hits and their revisions as they come over NATS",
		usage: []string{"portolan watch [--nats URL] [--since TIME] [--level LEVEL] [--client ADDRESS] [--json | --format ocsf]"},
		about: `Subscribes and prints each hit as soon as it is published, and again when a later revision
changes its level, takes it back, or names the process behind it. Without --nats it connects
to the server inside a portolan run on this host, ` + localServer + `.`,
		example: []string{"portolan watch --since 24h --level alert"},
		declare: func(o *options) action {
			var w watchOptions
			o.bool(&w.json, "json", "print one message a line, every revision")
			o.value("format", w.setFormat)
			o.describe("format", "FORMAT", "text; json, the same as --json; or ocsf, Detection Findings of OCSF 1.4, one a line", "text")
			o.bool(&w.all, "all-revisions", "print every revision, also those that change nothing")
			o.duration(&w.since, "since", "TIME", "also print what was stored within this time, such as 24h")
			o.value("level", w.setLevel)
			o.describe("level", "LEVEL", "print this level and above: lead, watch or alert", "lead")
			o.value("client", func(text string) (err error) {
				if w.client, err = netip.ParseAddr(text); err != nil {
					return fmt.Errorf("%q is not an address", text)
				}
				return nil
			})
			o.describe("client", "ADDRESS", "print hits of this client only", "")
			o.string(&w.sensor, "from", "NAME", "print hits of this sensor only")
			o.fallback = map[string]string{"nats.url": localServer}
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("watch: takes no arguments, got %q", args[0])
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				return p.watch(ctx, &cfg, &w)
			}
		},
	}
}

type watchOptions struct {
	json, all bool
	ocsf      bool
	since     time.Duration
	levels    []string // empty for all
	client    netip.Addr
	sensor    string
}

func (w *watchOptions) setFormat(text string) error {
	switch text {
	case "text", "json", "ocsf":
		w.json, w.ocsf = text == "json", text == "ocsf"
		return nil
	}
	return fmt.Errorf("%q is not one of text, json, ocsf", text)
}

func (w *watchOptions) setLevel(text string) error {
	names := []string{"lead", "watch", "alert"}
	at := slices.Index(names, text)
	if at < 0 {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(names, ", "))
	}
	w.levels = names[at:]
	return nil
}

// watch prints until ctx ends, which is how people end it.
func (p *program) watch(ctx context.Context, cfg *config.Config, o *watchOptions) error {
	b, err := p.openReader(ctx, cfg)
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &hitWriter{to: bufio.NewWriter(p.stdout), json: o.json, ocsf: o.ocsf, color: p.useColor(p.stdout)}
	see := newFollower(o.all || o.json || o.ocsf)
	filter := bus.Filter{
		Levels: o.levels, Sensor: o.sensor, Client: o.client, Last: o.since,
		Ready: func() { fmt.Fprintf(p.stderr, "portolan: waiting for hits from %s; Ctrl-C ends\n", b.URL()) },
	}
	err = b.Subscribe(watching, filter, func(m *bus.Message, _ bus.Meta) {
		if !see.matters(m) {
			return
		}
		if err := out.write(m); err != nil {
			cancel(err)
		}
	})
	if ctx.Err() == nil {
		err = errors.Join(err, context.Cause(watching)) // hits could not be written
	}
	return errors.Join(err, b.Close())
}

// openReader connects to the configured server, or to that of a portolan run on this host.
func (p *program) openReader(ctx context.Context, cfg *config.Config) (*bus.Bus, error) {
	c := bus.DefaultConfig()
	c.URL, c.Creds, c.NKey = cfg.NATS.URL, cfg.NATS.Creds, cfg.NATS.NKey
	c.CA, c.Cert, c.Key = cfg.NATS.CA, cfg.NATS.Cert, cfg.NATS.Key
	c.Reader = true
	c.Log = slog.New(slog.NewTextHandler(p.stderr, nil))
	local := c.URL == ""
	if local {
		c.URL = localServer
	}
	b, err := bus.Open(ctx, c)
	if local && errors.Is(err, syscall.ECONNREFUSED) {
		return nil, withHint(err, "portolan run on this host would listen there; --nats names another server")
	}
	return b, withHint(err, busHint(&c, err))
}
