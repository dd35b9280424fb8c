// Package lab builds a small network out of kernel network namespaces, with a router whose
// port is mirrored by tc, and lets benign clients and implants talk across it, so that the
// live sensor can be shown and tested on traffic whose truth is known.
//
//	clients ── lan ── router ── wan ── servers
//	                    │
//	                    └─ mirror ── MirrorDevice, in the namespace Start was called from
//
// Clients, router and servers each have a namespace without a name. Such a namespace lives
// as long as a thread, socket or descriptor of this process is in it, and takes its devices
// along when it goes: a lab whose process is killed leaves nothing behind to be swept.
// The mirror's far end alone stands in the caller's namespace, because the sensor looks
// devices up by name there. It has no address, no route, no ARP and no IPv6, and it goes
// with its other end.
//
// The servers' namespace accepts every IPv4 address as its own, so a connection to any
// destination comes to a true handshake there; no route of the lab leads anywhere else.
package lab

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"

	"portolan/sensor/event"
)

// Config says what the lab does. The zero value is not valid; start from DefaultConfig.
type Config struct {
	Duration time.Duration // of the traffic that Run makes; 1 s to 1 h
	Clients  int           // benign clients, 6 to 64; they share out the roles of Host.Role
	Contacts int           // by each implant, 2 to 64
	// Background is how many frames a second of MixBulk pass the mirror besides; 0 to 1,000,000. Their
	// clients are no hosts of the lab.
	Background float64
	// Program makes each implant a process of its own: it returns what to run for the nth of Hosts that is an
	// implant, by the name of its family, and that program calls RunImplant and ends. Nil for implants within this process.
	Program func(ctx context.Context, n int, family string) *exec.Cmd
	// Rivals lets this process connect to where the last contact of each implant that is a process goes, at the same time.
	Rivals   bool
	Seed     uint64       // the same seed gives the same names, addresses and ports
	Logger   *slog.Logger // changes of state; nil for none
	Progress func(string) // one line for a person at each step, from one goroutine at a time; may be nil
}

// DefaultConfig returns the configuration of a run that takes about 15 s.
func DefaultConfig() Config {
	return Config{Duration: 12 * time.Second, Clients: 8, Contacts: 4, Seed: 1}
}

// Validate reports the first field whose value is out of range.
func (c Config) Validate() error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s %v: want %s", field, value, want)
	}
	switch {
	case c.Duration < time.Second || c.Duration > time.Hour:
		return bad("Duration", c.Duration, "1s to 1h")
	case c.Clients < 6 || c.Clients > 64:
		return bad("Clients", c.Clients, "6 to 64")
	case c.Contacts < 2 || c.Contacts > 64:
		return bad("Contacts", c.Contacts, "2 to 64")
	case !(c.Background >= 0 && c.Background <= 1e6):
		return bad("Background", c.Background, "0 to 1000000 frames a second")
	}
	return nil
}

// Host is one address on the clients' side.
type Host struct {
	Addr netip.Addr
	// Role says what the host does. Benign: browser, chat, timekeeper, administrator,
	// monitor, peer, developer, player. An implant's role is its family.
	Role    string
	Implant bool
}

// Contact is one connection of an implant. All fields are as the implant itself knew them.
type Contact struct {
	Family      string         // such as "half-swap"
	Hypothesis  string         // id in DETECTION, sections 2 and 3: P1, A1, A3, A4, A6; TXT for TXT-XOR
	Source      netip.AddrPort // of the connection: client address and its port
	Destination netip.AddrPort
	Proto       event.Proto
	Name        string     // that was looked up: lower case, no last dot
	Answer      netip.Addr // that went into the arithmetic; invalid for TXT
	Text        string     // TXT that went into the arithmetic; "" for A
	Records     int        // in the answer, decoys among them
	Answered    event.Time // the answer was read, CLOCK_REALTIME
	Time        event.Time // before bind and connect, CLOCK_REALTIME: some µs before the SYN
	// Level is the least that the evidence warrants once this contact is seen, in the words of
	// correlate.Level. One port match is never an alert, so the first contact of a port
	// formula warrants "watch"; everything else "alert".
	Level string

	PID   uint32 // of the implant, when it is a process of its own
	Rival bool   // another process connected to the same destination
}

