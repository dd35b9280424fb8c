// Package bpffilter is the kernel's share of the work: a classic BPF program for packet
// sockets that passes the frames of which the decoder could make an event, and drops the
// rest before they are copied.
//
// What it drops, the decoder would not have turned into an event. The reverse does not
// hold: where telling would take long, a frame passes and the decoder decides.
package bpffilter

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// MaxSnapLen is the greatest Options.SnapLen, in bytes.
const MaxSnapLen = 256 << 10

// Options say which program Assemble makes.
type Options struct {
	SnapLen      uint32 // bytes to keep of a frame that passes, from 1 to MaxSnapLen
	RawIP        bool   // frames begin with the IP header and not with Ethernet's
	DropTunnels  bool   // drop GRE, IP in IP, EtherIP, MPLS and PPPoE, too; tunnels in UDP pass
	DropOutgoing bool   // drop frames that this host sends
}

// What the program looks for. Numbers are IANA's and IEEE's.
const (
	etherIPv4      = 0x0800
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
	protoDestOpts = 60
	protoEtherIP  = 97
	protoMobility = 135
	protoMPLS     = 137

	flagSYN        = 0x02
	portDNS        = 53
	packetOutgoing = 4 // PACKET_OUTGOING in linux/if_packet.h
)

// Assemble returns the program. It passes
//
//   - TCP segments with SYN, with or without ACK: they open connections;
//   - TCP segments from port 53: DNS responses come in any of them;
//   - UDP datagrams: any can be the first of a flow;
//   - IP fragments, and IPv6 packets with extension headers: what they carry is not in reach;
//   - SNAP frames and frames with three VLAN tags or more: rare, and long to follow;
//   - tunnels, unless told otherwise;
//
// under up to two VLAN tags besides one that the kernel took off. A frame too short for
// what has to be read is dropped.
func Assemble(o Options) ([]bpf.RawInstruction, error) {
	if o.SnapLen < 1 || o.SnapLen > MaxSnapLen {
		return nil, fmt.Errorf("assemble filter: SnapLen is %d bytes, want 1 to %d", o.SnapLen, MaxSnapLen)
	}
	return o.program().assemble()
}

// DropAll returns the program that passes nothing.
func DropAll() []bpf.RawInstruction {
	return []bpf.RawInstruction{{Op: 0x06}} // ret #0
}

// program writes the program down. Register X holds by how much a header lies further
// back than it would without tags and IP options.
func (o Options) program() *program {
	p := &program{marks: make(map[string]int)}
	if o.DropOutgoing {
		p.do(bpf.LoadExtension{Num: bpf.ExtType})
		p.when(bpf.JumpEqual, packetOutgoing, "drop")
	}
	p.do(bpf.LoadConstant{Dst: bpf.RegX})
	var ip uint32
	if !o.RawIP {
		ip = 14
		o.ethernet(p)
	}

	p.mark("ip") // by the version in the packet, whatever the EtherType says
	p.do(bpf.LoadIndirect{Off: ip, Size: 1}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	p.when(bpf.JumpEqual, 4, "ipv4")
	p.unless(bpf.JumpEqual, 6, "drop")

	p.do(bpf.LoadIndirect{Off: ip + 6, Size: 1}) // next header: RFC 8200, section 3
	p.when(bpf.JumpEqual, protoUDP, "pass")
	p.when(bpf.JumpEqual, protoTCP, "tcp6")
	for _, proto := range []uint32{protoHopByHop, protoRouting, protoFragment, protoAH, protoDestOpts, protoMobility} {
		p.when(bpf.JumpEqual, proto, "pass")
	}
	p.jump("other protocol")

	p.mark("ipv4") // RFC 791, section 3.1
	p.do(bpf.LoadIndirect{Off: ip + 6, Size: 2})
	p.when(bpf.JumpBitsSet, 0x3fff, "pass") // more fragments, or an offset
	p.do(bpf.LoadIndirect{Off: ip + 9, Size: 1})
	p.when(bpf.JumpEqual, protoUDP, "pass")
	p.when(bpf.JumpEqual, protoAH, "pass")
	p.unless(bpf.JumpEqual, protoTCP, "other protocol")
	p.do(bpf.LoadIndirect{Off: ip, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x0f}, // words of 4 bytes
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2})
	p.jump("tcp")

	p.mark("tcp6")
	p.do(bpf.LoadConstant{Dst: bpf.RegA, Val: 40})
	p.mark("tcp") // A bytes behind the IP header's start; RFC 9293, section 3.1
	p.do(bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{}, bpf.LoadIndirect{Off: ip + 13, Size: 1})
	p.when(bpf.JumpBitsSet, flagSYN, "pass")
	p.do(bpf.LoadIndirect{Off: ip, Size: 2})
	p.when(bpf.JumpEqual, portDNS, "pass")
	p.jump("drop")

	p.mark("other protocol") // A is an IP protocol
	if !o.DropTunnels {
		for _, proto := range []uint32{protoIPv4, protoIPv6, protoGRE, protoEtherIP, protoMPLS} {
			p.when(bpf.JumpEqual, proto, "pass")
		}
	}

	p.mark("drop")
	p.do(bpf.RetConstant{})
	p.mark("pass")
	p.do(bpf.RetConstant{Val: o.SnapLen})
	return p
}

// ethernet goes on to "ip" with X set, or decides.
func (o Options) ethernet(p *program) {
	const (
		etherType = 12
		maxTags   = 2
	)
	p.do(bpf.LoadAbsolute{Off: etherType, Size: 2})
	for tags := uint32(0); ; tags++ {
		p.when(bpf.JumpEqual, etherIPv4, "ip")
		p.when(bpf.JumpEqual, etherIPv6, "ip")
		after := "pass"
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
			p.when(bpf.JumpEqual, t, "pass")
		}
	}
	p.when(bpf.JumpGreaterThan, etherMaxLength, "drop") // ARP and so on
	p.do(bpf.LoadIndirect{Off: etherType + 2, Size: 2})
	p.when(bpf.JumpEqual, llcSNAP, "pass") // RFC 1042
	p.jump("drop")
}
