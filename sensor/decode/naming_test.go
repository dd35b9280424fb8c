package decode

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"portolan/sensor/event"
)

// hosts is a sink that keeps namings as text.
type hosts struct{ lines []string }

func (*hosts) Lookup(*event.Lookup)         {}
func (*hosts) Connection(*event.Connection) {}
func (h *hosts) Naming(n *event.Naming) {
	h.lines = append(h.lines, strings.TrimSpace(fmt.Sprintf("%v %v %v %v %s lease=%d ended=%v", n.Via, n.Zone, n.Addr, n.MAC, n.Name, n.Lease, n.Ended)))
}

// serialized is the bytes of layers of gopacket.
func serialized(t testing.TB, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func arpPacket(t testing.TB, sender string, mac event.MAC, operation uint16) []byte {
	return serialized(t, &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: operation, SourceHwAddress: mac[:], SourceProtAddress: netip.MustParseAddr(sender).AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 0, 0, 1}})
}

func dhcpMessage(t testing.TB, kind layers.DHCPMsgType, ciaddr, yiaddr string, options ...layers.DHCPOption) []byte {
	m := &layers.DHCPv4{Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, HardwareLen: 6, Xid: 7,
		ClientIP: net.ParseIP(ciaddr), YourClientIP: net.ParseIP(yiaddr), NextServerIP: net.IPv4zero, RelayAgentIP: net.IPv4zero,
		ClientHWAddr: clientMAC[:]}
	m.Options = append(m.Options, layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(kind)}))
	m.Options = append(append(m.Options, options...), layers.NewDHCPOption(layers.DHCPOptEnd, nil))
	return serialized(t, m)
}

func dhcp6Option(code uint16, value ...byte) []byte {
	return join(u16(code, uint16(len(value))), value)
}

// nbName is a name as RFC 1001 encodes it.
func nbName(name string, suffix byte) []byte {
	plain := []byte(fmt.Sprintf("%-15s", name))
	out := []byte{32}
	for _, c := range append(plain, suffix) {
		out = append(out, 'A'+c>>4, 'A'+c&15)
	}
	return append(out, 0)
}

func nbRegistration(name string, suffix byte, flags uint16, addr string) []byte {
	return join(u16(9, 5<<11|0x0110, 1, 0, 0, 1), nbName(name, suffix), u16(0x20, 1),
		u16(0xc00c, 0x20, 1, 0, 3600, 6, flags), netip.MustParseAddr(addr).AsSlice())
}

