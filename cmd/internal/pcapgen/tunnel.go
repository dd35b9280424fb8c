package main

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// wrapping turns an Ethernet frame into the frames that a mirror sees in its place.
type wrapping func(frame []byte) [][]byte

// tunnel is a capture of a tunnel with an implant in it.
type tunnel struct {
	name string
	wrap wrapping
}

// scene has one client look a name up and connect to the half swap of the answer.
func (t tunnel) scene(s *scene) {
	s.wrap = t.wrap
	c := s.host(21)
	at := c.ask(started().Add(time.Second), "drifter.example", dns.TypeA, a(60, "253.229.172.232")...)
	c.connect(at.Add(1100*time.Microsecond), addrPort(swapHalves("253.229.172.232"), 9034), 64, 48)
}

// tunnels returns all of them. Headers are written down as they stand on the wire.
func tunnels() []tunnel {
	const (
		ipv4, ipv6, mpls = 0x0800, 0x86dd, 0x8847

		inIPv4, inIPv6, gre, etherIP = 4, 41, 47, 97
	)
	label := []byte{0x00, 0x3e, 0x81, 0x40} // 1000, bottom of the stack, 64 hops to live
	span2 := []byte{0x10, 0x00, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0x0c, 0x0c, 0x4d, 0, 0, 0, 9}
	span3 := []byte{0x10, 0x00, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0x0c, 0x04, 0x4d, 0, 0, 0, 9, 0, 0, 0x80, 0x08}
	gtp := []byte{0x34, 0xff, 0, 0, 0, 0, 0x10, 0x01, 0, 0, 0, 0x85, 1, 0, 9, 0} // with the container of a PDU session
	loadBalancer := []byte{8, 0, 8, 0, 0, 0, 0, 0,
		0x01, 0x08, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0x01, 0x08, 2, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0x01, 0x08, 3, 1, 1, 2, 3, 4}
	vxlan := over4(17, datagram(4789, []byte{8, 0, 0, 0, 0, 0x12, 0x34, 0}))
	overGRE := over4(gre, prefix([]byte{0, 0, 0x08, 0x00}))
	dsLite := func(b []byte) []byte { return over6(inIPv4)(b) } // an IPv4 packet in one of IPv6
	list := []tunnel{
		{"mpls", link(mpls, packetOf, prefix(label), prefix([]byte{0x00, 0x01, 0x00, 0x40}))},
		{"mpls-pseudowire", link(mpls, prefix([]byte{0, 0, 0, 0}), prefix(label))},
		{"mpls-in-udp", link(ipv4, packetOf, over4(17, datagram(6635, label)))},
		{"pppoe", link(0x8864, packetOf, pppoe)},
		{"gre", link(ipv4, packetOf, overGRE)},
		{"gre-fragments", fragmented(link(ipv4, packetOf, over4(gre, prefix([]byte{0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1}))))},
		{"nvgre", link(ipv4, over4(gre, prefix([]byte{0x20, 0, 0x65, 0x58, 0x00, 0x12, 0x34, 0x01})))},
		{"pptp", link(ipv4, packetOf, over4(gre, prefix([]byte{0x30, 0x01, 0x88, 0x0b, 0, 0, 0, 7, 0, 0, 0, 1, 0xff, 0x03, 0x00, 0x21})))},
		{"erspan-1", link(ipv4, over4(gre, prefix([]byte{0, 0, 0x88, 0xbe})))},
		{"erspan-2", link(ipv4, over4(gre, prefix(span2)))},
		{"erspan-3", link(ipv4, over4(gre, prefix(span3)))},
		{"ip-in-ip", link(ipv4, packetOf, over4(inIPv4, nil))},
		{"6in4", link(ipv4, packetOf, dsLite, over4(inIPv6, nil))},
		{"4in6", link(ipv6, packetOf, dsLite)},
		{"etherip", link(ipv4, over4(etherIP, prefix([]byte{0x30, 0})))},
		{"vxlan", link(ipv4, vxlan)},
		{"vxlan-8472", link(ipv4, over4(17, datagram(8472, []byte{8, 0, 0, 0, 0, 0x12, 0x34, 0})))},
		{"vxlan-gpe-nsh", link(ipv4, over4(17, datagram(4790, []byte{0x0c, 0, 0, 4, 0, 0x12, 0x34, 0, 0x0f, 0xc2, 2, 3, 0, 0, 1, 0xff})))},
		{"geneve", link(ipv4, over4(17, datagram(6081, []byte{0, 0, 0x65, 0x58, 0, 0x12, 0x34, 0})))},
		{"geneve-options", link(ipv4, packetOf, over4(17, datagram(6081, loadBalancer)))},
		{"gtp-u", link(ipv4, packetOf, over4(17, datagram(2152, gtp)))},
		{"gre-in-udp", link(ipv4, packetOf, over4(17, datagram(4754, []byte{0x20, 0, 8, 0, 0, 0, 0, 7})))},
		{"l2tp", link(ipv4, packetOf, over4(17, datagram(1701, []byte{0, 2, 0, 7, 0, 8, 0xff, 0x03, 0x00, 0x21})))},
		{"teredo", link(ipv4, packetOf, dsLite, over4(17, datagram(3544, nil)))},
		{"ayiya", link(ipv4, packetOf, dsLite, over4(17, datagram(5072, append([]byte{0x41, 0x52, 0x11, 41, 0, 0, 0, 0}, make([]byte, 36)...))))},
		{"four-deep", link(mpls, vxlan, overGRE, packetToFrame, over4(17, datagram(4789, []byte{8, 0, 0, 0, 0, 0, 5, 0})), prefix(label))},
	}
	endless := repeat(40, overGRE)
	return append(list, tunnel{"too-deep", func(frame []byte) [][]byte {
		return [][]byte{frame, linkFrame(ipv4, endless(packetOf(frame)))}
	}})
}

