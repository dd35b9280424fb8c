package bpffilter_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"

	"portolan/bpffilter"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// machine returns the program for o in a virtual machine.
func machine(t testing.TB, o bpffilter.Options) *vm {
	t.Helper()
	raw, err := bpffilter.Assemble(o)
	if err != nil {
		t.Fatal(err)
	}
	return newVM(t, raw)
}

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// ether returns an Ethernet header up to the first EtherType, which is given; each tag is
// a pair of the EtherType that announces it and the tag itself.
func ether(etherType uint16, tags ...uint16) []byte {
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, t)
	}
	return binary.BigEndian.AppendUint16(b, etherType)
}

func ipv4(proto byte, words int, fragment uint16, payload []byte) []byte {
	b := make([]byte, 4*words)
	b[0], b[8], b[9] = 0x40|byte(words), 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	copy(b[12:], []byte{10, 0, 0, 7, 198, 51, 100, 23})
	return append(b, payload...)
}

func ipv6(next byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 255 // as neighbour discovery wants it
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], []byte{0x20, 1, 0x0d, 0xb8, 15: 7})
	copy(b[24:], []byte{0x20, 1, 0x0d, 0xb8, 15: 23})
	return append(b, payload...)
}

func tcp(src, dst uint16, flags byte, data ...byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[12], b[13] = 5<<4, flags
	return append(b, data...)
}

func udp(src, dst uint16, data ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return append(append(b, 0, 0), data...)
}

const (
	ack    = 0x10
	syn    = 0x02
	synAck = syn | ack
	rst    = 0x04
)

var (
	segment = tcp(49152, 443, ack, 1, 2, 3)
	opening = tcp(49152, 443, syn)
	v4, v6  = ether(0x0800), ether(0x86dd)
)

