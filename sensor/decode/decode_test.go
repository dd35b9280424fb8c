package decode

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

// step is a frame at a time after epoch, and what is to become of it.
type step struct {
	at   time.Duration
	data []byte
	want Reason
}

// story is frames in the order of their arrival, and the events they give.
type story struct {
	name  string
	steps []step
	want  []string // events as event.ReadText reads them, in any spacing
}

func (s *story) run(t *testing.T, d *Decoder) {
	t.Helper()
	var got log
	for i, st := range s.steps {
		if r := d.Decode(frameOf(uint64(i+1), st.at, st.data), &got); r != st.want {
			t.Errorf("frame %d ends in %v, want %v", i+1, r, st.want)
		}
	}
	compareLines(t, got.lines, s.want)
}

func compareLines(t *testing.T, got, want []string) {
	t.Helper()
	tidy := func(lines []string) string {
		var out []string
		for _, l := range lines {
			out = append(out, strings.Join(strings.Fields(l), " "))
		}
		return strings.Join(out, "\n")
	}
	if g, w := tidy(got), tidy(want); g != w {
		t.Errorf("events:\n%s\nwant:\n%s", g, w)
	}
}

func runStories(t *testing.T, stories []story) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) { s.run(t, newDecoder(t, DefaultConfig())) })
	}
}

