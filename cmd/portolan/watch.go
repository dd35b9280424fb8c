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
	"sync"
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
		usage: []string{"portolan watch [--nats URL] [--since TIME] [--level LEVEL] [--client ADDRESS] [--resume FILE] [--json | --format ocsf]"},
		about: `Subscribes and prints each hit as soon as it is published, and again when a later revision
changes its level, takes it back, or names the process behind it. Without --nats it connects
to the server inside a portolan run on this host, ` + localServer + `.

With --resume it goes on where the last watch with the same file stopped, and prints what was
published meanwhile; after a crash the last second may come twice. What the filters passed
over is not read again when they change. Each watch needs a file of its own.`,
		example: []string{"portolan watch --since 24h --level alert", "portolan watch --resume alerts.place --level alert --json"},
		declare: func(o *options) action {
			var w watchOptions
			o.bool(&w.json, "json", "print one message a line, every revision")
			o.value("format", w.setFormat)
			o.describe("format", "FORMAT", "text; json, the same as --json; or ocsf, Detection Findings of OCSF 1.4, one a line", "text")
			o.bool(&w.all, "all-revisions", "print every revision, also those that change nothing")
			o.duration(&w.since, "since", "TIME", "also print what was stored within this time, such as 24h")
			o.value("resume", func(text string) error {
				if text == "" {
					return errors.New("the name of a file is empty")
				}
				w.resume = text
				return nil
			})
			o.describe("resume", "FILE", "go on where the last watch with this file stopped; without the file, begin as --since says", "")
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
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain")
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
	resume    string   // file, empty for none
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
func (p *program) watch(ctx context.Context, cfg *config.Config, o *watchOptions) (err error) {
	b, err := p.openReader(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	filter := bus.Filter{
		Levels: o.levels, Sensor: o.sensor, Client: o.client, Last: o.since,
		Ready: func() { fmt.Fprintf(p.stderr, "portolan: waiting for hits from %s; Ctrl-C ends\n", b.URL()) },
	}
	say := func(line string) { fmt.Fprintf(p.stderr, "portolan: %s\n", line) }
	// Gaps show to those who see every hit, from a moment on.
	heard := newDelivered(len(o.levels) == 0 && !o.client.IsValid() && o.since == 0 && o.resume == "", say)
	var listening sync.WaitGroup
	hearing, deaf := context.WithCancel(ctx)
	listening.Go(func() {
		if err := b.FollowCoverage(hearing, o.sensor, heard.record); err != nil {
			say("what sensors lose will not be told: " + err.Error())
		}
	})
	defer heard.end()
	defer listening.Wait()
	defer deaf()
	out := &hitWriter{to: bufio.NewWriter(p.stdout), json: o.json, ocsf: o.ocsf, color: p.useColor(p.stdout)}
	see := newFollower(o.all || o.json || o.ocsf)
	if o.resume == "" {
		return follow(ctx, b, filter, func(m *bus.Message, meta bus.Meta) error {
			heard.hit(m, meta)
			if !see.matters(m) {
				return nil
			}
			return out.write(m)
		})
	}

	stream, err := lookAtStream(ctx, b)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return withHint(err, "--resume counts messages in that stream, so it has to be there and readable")
	}
	now := time.Now()
	at, err := resume(o.resume, stream, o.since, now, say)
	if err != nil {
		return err
	}
	at.filter(&filter, now)
	var saving sync.WaitGroup
	stop := make(chan struct{})
	saving.Go(func() { at.run(stop, func(err error) { say(err.Error()) }) })
	err = follow(ctx, b, filter, func(m *bus.Message, meta bus.Meta) error {
		heard.hit(m, meta)
		// An earlier watch may have shown what is taken back now.
		_, known := see.shown[m.Portolan.HitID]
		back := at.old && !known && m.Portolan.State == "retracted"
		if see.matters(m) || back {
			if err := out.write(m); err != nil {
				return err
			}
		}
		if !meta.Unstored { // one that is comes again when the stream has it
			at.passed(meta.Sequence)
		}
		return nil
	})
	close(stop)
	saving.Wait()
	return errors.Join(err, at.save())
}

// follow hands each message to handle until ctx ends, which is no error, or handle returns an
// error; it is not called again then.
func follow(ctx context.Context, b *bus.Bus, f bus.Filter, handle func(*bus.Message, bus.Meta) error) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	err := b.Subscribe(watching, f, func(m *bus.Message, meta bus.Meta) {
		if failed != nil {
			return
		}
		if failed = handle(m, meta); failed != nil {
			cancel()
		}
	})
	return errors.Join(err, failed)
}

// openReader connects to the configured server, or to that of a portolan run on this host.
func (p *program) openReader(ctx context.Context, cfg *config.Config) (*bus.Bus, error) {
	c := natsConfig(cfg)
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
