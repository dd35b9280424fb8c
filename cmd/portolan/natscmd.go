package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/fleet/site"
)

func natsCommand() *command {
	return &command{
		name:  "nats",
		brief: "prepares a NATS server of your own: keys, certificates, permissions, streams",
		usage: []string{
			"portolan nats init DIRECTORY --site NAME --sensor NAMES [FLAGS]",
			"portolan nats streams --nats URL [--replicas N] [--leaf DOMAINS]",
		},
		about: `Init writes what a site needs into a new directory: a nats-server configuration for mutual TLS,
an authority and certificates, and for each sensor, worker, enricher, endpoint and subscriber a
key with the permissions of its role; README.md there says what goes where. It prints no secret
and never overwrites anything. Streams, with the administrator's key, makes the streams that
are missing on a running server. Names are letters, digits, - and _, several with commas.`,
		example: []string{"portolan nats init hq-nats --site hq --host hub.example --sensor dmz-1,core-1 --subscriber soc"},
		declare: func(o *options) action {
			c := site.DefaultConfig()
			s := site.StreamOptions{Replicas: 1, Timeout: 10 * time.Second}
			auth := string(c.Auth)
			o.string(&c.Site, "site", "NAME", "name of the site, in the server's name and in certificates")
			for _, f := range []struct {
				to              *[]string
				name, arg, help string
			}{
				{&c.Sensors, "sensor", "NAMES", "sensors: publish hits and observations under their own name"},
				{&c.Workers, "worker", "NAMES", "portolan correlate: reads observations, publishes hits under its own name"},
				{&c.Enrichers, "enricher", "NAMES", "portolan enrich: reads hits and endpoint records, publishes revisions"},
				{&c.Endpoints, "endpoint", "NAMES", "hosts with portolan endpoint: speak for themselves only"},
				{&c.Subscribers, "subscriber", "NAMES", "read hits, revisions, coverage and heartbeats"},
				{&c.Hosts, "host", "NAMES", "names and addresses under which the server is reached; the first goes into URLs"},
				{&s.Leaves, "leaf", "DOMAINS", "streams: JetStream domains of leaf nodes whose streams flow into these"},
			} {
				o.value(f.name, func(text string) error { *f.to = append(*f.to, names(text)...); return nil })
				o.describe(f.name, f.arg, f.help, map[string]string{"host": "this host's name"}[f.name])
			}
			o.string(&auth, "auth", "nkey|jwt", "how users prove who they are: keys listed at the server, or signed credentials")
			o.string(&c.Listen, "listen", "HOST:PORT", "where the server listens")
			o.string(&c.ServerDir, "server-dir", "DIR", "where the server's files will lie on its host")
			o.string(&c.ClientDir, "client-dir", "DIR", "where the others' files will lie on theirs")
			o.string(&c.StoreDir, "store-dir", "DIR", "where the server keeps its streams")
			o.duration(&c.CertificateAge, "certificate-age", "TIME", "how long certificates and credentials are good for")
			o.int(&s.Replicas, "replicas", "N", "streams: servers of a cluster that each hold a copy: 1, 3 or 5")
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key")
			return func(ctx context.Context, p *program, args []string) error {
				c.Auth = site.Auth(auth)
				switch {
				case len(args) == 2 && args[0] == "init":
					return p.natsInit(args[1], c)
				case len(args) == 1 && args[0] == "streams":
					cfg, err := o.load(p)
					if err != nil {
						return err
					}
					return p.natsStreams(ctx, &cfg, s)
				}
				return &usageError{text: "nats: want init DIRECTORY, or streams", hint: "portolan help nats has an example"}
			}
		},
	}
}

// names splits a list with commas.
func names(text string) (list []string) {
	for s := range strings.SplitSeq(text, ",") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// natsInit writes a set for a site.
func (p *program) natsInit(dir string, c site.Config) error {
	if len(c.Hosts) == 0 {
		host, err := os.Hostname()
		if err != nil {
			return withHint(fmt.Errorf("nats init: %w", err), "name the server's host with --host")
		}
		c.Hosts = []string{host}
	}
	if c.Site == "" {
		return &usageError{text: "nats init: the site has no name", hint: "give it one with --site"}
	}
	if err := c.Validate(); err != nil {
		return usagef("nats init: %v", err)
	}
	err := site.Write(dir, c)
	if errors.Is(err, fs.ErrExist) {
		return withHint(fmt.Errorf("nats init: %w", err), "name another directory, or move that one away")
	}
	if err != nil {
		return fmt.Errorf("nats init: %w", err)
	}
	_, err = fmt.Fprintf(p.stdout, "%s: written for site %s; README.md there says what goes where\n", dir, c.Site)
	return err
}

// natsStreams makes streams on the server that cfg names.
func (p *program) natsStreams(ctx context.Context, cfg *config.Config, s site.StreamOptions) error {
	if cfg.NATS.URL == "" {
		return &usageError{text: "nats streams: no server", hint: "name it with --nats; a server inside portolan run makes its own streams"}
	}
	if err := s.Validate(); err != nil {
		return usagef("nats streams: %v", err)
	}
	c := natsConfig(cfg)
	c.Name = "admin"
	c.Reader = true // it makes them itself
	c.Log = slog.New(slog.NewTextHandler(p.stderr, nil))
	b, err := bus.Open(ctx, c)
	if err != nil {
		return withHint(err, busHint(&c, err))
	}
	made, err := site.MakeStreams(ctx, b, s)
	for _, name := range made {
		fmt.Fprintf(p.stdout, "%s\n", name)
	}
	if err != nil {
		err = withHint(fmt.Errorf("nats %s: %w", b.URL(), err), "the administrator's key makes streams; JetStream has to be on")
	}
	return errors.Join(err, b.Close())
}
