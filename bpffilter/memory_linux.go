package bpffilter

import (
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// repass is how long datagrams of a flow are dropped after one of it passed. The decoder
// calls a flow idle after 60 s, so it never waits for one that is held back: it sees a busy
// flow every repass, which also makes up for a first datagram that a full ring lost. What
// this costs: a silence of 60 s less repass may look like one of 60 s.
const repass = 5 * time.Second

// Offsets in struct __sk_buff and struct xdp_md, linux/bpf.h.
const (
	skbLen     = 0
	skbType    = 4
	skbVLANTag = 24 // 0 when there is none
	xdpData    = 0
	xdpDataEnd = 4
)

// Where the programs keep what they work with, below the scratch memory of the classifier.
const (
	stackAddrs = -64           // 2 addresses as in the packet, of 4 bytes or of 16
	stackPorts = -72           // 2 ports as in the packet
	stackKey   = -120          // key of a flow, keyLen bytes:
	keyLow     = stackKey      // address of one end, right-aligned,
	keyHigh    = stackKey + 16 // address of the other,
	keyTags    = stackKey + 32 // IP version and VLAN identifiers,
	keyPorts   = stackKey + 40 // both ports
	keyLen     = 48            //
	stackTime  = -128          // value of a flow: monotonic ns when a datagram of it passed last
	stackClass = stackTime - 4 // key of a count
	timeLen    = 8             //
	vlanID     = 0x0fff        // IEEE 802.1Q, section 9.6
	maxTags    = 2             // that are followed in the frame
	tagLen     = 4             //
	addrs4     = 12            // RFC 791, section 3.1: where both addresses lie in the header
	addrs6     = 8             // RFC 8200, section 3
	labelPass  = "pass"        // class Datagram
	labelTime  = "time"        // the key is complete
)

// memory goes on after the classifier found a datagram: it builds the key of its flow, the
// same for both directions, and makes it class Repeat when one of the flow passed within
// repass. The key holds all that the decoder tells flows apart by, and in frames with two tags
// more, so that what is one flow here is one there. Whatever fails here, the datagram passes.
type memory struct {
	builder
	ip    uint32 // where the IP header lies without tags
	xdp   bool
	flows *ebpf.Map
	clock *ebpf.Map // whose first place says what time it is; nil in earnest
}

func (m *memory) program() {
	m.mark(labelFlow)
	m.add(asm.LoadMem(regX, asm.RFP, slot(memIP), asm.DWord))
	m.tags()
	m.add(asm.LoadMem(asm.R1, asm.RFP, slot(memVersion), asm.DWord), asm.JEq.Imm(asm.R1, 6, "read 6"))
	m.read(addrs4, 2*4, stackAddrs)
	m.add(asm.Ja.Label("read ports"))
	m.mark("read 6")
	m.read(addrs6, 2*16, stackAddrs)
	m.mark("read ports")
	m.add(asm.LoadMem(asm.R1, asm.RFP, slot(memHeader), asm.DWord), asm.Add.Reg(regX, asm.R1))
	m.read(0, 2*2, stackPorts)
	m.key()
	m.look()
}

// tags begins the key with the IP version and the tags.
func (m *memory) tags() {
	m.add(asm.LoadMem(asm.R1, asm.RFP, slot(memVersion), asm.DWord), asm.LSh.Imm(asm.R1, 48))
	if !m.xdp {
		m.add(asm.LoadMem(asm.R2, regContext, skbVLANTag, asm.Word),
			asm.And.Imm(asm.R2, vlanID), asm.LSh.Imm(asm.R2, 32), asm.Or.Reg(asm.R1, asm.R2))
	}
	m.add(asm.StoreMem(asm.RFP, keyTags, asm.R1, asm.DWord))
	if m.ip == 0 {
		return
	}
	for i := range int32(maxTags) { // from where the IP header would be without them
		off := int32(m.ip) + tagLen*i
		m.add(asm.JLT.Imm(regX, tagLen*(i+1), "tagged"))
		if m.xdp {
			m.inReach(regData, off+2, labelPass)
			m.add(asm.LoadMem(asm.R0, regData, int16(off), asm.Half), asm.HostTo(asm.BE, asm.R0, asm.Half))
		} else {
			m.add(asm.LoadAbs(off, asm.Half))
		}
		m.add(asm.And.Imm(asm.R0, vlanID), asm.LSh.Imm(asm.R0, 16*i),
			asm.LoadMem(asm.R1, asm.RFP, keyTags, asm.DWord), asm.Or.Reg(asm.R1, asm.R0),
			asm.StoreMem(asm.RFP, keyTags, asm.R1, asm.DWord))
	}
	m.mark("tagged")
}

// read copies n bytes, a multiple of 4, from off bytes behind X to the stack.
func (m *memory) read(off, n int32, to int16) {
	off += int32(m.ip)
	if !m.xdp {
		m.add(asm.Mov.Reg(asm.R1, regContext), asm.Mov.Reg(asm.R2, regX), asm.Add.Imm(asm.R2, off),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, int32(to)), asm.Mov.Imm(asm.R4, n),
			asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, labelPass))
		return
	}
	m.add(asm.Mov.Reg(asm.R1, regX), asm.And.Imm(asm.R1, maxOffset), asm.Add.Reg(asm.R1, regData))
	m.inReach(asm.R1, off+n, labelPass)
	for i := int16(0); int32(i) < n; i += 4 {
		m.add(asm.LoadMem(asm.R2, asm.R1, int16(off)+i, asm.Word), asm.StoreMem(asm.RFP, to+i, asm.R2, asm.Word))
	}
}

