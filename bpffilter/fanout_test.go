package bpffilter_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"portolan/bpffilter"
)

// packet returns an IP packet between two addresses of one family.
func packet(src, dst netip.Addr, proto byte, payload []byte) []byte {
	b := ipv4(proto, 5, 0, payload)
	at := 12
	if src.Is6() {
		b, at = ipv6(proto, payload), 8
	}
	copy(b[at:], src.AsSlice())
	copy(b[at+len(src.AsSlice()):], dst.AsSlice())
	return b
}

// etherTypeOf returns the EtherType of an IP packet.
func etherTypeOf(ip []byte) uint16 {
	if ip[0]>>4 == 6 {
		return 0x86dd
	}
	return 0x0800
}

// dns returns the start of a DNS message.
func dns(response bool) []byte {
	b := make([]byte, 12)
	if response {
		b[2] = 0x80
	}
	return b
}

// wrapping puts a link header, and more, around an IP packet.
type wrapping struct {
	name string
	wrap func(ip []byte) []byte
}

var (
	tunnelFrom = netip.MustParseAddr("192.0.2.1")
	tunnelTo   = netip.MustParseAddr("192.0.2.2")
)

// plain is Ethernet, with tags.
func plain(tags ...uint16) func([]byte) []byte {
	return func(ip []byte) []byte { return join(ether(etherTypeOf(ip), tags...), ip) }
}

// inUDP puts what make returns into a datagram to a port.
func inUDP(src, dst uint16, make func(ip []byte) []byte) func([]byte) []byte {
	return func(ip []byte) []byte {
		return join(v4, packet(tunnelFrom, tunnelTo, 17, udp(src, dst, make(ip)...)))
	}
}

// inIP puts what make returns into a packet of a protocol.
func inIP(proto byte, make func(ip []byte) []byte) func([]byte) []byte {
	return func(ip []byte) []byte { return join(v4, packet(tunnelFrom, tunnelTo, proto, make(ip))) }
}

// header puts bytes in front of what make returns.
func header(b []byte, make func([]byte) []byte) func([]byte) []byte {
	return func(ip []byte) []byte { return join(b, make(ip)) }
}

func bare(ip []byte) []byte { return ip }

// shortPPP puts the shorter PPP protocol number in front of a packet.
func shortPPP(ip []byte) []byte {
	if ip[0]>>4 == 6 {
		return join([]byte{0x57}, ip)
	}
	return join([]byte{0x21}, ip)
}

// gre is a GRE header with the given flags, for a protocol.
func gre(flags, proto uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, flags)
	b = binary.BigEndian.AppendUint16(b, proto)
	for _, bit := range []uint16{0x8000, 0x2000, 0x1000} {
		if flags&bit != 0 {
			b = append(b, 1, 2, 3, 4)
		}
	}
	return b
}

