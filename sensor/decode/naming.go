package decode

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"portolan/sensor/event"
)

// The UDP ports of what names hosts.
const (
	portDHCPServer   = 67
	portDHCPClient   = 68
	portNetBIOS      = 137
	portDHCPv6Client = 546
	portDHCPv6Server = 547
	portMDNS         = 5353
)

// onLink is the hop limit of a packet that no router has passed on; neighbour discovery wants
// it (RFC 4861, section 7.1).
const onLink = 255

// namesHost hands to the sink what a datagram says of a host, if it says anything and the sink
// wants to know. Whatever it holds, the datagram stays what it is besides.
func (d *Decoder) namesHost(e *endpoints, b []byte) {
	switch e.dst {
	case portDHCPServer, portDHCPClient:
		if len(e.addrs) == 2*4 {
			d.dhcp(b)
		}
	case portDHCPv6Server, portDHCPv6Client:
		if len(e.addrs) == 2*16 {
			d.dhcpv6(b)
		}
	case portMDNS:
		if e.src == portMDNS {
			d.mdns(e, b)
		}
	case portNetBIOS:
		if len(e.addrs) == 2*4 {
			d.netBIOS(e.addrs[:4], b)
		}
	}
}

// says begins a naming.
func (d *Decoder) says(via event.Via) *event.Naming {
	n := &d.naming
	*n = event.Naming{Time: d.now, Zone: d.zone, Via: via, Frame: d.number}
	return n
}

// hand gives the naming to the sink, if that takes any and there is something in it.
func (d *Decoder) hand(n *event.Naming) {
	if n.Addr.IsUnspecified() || n.Addr.IsMulticast() || n.MAC[0]&1 != 0 || !n.Addr.IsValid() && len(n.Name) == 0 {
		return
	}
	if to, ok := d.sink.(event.NamingSink); ok {
		d.counters.Namings++
		to.Naming(n)
	}
}

// arp reads who sent a packet (RFC 826).
func (d *Decoder) arp(b []byte) {
	if len(b) < 28 || [6]byte(b) != [6]byte{0, 1, 0x08, 0x00, 6, 4} {
		return // of another medium or protocol, or cut
	}
	n := d.says(event.ARP)
	n.MAC = event.MAC(b[8:14])
	n.Addr = netip.AddrFrom4([4]byte(b[14:18]))
	d.hand(n)
}

// neighbour reads solicitations and advertisements (RFC 4861, sections 4.3 and 4.4).
func (d *Decoder) neighbour(addrs, b []byte) {
	const solicitation, advertisement, header = 135, 136, 24
	const sourceLink, targetLink = 1, 2
	if len(b) < header || b[1] != 0 {
		return
	}
	var addr []byte
	var want byte
	switch b[0] {
	case solicitation:
		addr, want = addrs[:16], sourceLink
	case advertisement:
		addr, want = b[8:24], targetLink
	default:
		return
	}
	for o := b[header:]; len(o) >= 8; { // options, in units of eight bytes
		size := int(o[1]) * 8
		if size == 0 || size > len(o) {
			return
		}
		if o[0] == want && size == 8 {
			n := d.says(event.ND)
			n.MAC = event.MAC(o[2:8])
			n.Addr = netip.AddrFrom16([16]byte(addr))
			d.hand(n)
			return
		}
		o = o[size:]
	}
}

// dhcp reads a message of RFC 2131: an acknowledgement gives a lease, what a client sends its
// name, or that it gives its address back.
func (d *Decoder) dhcp(b []byte) {
	const (
		header                           = 240 // with the magic number of RFC 2132, section 2
		discover, request, ack           = 1, 3, 5
		release, inform                  = 7, 8
		hostName, leaseTime, messageType = 12, 51, 53
		fqdn, pad, end                   = 81, 0, 255
	)
	if len(b) < header || b[1] != 1 || b[2] != 6 || binary.BigEndian.Uint32(b[236:]) != 0x63825363 {
		return
	}
	var kind byte
	var lease uint32
	var host, full []byte
	for o := b[header:]; len(o) > 0 && o[0] != end; {
		if o[0] == pad {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return
		}
		v := o[2 : 2+int(o[1])]
		switch {
		case o[0] == messageType && len(v) == 1:
			kind = v[0]
		case o[0] == leaseTime && len(v) == 4:
			lease = binary.BigEndian.Uint32(v)
		case o[0] == hostName:
			host = v
		case o[0] == fqdn && len(v) > 3: // flags and two codes (RFC 4702, section 2)
			const wire = 0x04
			if full = v[3:]; v[0]&wire != 0 {
				full = d.labels(full)
			}
		}
		o = o[2+len(v):]
	}
	n := d.says(event.DHCP)
	n.MAC = event.MAC(b[28:34])
	if n.Name = d.plainName(full); n.Name == nil {
		n.Name = d.plainName(host)
	}
	switch kind {
	case ack:
		n.Addr, n.Lease = netip.AddrFrom4([4]byte(b[16:20])), lease
		if n.Addr.IsUnspecified() { // the answer to inform
			n.Addr = netip.AddrFrom4([4]byte(b[12:16]))
		}
	case release:
		n.Addr, n.Ended = netip.AddrFrom4([4]byte(b[12:16])), true
	case discover, request, inform:
		// The address is asked for, not held; the name is the client's.
	default:
		return
	}
	d.hand(n)
}

