package decode

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

// wrap is a way to put an IP packet into a tunnel, which makes another packet, or a frame
// of its own on a link.
type wrap struct {
	name  string
	kind  TunnelKind
	frame bool   // what put returns is an Ethernet frame, not a packet
	zone  string // that it gives; "" for none
	put   func(packet []byte) []byte
}

// The ends of tunnels.
const (
	near, far   = "192.0.2.1", "192.0.2.2"
	near6, far6 = "2001:db8:ff::1", "2001:db8:ff::2"
)

var (
	innerFrom = event.MAC{2, 0, 0, 0, 9, 1}
	innerTo   = event.MAC{2, 0, 0, 0, 9, 2}
)

// innerEthernet puts the Ethernet header of a tunnel's inside before a packet.
func innerEthernet(packet []byte, tags ...[2]uint16) []byte {
	b := ethernet(packet, tags...)
	copy(b, join(innerTo[:], innerFrom[:]))
	return b
}

// on puts an Ethernet header with any EtherType before bytes.
func on(etherType uint16, b []byte) []byte {
	return join(serverMAC[:], clientMAC[:], u16(etherType), b)
}

func over(dport uint16, header []byte) func([]byte) []byte {
	return func(b []byte) []byte { return ip(near, far, protoUDP, udp(50000, dport, join(header, b))) }
}

func overGRE(header []byte, put func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte { return ip(near, far, protoGRE, join(header, put(b))) }
}

func plainly(b []byte) []byte { return b }

func bridged(b []byte) []byte { return innerEthernet(b) }

func compose(outer, inner func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte { return outer(inner(b)) }
}

// typed puts an EtherType before a packet.
func typed(b []byte) []byte { return join(u16(etherTypeOf(b)), b) }

// pppIn puts a PPP protocol before a packet, in two bytes.
func pppIn(b []byte) []byte {
	if etherTypeOf(b) == etherIPv6 {
		return join(u16(0x57), b)
	}
	return join(u16(0x21), b)
}

