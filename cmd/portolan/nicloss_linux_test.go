//go:build cgo

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
	"portolan/correlate"
	"portolan/sensor"
)

// sensing is a sensor with its pipeline and monitor on a device in a wire's namespace.
type sensing struct {
	t     *testing.T
	wire  *lab.Wire
	s     *sensor.Sensor
	line  *pipeline
	watch *monitor
}

// startSensing runs a sensor of one ring until the test ends.
func startSensing(t *testing.T, wire *lab.Wire, device string) *sensing {
	t.Helper()
	cfg := config.Default()
	cfg.Sensor, cfg.StateDir, cfg.NATS = "tester", t.TempDir(), config.NATS{Listen: "127.0.0.1:0"}
	cfg.Correlate.MemoryBytes = 16 << 20
	b, err := openBus(t.Context(), &cfg, slog.New(slog.DiscardHandler), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	c := cfg.Capture
	c.Device, c.Rings = device, 1
	x := &sensing{t: t, wire: wire}
	if err := wire.Do(func() (err error) { x.s, err = sensor.Open(c); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.s.Close() })
	if x.line, err = newPipeline(&cfg, device, b, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := wire.Do(func() error { return x.s.Run(ctx, x.line.newSink) }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	x.watch = newMonitor(x.line, []*sensor.Sensor{x.s}, io.Discard, slog.New(slog.DiscardHandler))
	return x
}

// sender returns a socket that sends on the near end.
func nearSocket(t *testing.T, wire *lab.Wire) int {
	t.Helper()
	socket := -1
	err := wire.Do(func() (err error) {
		near, err := netlink.LinkByName(lab.NearDevice)
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
			return err
		}
		return unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: near.Attrs().Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	return socket
}

// synOf returns the SYN of one more connection, with so many bytes of data behind it.
func synOf(t *testing.T, i, data int) []byte {
	t.Helper()
	return frameTo(t, addrOf(0x0A010001+uint32(i%200)), netip.MustParseAddr("198.51.100.9"),
		&layers.TCP{SrcPort: layers.TCPPort(1024 + i), DstPort: 443, Seq: uint32(i), SYN: true, Window: 64240}, gopacket.Payload(make([]byte, data)))
}

// says checks that a record and a hit report losses at the NIC, and there alone, within 1 % of the truth.
func (x *sensing) says(truth uint64) {
	x.t.Helper()
	x.watch.look()
	s := x.watch.snapshot()
	record := x.watch.makeRecord(time.Now(), &s)
	hit, _ := x.line.judged(&correlate.Hit{})
	for what, loss := range map[string]bus.Loss{"the record": record.Loss, "a hit": hit.Loss} {
		if loss.Ring != 0 || math.Abs(float64(loss.NIC)-float64(truth)) > float64(truth)/100 {
			x.t.Errorf("%d frames were dropped before the ring, and %s says %+v", truth, what, loss)
		}
	}
	for what, why := range map[string][]string{"the record": record.Why, "a hit": hit.Why} {
		if !strings.Contains(strings.Join(why, "; "), "loss.nic: ") {
			x.t.Errorf("%s does not name loss.nic: %s", what, why)
		}
	}
	x.t.Logf("%d dropped, reported %d, read from %s; %s", truth, record.Loss.NIC, record.Counter, strings.Join(record.Why, "; "))
}

// TestAdapterLossIsReported sends every eighth frame longer than the device takes: it drops and counts them before any socket sees them.
func TestAdapterLossIsReported(t *testing.T) {
	needWire(t)
	wire, err := lab.NewWire(lab.MixSYN, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	err = wire.Do(func() error {
		near, err := netlink.LinkByName(lab.NearDevice)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(near, 4000)
	})
	if err != nil {
		t.Fatal(err)
	}
	x := startSensing(t, wire, lab.WireDevice)
	socket := nearSocket(t, wire)
	dropped := uint64(0)
	for i := range 4000 {
		n := 0
		if i%8 == 0 {
			n = 2000
			dropped++
		}
		if _, err := unix.Write(socket, synOf(t, i, n)); err != nil && (n == 0 || !errors.Is(err, unix.ENOBUFS)) {
			t.Fatal(err) // ENOBUFS is how a virtual pair says that its other end dropped the frame
		}
	}
	soon(t, "all frames to be counted", func() bool {
		n := x.s.Stats()
		return n.Frames == 4000-dropped && n.Interface.Lost() >= dropped
	})
	x.says(dropped)
}

// TestQueueLossIsReported has a queueing discipline that is too small drop some of what is mirrored to an ifb.
func TestQueueLossIsReported(t *testing.T) {
	needWire(t)
	wire, err := lab.NewWire(lab.MixSYN, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	const device, frames = "ifb0", 6000
	if err := wire.Do(func() error { return mirrorToIFB(device) }); err != nil {
		t.Fatal(err)
	}
	x := startSensing(t, wire, device)
	socket := nearSocket(t, wire)
	for i := range frames {
		write(t, socket, synOf(t, i, 0))
		if i%20 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	soon(t, "all frames to be accounted for", func() bool {
		n := x.s.Stats()
		return n.Frames+n.Interface.Queue == frames
	})
	dropped := frames - x.s.Stats().Frames // what did not arrive, whatever anybody counts
	if dropped < frames/100 {
		t.Fatalf("the queue dropped %d of %d", dropped, frames)
	}
	x.says(dropped)
}

// mirrorToIFB redirects what comes in on the wire's far end to an ifb, in front of which a token bucket holds few frames.
func mirrorToIFB(device string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = device
	ifb := &netlink.Ifb{LinkAttrs: attrs}
	if err := netlink.LinkAdd(ifb); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(ifb); err != nil {
		return err
	}
	out, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	far, err := netlink.LinkByName(lab.WireDevice)
	if err != nil {
		return err
	}
	err = netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: out.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       500_000, Limit: 2000, Buffer: 4000,
	})
	if err != nil {
		return err
	}
	if err := netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: far.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}); err != nil {
		return err
	}
	redirect := netlink.NewMirredAction(out.Attrs().Index)
	return netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: far.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{redirect},
	})
}

// TestGapsAreReported takes the link away, renames the interface, and replaces it, under load: the sensor goes on by
// itself, and the record says from when to when there was nothing to see.
func TestGapsAreReported(t *testing.T) {
	needWire(t)
	wire, err := lab.NewWire(lab.MixSYN, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	x := startSensing(t, wire, lab.WireDevice)
	goesOn := func(when string) {
		t.Helper()
		was := x.s.Stats().Frames
		if err := wire.Send(2000); err != nil {
			t.Fatal(err)
		}
		soon(t, "frames "+when, func() bool { return x.s.Stats().Frames > was })
	}
	over := func(n int) func() bool {
		return func() bool {
			gaps := x.s.Stats().Gaps
			return len(gaps) >= n && !gaps[len(gaps)-1].To.IsZero()
		}
	}
	goesOn("in the beginning")
	for range 3 { // it flaps
		if err := wire.SetUp(false); err != nil {
			t.Fatal(err)
		}
		soon(t, "a gap", func() bool {
			gaps := x.s.Stats().Gaps
			return len(gaps) > 0 && gaps[len(gaps)-1].To.IsZero()
		})
		if err := wire.SetUp(true); err != nil {
			t.Fatal(err)
		}
	}
	goesOn("after the link flapped")
	soon(t, "the end of the gap", over(1))
	if err := wire.Stop(); err != nil {
		t.Fatal(err)
	}
	down := len(x.s.Stats().Gaps)

	if err := wire.Do(func() error { return rename(lab.WireDevice, "other") }); err != nil {
		t.Fatal(err)
	}
	socket, was := nearSocket(t, wire), x.s.Stats().Frames
	soon(t, "frames under another name", func() bool {
		if _, err := unix.Write(socket, synOf(t, int(time.Now().UnixNano()&0x7fff), 0)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err) // ENOBUFS while the far end is not ready
		}
		return x.s.Stats().Frames > was
	})
	if err := wire.Do(func() error { return rename("other", lab.WireDevice) }); err != nil {
		t.Fatal(err)
	}
	soon(t, "the link to be up again", over(down))
	if err := wire.Replace(); err != nil {
		t.Fatal(err)
	}
	goesOn("of another interface")
	soon(t, "the end of the last gap", over(down+1))

	s := x.watch.snapshot()
	record := x.watch.makeRecord(time.Now(), &s)
	n := len(record.Gaps)
	if n < 2 || record.Gaps[0].Cause != sensor.GapLink || record.Gaps[n-1].Cause != sensor.GapInterface {
		t.Fatalf("gaps %+v", record.Gaps)
	}
	for i, g := range record.Gaps {
		if g.To == nil || g.To.Before(g.From) || g.From.Before(x.watch.start.Add(-2*time.Second)) || i > 0 && g.From.Before(record.Gaps[i-1].From) {
			t.Errorf("gap %d: %+v", i, g)
		}
	}
	if record.Wire.Reopens != 1 || record.Wire.LinkDowns == 0 || !strings.Contains(strings.Join(record.Why, "; "), "link.down: no link for") {
		t.Errorf("%+v by %q, %v", record.Wire, record.Rule, record.Why)
	}
}

// rename gives a device of the calling thread's namespace another name. It has to be down for that on older kernels.
func rename(from, to string) error {
	l, err := netlink.LinkByName(from)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetDown(l); err != nil {
		return err
	}
	if err := netlink.LinkSetName(l, to); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
