package main

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/miekg/dns"
)

// frame is one frame of a capture.
type frame struct {
	time time.Time
	data []byte
}

// scene collects the frames that a mirror of a router's inner port would show.
type scene struct {
	random *rand.PCG // fixed seed: ports, identifiers, payload
	tags   []uint16  // VLANs of every frame, outermost first
	wrap   wrapping  // what becomes of every frame before it is seen; nil for nothing
	frames []frame
	err    error // the first that happened
}

// started is when every scene begins.
func started() time.Time { return time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC) }

func newScene() *scene { return &scene{random: rand.NewPCG(1568, 3)} }

// finish returns the frames in the order of their times.
func (s *scene) finish() ([]frame, error) {
	slices.SortStableFunc(s.frames, func(a, b frame) int { return a.time.Compare(b.time) })
	return s.frames, s.err
}

// number returns a number from low to high, both included.
func (s *scene) number(low, high int) int {
	return low + int(s.random.Uint64()%uint64(high-low+1))
}

// between returns a time from low to high in whole microseconds.
func (s *scene) between(low, high time.Duration) time.Duration {
	return time.Duration(s.number(int(low/time.Microsecond), int(high/time.Microsecond))) * time.Microsecond
}

func (s *scene) payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.random.Uint64())
	}
	return b
}

// client is a host behind the router's inner port.
type client struct {
	*scene
	addr     netip.Addr
	mac      net.HardwareAddr
	resolver netip.Addr
}

// host returns the client 10.0.0.N, which asks the resolver 10.0.0.53.
func (s *scene) host(n byte) *client {
	return &client{
		scene:    s,
		addr:     netip.AddrFrom4([4]byte{10, 0, 0, n}),
		mac:      net.HardwareAddr{0x02, 0x00, 0x00, 0x00, 0x00, n},
		resolver: netip.MustParseAddr("10.0.0.53"),
	}
}

func routerMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x00, 0x00, 0x00, 0x01, 0x01} }

// send adds a frame from the client to addr, or the other way.
func (c *client) send(t time.Time, addr netip.Addr, out bool, transport gopacket.SerializableLayer, payload []byte) {
	ether := &layers.Ethernet{SrcMAC: c.mac, DstMAC: routerMAC()}
	src, dst := c.addr, addr
	ttl := uint8(64)
	if !out {
		ether.SrcMAC, ether.DstMAC = ether.DstMAC, ether.SrcMAC
		src, dst = dst, src
		ttl = 55
	}
	ip := &layers.IPv4{
		Version: 4, IHL: 5, TTL: ttl, Id: uint16(c.random.Uint64()), Flags: layers.IPv4DontFragment,
		SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
	}
	switch l := transport.(type) {
	case *layers.TCP:
		ip.Protocol = layers.IPProtocolTCP
		c.keep(l.SetNetworkLayerForChecksum(ip))
	case *layers.UDP:
		ip.Protocol = layers.IPProtocolUDP
		c.keep(l.SetNetworkLayerForChecksum(ip))
	}
	stack := []gopacket.SerializableLayer{ether}
	ether.EthernetType = layers.EthernetTypeIPv4
	for i, id := range c.tags {
		kind := layers.EthernetTypeDot1Q
		if i == 0 && len(c.tags) > 1 {
			kind = layers.EthernetTypeQinQ
		}
		tag := &layers.Dot1Q{VLANIdentifier: id, Type: layers.EthernetTypeIPv4}
		if i == 0 {
			ether.EthernetType = kind
		} else {
			stack[i].(*layers.Dot1Q).Type = kind
		}
		stack = append(stack, tag)
	}
	stack = append(stack, ip, transport, gopacket.Payload(payload))
	b := gopacket.NewSerializeBuffer()
	c.keep(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...))
	seen := [][]byte{slices.Clone(b.Bytes())}
	if c.wrap != nil {
		seen = c.wrap(seen[0])
	}
	for i, f := range seen {
		c.frames = append(c.frames, frame{t.Add(time.Duration(i) * time.Microsecond), f})
	}
}