// wraps returns every form of every tunnel.
func wraps() []wrap {
	vni := []byte{0x08, 0, 0, 0, 0, 0x12, 0x34, 0}
	span2 := join([]byte{0x10, 0, 0, 0, 0, 0, 0, 1}, u16(0x1000|99, 0x0c00|77), make([]byte, 4)) // GRE, then ERSPAN
	span2 = join(u16(0x1000, etherERSPAN), span2[4:])
	span3 := func(ft, o byte) []byte {
		return join(u16(0x1000, etherERSPAN3, 0, 1, 0x2000, 77), make([]byte, 6), []byte{ft << 2, o})
	}
	nshTo := func(next byte) []byte { return join([]byte{0, 6, 1, next}, []byte{0, 0, 1, 255}, make([]byte, 16)) }
	gpe := func(next byte) []byte { return []byte{0x0c, 0, 0, next, 0, 0x12, 0x34, 0} }
	return []wrap{
		{"MPLS", MPLS, true, "", func(b []byte) []byte { return on(etherMPLS, join([]byte{0, 0x10, 1, 64}, b)) }},
		{"MPLS, three labels, upstream", MPLS, true, "", func(b []byte) []byte {
			return on(etherMPLSUp, join([]byte{0, 0x10, 0, 64, 0, 0x20, 0, 64, 0, 0x30, 1, 64}, b))
		}},
		{"MPLS pseudowire with control word", MPLS, true, "", func(b []byte) []byte {
			return on(etherMPLS, join([]byte{0, 0x10, 1, 64, 0, 0, 0, 9}, innerEthernet(b)))
		}},
		{"MPLS pseudowire without control word", MPLS, true, "", func(b []byte) []byte {
			return on(etherMPLS, join([]byte{0, 0x10, 1, 64}, innerEthernet(b)))
		}},
		{"MPLS pseudowire to an address that looks like IPv4", MPLS, true, "", func(b []byte) []byte {
			f := innerEthernet(b)
			f[0], f[2], f[3] = 0x46, 0xff, 0xff
			return on(etherMPLS, join([]byte{0, 0x10, 1, 64}, f))
		}},
		{"MPLS pseudowire, tag inside", MPLS, true, "0/vlan5", func(b []byte) []byte {
			return on(etherMPLS, join([]byte{0, 0x10, 1, 64, 0, 0, 0, 0}, innerEthernet(b, [2]uint16{etherVLAN, 5})))
		}},
		{"MPLS in IP", MPLS, false, "", func(b []byte) []byte { return ip(near, far, protoMPLS, join([]byte{0, 0x10, 1, 64}, b)) }},
		{"MPLS in GRE", MPLS, false, "", overGRE(u16(0, etherMPLS, 1, 0x0140), plainly)},
		{"MPLS in UDP", MPLS, false, "", over(portMPLSInUDP, []byte{0, 0x10, 1, 64})},
		{"PPPoE", PPPoE, true, "", func(b []byte) []byte {
			return on(etherPPPoE, join([]byte{0x11, 0, 0, 7}, u16(uint16(2+len(b))), pppIn(b)))
		}},
		{"PPPoE, protocol of one byte", PPPoE, true, "", func(b []byte) []byte {
			return on(etherPPPoE, join([]byte{0x11, 0, 0, 7}, u16(uint16(1+len(b))), pppIn(b)[1:]))
		}},
		{"PPPoE, bridging", PPPoE, true, "", func(b []byte) []byte {
			return on(etherPPPoE, join([]byte{0x11, 0, 0, 7, 0, 99, 0, 0x31, 0, 1}, innerEthernet(b)))
		}},
		{"PPPoE, MPLS", MPLS, true, "", func(b []byte) []byte {
			return on(etherPPPoE, join([]byte{0x11, 0, 0, 7, 0, 99, 2, 0x81, 0, 0x10, 1, 64}, b))
		}},
		{"PPPoE under two tags", PPPoE, true, "0/vlan12", func(b []byte) []byte {
			return join(serverMAC[:], clientMAC[:], u16(etherQinQ, 12, etherVLAN, 13, etherPPPoE), []byte{0x11, 0, 0, 7, 0, 9}, pppIn(b))
		}},
		{"GRE", GRE, false, "", func(b []byte) []byte { return ip(near, far, protoGRE, join(u16(0), typed(b))) }},
		{"GRE with checksum, key and sequence number", GRE, false, "", func(b []byte) []byte {
			return ip(near, far, protoGRE, join(u16(0xb000, etherTypeOf(b), 1, 2, 3, 4, 5, 6), b))
		}},
		{"GRE with routing", GRE, false, "", func(b []byte) []byte {
			return ip(near, far, protoGRE, join(u16(0x6000, etherTypeOf(b), 0, 0, 3, 4), []byte{8, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0}, b))
		}},
		{"GRE over IPv6", GRE, false, "", func(b []byte) []byte { return ip(near6, far6, protoGRE, join(u16(0), typed(b))) }},
		{"GRE with a bridged frame", GRE, false, "", overGRE(u16(0, etherBridged), bridged)},
		{"GRE with a bridged frame and the key of a mirror", GRE, false, "", overGRE(u16(0x2000, etherBridged, 0x0200, 0), bridged)},
		{"GRE with a bridged frame and a tag", GRE, false, "0/vlan5", overGRE(u16(0, etherBridged), func(b []byte) []byte {
			return innerEthernet(b, [2]uint16{etherVLAN, 5})
		})},
		{"NVGRE", NVGRE, false, "0/vni4660", overGRE(u16(0x2000, etherBridged, 0x0012, 0x34ab), bridged)},
		{"PPTP", PPTP, false, "", overGRE(u16(0x3081, etherPPP, 40, 7, 0, 1, 0, 2), pppIn)},
		{"PPTP without acknowledgement, with address and control", PPTP, false, "", overGRE(u16(0x3001, etherPPP, 40, 7, 0, 1, 0xff03), pppIn)},
		{"ERSPAN I", ERSPAN, false, "", overGRE(u16(0, etherERSPAN), bridged)},
		{"ERSPAN II", ERSPAN, false, "0/erspan77", overGRE(span2, bridged)},
		{"ERSPAN II, tag inside", ERSPAN, false, "0/erspan77", overGRE(span2, func(b []byte) []byte {
			return innerEthernet(b, [2]uint16{etherVLAN, 5})
		})},
		{"ERSPAN III", ERSPAN, false, "0/erspan77", overGRE(span3(0, 0), bridged)},
		{"ERSPAN III with a subheader", ERSPAN, false, "0/erspan77", overGRE(join(span3(0, 1), make([]byte, 8)), bridged)},
		{"ERSPAN III with an IP packet", ERSPAN, false, "0/erspan77", overGRE(span3(2, 0), plainly)},
		{"IPv4 or IPv6 in IPv4", IPInIP, false, "", func(b []byte) []byte { return ip(near, far, inIP(b), b) }},
		{"IPv4 or IPv6 in IPv6", IPInIP, false, "", func(b []byte) []byte { return ip(near6, far6, inIP(b), b) }},
		{"EtherIP", EtherIP, false, "", func(b []byte) []byte { return ip(near, far, protoEtherIP, join([]byte{0x30, 0}, innerEthernet(b))) }},
		{"VXLAN", VXLAN, false, "0/vni4660", compose(over(portVXLAN, vni), bridged)},
		{"VXLAN on the port of old", VXLAN, false, "0/vni4660", compose(over(portVXLANOld, vni), bridged)},
		{"VXLAN of a gateway load balancer", VXLAN, false, "0/vni800", compose(over(portAzureIn, []byte{8, 0, 0, 0, 0, 3, 0x20, 0}), bridged)},
		{"VXLAN with group policy, tag inside", VXLAN, false, "0/vni4660", compose(over(portVXLAN, join([]byte{0x88, 0, 0, 7}, vni[4:])),
			func(b []byte) []byte { return innerEthernet(b, [2]uint16{etherQinQ, 5}, [2]uint16{etherVLAN, 6}) })},
		{"VXLAN over IPv6", VXLAN, false, "0/vni4660", func(b []byte) []byte {
			return ip(near6, far6, protoUDP, udp(50000, portVXLAN, join(vni, innerEthernet(b))))
		}},
		{"VXLAN-GPE", VXLANGPE, false, "0/vni4660", compose(over(portGPE, gpe(3)), bridged)},
		{"VXLAN-GPE with MPLS", MPLS, false, "0/vni4660", compose(over(portGPE, gpe(5)), func(b []byte) []byte {
			return join([]byte{0, 0x10, 1, 64}, b)
		})},
		{"VXLAN-GPE with a service header", NSH, false, "0/vni4660", compose(over(portGPE, join(gpe(4), nshTo(3))), bridged)},
		{"two service headers in GRE", NSH, false, "", overGRE(join(u16(0, etherNSH), nshTo(4), nshTo(3)), bridged)},
		{"Geneve with options", Geneve, false, "0/vni4660", compose(over(portGeneve,
			join([]byte{2, 0x40, 0x65, 0x58}, vni[4:], []byte{1, 3, 0x80, 1, 9, 9, 9, 9})), bridged)},
		{"Geneve of a gateway load balancer: packets, options of its class", Geneve, false, "0/vni0", func(b []byte) []byte {
			h := join([]byte{8, 0}, u16(etherTypeOf(b)), make([]byte, 4), u16(0x0108), []byte{1, 2}, make([]byte, 8), u16(0x0108), []byte{2, 2}, make([]byte, 8), u16(0x0108), []byte{3, 1}, make([]byte, 4))
			return ip(near, far, protoUDP, udp(50000, portGeneve, join(h, b)))
		}},
		{"GTP-U", GTPU, false, "", over(portGTPU, []byte{0x30, 255, 0, 40, 0, 0, 0, 1})},
		{"GTP-U with a sequence number", GTPU, false, "", over(portGTPU, []byte{0x32, 255, 0, 44, 0, 0, 0, 1, 0, 5, 0, 0})},
		{"GTP-U with two extensions", GTPU, false, "", over(portGTPU, []byte{0x34, 255, 0, 56, 0, 0, 0, 1, 0, 0, 0, 0x85,
			1, 0, 5, 0xc0, 2, 0, 0, 0, 0, 0, 0, 0})},
		{"GTP-U from its port", GTPU, false, "", func(b []byte) []byte {
			return ip(near, far, protoUDP, udp(portGTPU, 50000, join([]byte{0x30, 255, 0, 40, 0, 0, 0, 1}, b)))
		}},
		{"GRE in UDP, with key", GREInUDP, false, "", func(b []byte) []byte {
			return ip(near, far, protoUDP, udp(50000, portGREInUDP, join(u16(0x2000, etherTypeOf(b), 0, 1), b)))
		}},
		{"L2TP", L2TP, false, "", compose(over(portL2TP, u16(2, 7, 8)), pppIn)},
		{"L2TP with all options", L2TP, false, "", compose(over(portL2TP, u16(0x4a02, 40, 7, 8, 1, 1, 2, 0, 0xff03)), pppIn)},
		{"AYIYA", AYIYA, false, "", func(b []byte) []byte {
			return ip(near, far, protoUDP, udp(50000, portAYIYA, join([]byte{0x41, 0x52, 0x11, inIP(b), 0, 0, 0, 0}, make([]byte, 36), b)))
		}},
	}
}

