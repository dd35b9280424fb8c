package bus

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"portolan/cmd/internal/natstest"
	"portolan/correlate"
)

// patience is how long a test waits for what has to come.
const patience = time.Minute

func testConfig(t *testing.T) Config {
	c := DefaultConfig()
	c.Name, c.StateDir, c.Timeout = "dmz-1", filepath.Join(t.TempDir(), "state"), patience
	return c
}

// open opens a bus. A machine that is busy with other things may need more than one of the short
// time-outs that some tests set for what they are about.
func open(t *testing.T, c Config) *Bus {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		b, err := Open(t.Context(), c)
		if err == nil {
			t.Cleanup(func() { b.Close() })
			return b
		}
		if timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, os.ErrDeadlineExceeded); !timeout ||
			time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// wantOpenError opens, which has to go wrong, and checks the error's line.
func wantOpenError(t *testing.T, c Config, want ...string) error {
	t.Helper()
	b, err := Open(t.Context(), c)
	if err == nil {
		b.Close()
		t.Fatalf("Open succeeded, want an error with %q", want)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not hold %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), secret) {
		t.Errorf("error of several lines, or with a secret: %q", err)
	}
	return err
}

// secret is a password that no error or log line may show.
const secret = "s3cr3t-w0rd"

func flush(t *testing.T, b *Bus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

type received struct {
	m    *Message
	meta Meta
}

// subscribe runs Subscribe until the test ends and returns what it receives.
func subscribe(t *testing.T, b *Bus, f Filter) <-chan received {
	t.Helper()
	ch := make(chan received, 1024)
	ready, done := make(chan struct{}), make(chan error, 1)
	f.Ready = func() { close(ready) }
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- b.Subscribe(ctx, f, func(m *Message, meta Meta) { ch <- received{m, meta} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("Subscribe: %v", err)
	case <-time.After(patience):
		t.Fatal("no subscription")
	}
	return ch
}

func receive(t *testing.T, ch <-chan received) received {
	t.Helper()
	select {
	case r := <-ch:
		return r
	case <-time.After(patience):
		t.Fatal("no message")
		return received{}
	}
}

func publish(t *testing.T, b *Bus, h *correlate.Hit) *Message {
	t.Helper()
	m := NewMessage(h, Context{Sensor: b.cfg.Name})
	if err := b.Publish(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPublishSubscribe(t *testing.T) {
	b := open(t, testConfig(t))
	live := subscribe(t, b, Filter{})
	core := subscribe(t, b, Filter{Core: true})
	watches := subscribe(t, b, Filter{Levels: []string{"watch"}})
	others := subscribe(t, b, Filter{Client: addr("10.0.0.8")})

	alert, watch := publish(t, b, halfSwap()), publish(t, b, mulAdd())
	for name, ch := range map[string]<-chan received{"stream": live, "core": core} {
		for _, want := range []*Message{alert, watch} {
			got := receive(t, ch)
			a, _ := want.Encode()
			c, _ := got.m.Encode()
			if !bytes.Equal(a, c) {
				t.Errorf("%s: received\n%s\nwant\n%s", name, c, a)
			}
			if got.meta.Subject != want.Subject() || got.meta.Received.IsZero() {
				t.Errorf("%s: meta %+v, want subject %s and a time", name, got.meta, want.Subject())
			}
			if (name == "stream") != (got.meta.Sequence > 0) {
				t.Errorf("%s: sequence %d", name, got.meta.Sequence)
			}
		}
	}
	if got := receive(t, watches); got.m.Portolan.Level != "watch" {
		t.Errorf("a subscriber to watches received %s", got.m.Portolan.Level)
	}
	other := halfSwap()
	other.ID, other.Connection.Src = testID(9), netip.MustParseAddrPort("10.0.0.8:1")
	publish(t, b, other)
	if got := receive(t, others); got.m.Source.IP != addr("10.0.0.8") {
		t.Errorf("a subscriber to one client received %s", got.m.Source.IP)
	}
	flush(t, b)
	if s := b.PublishStats(); s != (PublishStats{Accepted: 3, Stored: 3, Sequence: 3}) {
		t.Errorf("stats %+v, want 3 accepted and stored", s)
	}
}

func TestHeaders(t *testing.T) {
	b := open(t, testConfig(t))
	m := NewMessage(halfSwap(), testContext())
	sub, err := b.conn.SubscribeSync(m.Subject())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(m); err != nil {
		t.Fatal(err)
	}
	raw, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	id := "0112233445566778899aabbccddeef00"
	for k, want := range map[string]string{
		"Nats-Msg-Id":     id + ".1",
		"Content-Type":    "application/json",
		"Portolan-Schema": "portolan.hit/1.0",
		"ce-specversion":  "1.0",
		"ce-id":           id + ".1",
		"ce-source":       "/portolan/sensor/dmz-1",
		"ce-type":         "portolan.v1.hit",
		"ce-time":         "2026-03-14T09:26:53.589793238Z",
		"ce-subject":      id,
	} {
		if got := raw.Header.Get(k); got != want {
			t.Errorf("header %s = %q, want %q", k, got, want)
		}
	}
}

// A message sent twice is stored once, and one that is published again by someone else is handed on once.
func TestDuplicates(t *testing.T) {
	b := open(t, testConfig(t))
	live := subscribe(t, b, Filter{})
	m := publish(t, b, halfSwap())
	publish(t, b, halfSwap())
	e, err := m.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	e.ID += "-by-another-tap"
	if err := b.Send(e); err != nil {
		t.Fatal(err)
	}
	second := halfSwap()
	second.Revision = 2
	publish(t, b, second)
	flush(t, b)
	if s := b.PublishStats(); s != (PublishStats{Accepted: 4, Stored: 4, Duplicates: 1, Sequence: 3}) {
		t.Errorf("stats %+v, want 4 stored, 1 duplicate", s)
	}
	for _, want := range []uint32{1, 2} {
		if got := receive(t, live).m.Portolan.Revision; got != want {
			t.Errorf("received revision %d, want %d", got, want)
		}
	}
}

func TestMemoryForgets(t *testing.T) {
	m := newMemory(2)
	for _, tt := range []struct {
		s    string
		want bool
	}{{"a", true}, {"a", false}, {"b", true}, {"c", true}, {"b", false}, {"a", true}} {
		if got := m.add(tt.s); got != tt.want {
			t.Errorf("add(%s) = %t, want %t", tt.s, got, tt.want)
		}
	}
	if len(m.set) > 2 {
		t.Errorf("%d strings remembered, want at most 2", len(m.set))
	}
}

func TestPast(t *testing.T) {
	c := testConfig(t)
	b := open(t, c)
	for n := range byte(5) {
		h := halfSwap()
		h.ID = testID(n)
		publish(t, b, h)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(NewMessage(halfSwap(), Context{})); !errors.Is(err, errClosed) {
		t.Errorf("Publish after Close: %v, want %v", err, errClosed)
	}

	b = open(t, c) // the messages outlive the process
	for _, tt := range []struct {
		name  string
		f     Filter
		first byte
		n     int
	}{
		{"all", Filter{All: true}, 0, 5},
		{"by sequence", Filter{Sequence: 4}, 3, 2},
		{"by age", Filter{Last: time.Hour}, 0, 5},
	} {
		ch := subscribe(t, b, tt.f)
		for i := range tt.n {
			if got, want := receive(t, ch).m.Portolan.HitID, testID(tt.first+byte(i)).String(); got != want {
				t.Errorf("%s: received %s, want %s", tt.name, got, want)
			}
		}
	}
	live := subscribe(t, b, Filter{})
	h := halfSwap()
	h.ID = testID(99)
	publish(t, b, h)
	if got, want := receive(t, live).m.Portolan.HitID, testID(99).String(); got != want {
		t.Errorf("new only: received %s, want %s", got, want)
	}
}

func TestStreamsMade(t *testing.T) {
	c := testConfig(t)
	c.Observations = true
	b := open(t, c)
	for _, want := range Streams(true) {
		s, err := b.js.Stream(t.Context(), want.Name)
		if err != nil {
			t.Errorf("%s: %v", want.Name, err)
			continue
		}
		have := s.CachedInfo().Config
		if have.MaxAge != want.MaxAge || have.Duplicates != minDuplicates || have.Storage != jetstream.FileStorage {
			t.Errorf("%s: %+v, want %+v", want.Name, have, want)
		}
		if warnings, err := checkStream(&have, &want); err != nil || warnings != nil {
			t.Errorf("%s: a stream just made differs: %v %v", want.Name, warnings, err)
		}
	}
	c.StateDir += "2"
	c.Observations = false
	b = open(t, c)
	if _, err := b.js.Stream(t.Context(), ObservationsStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("%s is made unasked: %v", ObservationsStream, err)
	}
}

func TestExistingStreams(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*jetstream.StreamConfig)
		want   string // in the error; "" for none
		warn   string // in the log
	}{
		{"as wanted", func(*jetstream.StreamConfig) {}, "", ""},
		{"kept longer", func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, "", ""},
		{"in memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "", "storage is Memory"},
		{"short duplicates", func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute }, "", "for 1m0s only"},
		{"discards new", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }, "", "discard is new"},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "retention is WorkQueue", ""},
		{"no hits", func(c *jetstream.StreamConfig) { c.Subjects = c.Subjects[1:] }, "does not take portolan.v1.hit.>", ""},
		{"small messages", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }, "takes messages of 1000 bytes at most", ""},
		{"taken subjects", func(c *jetstream.StreamConfig) { c.Name = "OTHER" }, "another stream already takes", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := startServer(t, &server.Options{})
			conn := dial(t, srv.ClientURL())
			js, err := jetstream.New(conn)
			if err != nil {
				t.Fatal(err)
			}
			cfg := Streams(false)[0]
			tt.change(&cfg)
			if _, err := js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			c := testConfig(t)
			c.URL = srv.ClientURL()
			var log syncBuffer
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			if tt.want != "" {
				wantOpenError(t, c, "stream PORTOLAN_HITS: ", tt.want)
			} else {
				open(t, c)
			}
			if got := log.String(); !strings.Contains(got, tt.warn) || tt.warn == "" && strings.Contains(got, "WARN") {
				t.Errorf("log %q, want a warning with %q", got, tt.warn)
			}
			s, err := js.Stream(t.Context(), cfg.Name)
			if err != nil {
				t.Fatal(err)
			}
			if have := s.CachedInfo().Config; have.MaxAge != cfg.MaxAge || have.Storage != cfg.Storage ||
				have.Retention != cfg.Retention || have.MaxMsgSize != cfg.MaxMsgSize {
				t.Errorf("the stream was changed: %+v", have)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	at := fmt.Sprintf("127.0.0.1:%d", natstest.Port(t))
	c := testConfig(t)
	c.URL = "nats://user:" + secret + "@" + at
	wantOpenError(t, c, "connect to nats://"+at+": ", "connection refused")
}

func TestNoServerBehindPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	c := testConfig(t)
	c.URL = "nats://" + l.Addr().String()
	wantOpenError(t, c, "connect to "+c.URL+": ")
	l.Close()
	<-done
}

func TestWrongCredentials(t *testing.T) {
	srv := startServer(t, &server.Options{Username: "sensor", Password: "right"})
	c := testConfig(t)
	c.URL = strings.Replace(srv.ClientURL(), "nats://", "nats://sensor:"+secret+"@", 1)
	if err := wantOpenError(t, c, "wrong or missing credentials"); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("%v is no %v", err, nats.ErrAuthorization)
	}
	c.URL = strings.Replace(srv.ClientURL(), "nats://", "nats://sensor:right@", 1)
	if b := open(t, c); b.URL() != srv.ClientURL() {
		t.Errorf("URL() = %s, want %s", b.URL(), srv.ClientURL())
	}
}

func TestBrokenFiles(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"credentials missing", func(c *Config) { c.Creds = missing }, "nats credentials: open " + missing},
		{"credentials junk", func(c *Config) { c.Creds = junk }, "connect to nats://"},
		{"seed missing", func(c *Config) { c.NKey = missing }, "nats nkey seed: open " + missing},
		{"seed junk", func(c *Config) { c.NKey = junk }, "the file holds no user seed"},
		{"CA missing", func(c *Config) { c.CA = missing }, "nats CA: open " + missing},
		{"CA junk", func(c *Config) { c.CA = junk }, "the file holds no PEM certificate"},
		{"certificate junk", func(c *Config) { c.Cert, c.Key = junk, junk }, "nats certificate " + junk},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig(t)
			c.URL = startServer(t, &server.Options{}).ClientURL()
			tt.change(&c)
			wantOpenError(t, c, tt.want)
		})
	}
}

