package decode

import "encoding/binary"

// rareLink takes link headers off that capture files hold and mirror ports do not. The
// forms are those of https://www.tcpdump.org/linktypes.html.
func (d *Decoder) rareLink(l LinkType, b []byte) Reason {
	switch l {
	case PPP:
		return d.under(etherPPP, b)
	case PPPEther:
		return d.under(etherPPPoE, b)
	case PPPHDLC, CHDLC:
		switch {
		case len(b) < 4:
			return d.short(NotIP)
		case b[0] == 0x0f || b[0] == 0x8f: // unicast, broadcast
			return d.network(binary.BigEndian.Uint16(b[2:]), b[4:])
		case l == PPPHDLC || b[0] == 0xff:
			return d.under(etherPPP, b)
		}
		return NotIP
	case FDDI:
		if len(b) < 13 {
			return d.short(NotIP)
		}
		d.to, d.from = macOf(b[1:7]), macOf(b[7:13])
		return d.network(etherLLC, b[13:])
	case WiFi:
		return d.wifi(b)
	case Prism:
		return d.behind(b, 144, WiFi)
	case AVS:
		if len(b) < 8 {
			return d.short(NotIP)
		}
		return d.behind(b, binary.BigEndian.Uint32(b[4:]), WiFi)
	case Radiotap:
		if len(b) < 4 {
			return d.short(NotIP)
		}
		return d.behind(b, uint32(binary.LittleEndian.Uint16(b[2:])), WiFi)
	case PPI:
		if len(b) < 8 {
			return d.short(NotIP)
		}
		inner := binary.LittleEndian.Uint32(b[4:])
		if inner != uint32(WiFi) && inner != uint32(Ethernet) {
			return LinkTypeUnknown
		}
		return d.behind(b, uint32(binary.LittleEndian.Uint16(b[2:])), LinkType(inner))
	case NFLOG:
		return d.nflog(b)
	}
	return LinkTypeUnknown
}

// behind decodes what follows a header of n bytes.
func (d *Decoder) behind(b []byte, n uint32, l LinkType) Reason {
	if uint64(len(b)) < uint64(n) {
		return d.short(NotIP)
	}
	return d.link(l, b[n:])
}

// nflog looks for the packet among the attributes of a log record. Their lengths and types
// are in the byte order of the host that captured; all that can be read here was little-endian.
func (d *Decoder) nflog(b []byte) Reason {
	const payload = 9
	for at := 4; at+4 <= len(b); {
		n := int(binary.LittleEndian.Uint16(b[at:]))
		if n < 4 {
			return NotIP
		}
		end := at + n
		if binary.LittleEndian.Uint16(b[at+2:]) == payload {
			return d.rawIP(b[at+4 : min(end, len(b))])
		}
		at = (end + 3) &^ 3
	}
	return d.short(NotIP)
}

// wifi decodes a data frame (IEEE 802.11, section 9.3.2.1) in the clear. Frames that hold
// several packets in one are not taken apart.
func (d *Decoder) wifi(b []byte) Reason {
	const (
		toDS, fromDS, protected, order = 0x01, 0x02, 0x40, 0x80 // in the second byte
		aggregated                     = 0x80                   // in the QoS control field
	)
	if len(b) < 24 {
		return d.short(NotIP)
	}
	subtype, flags := b[0]>>4, b[1]
	if b[0]>>2&3 != 2 || subtype&4 != 0 || flags&protected != 0 { // not data, without data, encrypted
		return NotIP
	}
	n := 24
	d.to, d.from = macOf(b[4:10]), macOf(b[10:16])
	switch flags & (toDS | fromDS) {
	case toDS:
		d.to = macOf(b[16:22])
	case fromDS:
		d.from = macOf(b[16:22])
	case toDS | fromDS:
		if n = 30; len(b) < n {
			return d.short(NotIP)
		}
		d.to, d.from = macOf(b[16:22]), macOf(b[24:30])
	}
	if subtype&8 != 0 { // QoS
		if len(b) < n+2 {
			return d.short(NotIP)
		}
		if b[n]&aggregated != 0 {
			return NotIP
		}
		n += 2
		if flags&order != 0 {
			n += 4
		}
	}
	if len(b) < n {
		return d.short(NotIP)
	}
	return d.network(etherLLC, b[n:])
}