// wrapNamed returns the form of that name.
func wrapNamed(name string) *wrap {
	all := wraps()
	return &all[slices.IndexFunc(all, func(w wrap) bool { return w.name == name })]
}

// inIP is the protocol number of a packet inside another.
func inIP(b []byte) uint8 {
	if b[0]>>4 == 6 {
		return protoIPv6
	}
	return protoIPv4
}

func (w *wrap) onLink(packet []byte) []byte {
	if b := w.put(packet); w.frame {
		return b
	} else {
		return ethernet(b)
	}
}

// TestTunnels puts a SYN, a DNS response and a fragmented one through every tunnel.
func TestTunnels(t *testing.T) {
	msg := answer(t, 7, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23")
	response := ip(resolver, client, protoUDP, udp(dnsPort, 40000, msg))
	seen := make(map[TunnelKind]bool)
	for _, w := range wraps() {
		t.Run(w.name, func(t *testing.T) {
			d := newDecoder(t, small)
			var got log
			frames := [][]byte{
				w.onLink(ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))),
				w.onLink(ip("2001:db8::7", "2001:db8::23", protoTCP, tcp(49152, 443, 1, 0, syn, nil))),
				w.onLink(response),
			}
			want := []Reason{Event, Event, Event, FragmentHeld, Event}
			for _, p := range pieces(ip(resolver, client, protoUDP, udp(dnsPort, 40001, msg)), 9, 24) {
				frames = append(frames, w.onLink(p))
			}
			for i, f := range frames {
				if r := d.Decode(frameOf(uint64(i+1), 0, f), &got); r != want[i] {
					t.Errorf("frame %d ends in %v, want %v", i+1, r, want[i])
				}
			}
			zone := ""
			if w.zone != "" {
				zone = " zone=" + w.zone
			}
			conn := func(src, dst, proto string) string {
				return "0s connection src=" + src + " dst=" + dst + " proto=" + proto + zone
			}
			lookup := func(port string) string {
				return "0s lookup client=10.0.0.7:" + port + " resolver=10.0.0.53:53" + zone + " id=7 name=cdn.example ttl=60 a=198.51.100.23"
			}
			compareLines(t, got.lines, []string{
				conn("10.0.0.7:49152", "198.51.100.23:443", "tcp"),
				conn("[2001:db8::7]:49152", "[2001:db8::23]:443", "tcp"),
				conn("10.0.0.53:53", "10.0.0.7:40000", "udp"), lookup("40000"),
				conn("10.0.0.53:53", "10.0.0.7:40001", "udp"), lookup("40001"),
			})
			c := d.Counters()
			kinds := c.Tunnels[w.kind]
			if w.kind == IPInIP {
				kinds += c.Tunnels[IPv6InIP]
			}
			if kinds != uint64(len(frames)) {
				t.Errorf("%d frames counted as %v, want %d: %v", kinds, w.kind, len(frames), c.Tunnels)
			}
		})
		seen[w.kind] = true
	}
	for k := range NumTunnelKinds {
		if !seen[k] && k != IPv6InIP && k != Teredo { // one goes with IPInIP; the other has a test of its own
			t.Errorf("no form of %v was tried", k)
		}
	}
}

