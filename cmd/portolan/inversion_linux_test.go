//go:build cgo

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// TestLiveInversion: with four rings, hash fan-out and the kernel's default block timeout of
// 64 ms about a third of the pairs of an answer and a connection 1 ms after it
// arrive the other way round. Not one may be lost.
func TestLiveInversion(t *testing.T) {
	const pairs = 1500
	socket := newPair(t)
	cfg := sensor.DefaultConfig()
	cfg.Device, cfg.Rings, cfg.BlockTimeout, cfg.HashFanOut = "mirror", 4, 64*time.Millisecond, true
	s, err := sensor.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := correlate.New(correlate.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	all := &pairSink{c: c, told: map[netip.Addr]bool{}, pairs: map[netip.Addr]correlate.Level{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, func(int) event.BatchSink { return all }); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		running.Wait()
	}()
	// A first pair, again and again, shows that all rings are up.
	first := netip.MustParseAddr("10.255.0.1")
	all.wait(t, "the rings to come up", func() bool { return all.pairs[first] != 0 }, func() { sendPair(t, socket, first, 0) })

	for i := range pairs {
		sendPair(t, socket, addrOf(0x0A000000+uint32(i)), uint32(i+1))
	}
	all.wait(t, "the last pair", func() bool { return len(all.pairs) == pairs+1 }, func() {})
	all.mu.Lock()
	defer all.mu.Unlock()
	for client, level := range all.pairs {
		if level != correlate.Alert {
			t.Errorf("the pair of %s gave %s, want alert", client, level)
		}
	}
	t.Logf("%d of %d pairs arrived the other way round; none was lost", all.inverted, pairs)
	if all.inverted == 0 {
		t.Error("all pairs arrived in order: this shows nothing")
	}
}

// pairSink takes the events of all rings.
type pairSink struct {
	c        *correlate.Correlator
	mu       sync.Mutex
	told     map[netip.Addr]bool // clients whose answer has arrived
	pairs    map[netip.Addr]correlate.Level
	inverted int
}

func (p *pairSink) Batch(b *event.Batch) { b.Each(p) }

func (p *pairSink) Lookup(l *event.Lookup) {
	p.mu.Lock()
	p.told[l.Client.Addr()] = true
	p.mu.Unlock()
	p.take(p.c.ObserveLookup(nil, l))
}

func (p *pairSink) Connection(x *event.Connection) {
	p.mu.Lock()
	if x.Proto == event.TCP && !p.told[x.Src.Addr()] {
		p.inverted++
	}
	p.mu.Unlock()
	p.take(p.c.ObserveConnection(nil, x))
}

func (p *pairSink) take(hits []correlate.Hit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range hits {
		if h.State != correlate.Retracted {
			p.pairs[h.Client] = h.Level
		}
	}
}

// wait calls again until done, which is called with the lock held.
func (p *pairSink) wait(t *testing.T, what string, done func() bool, again func()) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		p.mu.Lock()
		ok, n := done(), len(p.pairs)
		p.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s; %d pairs so far", what, n)
		}
		again()
	}
}

func addrOf(x uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x)))
}

// sendPair sends an answer to client and, 1 ms later, the client's connection to the
// answer with its halves swapped.
func sendPair(t *testing.T, socket int, client netip.Addr, i uint32) {
	t.Helper()
	answer, start := pairFrames(t, client, i)
	write(t, socket, answer)
	time.Sleep(time.Millisecond)
	write(t, socket, start)
}

// pairFrames returns the two.
func pairFrames(t *testing.T, client netip.Addr, i uint32) (answer, start []byte) {
	t.Helper()
	ip := 0x57002D00 | i>>8<<16 | i&255 // both halves begin as a public address does
	port := layers.TCPPort(20000 + i%20000)
	answer = frameTo(t, netip.MustParseAddr("10.254.0.53"), client,
		&layers.UDP{SrcPort: 53, DstPort: layers.UDPPort(port)},
		&layers.DNS{
			ID: uint16(i), QR: true, QDCount: 1, ANCount: 1,
			Questions: []layers.DNSQuestion{{Name: []byte("c2.example"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}},
			Answers: []layers.DNSResourceRecord{{
				Name: []byte("c2.example"), Type: layers.DNSTypeA, Class: layers.DNSClassIN, TTL: 60, IP: addrOf(ip).AsSlice(),
			}},
		})
	return answer, frameTo(t, client, addrOf(ip<<16|ip>>16), &layers.TCP{SrcPort: port, DstPort: 443, Seq: i, SYN: true, Window: 64240})
}

func frameTo(t *testing.T, src, dst netip.Addr, rest ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Protocol: layers.IPProtocolTCP}
	if _, ok := rest[0].(*layers.UDP); ok {
		ip.Protocol = layers.IPProtocolUDP
	}
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{eth, ip}, rest...)
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t *testing.T, socket int, frame []byte) {
	t.Helper()
	for {
		_, err := unix.Write(socket, frame)
		if err == nil {
			return
		}
		if err != unix.ENOBUFS && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// sendDrops returns how many frames the kernel had no room for on their way to "mirror".
func sendDrops(t *testing.T) uint64 {
	t.Helper()
	l, err := netlink.LinkByName("near")
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.TxDropped
}

// newPair moves the test into a network namespace of its own with a veth pair, and returns
// a socket whose frames come out of the device "mirror".
func newPair(t *testing.T) (socket int) {
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
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatalf("no network namespace can be made: %v", err)
		}
		t.Skipf("no network namespace can be made: %v", err)
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
	// Neighbour discovery would send frames of its own.
	for _, conf := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "mirror"}
	v.Name = "near"
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	index := 0
	for _, name := range []string{"mirror", "near"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		index = l.Attrs().Index
	}
	if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	if err := unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		t.Fatal(err)
	}
	return socket
}
