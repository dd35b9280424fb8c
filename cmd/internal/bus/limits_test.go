package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"portolan/cmd/internal/natstest"
)

// Each limit of the server is said once, loses nothing, and when it is gone the hits are stored.
func TestServerLimits(t *testing.T) {
	store := func(t *testing.T) string { return fmt.Sprintf("jetstream: { store_dir: %q }", t.TempDir()) }
	const user = "{ user: sensor, password: s, permissions: { publish: { deny: [%s] } } }"
	account := func(name, users string) string {
		return fmt.Sprintf("%s { jetstream: enabled, users: [ { user: admin, password: a }, %s ] }", name, users)
	}
	good := "accounts { " + account("A", fmt.Sprintf(user, "")) + " }\n"
	for _, tt := range []struct {
		name, conf string
		bare       bool   // conf is without JetStream
		want       string // in the log
	}{
		{"max payload", "max_payload: 2000\n" + good, false, "larger than the server's max_payload"},
		{"JetStream disabled", "jetstream: disabled\naccounts { A { users: [ { user: sensor, password: s } ] } }", true,
			"JetStream is not enabled on the server or for this account"},
		{"another account", "accounts { " + account("A", "") + ", B { users: [ { user: sensor, password: s } ] } }\n", false,
			"JetStream is not enabled on the server or for this account"},
		{"permission", "accounts { " + account("A", fmt.Sprintf(user, `"portolan.v1.hit.>"`)) + " }\n", false,
			"permission to publish denied: hits wait"},
		{"user gone", "accounts { " + account("A", "") + " }\n", false, "wrong or missing credentials"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			js := store(t)
			srv := natstest.Start(t, "hub", good+js)
			url := func(user string) string { return strings.Replace(srv.URL, "://", "://"+user+"@", 1) }
			c := sensorConfig(t, url("sensor:s"))
			var log syncBuffer
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			b := open(t, c)
			publishNumbers(t, b, 1, 5, 0)
			drained(t, b)

			srv.Kill()
			bad := tt.conf
			if !tt.bare {
				bad += js
			}
			srv.Configure("hub", bad)
			srv.Start()
			publishNumbers(t, b, 6, 10, 0)
			await(t, "said "+tt.want, func() bool { return strings.Contains(log.String(), tt.want) })
			if s := b.PublishStats(); s.Pending != 5 || s.Lost != 0 {
				t.Errorf("stats %+v, want 5 pending, none lost", s)
			}
			publishNumbers(t, b, 11, 15, 0)

			srv.Kill()
			srv.Configure("hub", good+js)
			srv.Start()
			drained(t, b)
			wantNumbers(t, url("admin:a"), 1, 15)
			if n := strings.Count(log.String(), tt.want); n != 1 {
				t.Errorf("said %d times, want once:\n%s", n, log.String())
			}
		})
	}
}

// A stream that is full and keeps what it has.
func TestStreamFull(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, "hub", "")
	js, err := jetstream.New(dial(t, srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Streams(false)[0]
	cfg.Discard, cfg.MaxMsgs = jetstream.DiscardNew, 20
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c := sensorConfig(t, srv.URL)
	var log syncBuffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := open(t, c)
	const said = "stream is full and discards new hits"
	publishNumbers(t, b, 1, 50, 0)
	await(t, "said so", func() bool { return strings.Contains(log.String(), said) })
	if s := b.PublishStats(); s.Lost != 0 || s.Stored != 20 || s.Pending != 30 {
		t.Errorf("stats %+v, want 20 stored, 30 pending", s)
	}
	cfg.MaxMsgs = 1000
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	drained(t, b)
	wantNumbers(t, srv.URL, 1, 50)
	if n := strings.Count(log.String(), said); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, log.String())
	}
}

// smallDisk mounts a file system of so many bytes until the test ends.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skipf("mounting a small disk needs CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no byte free on a disk.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// The sensor's disk is full: hits are sent from memory while the server is there, wait there while it is
// not, and reach the disk when that has space again. Sequences go on, also after a kill meanwhile.
func TestSpoolDiskFull(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t, "hub", "")
	c := sensorConfig(t, srv.URL)
	c.StateDir, c.Patient = smallDisk(t, 4<<20), true
	b := open(t, c)
	publishNumbers(t, b, 1, 20, 0)
	drained(t, b)

	empty := fill(t, c.StateDir)
	publishNumbers(t, b, 21, 60, 0)
	drained(t, b) // perhaps before the spool knows
	srv.Kill()
	publishNumbers(t, b, 61, 100, 0)
	await(t, "the spool knows that the disk is full", func() bool { return b.pub.spool.Stats().Failing })
	if s, sp := b.PublishStats(), b.pub.spool.Stats(); s.Pending != 40 || s.Lost != 0 || sp.InMemory != 40 {
		t.Errorf("stats %+v, %+v: want 40 pending in memory", s, sp)
	}
	empty()
	await(t, "the hits reach the disk", func() bool { s := b.pub.spool.Stats(); return s.InMemory == 0 && !s.Failing })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, c)
	if s := b.PublishStats(); s.Recovered != 40 || s.Sequence != 100 {
		t.Errorf("stats %+v, want 40 recovered, sequence 100", s)
	}
	srv.Start()
	drained(t, b)
	wantNumbers(t, srv.URL, 1, 100)
}