// dhcpv6 reads a message of RFC 8415: a reply gives leases, what a client sends its name
// (RFC 4704). Between servers and relays messages are wrapped; those are not followed.
func (d *Decoder) dhcpv6(b []byte) {
	const (
		header, reply                = 4, 7
		nonTemporary, address, fqdn  = 3, 5, 39
		associationHead, addressHead = 12, 24
	)
	if len(b) < header {
		return
	}
	kind := b[0]
	switch kind {
	case 1, 3, 4, 5, 6, 11, reply: // solicit, request, confirm, renew, rebind, information-request
	default:
		return
	}
	var name []byte
	walk6(b[header:], func(code uint16, v []byte) {
		if code == fqdn && len(v) > 1 {
			name = d.plainName(d.labels(v[1:]))
		}
	})
	if kind != reply {
		n := d.says(event.DHCPv6)
		d.from.put(&n.MAC)
		n.Name = name
		d.hand(n)
		return
	}
	walk6(b[header:], func(code uint16, v []byte) {
		if code != nonTemporary || len(v) < associationHead {
			return
		}
		walk6(v[associationHead:], func(code uint16, v []byte) {
			if code != address || len(v) < addressHead {
				return
			}
			n := d.says(event.DHCPv6)
			d.to.put(&n.MAC) // a server or relay answers the client itself
			n.Name = name
			n.Addr, n.Lease = netip.AddrFrom16([16]byte(v)), binary.BigEndian.Uint32(v[20:])
			if n.Lease == 0 {
				n.Ended = true
			}
			d.hand(n)
		})
	})
}

// walk6 calls f with each option of DHCPv6, code and value, until they end or one is cut.
func walk6(b []byte, f func(code uint16, v []byte)) {
	for len(b) >= 4 {
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) {
			return
		}
		f(binary.BigEndian.Uint16(b), b[4:n])
		b = b[n:]
	}
}

// mdns reads the address records that a host gives of itself (RFC 6762): those of other
// addresses than the packet's source are hearsay.
func (d *Decoder) mdns(e *endpoints, b []byte) {
	if len(b) < dnsHeader || binary.BigEndian.Uint16(b[2:])&0xf800 != 0x8000 {
		return
	}
	src, _ := e.addrPorts()
	s := &d.dns
	s.begin(b)
	if !s.questions(binary.BigEndian.Uint16(b[4:])) {
		return
	}
	for i := 6; i < dnsHeader; i += 2 { // addresses come in the answer or the additional section
		if !s.answers(binary.BigEndian.Uint16(b[i:])) && s.over() {
			return
		}
	}
	for i := range s.records {
		r := &s.records[i]
		if r.Addr != src.Addr() || !bytes.HasSuffix(r.Owner, []byte(".local")) {
			continue
		}
		n := d.says(event.MDNS)
		n.Addr, n.Name = r.Addr, d.plainName(r.Owner)
		if n.Ended = r.TTL == 0; len(n.Name) > 0 { // RFC 6762, section 10.1: goodbye
			d.hand(n)
		}
		return
	}
}

// netBIOS reads the name that a host registers, refreshes or answers for, of itself (RFC 1002,
// section 4.2).
func (d *Decoder) netBIOS(source, b []byte) {
	const (
		header, encoded           = 12, 34 // of the message; of a name with its length and the root
		query, register           = 0, 5
		refresh, refreshOld       = 8, 9
		response, group           = 0x8000, 0x8000
		workstation, fileServer   = 0x00, 0x20 // suffixes: what the name stands for
		typeNB, recordHead, entry = 0x20, 10, 6
	)
	if len(b) < header+encoded {
		return
	}
	flags := binary.BigEndian.Uint16(b[2:])
	isResponse := flags&response != 0
	name := b[header:]
	at := header + encoded
	switch flags >> 11 & 0x0f {
	case query:
		if !isResponse {
			return
		}
	case register, refresh, refreshOld:
		if isResponse {
			return
		}
		if at += 4; len(b) < at+2 { // type and class of the question; then the record's own name
			return
		}
		if b[at]&0xc0 == 0xc0 {
			at += 2
		} else {
			at += encoded
		}
	default:
		return
	}
	if len(b) < at+recordHead+entry || binary.BigEndian.Uint16(b[at:]) != typeNB {
		return
	}
	v := b[at+recordHead:]
	if binary.BigEndian.Uint16(v)&group != 0 || !bytes.Equal(v[2:6], source) {
		return
	}
	var plain [16]byte
	if name[0] != 32 || name[33] != 0 {
		return
	}
	for i := range plain { // RFC 1001, section 14.1: half a byte a letter
		hi, lo := name[1+2*i]-'A', name[2+2*i]-'A'
		if hi > 15 || lo > 15 {
			return
		}
		plain[i] = hi<<4 | lo
	}
	if plain[15] != workstation && plain[15] != fileServer {
		return
	}
	n := d.says(event.NetBIOS)
	n.Addr = netip.AddrFrom4([4]byte(source))
	if n.Name = d.plainName(bytes.TrimRight(plain[:15], " \x00")); len(n.Name) > 0 {
		d.hand(n)
	}
}

// labels returns a name in wire form, without compression, with dots; nil when it is none.
func (d *Decoder) labels(b []byte) []byte {
	s := &d.dns.names
	s.begin(b)
	name, ok := s.name()
	if !ok {
		return nil
	}
	return name
}

// plainName returns a name as namings have them, nil for one that holds anything but letters,
// digits, hyphens, underscores and dots: hosts have sent everything else, too.
func (d *Decoder) plainName(b []byte) []byte {
	b = bytes.TrimRight(b, ".\x00")
	if len(b) == 0 || len(b) > len(d.called) {
		return nil
	}
	for i, c := range b {
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return nil
		}
		d.called[i] = c
	}
	return d.called[:len(b)]
}
