//go:build cgo

package main

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/natstest"
	"portolan/sensor"
)

// TestLiveServerAway: a steady stream of frames with hits in it, while a real nats-server answers,
// stands still, is killed, and is back. The capture loses the same in each, nothing; all hits arrive.
//
// With PORTOLAN_SOAK=1 each stream is longer, and there is one more of each at whatever pace the
// machine has, at which a small ring overflows: those figures are logged for people to compare.
func TestLiveServerAway(t *testing.T) {
	soak := os.Getenv("PORTOLAN_SOAK") == "1"
	srv := natstest.Start(t, "hub", "")
	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS.URL = "tester", t.TempDir(), srv.URL
	b, err := openBus(t.Context(), &cfg, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// From here on this goroutine is in a namespace of its own; the server and the bus are not.
	socket := newPair(t)
	c := sensor.DefaultConfig()
	c.Device, c.Rings = "mirror", 1 // one, so that frames are counted in the order in which they were sent
	s, err := sensor.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &stretch{t: t, socket: socket, s: s}
	if w.line, err = newPipeline(&cfg, "mirror", b, func(*bus.Message) { w.hits.Add(1) }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.line.run(ctx, []*sensor.Sensor{s}, func() {}); err != nil {
			t.Error(err)
		}
	})
	w.comeUp()

	steps := []struct {
		name string
		do   func()
	}{
		{"server up", func() {}},
		{"server paused", func() { srv.Signal(syscall.SIGSTOP) }},
		{"server up again", func() { srv.Signal(syscall.SIGCONT) }},
		{"server killed", srv.Kill},
		{"server back", func() {
			started := make(chan struct{})
			go func() { // in the namespace of the others
				defer close(started)
				srv.Start()
			}()
			<-started
		}},
	}
	stream := func(ticks int, paced bool) {
		for _, step := range steps {
			step.do()
			was, hits, began := w.counts(), w.hits.Load(), time.Now()
			w.run(ticks, paced)
			took := time.Since(began)
			is := w.counts() // while the server is what it is in this step
			w.await("hits", func() bool { return w.hits.Load() > hits })
			d, p := is.since(was), b.PublishStats()
			t.Logf("%-15s %7d frames, %6.0f/s: %d lost in the ring, %d on the way there; %5d hits stored so far, %5d wait",
				step.name, d.sent, float64(d.sent)/took.Seconds(), d.dropped, d.onTheWay, p.Stored, p.Pending)
			if d.frames+d.dropped+d.onTheWay != d.sent {
				t.Errorf("%s: %+v: what was captured and what was lost do not make what was sent", step.name, d)
			}
			if paced && d.dropped != 0 {
				t.Errorf("%s: %d of %d frames lost in the ring, want none", step.name, d.dropped, d.sent)
			}
		}
	}
	if soak {
		stream(6000, true)
		stream(4000, false)
	} else {
		stream(200, true)
	}

	cancel()
	running.Wait() // what was pending is settled
	flush, enough := context.WithTimeout(context.Background(), 2*patience)
	defer enough()
	if err := b.Flush(flush); err != nil {
		t.Error(err)
	}
	p, lost := b.PublishStats(), w.line.lost.Load()
	if soak {
		t.Logf("%d hits made, %d stored, %d lost before the spool, %d in it", w.hits.Load(), p.Stored, lost, p.Lost)
	} else if lost != 0 || p.Lost != 0 || p.Stored != w.hits.Load() {
		t.Errorf("%d hits made, %d lost before the spool, %+v: want each stored", w.hits.Load(), lost, p)
	}
}

// stretch is a stretch of wire: it sends frames to the mirror and counts what becomes of them.
// Its test's goroutine uses it.
type stretch struct {
	t      *testing.T
	socket int
	s      *sensor.Sensor
	line   *pipeline
	hits   atomic.Uint64 // made, revisions included
	n      uint32        // numbers what is sent
	sent   int           // frames
}