func TestLinkTypes(t *testing.T) {
	packet := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	packet6 := ip("2001:db8::7", "2001:db8::23", protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	vlan := func(types ...uint16) (tags [][2]uint16) {
		for i, t := range types {
			tags = append(tags, [2]uint16{t, uint16(0xe000 | 12 + i)}) // priority 7
		}
		return tags
	}
	sll := join(u16(0, 1, 6), clientMAC[:], []byte{0, 0})
	sll2 := join(make([]byte, 8), u16(1), []byte{0, 6}, clientMAC[:], []byte{0, 0})
	snap := []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}
	wifi := join(u16(0x8801, 0), make([]byte, 6), clientMAC[:], serverMAC[:], make([]byte, 4), snap)
	tests := []struct {
		name  string
		frame Frame
		zone  string
		mac   event.MAC
	}{
		{"Ethernet", Frame{Link: Ethernet, Data: ethernet(packet)}, "3", clientMAC},
		{"Ethernet, IPv6", Frame{Link: Ethernet, Data: ethernet(packet6)}, "3", clientMAC},
		{"802.1Q", Frame{Link: Ethernet, Data: ethernet(packet, vlan(0x8100)...)}, "3/vlan12", clientMAC},
		{"802.1ad: the outer tag counts", Frame{Link: Ethernet, Data: ethernet(packet, vlan(0x88a8, 0x8100)...)}, "3/vlan12", clientMAC},
		{"Q-in-Q as it was before", Frame{Link: Ethernet, Data: ethernet(packet, vlan(0x9100, 0x8100)...)}, "3/vlan12", clientMAC},
		{"priority tag: no VLAN", Frame{Link: Ethernet, Data: ethernet(packet, [2]uint16{0x8100, 0xe000})}, "3", clientMAC},
		{"tag taken off by the kernel", Frame{Link: Ethernet, Data: ethernet(packet), HasVLAN: true, VLAN: 0x2007}, "3/vlan7", clientMAC},
		{"tag taken off is the outer one", Frame{Link: Ethernet, Data: ethernet(packet, vlan(0x8100)...), HasVLAN: true, VLAN: 7}, "3/vlan7", clientMAC},
		{"VLAN without HasVLAN is nothing", Frame{Link: Ethernet, Data: ethernet(packet), VLAN: 7}, "3", clientMAC},
		{"eight tags", Frame{Link: Ethernet, Data: ethernet(packet, vlan(slices.Repeat([]uint16{0x8100}, 8)...)...)}, "3/vlan12", clientMAC},
		{"SNAP", Frame{Link: Ethernet, Data: join(ethernet(packet)[:12], u16(60), []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, packet)}, "3", clientMAC},
		{"SLL", Frame{Link: SLL, Data: join(sll, u16(etherIPv4), packet)}, "3", clientMAC},
		{"SLL with a tag", Frame{Link: SLL, Data: join(sll, u16(etherVLAN, 9, etherIPv4), packet)}, "3/vlan9", clientMAC},
		{"SLL2", Frame{Link: SLL2, Data: join(u16(etherIPv6, 0), sll2[4:], packet6)}, "3", clientMAC},
		{"raw, IPv4", Frame{Link: Raw, Data: packet}, "3", event.MAC{}},
		{"raw, IPv6", Frame{Link: Raw, Data: packet6}, "3", event.MAC{}},
		{"raw as 12", Frame{Link: Raw12, Data: packet}, "3", event.MAC{}},
		{"raw as 14", Frame{Link: Raw14, Data: packet6}, "3", event.MAC{}},
		{"raw IPv4", Frame{Link: IPv4, Data: packet}, "3", event.MAC{}},
		{"raw IPv6", Frame{Link: IPv6, Data: packet6}, "3", event.MAC{}},
		{"BSD loopback, little-endian", Frame{Link: Null, Data: join([]byte{2, 0, 0, 0}, packet)}, "3", event.MAC{}},
		{"BSD loopback, big-endian", Frame{Link: Null, Data: join([]byte{0, 0, 0, 30}, packet6)}, "3", event.MAC{}},
		{"PPP", Frame{Link: PPP, Data: join(u16(0x21), packet)}, "3", event.MAC{}},
		{"PPP with address and control, IPv6 in MPLS", Frame{Link: PPP, Data: join(u16(0xff03, 0x0281), []byte{0, 0x10, 1, 64}, packet6)}, "3", event.MAC{}},
		{"PPP in HDLC", Frame{Link: PPPHDLC, Data: join(u16(0xff03, 0x57), packet6)}, "3", event.MAC{}},
		{"PPPoE from its own header on", Frame{Link: PPPEther, Data: join([]byte{0x11, 0, 0, 7, 0, 42}, u16(0x21), packet)}, "3", event.MAC{}},
		{"Cisco HDLC", Frame{Link: CHDLC, Data: join(u16(0x0f00, etherIPv4), packet)}, "3", event.MAC{}},
		{"Cisco HDLC as PPP", Frame{Link: PPPHDLC, Data: join(u16(0x8f00, etherVLAN, 12, etherIPv6), packet6)}, "3/vlan12", event.MAC{}},
		{"FDDI", Frame{Link: FDDI, Data: join([]byte{0x50}, serverMAC[:], clientMAC[:], snap, packet)}, "3", clientMAC},
		{"802.11 within a cell", Frame{Link: WiFi, Data: join(u16(0x0800, 0), serverMAC[:], clientMAC[:], make([]byte, 8), snap, packet)}, "3", clientMAC},
		{"802.11 to the access point", Frame{Link: WiFi, Data: join(u16(0x0801, 0), make([]byte, 6), clientMAC[:], serverMAC[:], make([]byte, 2), snap, packet)}, "3", clientMAC},
		{"802.11 from the access point", Frame{Link: WiFi, Data: join(u16(0x0802, 0), serverMAC[:], make([]byte, 6), clientMAC[:], make([]byte, 2), snap, packet)}, "3", clientMAC},
		{"802.11 between access points, QoS and HT control", Frame{Link: WiFi, Data: join(u16(0x8883, 0), make([]byte, 12), serverMAC[:], make([]byte, 2), clientMAC[:], make([]byte, 6), snap, packet)}, "3", clientMAC},
		{"802.11 behind radiotap", Frame{Link: Radiotap, Data: join([]byte{0, 0, 12, 0}, make([]byte, 8), wifi, packet)}, "3", clientMAC},
		{"802.11 behind Prism", Frame{Link: Prism, Data: join(make([]byte, 144), wifi, packet)}, "3", clientMAC},
		{"802.11 behind AVS", Frame{Link: AVS, Data: join(u16(0x8021, 0x1001, 0, 64), make([]byte, 56), wifi, packet)}, "3", clientMAC},
		{"802.11 behind per-packet information", Frame{Link: PPI, Data: join([]byte{0, 0, 12, 0, 105, 0, 0, 0, 1, 2, 3, 4}, wifi, packet)}, "3", clientMAC},
		{"Ethernet behind per-packet information", Frame{Link: PPI, Data: join([]byte{0, 0, 8, 0, 1, 0, 0, 0}, ethernet(packet))}, "3", clientMAC},
		{"netfilter log", Frame{Link: NFLOG, Data: join([]byte{2, 0, 0, 0, 5, 0, 10, 0, 'x', 0, 0, 0, byte(4 + len(packet)), 0, 9, 0}, packet)}, "3", event.MAC{}},
		{"OpenBSD loopback", Frame{Link: Loop, Data: join([]byte{0, 0, 0, 24}, packet6)}, "3", event.MAC{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.frame
			f.Len, f.Point = len(f.Data), 3
			var got []event.Connection
			if r := newDecoder(t, DefaultConfig()).Decode(&f, keep{&got}); r != Event || len(got) != 1 {
				t.Fatalf("ends in %v with %d connections, want event and 1", r, len(got))
			}
			c := got[0]
			if c.Zone.String() != tt.zone || c.MAC != tt.mac || c.Src.Port() != 49152 || c.Dst.Port() != 443 {
				t.Errorf("zone %v, MAC %q, %v to %v; want zone %s, MAC %q, port 49152 to 443",
					c.Zone, c.MAC, c.Src, c.Dst, tt.zone, tt.mac)
			}
		})
	}
}

