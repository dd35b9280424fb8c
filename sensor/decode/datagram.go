package decode

import (
	"encoding/binary"

	"portolan/sensor/event"
)

// The UDP ports of tunnels. Config says which of them are VXLAN's, and may add some.
const (
	portL2TP      = 1701  // RFC 2661
	portGTPU      = 2152  // 3GPP TS 29.281
	portTeredo    = 3544  // RFC 4380
	portGREInUDP  = 4754  // RFC 8086
	portVXLAN     = 4789  // RFC 7348
	portGPE       = 4790  // draft-ietf-nvo3-vxlan-gpe
	portAYIYA     = 5072  // draft-massar-v6ops-ayiya
	portGeneve    = 6081  // RFC 8926
	portMPLSInUDP = 6635  // RFC 7510
	portVXLANOld  = 8472  // VXLAN as Linux had it before there was a number
	portAzureIn   = 10800 // VXLAN of Azure's gateway load balancer, on the side of the client
	portAzureOut  = 10801 // and on the other
)

// portSet holds ports roughly: one that was added is in it, and few others are. It is so
// small that looking a port up costs next to nothing.
type portSet [4]uint64

func (s *portSet) add(port uint16)      { s[port>>6&3] |= 1 << (port & 63) }
func (s *portSet) has(port uint16) bool { return s[port>>6&3]>>(port&63)&1 != 0 }

// specialPorts returns the ports of all tunnels, and of what names hosts.
func specialPorts(vxlan []uint16) (s portSet) {
	for _, p := range []uint16{portL2TP, portGTPU, portTeredo, portGREInUDP, portGPE, portAYIYA, portGeneve, portMPLSInUDP,
		portDHCPServer, portDHCPClient, portNetBIOS, portDHCPv6Client, portDHCPv6Server, portMDNS} {
		s.add(p)
	}
	for _, p := range vxlan {
		s.add(p)
	}
	return s
}

// datagramTunnel decodes what b, the payload of a datagram between two ports, holds if it
// is a tunnel's. The ports alone prove nothing, as anyone may use them: b has to have the
// tunnel's form down to an IP header. Else it is not ok, and a datagram like any other.
func (d *Decoder) datagramTunnel(src, dst uint16, b []byte) (r Reason, ok bool) {
	if len(b) < 8 || src == dnsPort || dst == dnsPort { // no tunnel here has a shorter header
		return 0, false
	}
	var w wrapped
	switch {
	case dst == portGPE:
		w, ok = vxlanGPE(b)
	case dst == portGeneve:
		w, ok = geneve(b)
	case dst == portGREInUDP:
		w, ok = gre(b)
		ok = ok && w.kind != PPTP
		w.kind = GREInUDP
	case dst == portMPLSInUDP:
		w, ok = wrapped{kind: MPLS, etherType: etherMPLS, data: b}, true
	case d.isVXLAN(dst):
		w, ok = vxlan(b)
	case src == portGTPU || dst == portGTPU:
		w, ok = gtpu(b)
	case src == portAYIYA || dst == portAYIYA:
		w, ok = ayiya(b)
	case src == portTeredo || dst == portTeredo:
		w, ok = teredo(b)
	case src == portL2TP || dst == portL2TP:
		w, ok = l2tp(b)
	}
	if !ok {
		return 0, false
	}
	return d.unwrap(&w)
}

func (d *Decoder) isVXLAN(port uint16) bool {
	for _, p := range d.vxlanPorts {
		if p == port {
			return true
		}
	}
	return false
}

// The functions below read the header that a datagram begins with, b of 8 bytes at least,
// and are not ok when it has not that form.

// networkID returns the 24 bits of a virtual network identifier.
func networkID(b []byte) uint32 { return binary.BigEndian.Uint32(b) >> 8 }