// The steps of a wrapping, from the inside out.

type step func([]byte) []byte

// packetOf takes the Ethernet header off.
func packetOf(frame []byte) []byte { return frame[14:] }

// packetToFrame puts another host's Ethernet header before an IPv4 packet.
func packetToFrame(b []byte) []byte { return linkFrame(0x0800, b) }

func prefix(header []byte) step {
	return func(b []byte) []byte { return slices.Concat(header, b) }
}

func repeat(n int, s step) step {
	return func(b []byte) []byte {
		for range n {
			b = s(b)
		}
		return b
	}
}

// linkFrame puts the Ethernet header of a tunnel's ends before b.
func linkFrame(etherType uint16, b []byte) []byte {
	h := []byte{0x02, 0, 0, 0, 0x0f, 2, 0x02, 0, 0, 0, 0x0f, 1}
	return append(binary.BigEndian.AppendUint16(h, etherType), b...)
}

// link goes through the steps and puts an Ethernet header before what they lead to.
func link(etherType uint16, steps ...step) wrapping {
	return func(b []byte) [][]byte {
		for _, s := range steps {
			b = s(b)
		}
		return [][]byte{linkFrame(etherType, b)}
	}
}

func pppoe(b []byte) []byte {
	h := binary.BigEndian.AppendUint16([]byte{0x11, 0x00, 0x00, 0x07}, uint16(2+len(b)))
	return append(append(h, 0x00, 0x21), b...)
}

// datagram puts a UDP header, and what follows it, before b.
func datagram(port uint16, header []byte) step {
	return func(b []byte) []byte {
		h := binary.BigEndian.AppendUint16(nil, 50000)
		h = binary.BigEndian.AppendUint16(h, port)
		h = binary.BigEndian.AppendUint16(h, uint16(8+len(header)+len(b)))
		return slices.Concat(h, []byte{0, 0}, header, b) // without checksum, as tunnels may
	}
}

// over4 makes a packet from one end of the tunnel to the other.
func over4(proto byte, payload step) step {
	from, to := netip.MustParseAddr("192.0.2.1").As4(), netip.MustParseAddr("192.0.2.2").As4()
	return func(b []byte) []byte {
		if payload != nil {
			b = payload(b)
		}
		h := binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+len(b)))
		h = append(h, 0, 7, 0, 0, 62, proto, 0, 0)
		h = slices.Concat(h, from[:], to[:])
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return append(h, b...)
	}
}

func over6(next byte) step {
	from, to := netip.MustParseAddr("2001:db8:f::1").As16(), netip.MustParseAddr("2001:db8:f::2").As16()
	return func(b []byte) []byte {
		h := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(b)))
		h = append(h, next, 62)
		return slices.Concat(h, from[:], to[:], b)
	}
}

// fragmented cuts the IPv4 packets of a wrapping in two, the second part first.
func fragmented(w wrapping) wrapping {
	const header, cut = 14 + 20, 48
	return func(frame []byte) [][]byte {
		var out [][]byte
		for _, f := range w(frame) {
			first, second := slices.Clone(f[:header+cut]), slices.Concat(f[:header], f[header+cut:])
			for at, part := range [][]byte{first, second} {
				ip := part[14:]
				binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
				copy(ip[4:6], frame[18:20]) // the identification of what is inside
				binary.BigEndian.PutUint16(ip[6:], [...]uint16{0x2000, cut / 8}[at])
				copy(ip[10:], []byte{0, 0})
				binary.BigEndian.PutUint16(ip[10:], checksum(ip[:20]))
			}
			out = append(out, second, first)
		}
		return out
	}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
