// Package bpffilter is the kernel's share of the work: programs that pass the frames of
// which the decoder could make an event, and drop the rest before they are copied; and one
// that steers the frames of a client to one ring.
//
// What they drop, the decoder would not have turned into an event. The reverse does not
// hold: where telling would take long, a frame passes and the decoder decides.
//
// There is one specification, a classic BPF program that finds the class of a frame.
// Assemble makes of it what any packet socket takes. LoadSocket and LoadXDP translate it
// instruction by instruction into eBPF, and append a memory of UDP flows.
package bpffilter

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
)

// MaxSnapLen is the greatest Options.SnapLen, in bytes.
const MaxSnapLen = 256 << 10

// MaxFlows is the greatest Options.Flows.
const MaxFlows = 1 << 24

// maxTunnelPorts bounds Options.TunnelPorts.
const maxTunnelPorts = 64

// Options say what passes, and how much of it.
type Options struct {
	// SnapLen is how many bytes are kept of a frame of which all may count, from 1 to
	// MaxSnapLen. Of a TCP start, and of a datagram outside DNS and tunnels, 128 are kept at most.
	SnapLen      uint32
	RawIP        bool // frames begin with the IP header and not with Ethernet's
	DropTunnels  bool // drop GRE, IP in IP, EtherIP, MPLS and PPPoE, too; tunnels in UDP pass
	DropOutgoing bool // drop frames that this host sends
	// TunnelPorts are UDP ports of VXLAN besides those that are known; at most 64.
	TunnelPorts []uint16
	// Flows is how many UDP flows LoadSocket and LoadXDP remember, about 120 bytes each; from
	// 1 to MaxFlows. Those that were silent longest make room for others, and then pass anew.
	Flows int
}

// What the program looks for. Numbers are IANA's and IEEE's.
const (
	etherIPv4      = 0x0800
	etherARP       = 0x0806
	etherIPv6      = 0x86dd
	etherVLAN      = 0x8100 // IEEE 802.1Q
	etherQinQ      = 0x88a8 // IEEE 802.1ad
	etherOldQ      = 0x9100 // Q-in-Q before 802.1ad
	etherMPLS      = 0x8847
	etherMPLSUp    = 0x8848
	etherPPPoE     = 0x8864
	etherMaxLength = 1500 // up to here the field is a length, and LLC follows
	llcSNAP        = 0xaaaa

	protoHopByHop = 0
	protoIPv4     = 4
	protoTCP      = 6
	protoUDP      = 17
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoGRE      = 47
	protoAH       = 51
	protoICMPv6   = 58
	protoDestOpts = 60
	protoEtherIP  = 97
	protoMobility = 135
	protoMPLS     = 137

	portDNS       = 53
	portDHCP      = 67 // and the next, RFC 2131
	portNetBIOS   = 137
	portDHCPv6    = 546 // and the next, RFC 8415
	portMDNS      = 5353
	portL2TP      = 1701  // RFC 2661
	portGTPU      = 2152  // 3GPP TS 29.281
	portTeredo    = 3544  // RFC 4380
	portGREInUDP  = 4754  // RFC 8086
	portVXLAN     = 4789  // RFC 7348
	portGPE       = 4790  // VXLAN-GPE
	portAYIYA     = 5072  //
	portGeneve    = 6081  // RFC 8926
	portMPLSInUDP = 6635  // RFC 7510
	portVXLANOld  = 8472  // VXLAN as Linux had it before there was a number
	portAzureIn   = 10800 // VXLAN of a gateway load balancer
	portAzureOut  = 10801

	solicitation  = 135 // and the next: neighbour discovery, RFC 4861
	advertisement = 136

	flagSYN        = 0x02
	flagACK        = 0x10
	packetOutgoing = 4 // PACKET_OUTGOING in linux/if_packet.h
)

// Where the program leaves what it found of a datagram, for those that go on from there.
const (
	memIP      = iota // how much further back the IP header lies than it would without tags
	memHeader         // length of the IP header
	memVersion        // of IP
	memSpare
)

