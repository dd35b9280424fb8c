package coverage

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// startFrame returns the ith start of a client, a SYN or the server's answer to one, or a datagram, as it is on the wire.
func startFrame(client netip.Addr, i int, start event.Start, hops uint8) []byte {
	src, dst, server := client.AsSlice(), netip.MustParseAddr("198.51.100.23").AsSlice(), uint16(443)
	b := append(make([]byte, 12), 0x08, 0x00) // without addresses
	if client.Is6() {
		b[12], b[13] = 0x86, 0xdd
		dst = netip.MustParseAddr("2001:db8::23").AsSlice()
	}
	port := uint16(20000 + i)
	ports, flags := [2]uint16{port, server}, byte(0x02)
	if start == event.SYNACK {
		src, dst, ports, flags = dst, src, [2]uint16{server, port}, 0x12
	}
	transport := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, ports[0]), ports[1])
	proto := uint8(event.TCP)
	if start == event.Datagram {
		proto = uint8(event.UDP)
		transport = append(transport, 0, 8, 0, 0)
	} else {
		transport = append(transport, 0, 0, 0, byte(i), 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
	}
	n := uint16(len(transport))
	if client.Is6() {
		b = binary.BigEndian.AppendUint16(append(b, 0x60, 0, 0, 0), n)
		b = append(b, proto, hops)
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x45, 0), 20+n)
		b = append(b, 0, 0, 0, 0, hops, proto, 0, 0)
	}
	return slices.Concat(b, src, dst, transport)
}

// Several hosts behind one address show by the TTLs of their SYNs: of systems that begin with different ones, or of three
// distances, each often and by turns. What one host does by itself does not look so.
func TestNAT(t *testing.T) {
	turns := func(hops ...uint8) func(int) (event.Start, uint8) {
		return func(i int) (event.Start, uint8) { return event.SYN, hops[i%len(hops)] }
	}
	for _, tt := range []struct {
		name string
		of   func(i int) (event.Start, uint8)
		want string // in what is said; "" when nothing is
	}{
		{"two systems", turns(63, 63, 127), "63 (64 less 1), 127 (128 less 1)"},
		{"a router among hosts", turns(64, 254), "64 (64 less 0), 254 (255 less 1)"},
		{"three distances", turns(61, 62, 63), "61 (64 less 3), 62 (64 less 2), 63 (64 less 1)"},
		{"one host", turns(64), ""},
		{"two routes", turns(61, 62), ""},
		{"nothing known", turns(0), ""},
		{"an address that another host got", func(i int) (event.Start, uint8) { return event.SYN, []uint8{63, 127}[i/20] }, ""},
		{"one of another system, once", func(i int) (event.Start, uint8) { return event.SYN, []uint8{63, 127}[min(1, i/39)] }, ""},
		{"datagrams with a TTL of their own", func(i int) (event.Start, uint8) {
			if i%2 == 0 {
				return event.Datagram, 255
			}
			return event.SYN, 64
		}, ""},
		{"answers of servers", func(i int) (event.Start, uint8) {
			if i%2 == 0 {
				return event.SYNACK, 118
			}
			return event.SYN, 64
		}, ""},
		{"who measures a route", func(i int) (event.Start, uint8) { return event.SYN, uint8(1 + i%8) }, ""},
	} {
		for _, client := range []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")} {
			d, err := decode.New(decode.DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			x := NewTally()
			const starts = 40
			for i := range starts {
				start, hops := tt.of(i)
				b := startFrame(client, i, start, hops)
				f := decode.Frame{Time: event.Time(i) * second, Data: b, Len: len(b), Link: decode.Ethernet}
				if r := d.Decode(&f, x); r != decode.Event {
					t.Fatalf("%s: frame %d of %v: %v", tt.name, i, client, r)
				}
			}
			c, _ := x.Client(event.Zone{}, client)
			if (c.NAT != "") != (tt.want != "") || !strings.Contains(c.NAT, tt.want) || c.Connections != starts {
				t.Errorf("%s, %v: %q of %d connections, want %q", tt.name, client, c.NAT, c.Connections, tt.want)
			}
			v := x.View()
			if (v.NAT == 1) != (tt.want != "") || len(v.Examples) != int(v.NAT) {
				t.Errorf("%s, %v: view %+v", tt.name, client, v)
			}
			v.Add(&v)
			if a := Assess(&Counts{}, &v, Source{}); a.Has("nat.suspected") != (tt.want != "") {
				t.Errorf("%s, %v: %s", tt.name, client, a.Text())
			}
		}
	}
}

// More TTLs than are remembered take the place of rare ones, not of those that count.
func TestPathsBounds(t *testing.T) {
	var p paths
	for i := range 28 {
		p.add(uint8(100 + i))
		p.add(101) // so that there are turns
	}
	if got := p.several(); got != "" {
		t.Errorf("TTLs that come seldom: %q", got)
	}
	for i := range 600 {
		p.add([]uint8{63, 127}[i%2])
	}
	for i := range 28 {
		p.add(uint8(200 + i))
	}
	if got := p.several(); got != "its SYNs come by turns with TTL 63 (64 less 1), 101 (128 less 27), 127 (128 less 1)" {
		t.Errorf("two systems afterwards: %q", got)
	}
}