// The server's disk is full: hits wait until there is space.
func TestServerDiskFull(t *testing.T) {
	t.Parallel()
	store := smallDisk(t, 6<<20)
	conf := fmt.Sprintf("jetstream { store_dir: %q, max_file_store: 8GB }", store)
	srv := natstest.Start(t, "hub", conf)
	c := sensorConfig(t, srv.URL)
	b := open(t, c)
	publishNumbers(t, b, 1, 100, 0)
	drained(t, b)
	fill(t, store)
	const n = 1000
	publishNumbers(t, b, 101, n, 0)
	await(t, "the server refuses", b.pub.stuck)
	if s := b.PublishStats(); s.Lost != 0 || s.Pending == 0 {
		t.Errorf("stats %+v, want some pending and none lost", s)
	}
	srv.Kill()
	if err := unix.Mount("tmpfs", store, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	drained(t, b)
	wantNumbers(t, srv.URL, 1, n)
}

// A million hits of one client and hypothesis become a few, and summaries that add up.
func TestFlood(t *testing.T) {
	c := testConfig(t)
	c.Limit.Every = time.Second
	b := open(t, c)
	live := subscribe(t, b, Filter{})
	const n = 1_000_000
	first := NewMessage(halfSwap(), Context{Sensor: "dmz-1"})
	for i := range uint64(n) {
		m := *first
		m.Portolan.HitID = numberedID(i).String()
		m.Event.ID = MessageID(m.Portolan.HitID, 1)
		m.Timestamp = m.Timestamp.Add(time.Duration(i) * time.Microsecond)
		if err := b.Publish(&m); err != nil {
			t.Fatal(err)
		}
	}
	other := NewMessage(mulAdd(), Context{Sensor: "dmz-1"}) // passes all the same
	if err := b.Publish(other); err != nil {
		t.Fatal(err)
	}
	b.pub.summarize(time.Time{})
	flush(t, b)
	s := b.PublishStats()
	if s.Lost != 0 || s.Suppressed == 0 || s.Stored > 1000 {
		t.Errorf("stats %+v, want few stored, none lost", s)
	}
	schema := schema(t)
	hits, told, seen := uint64(0), uint64(0), false
	for range s.Stored {
		m := receive(t, live).m
		seen = seen || m.Event.ID == other.Event.ID
		x := m.Portolan.Suppressed
		if x == nil {
			hits++
			continue
		}
		told += x.Count
		if len(x.Examples) == 0 || len(x.Examples) > maxExamples || x.Until.Before(x.Since) || x.Since.Before(start.UTC()) {
			t.Errorf("summary %+v", x)
		}
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema, raw); err != nil {
			t.Error(err)
		}
		if !strings.Contains(m.Message, "not published one by one") {
			t.Errorf("message %q", m.Message)
		}
	}
	if told != s.Suppressed || hits+told != n+1 || !seen {
		t.Errorf("%d hits came, summaries tell of %d, suppressed %d, of %d; the other one came: %t", hits, told, s.Suppressed, n+1, seen)
	}
}

// The limit is for each client, hypothesis and level; revisions of what was published pass, and time gives new tokens.
func TestLimit(t *testing.T) {
	l := newLimiter(Limit{Burst: 2, PerMinute: 60, Every: time.Minute})
	now := start.UTC()
	ask := func(id byte, revision uint32, change func(m *Message)) bool {
		h := halfSwap()
		h.ID, h.Revision = testID(id), revision
		m := NewMessage(h, Context{Sensor: "dmz-1"})
		if change != nil {
			change(m)
		}
		return l.allow(m, now)
	}
	for i, want := range []bool{true, true, false, false} {
		if got := ask(byte(i), 1, nil); got != want {
			t.Errorf("hit %d: %t, want %t", i, got, want)
		}
	}
	if !ask(0, 2, nil) || !ask(1, 2, nil) {
		t.Error("a revision of a published hit does not pass")
	}
	if ask(2, 2, nil) {
		t.Error("a revision of a hit that was not published passes")
	}
	for name, change := range map[string]func(m *Message){
		"another client":     func(m *Message) { m.Source.IP = addr("10.0.0.8") },
		"another zone":       func(m *Message) { m.Portolan.Zone.ID++ },
		"another hypothesis": func(m *Message) { m.Portolan.Calc.Hypothesis = "A6" },
		"another level":      func(m *Message) { m.Portolan.Level = "lead" },
	} {
		if !ask(9, 1, change) {
			t.Errorf("%s is limited too", name)
		}
	}
	if len(l.due(now.Add(59*time.Second))) != 0 {
		t.Error("a summary before its time")
	}
	got := l.due(now.Add(time.Minute))
	if len(got) != 1 || got[0].Portolan.Suppressed.Count != 3 || len(got[0].Portolan.Suppressed.Examples) != 3 ||
		got[0].Portolan.HitID == testID(2).String() {
		t.Errorf("summaries %+v, want one of 3 with an id of its own", got)
	}
	now = now.Add(3 * time.Minute)
	if !ask(7, 1, nil) {
		t.Error("no new token after three minutes")
	}
	l.due(now.Add(time.Hour))
	if len(l.buckets) != 0 {
		t.Errorf("%d buckets are kept for clients that are quiet", len(l.buckets))
	}
}
