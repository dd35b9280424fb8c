package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/endpoint"
	"portolan/correlate/attribute"
)

// The sources of endpoint records by name; another one is a file.
const (
	sourceEBPF   = "ebpf"
	sourceAuditd = "auditd"
)

func endpointCommand() *command {
	return &command{
		name:  "endpoint",
		brief: "tells which process, user and container of this host connects where (root)",
		usage: []string{"portolan endpoint --nats URL [--source ebpf|auditd|FILE|-] [FLAGS]", "portolan endpoint --json [FLAGS]"},
		about: `Runs on a Linux host and publishes a record of each TCP connect, also of those that fail, and of each
first UDP datagram to a destination, with the process, its parent, user, container and executable, and
of each DNS question with the process that asked. "portolan enrich" adds them to hits.

The source ebpf sees all of this, in all containers, and needs no kprobes, but Linux 5.12 with BTF and a unified
cgroup hierarchy, and CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; CAP_SYS_PTRACE and
CAP_DAC_READ_SEARCH let it read the executables, and find the addresses, of other users. Where it cannot run and no source was named, auditd stands in: the audit records that the kernel sends to all
(CAP_AUDIT_READ), or a FILE such as /var/log/audit/audit.log, followed over its rotation. Lost are then: the
local address and port, so that a connection is found by destination and time alone, and may remain ambiguous; how
non-blocking connects end; DNS questions; container, parent and hash of processes that end at once; datagrams of
sockets that were not connected. Audit records need rules: --audit-rules adds them for as long as this runs, or
    ` + endpoint.AuditCommands + `

A FILE, and standard input (-), may also hold the JSON lines of Tetragon, Falco, Sysmon for Linux, Elastic's agents (ECS),
osquery and laurel. Lines that name another host are refused, and counted.`,
		example: []string{"sudo portolan endpoint --nats nats://hub:4222"},
		declare: func(o *options) action {
			c := endpoint.DefaultConfig()
			c.Version = thisBuild().Version
			source, asJSON := "", false
			o.value("source", func(text string) error { source = text; return nil })
			o.describe("source", "NAME", "where records come from: ebpf, auditd, or a log file; - is standard input", "ebpf, else auditd")
			o.bool(&asJSON, "json", "print records, one JSON object a line, and publish none")
			o.string(&c.HostID, "host-id", "ID", "what this host is called in subjects")
			o.string(&c.Host, "host-name", "NAME", "its name for people")
			o.duration(&c.Interval, "interval", "TIME", "between two records of the host itself, its addresses and losses, 1s to 1h")
			o.bool(&c.Kernel.Loopback, "loopback", "report connections to loopback addresses, too")
			o.bool(&c.AuditRule, "audit-rules", "with auditd: add the rules it needs, and remove them at the end")
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain", "state_dir", "spool")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("endpoint: takes no arguments, got %q", args[0])
				}
				if err := c.Validate(); err != nil {
					return usagef("endpoint: %v", err)
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				if !asJSON && cfg.NATS.URL == "" {
					return &usageError{text: "endpoint: no server", hint: "name it with --nats, or print records with --json"}
				}
				return p.endpoint(ctx, &cfg, c, source, asJSON)
			}
		},
	}
}

// endpoint watches this host until ctx ends.
func (p *program) endpoint(ctx context.Context, cfg *config.Config, c endpoint.Config, source string, asJSON bool) (err error) {
	c.Log = slog.New(slog.NewTextHandler(p.stderr, nil))
	emit := func(r *attribute.Record) error { return printRecord(p.stdout, r) }
	if !asJSON {
		// A spool of its own: a sensor may run on this host.
		cfg.Sensor, cfg.StateDir = c.HostID, filepath.Join(cfg.StateDir, "endpoint")
		b, e := openBus(ctx, cfg, c.Log, true)
		if e != nil {
			return e
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		if emit = b.PublishEndpoint; source == "-" { // what is read can wait
			emit = func(r *attribute.Record) error { return b.PublishEndpointWait(ctx, r) }
		}
	}
	agent, err := endpoint.New(c, emit)
	if err != nil {
		return err
	}
	start := time.Now()
	err = p.watchEndpoint(ctx, agent, source)
	s := agent.Stats()
	if s.Records == 0 {
		return err
	}
	fmt.Fprintf(p.stderr, "portolan: %s in %v; %d lost, %d refused\n", count(s.Records, "record", "records"),
		time.Since(start).Round(time.Second), s.Lost, s.Refused)
	return err
}

// watchEndpoint runs the agent on its source, and says in its first line what can be seen.
func (p *program) watchEndpoint(ctx context.Context, agent *endpoint.Agent, source string) error {
	say := func(text string) func() { return func() { fmt.Fprintf(p.stderr, "portolan: %s\n", text) } }
	if source == "" || source == sourceEBPF {
		err := agent.RunKernel(ctx, say("watching with eBPF: connects, first datagrams and DNS questions of all processes and containers"))
		if err == nil || source != "" || !errors.Is(err, endpoint.ErrNoKernel) {
			return withHint(err, endpointHint(err))
		}
		fmt.Fprintf(p.stderr, "portolan: %v; auditd stands in\n", err)
	}
	var err error
	switch source {
	case "", sourceAuditd:
		err = agent.RunAudit(ctx, say("watching with audit records; lost: "+endpoint.AuditLost))
	case "-":
		err = agent.RunLines(ctx, p.stdin, say("reading lines from standard input"))
	default:
		err = agent.RunFile(ctx, source, say("following "+source+"; of audit records is lost: "+endpoint.AuditLost))
	}
	return withHint(err, endpointHint(err))
}

// endpointHint returns a remedy for an error of an agent, or "".
func endpointHint(err error) string {
	if errors.Is(err, endpoint.ErrNoKernel) {
		return "run it with sudo, or see deploy/README.md; --source auditd needs no eBPF"
	}
	return ""
}

// printRecord writes a record as a line, at once.
func printRecord(w io.Writer, r *attribute.Record) error {
	b, err := r.Append(nil)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("print record %s: %w", r.ID, err)
	}
	return nil
}