func TestNoJetStream(t *testing.T) {
	srv := startServer(t, &server.Options{JetStream: false, StoreDir: "none"})
	c := testConfig(t)
	c.URL = srv.ClientURL()
	wantOpenError(t, c, "JetStream is not enabled")

	// A subscriber makes do with what passes.
	c.Reader = true
	b := open(t, c)
	live := subscribe(t, b, Filter{})
	m := NewMessage(halfSwap(), Context{Sensor: "dmz-1"})
	e, err := m.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(t, srv.ClientURL()).Publish(e.Subject, e.Data); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, live); got.m.Portolan.HitID != m.Portolan.HitID {
		t.Errorf("received %s, want %s", got.m.Portolan.HitID, m.Portolan.HitID)
	}
	if err := b.Subscribe(t.Context(), Filter{All: true}, nil); err == nil || !strings.Contains(err.Error(), "JetStream") {
		t.Errorf("the past without JetStream: %v", err)
	}
}

func TestNKey(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	srv := startServer(t, &server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})
	c := testConfig(t)
	c.URL, c.NKey = srv.ClientURL(), filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(c.NKey, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, c)
	publish(t, b, halfSwap())
	flush(t, b)

	c.NKey = ""
	wantOpenError(t, c, "wrong or missing credentials")
}