// TestTeredo sees only IPv6 in there.
func TestTeredo(t *testing.T) {
	const host, peer = "2001:0:c000:201:0:63bf:f5ff:fff8", "2001:db8::23"
	seg := ip(host, peer, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	dgram := func(sport, dport uint16, parts ...[]byte) []byte {
		return ethernet(ip(client, server, protoUDP, udp(sport, dport, join(parts...))))
	}
	auth := join([]byte{0, 1, 2, 3}, make([]byte, 5+9))
	origin := []byte{0, 0, 0x9c, 0x40, 0xf5, 0xff, 0xff, 0xf8}
	line := []string{"0s connection src=[2001:0:c000:201:0:63bf:f5ff:fff8]:49152 dst=[2001:db8::23]:443 proto=tcp"}
	outer := []string{"0s connection src=10.0.0.7:50000 dst=198.51.100.23:3544 proto=udp"}
	runStories(t, []story{
		{"to its port", []step{{0, dgram(50000, portTeredo, seg), Event}}, line},
		{"from its port, behind an origin", []step{{0, dgram(portTeredo, 50000, origin, seg), Event}}, line},
		{"behind an authentication", []step{{0, dgram(50000, portTeredo, auth, seg), Event}}, line},
		{"behind both", []step{{0, dgram(50000, portTeredo, auth, origin, seg), Event}}, line},
		{"a bubble", []step{{0, dgram(50000, portTeredo, ip(host, peer, 59, nil)), Transport}}, nil},
		{"IPv4 is not Teredo", []step{{0, dgram(50000, portTeredo, ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))), Event}}, outer},
		{"nothing behind an authentication", []step{{0, dgram(50000, portTeredo, auth), Event}}, outer},
	})
}

