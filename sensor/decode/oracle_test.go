package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/miekg/dns"

	"portolan/sensor/event"
)

// small is a configuration that makes a Decoder cheap, and its bounds easy to reach.
var small = Config{Starts: 64, Flows: 64, Fragments: 64, FragmentBytes: minBytes, Streams: 64, StreamBytes: minBytes,
	VXLANPorts: DefaultVXLANPorts()}

// FuzzDNS holds the scanner against miekg/dns: whatever message that accepts, the records
// must be the same.
func FuzzDNS(f *testing.F) {
	for _, m := range seedMessages(f) {
		f.Add(m)
	}
	s := newScanner()
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) <= maxMessage {
			compareDNS(t, &s, msg)
		}
	})
}

func seedMessages(t testing.TB) [][]byte {
	return [][]byte{
		answer(t, 7, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23", "cdn.example. 60 IN A 198.51.100.24"),
		answer(t, 7, "www.shop.example", 28, "www.shop.example. 300 IN CNAME edge.example.", "edge.example. 20 IN AAAA 2001:db8::1"),
		answer(t, 7, "t.example", 16, `t.example. 60 IN TXT "one" "two"`, `t.example. 60 IN TXT "three"`),
		answer(t, 7, "_sip._tcp.example", 33, "_sip._tcp.example. 60 IN SRV 1 2 5061 sip.example."),
		answer(t, 7, "n.example", 35, `n.example. 60 IN NAPTR 10 20 "u" "E2U+sip" "!^.*$!sip:a@example!" r.example.`),
		answer(t, 7, "_http._tcp.example", 256, `_http._tcp.example. 60 IN URI 10 1 "https://www.example:8443/path"`),
		answer(t, 7, "h.example", 65, "h.example. 60 IN HTTPS 1 svc.example. alpn=h2 port=8443 ipv4hint=198.51.100.23 ipv6hint=2001:db8::1"),
		answer(t, 7, "s.example", 64, "s.example. 60 IN SVCB 0 alias.example."),
		answer(t, 7, "m.example", 15, "m.example. 60 IN MX 10 mx.example.", `m.example. 60 IN CAA 0 issue "ca.example"`),
		raw(0x8180, 1, 2, question, rr(ptr(12), event.CNAME, ptr(12+17+12)), rr(ptr(12), event.A, address)),
		raw(0x8180, 1, 1, []byte{5, 'a', '.', '\\', ' ', 0xff, 1, 'B', 0}, u16(1, 1), rr(ptr(12), event.A, address)),
		raw(0x8183, 1, 0, question),
	}
}

// compareDNS scans msg and compares the records with those of miekg/dns, if it accepts the
// message.
func compareDNS(t *testing.T, s *scanner, msg []byte) {
	t.Helper()
	s.begin(msg)
	ok := len(msg) >= dnsHeader && s.questions(binary.BigEndian.Uint16(msg[4:])) && s.answers(binary.BigEndian.Uint16(msg[6:]))
	for _, r := range s.records {
		for _, name := range [][]byte{r.Owner, r.Target} {
			checkName(t, name)
		}
		if len(r.Owner) == 0 {
			t.Errorf("a record of type %d without owner", r.Type)
		}
	}
	m := unpack(msg)
	if m == nil || s.over() || endsEarly(m) {
		return
	}
	if len(m.Question) != int(binary.BigEndian.Uint16(msg[4:])) {
		return // miekg/dns lets the rest of a message be missing
	}
	if !ok && len(m.Answer) == int(binary.BigEndian.Uint16(msg[6:])) {
		t.Errorf("the scanner gave up on a message that miekg/dns accepts: %v", m)
	}
	if len(m.Question) > 0 {
		if got, want := string(s.qname), recast(m.Question[0].Name); got != want || uint16(s.qtype) != m.Question[0].Qtype {
			t.Errorf("question %q %d, want %q %d", got, s.qtype, want, m.Question[0].Qtype)
		}
	}
	var want []string
	for _, rr := range m.Answer {
		want = append(want, describeRR(rr)...)
	}
	var got []string
	for i := range s.records {
		got = append(got, describe(&s.records[i]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("records:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// checkName checks that a name is printable and in lower case.
func checkName(t *testing.T, name []byte) {
	t.Helper()
	for _, c := range name {
		if c < '!' || c > '~' || c >= 'A' && c <= 'Z' {
			t.Errorf("name %q holds byte %#x", name, c)
		}
	}
}

// unpack returns the message as miekg/dns reads it, or nil when it refuses it or panics.
func unpack(msg []byte) (m *dns.Msg) {
	defer func() {
		if recover() != nil {
			m = nil
		}
	}()
	m = new(dns.Msg)
	if m.Unpack(msg) != nil {
		return nil
	}
	return m
}

// endsEarly reports whether miekg/dns filled up with zeros what a message did not hold: it
// takes a question without class and data of any length, the scanner does not.
func endsEarly(m *dns.Msg) bool {
	return slices.ContainsFunc(m.Question, func(q dns.Question) bool { return q.Qclass == 0 }) ||
		slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
			switch x := rr.(type) {
			case *dns.SRV:
				return x.Target == ""
			case *dns.NAPTR:
				return x.Replacement == ""
			case *dns.URI:
				return x.Target == ""
			case *dns.SVCB:
				return x.Target == ""
			case *dns.HTTPS:
				return x.Target == ""
			}
			return rr.Header().Rdlength == 0
		})
}

// recast writes a name of miekg/dns, which puts a backslash before more bytes, as the
// scanner does.
func recast(name string) string {
	var b []byte
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c != '\\' {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			b = append(b, c)
			continue
		}
		i++
		if c = name[i]; c >= '0' && c <= '9' {
			c = (name[i]-'0')*100 + (name[i+1]-'0')*10 + name[i+2] - '0'
			i += 2
		}
		switch {
		case c == '.' || c == '\\':
			b = append(b, '\\', c)
		case c < '!' || c > '~':
			b = fmt.Appendf(b, "\\%03d", c)
		default:
			b = append(b, bytes.ToLower([]byte{c})...)
		}
	}
	if len(b) > 1 && b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	return string(b)
}

func describe(r *event.Record) string {
	return fmt.Sprintf("%s %d type %d: %v %s:%d %q", r.Owner, r.TTL, r.Type, r.Addr, r.Target, r.Port, r.Text)
}

// describeRR is describe for a record of miekg/dns, and for the hints in it; nothing for
// the types that events do not carry.
func describeRR(rr dns.RR) (out []string) {
	h := rr.Header()
	r := event.Record{Type: event.Type(h.Rrtype), TTL: h.Ttl, Owner: []byte(recast(h.Name))}
	addr := func(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a }
	var hints []netip.Addr
	service := func(s *dns.SVCB) {
		r.Target = []byte(recast(s.Target))
		for _, kv := range s.Value {
			if s.Priority == 0 {
				break
			}
			switch v := kv.(type) {
			case *dns.SVCBPort:
				r.Port = v.Port
			case *dns.SVCBIPv4Hint:
				for _, a := range v.Hint {
					hints = append(hints, addr(a.To4()))
				}
			case *dns.SVCBIPv6Hint:
				for _, a := range v.Hint {
					hints = append(hints, addr(a.To16()))
				}
			}
		}
	}
	switch x := rr.(type) {
	case *dns.A:
		r.Addr = addr(x.A.To4())
	case *dns.AAAA:
		r.Addr = addr(x.AAAA.To16())
	case *dns.CNAME:
		r.Target = []byte(recast(x.Target))
	case *dns.TXT:
		for _, s := range x.Txt {
			r.Text = append(r.Text, plain(s)...)
		}
	case *dns.SRV:
		r.Target, r.Port = []byte(recast(x.Target)), x.Port
	case *dns.NAPTR:
		r.Target = []byte(recast(x.Replacement))
		r.Text = join(plain(x.Service), []byte{' '}, plain(x.Regexp))
	case *dns.URI:
		r.Text = []byte(x.Target)
	case *dns.SVCB:
		service(x)
	case *dns.HTTPS:
		service(&x.SVCB)
	default:
		return nil
	}
	out = append(out, describe(&r))
	for _, a := range hints {
		out = append(out, describe(&event.Record{Type: event.Hint, TTL: r.TTL, Owner: r.Owner, Addr: a}))
	}
	return out
}

// plain takes the backslashes out of a character string as miekg/dns writes it.
func plain(s string) (b []byte) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			i++
			if c = s[i]; c >= '0' && c <= '9' && i+2 < len(s) {
				c = (s[i]-'0')*100 + (s[i+1]-'0')*10 + s[i+2] - '0'
				i += 2
			}
		}
		b = append(b, c)
	}
	return b
}