// key puts the two ends into the key, in the order of their bytes.
func (m *memory) key() {
	const ( // of each end: address in two halves, port
		a1, a2, ap = asm.R1, asm.R2, asm.R5
		b1, b2, bp = asm.R3, asm.R4, asm.R0
	)
	m.add(asm.LoadMem(asm.R5, asm.RFP, slot(memVersion), asm.DWord), asm.JEq.Imm(asm.R5, 6, "wide"),
		asm.Mov.Imm(a1, 0), asm.LoadMem(a2, asm.RFP, stackAddrs, asm.Word),
		asm.Mov.Imm(b1, 0), asm.LoadMem(b2, asm.RFP, stackAddrs+4, asm.Word),
		asm.Ja.Label("ports"))
	m.mark("wide")
	m.add(asm.LoadMem(a1, asm.RFP, stackAddrs, asm.DWord), asm.LoadMem(a2, asm.RFP, stackAddrs+8, asm.DWord),
		asm.LoadMem(b1, asm.RFP, stackAddrs+16, asm.DWord), asm.LoadMem(b2, asm.RFP, stackAddrs+24, asm.DWord))
	m.mark("ports")
	m.add(asm.LoadMem(ap, asm.RFP, stackPorts, asm.Half), asm.LoadMem(bp, asm.RFP, stackPorts+2, asm.Half),
		asm.JLT.Reg(a1, b1, "in order"), asm.JGT.Reg(a1, b1, "reversed"),
		asm.JLT.Reg(a2, b2, "in order"), asm.JGT.Reg(a2, b2, "reversed"),
		asm.JLE.Reg(ap, bp, "in order"))
	m.mark("reversed")
	m.add(asm.StoreMem(asm.RFP, keyLow, b1, asm.DWord), asm.StoreMem(asm.RFP, keyLow+8, b2, asm.DWord),
		asm.StoreMem(asm.RFP, keyHigh, a1, asm.DWord), asm.StoreMem(asm.RFP, keyHigh+8, a2, asm.DWord),
		asm.LSh.Imm(bp, 16), asm.Or.Reg(bp, ap), asm.StoreMem(asm.RFP, keyPorts, bp, asm.DWord),
		asm.Ja.Label(labelTime))
	m.mark("in order")
	m.add(asm.StoreMem(asm.RFP, keyLow, a1, asm.DWord), asm.StoreMem(asm.RFP, keyLow+8, a2, asm.DWord),
		asm.StoreMem(asm.RFP, keyHigh, b1, asm.DWord), asm.StoreMem(asm.RFP, keyHigh+8, b2, asm.DWord),
		asm.LSh.Imm(ap, 16), asm.Or.Reg(ap, bp), asm.StoreMem(asm.RFP, keyPorts, ap, asm.DWord))
}

// look finds the flow and decides.
func (m *memory) look() {
	m.mark(labelTime)
	if m.clock == nil { // as exact as the kernel's tick, a few milliseconds, and next to free
		m.add(asm.FnKtimeGetCoarseNs.Call())
	} else {
		m.add(asm.LoadMapValue(asm.R1, m.clock.FD(), 0), asm.LoadMem(asm.R0, asm.R1, 0, asm.DWord))
	}
	key := func() {
		m.add(asm.LoadMapPtr(asm.R1, m.flows.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackKey))
	}
	m.add(asm.Mov.Reg(regX, asm.R0))
	key()
	m.add(asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "new flow"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Mov.Reg(asm.R2, regX), asm.Sub.Reg(asm.R2, asm.R1),
		asm.LoadImm(asm.R1, int64(repass), asm.DWord),
		asm.JGT.Reg(asm.R2, asm.R1, "again"), // also when the clock of another processor was ahead
		asm.Mov.Imm(asm.R0, int32(Repeat)), asm.Ja.Label(labelVerdict))
	m.mark("again")
	m.add(asm.StoreMem(asm.R0, 0, regX, asm.DWord), asm.Ja.Label(labelPass))

	m.mark("new flow")
	m.add(asm.StoreMem(asm.RFP, stackTime, regX, asm.DWord))
	key()
	m.add(asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, stackTime), asm.Mov.Imm(asm.R4, 0), // BPF_ANY
		asm.FnMapUpdateElem.Call())
	m.mark(labelPass)
	m.add(asm.Mov.Imm(asm.R0, int32(Datagram)), asm.Ja.Label(labelVerdict))
}