func wrappings() []wrapping {
	vxlan := header([]byte{8, 0, 0, 0, 0, 1, 0, 0}, plain())
	deep := func(n int) func(ip []byte) []byte {
		inner := plain()
		for range n {
			around := inner
			inner = func(ip []byte) []byte {
				return join(v4, packet(tunnelFrom, tunnelTo, 17, udp(4789, 4789, join([]byte{8, 0, 0, 0, 0, 1, 0, 0}, around(ip))...)))
			}
		}
		return inner
	}
	return []wrapping{
		{"Ethernet", plain()},
		{"VLAN", plain(0x8100, 12)},
		{"QinQ", plain(0x88a8, 12, 0x8100, 13)},
		{"old QinQ", plain(0x9100, 12, 0x9100, 13)},
		{"four tags", plain(0x88a8, 12, 0x8100, 13, 0x8100, 14, 0x8100, 15)},
		{"MPLS", func(ip []byte) []byte { return join(ether(0x8847), []byte{0, 1, 0, 64, 0, 2, 1, 64}, ip) }},
		{"MPLS under a tag", func(ip []byte) []byte { return join(ether(0x8847, 0x8100, 12), []byte{0, 1, 1, 64}, ip) }},
		{"MPLS pseudowire", func(ip []byte) []byte {
			return join(ether(0x8847), []byte{0, 1, 1, 64, 0, 0, 0, 0}, plain(0x8100, 12)(ip))
		}},
		{"PPPoE", func(ip []byte) []byte {
			ppp := []byte{0x11, 0, 0, 1, 0, 42, 0, 0x21}
			if ip[0]>>4 == 6 {
				ppp[7] = 0x57
			}
			return join(ether(0x8864), ppp, ip)
		}},
		{"GRE", inIP(47, func(ip []byte) []byte { return join(gre(0, etherTypeOf(ip)), ip) })},
		{"GRE with everything", inIP(47, func(ip []byte) []byte { return join(gre(0xb000, etherTypeOf(ip)), ip) })},
		{"NVGRE", inIP(47, header(gre(0x2000, 0x6558), plain()))},
		{"ERSPAN I", inIP(47, header(gre(0, 0x88be), plain(0x8100, 12)))},
		{"ERSPAN II", inIP(47, header(join(gre(0x1000, 0x88be), make([]byte, 8)), plain()))},
		{"ERSPAN III", inIP(47, header(join(gre(0x1000, 0x22eb), make([]byte, 12)), plain()))},
		{"ERSPAN III with a subheader", inIP(47, header(join(gre(0x1000, 0x22eb), make([]byte, 11), []byte{1}, make([]byte, 8)), plain()))},
		{"VXLAN with one outer port", inUDP(4789, 4789, vxlan)},
		{"VXLAN under a tag", func(ip []byte) []byte { return tag(inUDP(50000, 8472, vxlan)(ip)) }},
		{"VXLAN on a port of one's own", inUDP(50000, 4444, vxlan)},
		{"VXLAN-GPE", inUDP(50000, 4790, header([]byte{0x0c, 0, 0, 3, 0, 0, 1, 0}, plain()))},
		{"VXLAN-GPE with NSH", inUDP(50000, 4790, header(join([]byte{0x0c, 0, 0, 4, 0, 0, 1, 0, 0, 3, 1, 3}, make([]byte, 8)), plain()))},
		{"GRE with NSH", inIP(47, header(join(gre(0x2000, 0x894f), []byte{0, 2, 1, 3, 0, 0, 0, 0}), plain()))},
		{"Geneve", inUDP(50000, 6081, header([]byte{2, 0, 0x65, 0x58, 0, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8}, plain()))},
		{"Geneve without Ethernet", inUDP(50000, 6081, func(ip []byte) []byte {
			return join([]byte{0, 0}, binary.BigEndian.AppendUint16(nil, etherTypeOf(ip)), []byte{0, 0, 1, 0}, ip)
		})},
		{"VXLAN of a cloud's gateway", inUDP(50000, 10800, vxlan)},
		{"MPLS in UDP", inUDP(50000, 6635, header([]byte{0, 0, 1, 64}, bare))},
		{"MPLS pseudowire without a control word", func(ip []byte) []byte {
			return join(ether(0x8847), []byte{0, 1, 1, 64}, plain()(ip))
		}},
		{"PPTP", inIP(47, header([]byte{0x30, 0x81, 0x88, 0x0b, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xff, 3}, shortPPP))},
		{"L2TP", inUDP(1701, 1701, header([]byte{0x48, 2, 0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 0xff, 3}, shortPPP))},
		{"L2TP without lengths", inUDP(50000, 1701, header([]byte{0, 2, 0, 1, 0, 2, 0}, shortPPP))},
		{"GTP-U", inUDP(2152, 2152, header([]byte{0x30, 255, 0, 0, 0, 0, 0, 1}, bare))},
		{"GTP-U with extensions", inUDP(2152, 40000, header([]byte{0x34, 255, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0x85, 1, 0, 0, 0}, bare))},
		{"AYIYA", inUDP(50000, 5072, header(join([]byte{0x45, 0x22, 0x01, 41, 0, 0, 0, 0}, make([]byte, 24)), bare))},
		{"GRE in UDP", inUDP(50000, 4754, func(ip []byte) []byte { return join(gre(0x2000, etherTypeOf(ip)), ip) })},
		{"IP in IP", func(ip []byte) []byte {
			proto := byte(4)
			if ip[0]>>4 == 6 {
				proto = 41
			}
			return join(v4, packet(tunnelFrom, tunnelTo, proto, ip))
		}},
		{"EtherIP", inIP(97, header([]byte{0x30, 0}, plain()))},
		{"MPLS in IP", inIP(137, header([]byte{0, 0, 1, 64}, bare))},
		{"two VXLANs", deep(2)},
		{"four VXLANs", deep(4)},
	}
}