// FuzzDecode decodes any sequence of frames of any link type and checks what must hold
// whatever they are; and that gopacket reads the same out of the first one.
func FuzzDecode(f *testing.F) {
	for _, s := range seedFrames(f) {
		f.Add(s)
	}
	alone := newDecoder(f, small)
	f.Fuzz(func(t *testing.T, input []byte) {
		d := newDecoder(t, small)
		var got checker
		got.t = t
		var sum [NumReasons]uint64
		frames := uint64(0)
		at := epoch
		for fr, ok := next(&input); ok; fr, ok = next(&input) {
			frames++
			at += fr.Time
			fr.Time, fr.Number = at, frames
			got.events = 0
			r := d.Decode(&fr, &got)
			sum[r]++
			if (r == Event) != (got.events > 0) {
				t.Errorf("frame %d ends in %v with %d events", frames, r, got.events)
			}
			compareGopacket(t, alone, &fr)
		}
		var total uint64
		for _, n := range sum {
			total += n
		}
		if total != frames {
			t.Errorf("the reasons add up to %d, frames are %d", total, frames)
		}
		c := d.Counters()
		if c.Lookups != got.lookups || c.Connections != got.connections {
			t.Errorf("%d lookups and %d connections counted, %d and %d handed over", c.Lookups, c.Connections, got.lookups, got.connections)
		}
		checkPool(t, &d.fragments)
		checkPool(t, &d.streams)
		if cap(d.dns.buf) != namesLen || cap(d.dns.records) != maxRecords {
			t.Errorf("the scanner's buffers grew to %d bytes and %d records", cap(d.dns.buf), cap(d.dns.records))
		}
	})
}

