package decode

import (
	"encoding/binary"

	"portolan/sensor/event"
)

// ordinary is a packet that is found with a few comparisons: TCP or UDP right behind an IP header
// without options that is no fragment's, under a common link header and perhaps VLAN tags. Nearly
// all packets are.
type ordinary struct {
	tags      []byte // identifier of each tag and the EtherType after it, outermost first
	addrs     []byte // as in endpoints
	transport []byte // from the TCP or UDP header on, at least as long as that is
	proto     uint8
}

// The lengths of headers without options.
const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	udpHeader  = 8
)

// parse takes f apart, and reports whether it is such a packet.
func (p *ordinary) parse(f *Frame) bool {
	b := f.Data
	var at, link int // where the EtherType stands, and how long the header is
	switch f.Link {
	case Ethernet:
		at, link = 12, 14
	case SLL:
		at, link = 14, 16
	case SLL2:
		at, link = 0, 20
	default:
		return false
	}
	if len(b) < link+ipv4Header+udpHeader {
		return false
	}
	etherType := binary.BigEndian.Uint16(b[at:])
	b = b[link:]
	if etherType == etherVLAN || etherType == etherQinQ {
		n := 0
		for ; etherType == etherVLAN || etherType == etherQinQ; n += 4 {
			if n == 2*4 || len(b) < n+4+ipv4Header+udpHeader {
				return false
			}
			etherType = binary.BigEndian.Uint16(b[n+2:])
		}
		p.tags, b = b[:n], b[n:]
	} else {
		p.tags = nil
	}
	var length int // of the packet, 0 when it does not say
	header := ipv4Header
	switch etherType {
	case etherIPv4:
		if b[0] != 0x45 || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			return false
		}
		p.proto, p.addrs = b[9], b[12:20]
		length = int(binary.BigEndian.Uint16(b[2:]))
	case etherIPv6:
		if b[0]>>4 != 6 || len(b) < ipv6Header+udpHeader {
			return false
		}
		header = ipv6Header
		p.proto, p.addrs = b[6], b[8:40]
		if length = int(binary.BigEndian.Uint16(b[4:])); length != 0 {
			length += ipv6Header
		}
	default:
		return false
	}
	need := udpHeader
	switch p.proto {
	case protoTCP:
		need = tcpHeader
	case protoUDP:
	default:
		return false
	}
	if length == 0 || length > len(b) {
		length = len(b)
	}
	if length < header+need {
		return false
	}
	p.transport = b[header:length]
	return true
}

// endpoints returns where the packet comes from and goes to.
func (p *ordinary) endpoints() endpoints {
	return endpoints{p.addrs, binary.BigEndian.Uint16(p.transport), binary.BigEndian.Uint16(p.transport[2:])}
}

// inert reports whether the packet is a TCP segment that leaves no trace.
func (p *ordinary) inert() bool {
	if p.proto != protoTCP {
		return false
	}
	h := p.transport[:tcpHeader]
	return h[13]&syn == 0 && h[12]>>4 >= 5 &&
		binary.BigEndian.Uint16(h) != dnsPort && binary.BigEndian.Uint16(h[2:]) != dnsPort
}

// Inert reports whether f is one of the TCP segments that a mirror port shows most of: no SYN,
// not from or to port 53. Decode ends such a frame in NotOpening and leaves no trace of it in
// state or counters, so it need not see it; and this needs no Decoder. Of some rarer frames the
// same would be true, but cannot be told so cheaply: those are not inert.
func Inert(f *Frame) bool {
	var p ordinary
	return p.parse(f) && p.inert()
}

// ahead is how many frames DecodeAll looks ahead: a little more than a core can wait for at once.
const ahead = 32

// DecodeAll decodes frames in turn, as Decode does, and appends what became of each to dst. It
// is faster because waits for the tables of connections and flows overlap, and because the
// datagrams of known flows take a short way.
func (d *Decoder) DecodeAll(dst []Reason, frames []Frame, sink event.Sink) []Reason {
	for len(frames) > 0 {
		n := min(ahead, len(frames))
		var places [ahead]approach
		for i := range n {
			places[i] = d.approach(&frames[i])
		}
		// In a loop so tight that it is far ahead of what it waits for.
		for i := range n {
			switch p := &places[i]; {
			case p.flow != nil:
				d.touched += p.flow.tag[0] + uint64(p.flow.at[0])
			case p.start != nil:
				d.touched += p.start.tag[0] + uint64(p.start.start[0].at)
			}
		}
		for i := range n {
			f, p := &frames[i], &places[i]
			if p.only && p.flow.goesOn(p.hash, f.Time) {
				dst = append(dst, Flow)
			} else {
				dst = append(dst, d.Decode(f, sink))
			}
		}
		frames = frames[n:]
	}
	return dst
}

// approach says where a frame will lead Decode.
type approach struct {
	hash  uint64
	start *startBucket // where a connection can stand
	flow  *flowBucket  // where a flow can stand
	only  bool         // nothing but the flow counts
}

func (d *Decoder) approach(f *Frame) (a approach) {
	var p ordinary
	if !p.parse(f) || p.inert() {
		return a
	}
	d.zone, d.zoneKey = event.Zone{Point: f.Point}, uint64(f.Point)
	if f.HasVLAN {
		d.tag(f.VLAN)
	}
	for t := p.tags; len(t) >= 4; t = t[4:] {
		d.tag(binary.BigEndian.Uint16(t))
	}
	e := p.endpoints()
	if p.proto == protoTCP {
		if flags := p.transport[13]; flags&syn != 0 {
			a.hash = d.hash(e, flags&ack != 0)
			a.start = d.starts.bucket(a.hash)
		}
		return a
	}
	a.hash = d.hashFlow(e)
	a.flow = d.flows.bucket(a.hash)
	a.only = e.src != dnsPort && e.dst != dnsPort && !d.special.has(e.src) && !d.special.has(e.dst)
	return a
}

func (t *starts) bucket(h uint64) *startBucket { return &t.buckets[h&uint64(len(t.buckets)-1)] }
func (t *flows) bucket(h uint64) *flowBucket   { return &t.buckets[h&uint64(len(t.buckets)-1)] }

// goesOn records a datagram if it belongs to a flow that is known and has not been silent for
// too long, and reports whether it does. Otherwise nothing changes.
func (b *flowBucket) goesOn(h uint64, now event.Time) bool {
	i := find(&b.tag, h)
	if i == ways {
		return false
	}
	age := now - b.at[i]
	if age > idleWindow {
		return false
	}
	if age >= 0 || age < -idleWindow {
		b.at[i] = now
	}
	return true
}