// keep is a sink for connections.
type keep struct{ to *[]event.Connection }

func (k keep) Lookup(*event.Lookup)           {}
func (k keep) Connection(c *event.Connection) { *k.to = append(*k.to, *c) }

func TestReasons(t *testing.T) {
	whole := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	inner := ip("192.0.2.1", "192.0.2.2", protoTCP, tcp(1, 2, 1, 0, syn, nil))
	altered := func(packet []byte, at int, to byte) []byte {
		b := slices.Clone(packet)
		b[at] = to
		return b
	}
	dgram := func(sport, dport uint16, payload []byte) []byte {
		return ethernet(ip(client, server, protoUDP, udp(sport, dport, payload)))
	}
	bridged := ethernet(inner)
	tests := []struct {
		name string
		data []byte
		lost int // bytes on the wire that were not captured
		want Reason
	}{
		{"ARP", join(ethernet(whole)[:12], u16(0x0806), make([]byte, 28)), 0, NotIP},
		{"spanning tree", join(ethernet(whole)[:12], u16(38), []byte{0x42, 0x42, 3}, make([]byte, 35)), 0, NotIP},
		{"nine VLAN tags", ethernet(whole, slices.Repeat([][2]uint16{{0x8100, 1}}, 9)...), 0, NotIP},
		{"cut in the Ethernet header", ethernet(whole)[:9], 50, Truncated},
		{"cut in the IP header", ethernet(whole)[:14+19], 50, Truncated},
		{"cut in the TCP header", ethernet(whole)[:14+20+19], 1, Truncated},
		{"too short on the wire", ethernet(whole)[:14+19], 0, BadIP},
		{"version 5", ethernet(altered(whole, 0, 0x55), [2]uint16{0x8100, 1}), 0, BadIP},
		{"header of 16 bytes", ethernet(altered(whole, 0, 0x44)), 0, BadIP},
		{"total length below the header's", ethernet(altered(whole, 3, 19)), 0, BadIP},
		{"TCP header of 16 bytes", ethernet(altered(whole, 32, 0x40)), 0, BadTransport},
		{"UDP of 7 bytes", ethernet(ip(client, server, protoUDP, make([]byte, 7))), 0, BadTransport},
		{"17 extension headers", ethernet(ip("2001:db8::1", "2001:db8::2", protoDestOpts,
			slices.Repeat([]byte{protoDestOpts, 0, 0, 0, 0, 0, 0, 0}, 17))), 0, BadIP},
		{"extension header longer than the packet", ethernet(ip("2001:db8::1", "2001:db8::2", protoRouting, []byte{6, 9, 0, 0, 0, 0, 0, 0})), 0, BadIP},
		{"ICMP error quoting a SYN", ethernet(ip(server, client, protoICMP, join([]byte{3, 3, 0, 0, 0, 0, 0, 0}, whole))), 0, ICMP},
		{"ICMPv6", ethernet(ip("2001:db8::1", "2001:db8::2", protoICMPv6, make([]byte, 8))), 0, ICMP},
		{"SCTP", ethernet(ip(client, server, 132, make([]byte, 40))), 0, Transport},
		{"ACK", ethernet(ip(client, server, protoTCP, tcp(49152, 443, 1, 1, ack, nil))), 0, NotOpening},
		{"SYN and RST", ethernet(ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn|rst, nil))), 0, NotOpening},
		{"SYN and FIN", ethernet(ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn|fin, nil))), 0, NotOpening},
		{"IP in IP", ethernet(ip(client, server, protoIPv4, inner)), 0, Event},
		{"GRE", ethernet(ip(client, server, protoGRE, join(u16(0, etherIPv4), inner))), 0, Event},
		{"MPLS", join(ethernet(whole)[:12], u16(etherMPLS), []byte{0, 0x10, 1, 64}, whole), 0, Event},
		{"PPPoE", join(ethernet(whole)[:12], u16(etherPPPoE), []byte{0x11, 0, 0, 1, 0, 42, 0, 0x21}, whole), 0, Event},
		{"VXLAN", dgram(50000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 5, 0}, bridged)), 0, Event},
		{"VXLAN with a tag inside", dgram(50000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 5, 0}, ethernet(inner, [2]uint16{0x8100, 5}))), 0, Event},
		{"VXLAN on the port of old", dgram(50000, portVXLANOld, join([]byte{8, 0, 0, 0, 0, 0, 5, 0}, bridged)), 0, Event},
		{"VXLAN with ARP inside", dgram(50000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 5, 0}, bridged[:12], u16(0x0806), make([]byte, 28))), 0, Event},
		{"VXLAN's port, something else inside", dgram(50000, portVXLAN, []byte("GET / HTTP/1.1\r\nHost: www.example\r\n\r\n")), 0, Event},
		{"VXLAN-GPE", dgram(50000, portGPE, join([]byte{0x0c, 0, 0, 1, 0, 0, 5, 0}, inner)), 0, Event},
		{"VXLAN-GPE with a service header", dgram(50000, portGPE, join([]byte{0x0c, 0, 0, 4, 0, 0, 5, 0}, []byte{0, 2, 1, 3, 0, 0, 1, 255}, bridged)), 0, Event},
		{"Geneve with options", dgram(50000, portGeneve, join([]byte{1, 0, 0x65, 0x58, 0, 0, 5, 0, 1, 1, 1, 0}, bridged)), 0, Event},
		{"GRE in UDP, with key", dgram(50000, portGREInUDP, join([]byte{0x20, 0, 8, 0, 0, 0, 0, 1}, inner)), 0, Event},
		{"GTP-U", dgram(portGTPU, 50000, join([]byte{0x30, 255, 0, 40, 0, 0, 0, 1}, inner)), 0, Event},
		{"GTP-U with an extension", dgram(50000, portGTPU, join([]byte{0x34, 255, 0, 48, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0}, inner)), 0, Event},
		{"GTP-U echo", dgram(portGTPU, portGTPU, []byte{0x32, 1, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0}), 0, Event},
		{"Teredo behind an origin", dgram(portTeredo, 50000, join(make([]byte, 8), ip("2001::1", "2001::2", 59, nil))), 0, Transport},
		{"Teredo behind an authentication", dgram(50000, portTeredo, join([]byte{0, 1, 0, 0}, make([]byte, 9), ip("2001::1", "2001::2", 59, nil))), 0, Transport},
		{"AYIYA", dgram(50000, portAYIYA, join([]byte{0x41, 0x52, 0x11, 41, 0, 0, 0, 0}, make([]byte, 36), ip("2001:db8::1", "2001:db8::2", 59, nil))), 0, Transport},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := frameOf(1, 0, tt.data)
			f.Len += tt.lost
			var got discard
			if r := newDecoder(t, DefaultConfig()).Decode(f, &got); r != tt.want || (got.connections == 1) != (r == Event) {
				t.Errorf("ends in %v with %d connections, want %v", r, got.connections, tt.want)
			}
		})
	}
	t.Run("links", func(t *testing.T) {
		for _, tt := range []struct {
			name string
			link LinkType
			data []byte
			want Reason
		}{
			{"PPP, not IP", PPP, u16(0xc021, 0x0101, 4), NotIP},
			{"PPP of one byte", PPP, []byte{0}, NotIP},
			{"Cisco HDLC, keepalive", CHDLC, u16(0x8f00, 0x8035, 0, 2), NotIP},
			{"Cisco HDLC, other address", CHDLC, join(u16(0x0100, etherIPv4), whole), NotIP},
			{"802.11 beacon", WiFi, join(u16(0x8000), make([]byte, 40)), NotIP},
			{"802.11 without data", WiFi, join(u16(0x4801), make([]byte, 40)), NotIP},
			{"802.11, encrypted", WiFi, join(u16(0x0841), make([]byte, 60)), NotIP},
			{"802.11, several in one", WiFi, join(u16(0x8801), make([]byte, 22), []byte{0x80, 0}, make([]byte, 60)), NotIP},
			{"802.11 behind a header longer than the frame", Radiotap, []byte{0, 0, 255, 255, 0}, NotIP},
			{"AVS header longer than the frame", AVS, bytes.Repeat([]byte{255}, 64), NotIP},
			{"per-packet information within itself", PPI, []byte{0, 0, 8, 0, 192, 0, 0, 0, 0}, LinkTypeUnknown},
			{"netfilter log without a packet", NFLOG, []byte{2, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 0}, NotIP},
			{"netfilter log, length 0", NFLOG, make([]byte, 64), NotIP},
		} {
			f := Frame{Link: tt.link, Data: tt.data, Len: len(tt.data), Number: 1}
			if r := newDecoder(t, small).Decode(&f, new(discard)); r != tt.want {
				t.Errorf("%s ends in %v, want %v", tt.name, r, tt.want)
			}
		}
	})
	t.Run("a link type of its own", func(t *testing.T) {
		f := Frame{Link: 147, Data: whole, Len: len(whole)}
		if r := newDecoder(t, DefaultConfig()).Decode(&f, new(discard)); r != LinkTypeUnknown {
			t.Errorf("ends in %v, want %v", r, LinkTypeUnknown)
		}
	})
}

