package decode

import "encoding/binary"

// The EtherTypes that matter here.
const (
	etherIPv4    = 0x0800
	etherARP     = 0x0806
	etherIPv6    = 0x86dd
	etherVLAN    = 0x8100 // IEEE 802.1Q
	etherQinQ    = 0x88a8 // IEEE 802.1ad
	etherOldQ    = 0x9100 // Q-in-Q before 802.1ad
	etherMPLS    = 0x8847 // RFC 5332: downstream-assigned
	etherMPLSUp  = 0x8848 // upstream-assigned
	etherPPPoE   = 0x8864 // RFC 2516, session stage
	etherPPP     = 0x880b // in GRE (RFC 2637)
	etherBridged = 0x6558 // a whole Ethernet frame (RFC 1701)
	etherERSPAN  = 0x88be // types I and II, in GRE
	etherERSPAN3 = 0x22eb // type III, in GRE
	etherNSH     = 0x894f // network service header (RFC 8300)
	etherNone    = 0xffff // reserved; stands for what leads to no IP packet
	etherLength  = 1500   // up to here the field is a length, and LLC follows
	etherLLC     = 0      // such a length
)

// maxTags bounds the VLAN tags of a frame, and an LLC header counts as one.
const maxTags = 8

// link takes the link header off.
func (d *Decoder) link(l LinkType, b []byte) Reason {
	switch l {
	case Ethernet:
		return d.ethernet(b)
	case Raw12, Raw14, Raw:
		return d.rawIP(b)
	case IPv4:
		return d.ipv4(b)
	case IPv6:
		return d.ipv6(b)
	case Null, Loop:
		// Which number stands for IPv6, and in which byte order, depends on the host that
		// captured. The packet says the same without them.
		if len(b) < 4 {
			return d.short(NotIP)
		}
		return d.rawIP(b[4:])
	case SLL:
		// https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html
		if len(b) < 16 {
			return d.short(NotIP)
		}
		if binary.BigEndian.Uint16(b[4:]) == 6 {
			d.from = macOf(b[6:12])
		}
		return d.network(binary.BigEndian.Uint16(b[14:]), b[16:])
	case SLL2:
		// https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
		if len(b) < 20 {
			return d.short(NotIP)
		}
		if b[11] == 6 {
			d.from = macOf(b[12:18])
		}
		return d.network(binary.BigEndian.Uint16(b), b[20:])
	}
	return d.rareLink(l, b)
}

// ethernet takes an Ethernet header off (IEEE 802.3, section 3.1.1).
func (d *Decoder) ethernet(b []byte) Reason {
	if len(b) < 14 {
		return d.short(NotIP)
	}
	d.ends(b)
	etherType := binary.BigEndian.Uint16(b[12:])
	if etherType == etherIPv4 { // as network does, without the way there
		return d.ipv4(b[14:])
	}
	return d.network(etherType, b[14:])
}

// rawIP decodes a packet of the version that its first four bits name.
func (d *Decoder) rawIP(b []byte) Reason {
	switch {
	case len(b) == 0:
		return d.short(NotIP)
	case b[0]>>4 == 4:
		return d.ipv4(b)
	case b[0]>>4 == 6:
		return d.ipv6(b)
	}
	return NotIP
}

// network takes VLAN tags and SNAP headers off and decodes what the EtherType says.
func (d *Decoder) network(etherType uint16, b []byte) Reason {
	for range maxTags + 1 {
		switch etherType {
		case etherIPv4:
			return d.ipv4(b)
		case etherIPv6:
			return d.ipv6(b)
		case etherVLAN, etherQinQ, etherOldQ:
			if len(b) < 4 {
				return d.short(NotIP)
			}
			d.tag(binary.BigEndian.Uint16(b))
			etherType, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		case etherMPLS, etherMPLSUp, etherPPPoE:
			return d.under(etherType, b)
		default:
			if etherType > etherLength {
				if etherType == etherARP {
					d.arp(b)
				}
				return NotIP
			}
			var ok bool
			if etherType, b, ok = llc(b); !ok {
				return d.short(NotIP)
			}
		}
	}
	return NotIP
}
