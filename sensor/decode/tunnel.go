package decode

import (
	"encoding/binary"
	"fmt"

	"portolan/sensor/event"
)

// TunnelKind says how a packet was wrapped.
type TunnelKind uint8

// The kinds of tunnel that Decode takes apart.
const (
	MPLS           TunnelKind = iota // label stack (RFC 3032), on a link, in IP (RFC 4023) or in UDP (RFC 7510)
	PPPoE                            // session stage (RFC 2516)
	IPInIP                           // IP protocol 4 (RFC 2003, RFC 2473)
	IPv6InIP                         // IP protocol 41 (RFC 4213, RFC 2473)
	GRE                              // RFC 2784, RFC 2890, and the routing of RFC 1701
	NVGRE                            // GRE that holds Ethernet and names a virtual subnet (RFC 7637)
	PPTP                             // GRE version 1 (RFC 2637)
	ERSPAN                           // types I, II and III, draft-foschiano-erspan
	EtherIP                          // RFC 3378
	VXLAN                            // RFC 7348
	VXLANGPE                         // draft-ietf-nvo3-vxlan-gpe
	Geneve                           // RFC 8926
	NSH                              // network service header (RFC 8300)
	GTPU                             // GTP-U version 1 (3GPP TS 29.281)
	GREInUDP                         // RFC 8086
	L2TP                             // data messages of version 2 (RFC 2661)
	Teredo                           // RFC 4380
	AYIYA                            // draft-massar-v6ops-ayiya
	NumTunnelKinds                   // how many kinds there are; not one itself
)

var tunnelNames = [NumTunnelKinds]string{
	MPLS: "mpls", PPPoE: "pppoe", IPInIP: "ip-in-ip", IPv6InIP: "ipv6-in-ip", GRE: "gre", NVGRE: "nvgre", PPTP: "pptp",
	ERSPAN: "erspan", EtherIP: "etherip", VXLAN: "vxlan", VXLANGPE: "vxlan-gpe", Geneve: "geneve", NSH: "nsh", GTPU: "gtp-u",
	GREInUDP: "gre-in-udp", L2TP: "l2tp", Teredo: "teredo", AYIYA: "ayiya",
}

// String returns the kind as it stands in counts: lower case, words joined by hyphens.
func (k TunnelKind) String() string {
	if k < NumTunnelKinds {
		return tunnelNames[k]
	}
	return fmt.Sprintf("tunnel %d?", uint8(k))
}

// place is where a packet was seen, as far as the headers so far have told.
type place struct {
	zone     event.Zone
	zoneKey  uint64 // zone as it goes into hashes
	from, to mac
}

// mac is an Ethernet address in a register: moving six bytes through memory takes longer than
// reading them.
type mac uint64

func macOf(b []byte) mac {
	return mac(binary.LittleEndian.Uint32(b)) | mac(binary.LittleEndian.Uint16(b[4:]))<<32
}

func (m mac) put(to *event.MAC) {
	binary.LittleEndian.PutUint32(to[:], uint32(m))
	binary.LittleEndian.PutUint16(to[4:], uint16(m>>32))
}

// ends takes the addresses of an Ethernet header, which b begins with.
func (p *place) ends(b []byte) {
	p.to = mac(binary.LittleEndian.Uint64(b) & (1<<48 - 1))
	p.from = mac(binary.LittleEndian.Uint64(b[4:]) >> 16)
}

// mark takes note of an identifier that separates networks. The outermost counts.
func (p *place) mark(kind event.TagKind, id uint32) {
	if p.zone.Kind == event.Untagged {
		p.zone.Kind, p.zone.ID = kind, id
		p.zoneKey |= uint64(kind)<<16 | uint64(id)<<32
	}
}

// tag takes note of a VLAN tag (IEEE 802.1Q, section 9.6), outermost first. Identifier 0
// is a priority without a VLAN.
func (p *place) tag(tci uint16) {
	if id := tci & 0x0fff; id != 0 {
		p.mark(event.VLAN, uint32(id))
	}
}

// wrapped is what the header of a tunnel says of what it holds.
type wrapped struct {
	kind      TunnelKind
	network   event.TagKind // Untagged when the header names no network
	id        uint32        // of that network
	etherType uint16        // of data
	data      []byte
}

// unwrap decodes the packet in a tunnel. It is not ok when what is in there leads to no IP
// packet: then nothing has changed, and the tunnel's own packet is what there is.
func (d *Decoder) unwrap(w *wrapped) (r Reason, ok bool) {
	outside := d.place
	d.mark(w.network, w.id)
	d.from, d.to = 0, 0 // the tunnel's ends have no part in what is inside
	switch s := d.descend(w.etherType, w.data); s.found {
	case packetFound:
		s.passed(w.kind)
		return d.inside(&s), true
	case packetCut:
		return Truncated, true
	case packetTooDeep:
		d.counters.TunnelsTooDeep++
		return Tunnel, true
	case packetARP:
		d.arp(s.packet)
	}
	d.place = outside
	return Tunnel, false
}