func TestReasonNames(t *testing.T) {
	names := make(map[string]bool)
	for r := range NumReasons {
		name := r.String()
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") != "" || names[name] {
			t.Errorf("reason %d is called %q, want a name of its own in lower case and hyphens", uint8(r), name)
		}
		names[name] = true
	}
}

func TestIPHeaders(t *testing.T) {
	seg := tcp(49152, 443, 1, 0, syn, nil)
	const a, b = "2001:db8::7", "2001:db8::23"
	v4 := "0s connection src=10.0.0.7:49152 dst=198.51.100.23:443 proto=tcp"
	v6 := "0s connection src=[2001:db8::7]:49152 dst=[2001:db8::23]:443 proto=tcp"
	options := ip(client, server, protoTCP, join(make([]byte, 8), seg))
	options[0] = 0x47
	offload := ip(client, server, protoTCP, seg)
	offload[2], offload[3] = 0, 0
	offload6 := ip(a, b, protoTCP, seg)
	offload6[4], offload6[5] = 0, 0
	ah := func(next byte) []byte { return join([]byte{next, 4, 0, 0}, make([]byte, 20)) }
	short := ip(client, server, protoTCP, seg)
	runStories(t, []story{
		{"IPv4 options", []step{{0, ethernet(options), Event}}, []string{v4}},
		{"IPv4 length 0: not yet cut into segments", []step{{0, ethernet(offload), Event}}, []string{v4}},
		{"padding is no payload", []step{{0, join(ethernet(short), make([]byte, 6)), Event}}, []string{v4}},
		{"IPv4 with an authentication header", []step{{0, ethernet(ip(client, server, protoAH, join(ah(protoTCP), seg))), Event}}, []string{v4}},
		{"IPv6 length 0", []step{{0, ethernet(offload6), Event}}, []string{v6}},
		{"IPv6 with all extension headers", []step{{0, ethernet(ip(a, b, protoHopByHop, join(
			[]byte{protoDestOpts, 0, 1, 4, 0, 0, 0, 0},
			[]byte{protoRouting, 1}, make([]byte, 14),
			[]byte{protoMobility, 0}, make([]byte, 6),
			[]byte{protoAH, 0}, make([]byte, 6),
			ah(protoFragment),
			[]byte{protoDestOpts, 0, 0, 0, 0, 0, 0, 9}, // an atomic fragment
			[]byte{protoTCP, 0}, make([]byte, 6), seg))), Event}}, []string{v6}},
	})
}

