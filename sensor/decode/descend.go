package decode

import "encoding/binary"

// maxHeaders bounds the headers between one frame's first bytes and its innermost IP packet
// that descend takes off, all tunnels together, and with them how deep tunnels nest: a
// VXLAN packet under a VLAN tag costs three.
const maxHeaders = 32

// What came out of a search for an IP packet.
type found uint8

const (
	packetAbsent  found = iota // what is there is not IP
	packetFound                // there it is
	packetCut                  // the capture length cut it off
	packetTooDeep              // more headers in front of it than maxHeaders
	packetARP                  // ARP's, of a network that is mirrored whole
)

// search is where the headers of links and tunnels led.
type search struct {
	found  found
	packet []byte // begins as an IP header of version 4 or 6 does, or is ARP's
	kinds  uint32 // a bit for each TunnelKind on the way
}

func (s *search) passed(k TunnelKind) { s.kinds |= 1 << k }

// descend takes off the headers of b, whose EtherType is t, down to an IP packet. It has no
// effect but on d.place.
func (d *Decoder) descend(t uint16, b []byte) (s search) {
	for d.headers < maxHeaders {
		d.headers++
		var ok bool
		switch t {
		case etherIPv4, etherIPv6:
			s.found = d.packetIn(t, b)
			s.packet = b
			return s
		case etherVLAN, etherQinQ, etherOldQ:
			if ok = len(b) >= 4; ok {
				d.tag(binary.BigEndian.Uint16(b))
				t, b = binary.BigEndian.Uint16(b[2:]), b[4:]
			}
		case etherBridged:
			if ok = len(b) >= 14; ok {
				d.ends(b)
				t, b = binary.BigEndian.Uint16(b[12:]), b[14:]
			}
		case etherMPLS, etherMPLSUp:
			s.passed(MPLS)
			t, b, ok = mpls(b)
		case etherPPPoE:
			s.passed(PPPoE)
			t, b, ok = pppoe(b)
		case etherPPP:
			t, b, ok = ppp(b)
		case etherNSH:
			s.passed(NSH)
			t, b, ok = nsh(b)
		default:
			if t > etherLength {
				if t == etherARP {
					s.found, s.packet = packetARP, b
				}
				return s
			}
			t, b, ok = llc(b)
		}
		if !ok {
			if d.cut {
				s.found = packetCut
			}
			return s
		}
	}
	s.found = packetTooDeep
	return s
}

// packetIn says whether b begins with an IP header of the version that t names.
func (d *Decoder) packetIn(t uint16, b []byte) found {
	if len(b) > 0 && (ipType(b) != t || t == etherIPv4 && b[0]&0x0f < 5) {
		return packetAbsent
	}
	if len(b) >= 40 || len(b) >= 20 && t == etherIPv4 {
		return packetFound
	}
	if d.cut {
		return packetCut
	}
	return packetAbsent
}

// ipType returns the EtherType of a packet of the version that its first four bits name.
func ipType(b []byte) uint16 {
	switch {
	case len(b) == 0:
		return etherIPv4 // or IPv6: it is too short for either
	case b[0]>>4 == 4:
		return etherIPv4
	case b[0]>>4 == 6:
		return etherIPv6
	}
	return etherNone
}

// The functions below take one header off and return the EtherType of the rest, etherNone
// when it is nothing that could lead to an IP packet. They are not ok when b is too short.

// mpls takes the label stack off (RFC 3032, section 2.1). Nothing says what comes under
// it; the first four bits do (RFC 4928, section 3).
func mpls(b []byte) (uint16, []byte, bool) {
	for {
		if len(b) < 4 {
			return etherNone, nil, false
		}
		bottom := b[2]&1 != 0
		b = b[4:]
		if bottom {
			break
		}
	}
	if len(b) == 0 {
		return etherNone, nil, false
	}
	switch b[0] >> 4 {
	case 4, 6:
		// An Ethernet address can begin so, too. Then its frame says what it holds, and the
		// lengths in what would be the IP header are not true.
		if !truthful(b) && bridges(b) {
			return etherBridged, b, true
		}
		return ipType(b), b, true
	case 0:
		// A control word (RFC 4385, section 3), or an address without one.
		if len(b) >= 4 && (bridges(b[4:]) || !bridges(b)) {
			return etherBridged, b[4:], true
		}
	}
	return etherBridged, b, true
}

