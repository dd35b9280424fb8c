package bpffilter

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// FanOutOptions say how frames are shared out.
type FanOutOptions struct {
	RawIP       bool     // frames begin with the IP header and not with Ethernet's
	Seed        uint32   // makes it unpredictable which clients share a ring
	TunnelPorts []uint16 // as in Options
}

// What the fan-out program follows: nesting beyond maxNesting, and more tags, labels or
// extension headers in a row than maxRepeats, are shared out by what was found so far.
const (
	maxNesting = 4 // packets around the innermost
	maxRepeats = 4
)

const (
	etherBridged = 0x6558 // a whole Ethernet frame (RFC 1701)
	etherERSPAN  = 0x88be // types I and II
	etherERSPAN3 = 0x22eb // type III
	etherNSH     = 0x894f // network service header (RFC 8300)
	etherPPP     = 0x880b // in GRE version 1 (RFC 2637)
	pppAddress   = 0xff03 // address and control
	pppIPv4      = 0x0021
	pppIPv6      = 0x0057
)

// Scratch memory of the fan-out program.
const (
	fanIP      = iota // offset of the innermost IP header so far
	fanVersion        // its version
	fanNext           // protocol or EtherType of what is to be read next
	fanSource         // a port
	fanWord           // and the next ones, for what is being computed
)

// fanOut writes the program down.
type fanOut struct {
	*program
	o FanOutOptions
}

// FanOut returns a program for PACKET_FANOUT_CBPF. Its result stands for the client of a frame:
// the destination of a DNS response and of a SYN+ACK, the source of a query and of a SYN,
// and of other datagrams the end with the higher port, so that what a client was answered and
// what it then opens, both directions of each flow, and every copy of a frame come to one ring.
// All fragments of a datagram follow its destination.
//
// It looks below VLAN tags, MPLS labels and PPPoE, and into GRE, PPTP, ERSPAN, VXLAN, GPE, Geneve, service
// headers, GTP-U, L2TP, Teredo, AYIYA, IP in IP, EtherIP, and MPLS in IP and UDP, four deep. A
// packet nested deeper is shared out by the addresses of the last header found, the same for
// both directions; what the filter drops in any ring, and what is cut short, may come to any.
func FanOut(o FanOutOptions) ([]bpf.RawInstruction, error) {
	code, err := o.code()
	if err != nil {
		return nil, err
	}
	return assemble(code)
}

func (o FanOutOptions) code() ([]bpf.Instruction, error) {
	if n := len(o.TunnelPorts); n > maxTunnelPorts {
		return nil, fmt.Errorf("assemble fan-out: TunnelPorts has %d ports, want at most %d", n, maxTunnelPorts)
	}
	f := fanOut{newProgram(), o}
	// The kernel runs it before it puts the link header back in front: a frame that came in
	// begins behind it, and behind a tag that was taken off. One that goes out is whole.
	f.do(bpf.LoadConstant{Dst: bpf.RegX})
	if o.RawIP {
		f.jump("ip 0")
	} else {
		f.do(bpf.LoadExtension{Num: bpf.ExtType})
		f.when(bpf.JumpEqual, packetOutgoing, "ether 0")
		f.do(bpf.LoadExtension{Num: bpf.ExtProto})
		f.jump("type 0")
	}
	for level := range maxNesting + 1 {
		f.level(level)
	}
	f.ports()
	f.client()
	return f.link()
}

// at names a place in the code of a level of nesting.
func at(what string, level int) string { return fmt.Sprint(what, " ", level) }

// in is where what lies inside a packet of a level goes on.
func in(what string, level int) string {
	if level == maxNesting {
		return "both"
	}
	return at(what, level+1)
}

// skip moves X on by n bytes.
func (f fanOut) skip(n uint32) {
	f.do(bpf.TXA{}, bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: n}, bpf.TAX{})
}

// skipA moves X on by A bytes.
func (f fanOut) skipA() { f.do(bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{}) }

// The following write one instruction each; loads are relative to X, and load and store name
// a word of scratch memory.
func (f fanOut) byteAt(off uint32)      { f.do(bpf.LoadIndirect{Off: off, Size: 1}) }
func (f fanOut) half(off uint32)        { f.do(bpf.LoadIndirect{Off: off, Size: 2}) }
func (f fanOut) word(off uint32)        { f.do(bpf.LoadIndirect{Off: off, Size: 4}) }
func (f fanOut) store(n int)            { f.do(bpf.StoreScratch{Src: bpf.RegA, N: n}) }
func (f fanOut) load(n int)             { f.do(bpf.LoadScratch{Dst: bpf.RegA, N: n}) }
func (f fanOut) and(val uint32)         { f.do(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: val}) }
func (f fanOut) left(bits uint32)       { f.do(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: bits}) }
func (f fanOut) right(bits uint32)      { f.do(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: bits}) }
func (f fanOut) plus(val uint32)        { f.do(bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: val}) }
func (f fanOut) is(v uint32, to string) { f.when(bpf.JumpEqual, v, to) }

