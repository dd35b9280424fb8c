package fleet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
	"portolan/sensor/event"
)

// patience is how long a test waits for what has to come.
const patience = 60 * time.Second

// In a process that a test starts, TestMain is a worker.
const workerEnv = "PORTOLAN_TEST_WORKER"

func TestMain(m *testing.M) {
	if name := os.Getenv(workerEnv); name != "" {
		if err := workerProcess(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func workerProcess(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	n, err := strconv.Atoi(os.Getenv(workerEnv + "_PARTITIONS"))
	if err != nil {
		return err
	}
	c := bus.DefaultConfig()
	c.Name, c.URL, c.Timeout, c.Observations = name, os.Getenv(workerEnv+"_URL"), patience, true
	c.StateDir = os.Getenv(workerEnv + "_STATE")
	b, err := bus.Open(ctx, c)
	if err != nil {
		return err
	}
	cfg := testWorkerConfig(name, n)
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	w, err := NewWorker(b, cfg)
	if err != nil {
		return err
	}
	err = w.Run(ctx)
	record := bus.CoverageRecord{Schema: bus.CoverSchema, Time: time.Now().UTC(), Sensor: name}
	return errors.Join(err, b.PublishCoverage(&record), b.Close())
}

func testWorkerConfig(name string, partitions int) WorkerConfig {
	c := DefaultWorkerConfig()
	c.Name, c.Partitions, c.Lease, c.Timeout = name, partitions, 2*time.Second, 10*time.Second
	return c
}

// startServer starts a nats-server with JetStream and returns its URL.
func startServer(t *testing.T) (url string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
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

func openBus(t *testing.T, url, name string) *bus.Bus {
	t.Helper()
	c := bus.DefaultConfig()
	c.Name, c.URL, c.Timeout, c.Observations, c.Spool = name, url, patience, true, 0
	b, err := bus.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// process is a worker in a process of its own.
type process struct {
	*exec.Cmd
	name string
	log  lockedBuffer
	end  chan error
}

func startWorker(t *testing.T, url, name string, partitions int) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self), name: name, end: make(chan error, 1)}
	p.Env = append(os.Environ(), workerEnv+"="+name, workerEnv+"_URL="+url, fmt.Sprintf("%s_PARTITIONS=%d", workerEnv, partitions),
		workerEnv+"_STATE="+t.TempDir())
	p.Stderr = &p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.end <- p.Wait() }()
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.end
		if t.Failed() {
			t.Logf("worker %s:\n%s", name, p.log.String())
		}
	})
	return p
}

// kill ends the process as a power cut would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err := <-p.end
	p.end <- err
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// happening is one event of generated traffic.
type happening struct {
	at     event.Time
	lookup *event.Lookup
	conn   *event.Connection
}

func (h *happening) show(to event.Sink) {
	if h.lookup != nil {
		to.Lookup(h.lookup)
	} else {
		to.Connection(h.conn)
	}
}

// traffic returns what hosts do in a minute, in order of time: most look names up and connect to
// the answers, every fourth connects to the half swap of its answers, or to its octets' a·b+c.
func traffic(seed uint64) []happening {
	r := rand.New(rand.NewPCG(seed, 1))
	const base, minute = event.Time(1_700_000_000_000_000_000), int64(time.Minute)
	var all []happening
	for host := range 80 {
		client := netip.AddrFrom4([4]byte{10, 1, byte(host / 16), byte(7 + host%16)})
		for visit := range 6 {
			t := base + event.Time(r.Int64N(minute*2/3))
			a := [4]byte{byte(1 + r.IntN(9)), byte(r.IntN(256)), byte(128 + r.IntN(64)), byte(r.IntN(256))}
			name := []byte(fmt.Sprintf("h%d-%d.example", host, visit))
			all = append(all, happening{at: t, lookup: &event.Lookup{
				Time: t, Client: netip.AddrPortFrom(client, uint16(40000+visit)), Resolver: netip.MustParseAddrPort("10.0.0.53:53"),
				Proto: event.UDP, Type: event.A, Name: name,
				Records: []event.Record{{Type: event.A, TTL: 60, Owner: name, Addr: netip.AddrFrom4(a)}},
			}})
			dst := netip.AddrPortFrom(netip.AddrFrom4(a), 443)
			switch host % 8 {
			case 0:
				dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{a[2], a[3], a[0], a[1]}), 5123)
			case 4:
				dst = netip.AddrPortFrom(netip.AddrFrom4(a), uint16(a[0])*uint16(a[1])+uint16(a[2]))
			}
			lag := event.Time(1e6 + r.Int64N(20e9))
			if visit%2 == 0 {
				lag = event.Time(1e6 + r.Int64N(5e6))
			}
			all = append(all, happening{at: t + lag, conn: &event.Connection{
				Time: t + lag, Src: netip.AddrPortFrom(client, uint16(50000+visit)), Dst: dst, Proto: event.TCP,
			}})
		}
	}
	slices.SortStableFunc(all, func(a, b happening) int { return cmp.Compare(a.at, b.at) })
	return all
}

