package bus

import (
	"bufio"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portolan/cmd/internal/spool"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/natstest"
)

// soak reports whether there is time for the long forms of the tests.
func soak() bool { return os.Getenv("PORTOLAN_SOAK") == "1" }

// await waits until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: does not happen", what)
		}
	}
}

// A server that is killed, twice, in the middle of a stream of hits.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, "hub", "")
	b := open(t, sensorConfig(t, srv.URL))
	const n = 1500
	done := make(chan struct{})
	go func() {
		defer close(done)
		publishNumbers(t, b, 1, n, time.Millisecond)
	}()
	for _, stored := range []uint64{300, 700} {
		await(t, "hits stored", func() bool { return b.PublishStats().Stored >= stored })
		srv.Kill()
		time.Sleep(200 * time.Millisecond) // hits come while it is away
		srv.Start()
	}
	<-done
	drained(t, b)
	wantNumbers(t, srv.URL, 1, n)
}

// A server that stands still: connected, but silent.
func TestServerPaused(t *testing.T) {
	t.Parallel()
	pause := 3 * time.Second
	if soak() {
		pause = time.Minute
	}
	srv := natstest.Start(t, "hub", "")
	b := open(t, sensorConfig(t, srv.URL))
	publishNumbers(t, b, 1, 100, 0)
	drained(t, b)
	srv.Signal(syscall.SIGSTOP)
	publishNumbers(t, b, 101, 3000, 0) // more than is in flight at once
	time.Sleep(pause)
	if s := b.PublishStats(); s.Lost != 0 || s.Pending != 2900 {
		t.Errorf("stats %+v, want 2900 pending", s)
	}
	srv.Signal(syscall.SIGCONT)
	drained(t, b)
	wantNumbers(t, srv.URL, 1, 3000)
}