func TestTLS(t *testing.T) {
	pki := newPKI(t)
	tc, err := server.GenTLSConfig(&server.TLSConfigOpts{
		CertFile: pki.cert, KeyFile: pki.key, CaFile: pki.ca, Verify: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := startServer(t, &server.Options{TLS: true, TLSVerify: true, TLSConfig: tc, TLSTimeout: patience.Seconds()})
	c := testConfig(t)
	c.URL, c.CA, c.Cert, c.Key = srv.ClientURL(), pki.ca, pki.cert, pki.key
	b := open(t, c)
	publish(t, b, halfSwap())
	flush(t, b)

	other := newPKI(t)
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"another authority", func(c *Config) { c.CA = other.ca }, "unknown authority"},
		{"no client certificate", func(c *Config) { c.Cert, c.Key = "", "" }, "connect to tls://"},
		{"plain", func(c *Config) { c.CA, c.Cert, c.Key = "", "", "" }, "tls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := c
			tt.change(&c)
			wantOpenError(t, c, tt.want)
		})
	}
	plain := startServer(t, &server.Options{})
	c.URL = plain.ClientURL()
	wantOpenError(t, c, "tls: the server offers none")
}

func TestEmbeddedListens(t *testing.T) {
	pki := newPKI(t)
	c := testConfig(t)
	c.Listen, c.ListenPassword = "127.0.0.1:0", secret
	c.CA, c.Cert, c.Key = pki.ca, pki.cert, pki.key
	b := open(t, c)
	publish(t, b, halfSwap())
	flush(t, b)

	reader := testConfig(t)
	reader.Name, reader.URL, reader.Reader = "watch", b.URL(), true
	reader.Timeout = 2 * time.Second // in which no acknowledgement will come
	reader.CA, reader.Cert, reader.Key = pki.ca, pki.cert, pki.key
	r := open(t, reader)
	if got := receive(t, subscribe(t, r, Filter{All: true})); got.m.Portolan.HitID != testID(1).String() {
		t.Errorf("received %s", got.m.Portolan.HitID)
	}
	publish(t, r, mulAdd())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Flush(ctx); err != nil {
		t.Error(err)
	}
	if s := r.PublishStats(); s.Lost != 1 || s.Stored != 0 {
		t.Errorf("a reader without password published: %+v", s)
	}

	full := testConfig(t)
	full.URL = strings.Replace(b.URL(), "://", "://portolan:"+secret+"@", 1)
	full.CA, full.Cert, full.Key = pki.ca, pki.cert, pki.key
	f := open(t, full)
	publish(t, f, mulAdd())
	flush(t, f)
	if s := f.PublishStats(); s.Stored != 1 {
		t.Errorf("with the password nothing was published: %+v", s)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig(t)
	c.Listen = l.Addr().String()
	wantOpenError(t, c, "embedded nats server in "+c.StateDir, "address already in use")
}

func TestStateDirectoryInUse(t *testing.T) {
	c := testConfig(t)
	b := open(t, c)
	err := wantOpenError(t, c, "state directory "+c.StateDir, fmt.Sprintf("in use by process %d", os.Getpid()))
	if !errors.Is(err, ErrInUse) {
		t.Errorf("%v is no %v", err, ErrInUse)
	}

	// Another process is refused alike.
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOpenInChild$")
	cmd.Env = append(os.Environ(), "PORTOLAN_TEST_STATE="+c.StateDir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "in use by process") {
		t.Errorf("another process: %v, %s", err, out)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, c)
}

// TestOpenInChild is the other process of TestStateDirectoryInUse.
func TestOpenInChild(t *testing.T) {
	dir := os.Getenv("PORTOLAN_TEST_STATE")
	if dir == "" {
		t.Skip("runs as a child of TestStateDirectoryInUse")
	}
	c := DefaultConfig()
	c.StateDir = dir
	b, err := Open(t.Context(), c)
	if err == nil {
		b.Close()
		t.Fatal("opened")
	}
	fmt.Println(err)
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"name", func(c *Config) { c.Name = "a.b" }, "name: "},
		{"queue", func(c *Config) { c.Queue = 0 }, "queue 0"},
		{"spool", func(c *Config) { c.Spool = 1 }, "spool of 1 bytes"},
		{"spool nowhere", func(c *Config) { c.URL, c.StateDir = "nats://h", "" }, "state directory: the spool"},
		{"limit", func(c *Config) { c.Limit.PerMinute = 0 }, "limit: 0 a minute"},
		{"timeout", func(c *Config) { c.Timeout = -1 }, "timeout -1ns"},
		{"key alone", func(c *Config) { c.Key = "k" }, "certificate and key"},
		{"two kinds of credentials", func(c *Config) { c.URL, c.Creds, c.NKey = "nats://h", "c", "n" }, "credentials and nkey"},
		{"credentials for the embedded server", func(c *Config) { c.Creds = "c" }, "credentials and nkey"},
		{"listening elsewhere", func(c *Config) { c.URL, c.Listen = "nats://h", "127.0.0.1:1" }, "listen"},
		{"no state", func(c *Config) { c.StateDir = "" }, "state directory"},
		{"no port", func(c *Config) { c.Listen = "127.0.0.1" }, "HOST:PORT"},
		{"open to all", func(c *Config) { c.Listen = ":4222" }, "reachable from outside"},
		{"open on an address", func(c *Config) { c.Listen = "192.0.2.1:4222" }, "reachable from outside"},
		{"open on IPv6", func(c *Config) { c.Listen = "[::]:4222" }, "reachable from outside"},
		{"open with a server certificate only", func(c *Config) { c.Listen, c.Cert, c.Key = ":4222", "c", "k" }, "reachable"},
		{"CA alone", func(c *Config) { c.Listen, c.CA = "127.0.0.1:0", "ca" }, "client certificates: "},
		{"certificate for nobody", func(c *Config) { c.Cert, c.Key = "c", "k" }, "certificates: neither listen nor"},
		{"no host", func(c *Config) { c.URL = "nats://user:" + secret + "@" }, "server url: "},
		{"no URL", func(c *Config) { c.URL = "nats://user:" + secret + "@h:%zz" }, "server url: "},
		{"scheme", func(c *Config) { c.URL = "http://h" }, `scheme "http"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig(t)
			tt.change(&c)
			wantOpenError(t, c, tt.want)
			if _, err := os.Stat(c.StateDir); c.StateDir != "" && err == nil {
				t.Error("the state directory was made all the same")
			}
		})
	}
	for _, listen := range []string{"127.0.0.1:4222", "[::1]:0", "localhost:4222"} {
		c := testConfig(t)
		if c.Listen = listen; c.Validate() != nil {
			t.Errorf("%s: %v", listen, c.Validate())
		}
	}
}

// While the server is away messages wait; when it is back they arrive, and the subscription goes on.
func TestServerComesBack(t *testing.T) {
	dir := t.TempDir()
	port := natstest.Port(t)
	srv := startServer(t, &server.Options{StoreDir: dir, Port: port})
	c := testConfig(t)
	c.URL = srv.ClientURL()
	b := open(t, c)
	live := subscribe(t, b, Filter{})
	publish(t, b, halfSwap())
	receive(t, live)

	srv.Shutdown()
	srv.WaitForShutdown()
	publish(t, b, mulAdd())
	startServer(t, &server.Options{StoreDir: dir, Port: port})
	if got, want := receive(t, live).m.Portolan.HitID, testID(2).String(); got != want {
		t.Errorf("received %s, want %s", got, want)
	}
	flush(t, b)
	if s := b.PublishStats(); s.Stored != 2 || s.Lost != 0 || s.Pending != 0 {
		t.Errorf("stats %+v, want 2 stored and none lost", s)
	}
}

// Without a spool, what does not fit the queue is lost, counted, and never waited for; Close says what was not acknowledged.
func TestQueueIsBounded(t *testing.T) {
	srv := startServer(t, &server.Options{})
	c := testConfig(t)
	c.URL, c.Queue, c.Timeout = srv.ClientURL(), 4, time.Second
	c.Spool, c.Limit = 0, Limit{}
	b := open(t, c)
	srv.Shutdown()
	srv.WaitForShutdown()
	const n = 1000
	full := 0
	for i := range n {
		h := halfSwap()
		h.Revision = uint32(i + 1)
		if err := b.Publish(NewMessage(h, Context{Sensor: "dmz-1"})); errors.Is(err, ErrQueueFull) {
			full++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	s := b.PublishStats()
	if full == 0 || s.Lost != uint64(full) || s.Accepted+s.Lost != n || s.Pending != s.Accepted {
		t.Errorf("%d of %d refused, stats %+v: they do not add up", full, n, s)
	}
	err := b.Close()
	if want := fmt.Sprintf("%d messages not acknowledged", s.Accepted); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Close: %v, want %q", err, want)
	}
	if s := b.PublishStats(); s.Lost != n || s.Pending != 0 {
		t.Errorf("stats after Close %+v, want all %d lost", s, n)
	}
}

// Who has time loses nothing, however short the queue.
func TestPublishWait(t *testing.T) {
	c := testConfig(t)
	c.Queue = 1
	b := open(t, c)
	live := subscribe(t, b, Filter{})
	const n, each = 4, 100
	var wg sync.WaitGroup
	for k := range n {
		wg.Go(func() {
			for i := range each {
				h := halfSwap()
				h.ID, h.Revision = testID(byte(k)), uint32(i+1)
				if err := b.PublishWait(t.Context(), NewMessage(h, Context{Sensor: "dmz-1"})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	flush(t, b)
	if s := b.PublishStats(); s.Stored != n*each || s.Lost != 0 {
		t.Errorf("stats %+v, want %d stored and none lost", s, n*each)
	}
	for range n * each {
		receive(t, live)
	}

	other := open(t, testConfig(t))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := other.PublishWait(t.Context(), NewMessage(halfSwap(), Context{})); !errors.Is(err, errClosed) {
		t.Errorf("PublishWait after Close: %v, want %v", err, errClosed)
	}
}

// Without a spool, waiting for room ends with the context when the server stays away.
func TestPublishWaitEnds(t *testing.T) {
	srv := startServer(t, &server.Options{})
	c := testConfig(t)
	c.URL, c.Queue, c.Timeout = srv.ClientURL(), 1, time.Second
	c.Spool = 0
	b := open(t, c)
	srv.Shutdown()
	srv.WaitForShutdown()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var err error
	for i := 0; err == nil; i++ {
		h := halfSwap()
		h.Revision = uint32(i + 1)
		err = b.PublishWait(ctx, NewMessage(h, Context{Sensor: "dmz-1"}))
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("PublishWait: %v, want %v", err, context.DeadlineExceeded)
	}
	if s := b.PublishStats(); s.Lost != 0 || s.Pending == 0 {
		t.Errorf("stats %+v, want some pending and none lost", s)
	}
}

func TestCoverageAndStat(t *testing.T) {
	b := open(t, testConfig(t))
	stats, err := b.conn.SubscribeSync(StatSubject("dmz-1"))
	if err != nil {
		t.Fatal(err)
	}
	record := CoverageRecord{
		Schema: CoverSchema, Time: start.UTC(), Sensor: "dmz-1", Verdict: Good, Frames: 3,
		Reasons: map[string]uint64{"event": 1, "not-opening": 2},
	}
	if err := b.PublishCoverage(&record); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishStat(&Stat{Schema: StatSchema, Sensor: "dmz-1", Frames: 3}); err != nil {
		t.Fatal(err)
	}
	flush(t, b)
	stream, err := b.js.Stream(t.Context(), OpsStream)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := stream.GetLastMsgForSubject(t.Context(), "portolan.v1.cover.dmz-1")
	if err != nil {
		t.Fatal(err)
	}
	var got CoverageRecord
	if err := json.Unmarshal(raw.Data, &got); err != nil || got.Frames != 3 || got.Reasons["not-opening"] != 2 {
		t.Errorf("record %s: %v", raw.Data, err)
	}
	if _, err := stats.NextMsg(patience); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
}

func TestSubscribeEndsWithBus(t *testing.T) {
	for _, core := range []bool{false, true} {
		b := open(t, testConfig(t))
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- b.Subscribe(t.Context(), Filter{Core: core, Ready: func() { close(ready) }}, func(*Message, Meta) {})
		}()
		<-ready
		b.Close()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("core=%t: no error although the bus was closed", core)
			}
		case <-time.After(patience):
			t.Errorf("core=%t: Subscribe goes on", core)
		}
	}
}

func TestFilterValidate(t *testing.T) {
	for _, f := range []Filter{
		{Levels: []string{"*"}}, {Sensor: "a.b"}, {All: true, Sequence: 1}, {Last: -1}, {Core: true, All: true},
	} {
		if f.Validate() == nil {
			t.Errorf("%+v is accepted", f)
		}
	}
}

// BenchmarkRoundTrip measures a hit from Publish to a core subscriber's handler.
func BenchmarkRoundTrip(b *testing.B) {
	for _, core := range []bool{true, false} {
		b.Run(map[bool]string{true: "core", false: "stream"}[core], func(b *testing.B) {
			c := DefaultConfig()
			c.StateDir, c.Limit = b.TempDir(), Limit{}
			bus, err := Open(b.Context(), c)
			if err != nil {
				b.Fatal(err)
			}
			defer bus.Close()
			ch, ready, done := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
			ctx, cancel := context.WithCancel(b.Context())
			go func() {
				f := Filter{Core: core, Ready: func() { close(ready) }}
				done <- bus.Subscribe(ctx, f, func(*Message, Meta) { ch <- struct{}{} })
			}()
			<-ready
			h := halfSwap()
			b.ReportAllocs()
			for b.Loop() {
				h.Revision++
				if err := bus.Publish(NewMessage(h, Context{Sensor: "dmz-1"})); err != nil {
					b.Fatal(err)
				}
				<-ch
			}
			cancel()
			<-done
		})
	}
}

// startServer runs a nats-server with JetStream on a free port of loopback; StoreDir "none"
// leaves JetStream out.
func startServer(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.NoLog, o.NoSigs = "127.0.0.1", true, true
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	if o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	o.JetStream = o.StoreDir != "none"
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return srv
}

func dial(t *testing.T, url string) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// pki is an authority and a certificate for 127.0.0.1, of server and client alike, in PEM files.
type pki struct{ ca, cert, key, caKey string }

func newPKI(t *testing.T) pki {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	sign := func(c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "dmz-1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	p := pki{ca: write("ca.pem", "CERTIFICATE", sign(ca, ca, caKey, caKey))}
	p.cert = write("cert.pem", "CERTIFICATE", sign(leaf, ca, key, caKey))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p.key = write("key.pem", "PRIVATE KEY", der)
	if der, err = x509.MarshalPKCS8PrivateKey(caKey); err != nil {
		t.Fatal(err)
	}
	p.caKey = write("ca-key.pem", "PRIVATE KEY", der)
	return p
}

// syncBuffer is a bytes.Buffer that several goroutines may write to.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