// inside decodes the packet that a search found.
func (d *Decoder) inside(s *search) Reason {
	for k := MPLS; s.kinds != 0; k, s.kinds = k+1, s.kinds>>1 {
		d.counters.Tunnels[k] += uint64(s.kinds & 1)
	}
	return d.rawIP(s.packet)
}

// ipTunnel decodes the payload of an IP protocol that is a tunnel.
func (d *Decoder) ipTunnel(proto uint8, b []byte) Reason {
	var w wrapped
	switch proto {
	case protoIPv4:
		w = wrapped{kind: IPInIP, etherType: etherIPv4, data: b}
	case protoIPv6:
		w = wrapped{kind: IPv6InIP, etherType: etherIPv6, data: b}
	case protoMPLS:
		w = wrapped{kind: MPLS, etherType: etherMPLS, data: b}
	case protoEtherIP:
		if len(b) < 2 {
			return d.short(Tunnel)
		}
		if b[0]>>4 != 3 { // the version
			return Tunnel
		}
		w = wrapped{kind: EtherIP, etherType: etherBridged, data: b[2:]}
	default:
		var ok bool
		if w, ok = gre(b); !ok {
			return d.short(Tunnel)
		}
	}
	r, _ := d.unwrap(&w)
	return r
}

// gre reads a header (RFC 2784, section 2, with what RFC 1701, 2890 and 2637 add to it). It
// is not ok when b ends before the header does.
func gre(b []byte) (w wrapped, ok bool) {
	const (
		checksum, routing, key, sequence = 0x80, 0x40, 0x20, 0x10 // in the first byte
		acknowledgement, version         = 0x80, 0x07             // in the second
	)
	if len(b) < 4 {
		return w, false
	}
	flags, etherType := b[0], binary.BigEndian.Uint16(b[2:])
	w = wrapped{kind: GRE, etherType: etherType}
	n := 4
	if flags&(checksum|routing) != 0 {
		n += 4
	}
	at := n // of the key
	if flags&key != 0 {
		n += 4
	}
	if flags&sequence != 0 {
		n += 4
	}
	switch v := b[1] & version; {
	case v == 0:
	case v == 1 && etherType == etherPPP:
		w.kind = PPTP
		if b[1]&acknowledgement != 0 {
			n += 4
		}
		if flags&sequence == 0 { // an acknowledgement without payload
			w.etherType = etherNone
		}
	default:
		w.etherType = etherNone
		return w, true
	}
	if flags&routing != 0 {
		for { // source route entries: family, offset, length; the last has length 0
			if len(b) < n+4 {
				return w, false
			}
			length := int(b[n+3])
			n += 4 + length
			if length == 0 {
				break
			}
		}
	}
	if len(b) < n {
		return w, false
	}
	w.data = b[n:]
	switch w.etherType {
	case etherBridged:
		if flags&key != 0 {
			w.subnet(binary.BigEndian.Uint32(b[at:]))
		}
	case etherERSPAN, etherERSPAN3:
		return erspan(w, flags&sequence != 0)
	}
	return w, true
}

// subnet reads a key as NVGRE's: the identifier of a virtual subnet and 8 bits that vary by
// flow (RFC 7637, section 3.2). Identifiers below 0x1000 are reserved, so those keys are
// somebody else's; so are keys with but their first byte set, which is how VMware's
// mirrors tell the two directions of one network apart.
func (w *wrapped) subnet(key uint32) {
	if id := key >> 8; id >= 0x1000 && key<<8 != 0 {
		w.kind, w.network, w.id = NVGRE, event.VNI, id
	}
}

// erspan reads the header between GRE and the mirrored frame. Type I has none, and goes
// without a sequence number.
func erspan(w wrapped, sequence bool) (wrapped, bool) {
	w.kind = ERSPAN
	b, n, etherType := w.data, 8, w.etherType
	w.etherType = etherBridged
	if etherType == etherERSPAN && !sequence {
		return w, true
	}
	if len(b) < 8 {
		return w, false
	}
	version := b[0] >> 4
	if version == 2 { // type III
		if len(b) < 12 {
			return w, false
		}
		n = 12
		if b[11]&1 != 0 { // a subheader that depends on the platform
			n = 20
		}
	}
	if version != 1 && version != 2 {
		w.etherType = etherNone
		return w, true
	}
	if len(b) < n {
		return w, false
	}
	w.network, w.id, w.data = event.ERSPAN, uint32(binary.BigEndian.Uint16(b[2:])&0x03ff), b[n:]
	if version == 2 && b[10]>>2&0x1f == 2 { // of the frame types 0 is Ethernet and 2 is IP
		w.etherType = ipType(w.data)
	}
	return w, true
}
