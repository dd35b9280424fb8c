package bus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// deployed starts a server with the configuration in deploy/nats and returns its URL and the
// seed files of the users.
func deployed(t *testing.T) (url string, seeds map[string]string) {
	t.Helper()
	seeds = make(map[string]string)
	for _, user := range []string{"ADMIN", "DMZ_1", "WATCH", "ENRICH_1", "HOST_A"} {
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
		t.Setenv("PORTOLAN_"+user+"_NKEY", public)
		seeds[user] = filepath.Join(t.TempDir(), "seed")
		if err := os.WriteFile(seeds[user], seed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PORTOLAN_SERVER_NAME", "hub")
	t.Setenv("PORTOLAN_LISTEN", "127.0.0.1:-1")
	t.Setenv("PORTOLAN_STORE", t.TempDir())
	o, err := server.ProcessConfigFile("../../../deploy/nats/portolan.conf")
	if err != nil {
		t.Fatal(err)
	}
	o.NoLog, o.NoSigs = true, true
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
	return srv.ClientURL(), seeds
}

// as returns the configuration of a user.
func as(t *testing.T, url, name, seed string) Config {
	c := testConfig(t)
	c.Name, c.URL, c.NKey = name, url, seed
	return c
}

func TestDeployedPermissions(t *testing.T) {
	url, seeds := deployed(t)
	c := as(t, url, "dmz-1", seeds["DMZ_1"])
	wantOpenError(t, c, "stream PORTOLAN_HITS: missing, and cannot be made: permission denied: publish $JS.API.STREAM.CREATE")

	open(t, as(t, url, "admin", seeds["ADMIN"])) // makes the streams

	sensor := open(t, c)
	reader := as(t, url, DefaultConfig().Name, seeds["WATCH"])
	reader.Reader = true
	watch := open(t, reader)
	live, core := subscribe(t, watch, Filter{}), subscribe(t, watch, Filter{Core: true})
	alerts := subscribe(t, watch, Filter{Levels: []string{"alert"}, Sensor: "dmz-1", Client: addr("10.0.0.7")})

	m := publish(t, sensor, halfSwap())
	for _, ch := range []<-chan received{live, core, alerts} {
		if got := receive(t, ch); got.m.Portolan.HitID != m.Portolan.HitID {
			t.Errorf("received %s, want %s", got.m.Portolan.HitID, m.Portolan.HitID)
		}
	}
	if err := sensor.PublishCoverage(&CoverageRecord{Schema: CoverSchema, Sensor: "dmz-1", Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	flush(t, sensor)
	if s := sensor.PublishStats(); s.Stored != 2 {
		t.Errorf("stats %+v, want 2 stored", s)
	}

	for _, tt := range []struct {
		user, subject string
		allowed       bool
	}{
		{"DMZ_1", "portolan.v1.hit.alert.dmz-1.0a000007", true},
		{"DMZ_1", "portolan.v1.stat.dmz-1", true},
		{"DMZ_1", "portolan.v1.hit.alert.dmz-2.0a000007", false},
		{"DMZ_1", "portolan.v1.cover.dmz-2", false},
		{"DMZ_1", "portolan.v1.stat.dmz-2", false},
		{"DMZ_1", "portolan.v1.enriched.alert.dmz-1.0a000007", false},
		{"DMZ_1", "$JS.API.STREAM.DELETE.PORTOLAN_HITS", false},
		{"DMZ_1", "$JS.API.STREAM.PURGE.PORTOLAN_HITS", false},
		{"WATCH", "portolan.v1.hit.alert.dmz-1.0a000007", false},
		{"WATCH", "portolan.v1.cover.dmz-1", false},
		{"WATCH", "portolan.v1.stat.dmz-1", false},
		{"WATCH", "$JS.API.STREAM.DELETE.PORTOLAN_HITS", false},
		{"WATCH", "_INBOX.dmz-1.x", false},
		{"WATCH", "portolan.v1.endpoint.connect.host-a", false},
		{"DMZ_1", "portolan.v1.endpoint.connect.host-a", false},
		{"HOST_A", "portolan.v1.endpoint.connect.host-a", true},
		{"HOST_A", "portolan.v1.endpoint.host.host-a", true},
		{"HOST_A", "portolan.v1.endpoint.connect.host-b", false},
		{"HOST_A", "portolan.v1.endpoint.host.host-b", false},
		{"HOST_A", "portolan.v1.endpoint.connect.host-a.x", false},
		{"HOST_A", "portolan.v1.hit.alert.dmz-1.0a000007", false},
		{"HOST_A", "portolan.v1.enriched.alert.dmz-1.0a000007", false},
		{"HOST_A", "$JS.API.CONSUMER.CREATE.PORTOLAN_ENDPOINT.x", false},
		{"ENRICH_1", "portolan.v1.enriched.alert.dmz-1.0a000007", true},
		{"ENRICH_1", "portolan.v1.hit.alert.dmz-1.0a000007", false},
		{"ENRICH_1", "portolan.v1.endpoint.connect.host-a", false},
		{"ENRICH_1", "$JS.ACK.PORTOLAN_ENDPOINT.enrich-2.x", false},
	} {
		if got := mayPublish(t, url, seeds[tt.user], tt.subject); got != tt.allowed {
			t.Errorf("%s may publish %s: %t, want %t", tt.user, tt.subject, got, tt.allowed)
		}
	}
	for _, tt := range []struct {
		user, subject string
		allowed       bool
	}{
		{"DMZ_1", "_INBOX.dmz-1.>", true},
		{"DMZ_1", "portolan.v1.hit.>", false},
		{"DMZ_1", "_INBOX.>", false},
		{"WATCH", "portolan.v1.hit.>", true},
		{"WATCH", "portolan.v1.stat.*", true},
		{"WATCH", "_INBOX.dmz-1.>", false},
		{"WATCH", "_INBOX.portolan.>", true},
		{"WATCH", ">", false},
		{"WATCH", "$JS.>", false},
	} {
		if got := maySubscribe(t, url, seeds[tt.user], tt.subject); got != tt.allowed {
			t.Errorf("%s may subscribe %s: %t, want %t", tt.user, tt.subject, got, tt.allowed)
		}
	}
}

// A sensor that takes another's name is told so, and its messages wait until it may.
func TestDeployedImpostor(t *testing.T) {
	url, seeds := deployed(t)
	open(t, as(t, url, "admin", seeds["ADMIN"]))
	c := as(t, url, "dmz-1", seeds["DMZ_1"])
	c.Timeout = 2 * time.Second // in which no acknowledgement will come
	b := open(t, c)
	if err := b.Publish(NewMessage(halfSwap(), Context{Sensor: "dmz-2"})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*c.Timeout)
	defer cancel()
	if err := b.Flush(ctx); err == nil || !strings.Contains(err.Error(), "permission denied: publish portolan.v1.hit.alert.dmz-2.") {
		t.Errorf("Flush: %v", err)
	}
	if s := b.PublishStats(); s.Lost != 0 || s.Stored != 0 || s.Pending != 1 {
		t.Errorf("stats %+v, want 1 pending", s)
	}

	if err := b.Close(); err != nil {
		t.Error(err)
	}

	// With another's inbox it gets no answers, and learns why.
	c.Name = "dmz-2"
	wantOpenError(t, c, "permission denied: subscribe _INBOX.dmz-2.")
}

// A subscriber that may not read the stream takes what passes, but nothing from the past.
func TestDeployedWithoutStream(t *testing.T) {
	url, seeds := deployed(t)
	c := as(t, url, "dmz-1", seeds["DMZ_1"])
	c.Reader, c.Timeout = true, 5*time.Second
	b := open(t, c)
	err := b.Subscribe(t.Context(), Filter{All: true}, nil)
	if d := (*DeniedError)(nil); !errors.As(err, &d) || !strings.HasPrefix(d.Subject, "$JS.API.CONSUMER.CREATE.") {
		t.Errorf("a sensor that reads the stream: %v", err)
	}
	err = b.Subscribe(t.Context(), Filter{Core: true}, nil)
	if d := (*DeniedError)(nil); !errors.As(err, &d) || d.Operation != "subscribe" {
		t.Errorf("a sensor that subscribes to hits: %v", err)
	}
}

func mayPublish(t *testing.T, url, seed, subject string) bool {
	t.Helper()
	return permitted(t, url, seed, func(c *nats.Conn) error { return c.Publish(subject, nil) })
}

func maySubscribe(t *testing.T, url, seed, subject string) bool {
	t.Helper()
	return permitted(t, url, seed, func(c *nats.Conn) error {
		_, err := c.SubscribeSync(subject)
		return err
	})
}

// permitted reports whether the server lets a user do something, on a connection of its own:
// what it says against it comes before the answer to a ping.
func permitted(t *testing.T, url, seed string, do func(*nats.Conn) error) bool {
	t.Helper()
	option, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	c, err := nats.Connect(url, option, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := do(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.FlushWithContext(ctx); err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Fatal(err)
	}
	return !errors.Is(c.LastError(), nats.ErrPermissionViolation)
}
