package selftest

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"

	"portolan/correlate"
	"portolan/sensor/event"
)

// Name is what the self-test looks up: under a top-level domain that never exists (RFC 2606, section 2).
const Name = "selftest.portolan.invalid"

// Hypothesis is what makes a Probe's destination: the halves of an answer change places, which is an alert
// the first time.
const Hypothesis = "A1"

// Probe is one lookup and the connection calculated from its answer, as the frames of a query, its response,
// a SYN and a SYN+ACK. Client, resolver and answer are addresses that no host has (RFC 5737), the destination
// is one that no router carries across the Internet (RFC 6598), the Ethernet addresses are local and
// nobody's, so that a stack which takes the frames throws them away.
type Probe struct {
	Client, Resolver, Server netip.AddrPort
	Answer                   netip.Addr
	id                       uint16
	seq                      uint32
}

// Where probes come from and what they are told, by RFC 5737.
var (
	clients  = netip.MustParsePrefix("192.0.2.0/24")
	answers  = netip.MustParsePrefix("198.51.100.64/26")
	resolver = netip.MustParseAddrPort("192.0.2.53:53")
)

// NewProbe draws a Probe: one in some billion is like another, so that each is a trial of its own.
func NewProbe() *Probe {
	d := byte(64 + rand.N(64)) // so that the destination begins with 100.64/10
	p := &Probe{
		Client:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(64 + rand.N(128))}), uint16(49152+rand.N(16000))),
		Resolver: resolver,
		Answer:   netip.AddrFrom4([4]byte{198, 51, 100, d}),
		Server:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, d, 198, 51}), uint16(20000+rand.N(40000))),
		id:       uint16(rand.Uint32()), seq: rand.Uint32(),
	}
	return p
}

// Found reports whether a hit is what a correlator has to make of the probe.
func (p *Probe) Found(h *correlate.Hit) bool {
	return h.Connection.Src == p.Client && h.Connection.Dst == p.Server && h.Calc.Hypothesis == Hypothesis && h.Level >= correlate.Watch
}

// Marked reports whether a connection is that of a probe, whoever made it: from an address that no host has,
// to one that no probe but half-swaps an answer to.
func Marked(c *event.Connection) bool {
	if !clients.Contains(c.Src.Addr()) || !c.Dst.Addr().Is4() {
		return false
	}
	d := c.Dst.Addr().As4()
	return c.Dst == resolver || answers.Contains(netip.AddrFrom4([4]byte{d[2], d[3], d[0], d[1]}))
}

// Without returns a sink that hands on to another what is not a probe's.
func Without(to event.Sink) event.Sink { return &without{to} }

type without struct{ to event.Sink }

// Lookup hands a lookup on.
func (w *without) Lookup(l *event.Lookup) {
	if !markedLookup(l) {
		w.to.Lookup(l)
	}
}

func markedLookup(l *event.Lookup) bool {
	return clients.Contains(l.Client.Addr()) && string(l.Name) == Name
}

// Connection hands a connection on.
func (w *without) Connection(c *event.Connection) {
	if !Marked(c) {
		w.to.Connection(c)
	}
}

// NumFrames is how many frames a Probe has.
const NumFrames = 4

// Frames returns the probe's frames from the Ethernet header on, in the order in which they are to be seen.
func (p *Probe) Frames() [NumFrames][]byte {
	const syn, ack = 0x02, 0x10
	question := p.question()
	answer := binary.BigEndian.AppendUint16(nil, 0xc00c) // the name of the question
	answer = binary.BigEndian.AppendUint16(answer, uint16(event.A))
	answer = append(answer, 0, 1, 0, 0, 0, 1, 0, 4) // class IN, one second, four bytes
	a := p.Answer.As4()
	answer = append(answer, a[:]...)
	return [NumFrames][]byte{
		udp(p.Client, p.Resolver, p.message(0x0100, 0, question)),
		udp(p.Resolver, p.Client, p.message(0x8180, 1, append(question, answer...))),
		tcp(p.Client, p.Server, p.seq, 0, syn),
		tcp(p.Server, p.Client, ^p.seq, p.seq+1, syn|ack),
	}
}

// message returns a DNS message (RFC 1035, section 4.1) with one question.
func (p *Probe) message(flags, answers uint16, sections []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, p.id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 1)
	b = binary.BigEndian.AppendUint16(b, answers)
	return append(append(b, 0, 0, 0, 0), sections...)
}

func (p *Probe) question() []byte {
	var b []byte
	for label := range strings.SplitSeq(Name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(event.A))
	return append(b, 0, 1)
}

// udp returns a frame with a datagram. Its UDP checksum is left out (RFC 768).
func udp(from, to netip.AddrPort, payload []byte) []byte {
	b := ip(from.Addr(), to.Addr(), 17, 8+len(payload))
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// tcp returns a frame with a segment without payload (RFC 9293, section 3.1). Its checksum is left 0, which
// no stack accepts.
func tcp(from, to netip.AddrPort, seq, acknowledged uint32, flags byte) []byte {
	b := ip(from.Addr(), to.Addr(), 6, 20)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, acknowledged)
	return append(b, 5<<4, flags, 0x10, 0, 0, 0, 0, 0)
}

// ip returns a frame up to the end of its IPv4 header, for a payload of n bytes.
func ip(from, to netip.Addr, proto byte, n int) []byte {
	b := []byte{2, 'p', 't', 'l', 'n', 1, 2, 'p', 't', 'l', 'n', 2, 8, 0} // locally administered
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 1, proto // one hop: nobody would route it
	binary.BigEndian.PutUint16(h[2:], uint16(20+n))
	src, dst := from.As4(), to.As4()
	copy(h[12:], src[:])
	copy(h[16:], dst[:])
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return append(b, h...)
}