// next takes a frame off an input: link type, flags, time since the last, length, bytes.
func next(input *[]byte) (Frame, bool) {
	b := *input
	if len(b) < 6 {
		return Frame{}, false
	}
	links := [...]LinkType{Ethernet, Null, Raw, SLL, SLL2, IPv4, IPv6, Loop, Raw12, 147,
		PPP, FDDI, PPPHDLC, PPPEther, CHDLC, WiFi, Prism, Radiotap, AVS, PPI, NFLOG}
	n := min(int(binary.BigEndian.Uint16(b[4:])), len(b)-6)
	f := Frame{
		Link:    links[int(b[0])%len(links)],
		Time:    event.Time(int16(binary.BigEndian.Uint16(b[2:]))) * event.Time(10*time.Millisecond),
		Data:    b[6 : 6+n],
		Len:     n + int(b[1]>>4)*16,
		HasVLAN: b[1]&1 != 0,
		VLAN:    uint16(b[1]),
		Point:   uint16(b[1] >> 1 & 1),
	}
	*input = b[6+n:]
	return f, true
}

// packed is the inverse of next for Ethernet frames 10 ms apart.
func packed(frames ...[]byte) (b []byte) {
	for _, f := range frames {
		b = join(b, []byte{0, 0}, u16(1, uint16(len(f))), f)
	}
	return b
}