func TestTCPStarts(t *testing.T) {
	seg := func(sport, dport uint16, seq, ackNo uint32, flags byte) []byte {
		return ethernet(ip(client, server, protoTCP, tcp(sport, dport, seq, ackNo, flags, nil)))
	}
	reply := func(dport uint16, seq, ackNo uint32) []byte {
		return ethernet(ip(server, client, protoTCP, tcp(443, dport, seq, ackNo, syn|ack, nil)))
	}
	line := func(at string, more string) string {
		return at + " connection src=10.0.0.7:49152 dst=198.51.100.23:443 proto=tcp" + more
	}
	tagged := ethernet(ip(client, server, protoTCP, tcp(49152, 443, 100, 0, syn, nil)), [2]uint16{0x8100, 12})
	runStories(t, []story{
		{"a handshake", []step{
			{0, seg(49152, 443, 100, 0, syn), Event},
			{time.Millisecond, reply(49152, 500, 101), Repeat},
			{2 * time.Millisecond, seg(49152, 443, 101, 501, ack), NotOpening},
		}, []string{line("0s", "")}},
		{"SYN with congestion bits set is a SYN", []step{
			{0, seg(49152, 443, 100, 0, syn|0xc0), Event},
		}, []string{line("0s", "")}},
		{"retransmissions, and the second copy of a SPAN port", []step{
			{0, seg(49152, 443, 100, 0, syn), Event},
			{0, seg(49152, 443, 100, 0, syn), Repeat},
			{119 * time.Second, seg(49152, 443, 100, 0, syn), Repeat},
			{239 * time.Second, seg(49152, 443, 100, 0, syn), Repeat}, // 120 s after the last
			{359*time.Second + 1, seg(49152, 443, 100, 0, syn), Event},
		}, []string{line("0s", ""), line("5m59.000000001s", "")}},
		{"the same ports, another sequence number", []step{
			{0, seg(49152, 443, 100, 0, syn), Event},
			{time.Second, seg(49152, 443, 101, 0, syn), Event},
		}, []string{line("0s", ""), line("1s", "")}},
		{"another VLAN is another network", []step{
			{0, seg(49152, 443, 100, 0, syn), Event},
			{0, tagged, Event},
		}, []string{line("0s", ""), line("0s", " zone=0/vlan12")}},
		{"only the answer was captured", []step{
			{0, reply(49152, 500, 101), Event},
			{time.Second, reply(49152, 500, 101), Repeat},
		}, []string{line("0s", " start=synack")}},
		{"the answer comes first, from another ring", []step{
			{time.Millisecond, reply(49152, 500, 101), Event},
			{0, seg(49152, 443, 100, 0, syn), Repeat},
		}, []string{line("1ms", " start=synack")}},
		{"a SYN from before, delivered late", []step{
			{time.Second, seg(49152, 443, 101, 0, syn), Event},
			{0, seg(49152, 443, 100, 0, syn), Event},
			{2 * time.Second, seg(49152, 443, 101, 0, syn), Repeat},
		}, []string{line("1s", ""), line("0s", "")}},
		{"the clock is set back by an hour", []step{
			{time.Hour, seg(49152, 443, 100, 0, syn), Event},
			{0, seg(49152, 443, 100, 0, syn), Repeat},
			{121 * time.Second, seg(49152, 443, 100, 0, syn), Event},
		}, []string{line("1h0m0s", ""), line("2m1s", "")}},
	})
}