// streamCounts are totals.
type streamCounts struct {
	sent     int // frames
	frames   int // that reached the decoder
	dropped  int // that the ring had no room for
	onTheWay int // that the kernel dropped before, between the two ends of the veth pair
}

func (c streamCounts) since(b streamCounts) streamCounts {
	return streamCounts{c.sent - b.sent, c.frames - b.frames, c.dropped - b.dropped, c.onTheWay - b.onTheWay}
}

func (w *stretch) now() streamCounts {
	w.t.Helper()
	st := w.s.Stats()
	near, err := netlink.LinkByName("near")
	if err != nil {
		w.t.Fatal(err)
	}
	c := streamCounts{sent: w.sent, frames: int(st.Frames), onTheWay: int(near.Attrs().Statistics.TxDropped)}
	for _, r := range st.Rings {
		c.dropped += int(r.Dropped)
	}
	return c
}

// counts waits until every frame sent is accounted for.
func (w *stretch) counts() (c streamCounts) {
	w.t.Helper()
	w.await("frames sent to be seen", func() bool {
		c = w.now()
		return c.frames+c.dropped+c.onTheWay >= c.sent
	})
	return c
}

func (w *stretch) await(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain for %s: %+v", what, w.now())
		}
	}
}

// comeUp sends frames until the ring takes them, and begins to count behind an answer, the first
// that is sent.
func (w *stretch) comeUp() {
	w.t.Helper()
	w.await("the ring", func() bool {
		w.other(0)
		return w.s.Stats().Frames > 0
	})
	w.pair()
	w.await("the first answer and its connection", func() bool { return w.hits.Load() > 0 })
	c := w.now()
	w.sent = c.frames + c.dropped + c.onTheWay
}

// run sends 50 frames each tick: pairs of an answer and a calculated connection, each of another
// client, and connections that nothing explains. Paced, a tick takes 10 ms.
func (w *stretch) run(ticks int, paced bool) {
	w.t.Helper()
	const tick, pairs, others = 10 * time.Millisecond, 5, 40
	next := time.Now()
	for range ticks {
		for range pairs {
			w.pair()
		}
		for i := range others {
			w.other(i)
		}
		if next = next.Add(tick); paced {
			time.Sleep(time.Until(next))
		}
	}
}

// other sends a connection of one of a few clients, to a destination of its own.
func (w *stretch) other(client int) {
	w.n++
	w.send(frameTo(w.t, addrOf(0x0AFF0000+uint32(client)), addrOf(0x2D000000+w.n), &layers.TCP{
		SrcPort: layers.TCPPort(20000 + w.n%20000), DstPort: 443, Seq: w.n, SYN: true, Window: 64240,
	}))
}

// pair sends an answer to a client of its own, and the client's connection to its half swap.
func (w *stretch) pair() {
	w.n++
	client, answer := addrOf(0x0A000000+w.n), 0x57002D00|w.n>>8<<16&0xFF0000|w.n&255
	port := layers.TCPPort(20000 + w.n%20000)
	w.send(frameTo(w.t, netip.MustParseAddr("10.254.0.53"), client, &layers.UDP{SrcPort: 53, DstPort: layers.UDPPort(port)},
		&layers.DNS{
			ID: uint16(w.n), QR: true, QDCount: 1, ANCount: 1,
			Questions: []layers.DNSQuestion{{Name: []byte("c2.example"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}},
			Answers: []layers.DNSResourceRecord{{
				Name: []byte("c2.example"), Type: layers.DNSTypeA, Class: layers.DNSClassIN, TTL: 60, IP: addrOf(answer).AsSlice(),
			}},
		}))
	w.send(frameTo(w.t, client, addrOf(answer<<16|answer>>16), &layers.TCP{SrcPort: port, DstPort: 443, Seq: w.n, SYN: true, Window: 64240}))
}

func (w *stretch) send(frame []byte) {
	write(w.t, w.socket, frame)
	w.sent++
}