func seedFrames(t testing.TB) (out [][]byte) {
	for _, m := range seedMessages(t) {
		out = append(out, packed(ethernet(ip(resolver, client, protoUDP, udp(dnsPort, 40000, m)))))
	}
	m := seedMessages(t)[0]
	dgram := ip("2001:db8::53", "2001:db8::7", protoUDP, udp(dnsPort, 40000, m))
	var frags [][]byte
	for _, p := range append(pieces(dgram, 1, 16, 40), pieces(ip(resolver, client, protoUDP, udp(dnsPort, 40000, m)), 1, 24)...) {
		frags = append(frags, ethernet(p))
	}
	stream := segmentsOf(join(framed(m), framed(m), framed(m)), 10, 70, 90)
	slices.Reverse(stream)
	tagged := ethernet(ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil)), [2]uint16{0x88a8, 5}, [2]uint16{0x8100, 6})
	out = append(out, packed(frags...), packed(stream...), packed(tagged, tagged))
	seg := ip(client, server, protoTCP, tcp(49152, 443, 1, 0, syn, nil))
	parts := pieces(ip(resolver, client, protoUDP, udp(dnsPort, 40000, m)), 1, 24)
	for _, w := range wraps() {
		out = append(out, packed(w.onLink(seg), w.onLink(parts[0]), w.onLink(parts[1])))
		if !w.frame {
			var pieced [][]byte
			for _, p := range pieces(w.put(parts[0]), 2, 40) {
				pieced = append(pieced, ethernet(p))
			}
			out = append(out, packed(append(pieced, w.onLink(w.put(parts[1])))...))
		}
	}
	return out
}

// checker is a sink that checks every event.
type checker struct {
	t                    *testing.T
	events               int
	lookups, connections uint64
}

func (c *checker) Lookup(l *event.Lookup) {
	c.events++
	c.lookups++
	if !l.Client.IsValid() || !l.Resolver.IsValid() || l.Resolver.Port() != dnsPort || l.Frame == 0 {
		c.t.Errorf("lookup %+v", l)
	}
	checkName(c.t, l.Name)
	for _, r := range l.Records {
		if (r.Type == event.A && !r.Addr.Is4()) || (r.Type == event.AAAA && !r.Addr.Is6()) || len(r.Owner) == 0 {
			c.t.Errorf("record %+v", r)
		}
	}
}

func (c *checker) Connection(x *event.Connection) {
	c.events++
	c.connections++
	if !x.Src.IsValid() || !x.Dst.IsValid() || x.Src.Addr().BitLen() != x.Dst.Addr().BitLen() || x.Frame == 0 {
		c.t.Errorf("connection %+v", x)
	}
}

// compareGopacket decodes an Ethernet frame, an hour after what d decoded before, so that
// nothing of it counts any more, and holds the connection against the ports and addresses
// that gopacket finds: outside of all tunnels, or in one where the decoder opened some.
func compareGopacket(t *testing.T, d *Decoder, f *Frame) (tunnelled, agree bool) {
	t.Helper()
	if f.Link != Ethernet || f.Len != len(f.Data) {
		return false, true
	}
	f.Time = d.now.Add(time.Hour)
	want, ok := viaGopacket(f.Data)
	if !ok {
		return false, true
	}
	before := d.Counters().Tunnels
	var got []event.Connection
	r := d.Decode(f, keep{&got})
	same := func(w event.Connection) bool {
		return got[0].Src == w.Src && got[0].Dst == w.Dst && got[0].Proto == w.Proto && got[0].Start == w.Start
	}
	switch opened := d.Counters().Tunnels != before; {
	case opened || len(want) > 1 || r == Tunnel:
		// Which of the two goes where the other does not, and what either takes for a tunnel at all, no
		// rule says: gopacket opens PPPoE discovery, and knows no GRE in UDP.
		return opened && len(got) == 1 && len(want) > 1, len(got) == 1 && slices.ContainsFunc(want, same)
	case len(got) != 1:
		t.Errorf("ends in %v with %d connections, gopacket sees %+v", r, len(got), want)
	case !same(want[0]):
		t.Errorf("connection %+v, gopacket sees %+v", got[0], want)
	}
	return false, true
}