// Traffic counts what Run has made so far, benign clients and implants together.
type Traffic struct {
	Lookups uint64 // DNS questions that were answered, DNS over TCP included
	// Connections and UDP exchanges other than DNS, refused ones included. Client ports are used
	// again: a sensor takes two UDP exchanges between the same endpoints for one connection.
	Connections uint64
}

// Lab is a network that stands. Its methods are safe for concurrent use.
type Lab struct {
	cfg  Config
	plan *plan
	net  *network
	srv  *servers

	close   sync.Once
	closed  error          // what close.Do came to
	running sync.WaitGroup // calls of Run
	voice   sync.Mutex     // held while Progress is called
	tell    func(said)     // in an implant's process: takes what is counted and reported, under mu; nil in the lab itself

	mu      sync.Mutex // guards what follows
	ended   bool
	stops   []context.CancelCauseFunc // of Run's calls
	truth   []Contact
	traffic Traffic
}

// Check reports, on one line, what keeps this process from building a lab, or nil. It
// makes a namespace of its own for the attempt and leaves nothing behind.
func Check() error { return probe() }

// Start builds the network and starts the servers. The mirror's far end is put into the
// network namespace of the calling thread. On error, and when ctx ends meanwhile, it has torn
// everything down again. The caller closes the Lab.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("lab configuration: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	p := newPlan(cfg)
	l := &Lab{cfg: cfg, plan: p}

	l.say("building namespaces: clients, router, servers")
	n, err := buildNetwork(p.clientAddrs(), cfg.Background > 0)
	if err != nil {
		return nil, fmt.Errorf("build lab network: %w", err)
	}
	l.net = n
	cfg.Logger.Info("lab network stands", "mirror", n.mirror)

	l.say(fmt.Sprintf("starting a DNS server at %s and %d services", dnsServer, len(p.tcp)+len(p.udp)))
	err = n.server.do(func() (err error) {
		l.srv, err = startServers(p)
		return err
	})
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, both(fmt.Errorf("start lab servers: %w", err), l.Close())
	}
	return l, nil
}

// MirrorDevice returns the name of the device on which the sensor sees the router's port,
// both directions.
func (l *Lab) MirrorDevice() string { return l.net.mirror }

// Hosts returns all clients, benign ones first.
func (l *Lab) Hosts() []Host { return slices.Clone(l.plan.hosts) }

// Truth returns the contacts that implants have made so far, by Time. A contact is there as
// soon as its handshake is complete, or its datagram sent.
func (l *Lab) Truth() []Contact {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := slices.Clone(l.truth)
	slices.SortFunc(t, func(a, b Contact) int { return cmp.Compare(a.Time, b.Time) })
	return t
}

// Traffic returns what has been counted so far.
func (l *Lab) Traffic() Traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.traffic
}

// Close tears everything down, after it has stopped Run if that still runs. When it returns the
// mirror and every goroutine and socket of the lab are gone, and the kernel takes the
// namespaces down. It may be called more than once.
func (l *Lab) Close() error {
	l.close.Do(func() {
		l.say("tearing down")
		l.mu.Lock()
		l.ended = true
		for _, stop := range l.stops {
			stop(errClosed)
		}
		l.mu.Unlock()
		l.running.Wait()
		if l.srv != nil {
			l.srv.close()
		}
		if err := l.net.close(); err != nil {
			l.closed = fmt.Errorf("tear lab network down: %w", err)
		}
		l.cfg.Logger.Info("lab network is gone", "mirror", l.net.mirror)
	})
	return l.closed
}

// both returns err and what went wrong after it on one line.
func both(err, later error) error {
	switch {
	case later == nil:
		return err
	case err == nil:
		return later
	}
	return fmt.Errorf("%w; then: %w", err, later)
}