// TestTunnelZones says which identifier counts when there are several.
func TestTunnelZones(t *testing.T) {
	seg := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	vxlanOf := func(vni byte, frame []byte) []byte {
		return ip(near, far, protoUDP, udp(50000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, vni, 0}, frame)))
	}
	for _, tt := range []struct {
		name, zone string
		mac        event.MAC
		frame      Frame
	}{
		{"the identifier of the outer of two tunnels", "3/vni5", innerFrom, Frame{Data: ethernet(vxlanOf(5, innerEthernet(vxlanOf(6, innerEthernet(seg)))))}},
		{"a tag outside of a tunnel", "3/vlan12", innerFrom, Frame{Data: ethernet(vxlanOf(5, innerEthernet(seg)), [2]uint16{etherVLAN, 12})}},
		{"a tag that the kernel took off", "3/vlan7", innerFrom, Frame{Data: ethernet(vxlanOf(5, innerEthernet(seg))), HasVLAN: true, VLAN: 7}},
		{"a priority tag is none", "3/vni5", innerFrom, Frame{Data: ethernet(vxlanOf(5, innerEthernet(seg)), [2]uint16{etherVLAN, 0xe000})}},
		{"a packet in a packet has no link", "3", event.MAC{}, Frame{Data: ethernet(ip(near, far, protoIPv4, seg))}},
		{"MPLS is on the link", "3", clientMAC, Frame{Data: on(etherMPLS, join([]byte{0, 0x10, 1, 64}, seg))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.frame
			f.Len, f.Link, f.Point, f.Number = len(f.Data), Ethernet, 3, 1
			var got []event.Connection
			if r := newDecoder(t, small).Decode(&f, keep{&got}); r != Event || len(got) != 1 {
				t.Fatalf("ends in %v with %d connections, want event and 1", r, len(got))
			}
			if c := got[0]; c.Zone.String() != tt.zone || c.MAC != tt.mac {
				t.Errorf("zone %v, MAC %v; want %s and %v", c.Zone, c.MAC, tt.zone, tt.mac)
			}
		})
	}
	t.Run("one address in two networks is two hosts", func(t *testing.T) {
		d := newDecoder(t, small)
		for i, want := range []Reason{Event, Event, Repeat, Repeat} {
			if r := d.Decode(frameOf(1, 0, ethernet(vxlanOf(byte(i%2), innerEthernet(seg)))), new(discard)); r != want {
				t.Errorf("frame %d ends in %v, want %v", i+1, r, want)
			}
		}
	})
	t.Run("fragments of two networks do not mix", func(t *testing.T) {
		d := newDecoder(t, small)
		p := pieces(ip(client, server, protoUDP, udp(50000, 443, make([]byte, 100))), 1, 48)
		for i, want := range []Reason{FragmentHeld, FragmentHeld, Event, Event} {
			if r := d.Decode(frameOf(1, 0, ethernet(vxlanOf(byte(i/2^i&1), innerEthernet(p[i/2])))), new(discard)); r != want {
				t.Errorf("frame %d ends in %v, want %v", i+1, r, want)
			}
		}
	})
}