// tag puts a VLAN tag into an Ethernet frame.
func tag(frame []byte) []byte { return join(frame[:12], []byte{0x81, 0, 0, 12}, frame[12:]) }

// ring returns where a fan-out program sends a frame among n rings: as it comes in, with
// its first tag taken off as the kernel does, and as it goes out. Both have to be the same.
func ring(t *testing.T, m *vm, frame []byte, n int) int {
	t.Helper()
	m.outgoing = true
	out := m.run(t, frame)
	m.outgoing = false
	m.proto = binary.BigEndian.Uint16(frame[12:])
	in := frame[14:]
	if m.proto == 0x8100 || m.proto == 0x88a8 {
		m.proto, in = binary.BigEndian.Uint16(in[2:]), in[4:]
	}
	if got := m.run(t, in); got != out {
		t.Errorf("a frame that comes in makes %#x, one that goes out %#x: % x", got, out, frame)
	}
	return int(uint32(out) % uint32(n))
}

func fanOut(t testing.TB, seed uint32) *vm {
	t.Helper()
	raw, err := bpffilter.FanOut(bpffilter.FanOutOptions{Seed: seed, TunnelPorts: []uint16{4444}})
	if err != nil {
		t.Fatal(err)
	}
	return newVM(t, raw)
}

// TestFanOutByClient sends what concerns one client through every wrapping, in both
// families: all of it comes to the ring that the client without any wrapping has.
func TestFanOutByClient(t *testing.T) {
	const rings, clients = 4, 100
	m := fanOut(t, 0x01020304)
	random := rand.New(rand.NewPCG(1, 2))
	for _, w := range wrappings() {
		for _, family := range []int{4, 6} {
			t.Run(fmt.Sprintf("%s, IPv%d", w.name, family), func(t *testing.T) {
				used := make(map[int]int)
				for range clients {
					client, server, resolver := address(random, family), address(random, family), address(random, family)
					want := ring(t, m, plain()(packet(client, server, 6, opening)), rings)
					used[want]++
					for _, f := range []struct {
						name string
						ip   []byte
					}{
						{"response", packet(resolver, client, 17, udp(53, 40000, dns(true)...))},
						{"query", packet(client, resolver, 17, udp(40000, 53, dns(false)...))},
						{"response between servers", packet(resolver, client, 17, udp(53, 53, dns(true)...))},
						{"query between servers", packet(client, resolver, 17, udp(53, 53, dns(false)...))},
						{"response over TCP", packet(resolver, client, 6, tcp(53, 40000, ack, 1, 2))},
						{"SYN to port 53", packet(client, resolver, 6, tcp(40000, 53, syn))},
						{"SYN and ACK from port 53", packet(resolver, client, 6, tcp(53, 40000, synAck))},
						{"SYN", packet(client, server, 6, tcp(40000, 443, syn))},
						{"SYN and ACK", packet(server, client, 6, tcp(443, 40000, synAck))},
						{"datagram", packet(client, server, 17, udp(40000, 443, 1))},
						{"datagram back", packet(server, client, 17, udp(443, 40000, 1))},
					} {
						if got := ring(t, m, w.wrap(f.ip), rings); got != want {
							t.Fatalf("the %s of %v comes to ring %d, and its SYN without a wrapping to %d", f.name, client, got, want)
						}
					}
				}
				for r := range rings {
					if used[r] < clients/rings/3 {
						t.Errorf("clients by ring %v: not shared out", used)
					}
				}
			})
		}
	}
}

