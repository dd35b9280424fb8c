// Package bus carries hits over NATS: messages, subjects, streams, the embedded server,
// publishing and subscribing.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/spool"
)

// Config says how to reach NATS.
type Config struct {
	Name   string // names the connection and its inbox; of a sensor, the sensor's (see ValidateSensor)
	URL    string // external server, several with commas; empty for an embedded one
	Creds  string // file with user JWT and NKey seed
	NKey   string // file with an NKey seed
	CA     string // PEM file: whom to trust; for the embedded server: whose client certificates to ask for
	Cert   string // PEM file: the client's certificate, or the embedded server's
	Key    string // PEM file: its private key
	Domain string // JetStream domain that has the streams, for a leaf node without them; empty for the server's own
	Reader bool   // only subscribes: streams are neither made nor checked
	// Patient makes Open succeed although the server that URL names cannot be reached, does not let
	// us in, or has no stream for us: it is tried for ever, and hits wait in the spool.
	Patient bool

	// The embedded server is reached in-process only, unless Listen gives it an address such as
	// 127.0.0.1:4222. Who comes that way may read hits; user "portolan" with ListenPassword may
	// do all. Off loopback either the password or CA with Cert and Key has to be set.
	StateDir       string // its store, and the spool; one process at a time
	Listen         string
	ListenPassword string

	// Hits wait on disk until a stream has them. Without a spool, as for a replay, which can be
	// repeated, they wait in memory, and what the server refuses for good is lost.
	Spool int64 // bytes of disk at most; 0 for no spool, else at least 1 MiB; a Reader has none
	Limit Limit // on hits of one client and hypothesis

	Observations bool          // also make the stream for raw observations
	Queue        int           // messages that wait for the disk; without a spool, for the server; from 1
	Timeout      time.Duration // for connecting, for each request, and for the last messages in Close; above 0
	Log          *slog.Logger  // nil for none
}

// DefaultConfig returns a Config for the embedded server, in-process only.
func DefaultConfig() Config {
	return Config{
		Name:     "portolan",
		StateDir: "portolan-data",
		Spool:    512 << 20,
		Limit:    Limit{Burst: 100, PerMinute: 60, Every: time.Minute},
		Queue:    16384,
		Timeout:  5 * time.Second,
	}
}

// Validate returns an error that names the first field with a value that cannot be.
func (c Config) Validate() error {
	if err := ValidateSensor(c.Name); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	if c.Queue < 1 {
		return fmt.Errorf("queue %d: want at least 1 message", c.Queue)
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("timeout %v: want above 0", c.Timeout)
	}
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("certificate and key: one needs the other")
	}
	if strings.ContainsAny(c.Domain, " .*>\t") {
		return fmt.Errorf("domain %q: want one token of a subject", c.Domain)
	}
	if c.Spool != 0 && c.Spool < spool.MinBytes {
		return fmt.Errorf("spool of %d bytes: want 0, or at least %d", c.Spool, spool.MinBytes)
	}
	if err := c.Limit.Validate(); err != nil {
		return err
	}
	if c.URL == "" {
		return c.validateEmbedded()
	}
	if c.StateDir == "" && c.spools() {
		return errors.New("state directory: the spool needs one")
	}
	if c.Patient && !c.spools() {
		return errors.New("patient: hits would wait in the spool, and there is none")
	}
	if c.Listen != "" {
		return fmt.Errorf("listen %q: that is for the embedded server, and a URL names another", c.Listen)
	}
	if c.Creds != "" && c.NKey != "" {
		return errors.New("credentials and nkey: want one of them")
	}
	_, err := serverURLs(c.URL)
	return err
}

func (c *Config) spools() bool { return c.Spool > 0 && !c.Reader }

func (c *Config) spoolPath() string { return filepath.Join(c.StateDir, "spool") }

// closeTimeout is how long a server that is slow may hold up the end of a process whose messages are safe: service
// managers give it a few seconds.
const closeTimeout = 2 * time.Second

// spoolMemory bounds messages that are not on disk yet, or cannot get there, in bytes.
const spoolMemory = 64 << 20

// Bus is a connection to NATS, with the embedded server behind it if there is one. Its
// methods are safe for concurrent use.
type Bus struct {
	cfg    Config
	log    *slog.Logger
	at     string // the server, for people: no user, no password
	server *embedded
	lock   *os.File // of the state directory, when there is no embedded server to hold it
	conn   *nats.Conn
	js     jetstream.JetStream
	denied *denials
	pub    *publisher
	dial   *dialer

	connected atomic.Bool // asking the connection could mean to wait for its socket
	unchecked atomic.Bool // the streams were not looked at yet
	refusal   string      // why the first connection was not made, as it was logged

	attached atomic.Pointer[publisher] // pub, for the client library's goroutines, which start before it is there

	closeOnce sync.Once
	closeErr  error
}