func TestUDPStarts(t *testing.T) {
	there := ethernet(ip(client, server, protoUDP, udp(50000, 443, []byte("x"))))
	back := ethernet(ip(server, client, protoUDP, udp(443, 50000, []byte("x"))))
	line := func(at string) string {
		return at + " connection src=10.0.0.7:50000 dst=198.51.100.23:443 proto=udp"
	}
	loop := ethernet(ip("127.0.0.1", "127.0.0.1", protoUDP, udp(9, 7, nil)))
	loopBack := ethernet(ip("127.0.0.1", "127.0.0.1", protoUDP, udp(7, 9, nil)))
	runStories(t, []story{
		{"both directions are one flow", []step{
			{0, there, Event}, {time.Second, back, Flow}, {2 * time.Second, there, Flow},
		}, []string{line("0s")}},
		{"even between two ports of one address", []step{
			{0, loop, Event}, {0, loopBack, Flow},
		}, []string{"0s connection src=127.0.0.1:9 dst=127.0.0.1:7 proto=udp"}},
		{"either direction keeps it alive, 60 s of silence end it", []step{
			{0, there, Event},
			{60 * time.Second, back, Flow},
			{120 * time.Second, there, Flow},
			{180*time.Second + 1, back, Event},
		}, []string{line("0s"), "3m0.000000001s connection src=198.51.100.23:443 dst=10.0.0.7:50000 proto=udp"}},
		{"a datagram from before, delivered late", []step{
			{30 * time.Second, there, Event},
			{0, there, Flow},
			{90 * time.Second, there, Flow}, // 60 s after the newest
		}, []string{line("30s")}},
		{"the clock is set back by an hour", []step{
			{time.Hour, there, Event},
			{0, there, Flow},
			{61 * time.Second, there, Event},
		}, []string{line("1h0m0s"), line("1m1s")}},
		{"length 0: not yet cut into datagrams", []step{
			{0, ethernet(ip(client, server, protoUDP, join(u16(50000, 443, 0, 0), []byte("x")))), Event},
		}, []string{line("0s")}},
	})
}

