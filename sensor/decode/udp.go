package decode

import (
	"encoding/binary"

	"portolan/sensor/event"
)

// udp decodes a datagram (RFC 768).
func (d *Decoder) udp(b []byte, p packet) Reason {
	if len(b) < 8 {
		return d.shortTransport(p)
	}
	e := endpoints{p.addrs, binary.BigEndian.Uint16(b[0:]), binary.BigEndian.Uint16(b[2:])}
	payload := b[8:]
	if n := int(binary.BigEndian.Uint16(b[4:])); n >= 8 && n < len(b) {
		payload = b[8:n]
	} // else cut by the capture length, or the NIC had yet to cut it into datagrams
	if d.special.has(e.dst) || d.special.has(e.src) {
		if r, ok := d.datagramTunnel(e.src, e.dst, payload); ok {
			return r
		}
		d.namesHost(&e, payload)
	}
	r := Flow
	if d.flows.datagram(d.hashFlow(e), d.now) {
		r = Event
		d.connection(event.UDP, event.Datagram, e)
	}
	if e.dst == dnsPort && len(payload) >= dnsHeader && payload[2]&0x80 == 0 {
		d.counters.Queries++
	}
	if e.src == dnsPort {
		if s := d.response(&response{payload, e, event.UDP, d.now, d.number, nil}); s == Event || r == Flow {
			return s
		}
	}
	return r
}
