package decode

import (
	"encoding/binary"
	"net/netip"

	"portolan/sensor/event"
)

// dnsHeader is the length of a DNS message's header (RFC 1035, section 4.1.1).
const dnsHeader = 12

// response is a DNS message from port 53, as it came or as long as it was captured.
type response struct {
	msg []byte
	endpoints
	proto  event.Proto
	at     event.Time // of the frame that completed it
	frame  uint64     // its number
	stream *assembly  // over TCP, else nil
}

// response decodes a message and hands it to the sink if it is a lookup (DESIGN, section 3,
// rule 3): a response, opcode 0, no zone transfer. A message that ends too early, or that
// contradicts itself somewhere, gives the records before that.
func (d *Decoder) response(m *response) Reason {
	if len(m.msg) < dnsHeader {
		d.counters.DNSMalformed++
		return DNSMalformed
	}
	id := binary.BigEndian.Uint16(m.msg[0:])
	flags := binary.BigEndian.Uint16(m.msg[2:])
	if flags&0xf800 != 0x8000 { // QR set and opcode 0
		return DNSNotLookup
	}
	d.counters.Responses++
	d.counters.Iterative += uint64(^flags >> 8 & 1) // RD, which a response repeats
	s := &d.dns
	s.begin(m.msg)
	if !s.questions(binary.BigEndian.Uint16(m.msg[4:])) {
		d.counters.DNSMalformed++
		return DNSMalformed
	}
	if s.qtype == event.AXFR || s.qtype == event.IXFR {
		if m.stream != nil {
			m.stream.xfers, m.stream.xfer = true, id
		}
		return DNSTransfer
	}
	if len(s.qname) == 0 && m.stream != nil && m.stream.xfers && m.stream.xfer == id {
		return DNSTransfer // its later messages need not repeat the question (RFC 5936, section 2.2)
	}
	if !s.answers(binary.BigEndian.Uint16(m.msg[6:])) {
		d.counters.DNSPartial++
		if s.over() {
			d.counters.DNSOverBudget++
		}
	}
	d.counters.Lookups++
	l := &d.lookup
	l.Time, l.Zone, l.Frame, l.Proto = m.at, d.zone, m.frame, m.proto
	d.to.put(&l.MAC)
	l.Resolver, l.Client = m.addrPorts()
	l.ID, l.RCode, l.Truncated = id, uint8(flags&0x0f), flags&0x0200 != 0
	l.Type, l.Name, l.Records = s.qtype, s.qname, s.records
	d.sink.Lookup(l)
	return Event
}

// The keys of service parameters that name a port or addresses (RFC 9460, section 14.3.2).
const (
	svcPort     = 3
	svcIPv4Hint = 4
	svcIPv6Hint = 6
)

// maxRecords bounds the records that one message gives. Without compression tricks 65,535
// bytes hold about so many addresses.
const maxRecords = 4096

// scanner reads the questions and answers of one message at a time into buffers of its own.
type scanner struct {
	names
	qname   []byte
	qtype   event.Type
	records []event.Record
}

func newScanner() scanner {
	return scanner{names: newNames(), records: make([]event.Record, 0, maxRecords)}
}

func (s *scanner) begin(msg []byte) {
	s.names.begin(msg)
	s.qname, s.qtype, s.records = nil, 0, s.records[:0]
	s.next = dnsHeader
}

// questions reads n questions (RFC 1035, section 4.1.2) and keeps the first. It reports
// whether all could be read.
func (s *scanner) questions(n uint16) bool {
	for i := range n {
		name, ok := s.name()
		if !ok || len(s.msg)-s.next < 4 {
			return false
		}
		if i == 0 {
			s.qname, s.qtype = name, event.Type(binary.BigEndian.Uint16(s.msg[s.next:]))
		}
		s.next += 4
	}
	return true
}

// answers reads n records (RFC 1035, section 4.1.3) and keeps those that events carry. It
// reports whether all could be read. A record whose data contradicts itself is passed over:
// where the next one begins is known all the same.
func (s *scanner) answers(n uint16) bool {
	whole := true
	var pointer uint16 // what the owner before was written as, when that was no more than a pointer; else 0
	var owner []byte
	for range n {
		// Most owners are the pointer that the one before was.
		if b := s.msg[s.next:]; pointer != 0 && len(b) >= 2 && binary.BigEndian.Uint16(b) == pointer && s.budget > 0 {
			s.budget--
			s.next += 2
		} else {
			from := s.next
			var ok bool
			if owner, ok = s.name(); !ok {
				return false
			}
			if pointer = 0; s.next == from+2 && b[0] >= 0xc0 {
				pointer = binary.BigEndian.Uint16(b)
			}
		}
		if len(s.msg)-s.next < 10 {
			return false
		}
		h := s.msg[s.next : s.next+10]
		begin := s.next + 10
		end := begin + int(binary.BigEndian.Uint16(h[8:]))
		if end > len(s.msg) {
			return false
		}
		if len(s.records) >= maxRecords {
			s.full = true
			return false
		}
		r := s.add(event.Type(binary.BigEndian.Uint16(h)), binary.BigEndian.Uint32(h[4:]), owner)
		s.next = begin
		switch known, ok := s.data(r, s.msg[begin:end]); {
		case !ok:
			whole = false
			fallthrough
		case !known:
			s.records = s.records[:len(s.records)-1]
		case r.Type == event.SVCB || r.Type == event.HTTPS:
			whole = s.parameters(len(s.records)-1, s.msg[begin:end], s.next-begin) && whole
		}
		s.next = end
	}
	return whole
}