// Open connects to the server that cfg names, or starts the embedded one, and makes or
// checks the streams unless cfg.Reader. The first connection has to succeed unless cfg.Patient;
// later ones are tried for ever. Errors hold no secret.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	b := &Bus{cfg: cfg, log: cfg.Log, denied: newDenials("_INBOX." + cfg.Name)}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if err := b.open(ctx); err != nil {
		_, _ = b.stop()
		return nil, err
	}
	return b, nil
}

func (b *Bus) open(ctx context.Context) (err error) {
	if b.cfg.URL == "" {
		if b.server, err = startEmbedded(b.cfg, b.log); err != nil {
			return err
		}
		b.at = b.server.String()
	} else {
		b.at = redact(b.cfg.URL)
	}
	if err := b.connect(ctx); err != nil {
		return err
	}
	if b.server == nil && b.cfg.spools() {
		if err := os.MkdirAll(b.cfg.StateDir, 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		if b.lock, err = lockDir(b.cfg.StateDir); err != nil {
			return err
		}
	}
	pub, err := newPublisher(b)
	if err != nil {
		return err
	}
	b.pub = pub
	if b.refusal != "" {
		pub.news(b.refusal) // it was said
	}
	b.attached.Store(pub)
	if b.js, err = b.NewJetStream(
		jetstream.WithDefaultTimeout(b.cfg.Timeout),
		jetstream.WithPublishAsyncTimeout(b.cfg.Timeout),
		jetstream.WithPublishAsyncMaxPending(maxInFlight),
		jetstream.WithPublishAsyncAckHandler(b.pub.acked),
		jetstream.WithPublishAsyncErrHandler(b.pub.refused),
	); err != nil {
		return fmt.Errorf("nats %s: %w", b.at, err)
	}
	b.unchecked.Store(!b.cfg.Reader)
	if b.unchecked.Load() && b.connected.Load() {
		if err := b.checkStreams(ctx); err != nil {
			return err
		}
	}
	b.pub.start()
	return nil
}

// URL returns the server for people and for other clients to connect to, without user and
// password: "in-process" for an embedded server that does not listen.
func (b *Bus) URL() string { return b.at }

// Close sends what waits, for at most Config.Timeout, or closeTimeout where there is a spool, and as long
// as the server takes it, then disconnects, stops the embedded server and releases the state
// directory. What is in the spool is sent by the next process. The error says how many messages are lost. Subscribe calls
// that still run return.
func (b *Bus) Close() error {
	b.closeOnce.Do(func() {
		timeout := b.cfg.Timeout
		if b.pub.durable {
			timeout = min(timeout, closeTimeout)
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		b.pub.summarize(time.Time{})
		giveUp := func() bool { return false }
		if b.pub.durable {
			giveUp = b.pub.stuck
		}
		err := b.pub.flush(ctx, giveUp)
		lost, stopErr := b.stop()
		switch {
		case lost > 0:
			b.closeErr = err
		case err != nil:
			b.log.Warn("messages wait in the spool for the next start", "path", b.cfg.spoolPath(), "why", err)
		}
		b.closeErr = errors.Join(b.closeErr, stopErr)
	})
	return b.closeErr
}

// stop ends what open began, in reverse, and returns how many messages are lost with it.
func (b *Bus) stop() (lost uint64, err error) {
	if b.pub != nil {
		lost, err = b.pub.stop()
	}
	if b.conn != nil {
		b.conn.Close()
	}
	if b.server != nil {
		b.server.stop()
	}
	if b.lock != nil {
		b.lock.Close() // which also unlocks
	}
	return lost, err
}

// NewJetStream returns a context of its own for what is more than hits, in Config.Domain.
func (b *Bus) NewJetStream(options ...jetstream.JetStreamOpt) (jetstream.JetStream, error) {
	if b.cfg.Domain != "" {
		return jetstream.NewWithDomain(b.conn, b.cfg.Domain, options...)
	}
	return jetstream.New(b.conn, options...)
}

// API returns the subject of a JetStream request, such as "STREAM.INFO.X".
func (b *Bus) API(request string) string {
	if b.cfg.Domain != "" {
		return "$JS." + b.cfg.Domain + ".API." + request
	}
	return "$JS.API." + request
}

// request runs an exchange with the server that begins by publishing to a subject with the
// given prefix. It gives up after Config.Timeout, and at once when the server denies either
// that subject or the answer's inbox: NATS says so beside the exchange, which would else
// just time out.
func (b *Bus) request(ctx context.Context, prefix string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	ctx, deny := context.WithCancelCause(ctx)
	defer deny(nil)
	defer b.denied.watch(prefix, deny)()
	err := do(ctx)
	if err != nil {
		if d := (*DeniedError)(nil); errors.As(context.Cause(ctx), &d) {
			return d
		}
	}
	return err
}

// DeniedError says that the server's permissions do not allow an operation.
type DeniedError struct {
	Operation string // "publish" or "subscribe"
	Subject   string
}

// Error returns a line that names the operation and the subject.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("permission denied: %s %s", e.Operation, e.Subject)
}

// key names what was denied. Of hits the host is left out, as there may be very many.
func (e *DeniedError) key() string {
	s := e.Subject
	if strings.HasPrefix(s, subjectRoot+".hit.") || strings.HasPrefix(s, subjectRoot+".enriched.") {
		s = s[:strings.LastIndexByte(s, '.')]
	}
	return e.Operation + " " + s
}

// denials remembers what the server denied.
type denials struct {
	inbox string // prefix of this connection's inbox

	mu      sync.Mutex
	seen    map[string]*DeniedError // by key
	watches map[*denialWatch]bool
}

type denialWatch struct {
	prefix string
	cancel context.CancelCauseFunc
}

// maxDenials bounds the memory of denials; a client asks for few subjects besides those of hits.
const maxDenials = 1024

func newDenials(inbox string) *denials {
	return &denials{inbox: inbox, seen: make(map[string]*DeniedError), watches: make(map[*denialWatch]bool)}
}

// note remembers d and reports whether it is news.
func (d *denials) note(e *DeniedError) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := e.key()
	_, old := d.seen[key]
	if !old && len(d.seen) < maxDenials {
		d.seen[key] = e
	}
	for w := range d.watches {
		if d.concerns(e, w.prefix) {
			w.cancel(e)
		}
	}
	return !old
}