// TestTunnelForm gives datagrams to tunnels' ports, and packets to their protocols, that
// are something else.
func TestTunnelForm(t *testing.T) {
	seg := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	frame := innerEthernet(seg)
	vni := []byte{8, 0, 0, 0, 0, 0, 5, 0}
	long := slices.Clone(frame)
	long[14] = 0x44 // a header of 16 bytes
	versionOff := slices.Clone(frame)
	versionOff[14] = 0x65
	text := []byte("GET / HTTP/1.1\r\nHost: www.example\r\nUser-Agent: something that is long enough for any header\r\n\r\n")
	for port, payloads := range map[uint16][][]byte{
		portVXLAN: {text, join(make([]byte, 8), frame), join(vni, frame[:12], u16(0x0806), make([]byte, 28)), join(vni, long),
			join(vni, versionOff), join(vni, frame[:14+19]), vni, vni[:7], nil},
		portGPE:       {text, join([]byte{8, 0, 0, 3, 0, 0, 5, 0}, frame), join([]byte{0x1c, 0, 0, 3, 0, 0, 5, 0}, frame), join([]byte{0x0c, 0, 0, 9, 0, 0, 5, 0}, frame), join([]byte{0x0c, 0, 0, 4, 0, 0, 5, 0, 0, 1, 1, 3}, frame)},
		portGeneve:    {text, join([]byte{0x40, 0, 0x65, 0x58, 0, 0, 5, 0}, frame), join([]byte{0x3f, 0, 0x65, 0x58, 0, 0, 5, 0}, frame), join([]byte{0, 0, 0x80, 0x0b, 0, 0, 5, 0}, frame)},
		portGREInUDP:  {text, join(u16(0x3081, etherPPP, 40, 7, 0, 1, 0, 2, 0x21), seg), join(u16(0x4000, etherIPv4, 0, 0), bytes.Repeat([]byte{1}, 40)), join(u16(2, etherIPv4), seg)},
		portMPLSInUDP: {text, make([]byte, 64), join([]byte{0, 0x10, 1, 64, 0x10, 0, 0, 0x21}, make([]byte, 40))},
		portGTPU: {text, join([]byte{0x30, 1, 0, 40, 0, 0, 0, 1}, seg), join([]byte{0x50, 255, 0, 40, 0, 0, 0, 1}, seg), join([]byte{0x20, 255, 0, 40, 0, 0, 0, 1}, seg),
			join([]byte{0x34, 255, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0x85, 0, 0, 0, 0}, seg), {0x34, 255, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0x85, 1}, {0x34, 255, 0, 40, 0, 0, 0, 1}},
		portAYIYA:  {text, join([]byte{0x41, 0x52, 0x11, 59, 0, 0, 0, 0}, make([]byte, 36), seg), join([]byte{0xf1, 0xf2, 0x11, 41, 0, 0, 0, 0}, make([]byte, 36))},
		portTeredo: {text, join(make([]byte, 8), seg), make([]byte, 9), {0, 1, 200, 200, 0, 0, 0, 0}},
		portL2TP:   {text, join(u16(0xc802, 40, 7, 8), pppIn(seg)), join(u16(3, 7, 8), pppIn(seg)), join(u16(2, 7, 8, 0xc021), seg), join(u16(0x0202, 7, 8, 9000), seg), u16(0x0202, 7, 8, 9)[:7], u16(0x4a02, 7, 8, 9, 1)},
		50001:      {join(vni, frame)},
	} {
		for i, payload := range payloads {
			t.Run(fmt.Sprintf("port %d, %d", port, i), func(t *testing.T) {
				var got log
				d := newDecoder(t, small)
				if r := d.Decode(frameOf(1, 0, ethernet(ip(near, far, protoUDP, udp(50000, port, payload)))), &got); r != Event {
					t.Errorf("ends in %v, want %v", r, Event)
				}
				compareLines(t, got.lines, []string{fmt.Sprintf("0s connection src=192.0.2.1:50000 dst=192.0.2.2:%d proto=udp", port)})
				if d.Counters().Tunnels != [NumTunnelKinds]uint64{} {
					t.Errorf("counted as a tunnel: %v", d.Counters().Tunnels)
				}
			})
		}
	}
	for _, tt := range []struct {
		name  string
		frame []byte
	}{
		{"a GRE keepalive", ethernet(ip(near, far, protoGRE, u16(0, 0)))},
		{"GRE that ends early", ethernet(ip(near, far, protoGRE, u16(0xb000, etherIPv4, 0)))},
		{"routing without end", ethernet(ip(near, far, protoGRE, join(u16(0x4000, etherIPv4, 0, 0), bytes.Repeat([]byte{8, 0, 0, 1, 9}, 20))))},
		{"GRE of another version", ethernet(ip(near, far, protoGRE, join(u16(2, etherIPv4), seg)))},
		{"PPTP acknowledgement", ethernet(ip(near, far, protoGRE, u16(0x2081, etherPPP, 0, 7, 0, 2)))},
		{"PPTP, encrypted", ethernet(ip(near, far, protoGRE, join(u16(0x3001, etherPPP, 40, 7, 0, 1, 0x00fd), seg)))},
		{"ERSPAN of another version", ethernet(ip(near, far, protoGRE, join(u16(0x1000, etherERSPAN, 0, 1, 0x3000, 7, 0, 0), frame)))},
		{"ERSPAN III that ends early", ethernet(ip(near, far, protoGRE, u16(0x1000, etherERSPAN3, 0, 1, 0x2000, 7, 0, 0)))},
		{"EtherIP of another version", ethernet(ip(near, far, protoEtherIP, join([]byte{0x20, 0}, frame)))},
		{"EtherIP of a byte", ethernet(ip(near, far, protoEtherIP, []byte{0x30}))},
		{"IPv6 in IP under the number of IPv4", ethernet(ip(near, far, protoIPv4, ip("2001:db8::1", "2001:db8::2", 59, nil)))},
		{"MPLS with ARP in a pseudowire", on(etherMPLS, join([]byte{0, 0x10, 1, 64, 0, 0, 0, 0}, frame[:12], u16(0x0806), make([]byte, 28)))},
		{"MPLS without a bottom", on(etherMPLS, make([]byte, 64))},
		{"PPPoE with LCP", on(etherPPPoE, []byte{0x11, 0, 0, 7, 0, 10, 0xc0, 0x21, 9, 0, 0, 8, 0, 0, 0, 0})},
		{"PPPoE, not a session's", on(etherPPPoE, join([]byte{0x11, 9, 0, 7, 0, 10}, pppIn(seg)))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := newDecoder(t, small).Decode(frameOf(1, 0, tt.frame), new(discard)); r != Tunnel {
				t.Errorf("ends in %v, want %v", r, Tunnel)
			}
		})
	}
}