// truthful reports whether an IP header's length goes with the number of bytes there are.
func truthful(b []byte) bool {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		return 40+int(binary.BigEndian.Uint16(b[4:])) <= len(b)
	case len(b) >= 20 && b[0]>>4 == 4:
		total := int(binary.BigEndian.Uint16(b[2:]))
		return b[0]&0x0f >= 5 && total >= 20 && total <= len(b)
	}
	return false
}

// bridges reports whether b is an Ethernet frame whose EtherType is one that may lead to an
// IP packet, and whose packet, if that follows at once, has the version that it says.
func bridges(b []byte) bool {
	for n := 12; n < 12+3*4 && len(b) >= n+2; n += 4 {
		switch binary.BigEndian.Uint16(b[n:]) {
		case etherVLAN, etherQinQ, etherOldQ:
			continue
		case etherIPv4:
			return len(b) > n+2 && b[n+2]>>4 == 4
		case etherIPv6:
			return len(b) > n+2 && b[n+2]>>4 == 6
		case etherMPLS, etherMPLSUp, etherPPPoE:
			return true
		}
		return false
	}
	return false
}

// pppoe takes the header of the session stage off (RFC 2516, section 4).
func pppoe(b []byte) (uint16, []byte, bool) {
	if len(b) < 6 {
		return etherNone, nil, false
	}
	if b[0] != 0x11 || b[1] != 0 { // version and type 1; code 0
		return etherNone, nil, true
	}
	return ppp(b[6:])
}

// ppp takes off address and control, where they are, and the protocol number, of one byte
// or two (RFC 1661, section 2; RFC 1662, section 3.1).
func ppp(b []byte) (uint16, []byte, bool) {
	if len(b) >= 2 && b[0] == 0xff && b[1] == 0x03 {
		b = b[2:]
	}
	if len(b) < 2 {
		return etherNone, nil, false
	}
	proto := uint16(b[0])
	b = b[1:]
	if proto&1 == 0 {
		proto = proto<<8 | uint16(b[0])
		b = b[1:]
	}
	switch proto {
	case 0x0021:
		return etherIPv4, b, true
	case 0x0057:
		return etherIPv6, b, true
	case 0x0281, 0x0283:
		return etherMPLS, b, true
	case 0x0031: // bridging (RFC 3518, section 4.2); MAC type 1 is Ethernet
		if len(b) < 2 {
			return etherNone, nil, false
		}
		if b[0]&0x0f == 0 && b[1] == 1 {
			return etherBridged, b[2:], true
		}
	}
	return etherNone, nil, true
}

// nsh takes a network service header off (RFC 8300, section 2.2).
func nsh(b []byte) (uint16, []byte, bool) {
	if len(b) < 8 {
		return etherNone, nil, false
	}
	n := int(b[1]&0x3f) * 4
	if b[0]>>6 != 0 || n < 8 {
		return etherNone, nil, true
	}
	if len(b) < n {
		return etherNone, nil, false
	}
	return nextProtocol(b[3]), b[n:], true
}

// nextProtocol returns the EtherType of what network service headers and VXLAN-GPE announce by a number of their own.
func nextProtocol(n uint8) uint16 {
	switch n {
	case 1:
		return etherIPv4
	case 2:
		return etherIPv6
	case 3:
		return etherBridged
	case 4:
		return etherNSH
	case 5:
		return etherMPLS
	}
	return etherNone
}

// llc takes LLC and SNAP headers off (RFC 1042: organisation 0, then an EtherType).
func llc(b []byte) (uint16, []byte, bool) {
	if len(b) < 8 {
		return etherNone, nil, false
	}
	if [6]byte(b) != [6]byte{0xaa, 0xaa, 0x03} {
		return etherNone, nil, true
	}
	return binary.BigEndian.Uint16(b[6:]), b[8:], true
}

// under decodes b, whose EtherType is t, where link and tunnels are one.
func (d *Decoder) under(t uint16, b []byte) Reason {
	s := d.descend(t, b)
	switch s.found {
	case packetFound:
		return d.inside(&s)
	case packetCut:
		return Truncated
	case packetTooDeep:
		d.counters.TunnelsTooDeep++
		return Tunnel
	}
	if s.kinds != 0 {
		return Tunnel
	}
	return NotIP
}