// level follows one packet with what is around it. At "ether" X is the offset of an Ethernet
// header, at "type" of what the EtherType in A announces, at "ip" of an IP header.
func (f fanOut) level(n int) {
	f.link2(n)
	f.ip(n)
	f.protocols(n)
	f.udp(n)
	f.gre(n)
}

// link2 follows what lies between a link header and an IP header.
func (f fanOut) link2(n int) {
	f.mark(at("ether", n))
	f.half(12)
	f.store(fanNext)
	f.skip(14)
	f.load(fanNext)
	f.mark(at("type", n))
	for tag := range maxRepeats {
		f.is(etherIPv4, at("ip", n))
		f.is(etherIPv6, at("ip", n))
		next := at(fmt.Sprint("tag ", tag), n)
		f.is(etherVLAN, next)
		f.is(etherQinQ, next)
		f.unless(bpf.JumpEqual, etherOldQ, at("other type", n))
		f.mark(next)
		f.half(2)
		f.store(fanNext)
		f.skip(4)
		f.load(fanNext)
	}
	f.is(etherIPv4, at("ip", n))
	f.is(etherIPv6, at("ip", n))

	f.mark(at("other type", n))
	f.is(etherMPLS, at("mpls", n))
	f.is(etherMPLSUp, at("mpls", n))
	f.unless(bpf.JumpEqual, etherPPPoE, "none")
	f.skip(6)            // RFC 2516, section 4
	f.mark(at("ppp", n)) // RFC 1661, section 2
	f.half(0)
	f.unless(bpf.JumpEqual, pppAddress, at("ppp protocol", n))
	f.skip(2)
	f.mark(at("ppp protocol", n))
	f.byteAt(0)
	f.when(bpf.JumpBitsSet, 1, at("short ppp protocol", n))
	f.half(0)
	f.store(fanNext)
	f.skip(2)
	f.load(fanNext)
	f.is(pppIPv4, at("ip", n))
	f.is(pppIPv6, at("ip", n))
	f.jump("none")
	f.mark(at("short ppp protocol", n))
	f.store(fanNext)
	f.skip(1)
	f.load(fanNext)
	f.is(pppIPv4, at("ip", n))
	f.is(pppIPv6, at("ip", n))
	f.jump("none")

	f.mark(at("mpls", n)) // RFC 3032, section 2.1
	for label := range maxRepeats {
		f.byteAt(2)
		f.and(1) // the bottom of the stack
		f.store(fanNext)
		f.skip(4)
		f.load(fanNext)
		f.is(1, at("below labels", n))
		if label == maxRepeats-1 {
			f.jump("none")
		}
	}
	f.mark(at("below labels", n))
	f.byteAt(0)
	f.right(4)
	f.is(4, at("ip", n))
	f.is(6, at("ip", n))
	if n == maxNesting {
		f.jump("none") // there may have been no IP header so far
		return
	}
	// A pseudowire: an Ethernet frame, or before that a control word, RFC 4385.
	f.unless(bpf.JumpEqual, 0, at("ether", n+1))
	f.half(4 + 12)
	for _, t := range []uint32{etherIPv4, etherIPv6, etherVLAN, etherQinQ, etherOldQ} {
		f.is(t, at("control word", n))
	}
	f.jump(at("ether", n+1))
	f.mark(at("control word", n))
	f.skip(4)
	f.jump(at("ether", n+1))
}

// ip notes the header and goes on to what it carries.
func (f fanOut) ip(n int) {
	f.mark(at("ip", n))
	f.do(bpf.TXA{})
	f.store(fanIP)
	f.byteAt(0)
	f.right(4)
	f.store(fanVersion)
	f.is(4, at("ipv4", n))
	f.unless(bpf.JumpEqual, 6, "none")
	f.byteAt(6)
	f.store(fanNext)
	f.skip(40)
	f.jump(at("protocol", n))

	f.mark(at("ipv4", n))
	f.half(6)
	f.when(bpf.JumpBitsSet, 0x3fff, "destination") // a fragment
	f.byteAt(9)
	f.store(fanNext)
	f.byteAt(0)
	f.and(0x0f)
	f.left(2)
	f.skipA()
	f.mark(at("protocol", n))
	f.load(fanNext)
}

