package decode

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portolan/sensor/event"
)

// respond decodes one response datagram on a flow that is known, and returns the lookup
// as text and what became of the frame.
func respond(t *testing.T, d *Decoder, msg []byte) (lookups []string, r Reason) {
	t.Helper()
	query := ethernet(ip(client, resolver, protoUDP, udp(40000, dnsPort, nil)))
	d.Decode(frameOf(1, 0, query), new(discard))
	var got log
	r = d.Decode(frameOf(2, 0, ethernet(ip(resolver, client, protoUDP, udp(dnsPort, 40000, msg)))), &got)
	return got.lines, r
}

// head is how the text of such a lookup begins.
const head = "0s lookup client=10.0.0.7:40000 resolver=10.0.0.53:53 "

// raw builds a message by hand: id 7, flags, counts of questions and answers, and the rest.
func raw(flags, questions, answers uint16, parts ...[]byte) []byte {
	return join(u16(7, flags, questions, answers, 0, 0), join(parts...))
}

// wire turns dotted labels into those of a message, without the root at the end.
func wire(name string) (b []byte) {
	for _, l := range strings.Split(name, ".") {
		b = append(append(b, byte(len(l))), l...)
	}
	return b
}

// rr builds a record by hand.
func rr(owner []byte, t event.Type, data []byte) []byte {
	return join(owner, u16(uint16(t), 1, 0, 60, uint16(len(data))), data)
}

var (
	root     = []byte{0}
	ptr      = func(to uint16) []byte { return u16(0xc000 | to) }
	question = join(wire("cdn.example"), root, u16(1, 1)) // at 12, and 17 bytes long
	address  = []byte{198, 51, 100, 23}
)