func TestNamings(t *testing.T) {
	const v6, all = "fe80::7", "ff02::1"
	link := func(etherType uint16, payload []byte) []byte {
		return join(serverMAC[:], clientMAC[:], u16(etherType), payload)
	}
	onLinkICMP := func(src string, body []byte) []byte {
		p := ip(src, all, protoICMPv6, body)
		p[7] = onLink
		return ethernet(p)
	}
	datagram := func(src, dst string, sport, dport uint16, b []byte) []byte {
		return ethernet(ip(src, dst, protoUDP, udp(sport, dport, b)))
	}
	linkOption := func(kind byte) []byte { return join([]byte{kind, 1}, clientMAC[:]) }
	target := netip.MustParseAddr("2001:db8::7").AsSlice()
	lease := layers.NewDHCPOption(layers.DHCPOptLeaseTime, []byte{0, 0, 14, 16})
	host := layers.NewDHCPOption(layers.DHCPOptHostname, []byte("Lab-PC7"))
	fqdn := layers.NewDHCPOption(layers.DHCPOpt(81), join([]byte{4, 0, 0}, []byte("\x06lab-pc\x07example\x00")))
	bound := dhcp6Option(3, join(make([]byte, 12), dhcp6Option(5, join(target, make([]byte, 4), []byte{0, 0, 0x0e, 0x10})...))...)
	freed := dhcp6Option(3, join(make([]byte, 12), dhcp6Option(5, join(target, make([]byte, 8))...))...)
	name6 := dhcp6Option(39, join([]byte{0}, []byte("\x06Lab-PC\x07example\x00"))...)
	torn := newDecoder(t, DefaultConfig())
	for _, tt := range []struct {
		name  string
		frame []byte
		want  string // empty for none
	}{
		{"ARP request", link(etherARP, arpPacket(t, "10.0.0.7", clientMAC, 1)), "arp 0 10.0.0.7 02:00:00:00:00:01  lease=0 ended=false"},
		{"ARP reply under a tag", join(serverMAC[:], clientMAC[:], u16(0x8100, 12, etherARP), arpPacket(t, "10.0.0.7", clientMAC, 2)),
			"arp 0/vlan12 10.0.0.7 02:00:00:00:00:01  lease=0 ended=false"},
		{"ARP probe", link(etherARP, arpPacket(t, "0.0.0.0", clientMAC, 1)), ""},
		{"ARP from a group address", link(etherARP, arpPacket(t, "10.0.0.7", event.MAC{1, 0, 0x5e}, 1)), ""},
		{"ARP cut", link(etherARP, arpPacket(t, "10.0.0.7", clientMAC, 1)[:27]), ""},
		{"ARP in VXLAN", datagram(client, server, 40000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 77, 0}, link(etherARP, arpPacket(t, "10.0.0.7", clientMAC, 1)))),
			"arp 0/vni77 10.0.0.7 02:00:00:00:00:01  lease=0 ended=false"},
		{"neighbour solicitation", onLinkICMP(v6, join([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target, linkOption(1))), "nd 0 fe80::7 02:00:00:00:00:01  lease=0 ended=false"},
		{"neighbour advertisement", onLinkICMP(v6, join([]byte{136, 0, 0, 0, 0, 0, 0, 0}, target, []byte{9, 1, 0, 0, 0, 0, 0, 0}, linkOption(2))),
			"nd 0 2001:db8::7 02:00:00:00:00:01  lease=0 ended=false"},
		{"advertisement through a router", ethernet(ip(v6, all, protoICMPv6, join([]byte{136, 0, 0, 0, 0, 0, 0, 0}, target, linkOption(2)))), ""},
		{"duplicate address detection", onLinkICMP("::", join([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target, linkOption(1))), ""},
		{"option of no length", onLinkICMP(v6, join([]byte{136, 0, 0, 0, 0, 0, 0, 0}, target, make([]byte, 8))), ""},
		{"DHCP acknowledgement", datagram("10.0.0.1", client, 67, 68, dhcpMessage(t, layers.DHCPMsgTypeAck, "0.0.0.0", client, lease)),
			"dhcp 0 10.0.0.7 02:00:00:00:00:01  lease=3600 ended=false"},
		{"DHCP request with a name", datagram("0.0.0.0", "255.255.255.255", 68, 67, dhcpMessage(t, layers.DHCPMsgTypeRequest, "0.0.0.0", "0.0.0.0", host)),
			"dhcp 0 invalid IP 02:00:00:00:00:01 lab-pc7 lease=0 ended=false"},
		{"the full name counts more", datagram("0.0.0.0", "255.255.255.255", 68, 67, dhcpMessage(t, layers.DHCPMsgTypeRequest, "0.0.0.0", "0.0.0.0", fqdn, host)),
			"dhcp 0 invalid IP 02:00:00:00:00:01 lab-pc.example lease=0 ended=false"},
		{"DHCP request without", datagram("0.0.0.0", "255.255.255.255", 68, 67, dhcpMessage(t, layers.DHCPMsgTypeRequest, "0.0.0.0", "0.0.0.0")), ""},
		{"DHCP offer", datagram("10.0.0.1", client, 67, 68, dhcpMessage(t, layers.DHCPMsgTypeOffer, "0.0.0.0", client, lease)), ""},
		{"DHCP release", datagram(client, "10.0.0.1", 68, 67, dhcpMessage(t, layers.DHCPMsgTypeRelease, client, "0.0.0.0")),
			"dhcp 0 10.0.0.7 02:00:00:00:00:01  lease=0 ended=true"},
		{"DHCP inform acknowledged", datagram("10.0.0.1", client, 67, 68, dhcpMessage(t, layers.DHCPMsgTypeAck, client, "0.0.0.0")),
			"dhcp 0 10.0.0.7 02:00:00:00:00:01  lease=0 ended=false"},
		{"DHCPv6 reply", datagram("fe80::1", v6, 547, 546, join([]byte{7, 0, 0, 1}, name6, bound)),
			"dhcpv6 0 2001:db8::7 02:00:00:00:00:02 lab-pc.example lease=3600 ended=false"},
		{"DHCPv6 reply that ends a lease", datagram("fe80::1", v6, 547, 546, join([]byte{7, 0, 0, 1}, freed)),
			"dhcpv6 0 2001:db8::7 02:00:00:00:00:02  lease=0 ended=true"},
		{"DHCPv6 request", datagram(v6, "ff02::1:2", 546, 547, join([]byte{3, 0, 0, 1}, name6)),
			"dhcpv6 0 invalid IP 02:00:00:00:00:01 lab-pc.example lease=0 ended=false"},
		{"multicast DNS", datagram(client, "224.0.0.251", portMDNS, portMDNS, answer(t, 0, "lab-pc.local", 1, "other.local. 120 IN A 10.0.0.9", "Lab-PC.local. 120 IN A 10.0.0.7")),
			"mdns 0 10.0.0.7  lab-pc.local lease=0 ended=false"},
		{"multicast DNS of another host", datagram(client, "224.0.0.251", portMDNS, portMDNS, answer(t, 0, "other.local", 1, "other.local. 120 IN A 10.0.0.9")), ""},
		{"multicast DNS for the Internet", datagram(client, "224.0.0.251", portMDNS, portMDNS, answer(t, 0, "bank.example", 1, "bank.example. 120 IN A 10.0.0.7")), ""},
		{"NetBIOS registration", datagram(client, "10.0.0.255", 137, 137, nbRegistration("LAB-PC", 0, 0, client)), "netbios 0 10.0.0.7  lab-pc lease=0 ended=false"},
		{"NetBIOS group", datagram(client, "10.0.0.255", 137, 137, nbRegistration("WORKGROUP", 0, 0x8000, client)), ""},
		{"NetBIOS master browser", datagram(client, "10.0.0.255", 137, 137, nbRegistration("WORKGROUP", 0x1d, 0, client)), ""},
		{"NetBIOS of another host", datagram(client, "10.0.0.255", 137, 137, nbRegistration("LAB-PC", 0, 0, "10.0.0.9")), ""},
		{"NetBIOS answer", datagram(client, "10.0.0.9", 137, 137, join(u16(9, 0x8500, 0, 1, 0, 0), nbName("LAB-PC", 0x20), u16(0x20, 1, 0, 3600, 6, 0), []byte{10, 0, 0, 7})),
			"netbios 0 10.0.0.7  lab-pc lease=0 ended=false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got hosts
			d := newDecoder(t, DefaultConfig())
			want := d.Decode(frameOf(1, 0, tt.frame), &discard{})
			if r := newDecoder(t, DefaultConfig()).Decode(frameOf(1, 0, tt.frame), &got); r != want {
				t.Errorf("ends in %v, and in %v when nobody wants namings", r, want)
			}
			if text := strings.Join(got.lines, "\n"); text != tt.want {
				t.Errorf("says %q, want %q", text, tt.want)
			}
			for cut := range tt.frame { // must not crash, whatever it says
				torn.Decode(frameOf(1, 0, tt.frame[:cut]), &got)
			}
		})
	}
}
