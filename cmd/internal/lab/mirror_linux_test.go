package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portolan/sensor/event"
)

// seen is one frame on the mirror, as far as the tests care.
type seen struct {
	proto    event.Proto
	src, dst netip.AddrPort
	syn, ack bool
	seq      uint32   // TCP
	dns      *dns.Msg // over UDP to or from the DNS server
	bytes    int      // of payload
}

// tap collects the frames of a device in the calling thread's namespace with a packet socket, and
// knows nothing of how the sensor does that.
type tap struct {
	fd     int
	stop   atomic.Bool
	ended  chan error
	frames [][]byte
}

func newTap(device string) (*tap, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return nil, err
	}
	all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return nil, err
	}
	t := &tap{fd: fd, ended: make(chan error, 1)}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	go func() { t.ended <- t.read() }()
	return t, nil
}

func (t *tap) read() error {
	b := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(t.fd, b, 0)
		switch {
		case err == nil:
			t.frames = append(t.frames, slices.Clone(b[:n]))
		case errors.Is(err, unix.EAGAIN):
			if t.stop.Load() { // and nothing left in the queue
				return nil
			}
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// close returns what was seen, in order, and an error if the socket lost any.
func (t *tap) close() ([]seen, error) {
	t.stop.Store(true)
	if err := errors.Join(<-t.ended); err != nil {
		return nil, err
	}
	st, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && st.Drops > 0 {
		err = fmt.Errorf("the test's own socket dropped %d frames", st.Drops)
	}
	if err = errors.Join(err, unix.Close(t.fd)); err != nil {
		return nil, err
	}
	var all []seen
	for _, f := range t.frames {
		if s, ok := parse(f); ok {
			all = append(all, s)
		}
	}
	return all, nil
}

func parse(frame []byte) (s seen, ok bool) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	ip, isIP := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if !isIP {
		return s, false
	}
	src, dst := netip.AddrFrom4([4]byte(ip.SrcIP)), netip.AddrFrom4([4]byte(ip.DstIP))
	if tcp, isTCP := p.Layer(layers.LayerTypeTCP).(*layers.TCP); isTCP {
		s = seen{proto: event.TCP, syn: tcp.SYN, ack: tcp.ACK, seq: tcp.Seq, bytes: len(tcp.Payload)}
		s.src = netip.AddrPortFrom(src, uint16(tcp.SrcPort))
		s.dst = netip.AddrPortFrom(dst, uint16(tcp.DstPort))
		return s, true
	}
	udp, isUDP := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if !isUDP {
		return s, false
	}
	s = seen{proto: event.UDP, bytes: len(udp.Payload)}
	s.src = netip.AddrPortFrom(src, uint16(udp.SrcPort))
	s.dst = netip.AddrPortFrom(dst, uint16(udp.DstPort))
	if at := netip.AddrPortFrom(netip.MustParseAddr(dnsServer), 53); s.src == at || s.dst == at {
		s.dns = new(dns.Msg)
		if s.dns.Unpack(udp.Payload) != nil {
			s.dns = nil
		}
	}
	return s, true
}

// holds reports whether a DNS answer has the operand of a contact.
func holds(m *dns.Msg, c Contact) bool {
	return slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
		switch rr := rr.(type) {
		case *dns.A:
			return c.Answer == netip.AddrFrom4([4]byte(rr.A.To4()))
		case *dns.TXT:
			return rr.Txt[0] == c.Text
		}
		return false
	})
}

func count(all []seen, is func(seen) bool) (n int) {
	for _, s := range all {
		if is(s) {
			n++
		}
	}
	return n
}

func TestMirrorCarriesBothDirections(t *testing.T) {
	inSpace(t, func() error {
		cfg := short()
		l, err := Start(t.Context(), cfg)
		if err != nil {
			return err
		}
		defer l.Close()
		tap, err := newTap(l.MirrorDevice())
		if err != nil {
			return err
		}
		ran := l.Run(t.Context())
		all, err := tap.close()
		if err := errors.Join(ran, err); err != nil {
			return err
		}

		truth := l.Truth()
		if want := len(families()) * cfg.Contacts; len(truth) != want {
			t.Errorf("%d contacts, want %d", len(truth), want)
		}
		for _, c := range truth {
			checkOnWire(t, all, c)
		}
		checkTraffic(t, all, l.Traffic(), truth)
		return nil
	})
}