func TestRecords(t *testing.T) {
	tests := []struct {
		name string
		msg  []byte
		want string
	}{
		{"A and AAAA", answer(t, 7, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23", "cdn.example. 60 IN AAAA 2001:db8::1"),
			"id=7 name=cdn.example ttl=60 a=198.51.100.23 aaaa=2001:db8::1"},
		{"a chain of names", answer(t, 7, "www.example", 1, "www.example. 300 IN CNAME edge.example.", "edge.example. 20 IN A 198.51.100.23"),
			"id=7 name=www.example ttl=300 cname=edge.example ttl=20 owner=edge.example a=198.51.100.23"},
		{"upper case", answer(t, 7, "CDN.Example", 1, "CDN.Example. 60 IN A 198.51.100.23"),
			"id=7 name=cdn.example ttl=60 a=198.51.100.23"},
		{"TXT: strings are joined", answer(t, 7, "t.example", 16, `t.example. 60 IN TXT "one" " two"`, `t.example. 60 IN TXT "alone"`),
			`id=7 type=16 name=t.example ttl=60 txt="one two" txt=alone`},
		{"SRV", answer(t, 7, "_sip._tcp.example", 33, "_sip._tcp.example. 60 IN SRV 1 2 5061 sip.example."),
			"id=7 type=33 name=_sip._tcp.example ttl=60 srv=sip.example:5061"},
		{"NAPTR", answer(t, 7, "n.example", 35, `n.example. 60 IN NAPTR 10 20 "u" "E2U+sip" "!^.*$!sip:a@example!" .`),
			`id=7 type=35 name=n.example ttl=60 naptr="E2U+sip !^.*$!sip:a@example!"`},
		{"URI", answer(t, 7, "_http._tcp.example", 256, `_http._tcp.example. 60 IN URI 10 1 "https://www.example:8443/path"`),
			"id=7 type=256 name=_http._tcp.example ttl=60 uri=https://www.example:8443/path"},
		{"HTTPS with port and hints", answer(t, 7, "h.example", 65,
			"h.example. 60 IN HTTPS 1 svc.example. alpn=h2 port=8443 ipv4hint=198.51.100.23,198.51.100.24 ipv6hint=2001:db8::1"),
			"id=7 type=65 name=h.example ttl=60 https=svc.example:8443 hint=198.51.100.23 hint=198.51.100.24 hint=2001:db8::1"},
		{"SVCB, target is the owner", answer(t, 7, "s.example", 64, "s.example. 60 IN SVCB 1 . port=53"),
			"id=7 type=64 name=s.example ttl=60 svcb=.:53"},
		{"SVCB in alias mode has no parameters", raw(0x8180, 1, 1, question, rr(ptr(12), event.SVCB, join(u16(0), wire("a"), root, u16(3, 2, 99)))),
			"id=7 name=cdn.example ttl=60 svcb=a"},
		{"types that events do not carry", answer(t, 7, "x.example", 15, "x.example. 60 IN MX 1 mx.example.", "x.example. 60 IN A 198.51.100.23"),
			"id=7 type=15 name=x.example ttl=60 a=198.51.100.23"},
		{"no such name", raw(0x8183, 1, 0, question), "id=7 rcode=3 name=cdn.example"},
		{"no question", raw(0x8180, 0, 1, rr(join(wire("a"), root), event.A, address)), "id=7 type=0 ttl=60 owner=a a=198.51.100.23"},
		{"the root", raw(0x8180, 1, 1, root, u16(1, 1), rr(root, event.A, address)), "id=7 name=. ttl=60 a=198.51.100.23"},
		{"two questions: the first counts", raw(0x8180, 2, 1, question, wire("b"), root, u16(28, 1), rr(ptr(12), event.A, address)),
			"id=7 name=cdn.example ttl=60 a=198.51.100.23"},
		{"EDNS among the answers", raw(0x8180, 1, 2, question, rr(root, 41, []byte{0, 10, 0, 0}), rr(ptr(12), event.A, address)),
			"id=7 name=cdn.example ttl=60 a=198.51.100.23"},
		{"authority and additional records do not count", join(u16(7, 0x8180, 1, 0, 1, 1), question, rr(ptr(12), event.A, address), rr(ptr(12), event.A, address)),
			"id=7 name=cdn.example"},
		{"bytes that need a backslash", raw(0x8180, 1, 0, []byte{5, 'a', '.', '\\', ' ', 0xff, 1, 'B', 0}, u16(1, 1)),
			`id=7 name="a\\.\\\\\\032\\255.b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDecoder(t, DefaultConfig())
			got, r := respond(t, d, tt.msg)
			if r != Event {
				t.Errorf("ends in %v, want event", r)
			}
			compareLines(t, got, []string{head + tt.want})
			if n := d.Counters().DNSPartial; n != 0 {
				t.Errorf("%d lookups counted as partial", n)
			}
		})
	}
}

func TestPartialResponses(t *testing.T) {
	whole := "id=7 name=cdn.example ttl=60 a=198.51.100.23"
	a := rr(ptr(12), event.A, address)
	long := strings.Repeat(strings.Repeat("x", 63)+".", 3) + strings.Repeat("x", 61)
	tests := []struct {
		name    string
		partial uint64 // how many lookups are to be counted as partial
		msg     []byte
		want    string // "" for no lookup
	}{
		{"cut in the second address", 1, join(raw(0x8180, 1, 2, question, a, a))[:12+17+16+14], whole},
		{"cut in the second owner", 1, join(raw(0x8180, 1, 2, question, a, a))[:12+17+16+1], whole},
		{"more answers promised than there are", 1, raw(0x8380, 1, 9, question, a), whole},
		{"an address of five bytes is passed over", 1, raw(0x8180, 1, 2, question, rr(ptr(12), event.A, make([]byte, 5)), a), whole},
		{"an IPv6 address of four bytes is passed over", 1, raw(0x8180, 1, 2, question, rr(ptr(12), event.AAAA, address), a), whole},
		{"a string longer than its TXT is passed over", 1, raw(0x8180, 1, 2, question, rr(ptr(12), event.TXT, []byte{9, 'x'}), a), whole},
		{"parameters that end too early", 1, raw(0x8180, 1, 2, question, rr(ptr(12), event.HTTPS, join(u16(1), root, u16(3, 9))), a),
			"id=7 name=cdn.example ttl=60 https=. a=198.51.100.23"},
		{"a target that points at itself", 1, raw(0x8180, 1, 2, question, rr(ptr(12), event.CNAME, ptr(12+17+12)), a), whole},
		{"an owner that points at itself", 1, raw(0x8180, 1, 2, question, a, rr(ptr(12+17+16), event.A, address)), whole},
		{"two owners that point at each other", 1, raw(0x8180, 1, 2, question, a, ptr(12+17+18), ptr(12+17+16), make([]byte, 20)), whole},
		{"a pointer behind the end", 1, raw(0x8180, 1, 2, question, a, rr(ptr(0x3fff), event.A, address)), whole},
		{"a pointer to what follows", 0, raw(0x8180, 1, 1, question, rr(ptr(12+17+16), event.A, address), wire("late"), root),
			"id=7 name=cdn.example ttl=60 owner=late a=198.51.100.23"},
		{"a name of 255 bytes", 0, raw(0x8180, 1, 0, wire(long), root, u16(1, 1)), "id=7 name=" + long},
		{"a name of 256 bytes", 0, raw(0x8180, 1, 0, wire(long+"x"), root, u16(1, 1)), ""},
		{"an extended label", 0, raw(0x8180, 1, 0, []byte{0x41, 0}, u16(1, 1)), ""},
		{"cut in the question", 0, raw(0x8180, 1, 0, question[:14]), ""},
		{"cut in the header", 0, raw(0x8180, 1, 0)[:11], ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDecoder(t, DefaultConfig())
			got, r := respond(t, d, tt.msg)
			want, lines := Event, []string{head + tt.want}
			if tt.want == "" {
				want, lines = DNSMalformed, nil
			}
			if r != want {
				t.Errorf("ends in %v, want %v", r, want)
			}
			compareLines(t, got, lines)
			c := d.Counters()
			if c.DNSPartial != tt.partial || (c.DNSMalformed == 1) != (want == DNSMalformed) {
				t.Errorf("%d lookups counted as partial and %d messages as malformed, want %d partial",
					c.DNSPartial, c.DNSMalformed, tt.partial)
			}
		})
	}
}

func TestNotLookups(t *testing.T) {
	tests := []struct {
		name string
		msg  []byte
		want Reason
	}{
		{"a query", raw(0x0100, 1, 0, question), DNSNotLookup},
		{"the answer to an update", raw(0xa800, 1, 0, question), DNSNotLookup},
		{"a zone transfer", raw(0x8400, 1, 1, wire("example"), root, u16(252, 1), rr(ptr(12), event.A, address)), DNSTransfer},
		{"an incremental zone transfer", raw(0x8400, 1, 1, wire("example"), root, u16(251, 1), rr(ptr(12), event.A, address)), DNSTransfer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, r := respond(t, newDecoder(t, DefaultConfig()), tt.msg); r != tt.want || len(got) != 0 {
				t.Errorf("ends in %v with %d lookups, want %v and none", r, len(got), tt.want)
			}
		})
	}
	msg := raw(0x8180, 1, 1, question, rr(ptr(12), event.A, address))
	for _, port := range []uint16{5353, 5355, 853, 54} {
		f := frameOf(1, 0, ethernet(ip(resolver, client, protoUDP, udp(port, 40000, msg))))
		var got discard
		if newDecoder(t, DefaultConfig()).Decode(f, &got); got.lookups != 0 || got.connections != 1 {
			t.Errorf("a response from port %d gives %d lookups and %d connections, want a connection alone",
				port, got.lookups, got.connections)
		}
	}
}

func TestBytesAfterTheDatagram(t *testing.T) {
	a := rr(ptr(12), event.A, address)
	msg := raw(0x8180, 1, 2, question, a, a)
	dgram := udp(dnsPort, 40000, msg)
	binary.BigEndian.PutUint16(dgram[4:], uint16(len(dgram)-len(a)))
	var got discard
	newDecoder(t, DefaultConfig()).Decode(frameOf(1, 0, ethernet(ip(resolver, client, protoUDP, dgram))), &got)
	if got.records != 1 {
		t.Errorf("%d records, want the one within the datagram's own length", got.records)
	}
}

func TestTruncatedFlag(t *testing.T) {
	var got []event.Lookup
	d := newDecoder(t, DefaultConfig())
	msg := raw(0x8380, 1, 1, question, rr(ptr(12), event.A, address))
	d.Decode(frameOf(1, 0, ethernet(ip(resolver, client, protoUDP, udp(dnsPort, 40000, msg)))), keepLookups{&got})
	if len(got) != 1 || !got[0].Truncated || len(got[0].Records) != 1 || got[0].MAC != serverMAC {
		t.Errorf("got %+v, want one truncated lookup with its record and the frame's destination", got)
	}
}

// keepLookups is a sink for lookups; what their slices alias does not outlive the frame.
type keepLookups struct{ to *[]event.Lookup }

func (k keepLookups) Lookup(l *event.Lookup)       { *k.to = append(*k.to, *l) }
func (k keepLookups) Connection(*event.Connection) {}

// TestHostileNames counts the labels that the scanner reads for messages made to cost as
// much as they can: the work stays in proportion to the bytes.
func TestHostileNames(t *testing.T) {
	chain := func(records int) []byte { // pointers to pointers, and every owner points to the last
		b := raw(0x8180, 0, uint16(records))
		for i := range maxHops - 2 {
			to := len(b) - 2
			if i == 0 {
				b = append(b, 0)
				to = len(b) - 1
			}
			b = append(b, ptr(uint16(to))...)
		}
		last := uint16(len(b) - 2)
		for range records {
			b = append(b, rr(ptr(last), 99, nil)...)
		}
		binary.BigEndian.PutUint16(b[4:], 0)
		return b
	}
	labels := func(records int) []byte { // every owner is 127 labels long, by a pointer
		b := raw(0x8180, 1, uint16(records), wire(strings.TrimSuffix(strings.Repeat("a.", 126), ".")), root, u16(1, 1))
		for i := range records {
			b = append(b, rr(join([]byte{1, 'b'}, ptr(uint16(14+2*(i%8)))), 99, nil)...)
		}
		return b
	}
	texts := raw(0x8180, 0, 4000) // owners that need four bytes for each of theirs
	for range 4000 {
		texts = append(texts, rr(join([]byte{3, 0, 0, 0}, root), 99, nil)...)
	}
	tests := []struct {
		name string
		msg  []byte
	}{
		{"chains of pointers", chain(4000)},
		{"long names over and over", labels(4000)},
		{"names that grow", texts[:65000]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScanner()
			s.begin(tt.msg)
			s.questions(binary.BigEndian.Uint16(tt.msg[4:]))
			s.answers(binary.BigEndian.Uint16(tt.msg[6:]))
			if spent, most := 1024+2*len(tt.msg)-s.budget, 1024+2*len(tt.msg)+1; spent > most {
				t.Errorf("%d labels and pointers read in %d bytes, want at most %d", spent, len(tt.msg), most)
			}
			if len(s.buf) > namesLen {
				t.Errorf("%d bytes of names, want at most %d", len(s.buf), namesLen)
			}
		})
	}
	t.Run("is counted", func(t *testing.T) {
		d := newDecoder(t, DefaultConfig())
		respond(t, d, labels(3000))
		if c := d.Counters(); c.DNSOverBudget != 1 || c.DNSPartial != 1 || c.Lookups != 1 {
			t.Errorf("%+v, want one lookup, partial and over budget", c)
		}
	})
}

func TestManyRecords(t *testing.T) {
	msg := raw(0x8180, 1, maxRecords, question)
	for range maxRecords {
		msg = append(msg, rr(ptr(12), event.A, address)...)
	}
	d := newDecoder(t, DefaultConfig())
	var got discard
	d.sink = &got
	d.response(&response{msg, endpoints{make([]byte, 8), dnsPort, 40000}, event.TCP, epoch, 1, nil})
	if got.records != maxRecords || d.Counters().DNSPartial != 0 {
		t.Errorf("%d records of %d, %d partial", got.records, maxRecords, d.Counters().DNSPartial)
	}
	binary.BigEndian.PutUint16(msg[6:], maxRecords+1)
	msg = append(msg, rr(ptr(12), event.A, address)...)
	got = discard{}
	d.response(&response{msg, endpoints{make([]byte, 8), dnsPort, 40000}, event.TCP, epoch, 1, nil})
	if got.records != maxRecords || d.Counters().DNSOverBudget != 1 {
		t.Errorf("%d records of %d, over budget %d, want the bound to hold and be counted", got.records, maxRecords+1, d.Counters().DNSOverBudget)
	}
}

// segmentsOf returns segments of the stream from the resolver, cut at the offsets given; the
// first byte has sequence number 1.
func segmentsOf(stream []byte, cuts ...int) (out [][]byte) {
	from := 0
	for _, to := range append(cuts, len(stream)) {
		out = append(out, ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, uint32(1+from), 1, ack, stream[from:to]))))
		from = to
	}
	return out
}

func TestStreams(t *testing.T) {
	m := func(id uint16) []byte {
		return framed(answer(t, id, "cdn.example", dns.TypeA, "cdn.example. 60 IN A 198.51.100.23"))
	}
	line := func(at string, id string) string {
		return at + " lookup client=10.0.0.7:40000 resolver=10.0.0.53:53 proto=tcp id=" + id + " name=cdn.example ttl=60 a=198.51.100.23"
	}
	n := len(m(1))
	two, three := join(m(1), m(2)), join(m(1), m(2), m(3))
	synack := ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 0, 1, syn|ack, nil)))
	opened := func(steps ...step) []step { return append([]step{{0, synack, Event}}, steps...) }
	open := "0s connection src=10.0.0.7:40000 dst=10.0.0.53:53 proto=tcp start=synack"
	at := func(ms int, data []byte, want Reason) step {
		return step{time.Duration(ms) * time.Millisecond, data, want}
	}
	half := segmentsOf(two, n/2, n, n+10)
	parts := segmentsOf(three, n, 2*n)
	prefix := segmentsOf(m(1), 1, 2)
	odd := segmentsOf(three, n+5, 2*n)
	slow := segmentsOf(two, n/2, n+n/2, n+n/2+9)
	gaps := segmentsOf(join(three, m(4)), n/2, n, 2*n, 3*n)
	fastOpen := ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 0, 1, syn|ack, m(1))))
	transfer := func(question bool) []byte {
		b := raw(0x8400, 0, 1, rr(join(wire("a.example"), root), event.A, address))
		if question {
			b = raw(0x8400, 1, 1, wire("example"), root, u16(252, 1), rr(ptr(12), event.A, address))
		}
		return framed(b)
	}
	xfr := join(transfer(true), transfer(false), m(3))
	xfrParts := segmentsOf(xfr, len(transfer(true)), len(xfr)-n)
	runStories(t, []story{
		{"one message in a segment", opened(at(1, segmentsOf(m(1))[0], Event)), []string{open, line("1ms", "1")}},
		{"three messages in a segment", opened(at(1, segmentsOf(three)[0], Event)),
			[]string{open, line("1ms", "1"), line("1ms", "2"), line("1ms", "3")}},
		{"the length alone, byte by byte", opened(at(1, prefix[0], StreamHeld), at(2, prefix[1], StreamHeld), at(3, prefix[2], Event)),
			[]string{open, line("3ms", "1")}},
		{"messages cut where it happens", opened(at(1, half[0], StreamHeld), at(2, half[1], Event), at(3, half[2], StreamHeld), at(4, half[3], Event)),
			[]string{open, line("2ms", "1"), line("4ms", "2")}},
		{"out of order", opened(at(1, half[3], StreamHeld), at(2, half[1], StreamHeld), at(3, half[2], StreamHeld), at(4, half[0], Event)),
			[]string{open, line("4ms", "1"), line("4ms", "2")}},
		{"a retransmission, and the second copy of a SPAN port", opened(at(1, parts[0], Event), at(1, parts[0], StreamOld), at(2, parts[1], Event), at(3, parts[0], StreamOld)),
			[]string{open, line("1ms", "1"), line("2ms", "2")}},
		{"a retransmission that brings more", opened(at(1, half[0], StreamHeld), at(2, segmentsOf(two)[0], Event)),
			[]string{open, line("2ms", "1"), line("2ms", "2")}},
		{"the handshake comes again", opened(at(1, half[0], StreamHeld), at(2, synack, Repeat), at(3, half[1], Event)),
			[]string{open, line("3ms", "1")}},
		{"TCP Fast Open", []step{at(0, fastOpen, Event), at(1, fastOpen, Repeat), at(2, parts[1], Event)},
			[]string{open, line("0s", "1"), line("2ms", "2")}},
		{"picked up where a message begins", []step{at(1, parts[1], Event), at(2, parts[2], Event)},
			[]string{line("1ms", "2"), line("2ms", "3")}},
		{"picked up within a message", []step{at(1, half[1], StreamUnsynced), at(2, half[2], StreamHeld), at(3, half[3], Event)},
			[]string{line("3ms", "2")}},
		{"a lost segment, and patience", opened(at(1, parts[1], StreamHeld), at(2, parts[2], StreamHeld), at(3002, segmentsOf(join(three, m(4)), 3*n)[1], Event)),
			[]string{open, line("1ms", "2"), line("2ms", "3"), line("3.002s", "4")}},
		{"a lost segment, and the next within a message", opened(at(1, odd[1], StreamHeld), at(3002, odd[2], Event)),
			[]string{open, line("3.002s", "3")}},
		{"a slow server is no lost segment", opened(at(1, slow[0], StreamHeld), at(2, slow[1], Event), at(5000, slow[2], StreamHeld), at(9000, slow[3], Event)),
			[]string{open, line("2ms", "1"), line("9s", "2")}},
		{"two lost segments, and the one between within a message", opened(at(1, gaps[1], StreamHeld), at(2, gaps[3], StreamHeld), at(3002, gaps[4], Event)),
			[]string{open, line("2ms", "3"), line("3.002s", "4")}},
		{"another connection with the same ports", opened(at(1, parts[0], Event),
			at(10, ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 5_000_000, 1, ack, m(9)))), Event)),
			[]string{open, line("1ms", "1"), line("10ms", "9")}},
		{"sequence numbers wrap around", []step{
			at(1, ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 0xffffffff-9, 1, ack, two[:n+3]))), Event),
			at(2, ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, uint32(n+3-10), 1, ack, two[n+3:]))), Event)},
			[]string{line("1ms", "1"), line("2ms", "2")}},
		{"a zone transfer in several messages, then a lookup", opened(at(1, xfrParts[0], DNSTransfer), at(2, xfrParts[1], DNSTransfer), at(3, xfrParts[2], Event)),
			[]string{open, line("3ms", "3")}},
		{"a length that cannot be", opened(at(1, segmentsOf(join(u16(5), make([]byte, 40)))[0], StreamUnsynced)), []string{open}},
	})
	t.Run("a segment cut by the capture length", func(t *testing.T) {
		d := newDecoder(t, DefaultConfig())
		var got log
		two := answer(t, 1, "cdn.example", 1, "cdn.example. 60 IN A 198.51.100.23", "cdn.example. 60 IN A 198.51.100.24")
		stream := join(framed(two), m(2), m(3))
		p := segmentsOf(stream, len(two)+2, len(two)+2+n)
		for i, cut := range []int{3, n - 5, 0} {
			f := frameOf(uint64(i+1), time.Duration(i)*time.Millisecond, p[i])
			f.Data = f.Data[:f.Len-cut]
			want := Event
			if i == 1 {
				want = Truncated
			}
			if r := d.Decode(f, &got); r != want {
				t.Errorf("frame %d ends in %v, want %v", i+1, r, want)
			}
		}
		compareLines(t, got.lines, []string{line("0s", "1"), line("2ms", "3")})
	})
	t.Run("a segment cut so that the start of a message is lost", func(t *testing.T) {
		d := newDecoder(t, DefaultConfig())
		var got log
		p := segmentsOf(three, 2*n)
		first := frameOf(1, 0, p[0])
		first.Data = first.Data[:first.Len-n-4]
		d.Decode(frameOf(1, 0, synack), &got)
		d.Decode(first, &got)
		d.Decode(frameOf(2, time.Millisecond, p[1]), &got)
		compareLines(t, got.lines, []string{open, strings.TrimSuffix(line("0s", "1"), " ttl=60 a=198.51.100.23"), line("1ms", "3")})
	})
	t.Run("more segments behind a hole than wait", func(t *testing.T) {
		d := newDecoder(t, DefaultConfig())
		var got discard
		stream := bytes.Repeat(m(1), patientBlocks+2)
		p := segmentsOf(stream, cuts(n, patientBlocks+2, 1)...)
		d.Decode(frameOf(1, 0, synack), &got)
		for i, s := range p[1:] {
			want := StreamHeld
			if i == patientBlocks {
				want = Event
			}
			if r := d.Decode(frameOf(uint64(i+2), time.Millisecond, s), &got); r != want {
				t.Errorf("segment %d ends in %v, want %v", i+1, r, want)
			}
		}
		if got.lookups != patientBlocks+1 || d.Counters().StreamHoles != 1 {
			t.Errorf("%d lookups and %d holes, want %d and 1", got.lookups, d.Counters().StreamHoles, patientBlocks+1)
		}
	})
}