// TestTunnelsCut cuts every tunnel's frame at every byte: before the inner header is
// complete, it says so or takes the tunnel's own packet for a datagram; it never finds
// what is not there.
func TestTunnelsCut(t *testing.T) {
	seg := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	for _, w := range wraps() {
		whole := w.onLink(seg)
		d := newDecoder(t, small)
		for n := range whole {
			f := frameOf(1, time.Duration(n)*time.Hour, whole[:n])
			f.Len = len(whole)
			var got []event.Connection
			r := d.Decode(f, keep{&got})
			switch {
			case len(got) == 0 && (r == Truncated || r == Tunnel || r == NotIP):
			case len(got) == 1 && r == Event && got[0].Proto == event.UDP && got[0].Src.Addr() != netip.MustParseAddr(client):
			default:
				t.Errorf("%s cut to %d of %d bytes ends in %v with %+v", w.name, n, len(whole), r, got)
			}
		}
	}
}

// TestTunnelsNested puts tunnels into tunnels, all pairs of them, and four of each kind.
func TestTunnelsNested(t *testing.T) {
	seg := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	d := newDecoder(t, small)
	at := time.Duration(0)
	check := func(name string, frame []byte) {
		t.Helper()
		var got []event.Connection
		at += time.Hour // so that no two are one connection
		r := d.Decode(frameOf(1, at, frame), keep{&got})
		if r != Event || len(got) != 1 || got[0].Dst != netip.MustParseAddrPort(server+":443") {
			t.Errorf("%s ends in %v with %v", name, r, got)
		}
	}
	for _, outer := range wraps() {
		for _, inner := range wraps() {
			if !inner.frame {
				check(inner.name+" in "+outer.name, outer.onLink(inner.put(seg)))
			}
		}
		if !outer.frame {
			check("four times "+outer.name, outer.onLink(outer.put(outer.put(outer.put(seg)))))
		}
	}
}