// While a stream is missing fresh alerts reach who listens; when it is back they are stored, once, without the mark.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, "hub", `
		accounts { A { jetstream: enabled, users: [
			{ user: admin, password: a }
			{ user: sensor, password: s, permissions: { publish: { deny: ["$JS.API.STREAM.CREATE.>"] } } }
		] } }
		jetstream: { store_dir: "`+t.TempDir()+`" }`)
	url := func(user string) string { return strings.Replace(srv.URL, "://", "://"+user+"@", 1) }
	admin := open(t, func() Config { c := sensorConfig(t, url("admin:a")); c.Name = "admin"; return c }())
	c := sensorConfig(t, url("sensor:s"))
	var log syncBuffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := open(t, c)
	core, live := subscribe(t, admin, Filter{Core: true}), subscribe(t, admin, Filter{})
	publishNumbers(t, b, 1, 10, 0)
	drained(t, b)
	for range 10 {
		if r := receive(t, core); r.meta.Unstored {
			t.Errorf("%s is marked as unstored", r.m.Event.ID)
		}
	}

	deleted := time.Now()
	if err := admin.js.DeleteStream(t.Context(), HitsStream); err != nil {
		t.Fatal(err)
	}
	publishNumbers(t, b, 11, 11, 0)
	await(t, "the sensor knows", func() bool {
		return strings.Contains(log.String(), "stream=PORTOLAN_HITS error=\"missing, and cannot be made: permission denied")
	})
	publishNumbers(t, b, 12, 30, 0)
	unstored := 0
	for range 20 {
		if receive(t, core).meta.Unstored {
			unstored++
		}
	}
	overheard := map[string]bool{}
	for len(overheard) < 10 { // by who reads the stream, too
		if r := receive(t, live); r.meta.Unstored {
			overheard[r.m.Event.ID] = true
		}
	}
	if s := b.PublishStats(); unstored < 10 || s.Unstored < uint64(unstored) || s.Pending != 20 || s.Lost != 0 {
		t.Errorf("%d alerts came marked, stats %+v: want most, 20 pending, none lost", unstored, s)
	}
	if n := strings.Count(log.String(), "stream=PORTOLAN_HITS error="); n != 1 {
		t.Errorf("said %d times that there is no stream, want once:\n%s", n, log.String())
	}
	if err := admin.ensureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	drained(t, b)
	wantNumbers(t, url("admin:a"), 11, 30)
	for stored := 0; stored < 20; { // each of them, also those that were overheard
		if r := receive(t, live); !r.meta.Unstored && r.meta.Time.After(deleted) {
			stored++
		}
	}
	stream, err := admin.js.Stream(t.Context(), HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 20 {
		t.Errorf("%d messages stored, want 20", n)
	}
	for q := uint64(1); q <= stream.CachedInfo().State.LastSeq; q++ {
		if m, err := stream.GetMsg(t.Context(), q); err != nil || m.Header.Get(UnstoredHeader) != "" {
			t.Errorf("message %d is stored with the mark: %v %v", q, m, err)
		}
	}
	if !strings.Contains(log.String(), "takes messages again") {
		t.Errorf("not said that it is over:\n%s", log.String())
	}
}

// An unstored copy that finds a stream after all is not kept: only the real one is.
func TestUnstoredCopyIsNotStored(t *testing.T) {
	b := open(t, testConfig(t))
	m, err := NewMessage(halfSwap(), Context{Sensor: "dmz-1"}).spooled()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.conn.PublishMsg(unstoredMsg(m)); err != nil {
		t.Fatal(err)
	}
	publish(t, b, mulAdd())
	flush(t, b)
	info, err := b.streamInfo(t.Context(), HitsStream)
	if err != nil || info.State.Msgs != 1 {
		t.Errorf("%+v %v, want only the other message", info.State, err)
	}
}

// A sensor that may make streams makes the one that went missing.
func TestStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, "hub", "")
	b := open(t, sensorConfig(t, srv.URL))
	publishNumbers(t, b, 1, 10, 0)
	drained(t, b)
	if err := b.js.DeleteStream(t.Context(), HitsStream); err != nil {
		t.Fatal(err)
	}
	publishNumbers(t, b, 11, 20, 0)
	drained(t, b)
	wantNumbers(t, srv.URL, 11, 20)
}

// A server whose certificate has run out is not trusted: hits wait for a new one.
func TestCertificateExpires(t *testing.T) {
	t.Parallel()
	good := newPKI(t)
	conf := func(p pki) string {
		return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, timeout: 30 }", p.cert, p.key, p.ca)
	}
	srv := natstest.Start(t, "hub", conf(good))
	c := sensorConfig(t, srv.URL)
	c.CA = good.ca
	var log syncBuffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := open(t, c)
	publishNumbers(t, b, 1, 10, 0)
	drained(t, b)

	srv.Kill()
	srv.Configure("hub", conf(good.expired(t)))
	srv.Start()
	publishNumbers(t, b, 11, 30, 0)
	await(t, "said why", func() bool { return strings.Contains(log.String(), "certificate has expired") })
	if s := b.PublishStats(); s.Pending != 20 || s.Lost != 0 {
		t.Errorf("stats %+v, want 20 pending, none lost", s)
	}
	srv.Kill()
	srv.Configure("hub", conf(good))
	srv.Start()
	drained(t, b)
	if n := strings.Count(log.String(), "certificate has expired"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, log.String())
	}
}

// A cluster of three loses the leader of the stream.
func TestClusterLosesLeader(t *testing.T) {
	t.Parallel()
	var nodes []*natstest.Server
	var routes, urls []string
	var ports []int
	for range 3 {
		ports = append(ports, natstest.Port(t))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[len(ports)-1]))
	}
	for i, port := range ports {
		n := natstest.New(t, fmt.Sprintf("node-%d", i), fmt.Sprintf("cluster { name: fleet, listen: 127.0.0.1:%d, routes: [%s] }",
			port, strings.Join(routes, ", ")))
		n.Launch()
		nodes, urls = append(nodes, n), append(urls, n.URL)
	}
	for _, n := range nodes {
		n.Await()
	}
	url := strings.Join(urls, ",")
	nc := dial(t, url)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range Streams(false) {
		cfg.Replicas = 3
		await(t, "cluster makes "+cfg.Name, func() bool {
			_, err := js.CreateStream(t.Context(), cfg)
			return err == nil
		})
	}
	c := sensorConfig(t, url)
	c.Timeout = 2 * time.Second
	b := open(t, c)
	const n = 1500
	done := make(chan struct{})
	go func() {
		defer close(done)
		publishNumbers(t, b, 1, n, time.Millisecond)
	}()
	await(t, "hits stored", func() bool { return b.PublishStats().Stored >= 300 })
	info, err := b.streamInfo(t.Context(), HitsStream)
	if err != nil || info.Cluster == nil {
		t.Fatalf("%+v, %v", info, err)
	}
	for i, node := range nodes {
		if fmt.Sprintf("node-%d", i) == info.Cluster.Leader {
			node.Kill()
		}
	}
	began := time.Now()
	stored := b.PublishStats().Stored
	await(t, "another leader", func() bool { return b.PublishStats().Stored > stored+maxInFlight/8 })
	t.Logf("hits were stored again %v after the leader was killed", time.Since(began).Round(time.Millisecond))
	<-done
	drained(t, b)
	wantNumbers(t, url, 1, n)
}

// A leaf node loses its hub, which has the stream, and gets it back.
func TestLeafLosesHub(t *testing.T) {
	t.Parallel()
	port := natstest.Port(t)
	hub := natstest.Start(t, "hub", fmt.Sprintf("leafnodes { listen: 127.0.0.1:%d }\njetstream { store_dir: %q, domain: hub }",
		port, t.TempDir()))
	leaf := natstest.Start(t, "leaf", fmt.Sprintf("jetstream: disabled\n"+
		"leafnodes { reconnect: 1, remotes: [ { url: \"nats-leaf://127.0.0.1:%d\" } ] }", port))
	c := sensorConfig(t, leaf.URL)
	c.Domain = "hub"
	var b *Bus
	await(t, "the hub's streams at the leaf", func() bool {
		var err error
		b, err = Open(t.Context(), c)
		return err == nil
	})
	t.Cleanup(func() { b.Close() })
	publishNumbers(t, b, 1, 500, 0)
	drained(t, b)
	hub.Kill()
	const n = 3000
	publishNumbers(t, b, 501, n, 0)
	time.Sleep(time.Second)
	if s := b.PublishStats(); s.Pending == 0 || s.Lost != 0 {
		t.Errorf("stats %+v, want some pending and none lost", s)
	}
	hub.Start()
	began := time.Now()
	drained(t, b)
	t.Logf("%d hits caught up %v after the hub was back", n-500, time.Since(began).Round(time.Millisecond))
	wantNumbers(t, hub.URL, 1, n)
}

// The sensor is killed a hundred times at random. What it called accepted arrives, each hit once, and
// each sequence that does not come is named as one that was set aside.
func TestSensorKilled(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, "hub", "")
	state := t.TempDir()
	sensor := func(first string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=sensor", urlVariable+"="+srv.URL, stateVariable+"="+state, firstVariable+"="+first)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	const lives = 100
	accepted := make([]uint64, lives)
	total := uint64(0)
	for life := range lives {
		cmd := sensor(fmt.Sprint(uint64(life) << 32))
		pipe, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		out := bufio.NewReader(pipe)
		read := func() bool {
			line, err := out.ReadString('\n') // the last one may be cut
			if err == nil {
				_, err = fmt.Sscan(line, &accepted[life])
			}
			return err == nil
		}
		if life%4 > 0 { // in the middle of its work; the others may still be starting
			for range 1 + rand.IntN(16) {
				read()
			}
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		cmd.Process.Kill()
		for read() {
		}
		if err := cmd.Wait(); err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("life %d: %v", life, err)
		}
		total += accepted[life]
	}
	out, err := sensor("").Output()
	if err != nil {
		t.Fatal(err)
	}
	var sequence, pending, spoilt, lost uint64
	var text string
	if _, err := fmt.Sscan(string(out), &sequence, &pending, &spoilt, &lost, &text); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	var gaps []spool.Gap
	if err := json.Unmarshal([]byte(text), &gaps); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	unused := map[uint64]bool{}
	for _, g := range gaps {
		if g.Reason == spool.Duplicate {
			continue // sent again after a kill
		}
		for q := g.First; q <= g.Last; q++ {
			unused[q] = true
		}
		if g.Reason != spool.Unused || g.Last-g.First >= sequencesAhead {
			t.Errorf("gap %+v, want one of %d sequences set aside at most", g, sequencesAhead)
		}
	}
	if total == 0 || sequence < total || pending != 0 || spoilt != 0 || lost != 0 {
		t.Errorf("%d accepted; the spool says sequence %d, %d pending, %d spoilt, %d lost", total, sequence, pending, spoilt, lost)
	}
	missing := func(c *collected) (all []uint64) {
		for q := uint64(1); q <= sequence; q++ {
			if !c.sequences[q] && !unused[q] {
				all = append(all, q)
			}
		}
		return all
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.URL, cfg.Reader = "watch", srv.URL, true
	info, err := open(t, cfg).streamInfo(t.Context(), HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	c := collect(t, srv.URL, func(c *collected) bool { return uint64(len(c.ids)) >= info.State.Msgs })
	if all := missing(c); len(all) > 0 {
		t.Errorf("%d of %d sequences neither came nor are named, such as %d", len(all), sequence, all[0])
	}
	if len(c.ids) != len(c.sequences) {
		t.Errorf("%d hits arrived in %d sequences", len(c.ids), len(c.sequences))
	}
	for life, n := range accepted {
		for i := range n {
			id := MessageID(numberedID(uint64(life)<<32+i).String(), 1)
			if c.ids[id] != 1 {
				t.Errorf("hit %d of life %d was accepted and handed on %d times", i, life, c.ids[id])
			}
		}
	}
	t.Logf("%d hits accepted in %d lives, %d stored: those that were accepted but not yet said so count too", total, lives, len(c.ids))
}

// A patient sensor starts although its server is away, keeps what it has from before, and makes
// the streams when the server is there.
func TestStartWithoutServer(t *testing.T) {
	t.Parallel()
	srv := natstest.New(t, "hub", "")
	c := sensorConfig(t, srv.URL)
	c.Patient = true
	var log syncBuffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := open(t, c)
	publishNumbers(t, b, 1, 20, 0)
	await(t, "accepted", func() bool { return b.PublishStats().Accepted == 20 })
	if err := b.Close(); err != nil {
		t.Errorf("Close although all is in the spool: %v", err)
	}
	if n := strings.Count(log.String(), "connection refused"); n != 1 {
		t.Errorf("said %d times that the server is away, want once:\n%s", n, log.String())
	}
	b = open(t, c)
	publishNumbers(t, b, 21, 30, 0)
	await(t, "ten more accepted", func() bool { return b.PublishStats().Accepted == 10 })
	if s := b.PublishStats(); s.Recovered != 20 || s.Pending != 30 || s.Sequence != 30 {
		t.Errorf("stats %+v, want 20 recovered, 30 pending, sequence 30", s)
	}
	srv.Start()
	drained(t, b)
	wantNumbers(t, srv.URL, 1, 30)
}

// A patient sensor waits for its credentials, and for streams that it may not make.
func TestStartWithoutPermission(t *testing.T) {
	t.Parallel()
	conf := func(password string) string {
		return `accounts { A { jetstream: enabled, users: [
			{ user: admin, password: a }
			{ user: sensor, password: ` + password + `, permissions: { publish: { deny: ["$JS.API.STREAM.CREATE.>"] } } }
		] } }
		jetstream: { store_dir: "` + t.TempDir() + `" }`
	}
	srv := natstest.Start(t, "hub", conf("other"))
	url := func(user string) string { return strings.Replace(srv.URL, "://", "://"+user+"@", 1) }
	c := sensorConfig(t, url("sensor:s"))
	var log syncBuffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	wantOpenError(t, c, "wrong or missing credentials")
	c.Patient = true
	b := open(t, c)
	publishNumbers(t, b, 1, 10, 0)
	await(t, "accepted", func() bool { return b.PublishStats().Accepted == 10 })
	srv.Kill()
	srv.Configure("hub", conf("s"))
	srv.Start()
	await(t, "said that there is no stream", func() bool {
		return strings.Contains(log.String(), "stream PORTOLAN_HITS: missing, and cannot be made: permission denied")
	})
	if n := strings.Count(log.String(), "wrong or missing credentials"); n != 1 {
		t.Errorf("said %d times that the credentials are wrong, want once:\n%s", n, log.String())
	}
	admin := sensorConfig(t, url("admin:a"))
	admin.Name = "admin"
	open(t, admin) // makes the streams
	drained(t, b)
	wantNumbers(t, url("admin:a"), 1, 10)
}

// expired returns a certificate of the same authority that has run out.
func (p pki) expired(t *testing.T) pki {
	t.Helper()
	old := p
	old.cert = p.cert + ".expired"
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		return block.Bytes
	}
	ca, err := x509.ParseCertificate(read(p.ca))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(read(p.cert))
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := x509.ParsePKCS8PrivateKey(read(p.caKey))
	if err != nil {
		t.Fatal(err)
	}
	leaf.NotBefore, leaf.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(crand.Reader, leaf, ca, leaf.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return old
}

// Everyone who waits for room learns that there will be none.
func TestPublishWaitEndsWithBus(t *testing.T) {
	srv := natstest.Start(t, "hub", "")
	c := sensorConfig(t, srv.URL)
	c.Spool, c.Queue = 0, 1
	b := open(t, c)
	srv.Kill()
	publishNumbers(t, b, 1, 1, 0)
	var wg sync.WaitGroup
	for n := range uint64(4) {
		wg.Go(func() {
			err := b.PublishWait(t.Context(), NewMessage(numberedHit(n+2), Context{}))
			if !errors.Is(err, errClosed) {
				t.Errorf("PublishWait: %v, want %v", err, errClosed)
			}
		})
	}
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "1 messages not acknowledged") {
		t.Errorf("Close: %v", err)
	}
	wg.Wait()
}

// Several may publish, flush and ask for counts at once.
func TestPublishConcurrently(t *testing.T) {
	b := open(t, testConfig(t))
	var wg sync.WaitGroup
	for k := range uint64(4) {
		wg.Go(func() { publishNumbers(t, b, 1+k*200, (k+1)*200, 0) })
	}
	wg.Wait()
	flush(t, b)
	if s := b.PublishStats(); s.Stored != 800 || s.Lost != 0 || s.Sequence != 800 {
		t.Errorf("stats %+v, want 800 stored", s)
	}
}
