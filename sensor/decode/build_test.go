package decode

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portolan/sensor/event"
)

// The functions below build frames from the inside out. Checksums stay 0: they are ignored.

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

func u16(v ...uint16) (b []byte) {
	for _, x := range v {
		b = binary.BigEndian.AppendUint16(b, x)
	}
	return b
}

var (
	clientMAC = event.MAC{2, 0, 0, 0, 0, 1}
	serverMAC = event.MAC{2, 0, 0, 0, 0, 2}
)

// ethernet puts an Ethernet header with VLAN tags before an IP packet; each tag is
// an EtherType and the tag control information.
func ethernet(packet []byte, tags ...[2]uint16) []byte {
	b := join(serverMAC[:], clientMAC[:])
	for _, t := range tags {
		b = join(b, u16(t[0], t[1]))
	}
	return join(b, u16(etherTypeOf(packet)), packet)
}

func etherTypeOf(packet []byte) uint16 {
	if packet[0]>>4 == 6 {
		return etherIPv6
	}
	return etherIPv4
}

// ip puts an IP header of the addresses' version before a payload.
func ip(src, dst string, proto uint8, payload []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		h := join([]byte{0x45, 0}, u16(uint16(20+len(payload)), 1, 0), []byte{64, proto, 0, 0})
		return join(h, s.AsSlice(), d.AsSlice(), payload)
	}
	h := join([]byte{0x60, 0, 0, 0}, u16(uint16(len(payload))), []byte{proto, 64})
	return join(h, s.AsSlice(), d.AsSlice(), payload)
}

func udp(sport, dport uint16, payload []byte) []byte {
	return join(u16(sport, dport, uint16(8+len(payload)), 0), payload)
}

func tcp(sport, dport uint16, seq, ackNo uint32, flags byte, payload []byte) []byte {
	b := u16(sport, dport)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ackNo)
	return join(b, []byte{0x50, flags, 0xff, 0xff, 0, 0, 0, 0}, payload)
}

// pieces cuts the payload of a packet that ip made into fragments at the offsets given.
func pieces(packet []byte, id uint16, cuts ...int) (out [][]byte) {
	v6 := packet[0]>>4 == 6
	header := 20
	if v6 {
		header = 40
	}
	body := packet[header:]
	cuts = append(cuts, len(body))
	from := 0
	for i, to := range cuts {
		h := slices.Clone(packet[:header])
		more := uint16(0)
		if i < len(cuts)-1 {
			more = 1
		}
		if v6 {
			frag := join([]byte{h[6], 0}, u16(uint16(from)|more, 0, id))
			h[6] = protoFragment
			binary.BigEndian.PutUint16(h[4:], uint16(8+to-from))
			out = append(out, join(h, frag, body[from:to]))
		} else {
			binary.BigEndian.PutUint16(h[2:], uint16(20+to-from))
			binary.BigEndian.PutUint16(h[4:], id)
			binary.BigEndian.PutUint16(h[6:], more<<13|uint16(from/8))
			out = append(out, join(h, body[from:to]))
		}
		from = to
	}
	return out
}

// answer packs a response to a question for name, holding records in zone file form.
func answer(t testing.TB, id uint16, name string, qtype uint16, records ...string) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	m.Id, m.Response, m.RecursionAvailable, m.Compress = id, true, true, true
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// framed puts the length before a message, as over TCP.
func framed(msg []byte) []byte { return join(u16(uint16(len(msg))), msg) }

const (
	client   = "10.0.0.7"
	resolver = "10.0.0.53"
	server   = "198.51.100.23"
)

// epoch is when the frames of tests begin.
const epoch = event.Time(1700000000 * int64(time.Second))

// log is a sink that keeps events as text, with times relative to epoch.
type log struct{ lines []string }

func (l *log) Lookup(x *event.Lookup) { l.lines = append(l.lines, string(x.AppendText(nil, epoch))) }
func (l *log) Connection(x *event.Connection) {
	l.lines = append(l.lines, string(x.AppendText(nil, epoch)))
}

// discard is a sink that counts.
type discard struct{ lookups, records, connections int }

func (s *discard) Lookup(l *event.Lookup)       { s.lookups++; s.records += len(l.Records) }
func (s *discard) Connection(*event.Connection) { s.connections++ }

func newDecoder(t testing.TB, cfg Config) *Decoder {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// frameOf makes an Ethernet frame as captured in whole.
func frameOf(number uint64, at time.Duration, data []byte) *Frame {
	return &Frame{Time: epoch.Add(at), Data: data, Len: len(data), Number: number, Link: Ethernet}
}