// TestTunnelsTooDeep nests without end.
func TestTunnelsTooDeep(t *testing.T) {
	for _, w := range wraps() {
		if w.frame {
			continue
		}
		d := newDecoder(t, small)
		b := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
		for len(b) < 6000 {
			b = w.put(b)
		}
		if r := d.Decode(frameOf(1, 0, ethernet(b)), new(discard)); r != Tunnel || d.Counters().TunnelsTooDeep != 1 {
			t.Errorf("%s without end ends in %v, %d counted as too deep", w.name, r, d.Counters().TunnelsTooDeep)
		}
	}
	for name, frame := range map[string][]byte{
		"tags in VXLAN": ethernet(ip(near, far, protoUDP, udp(1, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 5, 0},
			innerEthernet([]byte{0x45}, slices.Repeat([][2]uint16{{etherVLAN, 1}}, 1000)...))))),
		"service headers": ethernet(ip(near, far, protoGRE, join(u16(0, etherNSH), bytes.Repeat([]byte{0, 2, 2, 4, 0, 0, 0, 0}, 1000)))),
	} {
		d := newDecoder(t, small)
		if r := d.Decode(frameOf(1, 0, frame), new(discard)); r != Tunnel || d.Counters().TunnelsTooDeep != 1 {
			t.Errorf("%s without end ends in %v, %d counted as too deep", name, r, d.Counters().TunnelsTooDeep)
		}
	}
}

// TestTunnelFragments takes datagrams apart that were put together, with what is put
// together inside of them.
func TestTunnelFragments(t *testing.T) {
	msg := answer(t, 7, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23")
	vxlanOf := func(packet []byte) []byte {
		return ip(near, far, protoUDP, udp(50000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 5, 0}, innerEthernet(packet))))
	}
	inner := pieces(ip(resolver, client, protoUDP, udp(dnsPort, 40000, msg)), 3, 24)
	a, b := pieces(vxlanOf(inner[0]), 1, 40), pieces(vxlanOf(inner[1]), 2, 40)
	lookup := " lookup client=10.0.0.7:40000 resolver=10.0.0.53:53 zone=0/vni5 id=7 name=cdn.example ttl=60 a=198.51.100.23"
	conn := " connection src=10.0.0.53:53 dst=10.0.0.7:40000 proto=udp zone=0/vni5"
	tcpConn := " connection src=10.0.0.7:40000 dst=10.0.0.53:53 proto=tcp start=synack zone=0/vni5"
	stream := framed(msg)
	segment := func(seq uint32, flags byte, data []byte) [][]byte {
		return pieces(vxlanOf(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, seq, 1, flags, data))), uint16(seq), 48)
	}
	open, head, tail := segment(99, syn|ack, nil), segment(100, ack, stream[:20]), segment(120, ack, stream[20:])
	at := func(ms int, packet []byte, want Reason) step {
		return step{time.Duration(ms) * time.Millisecond, ethernet(packet), want}
	}
	runStories(t, []story{
		{"fragments in fragments", []step{
			at(0, a[0], FragmentHeld), at(1, a[1], FragmentHeld), at(2, b[1], FragmentHeld), at(3, b[0], Event),
		}, []string{"3ms" + conn, "3ms" + lookup}},
		{"inner fragments the other way round", []step{
			at(0, b[0], FragmentHeld), at(1, b[1], FragmentHeld), at(2, a[1], FragmentHeld), at(3, a[0], Event),
		}, []string{"3ms" + conn, "3ms" + lookup}},
		{"DNS over TCP in fragments, out of order", []step{
			at(0, open[0], FragmentHeld), at(1, open[1], Event),
			at(2, tail[0], FragmentHeld), at(3, tail[1], StreamHeld),
			at(4, head[0], FragmentHeld), at(5, head[1], Event),
		}, []string{"1ms" + tcpConn, "5ms" + strings.Replace(lookup, " id", " proto=tcp id", 1)}},
	})
}
