package bpffilter

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// verdict counts a frame of the class in R0 and says what becomes of it.
type verdict struct {
	builder
	xdp     bool
	snapLen uint32
	counts  *ebpf.Map
}

// What an XDP program returns, linux/bpf.h.
const (
	xdpDrop = 1
	xdpPass = 2
)

func (v *verdict) program(skip bool) {
	if v.xdp {
		v.short()
	}
	v.mark(labelVerdict)
	v.add(asm.Mov.Reg(regData, asm.R0), asm.StoreMem(asm.RFP, stackClass, asm.R0, asm.Word))
	if v.xdp {
		v.add(asm.Mov.Reg(asm.R1, regContext), asm.FnXdpGetBuffLen.Call(), asm.Mov.Reg(regX, asm.R0))
	} else {
		v.add(asm.LoadMem(regX, regContext, skbLen, asm.Word))
	}
	v.add(asm.LoadMapPtr(asm.R1, v.counts.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackClass),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "counted"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord), asm.Add.Reg(asm.R1, regX), asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord))
	v.mark("counted")
	if v.xdp {
		v.add(asm.Mov.Imm(asm.R0, xdpDrop), asm.JLT.Imm(regData, int32(Start), "end"),
			asm.Mov.Imm(asm.R0, xdpPass))
	} else {
		v.add(asm.Mov.Imm(asm.R0, 0), asm.JLT.Imm(regData, int32(Start), "end"),
			asm.Mov.Imm(asm.R0, int32(min(startLen, v.snapLen))),
			asm.JEq.Imm(regData, int32(Start), "end"), asm.JEq.Imm(regData, int32(Datagram), "end"),
			asm.Mov.Imm(asm.R0, int32(v.snapLen)))
	}
	v.mark("end")
	v.add(asm.Return())
	if skip {
		v.mark(labelSkip)
		v.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	}
}

// short is for a frame that does not hold what was to be read: of one that lies in several
// buffers only the first is in reach, and the socket's filter has to look again.
func (v *verdict) short() {
	v.mark(labelShort)
	v.add(asm.Mov.Reg(asm.R1, regContext), asm.FnXdpGetBuffLen.Call(), asm.And.Imm(asm.R0, 1<<20-1),
		asm.Add.Reg(regData, asm.R0),
		asm.Mov.Imm(asm.R0, int32(Rest)), asm.JGT.Reg(regData, regDataEnd, labelVerdict),
		asm.Mov.Imm(asm.R0, int32(NotIP)))
}
