package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"portolan/cmd/internal/endpoint/kernel"
	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Agent watches this host. Its Run methods do all the work in one goroutine; Stats may be called
// from any.
type Agent struct {
	cfg   Config
	emit  Emit
	clock clock
	users users
	files *hasher
	host  *host

	programs *processes
	queue    []*waiting          // records to hand on, oldest first
	open     map[uint64]*waiting // by socket: connects whose end is not known
	late     []*waiting          // those of open that were handed on, oldest first
	bare     []*waiting          // those handed on whose executable's hash is still to come

	seen uint64 // lines and messages of audit records and other tools

	records, lost, untaken, refused atomic.Uint64
}

// waiting is a record that is held for what may still be learned.
type waiting struct {
	record  attribute.Record
	hash    *hashing
	cookie  uint64 // of the socket, or what else tells this record from others like it
	again   uint64 // how often it was handed on
	open    bool   // the result is still to come
	until   time.Time
	hashed  time.Time // no longer for the hash
	expires time.Time // no later for the result
}

const (
	pollEvery = 25 * time.Millisecond // how often the kernel's ring is looked at
	maxBurst  = 1 << 13               // messages that are read in a row, before what waits is looked at
	maxLate   = 1 << 14               // records whose result may still come
	lateFor   = 3 * time.Minute       // a SYN is repeated for 127 s (net.ipv4.tcp_syn_retries)
)

// The words of a Host record.
var (
	seesKernel = [...]string{"connect", "lookup", "result", "local-address", "local-port", "udp", "netns", "container", "process-start", "arguments",
		"parent", "executable-hash"}
	blindKernel = [...]string{
		"attempts that end before a packet leaves the host: no route, no port, forbidden by a local filter",
		"names asked for over TCP, TLS, HTTPS or QUIC, or through a resolver's own socket, such as nscd's or systemd-resolved's",
		"packets inside IPsec",
	}
)

// New returns an agent for this host, which hands its records to emit.
func New(cfg Config, emit Emit) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("endpoint configuration: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, emit: emit, open: map[uint64]*waiting{}}
	a.programs = newProcesses(&a.clock, 2*cfg.Kernel.Programs)
	a.host = newHost()
	return a, a.clock.adjust(time.Now())
}

// Stats returns what the agent did so far.
func (a *Agent) Stats() Stats {
	return Stats{Records: a.records.Load(), Lost: a.lost.Load() + a.untaken.Load(), Refused: a.refused.Load()}
}

// RunKernel hands on what eBPF programs see, until ctx ends, and calls ready once they see
// everything. An error before that wraps ErrNoKernel: another source may do.
func (a *Agent) RunKernel(ctx context.Context, ready func()) (err error) {
	k, err := kernel.Open(a.cfg.Kernel)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	a.files = newHasher(a.cfg.HashSize, a.cfg.HashRate)
	defer a.files.close()
	a.host.sees, a.host.blind = seesKernel[:], blindKernel[:]
	if err := a.announce(time.Now(), sourceKernel); err != nil {
		return err
	}
	ready()

	var m kernel.Message
	for now := time.Now(); ctx.Err() == nil; now = time.Now() {
		until := now.Add(pollEvery)
		for range maxBurst {
			ok, err := k.Read(&m, until)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			a.take(&m)
		}
		if err := a.work(k); err != nil {
			return err
		}
	}
	a.release(time.Time{})
	return a.count(k)
}

const sourceKernel = "ebpf"

// work does what is due.
func (a *Agent) work(k *kernel.Kernel) error {
	now := time.Now()
	a.release(now)
	if err := a.clock.adjust(now); err != nil {
		return err
	}
	if a.host.due(now) {
		if err := a.count(k); err != nil {
			return err
		}
		return a.announce(now, sourceKernel)
	}
	return nil
}

// count takes over what the kernel lost.
func (a *Agent) count(k *kernel.Kernel) error {
	lost, err := k.Lost()
	if err == nil {
		a.lost.Store(lost)
	}
	return err
}

func (a *Agent) take(m *kernel.Message) {
	switch {
	case m.Process != nil:
		a.programs.describe(m.Process)
	case m.Flow != nil:
		a.flow(m.Flow)
	case m.Result != nil:
		a.result(m.Result)
	default:
		a.refused.Add(1)
	}
}