func TestFragments(t *testing.T) {
	msg := answer(t, 7, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23")
	dgram := join(udp(dnsPort, 40000, msg))
	lookup := func(at, who, whom string) []string {
		c, r := whom+":40000", who+":53"
		if strings.Contains(who, ":") {
			c, r = "["+whom+"]:40000", "["+who+"]:53"
		}
		return []string{
			at + " connection src=" + r + " dst=" + c + " proto=udp",
			at + " lookup client=" + c + " resolver=" + r + " id=7 name=cdn.example ttl=60 a=198.51.100.23",
		}
	}
	v4 := lookup("2ms", resolver, client)
	p := pieces(ip(resolver, client, protoUDP, dgram), 1, 16, 40)
	q := pieces(ip("2001:db8::53", "2001:db8::7", protoUDP, dgram), 1, 16, 40)
	long := pieces(ip(resolver, client, protoUDP, dgram), 1, 16, 48)
	forged := pieces(ip(resolver, client, protoUDP, join(dgram[:len(dgram)-4], []byte{203, 0, 113, 1})), 1, 32, 40)
	other := pieces(ip(resolver, client, protoUDP, dgram), 2, 16, 40)
	lying := slices.Clone(q[1])
	lying[40] = protoTCP
	at := func(ms int, packet []byte, want Reason) step {
		return step{time.Duration(ms) * time.Millisecond, ethernet(packet), want}
	}
	runStories(t, []story{
		{"in order", []step{at(0, p[0], FragmentHeld), at(1, p[1], FragmentHeld), at(2, p[2], Event)}, v4},
		{"last first", []step{at(0, p[2], FragmentHeld), at(1, p[1], FragmentHeld), at(2, p[0], Event)}, v4},
		{"IPv6, middle last", []step{at(0, q[0], FragmentHeld), at(1, q[2], FragmentHeld), at(2, q[1], Event)},
			lookup("2ms", "2001:db8::53", "2001:db8::7")},
		{"the same piece twice", []step{at(0, p[1], FragmentHeld), at(0, p[1], FragmentDropped), at(1, p[0], FragmentHeld), at(2, p[2], Event)}, v4},
		{"overlapping pieces", []step{at(0, p[0], FragmentHeld), at(1, long[1], FragmentHeld), at(2, p[2], Event)}, v4},
		{"the bytes that came first count", []step{at(0, p[2], FragmentHeld), at(1, forged[2], FragmentDropped), at(1, forged[0], FragmentHeld), at(2, p[1], Event)}, v4},
		{"IPv6, only the first piece says what comes next", []step{at(0, lying, FragmentHeld), at(1, q[0], FragmentHeld), at(2, q[2], Event)},
			lookup("2ms", "2001:db8::53", "2001:db8::7")},
		{"another datagram's piece", []step{at(0, p[0], FragmentHeld), at(1, other[1], FragmentHeld), at(2, p[2], FragmentHeld)}, nil},
		{"the rest comes after 60 s", []step{at(0, p[0], FragmentHeld), at(0, p[1], FragmentHeld), at(60001, p[2], FragmentHeld)}, nil},
		{"the rest comes after just 60 s", []step{at(-59998, p[0], FragmentHeld), at(-59998, p[1], FragmentHeld), at(2, p[2], Event)}, v4},
	})
	t.Run("a piece cut by the capture length", func(t *testing.T) {
		d := newDecoder(t, DefaultConfig())
		var got log
		for i, want := range []Reason{Event, FragmentDropped, FragmentDropped} {
			f := frameOf(uint64(i+1), 0, ethernet(p[i]))
			f.Data = f.Data[:f.Len-4]
			if r := d.Decode(f, &got); r != want {
				t.Errorf("frame %d ends in %v, want %v", i+1, r, want)
			}
		}
		compareLines(t, got.lines, []string{"0s connection src=10.0.0.53:53 dst=10.0.0.7:40000 proto=udp"})
	})
	t.Run("longer than a datagram can be", func(t *testing.T) {
		b := slices.Clone(p[1])
		b[6], b[7] = 0x1f, 0xff
		if r := newDecoder(t, DefaultConfig()).Decode(frameOf(1, 0, ethernet(b)), new(log)); r != FragmentDropped {
			t.Errorf("ends in %v, want %v", r, FragmentDropped)
		}
	})
}

func TestCounters(t *testing.T) {
	d := newDecoder(t, DefaultConfig())
	query := answer(t, 7, "cdn.example", 1)
	query[2] = 1
	reply := answer(t, 7, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23")
	for i, packet := range [][]byte{
		ip(client, resolver, protoUDP, udp(40000, dnsPort, query)),
		ip(resolver, client, protoUDP, udp(dnsPort, 40000, reply)),
		ip(client, resolver, protoUDP, udp(40000, dnsPort, reply)), // the wrong way: neither
		ip(client, resolver, protoTCP, tcp(40000, dnsPort, 1, 0, syn, nil)),
		ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 1, 2, syn|ack, nil)),
		ip(client, resolver, protoTCP, tcp(40000, dnsPort, 2, 2, ack, framed(query))),
		ip(client, resolver, protoTCP, tcp(40000, dnsPort, 50, 2, ack, framed(reply))),
		ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 2, 50, ack, framed(reply))),
	} {
		d.Decode(frameOf(uint64(i+1), 0, ethernet(packet)), new(discard))
	}
	want := Counters{Queries: 2, Responses: 2, Lookups: 2, Connections: 2, SYN: 1, SYNACK: 1}
	if got := d.Counters(); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the default is not valid: %v", err)
	}
	c := DefaultConfig()
	c.StreamBytes = 1000
	_, err := New(c)
	if err == nil || !strings.Contains(err.Error(), "StreamBytes is 1000") {
		t.Errorf("New with 1000 bytes for streams: %v, want an error that names field and value", err)
	}
}

