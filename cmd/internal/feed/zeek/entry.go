package zeek

import (
	"bytes"
	"net/netip"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/sensor/event"
)

const dnsPort = 53

// common reads what both logs hold.
func (p *Parser) common() (t event.Time, orig, resp netip.AddrPort, err error) {
	v := &p.value
	t, ok := moment(v[colTS])
	if !ok {
		return 0, orig, resp, errTime
	}
	oh, ok1 := field.Addr(v[colOrigH])
	rh, ok2 := field.Addr(v[colRespH])
	if !ok1 || !ok2 {
		return 0, orig, resp, errAddress
	}
	op, ok1 := field.Port(v[colOrigP])
	rp, ok2 := field.Port(v[colRespP])
	if !ok1 || !ok2 {
		return 0, orig, resp, errPort
	}
	return t, netip.AddrPortFrom(oh, op), netip.AddrPortFrom(rh, rp), nil
}

// moment reads a time in either of the forms that Zeek writes.
func moment(b []byte) (event.Time, bool) {
	if len(b) > 4 && b[4] == '-' {
		return field.Stamp(b)
	}
	return field.Seconds(b)
}

func transport(b []byte) event.Proto {
	switch string(b) {
	case "tcp":
		return event.TCP
	case "udp":
		return event.UDP
	}
	return 0
}

// connection makes a connection of an entry of conn.log.
func (p *Parser) connection(to feed.Sink) error {
	v := &p.value
	c := &p.conn
	*c = event.Connection{Proto: transport(v[colProto])}
	switch c.Proto {
	case event.TCP:
		var begun bool
		if c.Start, begun = beginning(v[colHistory], v[colState]); !begun {
			return nil
		}
	case event.UDP:
		c.Start = event.Datagram
	default:
		return nil // ICMP has no ports
	}
	var err error
	if c.Time, c.Src, c.Dst, err = p.common(); err != nil {
		return err
	}
	c.MAC, _ = field.MAC(v[colOrigMAC])
	to.Connection(c)
	return nil
}

// beginning says what began a TCP connection, and whether that was seen.
// In the history an upper-case letter stands for the originator: S for SYN, H for SYN with ACK.
func beginning(history, state []byte) (event.Start, bool) {
	switch {
	case bytes.IndexByte(history, 'S') >= 0:
		return event.SYN, true
	case bytes.IndexByte(history, 'h') >= 0:
		return event.SYNACK, true
	case history != nil:
		return 0, false
	}
	switch string(state) {
	case "OTH":
		return 0, false
	case "RSTRH", "SHR":
		return event.SYNACK, true
	}
	return event.SYN, true
}

// dns makes a lookup of an entry of dns.log.
func (p *Parser) dns(to feed.Sink) error {
	v := &p.value
	if v[colRCode] == nil && v[colRTT] == nil && v[colAnswers] == nil {
		return nil // no response was seen
	}
	l := &p.lookup
	*l = event.Lookup{Proto: transport(v[colProto]), Records: l.Records[:0]}
	if port, ok := field.Port(v[colRespP]); ok && port != dnsPort {
		return nil // multicast DNS, LLMNR, NetBIOS
	}
	if v[colOpcode] != nil && string(v[colOpcode]) != "0" {
		return nil
	}
	if n, ok := field.Uint(v[colType], 65535); ok {
		if l.Type = event.Type(n); l.Type == event.AXFR || l.Type == event.IXFR {
			return nil
		}
	}
	var err error
	if l.Time, l.Client, l.Resolver, err = p.common(); err != nil {
		return err
	}
	if v[colRTT] != nil {
		rtt, ok := field.Seconds(v[colRTT])
		if !ok {
			return errRTT
		}
		l.Time = microseconds(l.Time + rtt)
	}
	if n, ok := field.Uint(v[colTransID], 65535); ok {
		l.ID = uint16(n)
	}
	if n, ok := field.Uint(v[colRCode], 1<<12); ok {
		l.RCode = uint8(n & 15) // the upper bits are not in the header (RFC 6891, section 6.1.3)
	}
	l.Truncated = string(v[colTC]) == "T" || string(v[colTC]) == "true"
	p.text = field.Name(p.text[:0], v[colQuery])
	if bytes.Equal(v[colQuery], p.tsv.empty) && v[colQuery] != nil {
		p.text = append(p.text[:0], '.')
	}
	l.Name = p.text
	p.records()
	to.Lookup(l)
	return nil
}

// records takes the addresses and texts of the vector of answers, which also holds the names
// of CNAME records and others. Whose they are Zeek does not say; it is taken to be the name asked for.
func (p *Parser) records() {
	l := &p.lookup
	for i, b := range p.answers {
		r := event.Record{Owner: l.Name}
		if i < len(p.ttls) {
			ttl, _ := field.Seconds(p.ttls[i])
			r.TTL = uint32(min(ttl/1e9, 1<<32-1))
		}
		if a, ok := field.Addr(b); ok {
			if r.Type, r.Addr = event.AAAA, a; a.Is4() {
				r.Type = event.A
			}
		} else if bytes.HasPrefix(b, txtPrefix) {
			r.Type, r.Text = event.TXT, p.joined(b)
		} else {
			continue
		}
		l.Records = append(l.Records, r)
	}
}

// txtPrefix stands before the length and the bytes of each string of a TXT record.
var txtPrefix = []byte("TXT ")

// joined returns the strings of a TXT record without what stands before each.
func (p *Parser) joined(b []byte) []byte {
	from := len(p.text)
	p.text = unescape(p.text, b)
	raw := p.text[from:]
	out := raw[:0] // what is written is never longer than what was read
	for {
		digits, rest, ok := bytes.Cut(bytes.TrimPrefix(raw, txtPrefix), []byte(" "))
		n, isLen := field.Uint(digits, uint64(len(rest)))
		if !ok || !isLen {
			break
		}
		out = append(out, rest[:n]...)
		raw = bytes.TrimPrefix(rest[n:], []byte(" "))
		if !bytes.HasPrefix(raw, txtPrefix) {
			break
		}
	}
	p.text = p.text[:from+len(out)]
	return out[:len(out):len(out)]
}