// forget forgets what may not be published: after a connection was made anew that may have changed.
func (d *denials) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.seen, func(_ string, e *DeniedError) bool { return e.Operation == "publish" })
}

func (d *denials) concerns(e *DeniedError, prefix string) bool {
	return strings.HasPrefix(e.Subject, prefix) || e.Operation == "subscribe" && strings.HasPrefix(e.Subject, d.inbox)
}

// watch cancels with a DeniedError when a subject with the prefix, or the inbox, is denied
// or the inbox was. The returned function ends the watch.
func (d *denials) watch(prefix string, cancel context.CancelCauseFunc) (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.seen {
		if e.Operation == "subscribe" && d.concerns(e, prefix) {
			cancel(e) // the client library subscribes once and would not ask again
		}
	}
	w := &denialWatch{prefix, cancel}
	d.watches[w] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watches, w)
	}
}

// published returns the denial of publishing to subject, nil when there was none.
func (d *denials) published(subject string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.seen[(&DeniedError{"publish", subject}).key()]; e != nil {
		return e
	}
	return nil
}

// serverURLs returns the servers of a comma-separated list. The error does not repeat the
// list, which may hold a password.
func serverURLs(list string) ([]*url.URL, error) {
	var urls []*url.URL
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			return nil, errors.New("server url: want nats://HOST:PORT or tls://HOST:PORT, several with commas")
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return nil, fmt.Errorf("server url: scheme %q is not nats, tls, ws or wss", u.Scheme)
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// Endpoints returns the hosts and the TCP ports of a comma-separated list of servers; none of a list that cannot be
// read.
func Endpoints(list string) (hosts []string, ports []uint16) {
	urls, err := serverURLs(list)
	if err != nil {
		return nil, nil
	}
	for _, u := range urls {
		hosts = append(hosts, u.Hostname())
		port := u.Port()
		if port == "" {
			port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
		}
		if port == "" {
			port = "4222" // the client library's default
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && !slices.Contains(ports, uint16(n)) {
			ports = append(ports, uint16(n))
		}
	}
	return hosts, ports
}

// redact returns a list of servers without users, passwords and whatever else is not
// scheme and host.
func redact(list string) string {
	urls, err := serverURLs(list)
	if err != nil {
		return "(unreadable URL)"
	}
	var out []string
	for _, u := range urls {
		out = append(out, u.Scheme+"://"+u.Host)
	}
	return strings.Join(out, ",")
}