func TestAssemble(t *testing.T) {
	for _, tt := range []struct {
		name    string
		frame   []byte
		pass    bool
		tunnels bool // passes only because tunnels do
	}{
		{"IPv4 SYN", join(v4, ipv4(6, 5, 0, opening)), true, false},
		{"IPv4 SYN with don't-fragment", join(v4, ipv4(6, 5, 0x4000, opening)), true, false},
		{"IPv4 SYN behind the longest options", join(v4, ipv4(6, 15, 0, opening)), true, false},
		{"IPv4 SYN and ACK", join(v4, ipv4(6, 5, 0, tcp(443, 49152, synAck))), true, false},
		{"IPv4 segment", join(v4, ipv4(6, 5, 0, segment)), false, false},
		{"IPv4 segment behind the longest options", join(v4, ipv4(6, 15, 0, segment)), false, false},
		{"IPv4 RST", join(v4, ipv4(6, 5, 0, tcp(443, 49152, rst))), false, false},
		{"IPv4 segment from port 53", join(v4, ipv4(6, 5, 0, tcp(53, 49152, ack, 1))), true, false},
		{"IPv4 segment to port 53", join(v4, ipv4(6, 5, 0, tcp(49152, 53, ack, 1))), false, false},
		{"IPv4 datagram", join(v4, ipv4(17, 5, 0, udp(49152, 4789, 1))), true, false},
		{"IPv4 first fragment of a segment", join(v4, ipv4(6, 5, 0x2000, segment)), true, false},
		{"IPv4 last fragment", join(v4, ipv4(6, 5, 0x00b9, segment)), true, false},
		{"IPv4 ICMP", join(v4, ipv4(1, 5, 0, opening)), false, false},
		{"IPv4 with AH", join(v4, ipv4(51, 5, 0, opening)), true, false},
		{"IPv4 ESP", join(v4, ipv4(50, 5, 0, opening)), false, false},
		{"GRE", join(v4, ipv4(47, 5, 0, opening)), true, true},
		{"IPv4 in IPv4", join(v4, ipv4(4, 5, 0, ipv4(6, 5, 0, opening))), true, true},
		{"IPv6 in IPv4", join(v4, ipv4(41, 5, 0, ipv6(6, opening))), true, true},
		{"IPv6 SYN", join(v6, ipv6(6, opening)), true, false},
		{"IPv6 segment", join(v6, ipv6(6, segment)), false, false},
		{"IPv6 segment from port 53", join(v6, ipv6(6, tcp(53, 49152, ack, 1))), true, false},
		{"IPv6 datagram", join(v6, ipv6(17, udp(1, 2))), true, false},
		{"IPv6 ICMP", join(v6, ipv6(58, opening)), false, false},
		{"IPv6 hop-by-hop options", join(v6, ipv6(0, join([]byte{6, 0, 1, 4, 0, 0, 0, 0}, opening))), true, false},
		{"IPv6 fragment", join(v6, ipv6(44, join([]byte{6, 0, 0, 9, 0, 0, 0, 1}, opening))), true, false},
		{"IPv4 in IPv6", join(v6, ipv6(4, ipv4(6, 5, 0, opening))), true, true},
		{"one tag, SYN", join(ether(0x0800, 0x8100, 12), ipv4(6, 5, 0, opening)), true, false},
		{"one tag, segment", join(ether(0x0800, 0x8100, 12), ipv4(6, 5, 0, segment)), false, false},
		{"one tag, IPv6 SYN", join(ether(0x86dd, 0x9100, 12), ipv6(6, opening)), true, false},
		{"one tag, IPv6 segment", join(ether(0x86dd, 0x9100, 12), ipv6(6, segment)), false, false},
		{"two tags, SYN behind options", join(ether(0x0800, 0x88a8, 12, 0x8100, 13), ipv4(6, 9, 0, opening)), true, false},
		{"two tags, segment behind options", join(ether(0x0800, 0x88a8, 12, 0x8100, 13), ipv4(6, 9, 0, segment)), false, false},
		{"two tags, ARP", join(ether(0x0806, 0x88a8, 12, 0x8100, 13), make([]byte, 28)), true, false},
		{"three tags", join(ether(0x0800, 0x88a8, 12, 0x8100, 13, 0x8100, 14), ipv4(6, 5, 0, segment)), true, false},
		{"MPLS", join(ether(0x8847), []byte{0, 0, 1, 64}, ipv4(6, 5, 0, opening)), true, true},
		{"PPPoE under a tag", join(ether(0x8864, 0x8100, 12), []byte{0x11, 0, 0, 1, 0, 42, 0, 0x21}, ipv4(6, 5, 0, opening)), true, true},
		{"ARP", join(ether(0x0806), make([]byte, 28)), true, false},
		{"neighbour advertisement", join(v6, ipv6(58, []byte{136, 0, 0, 0})), true, false},
		{"echo request of IPv6", join(v6, ipv6(58, []byte{128, 0, 0, 0})), false, false},
		{"DHCP", join(v4, ipv4(17, 5, 0, udp(67, 68, 1))), true, false},
		{"LLDP", join(ether(0x88cc), make([]byte, 28)), false, false},
		{"spanning tree", join(ether(38), []byte{0x42, 0x42, 3}, make([]byte, 35)), false, false},
		{"SNAP", join(ether(48), []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, ipv4(6, 5, 0, opening)), true, false},
		{"version 6 under the EtherType of IPv4", join(v4, ipv6(6, opening)), false, false},
		{"version 5", join(v4, []byte{0x55}, ipv4(17, 5, 0, opening)[1:]), false, false},
		{"cut within the TCP header", join(v4, ipv4(6, 5, 0, opening))[:14+20+13], false, false},
		{"cut within Ethernet", v4[:13], false, false},
		{"nothing", nil, false, false},
	} {
		for _, dropTunnels := range []bool{false, true} {
			want := tt.pass && !(tt.tunnels && dropTunnels)
			vm := machine(t, bpffilter.Options{SnapLen: 1500, DropTunnels: dropTunnels})
			if got := vm.run(t, tt.frame) > 0; got != want {
				t.Errorf("%s, drop tunnels %v: passes %v, want %v", tt.name, dropTunnels, got, want)
			}
			if !tt.tunnels || !dropTunnels {
				check(t, vm, decode.Ethernet, newDecoder(t), tt.frame)
			}
			if ip := tt.frame; len(ip) > 14 && (ip[12] == 8 && ip[14]>>4 == 4 || ip[12] == 0x86 && ip[14]>>4 == 6) { // no tag
				vm := machine(t, bpffilter.Options{SnapLen: 1500, DropTunnels: dropTunnels, RawIP: true})
				if got := vm.run(t, ip[14:]) > 0; got != want {
					t.Errorf("%s without Ethernet, drop tunnels %v: passes %v, want %v", tt.name, dropTunnels, got, want)
				}
			}
		}
	}
}

// TestMachines runs one program in both machines.
func TestMachines(t *testing.T) {
	vm := machine(t, bpffilter.Options{SnapLen: 65535})
	generated(func(frame []byte) {
		for _, frame := range [][]byte{frame, frame[:len(frame)/2]} {
			if a, b := vm.run(t, frame), vm.eval(t, frame); a != b {
				t.Errorf("%d in one machine, %d in the other: % x", a, b, frame)
			}
		}
	})
}