// Assemble returns the program for the class of a frame as a socket filter, which needs no
// privilege beyond the packet socket's. It passes
//
//   - TCP segments with SYN, with or without ACK: they open connections;
//   - TCP segments from port 53: DNS responses come in any of them;
//   - UDP datagrams: any can be the first of a flow;
//   - what says who holds an address: ARP, neighbour discovery;
//   - IP fragments, and IPv6 packets with extension headers: what they carry is not in reach;
//   - SNAP frames and frames with three VLAN tags or more: rare, and long to follow;
//   - tunnels, unless told otherwise;
//
// under up to two VLAN tags besides one that the kernel took off. A frame too short for
// what has to be read is dropped.
func Assemble(o Options) ([]bpf.RawInstruction, error) {
	code, err := o.classify(true)
	if err != nil {
		return nil, err
	}
	for i, ins := range code {
		if ret, ok := ins.(bpf.RetConstant); ok {
			code[i] = bpf.RetConstant{Val: Class(ret.Val).keep(o.SnapLen)}
		}
	}
	return assemble(code)
}

// DropAll returns the program that passes nothing.
func DropAll() []bpf.RawInstruction {
	return []bpf.RawInstruction{{Op: 0x06}} // ret #0
}

// PassAll returns the program that passes everything, snapLen bytes of it.
func PassAll(o Options) ([]bpf.RawInstruction, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := newProgram()
	if o.DropOutgoing {
		p.do(bpf.LoadExtension{Num: bpf.ExtType})
		p.when(bpf.JumpEqual, packetOutgoing, "drop")
	}
	p.do(bpf.RetConstant{Val: o.SnapLen})
	p.mark("drop")
	p.do(bpf.RetConstant{})
	code, err := p.link()
	if err != nil {
		return nil, err
	}
	return assemble(code)
}

func (o Options) validate() error {
	if o.SnapLen < 1 || o.SnapLen > MaxSnapLen {
		return fmt.Errorf("assemble filter: SnapLen is %d bytes, want 1 to %d", o.SnapLen, MaxSnapLen)
	}
	if n := len(o.TunnelPorts); n > maxTunnelPorts {
		return fmt.Errorf("assemble filter: TunnelPorts has %d ports, want at most %d", n, maxTunnelPorts)
	}
	return nil
}

// vxlanPorts returns the ports of VXLAN, with those added.
func vxlanPorts(more []uint16) []uint16 {
	ports := append([]uint16{portVXLAN, portVXLANOld, portAzureIn, portAzureOut}, more...)
	slices.Sort(ports)
	return slices.Compact(ports)
}

// ip returns where the IP header lies without tags.
func (o Options) ip() uint32 {
	if o.RawIP {
		return 0
	}
	return 14
}

