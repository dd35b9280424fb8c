package site

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/natstest"
	"portolan/correlate"
)

// seed makes a key, puts its public half into an environment variable, and returns the seed's file.
func seed(t *testing.T, variable string) (file string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, s, err := halves(pair)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(variable, public)
	file = filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, s, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// deployed starts a server with a configuration in deploy/nats; the variables in it come from env.
func deployed(t *testing.T, conf string, env map[string]string) *server.Server {
	t.Helper()
	for k, v := range env {
		t.Setenv("PORTOLAN_"+k, v)
	}
	o, err := server.ProcessConfigFile(filepath.Join("..", "..", "..", "..", "deploy", "nats", conf))
	if err != nil {
		t.Fatal(err)
	}
	o.NoLog, o.NoSigs = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stop(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatalf("%s: the server does not start", conf)
	}
	return s
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// freePorts returns addresses of the loopback interface on which nobody else will listen.
func freePorts(t *testing.T, n int) (list []string) {
	t.Helper()
	for range n {
		list = append(list, fmt.Sprintf("127.0.0.1:%d", natstest.Port(t)))
	}
	return list
}

func connect(t *testing.T, url, name, seed string) *bus.Bus {
	t.Helper()
	c := bus.DefaultConfig()
	c.Name, c.URL, c.NKey, c.Timeout, c.Spool = name, url, seed, 5*time.Second, 0
	c.Reader = name == "admin" || name == bus.DefaultConfig().Name
	return open(t, c)
}

func makeStreams(t *testing.T, b *bus.Bus, o StreamOptions) {
	t.Helper()
	o.Timeout = patience
	made, err := MakeStreams(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{bus.HitsStream, bus.OpsStream, bus.EndpointStream, bus.ObservationsStream, "PORTOLAN_WORK"}; !slices.Equal(made, want) {
		t.Errorf("made %v, want %v", made, want)
	}
	if made, err = MakeStreams(t.Context(), b, o); err != nil || len(made) != 0 {
		t.Errorf("made again: %v, %v", made, err)
	}
}

// numbered returns a hit whose id holds n.
func numbered(n int) *correlate.Hit {
	h := hit()
	h.ID = correlate.ID{byte(n >> 8), byte(n)}
	return h
}

// publish publishes hits numbered from..to-1 and waits until they are stored.
func publish(t *testing.T, b *bus.Bus, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := b.PublishWait(t.Context(), bus.NewMessage(numbered(n), bus.Context{Sensor: "dmz-1"})); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // in which a cluster has found a new leader, and the bus tried again
	defer cancel()
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// ids returns the ids in the stream of hits, in order.
func ids(t *testing.T, b *bus.Bus, until int) (list []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	err := b.Subscribe(ctx, bus.Filter{All: true}, func(m *bus.Message, _ bus.Meta) {
		if list = append(list, m.Portolan.HitID); len(list) == until {
			cancel()
		}
	})
	if err != nil {
		t.Error(err)
	}
	return list
}

func wantIDs(t *testing.T, got []string, n int) {
	t.Helper()
	var want []string
	for i := range n {
		want = append(want, numbered(i).ID.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d hits in the stream, want %d, each once and in order\n%v", len(got), n, got)
	}
}

// TestLeaf: a site's hits reach the hub through a leaf node, also those from when the hub was away,
// each once; and the site's key opens nothing else at the hub.
func TestLeaf(t *testing.T) {
	if testing.Short() {
		t.Skip("the server takes its time to ask a site again")
	}
	ports := freePorts(t, 2)
	site := seed(t, "PORTOLAN_SITE_NKEY")
	watch := seed(t, "PORTOLAN_WATCH_NKEY")
	hubAdmin := seed(t, "PORTOLAN_ADMIN_NKEY")
	hubEnv := map[string]string{
		"SERVER_NAME": "hub", "LISTEN": ports[0], "LEAF_LISTEN": ports[1], "STORE": t.TempDir(), "ADMIN_NKEY": os.Getenv("PORTOLAN_ADMIN_NKEY"),
	}
	hub := deployed(t, "hub.conf", hubEnv)
	makeStreams(t, connect(t, hub.ClientURL(), "admin", hubAdmin), StreamOptions{Replicas: 1, Leaves: []string{"branch"}})

	siteAdmin, sensor := seed(t, "PORTOLAN_ADMIN_NKEY"), seed(t, "PORTOLAN_DMZ_1_NKEY")
	secret, err := os.ReadFile(site)
	if err != nil {
		t.Fatal(err)
	}
	leaf := deployed(t, "leaf.conf", map[string]string{
		"SITE": "branch", "LISTEN": "127.0.0.1:-1", "STORE": t.TempDir(), "HUB": "nats-leaf://" + ports[1], "SITE_SEED": string(secret),
	})
	makeStreams(t, connect(t, leaf.ClientURL(), "admin", siteAdmin), StreamOptions{Replicas: 1})
	dmz := connect(t, leaf.ClientURL(), "dmz-1", sensor)

	publish(t, dmz, 0, 20)
	wantIDs(t, ids(t, connect(t, hub.ClientURL(), bus.DefaultConfig().Name, watch), 20), 20)
	stop(hub)
	publish(t, dmz, 20, 60) // the sensor does not notice
	hub = deployed(t, "hub.conf", hubEnv)
	publish(t, dmz, 60, 70)
	wantIDs(t, ids(t, connect(t, hub.ClientURL(), bus.DefaultConfig().Name, watch), 70), 70)

	c := bus.DefaultConfig()
	c.Name, c.URL, c.NKey, c.Timeout = "branch", hub.ClientURL(), site, patience
	for subject, allowed := range map[string]bool{
		"portolan.v1.hit.alert.dmz-1.0a000007": false,
		"$JS.API.STREAM.PURGE.PORTOLAN_HITS":   false,
		"$JS.hub.API.STREAM.INFO.X":            false,
		"$KV.PORTOLAN_WORK.partition.0":        false,
		"$JS.S.deliver":                        true,
	} {
		if got := mayPublish(t, c, subject); got != allowed {
			t.Errorf("a site may publish %s at the hub: %t, want %t", subject, got, allowed)
		}
	}
}

// TestCluster: three servers with three copies; the one that leads the stream is lost, and
// hits go on being stored, each once.
func TestCluster(t *testing.T) {
	ports := freePorts(t, 6)
	admin, sensor := seed(t, "PORTOLAN_ADMIN_NKEY"), seed(t, "PORTOLAN_DMZ_1_NKEY")
	var servers []*server.Server
	var urls []string
	for i := range 3 {
		servers = append(servers, nil)
		urls = append(urls, "nats://"+ports[i])
		t.Setenv(fmt.Sprintf("PORTOLAN_ROUTE_%d", i+1), "nats-route://"+ports[3+i])
	}
	for i := range servers {
		env := map[string]string{"SERVER_NAME": fmt.Sprintf("n%d", i+1), "LISTEN": ports[i], "CLUSTER_LISTEN": ports[3+i], "STORE": t.TempDir()}
		for k, v := range env {
			t.Setenv("PORTOLAN_"+k, v)
		}
		o, err := server.ProcessConfigFile(filepath.Join("..", "..", "..", "..", "deploy", "nats", "cluster.conf"))
		if err != nil {
			t.Fatal(err)
		}
		o.NoLog, o.NoSigs = true, true
		if servers[i], err = server.NewServer(o); err != nil {
			t.Fatal(err)
		}
		servers[i].Start()
		t.Cleanup(func() { stop(servers[i]) })
	}
	for i, s := range servers {
		if !s.ReadyForConnections(patience) {
			t.Fatalf("server %d does not start", i+1)
		}
	}
	for end := time.Now().Add(patience); !slices.ContainsFunc(servers, (*server.Server).JetStreamIsLeader); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the cluster has no leader")
		}
	}
	all := strings.Join(urls, ",")
	op := connect(t, all, "admin", admin)
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		// A cluster that has just begun may not know all of its servers yet.
		_, err := MakeStreams(t.Context(), op, StreamOptions{Replicas: 3, Timeout: patience})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	dmz := connect(t, all, "dmz-1", sensor)
	publish(t, dmz, 0, 20)
	js, err := jetstream.New(op.Conn())
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), bus.HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	info := s.CachedInfo()
	if info.Config.Replicas != 3 || info.Cluster == nil {
		t.Fatalf("%d copies of the stream, want 3", info.Config.Replicas)
	}
	at := slices.IndexFunc(servers, func(s *server.Server) bool { return s.Name() == info.Cluster.Leader })
	if at < 0 {
		t.Fatalf("no server is the leader %q", info.Cluster.Leader)
	}
	stop(servers[at])
	publish(t, dmz, 20, 60)
	wantIDs(t, ids(t, op, 60), 60)
}