func (s *scene) keep(err error) {
	if s.err == nil {
		s.err = err
	}
}

// udp sends one datagram each way, and returns the time of the answer.
func (c *client) udp(t time.Time, to netip.AddrPort, up, down []byte) time.Time {
	port := layers.UDPPort(c.number(32768, 60999))
	c.send(t, to.Addr(), true, &layers.UDP{SrcPort: port, DstPort: layers.UDPPort(to.Port())}, up)
	t = t.Add(c.between(800*time.Microsecond, 9*time.Millisecond))
	c.send(t, to.Addr(), false, &layers.UDP{SrcPort: layers.UDPPort(to.Port()), DstPort: port}, down)
	return t
}

// ask looks a name up and returns the time of the response. Records without a name get the
// one that was asked for.
func (c *client) ask(t time.Time, name string, kind uint16, records ...dns.RR) time.Time {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	q.Id = uint16(c.random.Uint64())
	q.SetEdns0(1232, false)
	question, err := q.Pack()
	c.keep(err)

	r := new(dns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = true
	if len(records) == 0 {
		r.Rcode = dns.RcodeNameError
	}
	for _, rr := range records {
		h := rr.Header()
		h.Class = dns.ClassINET
		if h.Name == "" {
			h.Name = q.Question[0].Name
		}
		r.Answer = append(r.Answer, rr)
	}
	r.SetEdns0(1232, false)
	r.Compress = true
	response, err := r.Pack()
	c.keep(err)
	return c.udp(t, netip.AddrPortFrom(c.resolver, 53), question, response)
}

// a makes A records of addresses.
func a(ttl uint32, addrs ...string) []dns.RR {
	var rrs []dns.RR
	for _, s := range addrs {
		rrs = append(rrs, &dns.A{Hdr: dns.RR_Header{Rrtype: dns.TypeA, Ttl: ttl}, A: net.ParseIP(s)})
	}
	return rrs
}

func aaaa(ttl uint32, addr string) dns.RR {
	return &dns.AAAA{Hdr: dns.RR_Header{Rrtype: dns.TypeAAAA, Ttl: ttl}, AAAA: net.ParseIP(addr)}
}

// connect opens a TCP connection, sends some bytes each way, closes it, and returns the
// time of the last frame.
func (c *client) connect(t time.Time, to netip.AddrPort, up, down int) time.Time {
	sport, dport := layers.TCPPort(c.number(32768, 60999)), layers.TCPPort(to.Port())
	mine, theirs := uint32(c.random.Uint64()), uint32(c.random.Uint64())
	round := c.between(4*time.Millisecond, 40*time.Millisecond)
	segment := func(out bool, flags string, payload []byte) {
		l := &layers.TCP{SrcPort: sport, DstPort: dport, Seq: mine, Ack: theirs, Window: 64240}
		if !out {
			l.SrcPort, l.DstPort, l.Seq, l.Ack = dport, sport, theirs, mine
		}
		for _, f := range flags {
			switch f {
			case 'S':
				l.SYN = true
				l.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
			case 'A':
				l.ACK = true
			case 'P':
				l.PSH = true
			case 'F':
				l.FIN = true
			}
		}
		if !l.ACK {
			l.Ack = 0
		}
		c.send(t, to.Addr(), out, l, payload)
		used := uint32(len(payload))
		if l.SYN || l.FIN {
			used++
		}
		if out {
			mine += used
		} else {
			theirs += used
		}
	}
	segment(true, "S", nil)
	t = t.Add(round)
	segment(false, "SA", nil)
	t = t.Add(60 * time.Microsecond)
	segment(true, "A", nil)
	t = t.Add(200 * time.Microsecond)
	segment(true, "PA", c.payload(up))
	t = t.Add(round)
	segment(false, "PA", c.payload(down))
	t = t.Add(c.between(5*time.Millisecond, 300*time.Millisecond))
	segment(true, "FA", nil)
	t = t.Add(round)
	segment(false, "FA", nil)
	t = t.Add(50 * time.Microsecond)
	segment(true, "A", nil)
	return t
}
