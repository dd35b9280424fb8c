package bpffilter

import "golang.org/x/net/bpf"

// udp goes on into a tunnel, or to "ports".
func (f fanOut) udp(n int) {
	f.mark(at("udp", n))
	f.half(0)
	f.store(fanSource)
	f.is(portDNS, "ports")
	f.is(portGTPU, at("gtp", n))
	f.is(portTeredo, at("teredo", n))
	f.is(portL2TP, at("l2tp", n))
	f.is(portAYIYA, at("ayiya", n))
	f.half(2)
	f.is(portDNS, "ports")
	for _, port := range vxlanPorts(f.o.TunnelPorts) {
		f.is(uint32(port), at("vxlan", n))
	}
	f.is(portGTPU, at("gtp", n))
	f.is(portTeredo, at("teredo", n))
	f.is(portL2TP, at("l2tp", n))
	f.is(portAYIYA, at("ayiya", n))
	f.is(portGeneve, at("geneve", n))
	f.is(portGPE, at("gpe", n))
	f.is(portMPLSInUDP, at("mpls in udp", n))
	f.unless(bpf.JumpEqual, portGREInUDP, "ports")
	f.skip(8)
	f.jump(at("gre", n))

	f.mark(at("mpls in udp", n))
	f.skip(8)
	f.jump(in("mpls", n))

	f.mark(at("l2tp", n)) // RFC 2661, section 3.1
	f.half(8)
	f.store(fanWord)
	f.and(0x820f) // a control message, an offset, the version
	f.unless(bpf.JumpEqual, 2, "ports")
	f.skip(8 + 6)
	for _, present := range []struct{ bit, shift uint32 }{{0x4000, 13}, {0x0800, 9}} { // length 2, sequence 4 bytes
		f.load(fanWord)
		f.and(present.bit)
		f.right(present.shift)
		f.skipA()
	}
	f.jump(in("ppp", n))

	f.mark(at("vxlan", n)) // RFC 7348, section 5
	f.byteAt(8)
	f.unless(bpf.JumpBitsSet, 0x08, "ports")
	f.skip(16)
	f.jump(in("ether", n))

	f.mark(at("geneve", n)) // RFC 8926, section 3.4
	f.byteAt(8)
	f.when(bpf.JumpBitsSet, 0xc0, "ports")
	f.half(10)
	f.store(fanNext)
	f.byteAt(8)
	f.and(0x3f)
	f.left(2)
	f.plus(16)
	f.skipA()
	f.load(fanNext)
	f.is(etherBridged, in("ether", n))
	f.is(etherNSH, at("nsh", n))
	f.jump(in("type", n))

	f.mark(at("gpe", n))
	f.byteAt(11)
	f.store(fanNext)
	f.when(bpf.JumpGreaterThan, 4, "ports")
	f.is(0, "ports")
	f.skip(16)
	f.load(fanNext)
	f.is(3, in("ether", n))
	f.is(4, at("nsh", n))
	f.jump(in("ip", n))

	f.mark(at("ayiya", n)) // draft-massar-v6ops-ayiya, section 4: identity and signature follow 8 bytes
	f.byteAt(11)
	f.is(protoIPv6, at("ayiya packet", n))
	f.unless(bpf.JumpEqual, protoIPv4, "ports")
	f.mark(at("ayiya packet", n))
	f.half(8)
	f.store(fanWord)
	for _, shift := range []uint32{12, 4} { // two lengths of 4 bits each, in words of 4 bytes
		f.load(fanWord)
		f.right(shift)
		f.and(0x0f)
		f.left(2)
		f.skipA()
	}
	f.skip(16)
	f.jump(in("ip", n))

	f.mark(at("teredo", n)) // RFC 4380, section 5.1.1
	f.half(8)
	f.unless(bpf.JumpEqual, 1, at("origin", n))
	f.byteAt(10)
	f.store(fanWord)
	f.byteAt(11)
	f.do(bpf.StoreScratch{Src: bpf.RegX, N: fanNext}, bpf.LoadScratch{Dst: bpf.RegX, N: fanWord}, bpf.ALUOpX{Op: bpf.ALUOpAdd},
		bpf.LoadScratch{Dst: bpf.RegX, N: fanNext})
	f.plus(13)
	f.skipA()
	f.half(8)
	f.mark(at("origin", n))
	f.unless(bpf.JumpEqual, 0, at("no origin", n))
	f.skip(8)
	f.mark(at("no origin", n))
	f.skip(8)
	f.byteAt(0)
	f.right(4)
	f.is(6, in("ip", n))
	f.jump("both") // no packet inside

	f.mark(at("gtp", n)) // 3GPP TS 29.281, section 5.1
	f.half(8)
	f.and(0xf0ff)
	f.unless(bpf.JumpEqual, 0x30ff, "ports") // version 1, a packet inside
	f.byteAt(8)
	f.store(fanNext)
	f.skip(16)
	f.load(fanNext)
	f.unless(bpf.JumpBitsSet, 0x07, in("ip", n))
	f.skip(4)
	f.load(fanNext)
	f.unless(bpf.JumpBitsSet, 0x04, in("ip", n))
	for range maxRepeats { // the byte before X says what comes next
		f.do(bpf.TXA{}, bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: 1}, bpf.TAX{})
		f.byteAt(0)
		f.store(fanNext)
		f.skip(1)
		f.load(fanNext)
		f.is(0, in("ip", n))
		f.byteAt(0)
		f.left(2)
		f.skipA()
	}
	f.jump("both")
}

// gre follows RFC 2784 and RFC 2890, and a service header.
func (f fanOut) gre(n int) {
	f.mark(at("gre", n))
	f.half(2)
	f.store(fanNext)
	f.half(0)
	f.store(fanWord)
	f.when(bpf.JumpBitsSet, 0x4006, "both") // routing, or an unknown version
	f.skip(4)
	// Each that is present has 4 bytes; the acknowledgement only in version 1, RFC 2637.
	for _, present := range []struct{ bit, shift uint32 }{{0x8000, 13}, {0x2000, 11}, {0x1000, 10}, {0x0080, 5}} {
		f.load(fanWord)
		f.and(present.bit)
		f.right(present.shift)
		f.skipA()
	}
	f.load(fanNext)
	f.is(etherERSPAN, at("erspan", n))
	f.is(etherERSPAN3, at("erspan 3", n))
	f.is(etherBridged, in("ether", n))
	f.is(etherPPP, in("ppp", n))
	f.is(etherNSH, at("nsh", n))
	f.jump(in("type", n))

	f.mark(at("erspan", n)) // type II has a sequence number and a header of 8 bytes, type I neither
	f.load(fanWord)
	f.and(0x1000)
	f.right(9)
	f.skipA()
	f.jump(in("ether", n))

	f.mark(at("erspan 3", n))
	f.byteAt(11)
	f.and(1) // 8 bytes more
	f.left(3)
	f.plus(12)
	f.skipA()
	f.jump(in("ether", n))

	f.mark(at("nsh", n)) // RFC 8300, section 2.2
	f.byteAt(3)
	f.store(fanNext)
	f.byteAt(1)
	f.and(0x3f)
	f.left(2)
	f.skipA()
	f.load(fanNext)
	f.is(1, in("ip", n))
	f.is(2, in("ip", n))
	f.is(3, in("ether", n))
	f.jump("both")
}
