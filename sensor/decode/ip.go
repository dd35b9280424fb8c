package decode

import (
	"encoding/binary"
)

// The IP protocol numbers that matter here.
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoIPv4     = 4
	protoTCP      = 6
	protoUDP      = 17
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoGRE      = 47
	protoAH       = 51
	protoICMPv6   = 58
	protoDestOpts = 60
	protoEtherIP  = 97
	protoMobility = 135
	protoMPLS     = 137
)

// maxExtensions bounds the extension headers of one packet.
const maxExtensions = 16

// packet is what an IP header says of its payload.
type packet struct {
	addrs []byte // source and destination, 8 or 32 bytes
	lost  int    // bytes of the payload that are on the wire and not here
}

// ipv4 decodes a packet (RFC 791, section 3.1).
func (d *Decoder) ipv4(b []byte) Reason {
	if len(b) < 20 {
		return d.short(BadIP)
	}
	header := int(b[0]&0x0f) * 4
	if b[0]>>4 != 4 || header < 20 {
		return BadIP
	}
	if len(b) < header {
		return d.short(BadIP)
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = len(b) // the NIC had yet to cut it into segments
	}
	if total < header {
		return BadIP
	}
	p := packet{addrs: b[12:20], lost: max(0, total-len(b))}
	payload := b[header:min(total, len(b))] // what follows is padding
	proto := b[9]
	d.hops = b[8]
	if at := binary.BigEndian.Uint16(b[6:]); at&0x3fff != 0 {
		f := fragment{offset: int(at&0x1fff) * 8, more: at&0x2000 != 0, proto: proto}
		f.hash = d.hashFragment(p.addrs, uint32(binary.BigEndian.Uint16(b[4:])), proto)
		var r Reason
		if payload, proto, r = d.reassemble(f, payload, &p); payload == nil {
			return r
		}
	}
	if proto == protoAH {
		var ok bool
		if proto, payload, ok = extension(proto, payload); !ok {
			return d.short(BadIP)
		}
	}
	switch proto {
	case protoTCP:
		return d.tcp(payload, p)
	case protoUDP:
		return d.udp(payload, p)
	}
	return d.transport(proto, payload)
}

// ipv6 decodes a packet (RFC 8200, section 3) and walks along its extension headers.
func (d *Decoder) ipv6(b []byte) Reason {
	if len(b) < 40 {
		return d.short(BadIP)
	}
	if b[0]>>4 != 6 {
		return BadIP
	}
	p := packet{addrs: b[8:40]}
	proto, payload := b[6], b[40:]
	d.hops = b[7]
	// Length 0 is a jumbogram, or a packet that the NIC had yet to cut into segments.
	if n := int(binary.BigEndian.Uint16(b[4:])); n != 0 {
		p.lost = max(0, n-len(payload))
		payload = payload[:min(n, len(payload))]
	}
	for range maxExtensions {
		switch proto {
		case protoHopByHop, protoRouting, protoDestOpts, protoMobility, protoAH:
			var ok bool
			if proto, payload, ok = extension(proto, payload); !ok {
				return d.short(BadIP)
			}
		case protoFragment:
			if len(payload) < 8 {
				return d.short(BadIP)
			}
			at := binary.BigEndian.Uint16(payload[2:])
			f := fragment{offset: int(at &^ 7), more: at&1 != 0, proto: payload[0]}
			f.hash = d.hashFragment(p.addrs, binary.BigEndian.Uint32(payload[4:]), 0)
			proto, payload = f.proto, payload[8:]
			if f.offset != 0 || f.more { // else an atomic fragment, RFC 6946
				var r Reason
				if payload, proto, r = d.reassemble(f, payload, &p); payload == nil {
					return r
				}
			}
		case protoTCP:
			return d.tcp(payload, p)
		case protoUDP:
			return d.udp(payload, p)
		case protoICMPv6:
			if b[7] == onLink {
				d.neighbour(p.addrs, payload)
			}
			return ICMP
		default:
			return d.transport(proto, payload)
		}
	}
	return BadIP
}

// extension takes off an IPv6 extension header, or the authentication header of either
// version (RFC 4302, section 2), whose length counts words of 4 bytes instead of 8.
func extension(proto uint8, b []byte) (next uint8, rest []byte, ok bool) {
	if len(b) < 8 {
		return 0, nil, false
	}
	n := (int(b[1]) + 1) * 8
	if proto == protoAH {
		n = (int(b[1]) + 2) * 4
	}
	if len(b) < n {
		return 0, nil, false
	}
	return b[0], b[n:], true
}

// transport decodes the payload of an IP packet that is neither TCP nor UDP.
func (d *Decoder) transport(proto uint8, b []byte) Reason {
	switch proto {
	case protoICMP, protoICMPv6:
		return ICMP
	case protoIPv4, protoIPv6, protoGRE, protoEtherIP, protoMPLS:
		return d.ipTunnel(proto, b)
	}
	return Transport
}