func TestAssembleSnapLen(t *testing.T) {
	long := make([]byte, 1000)
	for _, tt := range []struct {
		name  string
		frame []byte
		want  int
	}{
		{"SYN", join(v4, ipv4(6, 15, 0, tcp(49152, 443, syn, long...))), 128},
		{"SYN to port 53", join(v4, ipv4(6, 5, 0, tcp(49152, 53, syn, long...))), 1500},
		{"SYN and ACK from port 53", join(v4, ipv4(6, 5, 0, tcp(53, 49152, synAck, long...))), 1500},
		{"segment from port 53", join(v4, ipv4(6, 5, 0, tcp(53, 49152, ack, long...))), 1500},
		{"datagram", join(v6, ipv6(17, udp(49152, 443, long...))), 128},
		{"response", join(v6, ipv6(17, udp(53, 49152, long...))), 1500},
		{"query", join(v4, ipv4(17, 5, 0, udp(49152, 53, long...))), 1500},
		{"VXLAN", join(v4, ipv4(17, 5, 0, udp(49152, 4789, long...))), 1500},
		{"VXLAN on a port of one's own", join(v4, ipv4(17, 5, 0, udp(49152, 4444, long...))), 1500},
		{"GTP-U the other way", join(v6, ipv6(17, udp(2152, 49152, long...))), 1500},
		{"fragment", join(v4, ipv4(17, 5, 0x2000, udp(49152, 443, long...))), 1500},
		{"GRE", join(v4, ipv4(47, 5, 0, long)), 1500},
		{"shorter datagram than its header", join(v4, ipv4(17, 5, 0, udp(49152, 443)[:7])), 0},
	} {
		vm := machine(t, bpffilter.Options{SnapLen: 1500, TunnelPorts: []uint16{4444}})
		if got := vm.run(t, tt.frame); got != tt.want {
			t.Errorf("%s: %d bytes are kept, want %d", tt.name, got, tt.want)
		}
	}
	if n := machine(t, bpffilter.Options{SnapLen: 40}).run(t, join(v4, ipv4(6, 5, 0, opening))); n != 40 {
		t.Errorf("%d bytes are to be kept of 54 with a snap length of 40", n)
	}
	for _, n := range []uint32{0, bpffilter.MaxSnapLen + 1} {
		if _, err := bpffilter.Assemble(bpffilter.Options{SnapLen: n}); err == nil {
			t.Errorf("a snap length of %d is taken", n)
		}
	}
}

// TestAssembleOutgoing looks at the program alone: the virtual machine knows no packet types.
func TestAssembleOutgoing(t *testing.T) {
	raw, err := bpffilter.Assemble(bpffilter.Options{SnapLen: 1500, DropOutgoing: true})
	if err != nil {
		t.Fatal(err)
	}
	ins, _ := bpf.Disassemble(raw)
	if want := (bpf.LoadExtension{Num: bpf.ExtType}); ins[0] != want {
		t.Errorf("the program begins with %v, want %v", ins[0], want)
	}
	j, ok := ins[1].(bpf.JumpIf)
	if !ok || j.Cond != bpf.JumpEqual || j.Val != 4 {
		t.Fatalf("the type of a packet is compared by %v", ins[1])
	}
	if end := ins[2+int(j.SkipTrue)]; end != (bpf.RetConstant{}) {
		t.Errorf("an outgoing frame goes on to %v", end)
	}
}

func TestDropAll(t *testing.T) {
	if n := newVM(t, bpffilter.DropAll()).run(t, join(v4, ipv4(6, 5, 0, opening))); n != 0 {
		t.Errorf("%d bytes pass", n)
	}
}

// sink takes events and forgets them.
type sink struct{}

func (sink) Lookup(*event.Lookup)         {}
func (sink) Connection(*event.Connection) {}

// namings is a sink that counts what frames say of hosts.
type namings struct {
	sink
	n int
}

func (s *namings) Naming(*event.Naming) { s.n++ }