// protocols goes on by the IP protocol in A. X is the offset of what it carries.
func (f fanOut) protocols(n int) {
	for ext := range maxRepeats {
		mark := func(what string) string { return at(fmt.Sprint(what, " ", ext), n) }
		f.is(protoTCP, "tcp")
		f.is(protoUDP, at("udp", n))
		f.is(protoHopByHop, mark("extension"))
		f.is(protoDestOpts, mark("extension"))
		f.is(protoRouting, mark("extension"))
		f.is(protoMobility, mark("extension"))
		f.is(protoAH, mark("authentication"))
		f.unless(bpf.JumpEqual, protoFragment, at("other protocol", n))
		f.half(2) // RFC 8200, section 4.5
		f.when(bpf.JumpBitsSet, 0xfff9, "destination")
		f.byteAt(0)
		f.store(fanNext)
		f.skip(8)
		f.jump(mark("after"))

		f.mark(mark("extension")) // section 4.1 and on
		f.byteAt(0)
		f.store(fanNext)
		f.byteAt(1)
		f.plus(1)
		f.left(3)
		f.skipA()
		f.jump(mark("after"))

		f.mark(mark("authentication")) // RFC 4302, section 2.2
		f.byteAt(0)
		f.store(fanNext)
		f.byteAt(1)
		f.plus(2)
		f.left(2)
		f.skipA()
		f.mark(mark("after"))
		f.load(fanNext)
	}
	f.is(protoTCP, "tcp")
	f.is(protoUDP, at("udp", n))

	f.mark(at("other protocol", n))
	f.is(protoIPv4, in("ip", n))
	f.is(protoIPv6, in("ip", n))
	f.is(protoGRE, at("gre", n))
	f.is(protoMPLS, in("mpls", n))
	f.unless(bpf.JumpEqual, protoEtherIP, "both")
	f.skip(2) // RFC 3378, section 3
	f.jump(in("ether", n))
}

// ports decides which end of a datagram or segment is the client. X is the offset of its header.
func (f fanOut) ports() {
	f.mark("tcp")
	f.byteAt(13)
	f.when(bpf.JumpBitsSet, flagSYN, "opening")
	f.half(0)
	f.is(portDNS, "destination")
	f.jump("none")
	f.mark("opening")
	f.when(bpf.JumpBitsSet, flagACK, "destination")
	f.jump("source")

	f.mark("ports")
	f.half(0)
	f.store(fanSource)
	f.is(portDNS, "from 53")
	f.half(2)
	f.is(portDNS, "source")
	f.do(bpf.LoadScratch{Dst: bpf.RegX, N: fanSource})
	f.whenX(bpf.JumpGreaterThan, "destination")
	f.whenX(bpf.JumpEqual, "both")
	f.jump("source")
	f.mark("from 53")
	f.half(2)
	f.unless(bpf.JumpEqual, portDNS, "destination")
	f.byteAt(10) // QR (RFC 1035, section 4.1.1) tells which of two servers asked
	f.when(bpf.JumpBitsSet, 0x80, "destination")
	f.jump("source")
}

// client returns what stands for one end of the innermost IP header, or for both.
func (f fanOut) client() {
	const spread = 0x9e3779b1 // 2^32 divided by the golden ratio, made odd
	mix := func() { f.do(bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: spread}) }
	words := func(from int, off uint32) {
		for i := range 4 {
			f.word(off + uint32(4*i))
			f.store(from + i)
		}
	}
	fold := func(from int) {
		f.load(from)
		for i := 1; i < 4; i++ {
			mix()
			f.do(bpf.LoadScratch{Dst: bpf.RegX, N: from + i}, bpf.ALUOpX{Op: bpf.ALUOpXor})
		}
	}
	for _, end := range []struct {
		mark     string
		off, at6 uint32
	}{{"source", 12, 8}, {"destination", 16, 24}} {
		f.mark(end.mark)
		f.do(bpf.LoadScratch{Dst: bpf.RegX, N: fanIP})
		f.load(fanVersion)
		f.is(6, end.mark+" 6")
		f.word(end.off)
		f.jump("mix")
		f.mark(end.mark + " 6")
		words(fanWord, end.at6)
		fold(fanWord)
		f.jump("mix")
	}

	f.mark("both")
	f.do(bpf.LoadScratch{Dst: bpf.RegX, N: fanIP})
	f.load(fanVersion)
	f.is(6, "both 6")
	f.word(12)
	f.store(fanWord)
	f.word(16)
	f.do(bpf.LoadScratch{Dst: bpf.RegX, N: fanWord}, bpf.ALUOpX{Op: bpf.ALUOpXor})
	f.jump("mix")
	f.mark("both 6")
	words(fanWord, 8)
	words(fanWord+4, 24)
	fold(fanWord)
	f.store(fanWord)
	fold(fanWord + 4)
	f.do(bpf.LoadScratch{Dst: bpf.RegX, N: fanWord}, bpf.ALUOpX{Op: bpf.ALUOpXor})

	f.mark("mix")
	f.do(bpf.ALUOpConstant{Op: bpf.ALUOpXor, Val: f.o.Seed})
	mix()
	f.do(bpf.TAX{}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 16}, bpf.ALUOpX{Op: bpf.ALUOpXor})
	mix()
	f.right(16) // the upper half is the better one
	f.do(bpf.RetA{})
	f.mark("none")
	f.do(bpf.RetConstant{})
}
