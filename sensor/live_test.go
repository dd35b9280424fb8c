//go:build linux && cgo

package sensor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket/afpacket"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

const patience = 20 * time.Second // for what has to happen sooner or later

// newNamespace locks the test to a thread and moves that into a network namespace of its
// own, where there is nothing but a loopback interface that is down.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	was, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		was.Close()
		runtime.UnlockOSThread()
		skip(t, "no network namespace can be made: %v", err)
	}
	t.Cleanup(func() {
		if err := netns.Set(was); err != nil {
			t.Error(err) // and the thread stays locked, to die with the test
		} else {
			runtime.UnlockOSThread()
		}
		ns.Close()
		was.Close()
	})
	// The kernel's own neighbour discovery would add frames to those of the tests.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return ns
}

// wire is a veth pair: what goes into "near" comes out of "mirror".
type wire struct {
	t      *testing.T
	ns     netns.NsHandle
	socket int // sends on near
}

func newWire(t *testing.T) *wire {
	w := &wire{t: t, ns: newNamespace(t), socket: -1}
	w.connect()
	t.Cleanup(func() { unix.Close(w.socket) })
	return w
}

// connect makes the pair.
func (w *wire) connect() {
	w.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "mirror"}
	v.Name = "near"
	if err := netlink.LinkAdd(v); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"near", "mirror"} {
		w.set(name, true)
	}
	near, err := netlink.LinkByName("near")
	if err != nil {
		w.t.Fatal(err)
	}
	if w.socket >= 0 {
		unix.Close(w.socket)
	}
	if w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Bind(w.socket, &unix.SockaddrLinklayer{Ifindex: near.Attrs().Index}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) set(name string, up bool) {
	w.t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		w.t.Fatal(err)
	}
	if up {
		err = netlink.LinkSetUp(l)
	} else {
		err = netlink.LinkSetDown(l)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) send(frames ...[]byte) {
	w.t.Helper()
	for _, f := range frames {
		for {
			_, err := unix.Write(w.socket, f)
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				w.t.Fatal(err)
			}
			break
		}
	}
}

// lost returns how many frames sent so far the kernel had no room for on their way to mirror.
func (w *wire) lost() uint64 {
	w.t.Helper()
	l, err := netlink.LinkByName("near")
	if err != nil {
		w.t.Fatal(err)
	}
	return l.Attrs().Statistics.TxDropped
}

// config is one for tests: one ring, little memory.
func (w *wire) config() Config {
	cfg := DefaultConfig()
	cfg.Device, cfg.Point, cfg.Rings, cfg.Blocks = "mirror", 3, 1, 16
	cfg.Decode.Starts, cfg.Decode.Flows = 1<<14, 1<<14
	return cfg
}

func (w *wire) open(cfg Config) *Sensor {
	w.t.Helper()
	s, err := Open(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	return s
}

// start runs s on a thread in the wire's namespace, ends it with the test, and returns the events.
func (w *wire) start(s *Sensor) *recorder {
	rec := &recorder{}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread dies with the goroutine
		if err := netns.Set(w.ns); err != nil {
			result <- err
			return
		}
		result <- s.Run(ctx, func(ring int) event.BatchSink { return &ringRecorder{rec, ring} })
	}()
	w.t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	return rec
}

// recorder keeps the events of all rings.
type recorder struct {
	mu          sync.Mutex
	connections []event.Connection
	lookups     []string
	rings       map[int]int // ring: connections
}

type ringRecorder struct {
	*recorder
	ring int
}

func (r *ringRecorder) Batch(b *event.Batch) { b.Each(r) }

func (r *ringRecorder) Connection(c *event.Connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connections = append(r.connections, *c)
	if r.rings == nil {
		r.rings = make(map[int]int)
	}
	r.rings[r.ring]++
}

func (r *ringRecorder) Lookup(l *event.Lookup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookups = append(r.lookups, string(l.Name))
}

