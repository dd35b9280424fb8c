package enrich

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/natstest"
	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// patience is how long a test waits for what has to come.
const patience = time.Minute

// enricherVariable makes the test binary an enricher of that name, at the server in the second variable.
const (
	enricherVariable = "PORTOLAN_TEST_ENRICHER"
	serverVariable   = "PORTOLAN_TEST_ENRICHER_NATS"
)

func TestMain(m *testing.M) {
	natstest.Main()
	if name := os.Getenv(enricherVariable); name != "" {
		if err := beEnricher(name, os.Getenv(serverVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beEnricher works until standard input ends.
func beEnricher(name, url string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	b, err := bus.Open(ctx, busConfig(name, url))
	if err != nil {
		return err
	}
	e, err := New(b, testConfig(name))
	if err != nil {
		return err
	}
	err = e.Run(ctx)
	return errors.Join(err, b.Close())
}

func busConfig(name, url string) bus.Config {
	c := bus.DefaultConfig()
	c.Name, c.URL, c.Spool, c.Limit, c.Timeout = name, url, 0, bus.Limit{}, patience
	return c
}

func testConfig(name string) Config {
	c := DefaultConfig()
	c.Name, c.Timeout = name, patience
	c.Join.Wait, c.Join.Settle = 2*time.Second, 200*time.Millisecond
	c.Join.RecordBytes, c.Join.HitBytes, c.Join.HostBytes = 16<<20, 16<<20, 16<<20
	return c
}

// open opens a bus that the test closes.
func open(t testing.TB, name, url string) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), busConfig(name, url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// start runs an enricher until the test ends, or stop is called.
func start(t testing.TB, name, url string) (e *Enricher, stop func()) {
	t.Helper()
	c := testConfig(name)
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	b := open(t, name, url)
	e, err := New(b, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return e, stop
}

// world is a fleet of hosts, the hits of their connections, and what their endpoints say.
type world struct {
	t    testing.TB
	b    *bus.Bus
	base time.Time
}

func hostName(n int) string { return fmt.Sprint("host-", n) }

func hostAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }

func (w *world) hit(n int) *correlate.Hit {
	at := event.TimeOf(w.base.Add(time.Duration(n) * time.Millisecond))
	return &correlate.Hit{
		ID: correlate.ID{byte(n >> 8), byte(n), 7}, Revision: 1, Level: correlate.Alert, Client: hostAddr(n),
		Connection: event.Connection{
			Time: at, Proto: event.TCP, Src: netip.AddrPortFrom(hostAddr(n), 40000), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
		},
		Lookup: correlate.Source{
			Time: at.Add(-time.Millisecond), Lag: time.Millisecond, Name: "cdn.example", Answer: netip.MustParseAddr("198.51.100.23"), Via: "a",
			TTL: 60, Server: netip.MustParseAddrPort("10.0.0.53:53"),
		},
		Calc: correlate.Calc{
			Kind: correlate.Port, EValue: 2000,
			Match: correlate.Match{Hypothesis: "P1", Name: "mul-add", Expression: "198·51+100 = 10198", Operand: netip.MustParseAddr("198.51.100.23"), EValue: 2000},
		},
	}
}

func (w *world) publishHit(h *correlate.Hit) {
	w.t.Helper()
	if err := w.b.PublishWait(w.t.Context(), bus.NewMessage(h, bus.Context{Sensor: "dmz-1", Attributed: true})); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) publish(list ...*attribute.Record) {
	w.t.Helper()
	for _, r := range list {
		if err := w.b.PublishEndpointWait(w.t.Context(), r); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) flush() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := w.b.Flush(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) says(n int) *attribute.Record {
	return &attribute.Record{
		ID: fmt.Sprint("h", n), Kind: attribute.Host, HostID: hostName(n), Host: hostName(n) + ".example.net", Source: "ebpf",
		Time:  event.TimeOf(w.base),
		About: &attribute.HostFacts{Addresses: []netip.Addr{hostAddr(n)}, Interval: int64(10 * time.Minute)},
	}
}

func (w *world) connects(n int, local netip.AddrPort, pid uint32) *attribute.Record {
	x := w.hit(n).Connection
	return &attribute.Record{
		ID: fmt.Sprint("c", n, "-", pid), Kind: attribute.Connect, HostID: hostName(n), Host: hostName(n) + ".example.net", Source: "ebpf",
		Time: x.Time.Add(time.Millisecond), Proto: event.TCP, Local: local, Remote: x.Dst, Result: attribute.Connected,
		Process: attribute.Process{
			PID: pid, Start: x.Time.Add(-time.Hour), Name: "updater", Executable: "/opt/tool/updater", SHA256: strings.Repeat("ab", 32),
			Args: []string{"updater", "--quiet"}, UID: 1000, HasUID: true, User: "build",
			Parent: attribute.Parent{PID: 7, Name: "sh", Executable: "/bin/dash"}, ContainerID: strings.Repeat("cd", 32), Container: "builder",
		},
	}
}

// revisions follows the hits that are published; await waits until one has what is wanted.
type revisions struct {
	t  testing.TB
	ch chan *bus.Message
}

func follow(t testing.TB, b *bus.Bus) *revisions {
	t.Helper()
	r := &revisions{t, make(chan *bus.Message, 4096)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.Subscribe(ctx, bus.Filter{All: true}, func(m *bus.Message, _ bus.Meta) {
			select {
			case r.ch <- m:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *revisions) await(want string, ok func(*bus.Message) bool) *bus.Message {
	r.t.Helper()
	end := time.After(patience)
	var last *bus.Message
	for {
		select {
		case last = <-r.ch:
			if ok(last) {
				return last
			}
		case <-end:
			r.t.Fatalf("no revision %s; the last is %+v", want, last)
		}
	}
}

func (r *revisions) status(id correlate.ID, status attribute.Status, sensor uint32) *bus.Message {
	r.t.Helper()
	return r.await(fmt.Sprintf("of hit %s that is %s", id, status), func(m *bus.Message) bool {
		s, step := bus.SplitRevision(m.Portolan.Revision)
		return m.Portolan.HitID == id.String() && m.Portolan.Attribution.Status == string(status) && s == sensor && step > 0
	})
}

// TestEnrich: a hit gets the process that its host's record names, keeps it when the sensor revises or takes it back, and
// one whose record comes late, before or after a restart, gets it all the same.
func TestEnrich(t *testing.T) {
	url := natstest.Start(t, "hub", "").URL
	w := &world{t, open(t, "dmz-1", url), time.Now().Add(-time.Minute)}
	seen := follow(t, open(t, "watch", url))
	_, stop := start(t, "enrich-1", url)

	w.publish(w.says(1), w.says(2), w.says(3))
	w.publish(w.connects(1, netip.AddrPortFrom(hostAddr(1), 40000), 4242))
	w.publishHit(w.hit(1))
	m := seen.status(w.hit(1).ID, attribute.Matched, 1)
	a := m.Portolan.Attribution
	if a.Method != "exact" || a.Process == nil || a.Process.PID != 4242 || a.Process.Container != "builder" || a.Endpoint.ID != "host-1" || a.SkewNS == nil ||
		m.Process.Hash.SHA256 != strings.Repeat("ab", 32) || m.User.ID != "1000" || m.Process.Parent.Name != "sh" || m.Host.Name != "host-1.example.net" {
		t.Errorf("attribution %+v, process %+v", a, m.Process)
	}
	if m.Portolan.State != "enriched" || !strings.HasPrefix(m.Subject(), "portolan.v1.enriched.alert.dmz-1.") {
		t.Errorf("state %s under %s", m.Portolan.State, m.Subject())
	}

	// Two processes race, by records without a source port.
	w.publish(w.connects(2, netip.AddrPort{}, 8), w.connects(2, netip.AddrPort{}, 9))
	w.publishHit(w.hit(2))
	a = seen.status(w.hit(2).ID, attribute.Ambiguous, 1).Portolan.Attribution
	if a.Method != "dst-tuple" || len(a.Candidates) != 2 || a.Process != nil {
		t.Errorf("of two that race: %+v", a)
	}

	// Nobody knows, until the record comes.
	w.publishHit(w.hit(3))
	seen.status(w.hit(3).ID, attribute.Unmatched, 1)
	w.publish(w.connects(3, netip.AddrPortFrom(hostAddr(3), 40000), 33))
	seen.status(w.hit(3).ID, attribute.Matched, 1)

	// The sensor takes a hit back: what was found stays with it.
	back := w.hit(1)
	back.Revision, back.State = 2, correlate.Retracted
	w.publishHit(back)
	m = seen.status(back.ID, attribute.Matched, 2)
	if m.Portolan.State != "retracted" || m.Portolan.Attribution.Process.PID != 4242 || m.Process.PID != 4242 {
		t.Errorf("taken back: %+v", m.Portolan.Attribution)
	}

	// While nobody enriches, a record comes for a hit that was seen, and a hit for a record that was.
	w.publish(w.says(4), w.says(5), w.connects(5, netip.AddrPortFrom(hostAddr(5), 40000), 55))
	w.publishHit(w.hit(4))
	seen.status(w.hit(4).ID, attribute.Unmatched, 1)
	w.flush()
	stop()
	w.publish(w.connects(4, netip.AddrPortFrom(hostAddr(4), 40000), 44))
	w.publishHit(w.hit(5))
	w.flush()
	e, _ := start(t, "enrich-1", url)
	for range 2 {
		m := seen.await("that is matched", func(m *bus.Message) bool { return m.Portolan.Attribution.Status == "matched" })
		want := map[string]uint32{w.hit(4).ID.String(): 44, w.hit(5).ID.String(): 55}[m.Portolan.HitID]
		if m.Portolan.Attribution.Process.PID != want {
			t.Errorf("hit %s: process %d, want %d", m.Portolan.HitID, m.Portolan.Attribution.Process.PID, want)
		}
	}
	var c bus.EnrichCounts
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c = e.Counts(); c.Revised["kept"]+c.Revised["matched"] >= 2 { // counted after it is handed over
			break
		}
	}
	if c.Revised["kept"]+c.Revised["matched"] != 2 {
		t.Errorf("after a restart it publishes %v, want two that are new", c.Revised)
	}
}

// TestHostile: what speaks for another host, tells of the future, or is no record, is refused with a reason
// and counted; a foreign host that knows the five-tuple changes nothing.
func TestHostile(t *testing.T) {
	url := natstest.Start(t, "hub", "").URL
	w := &world{t, open(t, "dmz-1", url), time.Now().Add(-time.Minute)}
	seen := follow(t, open(t, "watch", url))
	e, _ := start(t, "enrich-1", url)
	js, err := w.b.NewJetStream()
	if err != nil {
		t.Fatal(err)
	}
	put := func(subject string, data []byte) {
		t.Helper()
		if _, err := js.Publish(t.Context(), subject, data); err != nil {
			t.Fatal(err)
		}
	}
	encode := func(r *attribute.Record) []byte {
		t.Helper()
		b, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	victim := w.connects(1, netip.AddrPortFrom(hostAddr(1), 40000), 666)
	put(bus.EndpointSubject(attribute.Connect, "liar"), encode(victim))              // in another's name
	put(bus.EndpointSubject(attribute.Lookup, victim.HostID), encode(victim))        // as another kind
	put(bus.EndpointSubject(attribute.Connect, victim.HostID), []byte("{}"))         // nothing
	put(bus.EndpointSubject(attribute.Connect, victim.HostID), make([]byte, 60<<10)) // huge
	put(bus.EndpointSubject(attribute.Connect, victim.HostID), []byte(strings.Replace(string(encode(victim)), "666", `"666"`, 1)))
	future := w.connects(1, netip.AddrPortFrom(hostAddr(1), 40000), 667)
	future.Time = event.TimeOf(time.Now().Add(24 * time.Hour))
	put(bus.EndpointSubject(attribute.Connect, future.HostID), encode(future))
	// And one that is well formed, of a host that has another address.
	lie := w.connects(1, netip.AddrPortFrom(hostAddr(1), 40000), 668)
	lie.HostID = "liar"
	liar := w.says(99)
	liar.HostID = "liar"
	w.publish(w.says(1), liar, lie)
	w.flush()
	w.publishHit(w.hit(1))
	a := seen.await("that tells of the refused record", func(m *bus.Message) bool { return m.Portolan.Attribution.Refused > 0 }).Portolan.Attribution
	if a.Status != "unmatched" || a.Process != nil || a.Refused != 1 || a.Endpoint == nil || a.Endpoint.ID != "host-1" {
		t.Errorf("%+v", a)
	}
	want := map[string]uint64{refusedForeign: 2, refusedDamaged: 3, refusedImplausible: 1}
	var c bus.EnrichCounts
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c = e.Counts(); c.Foreign == 1 && reflect.DeepEqual(c.Refused, want) {
			break
		}
	}
	if !reflect.DeepEqual(c.Refused, want) || c.Foreign != 1 || len(c.Examples) != 3 {
		t.Errorf("refused %v (%v), %d foreign; want %v", c.Refused, c.Examples, c.Foreign, want)
	}
}

// child is an enricher in a process of its own.
type child struct {
	cmd  *exec.Cmd
	life io.Closer
}

func spawn(t *testing.T, name, url string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), enricherVariable+"="+name, serverVariable+"="+url)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.cmd.Stderr = log
	if c.life, err = c.cmd.StdinPipe(); err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

// kill ends it with SIGKILL.
func (c *child) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		_ = c.life.Close()
		c.cmd = nil
	}
}

// final returns the newest revision of each hit of ours in the stream, and checks that no id came twice.
func final(t *testing.T, url string) map[string]string {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), bus.HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	newest, revision := map[string]string{}, map[string]uint32{}
	ids := map[string]bool{}
	for n := s.CachedInfo().State.FirstSeq; n <= s.CachedInfo().State.LastSeq; n++ {
		raw, err := s.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		m, err := bus.Decode(raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		if ids[m.Event.ID] {
			t.Errorf("%s came twice", m.Event.ID)
		}
		ids[m.Event.ID] = true
		if m.Portolan.Revision >= revision[m.Portolan.HitID] {
			revision[m.Portolan.HitID] = m.Portolan.Revision
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			newest[m.Portolan.HitID] = string(b)
		}
	}
	return newest
}

// TestKilled: an enricher that is killed while it works, and another that works beside it for a while,
// leave the same revisions behind as one that nobody disturbed.
func TestKilled(t *testing.T) {
	const hosts = 120
	base := time.Now().Add(-time.Minute).UTC()
	play := func(disturb bool) map[string]string {
		url := natstest.Start(t, "hub", "").URL
		w := &world{t, open(t, "dmz-1", url), base}
		seen := follow(t, open(t, "watch", url))
		a := spawn(t, "enrich-a", url)
		matched := map[string]bool{}
		await := func(n int) {
			t.Helper()
			for len(matched) < n {
				m := seen.await(fmt.Sprintf("number %d that is not pending", n), func(m *bus.Message) bool { return m.Portolan.Revision > 1 })
				if s := m.Portolan.Attribution.Status; s == "matched" || s == "ambiguous" {
					matched[m.Portolan.HitID] = true
				}
			}
		}
		for n := range hosts {
			w.publish(w.says(n))
			w.publishHit(w.hit(n))
			switch n % 3 {
			case 0:
				w.publish(w.connects(n, netip.AddrPortFrom(hostAddr(n), 40000), uint32(n+1)))
			case 1:
				w.publish(w.connects(n, netip.AddrPort{}, uint32(n+1)))
			case 2:
				w.publish(w.connects(n, netip.AddrPort{}, uint32(n+1)), w.connects(n, netip.AddrPort{}, uint32(n+2)))
			}
			switch {
			case disturb && n == hosts/3:
				await(20)
				a.kill()
			case disturb && n == hosts/2:
				a = spawn(t, "enrich-a", url)
				spawn(t, "enrich-b", url)
			}
		}
		w.flush()
		await(hosts)
		return final(t, url)
	}
	want, got := play(false), play(true)
	if len(want) != hosts {
		t.Errorf("%d hits, want %d", len(want), hosts)
	}
	for id := range want {
		if got[id] != want[id] {
			t.Fatalf("hit %s ends as\n%s\nwant\n%s", id, got[id], want[id])
		}
	}
}