// flow makes records of a connect or datagram, and lets them wait.
func (a *Agent) flow(f *kernel.Flow) {
	now := time.Now()
	p := a.programs.of(f)
	if p.hash == nil {
		p.hash = a.files.hash(p, f.Start)
	}
	w := waiting{hash: p.hash, cookie: f.Cookie, hashed: now.Add(a.cfg.HashWait), record: attribute.Record{
		Kind: attribute.Connect, HostID: a.cfg.HostID, Host: a.cfg.Host, Source: sourceKernel, Time: a.clock.at(f.Time),
		Proto: event.TCP, Local: f.Local, Remote: f.Remote, Process: p.Process,
	}}
	r := &w.record
	r.Process.Name = f.Comm // which may have changed
	r.Process.UID, r.Process.HasUID = f.UID, true
	r.Process.LoginUID, r.Process.HasLoginUID = f.LoginUID, f.LoginUID != math.MaxUint32
	if !r.Process.HasLoginUID {
		r.Process.LoginUID = 0
	}
	r.Process.User = a.users.name(f.UID, now)
	r.Process.NetNS = uint64(f.NetNS)
	if f.Proto == unix.IPPROTO_UDP {
		r.Proto, r.Result = event.UDP, attribute.Sent
		if name, ok := question(f.Payload); ok {
			l := w
			l.record.Kind, l.record.Query, l.record.Result = attribute.Lookup, name, ""
			feed.SetID(&l.record, f.Cookie)
			a.queue = append(a.queue, &l)
		}
	} else {
		r.Result = attribute.InProgress
		w.open, w.until, w.expires = true, now.Add(a.cfg.Hold), now.Add(lateFor)
	}
	if !f.First || f.Remote.Addr().IsLoopback() && !a.cfg.Kernel.Loopback {
		return
	}
	feed.SetID(r, f.Cookie)
	a.queue = append(a.queue, &w)
	if w.open {
		a.open[f.Cookie] = &w // a second connect of a socket takes the place of the first
	}
}

// result adds to a connect how it ended, and hands it on again if it was too early.
func (a *Agent) result(r *kernel.Result) {
	w := a.open[r.Cookie]
	if w == nil {
		return
	}
	delete(a.open, r.Cookie)
	w.open = false
	w.record.Errno = uint16(r.Errno)
	switch unix.Errno(r.Errno) {
	case 0:
		w.record.Result = attribute.Connected
	case unix.ECONNREFUSED, unix.ECONNRESET:
		w.record.Result = attribute.Refused
	case unix.ETIMEDOUT:
		w.record.Result = attribute.TimedOut
	default:
		w.record.Result = attribute.Failed
	}
	if w.again > 0 {
		a.queue = append(a.queue, w)
	}
}

// release hands on what has waited long enough: everything for the zero time. What was handed on
// without the hash of its executable, or without its result, is handed on again when that is there.
func (a *Agent) release(now time.Time) {
	a.bare = slices.DeleteFunc(a.bare, func(w *waiting) bool {
		if !w.hash.done.Load() {
			return false
		}
		if w.hash.sum != "" {
			a.queue = append(a.queue, w)
		}
		return true
	})
	kept := a.queue[:0]
	for _, w := range a.queue {
		if !now.IsZero() && (w.open && now.Before(w.until) || !w.hash.done.Load() && now.Before(w.hashed)) {
			kept = append(kept, w)
			continue
		}
		if w.hash.done.Load() {
			if w.hash.sum != "" {
				w.record.Process.SHA256 = w.hash.sum
			}
		} else if len(a.bare) < maxLate {
			a.bare = append(a.bare, w)
		}
		if w.again > 0 { // what is told twice differs
			feed.SetID(&w.record, w.cookie+w.again<<56)
		} else if w.open {
			a.late = append(a.late, w)
		}
		w.again++
		a.speakFor(&w.record, now)
		a.give(&w.record)
	}
	clear(a.queue[len(kept):])
	a.queue = kept

	n := 0
	for n < len(a.late) && (len(a.late)-n > maxLate || !a.late[n].open || now.After(a.late[n].expires)) {
		if w := a.late[n]; a.open[w.cookie] == w {
			delete(a.open, w.cookie)
		}
		n++
	}
	if n > 0 {
		a.late = append(a.late[:0], a.late[n:]...)
	}
}

// speakFor says, before a record with an address of this host that nobody was told of, or from a network
// namespace that is new, which addresses there are.
func (a *Agent) speakFor(r *attribute.Record, now time.Time) {
	if now.IsZero() || !a.host.learn(r.Local.Addr(), r.Process.NetNS, r.Process.PID, now) {
		return
	}
	a.giveHost(now, r.Source)
}

// announce looks for addresses everywhere and says what this host is.
func (a *Agent) announce(now time.Time, source string) error {
	if err := a.host.scan(now, a.cfg.Interval); err != nil {
		return err
	}
	a.giveHost(now, source)
	return nil
}

func (a *Agent) giveHost(now time.Time, source string) {
	s := a.Stats()
	r := attribute.Record{
		Kind: attribute.Host, HostID: a.cfg.HostID, Host: a.cfg.Host, Source: source, Time: event.TimeOf(now),
		About: &attribute.HostFacts{
			Addresses: a.host.all(), Boot: a.clock.bootOf(), Interval: int64(a.cfg.Interval), Kernel: a.host.release, Agent: a.cfg.Version,
			Sees: a.host.sees, Blind: a.host.blind, Lost: s.Lost, Refused: s.Refused,
		},
	}
	feed.SetID(&r, s.Records)
	a.give(&r)
}

func (a *Agent) give(r *attribute.Record) {
	a.records.Add(1)
	if err := a.emit(r); err != nil && a.untaken.Add(1) == 1 {
		a.cfg.Log.Warn("a record is lost; others like it are counted", "error", err)
	}
}

// unset is an address of no host.
func unset(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() || a.IsLoopback() }
