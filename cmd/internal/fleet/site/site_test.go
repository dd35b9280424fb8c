package site

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/fleet"
	"portolan/correlate"
	"portolan/sensor/event"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// testSite writes a set for all roles and returns its directory.
func testSite(t *testing.T, auth Auth) (dir string, c Config) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "set")
	c = DefaultConfig()
	c.Site, c.Auth = "hq", auth
	c.Sensors, c.Workers = []string{"dmz-1", "dmz-2"}, []string{"work-1"}
	c.Enrichers, c.Endpoints, c.Subscribers = []string{"enrich-1"}, []string{"host-a"}, []string{"soc"}
	c.Listen, c.Hosts = "127.0.0.1:-1", []string{"127.0.0.1"}
	c.ServerDir, c.StoreDir = filepath.Join(dir, "server"), t.TempDir()
	if err := Write(dir, c); err != nil {
		t.Fatal(err)
	}
	return dir, c
}

// serve starts a server with the set's configuration.
func serve(t *testing.T, dir string) (url string) {
	t.Helper()
	o, err := server.ProcessConfigFile(filepath.Join(dir, "server", "nats-server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	o.NoLog, o.NoSigs = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s.ClientURL()
}

// as returns the configuration of a user of the set.
func as(t *testing.T, dir, url string, auth Auth, user, name string) bus.Config {
	t.Helper()
	at := func(file string) string { return filepath.Join(dir, user, file) }
	c := bus.DefaultConfig()
	c.Name, c.URL, c.Timeout, c.StateDir = name, url, patience, t.TempDir()
	c.CA, c.Cert, c.Key = at("ca.pem"), at("cert.pem"), at("key.pem")
	if auth == JWT {
		c.Creds = at("nats.creds")
	} else {
		c.NKey = at("nats.nk")
	}
	return c
}

func open(t *testing.T, c bus.Config) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func hit() *correlate.Hit {
	return &correlate.Hit{
		ID: correlate.ID{1}, Revision: 1, State: correlate.Final, Level: correlate.Alert, Client: netip.MustParseAddr("10.0.0.7"),
		Connection: eventConnection(),
	}
}

// TestRoles: for each role, with NKeys and with JWT, over mutual TLS, what it may do and what not.
func TestRoles(t *testing.T) {
	for _, auth := range []Auth{NKeys, JWT} {
		t.Run(string(auth), func(t *testing.T) { testRoles(t, auth) })
	}
}

func testRoles(t *testing.T, auth Auth) {
	dir, _ := testSite(t, auth)
	url := serve(t, dir)
	config := func(user, name string) bus.Config { return as(t, dir, url, auth, user, name) }

	// The administrator makes the streams; a sensor cannot.
	_, err := bus.Open(t.Context(), config("sensor-dmz-1", "dmz-1"))
	if err == nil || !strings.Contains(err.Error(), "permission denied: publish $JS.API.STREAM.CREATE.") {
		t.Errorf("a sensor that finds no streams: %v", err)
	}
	c := config("administrator", "admin")
	c.Observations = true
	admin := open(t, c)
	js, err := jetstream.New(admin.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateKeyValue(t.Context(), fleet.BucketConfig()); err != nil {
		t.Fatal(err)
	}

	// A hit of a sensor reaches a subscriber through the stream.
	sensor := open(t, config("sensor-dmz-1", "dmz-1"))
	c = config("subscriber-soc", bus.DefaultConfig().Name)
	c.Reader = true
	soc := open(t, c)
	received := make(chan string, 4)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		done <- soc.Subscribe(ctx, bus.Filter{All: true, Ready: func() { close(ready) }}, func(m *bus.Message, meta bus.Meta) { received <- meta.Subject })
	}()
	<-ready
	if err := sensor.Publish(bus.NewMessage(hit(), bus.Context{Sensor: "dmz-1"})); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-received:
		if want := "portolan.v1.hit.alert.dmz-1.0a000007"; got != want {
			t.Errorf("received %s, want %s", got, want)
		}
	case <-time.After(patience):
		t.Error("the hit did not reach the subscriber")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	for _, tt := range []struct {
		user, name, subject string
		allowed             bool
	}{
		{"sensor-dmz-1", "dmz-1", "portolan.v1.hit.alert.dmz-1.0a000007", true},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.cover.dmz-1", true},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.stat.dmz-1", true},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.obs.dns.dmz-1.3", true},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.hit.alert.dmz-2.0a000007", false},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.obs.conn.dmz-2.3", false},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.cover.dmz-2", false},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.enriched.alert.dmz-1.0a000007", false},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.endpoint.connect.dmz-1", false},
		{"sensor-dmz-1", "dmz-1", "$JS.API.STREAM.DELETE.PORTOLAN_HITS", false},
		{"sensor-dmz-1", "dmz-1", "$KV.PORTOLAN_WORK.partition.0", false},
		{"worker-work-1", "work-1", "portolan.v1.hit.watch.work-1.0a000007", true},
		{"worker-work-1", "work-1", "$KV.PORTOLAN_WORK.partition.0", true},
		{"worker-work-1", "work-1", "portolan.v1.hit.watch.dmz-1.0a000007", false},
		{"worker-work-1", "work-1", "portolan.v1.obs.conn.dmz-1.3", false},
		{"worker-work-1", "work-1", "$JS.API.STREAM.PURGE.PORTOLAN_OBS", false},
		{"enricher-enrich-1", "enrich-1", "portolan.v1.enriched.alert.dmz-1.0a000007", true},
		{"enricher-enrich-1", "enrich-1", "$JS.ACK.PORTOLAN_HITS.c.1.1.1.1.1", true},
		{"enricher-enrich-1", "enrich-1", "portolan.v1.hit.alert.dmz-1.0a000007", false},
		{"enricher-enrich-1", "enrich-1", "portolan.v1.endpoint.connect.host-a", false},
		{"endpoint-host-a", "host-a", "portolan.v1.endpoint.connect.host-a", true},
		{"endpoint-host-a", "host-a", "portolan.v1.endpoint.connect.host-b", false},
		{"endpoint-host-a", "host-a", "portolan.v1.hit.alert.host-a.0a000007", false},
		{"subscriber-soc", "soc", "portolan.v1.hit.alert.dmz-1.0a000007", false},
		{"subscriber-soc", "soc", "portolan.v1.enriched.alert.dmz-1.0a000007", false},
		{"subscriber-soc", "soc", "$JS.API.STREAM.PURGE.PORTOLAN_HITS", false},
		{"subscriber-soc", "soc", "$JS.API.CONSUMER.CREATE.PORTOLAN_ENDPOINT.x", false},
		{"subscriber-soc", "soc", "_INBOX.dmz-1.x", false},
		{"subscriber-soc", "soc", "$JS.ACK.PORTOLAN_HITS.soc.1.1.1.1.1", true},
		{"subscriber-soc", "soc", "$JS.ACK.PORTOLAN_HITS.enrich-1.1.1.1.1.1", false},
		{"administrator", "admin", "portolan.v1.hit.alert.dmz-1.0a000007", true},
		{"administrator", "admin", "$JS.API.STREAM.INFO.PORTOLAN_HITS", true},
		{"administrator", "admin", "$KV.PORTOLAN_WORK.partition.0", true},
	} {
		if got := mayPublish(t, config(tt.user, tt.name), tt.subject); got != tt.allowed {
			t.Errorf("%s may publish %s: %t, want %t", tt.user, tt.subject, got, tt.allowed)
		}
	}
	for _, tt := range []struct {
		user, name, subject string
		allowed             bool
	}{
		{"sensor-dmz-1", "dmz-1", "_INBOX.dmz-1.>", true},
		{"sensor-dmz-1", "dmz-1", "_INBOX.dmz-2.>", false},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.hit.>", false},
		{"sensor-dmz-1", "dmz-1", "portolan.v1.obs.>", false},
		{"worker-work-1", "work-1", "_INBOX.work-1.>", true},
		{"worker-work-1", "work-1", "portolan.v1.hit.>", false},
		{"enricher-enrich-1", "enrich-1", "portolan.v1.hit.>", true},
		{"enricher-enrich-1", "enrich-1", "portolan.v1.endpoint.>", true},
		{"enricher-enrich-1", "enrich-1", "portolan.v1.obs.>", false},
		{"endpoint-host-a", "host-a", "portolan.v1.endpoint.>", false},
		{"endpoint-host-a", "host-a", "portolan.v1.hit.>", false},
		{"subscriber-soc", "soc", "portolan.v1.hit.>", true},
		{"subscriber-soc", "soc", "portolan.v1.stat.*", true},
		{"subscriber-soc", "soc", "portolan.v1.endpoint.>", false},
		{"subscriber-soc", "soc", "portolan.v1.obs.>", false},
		{"subscriber-soc", "soc", "_INBOX.dmz-1.>", false},
		{"subscriber-soc", "soc", ">", false},
		{"administrator", "admin", ">", true},
	} {
		got := permitted(t, config(tt.user, tt.name), func(c *nats.Conn) error {
			_, err := c.SubscribeSync(tt.subject)
			return err
		})
		if got != tt.allowed {
			t.Errorf("%s may subscribe %s: %t, want %t", tt.user, tt.subject, got, tt.allowed)
		}
	}

	// What a worker needs besides is tried whole: it takes all partitions, with nothing but its role.
	worker, err := fleet.NewWorker(open(t, config("worker-work-1", "work-1")), workerConfig("work-1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- worker.Run(ctx) }()
	for end := time.Now().Add(patience); worker.Stats().Partitions != 16; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the worker has %d of 16 partitions", worker.Stats().Partitions)
		}
	}
	// And an enricher reads hits with a durable consumer.
	enricher := open(t, config("enricher-enrich-1", "enrich-1"))
	if js, err = jetstream.New(enricher.Conn()); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.CreateOrUpdateConsumer(t.Context(), bus.HitsStream, jetstream.ConsumerConfig{
		Durable: "enrich-1", FilterSubject: "portolan.v1.hit.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := consumer.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func mayPublish(t *testing.T, c bus.Config, subject string) bool {
	t.Helper()
	return permitted(t, c, func(c *nats.Conn) error { return c.Publish(subject, nil) })
}

// permitted reports whether the server lets a user do something, on a connection of its own: what
// it says against it comes before the answer to a ping.
func permitted(t *testing.T, c bus.Config, do func(*nats.Conn) error) bool {
	t.Helper()
	c.Reader = true
	b := open(t, c)
	defer b.Close()
	if err := do(b.Conn()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Conn().FlushWithContext(ctx); err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Fatal(err)
	}
	return !errors.Is(b.Conn().LastError(), nats.ErrPermissionViolation)
}

// TestIdentity: neither the right key without a certificate, nor a certificate without the right
// key, nor a server of another authority is accepted.
func TestIdentity(t *testing.T) {
	for _, auth := range []Auth{NKeys, JWT} {
		t.Run(string(auth), func(t *testing.T) {
			dir, _ := testSite(t, auth)
			other, _ := testSite(t, auth)
			url := serve(t, dir)
			good := as(t, dir, url, auth, "administrator", "admin")
			foreign := as(t, other, url, auth, "administrator", "admin")
			open(t, good).Close()

			c := good
			c.Cert, c.Key = "", ""
			refused(t, c, "tls", "no certificate")
			c = good
			c.Cert, c.Key = foreign.Cert, foreign.Key
			refused(t, c, "tls", "a certificate of another authority")
			c = good
			c.CA = foreign.CA
			refused(t, c, "tls: failed to verify certificate", "a server of another authority")
			c = good
			c.CA = ""
			refused(t, c, "tls: failed to verify certificate", "an authority that the system does not know")
			c = good
			c.NKey, c.Creds = foreign.NKey, foreign.Creds
			refused(t, c, "wrong or missing credentials", "a key of another site")
			c = good
			c.NKey, c.Creds = "", ""
			refused(t, c, "wrong or missing credentials", "no key")
		})
	}
}

func refused(t *testing.T, c bus.Config, want, about string) {
	t.Helper()
	b, err := bus.Open(t.Context(), c)
	if err == nil {
		b.Close()
		t.Errorf("%s: let in", about)
		return
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", about, err, want)
	}
}

func TestWrite(t *testing.T) {
	for _, auth := range []Auth{NKeys, JWT} {
		dir, c := testSite(t, auth)
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			secret := strings.Contains(string(b), "PRIVATE KEY") || strings.Contains(string(b), "SEED") || strings.HasSuffix(name, ".nk")
			if want := fs.FileMode(0o600); secret && info.Mode().Perm() != want {
				t.Errorf("%s holds a secret and has mode %v, want %v", name, info.Mode().Perm(), want)
			}
			if readme := filepath.Base(name) == "README.md"; readme && secret {
				t.Errorf("%s holds a secret", name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(dir, "authority", "ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(dir, c); !errors.Is(err, fs.ErrExist) {
			t.Errorf("written twice: %v, want %v", err, fs.ErrExist)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "authority", "ca.key")); string(after) != string(before) {
			t.Error("the key of the authority was overwritten")
		}
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".portolan-*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	dir, c := testSite(t, NKeys)
	read := func(name string) *x509.Certificate {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	roots := x509.NewCertPool()
	roots.AddCert(read("authority/ca.pem"))
	srv, client := read("server/cert.pem"), read("sensor-dmz-1/cert.pem")
	for _, host := range []string{"127.0.0.1", "localhost", "::1"} {
		if _, err := srv.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
			t.Errorf("server as %s: %v", host, err)
		}
	}
	if _, err := srv.Verify(x509.VerifyOptions{DNSName: "hub.example", Roots: roots}); err == nil {
		t.Error("the server's certificate is good for a name that was not given")
	}
	if _, err := client.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a client's certificate is good for a server")
	}
	if _, err := client.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("client: %v", err)
	}
	if client.Subject.CommonName != "dmz-1" || client.IsCA || time.Until(client.NotAfter) > c.CertificateAge {
		t.Errorf("client certificate %v until %v, authority %t", client.Subject, client.NotAfter, client.IsCA)
	}
}

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Site, good.Hosts, good.Sensors = "hq", []string{"hub.example"}, []string{"a"}
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Site = "h.q" }, `site: sensor name "h.q"`},
		{func(c *Config) { c.Sensors = []string{"a b"} }, `sensor: sensor name "a b"`},
		{func(c *Config) { c.Sensors = []string{"a", "a"} }, `sensor "a": the name is taken by another sensor`},
		{func(c *Config) { c.Endpoints = []string{"admin"} }, `endpoint "admin": the name is taken by another administrator`},
		{func(c *Config) { c.Subscribers = []string{"portolan"} }, `subscriber "portolan": every subscriber answers`},
		{func(c *Config) { c.Hosts = nil }, "hosts: want at least one"},
		{func(c *Config) { c.Hosts = []string{"hub:4222"} }, `host "hub:4222"`},
		{func(c *Config) { c.Auth = "password" }, `auth "password": want nkey or jwt`},
		{func(c *Config) { c.Listen = "4222" }, `listen "4222"`},
		{func(c *Config) { c.ServerDir = "a\"b" }, "directory"},
		{func(c *Config) { c.CertificateAge = time.Hour }, "certificate age 1h0m0s"},
	} {
		c := good
		tt.change(&c)
		err := c.Validate()
		if tt.want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

func eventConnection() event.Connection {
	return event.Connection{
		Time: 1_700_000_000_000_000_000, Proto: event.TCP,
		Src: netip.MustParseAddrPort("10.0.0.7:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
	}
}

func workerConfig(name string) fleet.WorkerConfig {
	c := fleet.DefaultWorkerConfig()
	c.Name, c.Timeout = name, patience
	return c
}
