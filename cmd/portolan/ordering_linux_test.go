//go:build cgo

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// TestLiveOrdering sends pairs of an answer and the connection calculated from it: however the
// rings share frames out, however long the kernel holds them back, and however soon the connection
// follows, no pair is lost. With PORTOLAN_SOAK=1 it tries every combination with 10,000
// pairs each; else a few of them, with fewer.
func TestLiveOrdering(t *testing.T) {
	soak := os.Getenv("PORTOLAN_SOAK") == "1"
	gaps := []time.Duration{0, 200 * time.Microsecond, time.Millisecond, 20 * time.Millisecond}
	timeouts := []time.Duration{time.Millisecond, 8 * time.Millisecond, 64 * time.Millisecond}
	n := 0 // of the few
	for _, rings := range []int{1, 2, 4} {
		for _, hash := range []bool{false, true} {
			if rings == 1 && hash {
				continue // there is nothing to share out
			}
			for i, timeout := range timeouts {
				for j, gap := range gaps {
					o := ordering{rings: rings, hash: hash, timeout: timeout, gap: gap, pairs: 10_000}
					if !soak {
						if o.pairs = 400; i == 1 || j != n%len(gaps) {
							continue
						}
					}
					t.Run(o.String(), o.run)
				}
				n++
			}
		}
	}
}

// ordering is one combination.
type ordering struct {
	rings   int
	hash    bool
	timeout time.Duration // of a block
	gap     time.Duration // between answer and connection
	pairs   int
}

func (o ordering) String() string {
	fanOut := "client"
	if o.hash {
		fanOut = "hash"
	}
	return fmt.Sprintf("%s by %s, blocks %s, gap %s", count(o.rings, "ring", "rings"), fanOut, o.timeout, o.gap)
}

func (o ordering) run(t *testing.T) {
	socket := newPair(t)
	stayOnOneCPU(t) // frames that leave by two could change places before they are stamped
	cfg := sensor.DefaultConfig()
	cfg.Device, cfg.Rings, cfg.BlockTimeout, cfg.HashFanOut = "mirror", o.rings, o.timeout, o.hash
	cfg.BlockSize, cfg.Blocks = 64<<10, 1024 // room for a second's stall: order is what is looked at
	s, err := sensor.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := correlate.New(correlate.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	all := &pairSink{c: c, told: map[netip.Addr]bool{}, pairs: map[netip.Addr]correlate.Level{}}
	where := &places{answer: map[netip.Addr]int{}, start: map[netip.Addr]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, func(ring int) event.BatchSink { return &placeSink{all, where, ring} }); err != nil {
			t.Error(err)
		}
	})
	stop := func() { cancel(); running.Wait() }
	defer stop()
	first := netip.MustParseAddr("10.255.0.1")
	all.wait(t, "the rings to come up", func() bool { return all.pairs[first] != 0 }, func() { sendPair(t, socket, first, 0) })

	o.send(t, socket)
	lost := func() (frames uint64) {
		for _, r := range s.Stats().Rings {
			frames += r.Dropped
		}
		return frames + sendDrops(t)
	}
	all.wait(t, "the last pair", func() bool { return uint64(len(all.pairs))+lost() >= uint64(o.pairs)+1 }, func() {})
	stop()
	dropped := lost()
	all.mu.Lock()
	defer all.mu.Unlock()
	if missing := o.pairs + 1 - len(all.pairs); missing > int(dropped) {
		t.Errorf("%d of %d pairs are lost, and %d frames", missing, o.pairs, dropped)
	}
	for client, level := range all.pairs {
		if level != correlate.Alert {
			t.Errorf("the pair of %s gave %s, want alert", client, level)
		}
	}
	together := where.together()
	if !o.hash && together != len(where.start) {
		t.Errorf("%d of %d pairs came to one ring, want all", together, len(where.start))
	}
	counted := c.Stats().Inverted // the resolver's, as it sends datagrams to all, among them
	if counted == 0 && all.inverted > 0 {
		t.Errorf("%d pairs arrived the other way round, and the correlator counts none", all.inverted)
	}
	t.Logf("%d of %d pairs, %d frames dropped; %d on one ring, %d the other way round; %d inversions", len(all.pairs)-1, o.pairs,
		dropped, together, all.inverted, counted)
}

// send sends the pairs, many of them under way at a time, among frames that mean nothing,
// datagrams, and connections of others.
func (o ordering) send(t *testing.T, socket int) {
	const interval = 60 * time.Microsecond
	type due struct {
		at    time.Time
		frame []byte
	}
	var starts []due
	noise := o.noise(t)
	begin := time.Now()
	for i := 0; i < o.pairs || len(starts) > 0; {
		now := time.Now()
		if len(starts) > 0 && !now.Before(starts[0].at) {
			write(t, socket, starts[0].frame)
			starts = starts[1:]
			continue
		}
		if i < o.pairs && now.Sub(begin) >= time.Duration(i)*interval {
			answer, start := pairFrames(t, addrOf(0x0A000000+uint32(i)), uint32(i+1))
			write(t, socket, answer)
			if o.gap == 0 {
				write(t, socket, start)
			} else {
				starts = append(starts, due{time.Now().Add(o.gap), start})
			}
			for k := range 4 {
				write(t, socket, noise[(4*i+k)%len(noise)])
			}
			i++
			continue
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// noise is the load in the background.
func (o ordering) noise(t *testing.T) (frames [][]byte) {
	server := netip.MustParseAddr("198.51.100.80")
	for i := range uint32(64) {
		client, port := addrOf(0x0AC80000+i), 30000+i
		frames = append(frames,
			frameTo(t, server, client, &layers.TCP{SrcPort: 443, DstPort: layers.TCPPort(port), Seq: i, ACK: true, Window: 64240}),
			frameTo(t, client, server, &layers.UDP{SrcPort: layers.UDPPort(port), DstPort: 443}),
			frameTo(t, client, server, &layers.TCP{SrcPort: layers.TCPPort(port), DstPort: 443, Seq: i, SYN: true, Window: 64240}))
	}
	return frames
}

// places are the rings that the halves of the pairs came to.
type places struct {
	mu            sync.Mutex
	answer, start map[netip.Addr]int // by client
}

// together returns how many pairs came to one ring.
func (p *places) together() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, ring := range p.start {
		if other, ok := p.answer[client]; ok && other == ring {
			n++
		}
	}
	return n
}

// placeSink notes where events come from and hands them on.
type placeSink struct {
	to    *pairSink
	where *places
	ring  int
}

func (p *placeSink) Batch(b *event.Batch) { b.Each(p) }

func (p *placeSink) Lookup(l *event.Lookup) {
	p.where.mu.Lock()
	p.where.answer[l.Client.Addr()] = p.ring
	p.where.mu.Unlock()
	p.to.Lookup(l)
}

func (p *placeSink) Connection(x *event.Connection) {
	if src := x.Src.Addr().As4(); src[1] == 200 {
		p.to.take(p.to.c.ObserveConnection(nil, x)) // noise
		return
	}
	if x.Proto == event.TCP {
		p.where.mu.Lock()
		p.where.start[x.Src.Addr()] = p.ring
		p.where.mu.Unlock()
	}
	p.to.Connection(x)
}

// stayOnOneCPU keeps the test's thread on one CPU until the test ends.
func stayOnOneCPU(t *testing.T) {
	t.Helper()
	var was, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		t.Fatal(err)
	}
	for i := range runtime.NumCPU() + 1024 {
		if was.IsSet(i) {
			one.Set(i)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &was); err != nil {
			t.Error(err)
		}
	})
}