// vxlan reads RFC 7348, section 5. Mirrors of cloud networks send it, too.
func vxlan(b []byte) (w wrapped, ok bool) {
	const valid = 0x08 // the identifier is
	return wrapped{VXLAN, event.VNI, networkID(b[4:]), etherBridged, b[8:]}, b[0]&valid != 0
}

// vxlanGPE reads draft-ietf-nvo3-vxlan-gpe, section 3.
func vxlanGPE(b []byte) (w wrapped, ok bool) {
	const version, valid, next = 0x30, 0x08, 0x04
	w = wrapped{kind: VXLANGPE, etherType: nextProtocol(b[3]), data: b[8:]}
	if b[0]&valid != 0 {
		w.network, w.id = event.VNI, networkID(b[4:])
	}
	return w, b[0]&(version|next) == next
}

// geneve reads RFC 8926, section 3.4. Load balancers of cloud networks put IP packets
// straight into it.
func geneve(b []byte) (w wrapped, ok bool) {
	n := 8 + int(b[0]&0x3f)*4 // options
	if b[0]>>6 != 0 || len(b) < n {
		return w, false
	}
	return wrapped{Geneve, event.VNI, networkID(b[4:]), binary.BigEndian.Uint16(b[2:]), b[n:]}, true
}

// gtpu reads 3GPP TS 29.281, section 5: a G-PDU of version 1 with its extension headers.
func gtpu(b []byte) (w wrapped, ok bool) {
	const extension, optional = 0x04, 0x07 // any of the three makes room for all
	if b[0]>>5 != 1 || b[0]&0x10 == 0 || b[1] != 255 {
		return w, false
	}
	n := 8
	if b[0]&optional != 0 {
		if n = 12; len(b) < n {
			return w, false
		}
		next := b[11]
		for b[0]&extension != 0 && next != 0 { // each ends with the type of the next
			if n >= len(b) || b[n] == 0 || n+int(b[n])*4 > len(b) {
				return w, false
			}
			n += int(b[n]) * 4
			next = b[n-1]
		}
	}
	return wrapped{kind: GTPU, etherType: ipType(b[n:]), data: b[n:]}, true
}

// ayiya reads draft-massar-v6ops-ayiya, section 4: identity and signature, in units of four
// bytes, follow a header of 8.
func ayiya(b []byte) (w wrapped, ok bool) {
	n := 8 + int(b[0]>>4)*4 + int(b[1]>>4)*4
	if len(b) < n || b[3] != protoIPv4 && b[3] != protoIPv6 {
		return w, false
	}
	return wrapped{kind: AYIYA, etherType: ipType(b[n:]), data: b[n:]}, true
}

// teredo reads RFC 4380, section 5.1.1: an authentication and an origin may stand before
// the IPv6 packet.
func teredo(b []byte) (w wrapped, ok bool) {
	if b[0] == 0 && b[1] == 1 {
		n := 13 + int(b[2]) + int(b[3])
		if len(b) < n+2 {
			return w, false
		}
		b = b[n:]
	}
	if b[0] == 0 && b[1] == 0 {
		if len(b) < 8 {
			return w, false
		}
		b = b[8:]
	}
	return wrapped{kind: Teredo, etherType: etherIPv6, data: b}, true
}

// l2tp reads the data messages of RFC 2661, section 3.1: PPP.
func l2tp(b []byte) (w wrapped, ok bool) {
	const control, length, sequence, offset = 0x80, 0x40, 0x08, 0x02
	if b[0]&control != 0 || b[1]&0x0f != 2 {
		return w, false
	}
	n := 6
	if b[0]&length != 0 {
		n += 2
	}
	if b[0]&sequence != 0 {
		n += 4
	}
	if b[0]&offset != 0 {
		if len(b) < n+2 {
			return w, false
		}
		n += 2 + int(binary.BigEndian.Uint16(b[n:]))
	}
	if len(b) < n {
		return w, false
	}
	return wrapped{kind: L2TP, etherType: etherPPP, data: b[n:]}, true
}