func (r *recorder) all() []event.Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections[:len(r.connections):len(r.connections)]
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// with returns a copy of a frame with one of its bytes changed.
func with(frame []byte, at int, b byte) []byte {
	frame = append([]byte(nil), frame...)
	frame[at] = b
	return frame
}

// tagged puts VLAN tags between the addresses and the EtherType of a frame.
func tagged(frame []byte, tags ...uint16) []byte {
	b := append([]byte(nil), frame[:12]...)
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, t)
	}
	return append(b, frame[12:]...)
}

// answerFrame is a DNS response over UDP: cdn.example is 198.51.100.23.
func answerFrame() []byte {
	dns := []byte{0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}
	name := []byte("\x03cdn\x07example\x00")
	dns = append(append(dns, name...), 0, 1, 0, 1)
	dns = append(dns, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 23)
	b := synFrame(0)[:34]
	b[23] = 17
	binary.BigEndian.PutUint16(b[16:], uint16(28+len(dns)))
	b = append(b, 0, 53, 0x9c, 0x41)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(dns)))
	return append(append(b, 0, 0), dns...)
}

func TestLiveEvents(t *testing.T) {
	w := newWire(t)
	begin := event.TimeOf(time.Now())
	s := w.open(w.config())
	rec := w.start(s)
	segment := with(synFrame(49152), 47, 0x10) // ACK
	w.send(synFrame(49152), segment, answerFrame(), segment, synFrame(49153))
	until(t, "3 connections and a lookup", func() bool {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		return len(rec.connections) == 3 && len(rec.lookups) == 1
	})
	c := rec.all()[0]
	want := event.Connection{
		Time: c.Time, Zone: event.Zone{Point: 3}, MAC: event.MAC{2, 0, 0, 0, 0, 2}, Frame: 1,
		Proto: event.TCP, Start: event.SYN, Hops: 64,
		Src: netip.MustParseAddrPort("10.0.0.7:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
	}
	if c != want {
		t.Errorf("first connection %+v, want %+v", c, want)
	}
	if end := event.TimeOf(time.Now()); c.Time < begin || c.Time > end {
		t.Errorf("stamped %v, not from %v to %v", c.Time.UTC(), begin.UTC(), end.UTC())
	}
	if name := rec.lookups[0]; name != "cdn.example" {
		t.Errorf("lookup of %q", name)
	}
	s.Close()
	n := s.Stats()
	checkReasons(t, "live", n)
	if n.Frames != 3 || n.Rings[0].Received != 3 || n.Rings[0].Dropped != 0 {
		t.Errorf("%d frames, ring %+v; want 3: the segments stop at the filter", n.Frames, n.Rings[0])
	}
	if n.Counters.SYN != 2 || n.Bytes == 0 || n.Bytes != n.CapturedBytes || n.First > n.Last {
		t.Errorf("stats %+v", n)
	}
}

func TestLiveVLAN(t *testing.T) {
	w := newWire(t)
	rec := w.start(w.open(w.config()))
	w.send(
		tagged(synFrame(1), 0x8100, 0x600c),         // priority 3, VLAN 12; the kernel takes it off
		tagged(synFrame(2), 0x88a8, 13, 0x8100, 14), // the kernel takes the outer one off
		tagged(synFrame(3), 0x9100, 15),             // the kernel leaves it in
		tagged(synFrame(4), 0x8100, 16, 0x9100, 17),
		tagged(synFrame(5), 0x8100, 0), // priority only
		synFrame(6),
		tagged(with(synFrame(7), 47, 0x10), 0x9100, 15), // no SYN
	)
	want := map[uint16]event.Zone{
		1: {Point: 3, Kind: event.VLAN, ID: 12},
		2: {Point: 3, Kind: event.VLAN, ID: 13},
		3: {Point: 3, Kind: event.VLAN, ID: 15},
		4: {Point: 3, Kind: event.VLAN, ID: 16},
		5: {Point: 3},
		6: {Point: 3},
	}
	until(t, "connections", func() bool { return len(rec.all()) >= len(want) })
	for _, c := range rec.all() {
		if z, ok := want[c.Src.Port()]; !ok || c.Zone != z {
			t.Errorf("connection from port %d in zone %v, want %v", c.Src.Port(), c.Zone, z)
		}
	}
}

// batchTally counts the events of batches.
type batchTally struct{ tally }

func (n *batchTally) Batch(b *event.Batch) { b.Each(&n.tally) }

// TestLiveAllocations reads tagged frames and DNS responses out of a full ring: none allocates,
// nor does a batch of their events.
func TestLiveAllocations(t *testing.T) {
	const rounds, portions = 100, 10
	w := newWire(t)
	cfg := w.config()
	cfg.Blocks = 256 // the ring holds what is sent within 256 ms while nobody reads
	r := w.open(cfg).rings[0]
	seen := &batchTally{}
	r.sink = seen
	frames := [][]byte{tagged(synFrame(1), 0x8100, 12), nil, answerFrame()}
	port := uint16(2)
	fill := func() {
		for range rounds {
			port++
			frames[1] = synFrame(port)
			w.send(frames...)
		}
	}
	// drain reads until nothing comes any more: on a busy machine some may have been lost.
	drain := func(want uint64) {
		for idle := 0; r.n.Frames < want && idle < 3; idle++ {
			for r.block() > 0 {
				idle = 0
			}
			if err := r.handle.wait(); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill() // the batch grows to what a block holds
	drain(3 * rounds)
	was, allocations := *seen, uint64(0)
	for range portions {
		fill()
		var before, after runtime.MemStats
		want := r.n.Frames + 3*rounds
		runtime.ReadMemStats(&before)
		drain(want)
		runtime.ReadMemStats(&after)
		allocations += after.Mallocs - before.Mallocs
	}
	// Other goroutines of the test binary may allocate a little.
	if allocations > rounds*portions/20 {
		t.Errorf("%d allocations for %d frames", allocations, 3*rounds*portions)
	}
	if c, l := seen.connections-was.connections, seen.lookups-was.lookups; c < rounds*portions/2 || l < rounds*portions/2 {
		t.Errorf("%d connections and %d lookups of %d each", c, l, rounds*portions)
	}
}

func TestLiveLinkDownAndUp(t *testing.T) {
	w := newWire(t)
	s := w.open(w.config())
	rec := w.start(s)
	for i := range uint16(3) {
		w.set("mirror", false)
		until(t, "the link to be found down", func() bool { return s.Stats().Rings[0].LinkDowns == uint64(i+1) })
		w.set("mirror", true)
		// A carrier takes a moment; what is sent before is lost, and rightly.
		port := 1000 * i
		until(t, "a connection after the link came up", func() bool {
			port++
			unix.Write(w.socket, synFrame(1000+port))
			return len(rec.all()) > 0 && rec.all()[len(rec.all())-1].Src.Port() > 1000*(i+1)
		})
	}
	if n := s.Stats().Rings[0].Reopens; n != 0 {
		t.Errorf("%d reopens of an interface that stayed", n)
	}
}

// TestLiveLinkDownIsQuiet makes sure that a ring on a dead link waits instead of spinning.
func TestLiveLinkDownIsQuiet(t *testing.T) {
	w := newWire(t)
	h := w.open(w.config()).rings[0].handle
	w.set("mirror", false)
	if err := h.wait(); !errors.Is(err, errLinkDown) {
		t.Fatalf("first wait: %v, want %v", err, errLinkDown)
	}
	for range 3 {
		if err := h.wait(); err != nil {
			t.Fatalf("later wait: %v", err)
		}
		if got := h.poll[0].Revents; got != 0 {
			t.Errorf("the poll came back with %#x instead of waiting", got)
		}
	}
}

func TestLiveInterfaceReplaced(t *testing.T) {
	w := newWire(t)
	cfg := w.config()
	cfg.Rings = 2
	s := w.open(cfg)
	rec := w.start(s)
	w.send(synFrame(1))
	until(t, "a connection", func() bool { return len(rec.all()) == 1 })
	for i := range uint64(2) {
		l, err := netlink.LinkByName("mirror")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
		w.connect()
		until(t, "the rings to be opened again", func() bool { return s.Stats().Rings[1].Reopens == i+1 })
		port := uint16(100 * (i + 1))
		w.send(synFrame(port))
		until(t, "a connection over the new interface", func() bool {
			all := rec.all()
			return all[len(all)-1].Src.Port() == port
		})
	}
}

func TestLiveClose(t *testing.T) {
	w := newWire(t)
	for i := range 10 {
		cfg := w.config()
		cfg.Rings = 2
		s := w.open(cfg)
		if i == 0 { // closed before it ran
			s.Close()
			if err := s.Run(context.Background(), nil); err == nil {
				t.Error("a closed sensor runs")
			}
			continue
		}
		done := make(chan error)
		started := make(chan struct{}, 2)
		go func() {
			done <- s.Run(context.Background(), func(int) event.BatchSink { started <- struct{}{}; return &batchTally{} })
		}()
		<-started
		var wg sync.WaitGroup
		for range 3 { // Close and Stats from anywhere at any time
			wg.Go(func() { s.Stats(); s.Close() })
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v after Close", err)
		}
		wg.Wait()
	}
}

// TestLiveFilterOrder opens four rings on a busy line: nothing unfiltered and no second
// copy comes through.
func TestLiveFilterOrder(t *testing.T) {
	w := newWire(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for port := uint16(0); ; port++ {
			select {
			case <-stop:
				return
			default:
				unix.Write(w.socket, synFrame(port))
				unix.Write(w.socket, with(synFrame(port), 47, 0x10))
			}
		}
	}()
	cfg := w.config()
	cfg.Rings = 4
	s := w.open(cfg)
	on := s.rings[0].handle.on
	rec := w.start(s)
	until(t, "1000 connections", func() bool { return len(rec.all()) >= 1000 })
	close(stop)
	<-stopped
	s.Close()
	n := s.Stats()
	if n.First < on {
		t.Errorf("a frame from %v before the filter was on", event.Time.Sub(on, n.First))
	}
	if got := n.Reasons[decode.NotOpening]; got != 0 {
		t.Errorf("%d of %d frames came past the filter", got, n.Frames)
	}
	last := make(map[uint16]event.Time)
	for _, c := range rec.all() {
		if at, ok := last[c.Src.Port()]; ok && c.Time == at {
			t.Fatalf("port %d reported twice at %d", c.Src.Port(), at)
		}
		last[c.Src.Port()] = c.Time
	}
	var early uint64
	for _, r := range n.Rings {
		early += r.Early
	}
	t.Logf("%d frames, %d early", n.Frames, early)
}

// TestLiveEarlyFrames has the filter come into force later than the frames in the ring.
func TestLiveEarlyFrames(t *testing.T) {
	w := newWire(t)
	s := w.open(w.config())
	s.rings[0].handle.on = event.TimeOf(time.Now().Add(time.Hour)) // as after a step of the clock, too
	w.send(synFrame(1), synFrame(2), synFrame(3))
	ring := &s.rings[0].handle.ring
	until(t, "the frames to be in the ring", func() bool { return ring.enter() > 0 })
	rec := w.start(s)
	until(t, "frames to be found early", func() bool { return s.Stats().Rings[0].Early > 0 })
	port := uint16(100)
	until(t, "a connection once the ring was empty", func() bool {
		time.Sleep(2 * pollMillis * time.Millisecond)
		port++
		w.send(synFrame(port))
		return len(rec.all()) > 0
	})
	if c := rec.all()[0]; c.Src.Port() <= 100 {
		t.Errorf("connection from port %d, which came early", c.Src.Port())
	}
}

// TestLiveDrops overfills a ring that nobody reads.
func TestLiveDrops(t *testing.T) {
	w := newWire(t)
	cfg := w.config()
	cfg.BlockSize, cfg.Blocks = minBlockSize, 2
	s := w.open(cfg)
	for i := range uint16(5000) {
		w.send(synFrame(i))
	}
	frames := 5000 - w.lost()
	rec := w.start(s)
	until(t, "the drops to be counted", func() bool {
		r := s.Stats().Rings[0]
		return r.Received > 0 && r.Frames == r.Received
	})
	s.Close()
	r := s.Stats().Rings[0]
	if r.Received+r.Dropped != frames || r.Dropped == 0 || r.Frozen == 0 {
		t.Errorf("received %d and dropped %d of %d frames, frozen %d times", r.Received, r.Dropped, frames, r.Frozen)
	}
	if got := uint64(len(rec.all())); got != frames-r.Dropped {
		t.Errorf("%d connections, want the %d frames that were not dropped", got, frames-r.Dropped)
	}
}

// TestLiveFanout sends both first frames of many flows: each flow is found once, which
// takes that no ring sees another's frames and that both directions meet in one.
func TestLiveFanout(t *testing.T) {
	const flows = 2000
	w := newWire(t)
	cfg := w.config()
	cfg.Rings, cfg.HashFanOut = 4, true
	s := w.open(cfg)
	rec := w.start(s)
	for i := range uint16(flows) {
		w.send(handshake(i+1, i%2 == 1)...)
		if i%100 == 99 { // more at once might not find room on their way
			until(t, "the frames sent", func() bool { return s.Stats().Frames >= 2*uint64(i+1) })
		}
	}
	s.Close()
	n := s.Stats()
	seen := make(map[uint16]int)
	for _, c := range rec.all() {
		seen[c.Src.Port()]++
		if c.Start != event.SYN {
			t.Errorf("%v: the answer came without its SYN", c.Src)
		}
	}
	if len(seen) != flows || len(rec.all()) != flows || n.Frames != 2*flows {
		t.Errorf("%d connections of %d flows from %d frames, want %d of %d", len(rec.all()), len(seen), n.Frames, flows, flows)
	}
	if len(rec.rings) != 4 {
		t.Errorf("connections by ring %v, want some on each of 4", rec.rings)
	}
}

// handshake returns a SYN from the given port and the SYN+ACK that answers it. Over IPv6
// each direction has a flow label of its own, as usual.
func handshake(port uint16, v6 bool) [][]byte {
	syn := synFrame(port)
	if v6 {
		ip := []byte{0x60, 1, byte(port >> 8), byte(port), 0, 20, 6, 64}
		ip = append(ip, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7)
		ip = append(ip, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23)
		syn = append(append(append(append([]byte(nil), syn[:12]...), 0x86, 0xdd), ip...), syn[34:]...)
	}
	back := append([]byte(nil), syn...)
	addrs, size := 26, 4
	if v6 {
		addrs, size = 22, 16
		back[15] = 7
	}
	tcp := addrs + 2*size
	copy(back[addrs:], syn[addrs+size:tcp])
	copy(back[addrs+size:], syn[addrs:addrs+size])
	copy(back[tcp:], syn[tcp+2:tcp+4])
	copy(back[tcp+2:], syn[tcp:tcp+2])
	back[tcp+11], back[tcp+13] = 2, 0x12 // acknowledges 2
	return [][]byte{syn, back}
}

// TestLiveFragments: the fragments of a datagram meet in one ring, though only the first has ports.
func TestLiveFragments(t *testing.T) {
	const datagrams = 300
	w := newWire(t)
	cfg := w.config()
	cfg.Rings = 4
	s := w.open(cfg)
	rec := w.start(s)
	for i := range uint16(datagrams) {
		whole := answerFrame()
		binary.BigEndian.PutUint16(whole[32:], i) // the client
		first, last := append([]byte(nil), whole[:34+24]...), append(append([]byte(nil), whole[:34]...), whole[34+24:]...)
		first[20], last[20], last[21] = 0x20, 0, 24/8
		binary.BigEndian.PutUint16(first[16:], uint16(len(first)-14))
		binary.BigEndian.PutUint16(last[16:], uint16(len(last)-14))
		w.send(first, last)
		if i%50 == 49 {
			until(t, "the frames sent", func() bool { return s.Stats().Frames >= 2*uint64(i+1) })
		}
	}
	s.Close()
	if n := s.Stats(); n.Counters.Reassembled != datagrams || len(rec.lookups) != datagrams {
		t.Errorf("%d reassembled, %d lookups of %d datagrams", n.Counters.Reassembled, len(rec.lookups), datagrams)
	}
}

func TestLiveOutgoing(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		t.Run(fmt.Sprint("ignore ", ignore), func(t *testing.T) {
			w := newWire(t)
			cfg := w.config()
			cfg.Device, cfg.IgnoreOutgoing, cfg.Rings = "near", ignore, 2
			s := w.open(cfg)
			rec := w.start(s)
			w.send(synFrame(1)) // goes out of near
			far, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(far)
			l, err := netlink.LinkByName("mirror")
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendto(far, synFrame(2), 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
				t.Fatal(err)
			}
			want := map[uint16]bool{1: !ignore, 2: true}
			until(t, "the incoming connection", func() bool {
				all := rec.all()
				return len(all) > 0 && (ignore || len(all) == 2)
			})
			for _, c := range rec.all() {
				if !want[c.Src.Port()] {
					t.Errorf("a connection from port %d", c.Src.Port())
				}
			}
		})
	}
}

// TestLiveLoopback: a loopback interface hands each frame over twice, out and in.
func TestLiveLoopback(t *testing.T) {
	w := newWire(t)
	w.set("lo", true)
	cfg := w.config()
	cfg.Device, cfg.Prefilter = "lo", PrefilterSocket
	s := w.open(cfg)
	rec := w.start(s)
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	from, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	const datagrams = 10
	for range datagrams {
		if _, err := from.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all datagrams", func() bool { return s.Stats().Frames >= datagrams })
	s.Close()
	if n := s.Stats().Frames; n != datagrams || len(rec.all()) != 1 {
		t.Errorf("%d frames and %d connections, want %d and 1", n, len(rec.all()), datagrams)
	}
}

// TestLiveRawIP captures on an interface whose frames have no link header.
func TestLiveRawIP(t *testing.T) {
	w := newWire(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "tun9"
	tun := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, Flags: netlink.TUNTAP_DEFAULTS}
	if err := netlink.LinkAdd(tun); err != nil {
		skip(t, "no tun interface: %v", err)
	}
	defer tun.Fds[0].Close()
	w.set("tun9", true)
	cfg := w.config()
	cfg.Device = "tun9"
	rec := w.start(w.open(cfg))
	// A tun interface reads what it is to receive from the descriptor.
	if _, err := tun.Fds[0].Write(append([]byte{0, 0, 8, 0}, synFrame(9)[14:]...)); err != nil {
		t.Fatal(err)
	}
	until(t, "a connection", func() bool { return len(rec.all()) == 1 })
	if c := rec.all()[0]; c.Src.Port() != 9 || c.MAC != (event.MAC{}) {
		t.Errorf("connection %+v", c)
	}
}

func TestLiveErrors(t *testing.T) {
	w := newWire(t)
	cfg := w.config()
	cfg.Device = "eth9"
	_, err := Open(cfg)
	if want := "open eth9: no such interface; there are lo, mirror, near"; !errors.Is(err, ErrNoInterface) || err.Error() != want {
		t.Errorf("missing interface: %v, want %s", err, want)
	}
	w.set("mirror", false)
	if _, err := Open(w.config()); !errors.Is(err, ErrDown) {
		t.Errorf("interface down: %v", err)
	}
	w.set("mirror", true)
	cfg = w.config()
	cfg.Rings = 0
	if _, err := Open(cfg); err == nil {
		t.Error("opened without rings")
	}
	// A thread without capabilities, in the same namespace; it dies with its goroutine.
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(w.ns)
		if err == nil {
			h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			err = unix.Capset(&h, &none[0])
		}
		if err == nil {
			_, err = Open(w.config())
		}
		result <- err
	}()
	if err := <-result; !errors.Is(err, unix.EPERM) {
		t.Errorf("without capabilities: %v, want it to wrap EPERM", err)
	}
}

func TestLinkType(t *testing.T) {
	for hardware, want := range map[uint16]decode.LinkType{
		unix.ARPHRD_ETHER: decode.Ethernet, unix.ARPHRD_LOOPBACK: decode.Ethernet, unix.ARPHRD_NONE: decode.Raw,
	} {
		if got, err := (link{hardware: hardware}).linkType(); got != want || err != nil {
			t.Errorf("hardware type %d: link type %d, %v; want %d", hardware, got, err, want)
		}
	}
	if _, err := (link{hardware: unix.ARPHRD_IEEE80211_RADIOTAP}).linkType(); !errors.Is(err, ErrLinkType) {
		t.Errorf("802.11: %v", err)
	}
}

func TestFindLink(t *testing.T) {
	links, err := netlink.LinkList()
	if err != nil {
		t.Skip(err) // nothing to compare with
	}
	for _, want := range links {
		a := want.Attrs()
		got, err := findLink(a.Name)
		if err != nil {
			t.Errorf("%s: %v", a.Name, err)
			continue
		}
		if got.index != a.Index || got.flags != a.RawFlags {
			t.Errorf("%s: index %d flags %#x, want %d and %#x", a.Name, got.index, got.flags, a.Index, a.RawFlags)
		}
	}
	// struct rtnl_link_stats64, each counter with its place for a value
	b := make([]byte, 25*8)
	for i := range 25 {
		binary.NativeEndian.PutUint64(b[8*i:], uint64(i))
	}
	if got, want := interfaceCounts(b), (Interface{Errors: 4, Dropped: 6, Missed: 15, Overrun: 14}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	if got := interfaceCounts(b[:50]); got != (Interface{Errors: 4}) {
		t.Errorf("counts of a short structure %+v", got)
	}
}

func TestInterfaceSince(t *testing.T) {
	last := Interface{Dropped: 10, Missed: 10, Errors: 10}
	if got, want := (Interface{Dropped: 11, Missed: 10, Errors: 3}).since(last), (Interface{Dropped: 1, Errors: 3}); got != want {
		t.Errorf("since %+v: %+v, want %+v", last, got, want)
	}
}

// TestSensorInterface counts from Open on, and over an interface that is replaced.
func TestSensorInterface(t *testing.T) {
	s := &Sensor{last: Interface{Dropped: 100}}
	for _, dropped := range []uint64{103, 103, 2} {
		s.countInterface(Interface{Dropped: dropped})
	}
	if got := s.Stats().Interface; got != (Interface{Dropped: 5}) {
		t.Errorf("counts %+v, want 5 dropped", got)
	}
}

// TestAfpacketInternals guards the two fields of the library that openHandle reads.
func TestAfpacketInternals(t *testing.T) {
	typ := reflect.TypeFor[afpacket.TPacket]()
	for name, want := range map[string]reflect.Type{"fd": reflect.TypeFor[int](), "ring": reflect.TypeFor[[]byte]()} {
		if f, ok := typ.FieldByName(name); !ok || f.Type != want {
			t.Errorf("afpacket.TPacket has no field %s of type %v", name, want)
		}
	}
}
