package decode

import (
	"encoding/binary"

	"portolan/sensor/event"
)

// The TCP control bits (RFC 9293, section 3.1).
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

// dnsPort is where servers answer.
const dnsPort = 53

// tcp decodes a segment (RFC 9293, section 3.1).
func (d *Decoder) tcp(b []byte, p packet) Reason {
	if len(b) < 20 {
		return d.shortTransport(p)
	}
	h := b[:20] // one bounds check for the reads below
	e := endpoints{p.addrs, binary.BigEndian.Uint16(h[0:]), binary.BigEndian.Uint16(h[2:])}
	header := int(h[12]>>4) * 4
	if header < 20 {
		return BadTransport
	}
	seq, flags := binary.BigEndian.Uint32(h[4:]), h[13]
	r := NotOpening
	switch flags & (syn | ack | rst | fin) {
	case syn:
		d.counters.SYN++
		if r = Repeat; d.starts.syn(d.hash(e, false), d.now, seq) {
			r = Event
			d.connection(event.TCP, event.SYN, e)
		}
	case syn | ack:
		d.counters.SYNACK++
		if r = Repeat; d.starts.synack(d.hash(e, true), d.now, binary.BigEndian.Uint32(h[8:])) {
			r = Event
			d.connection(event.TCP, event.SYNACK, e)
		}
	}
	if e.src != dnsPort && e.dst != dnsPort {
		return r
	}
	var data []byte
	if len(b) > header {
		data = b[header:]
	}
	if e.dst == dnsPort && len(data) >= 2+dnsHeader && data[4]&0x80 == 0 {
		d.counters.Queries++
	}
	if e.src != dnsPort || len(data) == 0 && flags&syn == 0 {
		return r
	}
	if s := d.segment(&segment{e, seq, flags&syn != 0, data, p.lost}); s == Event || r == NotOpening {
		return s
	}
	return r
}

// shortTransport is the reason of a TCP or UDP header that is not all there.
func (d *Decoder) shortTransport(p packet) Reason {
	if p.lost > 0 {
		return Truncated
	}
	return BadTransport
}
