package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"portolan/sensor/event"
)

// workload is frames that a benchmark or an allocation test decodes over and over.
type workload struct {
	name   string
	frames []Frame
	want   []Reason // of the frames in turn, once the tables are warm

	// By how much the sequence number at an offset moves on each time round, so that a SYN
	// opens another connection and a stream goes on where it was; 0 for none.
	step  uint32
	seqAt int
}

// frame returns frame i, counted on from round to round.
func (w *workload) frame(i int) *Frame {
	f := &w.frames[i%len(w.frames)]
	if w.step != 0 && i >= len(w.frames) {
		seq := f.Data[w.seqAt:]
		binary.BigEndian.PutUint32(seq, binary.BigEndian.Uint32(seq)+w.step)
	}
	return f
}

// Where the sequence number stands in an Ethernet frame.
const (
	seqAt4 = 14 + 20 + 4
	seqAt6 = 14 + 40 + 4
)

// workloads returns the frames that a mirror port sees most of. Each is repeated with
// changing ports or addresses where the decoder would otherwise see one thing over and over.
func workloads(t testing.TB) []workload {
	addresses := func(n int) (rr []string) {
		for i := range n {
			rr = append(rr, fmt.Sprintf("cdn.example. 60 IN A 198.51.100.%d", i+1))
		}
		return rr
	}
	each := func(n int, make func(i int) []byte) (out []Frame) {
		for i := range n {
			out = append(out, *frameOf(uint64(i+1), time.Duration(i)*time.Microsecond, make(i)))
		}
		return out
	}
	fromResolver := func(msg []byte) func(i int) []byte {
		return func(i int) []byte {
			return ethernet(ip(resolver, client, protoUDP, udp(dnsPort, uint16(40000+i), msg)))
		}
	}
	const n = 1024
	syn4 := func(i int) []byte {
		return ethernet(ip(client, server, protoTCP, tcp(uint16(1024+i), 443, uint32(i), 0, syn, nil)))
	}
	syn6 := func(i int) []byte {
		return ethernet(ip("2001:db8::7", "2001:db8::23", protoTCP, tcp(uint16(1024+i), 443, uint32(i), 0, syn, nil)))
	}
	segment := func(int) []byte {
		return ethernet(ip(server, client, protoTCP, tcp(443, 49152, 1, 1, ack, make([]byte, 1448))))
	}
	flow := func(i int) []byte {
		return ethernet(ip(client, server, protoUDP, udp(uint16(1024+i), 443, make([]byte, 1200))))
	}
	one := answer(t, 1, "cdn.example", 1, addresses(1)...)
	eight := answer(t, 1, "cdn.example", 1, addresses(8)...)
	chain := answer(t, 1, "www.shop.example", 1, "www.shop.example. 300 IN CNAME shop.edge.example.",
		"shop.edge.example. 60 IN CNAME e7.edge.example.", "e7.edge.example. 20 IN A 198.51.100.23", "e7.edge.example. 20 IN A 198.51.100.24")
	https := answer(t, 1, "cdn.example", 65, "cdn.example. 60 IN HTTPS 1 . alpn=h2,h3 port=8443 ipv4hint=198.51.100.1,198.51.100.2 ipv6hint=2001:db8::1")
	message := framed(one)
	stream := bytes.Repeat(message, n)
	tcp1, tcp2 := segmentsOf(stream, cuts(len(message), n, 1)...), segmentsOf(stream, cuts(len(message), n, 2)...)
	cut := func(i int) []byte {
		return ethernet(pieces(ip(resolver, client, protoUDP, udp(dnsPort, uint16(40000+i/2), eight)), uint16(i/2), 96)[i%2])
	}
	wrapped := func(name string, frame func(i int) []byte) func(i int) []byte {
		w := wrapNamed(name)
		return func(i int) []byte { return w.onLink(frame(i)[14:]) }
	}
	at := func(list [][]byte) func(i int) []byte { return func(i int) []byte { return list[i] } }
	once, twice := []Reason{Event}, []Reason{FragmentHeld, Event}
	return []workload{
		{name: "SYN", frames: each(n, syn4), want: once, step: 1, seqAt: seqAt4},
		{name: "SYN/IPv6", frames: each(n, syn6), want: once, step: 1, seqAt: seqAt6},
		{name: "data segment", frames: each(1, segment), want: []Reason{NotOpening}},
		{name: "UDP in flow", frames: each(n, flow), want: []Reason{Flow}},
		{name: "DNS/1 answer", frames: each(n, fromResolver(one)), want: once},
		{name: "DNS/8 answers", frames: each(n, fromResolver(eight)), want: once},
		{name: "DNS/20 answers", frames: each(n, fromResolver(answer(t, 1, "cdn.example", 1, addresses(20)...))), want: once},
		{name: "DNS/CNAME chain", frames: each(n, fromResolver(chain)), want: once},
		{name: "DNS/HTTPS hints", frames: each(n, fromResolver(https)), want: once},
		{name: "DNS/two fragments", frames: each(n, cut), want: twice},
		{name: "DNS over TCP", frames: each(n, at(tcp1)), want: once, step: uint32(len(stream)), seqAt: seqAt4},
		{name: "DNS over TCP/two segments", frames: each(2*n, at(tcp2)), want: []Reason{StreamHeld, Event},
			step: uint32(len(stream)), seqAt: seqAt4},
		{name: "VXLAN/SYN", frames: each(n, wrapped("VXLAN", syn4)), want: once, step: 1, seqAt: seqAt4 + 14 + 20 + 8 + 8},
		{name: "VXLAN/DNS, 1 answer", frames: each(n, wrapped("VXLAN", fromResolver(one))), want: once},
		{name: "GRE/SYN", frames: each(n, wrapped("GRE", syn4)), want: once, step: 1, seqAt: seqAt4 + 20 + 4},
		{name: "GRE/DNS, 1 answer", frames: each(n, wrapped("GRE", fromResolver(one))), want: once},
		{name: "MPLS/SYN", frames: each(n, wrapped("MPLS", syn4)), want: once, step: 1, seqAt: seqAt4 + 4},
	}
}

// cuts returns where to cut a stream of n messages of one size into so many segments each.
func cuts(size, n, segments int) (at []int) {
	for i := 1; i < n*segments; i++ {
		at = append(at, i/segments*size+i%segments*size/segments)
	}
	return at
}

func BenchmarkDecode(b *testing.B) {
	for _, w := range workloads(b) {
		b.Run(w.name, func(b *testing.B) {
			d := newDecoder(b, DefaultConfig())
			var sink event.Sink = new(discard)
			for i := range w.frames {
				d.Decode(w.frame(i), sink)
			}
			b.ReportAllocs()
			i := len(w.frames)
			for b.Loop() {
				d.Decode(w.frame(i), sink)
				i++
			}
		})
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	for _, w := range workloads(t) {
		t.Run(w.name, func(t *testing.T) {
			d := newDecoder(t, DefaultConfig())
			var sink event.Sink = new(discard)
			for i := range w.frames {
				d.Decode(w.frame(i), sink)
			}
			i := len(w.frames)
			n := testing.AllocsPerRun(2000, func() {
				if r, want := d.Decode(w.frame(i), sink), w.want[i%len(w.want)]; r != want {
					t.Errorf("frame %d ends in %v, want %v", i, r, want)
				}
				i++
			})
			if n != 0 {
				t.Errorf("%v allocations a frame, want none", n)
			}
		})
	}
}