// checkOnWire wants a contact's lookup, query first, and its handshake on the mirror, in this order.
func checkOnWire(t *testing.T, all []seen, c Contact) {
	opens := func(s seen) bool {
		return s.proto == c.Proto && s.src == c.Source && s.dst == c.Destination && (s.syn && !s.ack || c.Proto == event.UDP)
	}
	at := slices.IndexFunc(all, opens)
	if at < 0 {
		t.Errorf("%s %s → %s: its first packet is not on the mirror", c.Family, c.Source, c.Destination)
		return
	}
	if n := count(all, opens); n != 1 {
		t.Errorf("%s %s → %s: its first packet is on the mirror %d times", c.Family, c.Source, c.Destination, n)
	}
	response := slices.IndexFunc(all[:at], func(s seen) bool {
		return s.dns != nil && s.dns.Response && s.dst.Addr() == c.Source.Addr() && holds(s.dns, c)
	})
	if response < 0 {
		t.Errorf("%s %s → %s: no answer %s%s before it", c.Family, c.Source, c.Destination, c.Answer, c.Text)
		return
	}
	r := all[response]
	if slices.IndexFunc(all[:response], func(s seen) bool {
		return s.dns != nil && !s.dns.Response && s.dns.Id == r.dns.Id && s.src == r.dst && s.dst == r.src
	}) < 0 {
		t.Errorf("%s %s → %s: no query before the answer", c.Family, c.Source, c.Destination)
	}
	if c.Proto == event.TCP && slices.IndexFunc(all[at:], func(s seen) bool {
		return s.proto == event.TCP && s.src == c.Destination && s.dst == c.Source && s.syn && s.ack
	}) < 0 {
		t.Errorf("%s %s → %s: no SYN+ACK after the SYN", c.Family, c.Source, c.Destination)
	}
	if c.Time < c.Answered || c.Answered == 0 {
		t.Errorf("%s %s → %s: connected at %d, answered at %d", c.Family, c.Source, c.Destination, c.Time, c.Answered)
	}
}

// checkTraffic wants on the mirror what the clients counted, and each benign kind of it.
func checkTraffic(t *testing.T, all []seen, counted Traffic, truth []Contact) {
	resolver := netip.AddrPortFrom(netip.MustParseAddr(dnsServer), 53)
	tcpLookups := count(all, func(s seen) bool { return s.proto == event.TCP && s.dst == resolver && s.syn && !s.ack })
	udpLookups := count(all, func(s seen) bool { return s.dns != nil && s.dns.Response })
	if got := udpLookups + tcpLookups; uint64(got) != counted.Lookups {
		t.Errorf("%d lookups on the mirror, clients count %d", got, counted.Lookups)
	}
	// Ports are used again within seconds, so four-tuples alone do not tell connections apart.
	type opening struct {
		src, dst netip.AddrPort
		seq      uint32
	}
	opened, datagrams := make(map[opening]bool), 0
	for _, s := range all {
		switch {
		case !lanPrefix.Contains(s.src.Addr()) || s.dst == resolver:
		case s.proto == event.UDP:
			datagrams++ // each exchange is one datagram, and at most one back
		case s.syn && !s.ack:
			opened[opening{s.src, s.dst, s.seq}] = true
		}
	}
	if got := len(opened) + datagrams; uint64(got) != counted.Connections {
		t.Errorf("%d connections on the mirror, clients count %d", got, counted.Connections)
	}
	if tcpLookups == 0 {
		t.Error("no lookup over TCP on the mirror")
	}
	if count(all, func(s seen) bool { return s.proto == event.TCP && s.src == resolver && s.bytes > dns.MinMsgSize }) == 0 {
		t.Error("no large answer over TCP on the mirror")
	}
	for _, port := range []uint16{apiPort, adminPort, chatPort, playPort, metricsPort} {
		if count(all, func(s seen) bool { return s.src.Port() == port && s.bytes > 0 }) == 0 {
			t.Errorf("no response from TCP port %d on the mirror", port)
		}
	}
	for _, port := range []uint16{123, 443, trackerPort} {
		if count(all, func(s seen) bool { return s.proto == event.UDP && s.src.Port() == port }) == 0 {
			t.Errorf("no response from UDP port %d on the mirror", port)
		}
	}
	for _, f := range families() {
		if !slices.ContainsFunc(truth, func(c Contact) bool { return c.Family == f.name }) {
			t.Errorf("no contact of %s", f.name)
		}
	}
}

// Nothing leads out of the lab: its links are its own, and the mirror's far end cannot be routed to.
func TestNoWayOut(t *testing.T) {
	inSpace(t, func() error {
		l, err := Start(t.Context(), short())
		if err != nil {
			return err
		}
		defer l.Close()
		for _, tt := range []struct {
			name  string
			space *space
			links []string
		}{
			{"clients", l.net.clients, []string{"lan", "lo"}},
			{"router", l.net.router, []string{"lan", "lo", "mirror", "wan"}},
			{"servers", l.net.server, []string{"lo", "wan"}},
		} {
			err := tt.space.do(func() error {
				f, err := findTraces()
				slices.Sort(f.links)
				if !slices.Equal(f.links, tt.links) {
					t.Errorf("%s: links %v, want %v", tt.name, f.links, tt.links)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", tt.name, err)
			}
		}
		if err := l.net.router.do(func() error { return checkUnreachable(t, "mirror") }); err != nil {
			return err
		}
		return checkUnreachable(t, l.MirrorDevice())
	})
}

// checkUnreachable wants a device up without address, route, ARP and IPv6.
func checkUnreachable(t *testing.T, device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	if f := link.Attrs().RawFlags; f&unix.IFF_UP == 0 || f&unix.IFF_NOARP == 0 {
		t.Errorf("%s: flags %#x, want up and without ARP", device, f)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{
		LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC,
	}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	if len(addrs) != 0 || len(routes) != 0 {
		t.Errorf("%s: addresses %v, routes %v, want none", device, addrs, routes)
	}
	return nil
}