// address returns a random address that does not look like anything else.
func address(r *rand.Rand, family int) netip.Addr {
	b := make([]byte, 16)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if family == 4 {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b))
}

// TestFanOutExtensions puts extension headers in front of a SYN, and not in front of its answer.
func TestFanOutExtensions(t *testing.T) {
	m := fanOut(t, 7)
	random := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		client, server := address(random, 6), address(random, 6)
		back := ring(t, m, plain()(packet(server, client, 6, tcp(443, 40000, synAck))), 64)
		for _, tt := range []struct {
			name   string
			next   byte
			before []byte
		}{
			{"hop-by-hop options", 0, []byte{6, 0, 1, 4, 0, 0, 0, 0}},
			{"destination options and routing", 60, []byte{43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 4, 0, 0, 0, 0, 0}},
			{"authentication", 51, []byte{6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
			{"an atomic fragment", 44, []byte{6, 0, 0, 0, 0, 0, 0, 1}},
		} {
			if got := ring(t, m, plain()(packet(client, server, tt.next, join(tt.before, opening))), 64); got != back {
				t.Errorf("a SYN behind %s comes to ring %d, its answer to %d", tt.name, got, back)
			}
		}
		client, server = address(random, 4), address(random, 4)
		back = ring(t, m, plain()(packet(server, client, 6, tcp(443, 40000, synAck))), 64)
		if got := ring(t, m, plain()(packet(client, server, 51, join([]byte{6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, opening))), 64); got != back {
			t.Errorf("a SYN behind an authentication header comes to ring %d, its answer to %d", got, back)
		}
	}
}

// TestFanOutFragments: all fragments of a response come to its client's ring, though only the first has ports.
func TestFanOutFragments(t *testing.T) {
	m := fanOut(t, 8)
	random := rand.New(rand.NewPCG(5, 6))
	for _, w := range wrappings() {
		for range 20 {
			resolver, client := address(random, 4), address(random, 4)
			want := ring(t, m, plain()(packet(client, resolver, 6, opening)), 64)
			for _, at := range []uint16{0x2000, 0x2003, 0x0006} {
				ip := packet(resolver, client, 17, udp(53, 40000, dns(true)...))
				binary.BigEndian.PutUint16(ip[6:], at)
				if got := ring(t, m, w.wrap(ip), 64); got != want {
					t.Errorf("%s: fragment %#x comes to ring %d, its client's is %d", w.name, at, got, want)
				}
			}
			resolver, client = address(random, 6), address(random, 6)
			want = ring(t, m, plain()(packet(client, resolver, 6, opening)), 64)
			for _, at := range []byte{1, 25, 48} {
				ip := packet(resolver, client, 44, join([]byte{17, 0, 0, at, 0, 0, 0, 9}, udp(53, 40000, dns(true)...)))
				if got := ring(t, m, w.wrap(ip), 64); got != want {
					t.Errorf("%s: IPv6 fragment %d comes to ring %d, its client's is %d", w.name, at, got, want)
				}
			}
		}
	}
}

// TestFanOutFallsBack: what is nested too deep, or has the form of a tunnel and is none,
// still has one ring for both directions.
func TestFanOutFallsBack(t *testing.T) {
	m := fanOut(t, 9)
	random := rand.New(rand.NewPCG(7, 8))
	used := make(map[int]bool)
	for range 100 {
		a, b := address(random, 4), address(random, 4)
		for _, tt := range []struct {
			name     string
			to, back []byte
		}{
			{"equal ports", packet(a, b, 17, udp(4500, 4500, 1)), packet(b, a, 17, udp(4500, 4500, 1))},
			{"five deep", nested(a, b, 5), nested(b, a, 5)},
			{"GTP-U that carries none", packet(a, b, 17, udp(2152, 2152, 0x32, 1, 0, 0)), packet(b, a, 17, udp(2152, 2152, 0x32, 2, 0, 0))},
			{"Teredo that carries none", packet(a, b, 17, udp(40000, 3544, make([]byte, 12)...)), packet(b, a, 17, udp(3544, 40000, make([]byte, 12)...))},
			{"GRE with routing", packet(a, b, 47, []byte{0x40, 0, 8, 0}), packet(b, a, 47, []byte{0x40, 0, 8, 0})},
		} {
			to, back := ring(t, m, plain()(tt.to), 64), ring(t, m, plain()(tt.back), 64)
			used[to] = true
			if to != back {
				t.Errorf("%s: one direction comes to ring %d, the other to %d", tt.name, to, back)
			}
		}
	}
	if len(used) < 32 {
		t.Errorf("only %d of 64 rings are used", len(used))
	}
}

// nested puts a packet into n packets between a and b.
func nested(a, b netip.Addr, n int) []byte {
	ip := packet(tunnelFrom, tunnelTo, 6, opening)
	for range n {
		ip = packet(a, b, 4, ip)
	}
	return ip
}

// TestFanOutSeed: who shares a ring with whom depends on the seed.
func TestFanOutSeed(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	var frames [][]byte
	for range 64 {
		frames = append(frames, plain()(packet(address(random, 4), tunnelTo, 6, opening)))
	}
	var first []int
	for seed := range uint32(3) {
		m := fanOut(t, seed*0x9e3779b9)
		var rings []int
		for _, f := range frames {
			rings = append(rings, ring(t, m, f, 4))
		}
		if seed > 0 && slices.Equal(rings, first) {
			t.Error("another seed changes nothing")
		}
		first = rings
	}
}

func TestFanOutRawIP(t *testing.T) {
	raw, err := bpffilter.FanOut(bpffilter.FanOutOptions{RawIP: true})
	if err != nil {
		t.Fatal(err)
	}
	m := newVM(t, raw)
	client, server := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("198.51.100.23")
	if a, b := m.run(t, packet(client, server, 6, opening)), m.run(t, packet(server, client, 17, udp(53, 40000, dns(true)...))); a != b || a == 0 {
		t.Errorf("a SYN makes %#x, the answer to its client %#x", a, b)
	}
}

// TestFanOutFits: the kernel takes 4,096 instructions, and so many it must be at most.
func TestFanOutFits(t *testing.T) {
	ports := make([]uint16, 65)
	for i := range ports {
		ports[i] = uint16(20000 + i)
	}
	raw, err := bpffilter.FanOut(bpffilter.FanOutOptions{TunnelPorts: ports[:64]})
	if err != nil || len(raw) > 4096 {
		t.Errorf("%d instructions, %v", len(raw), err)
	}
	if _, err := bpffilter.FanOut(bpffilter.FanOutOptions{TunnelPorts: ports}); err == nil {
		t.Error("65 ports are taken")
	}
	if _, err := bpffilter.Assemble(bpffilter.Options{SnapLen: 1, TunnelPorts: ports}); err == nil {
		t.Error("the filter takes 65 ports")
	}
}

// FuzzFanOut has the program read anything: it ends, and never reads what it did not write.
func FuzzFanOut(f *testing.F) {
	for _, w := range wrappings() {
		f.Add(w.wrap(packet(tunnelFrom, tunnelTo, 6, opening)))
	}
	m := fanOut(f, 11)
	f.Fuzz(func(t *testing.T, frame []byte) {
		m.outgoing = true
		m.run(t, frame)
	})
}