// TestBounds fills every table with more than it holds.
func TestBounds(t *testing.T) {
	cfg := Config{Starts: 64, Flows: 64, Fragments: 64, FragmentBytes: minBytes, Streams: 64, StreamBytes: minBytes}
	d := newDecoder(t, cfg)
	frames := func(make func(i int) []byte) {
		for i := range 1000 {
			d.Decode(frameOf(1, time.Duration(i)*time.Millisecond, ethernet(make(i))), new(discard))
			checkPool(t, &d.fragments)
			checkPool(t, &d.streams)
		}
	}
	host := func(i int) string { return fmt.Sprintf("10.1.%d.%d", i/256, i%256) }
	frames(func(i int) []byte { return ip(host(i), server, protoTCP, tcp(49152, 443, 1, 0, syn, nil)) })
	frames(func(i int) []byte { return ip(host(i), server, protoUDP, udp(50000, 443, nil)) })
	frames(func(i int) []byte {
		return pieces(ip(host(i), server, protoUDP, udp(50000, 443, make([]byte, 20000))), 1, 16000)[0]
	})
	frames(func(i int) []byte {
		return ip(resolver, host(i), protoTCP, tcp(dnsPort, 40000, 1, 1, ack, join(u16(60000, 1, 0x8180, 1), make([]byte, 16000))))
	})
	c := d.Counters()
	for _, n := range []struct {
		name    string
		v, less uint64
	}{
		{"StartsEvicted", c.StartsEvicted, 800},
		{"FlowsEvicted", c.FlowsEvicted, 800},
		{"FragmentsEvicted", c.FragmentsEvicted, 800},
		{"StreamsEvicted and StreamsCut", c.StreamsEvicted + c.StreamsCut, 800},
	} {
		if n.v < n.less || n.v > 1000 {
			t.Errorf("%s is %d after 1000 entries in a table for 64, want %d to 1000", n.name, n.v, n.less)
		}
	}
}

// checkPool checks that the blocks of a table's entries and those available are all there are.
func checkPool(t testing.TB, a *assemblies) {
	t.Helper()
	used := 0
	for i := range a.slots {
		s := &a.slots[i]
		if s.tag == 0 {
			continue
		}
		n, held := 0, 0
		for j := s.head; j != none; j = a.pool.blocks[j].next {
			n++
			held += int(a.pool.blocks[j].n)
		}
		if n != int(s.blocks) || held != int(s.held) || n > maxBlocks {
			t.Fatalf("entry says %d blocks with %d bytes, holds %d with %d", s.blocks, s.held, n, held)
		}
		used += n
	}
	if used+a.pool.avail != len(a.pool.blocks) {
		t.Fatalf("%d blocks used and %d available of %d", used, a.pool.avail, len(a.pool.blocks))
	}
}