// classify returns the program whose result is a Class. Register X holds by how much a
// header lies further back than it would without tags and IP options.
func (o Options) classify(socket bool) ([]bpf.Instruction, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := newProgram()
	if o.DropOutgoing && socket {
		p.do(bpf.LoadExtension{Num: bpf.ExtType})
		p.when(bpf.JumpEqual, packetOutgoing, "outgoing")
	}
	p.do(bpf.LoadConstant{Dst: bpf.RegX})
	if o.RawIP {
		p.do(bpf.LoadAbsolute{Off: 0, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
		p.when(bpf.JumpEqual, 4, "ipv4")
		p.when(bpf.JumpEqual, 6, "ipv6")
		p.jump("not ip")
	} else {
		o.ethernet(p)
	}
	o.ipv6(p)
	o.ipv4(p)
	o.transport(p)

	p.mark("other protocol") // A is an IP protocol
	if !o.DropTunnels {
		for _, proto := range []uint32{protoIPv4, protoIPv6, protoGRE, protoEtherIP, protoMPLS} {
			p.when(bpf.JumpEqual, proto, "tunnel")
		}
	}
	p.do(bpf.RetConstant{Val: uint32(Protocol)})
	for _, end := range []struct {
		mark  string
		class Class
	}{
		{"not ip", NotIP}, {"segment", Segment}, {"start", Start}, {"dns", DNS}, {"datagram", Datagram}, {"naming", Naming},
		{"fragment", Fragment}, {"tunnel", Tunnel}, {"rest", Rest}, {"outgoing", NumClasses}, // the last is not counted
	} {
		if p.wants(end.mark) {
			p.mark(end.mark)
			p.do(bpf.RetConstant{Val: uint32(end.class)})
		}
	}
	return p.link()
}

// ethernet goes on to "ipv4" or "ipv6" with X set, or decides.
func (o Options) ethernet(p *program) {
	const (
		etherType = 12
		maxTags   = 2
	)
	p.do(bpf.LoadAbsolute{Off: etherType, Size: 2})
	for tags := uint32(0); ; tags++ {
		p.when(bpf.JumpEqual, etherIPv4, "version 4")
		p.when(bpf.JumpEqual, etherIPv6, "version 6")
		after := "rest"
		if tags < maxTags {
			after = fmt.Sprint("tag", tags)
		}
		p.when(bpf.JumpEqual, etherVLAN, after)
		p.when(bpf.JumpEqual, etherQinQ, after)
		if tags == maxTags {
			p.when(bpf.JumpEqual, etherOldQ, after)
			break
		}
		p.unless(bpf.JumpEqual, etherOldQ, "other type")
		p.mark(after)
		p.do(bpf.LoadConstant{Dst: bpf.RegX, Val: 4 * (tags + 1)},
			bpf.LoadIndirect{Off: etherType, Size: 2})
	}

	p.mark("other type")
	if !o.DropTunnels {
		for _, t := range []uint32{etherMPLS, etherMPLSUp, etherPPPoE} {
			p.when(bpf.JumpEqual, t, "tunnel")
		}
	}
	p.when(bpf.JumpEqual, etherARP, "naming")
	p.when(bpf.JumpGreaterThan, etherMaxLength, "not ip")
	p.do(bpf.LoadIndirect{Off: etherType + 2, Size: 2})
	p.when(bpf.JumpEqual, llcSNAP, "rest") // RFC 1042
	p.jump("not ip")

	for _, v := range []struct {
		mark, to string
		version  uint32
	}{{"version 4", "ipv4", 4}, {"version 6", "ipv6", 6}} {
		p.mark(v.mark)
		p.do(bpf.LoadIndirect{Off: o.ip(), Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
		p.when(bpf.JumpEqual, v.version, v.to)
		p.jump("not ip")
	}
}

// ipv6 goes on to "tcp" or "udp" with X set to where they begin, or decides.
func (o Options) ipv6(p *program) {
	const headerLen = 40 // RFC 8200, section 3
	ip := o.ip()
	p.mark("ipv6")
	p.do(bpf.LoadIndirect{Off: ip + 6, Size: 1})
	p.when(bpf.JumpEqual, protoUDP, "udp6")
	p.when(bpf.JumpEqual, protoTCP, "tcp6")
	for _, proto := range []uint32{protoHopByHop, protoRouting, protoFragment, protoAH, protoDestOpts, protoMobility} {
		p.when(bpf.JumpEqual, proto, "rest")
	}
	p.unless(bpf.JumpEqual, protoICMPv6, "other protocol")
	p.do(bpf.LoadIndirect{Off: ip + headerLen, Size: 1})
	p.when(bpf.JumpEqual, solicitation, "naming")
	p.when(bpf.JumpEqual, advertisement, "naming")
	p.do(bpf.LoadConstant{Dst: bpf.RegA, Val: protoICMPv6})
	p.jump("other protocol")

	p.mark("udp6")
	p.do(bpf.LoadIndirect{Off: ip + 4, Size: 2})
	p.when(bpf.JumpEqual, 0, "long datagram") // not cut into datagrams yet
	p.unless(bpf.JumpGreaterOrEqual, 8, "not ip")
	p.mark("long datagram")
	p.do(bpf.TXA{}, bpf.StoreScratch{Src: bpf.RegA, N: memIP},
		bpf.LoadConstant{Dst: bpf.RegA, Val: 6}, bpf.StoreScratch{Src: bpf.RegA, N: memVersion},
		bpf.LoadConstant{Dst: bpf.RegA, Val: headerLen}, bpf.StoreScratch{Src: bpf.RegA, N: memHeader},
		bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{})
	p.jump("udp")

	p.mark("tcp6")
	p.do(bpf.LoadConstant{Dst: bpf.RegA, Val: headerLen}, bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{})
	p.jump("tcp")
}

// ipv4 is like ipv6 for RFC 791, section 3.1.
func (o Options) ipv4(p *program) {
	const leastHeader = 20
	ip := o.ip()
	p.mark("ipv4")
	p.do(bpf.LoadIndirect{Off: ip + 6, Size: 2})
	p.when(bpf.JumpBitsSet, 0x3fff, "fragment") // more fragments, or an offset
	p.do(bpf.LoadIndirect{Off: ip, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x0f}, // words of 4 bytes
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2},
		bpf.StoreScratch{Src: bpf.RegA, N: memHeader})
	p.unless(bpf.JumpGreaterOrEqual, leastHeader, "not ip")
	p.do(bpf.LoadIndirect{Off: ip + 9, Size: 1})
	p.when(bpf.JumpEqual, protoTCP, "tcp4")
	p.when(bpf.JumpEqual, protoUDP, "udp4")
	p.when(bpf.JumpEqual, protoAH, "rest")
	p.jump("other protocol")

	p.mark("udp4")
	p.do(bpf.TXA{}, bpf.StoreScratch{Src: bpf.RegA, N: memIP},
		bpf.LoadConstant{Dst: bpf.RegA, Val: 4}, bpf.StoreScratch{Src: bpf.RegA, N: memVersion},
		bpf.LoadIndirect{Off: ip + 2, Size: 2})
	p.when(bpf.JumpEqual, 0, "udp length") // not cut into packets yet
	p.do(bpf.StoreScratch{Src: bpf.RegA, N: memSpare},
		bpf.LoadScratch{Dst: bpf.RegA, N: memHeader}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 8}, bpf.TAX{},
		bpf.LoadScratch{Dst: bpf.RegA, N: memSpare})
	p.whenX(bpf.JumpGreaterOrEqual, "udp length")
	p.jump("not ip")
	p.mark("udp length")
	p.do(bpf.LoadScratch{Dst: bpf.RegX, N: memIP}, bpf.LoadScratch{Dst: bpf.RegA, N: memHeader},
		bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{})
	p.jump("udp")

	p.mark("tcp4")
	p.do(bpf.LoadScratch{Dst: bpf.RegA, N: memHeader}, bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{})
	p.jump("tcp")
}

// transport decides at "tcp" and "udp".
func (o Options) transport(p *program) {
	ip := o.ip()
	p.mark("udp")                                // RFC 768
	p.do(bpf.LoadIndirect{Off: ip + 6, Size: 2}, // is all of the header there?
		bpf.LoadIndirect{Off: ip, Size: 2})
	ports := append([]uint16{portL2TP, portGTPU, portTeredo, portGREInUDP, portGPE, portAYIYA, portGeneve, portMPLSInUDP}, vxlanPorts(o.TunnelPorts)...)
	slices.Sort(ports)
	ports = slices.Compact(ports)
	for _, off := range []uint32{0, 2} {
		if off > 0 {
			p.do(bpf.LoadIndirect{Off: ip + off, Size: 2})
		}
		p.when(bpf.JumpEqual, portDNS, "dns")
		for _, port := range ports {
			p.when(bpf.JumpEqual, uint32(port), "tunnel")
		}
	}
	p.when(bpf.JumpGreaterThan, portMDNS, "datagram")
	for _, port := range []uint32{portDHCP, portDHCP + 1, portNetBIOS, portDHCPv6, portDHCPv6 + 1, portMDNS} {
		p.when(bpf.JumpEqual, port, "naming") // by where it goes
	}
	p.jump("datagram")

	p.mark("tcp") // RFC 9293, section 3.1
	p.do(bpf.LoadIndirect{Off: ip + 13, Size: 1})
	p.when(bpf.JumpBitsSet, flagSYN, "opening")
	p.do(bpf.LoadIndirect{Off: ip, Size: 2})
	p.when(bpf.JumpEqual, portDNS, "dns")
	p.jump("segment")

	p.mark("opening")
	p.do(bpf.LoadIndirect{Off: ip, Size: 4}) // both ports
	p.do(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xffff})
	p.when(bpf.JumpEqual, portDNS, "dns")
	p.do(bpf.LoadIndirect{Off: ip, Size: 2})
	p.when(bpf.JumpEqual, portDNS, "dns")
	p.jump("start")
}
