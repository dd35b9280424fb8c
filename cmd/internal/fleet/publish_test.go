package fleet

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"portolan/cmd/internal/natstest"
	"portolan/sensor/event"
)

// TestServerAway: while the server is away observations wait up to the bound, what does not fit is
// counted, the capture never waits, and the worker counts the same from the gaps.
func TestServerAway(t *testing.T) {
	store := t.TempDir()
	start := func(port int) *server.Server {
		t.Helper()
		s, err := server.NewServer(&server.Options{
			Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: store, NoSigs: true, NoLog: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(patience) {
			t.Fatal("the server does not start")
		}
		return s
	}
	port := natstest.Port(t)
	s := start(port)
	url := s.ClientURL()
	cfg := DefaultPublisherConfig()
	cfg.Sensor, cfg.Partitions, cfg.QueueBytes, cfg.Timeout = "north", 2, 1<<20, 2*time.Second
	p, err := NewPublisher(openBus(t, url, "north"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	sink := p.NewSink()
	at := event.Time(1_700_000_000_000_000_000)
	show := func(n int) {
		for i := range n {
			at += event.Time(time.Millisecond)
			sink.Connection(&event.Connection{
				Time: at, Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 40000),
				Dst: netip.MustParseAddrPort("198.51.100.23:443"), Proto: event.TCP,
			})
		}
	}
	drain := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := p.Drain(ctx); err != nil {
			t.Fatal(err)
		}
	}
	show(1000)
	drain()
	if s := p.Stats(); s.Lost != 0 || s.Stored == 0 || s.Observations != 1000 {
		t.Fatalf("with a server: %+v", s)
	}
	s.Shutdown()
	s.WaitForShutdown()
	show(60_000) // some 2.5 MiB
	eventually(t, "what does not fit is lost", func() bool { return p.Stats().Lost > 0 })
	s = start(port)
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	drain()
	show(1000) // shows the gap
	drain()
	st := p.Stats()
	if st.Stored+st.Lost != st.Batches || st.Observations != 62_000 || st.Retried == 0 {
		t.Errorf("%+v: want stored and lost to make all batches", st)
	}
	worker := testWorkerConfig("work-1", 2)
	w, _ := runWorker(t, openBus(t, url, "work-1"), worker)
	eventually(t, "the worker has read all that is stored", func() bool {
		n := w.Stats()
		return n.Lost == st.Lost && n.Observations > 2000
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestEndsTwice: the client library may say twice of one batch that it was not stored, when the
// connection breaks while it is being sent.
func TestEndsTwice(t *testing.T) {
	cfg := DefaultPublisherConfig()
	cfg.Sensor = "north"
	p, err := NewPublisher(openBus(t, startServer(t), "north"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := p.newMsg()
	p.mu.Lock()
	p.batches, p.pending, p.flying[m] = 1, len(m.Data), true
	p.mu.Unlock()
	m.Subject = p.subjects[kindConn][0]
	p.refused(nil, m, nats.ErrDisconnected)
	p.refused(nil, m, nats.ErrReconnectBufExceeded)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
	p.acked(nil, m, nil)
	if s := p.Stats(); s.Pending != 0 || s.Stored != 1 || s.Retried != 1 || p.pending != 0 {
		t.Errorf("%+v and %d bytes pending, want one batch stored, sent again once", s, p.pending)
	}
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestRuns: what comes late is no longer missing, what comes twice changes nothing.
func TestRuns(t *testing.T) {
	var r runs
	r.add(5, 5)
	r.add(5, 9)
	r.add(10, 11)
	for _, tt := range []struct {
		sequence uint64
		was      bool
	}{{4, false}, {6, true}, {6, false}, {9, false}, {10, true}, {5, true}, {8, true}, {7, true}, {7, false}} {
		if got := r.remove(tt.sequence); got != tt.was {
			t.Errorf("%d was missing: %t, want %t", tt.sequence, got, tt.was)
		}
	}
	if len(r) != 0 {
		t.Errorf("%v is left", r)
	}
	for i := range uint64(2 * maxRuns) {
		r.add(2*i, 2*i+1)
	}
	if len(r) != maxRuns || r[0][0] != 2*maxRuns {
		t.Errorf("%d runs from %d on, want the newest %d", len(r), r[0][0], maxRuns)
	}
}

func TestValidate(t *testing.T) {
	publisher, worker := DefaultPublisherConfig(), DefaultWorkerConfig()
	publisher.Sensor, worker.Name = "north", "work-1"
	if err := publisher.Validate(); err != nil {
		t.Error(err)
	}
	if err := worker.Validate(); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		change func(*PublisherConfig)
		want   string
	}{
		{func(c *PublisherConfig) { c.Sensor = "a.b" }, `sensor name "a.b"`},
		{func(c *PublisherConfig) { c.Partitions = 257 }, "partitions 257"},
		{func(c *PublisherConfig) { c.BatchBytes = 1 << 20 }, "batch bytes 1048576"},
		{func(c *PublisherConfig) { c.BatchDelay = 0 }, "batch delay 0s"},
		{func(c *PublisherConfig) { c.QueueBytes = 1 }, "queue bytes 1"},
		{func(c *PublisherConfig) { c.Timeout = -1 }, "timeout -1ns"},
	} {
		c := publisher
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("publisher: error %v, want %q", err, tt.want)
		}
	}
	for _, tt := range []struct {
		change func(*WorkerConfig)
		want   string
	}{
		{func(c *WorkerConfig) { c.Name = "" }, `worker: sensor name ""`},
		{func(c *WorkerConfig) { c.Partitions = 0 }, "partitions 0"},
		{func(c *WorkerConfig) { c.Lookback = -1 }, "lookback -1ns"},
		{func(c *WorkerConfig) { c.Lease = time.Millisecond }, "lease 1ms"},
		{func(c *WorkerConfig) { c.Timeout = 0 }, "timeout"},
		{func(c *WorkerConfig) { c.Correlate.Hold = 0 }, "Hold 0s"},
	} {
		c := worker
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("worker: error %v, want %q", err, tt.want)
		}
	}
}