func newDecoder(t testing.TB) *decode.Decoder {
	t.Helper()
	d, err := decode.New(decode.Config{Starts: 64, Flows: 64, Fragments: 64, FragmentBytes: 256 << 10, Streams: 64, StreamBytes: 256 << 10,
		VXLANPorts: decode.DefaultVXLANPorts()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// harmless are the reasons of frames that neither make an event nor change what later
// frames make: the only ones that a dropped frame may end in.
var harmless = map[decode.Reason]bool{
	decode.Truncated:       true,
	decode.LinkTypeUnknown: true,
	decode.NotIP:           true,
	decode.BadIP:           true,
	decode.ICMP:            true,
	decode.Transport:       true,
	decode.BadTransport:    true,
	decode.NotOpening:      true,
	decode.Tunnel:          true,
}

// check fails when vm drops a frame that means anything to a decoder.
func check(t testing.TB, vm *vm, link decode.LinkType, d *decode.Decoder, frame []byte) {
	t.Helper()
	if vm.run(t, frame) > 0 {
		return
	}
	f := decode.Frame{Data: frame, Len: len(frame), Number: 1, Link: link}
	var said namings
	if r := d.Decode(&f, &said); !harmless[r] || said.n > 0 {
		t.Errorf("dropped, but the decoder makes it %v with %d namings: link type %d, % x", r, said.n, link, frame)
	}
}

// generated calls yield with frames of every kind, whole and cut at every byte.
func generated(yield func([]byte)) {
	type transport struct {
		proto   byte
		payload []byte
	}
	advertised := join([]byte{136, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8}, make([]byte, 11), []byte{7, 2, 1, 2, 0, 0, 0, 0, 7})
	transports := []transport{{17, udp(53, 49152, make([]byte, 12)...)}, {17, udp(49152, 53)}, {1, opening}, {58, advertised},
		{47, opening}, {50, opening}, {132, opening}}
	for flags := range byte(64) {
		transports = append(transports, transport{6, tcp(49152, 443, flags)}, transport{6, tcp(53, 49152, flags, 0, 12, 1)})
	}
	arp := join([]byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7, 10, 0, 0, 7}, make([]byte, 10))
	for _, tags := range [][]uint16{nil, {0x8100, 1}, {0x88a8, 1}, {0x9100, 1}, {0x9200, 1}, {0x88a8, 1, 0x8100, 2},
		{0x8100, 1, 0x8100, 2, 0x8100, 3}, {20, 0xaaaa, 0x0300, 0}} {
		yield(join(ether(0x0806, tags...), arp))
		for _, x := range transports {
			for words := 5; words < 16; words++ {
				yield(join(ether(0x0800, tags...), ipv4(x.proto, words, 0, x.payload)))
			}
			yield(join(ether(0x0800, tags...), ipv4(x.proto, 5, 0x2000, x.payload)))
			yield(join(ether(0x0800, tags...), ipv4(x.proto, 5, 0x0001, x.payload)))
			yield(join(ether(0x0800, tags...), ipv4(51, 5, 0, join([]byte{x.proto, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, x.payload))))
			yield(join(ether(0x86dd, tags...), ipv6(x.proto, x.payload)))
			for _, ext := range []byte{0, 43, 44, 60, 135} {
				yield(join(ether(0x86dd, tags...), ipv6(ext, join([]byte{x.proto, 0, 0, 0, 0, 0, 0, 0}, x.payload))))
			}
		}
	}
}

// TestCutFramesSuffice decodes frames twice, whole and as much of them as is kept.
func TestCutFramesSuffice(t *testing.T) {
	vm := machine(t, bpffilter.Options{SnapLen: 65535})
	whole, kept := newDecoder(t), newDecoder(t)
	cut := 0
	generated(func(frame []byte) {
		frame = append(frame, make([]byte, 200)...)
		n := vm.run(t, frame)
		if n == 0 {
			return
		}
		f := decode.Frame{Data: frame, Len: len(frame), Number: 1, Link: decode.Ethernet}
		want := whole.Decode(&f, sink{})
		if n < len(frame) {
			f.Data = frame[:n]
			cut++
		}
		if got := kept.Decode(&f, sink{}); got != want {
			t.Errorf("the decoder makes it %v, and %v of the %d bytes that are kept: % x", want, got, n, frame)
		}
	})
	if cut == 0 {
		t.Error("no frame was cut")
	}
}

func TestFilterEqualsDecoder(t *testing.T) {
	for _, o := range []bpffilter.Options{{SnapLen: 65535}, {SnapLen: 65535, DropTunnels: true}} {
		vm, d := machine(t, o), newDecoder(t)
		o.RawIP = true
		raw := machine(t, o)
		frames, dropped := 0, 0
		generated(func(frame []byte) {
			frames++
			if vm.run(t, frame) == 0 {
				dropped++
			}
			for cut := range frame {
				check(t, vm, decode.Ethernet, d, frame[:len(frame)-cut])
			}
			check(t, raw, decode.Raw, d, frame[14:])
		})
		t.Logf("%d frames, %d dropped", frames, dropped)
		if dropped == 0 || dropped == frames {
			t.Errorf("%+v: %d of %d frames dropped: nothing was told apart", o, dropped, frames)
		}
	}
}

func FuzzFilterEqualsDecoder(f *testing.F) {
	n := 0
	generated(func(frame []byte) {
		if n++; n%97 == 0 {
			f.Add(frame)
		}
	})
	d := newDecoder(f)
	ethernet := machine(f, bpffilter.Options{SnapLen: 65535})
	raw := machine(f, bpffilter.Options{SnapLen: 65535, RawIP: true})
	f.Fuzz(func(t *testing.T, frame []byte) {
		check(t, ethernet, decode.Ethernet, d, frame)
		check(t, raw, decode.Raw, d, frame)
	})
}