// add returns a new record at the end of s.records, which has room for maxRecords.
func (s *scanner) add(t event.Type, ttl uint32, owner []byte) *event.Record {
	n := len(s.records)
	s.records = s.records[:n+1]
	r := &s.records[n]
	// Field by field: a literal is put together on the stack and copied by loads that have to
	// wait for its stores, which takes longer than all the rest.
	r.Type, r.Port, r.TTL, r.Addr = t, 0, ttl, netip.Addr{}
	r.Owner, r.Target, r.Text = owner, nil, nil
	return r
}

// data reads the data of a record, b, which is at s.next. It reports whether events carry
// records of this type, and whether the data could be read.
func (s *scanner) data(r *event.Record, b []byte) (known, ok bool) {
	switch r.Type {
	case event.A:
		if len(b) != 4 {
			return true, false
		}
		r.Addr = netip.AddrFrom4([4]byte(b))
	case event.AAAA:
		if len(b) != 16 {
			return true, false
		}
		r.Addr = netip.AddrFrom16([16]byte(b))
	case event.CNAME:
		r.Target, ok = s.name()
		return true, ok
	case event.TXT:
		r.Text, ok = s.text(b)
		return true, ok
	case event.SRV: // RFC 2782: priority, weight, port, target
		if len(b) < 7 {
			return true, false
		}
		r.Port = binary.BigEndian.Uint16(b[4:])
		s.next += 6
		r.Target, ok = s.name()
		return true, ok
	case event.NAPTR:
		return true, s.naptr(r, b)
	case event.URI: // RFC 7553, section 4.5: priority, weight, target, which is not empty
		if len(b) < 5 {
			return true, false
		}
		r.Text = b[4:]
	case event.SVCB, event.HTTPS: // RFC 9460, section 2.2: priority, target, parameters
		if len(b) < 3 {
			return true, false
		}
		end := s.next + len(b)
		s.next += 2
		r.Target, ok = s.name()
		return true, ok && s.next <= end
	default:
		return false, true
	}
	return true, true
}

// text joins the character strings of a TXT record (RFC 1035, section 3.3.14).
func (s *scanner) text(b []byte) ([]byte, bool) {
	if len(b) > 0 && int(b[0]) == len(b)-1 {
		return b[1:], true // one string, as it mostly is: no need to copy
	}
	start := len(s.buf)
	for len(b) > 0 {
		n := 1 + int(b[0])
		if n > len(b) || !s.room(n) {
			return nil, false
		}
		s.buf = append(s.buf, b[1:n]...)
		b = b[n:]
	}
	return s.buf[start:len(s.buf):len(s.buf)], true
}

// naptr reads the data of a NAPTR record (RFC 3403, section 4.1): order and preference,
// flags, services and regexp as strings, replacement as a name.
func (s *scanner) naptr(r *event.Record, b []byte) (ok bool) {
	var part [3][]byte
	at := 4
	for i := range part {
		if at >= len(b) || at+1+int(b[at]) > len(b) {
			return false
		}
		part[i] = b[at+1 : at+1+int(b[at])]
		at += 1 + int(b[at])
	}
	if !s.room(len(b)) {
		return false
	}
	start := len(s.buf)
	s.buf = append(s.buf, part[1]...)
	s.buf = append(s.buf, ' ')
	s.buf = append(s.buf, part[2]...)
	r.Text = s.buf[start:len(s.buf):len(s.buf)]
	s.next += at
	r.Target, ok = s.name()
	return ok
}

// parameters reads the service parameters (RFC 9460, section 2.2) from at on in b, the data
// of the SVCB or HTTPS record at index i, and adds a Hint for each address among them. In
// alias mode, priority 0, there are none.
func (s *scanner) parameters(i int, b []byte, at int) bool {
	if b[0] == 0 && b[1] == 0 {
		return true
	}
	for p := b[at:]; len(p) > 0; {
		if len(p) < 4 {
			return false
		}
		key, n := binary.BigEndian.Uint16(p), 4+int(binary.BigEndian.Uint16(p[2:]))
		if n > len(p) {
			return false
		}
		v := p[4:n]
		p = p[n:]
		switch {
		case key == svcPort && len(v) == 2:
			s.records[i].Port = binary.BigEndian.Uint16(v)
		case key == svcIPv4Hint && len(v)%4 == 0:
			for ; len(v) > 0; v = v[4:] {
				s.hint(i, netip.AddrFrom4([4]byte(v)))
			}
		case key == svcIPv6Hint && len(v)%16 == 0:
			for ; len(v) > 0; v = v[16:] {
				s.hint(i, netip.AddrFrom16([16]byte(v)))
			}
		}
	}
	return !s.full
}

// hint adds an address that the record at index i names.
func (s *scanner) hint(i int, a netip.Addr) {
	if len(s.records) >= maxRecords {
		s.full = true
		return
	}
	of := &s.records[i]
	s.add(event.Hint, of.TTL, of.Owner).Addr = a
}
