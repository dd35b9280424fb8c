package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"syscall"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
)

// hitWriter writes hits: for people with an empty line between two, or as JSON, one a line.
type hitWriter struct {
	to     *bufio.Writer
	json   bool
	ocsf   bool // as JSON, in the form of OCSF
	color  bool
	before func() // called before anything is written; may be nil
	wrote  bool
}

// write writes one hit and flushes it.
func (w *hitWriter) write(m *bus.Message) error {
	if w.before != nil {
		w.before()
	}
	err := w.hit(m)
	if err == nil {
		err = w.to.Flush()
	}
	if err != nil {
		return fmt.Errorf("write hit: %w", err)
	}
	return nil
}

func (w *hitWriter) hit(m *bus.Message) error {
	if w.json || w.ocsf {
		encode := m.Encode
		if w.ocsf {
			encode = m.EncodeOCSF
		}
		b, err := encode()
		if err != nil {
			return err
		}
		_, err = w.to.Write(append(b, '\n'))
		return err
	}
	if w.wrote {
		if err := w.to.WriteByte('\n'); err != nil {
			return err
		}
	}
	w.wrote = true
	return m.WriteText(w.to, w.color)
}

// openBus connects to the server that cfg names, or starts the embedded one. A replay can be
// repeated: without spooled its hits wait in memory, and none is held back by a limit.
func openBus(ctx context.Context, cfg *config.Config, log *slog.Logger, spooled bool) (*bus.Bus, error) {
	c := natsConfig(cfg)
	if !spooled {
		c.Spool, c.Limit = 0, bus.Limit{}
	}
	c.Name = cfg.Sensor
	c.Observations = cfg.Observations.Publish
	c.Patient = spooled && c.URL != ""
	if c.URL == "" {
		c.Listen, c.ListenPassword = cfg.NATS.Listen, cfg.NATS.ListenPassword
	}
	c.Log = log
	b, err := bus.Open(ctx, c)
	return b, withHint(err, busHint(&c, err))
}

// natsConfig returns how to reach NATS as cfg says; the name is left to the caller.
func natsConfig(cfg *config.Config) bus.Config {
	c := bus.DefaultConfig()
	c.URL, c.Creds, c.NKey = cfg.NATS.URL, cfg.NATS.Creds, cfg.NATS.NKey
	c.CA, c.Cert, c.Key, c.Domain = cfg.NATS.CA, cfg.NATS.Cert, cfg.NATS.Key, cfg.NATS.Domain
	c.StateDir, c.Spool = cfg.StateDir, cfg.Spool
	c.Limit = bus.Limit{Burst: cfg.Limit.Burst, PerMinute: float64(cfg.Limit.PerMinute), Every: cfg.Limit.Every}
	return c
}

// busHint returns a remedy for an error of bus.Open, or "".
func busHint(c *bus.Config, err error) string {
	var lookup *net.DNSError
	var denied *bus.DeniedError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, bus.ErrInUse):
		return "another portolan run has it; give this one another --state-dir and --listen"
	case c.URL == "":
		return "the server inside the process needs a directory to write to, --state-dir, and a free address, --listen"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no NATS server answers there; check host and port, or leave --nats out to use the one inside portolan run"
	case errors.As(err, &lookup):
		return "the host in --nats does not resolve"
	case errors.As(err, &denied):
		return "the server's permissions for this user are too narrow; deploy/nats lists what sensor and subscriber need"
	case errors.Is(err, fs.ErrNotExist):
		return "check the path of the file"
	}
	return "--creds or --nkey say who connects; --ca, --cert and --key are for TLS"
}
