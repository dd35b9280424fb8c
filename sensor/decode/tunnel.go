package decode

import "encoding/binary"

// The UDP ports of tunnels.
const (
	portGTPU     = 2152 // 3GPP TS 29.281
	portTeredo   = 3544 // RFC 4380
	portGREInUDP = 4754 // RFC 8086
	portVXLAN    = 4789 // RFC 7348
	portGPE      = 4790 // VXLAN-GPE, draft-ietf-nvo3-vxlan-gpe
	portAYIYA    = 5072 // draft-massar-v6ops-ayiya
	portGeneve   = 6081 // RFC 8926
	portVXLANOld = 8472 // VXLAN as Linux had it before there was a number
)

// The EtherTypes that tunnels put in front of what is not an IP packet itself.
const (
	etherBridged = 0x6558 // a whole Ethernet frame (RFC 1701)
	etherNSH     = 0x894f // network service header (RFC 8300)
)

// tunnelled reports whether the payload of a datagram has the form of the tunnel that its
// ports stand for, with an IP header inside. The ports alone prove nothing: anyone may use them.
func tunnelled(src, dst uint16, b []byte) bool {
	if len(b) < 8 || src == dnsPort || dst == dnsPort {
		return false
	}
	switch {
	case dst == portVXLAN || dst == portVXLANOld:
		return b[0]&0x08 != 0 && holdsEthernet(b[8:])
	case dst == portGPE:
		return holdsNext(b[3], b[8:])
	case dst == portGeneve:
		return b[0]>>6 == 0 && holdsType(binary.BigEndian.Uint16(b[2:]), from(b, 8+int(b[0]&0x3f)*4))
	case dst == portGREInUDP:
		n := 4 // and 4 more for each of checksum, key and sequence number (RFC 2784, RFC 2890)
		for _, bit := range [...]byte{0x80, 0x20, 0x10} {
			if b[0]&bit != 0 {
				n += 4
			}
		}
		return holdsType(binary.BigEndian.Uint16(b[2:]), from(b, n))
	case src == portGTPU || dst == portGTPU:
		return b[0]>>5 == 1 && b[1] == 255 && holdsIP(gtpPayload(b))
	case src == portAYIYA || dst == portAYIYA:
		// Identity and signature, in units of 4 bytes, follow the header of 8.
		return holdsIP(from(b, 8+int(b[0]>>4)*4+int(b[1]>>4)*4))
	case src == portTeredo || dst == portTeredo:
		return holdsIP(teredoPayload(b))
	}
	return false
}

// from returns b from n on, nil when it is not so long.
func from(b []byte, n int) []byte {
	if n > len(b) {
		return nil
	}
	return b[n:]
}

// holdsIP reports whether b begins with what can be an IP header.
func holdsIP(b []byte) bool {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		return true
	case len(b) >= 20 && b[0]>>4 == 4:
		return b[0]&0x0f >= 5
	}
	return false
}

// holdsEthernet reports whether b begins with an Ethernet header that announces an IP packet.
func holdsEthernet(b []byte) bool {
	for n := 12; len(b) >= n+2; n += 4 {
		switch t := binary.BigEndian.Uint16(b[n:]); t {
		case etherVLAN, etherQinQ, etherOldQ:
		case etherIPv4, etherIPv6:
			return holdsIP(b[n+2:])
		default:
			return false
		}
	}
	return false
}

// holdsType reports whether b, announced by an EtherType, holds an IP packet.
func holdsType(t uint16, b []byte) bool {
	switch t {
	case etherIPv4, etherIPv6:
		return holdsIP(b)
	case etherBridged:
		return holdsEthernet(b)
	case etherNSH:
		return holdsNSH(b)
	}
	return false
}

// holdsNext is holdsType for the numbers of VXLAN-GPE and of the network service header.
func holdsNext(next byte, b []byte) bool {
	switch next {
	case 1, 2:
		return holdsIP(b)
	case 3:
		return holdsEthernet(b)
	case 4:
		return holdsNSH(b)
	}
	return false
}

// holdsNSH looks behind a network service header (RFC 8300, section 2.2).
func holdsNSH(b []byte) bool {
	if len(b) < 8 || b[3] == 4 {
		return false
	}
	return holdsNext(b[3], from(b, int(b[1]&0x3f)*4))
}

// gtpPayload returns what follows the header of a GTP-U message and its extensions
// (3GPP TS 29.281, section 5.1), nil when that is not there.
func gtpPayload(b []byte) []byte {
	if b[0]&0x07 == 0 {
		return b[8:]
	}
	n := 12
	if len(b) < n {
		return nil
	}
	if b[0]&0x04 == 0 {
		return b[n:]
	}
	for next := b[n-1]; next != 0; next = b[n-1] { // the last byte of each extension names the next
		if n >= len(b) || b[n] == 0 || n+int(b[n])*4 > len(b) {
			return nil
		}
		n += int(b[n]) * 4
	}
	return b[n:]
}

// teredoPayload returns what follows the authentication and origin indications
// (RFC 4380, section 5.1.1), nil when that is not there.
func teredoPayload(b []byte) []byte {
	if b[0] == 0 && b[1] == 1 {
		if b = from(b, 13+int(b[2])+int(b[3])); len(b) < 2 {
			return nil
		}
	}
	if b[0] == 0 && b[1] == 0 {
		b = from(b, 8)
	}
	return b
}