// verdict is what a subscriber keeps of a hit: the highest revision says.
type verdict struct {
	revision               uint32
	state, level, rule, by string
}

// alone returns the final hits of one sensor that sees everything.
func alone(t *testing.T, all []happening) map[string]verdict {
	t.Helper()
	c, err := correlate.New(correlate.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	var hits []correlate.Hit
	for i := range all {
		if h := &all[i]; h.lookup != nil {
			hits = c.ObserveLookup(hits, h.lookup)
		} else {
			hits = c.ObserveConnection(hits, h.conn)
		}
	}
	final := map[string]verdict{}
	for _, h := range c.Flush(hits) {
		if h.State == correlate.Final {
			final[h.ID.String()] = verdict{state: "final", level: h.Level.String(), rule: h.Calc.Hypothesis}
		}
	}
	return final
}

// stored follows the stream of hits.
type stored struct {
	mu    sync.Mutex
	hits  map[string]verdict
	count map[string]int // messages by id and revision
	came  map[string]*bus.Sequences
}

func follow(t *testing.T, b *bus.Bus) *stored {
	s := &stored{hits: map[string]verdict{}, count: map[string]int{}, came: map[string]*bus.Sequences{}}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		err := b.Subscribe(ctx, bus.Filter{All: true}, func(m *bus.Message, _ bus.Meta) {
			s.mu.Lock()
			defer s.mu.Unlock()
			p := &m.Portolan
			s.count[m.Event.ID]++
			if s.came[m.Observer.Name] == nil {
				s.came[m.Observer.Name] = new(bus.Sequences)
			}
			s.came[m.Observer.Name].Hit(m)
			if p.Revision > s.hits[p.HitID].revision {
				s.hits[p.HitID] = verdict{p.Revision, p.State, p.Level, p.Calc.Hypothesis, m.Observer.Name}
			}
		})
		if err != nil {
			t.Errorf("subscribe: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return s
}

// final returns the hits that are final, without who said so.
func (s *stored) final() map[string]verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]verdict{}
	for id, v := range s.hits {
		if v.state == "final" {
			m[id] = verdict{state: v.state, level: v.level, rule: v.rule}
		}
	}
	return m
}

func (s *stored) by() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]int{}
	for _, v := range s.hits {
		m[v.by]++
	}
	return m
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not after %v: %s", patience, what)
		}
	}
}

func equal(a, b map[string]verdict) bool { return len(a) == len(b) && len(missing(a, b)) == 0 }

// missing returns what is in a and not the same in b.
func missing(a, b map[string]verdict) (ids []string) {
	for id, v := range a {
		if b[id] != v {
			ids = append(ids, fmt.Sprintf("%s %v not %v", id, v, b[id]))
		}
	}
	slices.Sort(ids)
	return ids
}

// tap is a sensor's publisher.
type tap struct {
	*Publisher
	sink *Sink
}

func openTap(t *testing.T, url, name string, partitions int) tap {
	t.Helper()
	cfg := DefaultPublisherConfig()
	cfg.Sensor, cfg.Partitions, cfg.Timeout = name, partitions, patience
	p, err := NewPublisher(openBus(t, url, name), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tap{p, p.NewSink()}
}

func (p tap) drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func (p tap) close(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.Lost != 0 || s.Pending != 0 || s.Stored != s.Batches {
		t.Errorf("%s: %+v, want all batches stored", p.cfg.Sensor, s)
	}
}

// play shows the taps what happens, each what see says, in steps of packet time as on a wire.
func play(t *testing.T, all []happening, taps []tap, see func(*happening) []tap) {
	t.Helper()
	const step = event.Time(200 * time.Millisecond)
	for len(all) > 0 {
		end := all[0].at + step
		for len(all) > 0 && all[0].at < end {
			for _, p := range see(&all[0]) {
				all[0].show(p.sink)
			}
			all = all[1:]
		}
		for _, p := range taps {
			p.Reached(end)
			p.drain(t)
		}
	}
}

// owners returns how many partitions each worker has, by the bucket.
func owners(t *testing.T, js jetstream.JetStream) map[string]int {
	t.Helper()
	m := map[string]int{}
	for _, c := range claims(t, js) {
		m[c.Worker]++
	}
	return m
}

// claims returns what the bucket says of each partition.
func claims(t *testing.T, js jetstream.JetStream) (list []claim) {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), Bucket)
	if err != nil {
		return nil // not made yet
	}
	keys, err := kv.ListKeysFiltered(t.Context(), "partition.*")
	if err != nil {
		t.Fatal(err)
	}
	for key := range keys.Keys() {
		e, err := kv.Get(t.Context(), key)
		if err != nil {
			continue
		}
		var c claim
		if err := json.Unmarshal(e.Value(), &c); err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

// runWorker runs a worker in this process until the returned function is called, or the test ends.
func runWorker(t *testing.T, b *bus.Bus, cfg WorkerConfig) (*Worker, func()) {
	t.Helper()
	w, err := NewWorker(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("worker %s: %v", cfg.Name, err)
		}
	})
	stop := func() {
		cancel()
		done.Wait()
	}
	t.Cleanup(stop)
	return w, stop
}