// viaGopacket returns the connections that a frame starts, from the outermost tunnel's to
// the innermost packet's. It is not ok when gopacket panics, when there is anything in
// front of the first but Ethernet, VLAN tags and one IP header, or when that starts none.
func viaGopacket(data []byte) (found []event.Connection, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		return nil, false
	}
	var src, dst netip.Addr
	var tunnels bool
	for _, l := range p.Layers() {
		var c event.Connection
		switch l := l.(type) {
		case *layers.Ethernet:
			if l.EthernetType == layers.EthernetTypeLLC {
				return found, len(found) > 0
			}
			continue
		case *layers.Dot1Q:
			continue
		case *layers.IPv6HopByHop, *layers.IPv6Destination:
			if !src.Is6() { // gopacket follows them behind IPv4, where they have no meaning
				return found, len(found) > 0
			}
			continue
		case *layers.IPv4:
			if l.Version != 4 { // gopacket lets it pass
				return found, len(found) > 0
			}
			tunnels = tunnels || src.IsValid()
			src, dst = netip.AddrFrom4([4]byte(l.SrcIP.To4())), netip.AddrFrom4([4]byte(l.DstIP.To4()))
			continue
		case *layers.IPv6:
			if l.Version != 6 {
				return found, len(found) > 0
			}
			tunnels = tunnels || src.IsValid()
			src, dst = netip.AddrFrom16([16]byte(l.SrcIP.To16())), netip.AddrFrom16([16]byte(l.DstIP.To16()))
			continue
		case *layers.TCP:
			c.Proto, c.Start = event.TCP, event.SYN
			c.Src, c.Dst = netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort))
			if l.ACK && l.SYN {
				c.Start, c.Src, c.Dst = event.SYNACK, c.Dst, c.Src
			}
			if !l.SYN || l.RST || l.FIN {
				return found, len(found) > 0
			}
		case *layers.UDP:
			c.Proto, c.Start = event.UDP, event.Datagram
			c.Src, c.Dst = netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort))
		case *layers.GRE, *layers.MPLS, *layers.PPPoE, *layers.PPP, *layers.VXLAN, *layers.Geneve, *layers.GTPv1U,
			*layers.ERSPANII, *layers.EtherIP:
			tunnels = true
			continue
		default:
			return found, len(found) > 0
		}
		if tunnels && len(found) == 0 {
			found = append(found, event.Connection{}) // the tunnel's own packet starts none
		}
		found = append(found, c)
	}
	return found, len(found) > 0
}

// TestOracles mutates the seeds of both fuzz targets, so that every run of the tests holds
// the decoder against gopacket and miekg/dns a little.
func TestOracles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	mutate := func(b []byte) []byte {
		b = slices.Clone(b)
		for range rnd.IntN(4) {
			b[rnd.IntN(len(b))] = byte(rnd.Uint32())
		}
		return b[:len(b)-rnd.IntN(3)*rnd.IntN(8)]
	}
	s := newScanner()
	for _, seed := range seedMessages(t) {
		for range 2000 {
			compareDNS(t, &s, mutate(seed))
		}
	}
	d := newDecoder(t, small)
	tunnels, same := 0, 0
	for _, seed := range seedFrames(t) {
		for range 500 {
			in := mutate(seed)
			f, ok := next(&in)
			if !ok {
				continue
			}
			if tunnelled, agree := compareGopacket(t, d, &f); tunnelled {
				tunnels++
				if agree {
					same++
				}
			}
		}
	}
	if same < 1000 || tunnels-same > same/50 {
		t.Errorf("of %d connections in tunnels that both saw, %d are the same: want 1000 and 98 %%", tunnels, same)
	}
	t.Logf("of %d connections in tunnels that both saw, %d are the same", tunnels, same)
}
