//go:build linux

package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Registers of the programs beside R0 to R5, which calls change.
const (
	regContext = asm.R6 // until the process is described
	regTask    = asm.R7 // struct task_struct, as a number
	regAt      = asm.R8
	regScratch = asm.R9 // the program's scratch
)

// Places on the stack, each of 8 bytes.
const (
	stackRead    = -8  // what readReg read
	stackCount   = -16 // of steps of a walk
	stackMount   = -24 // struct vfsmount that a walk has come to
	stackNext    = -32 // what is above
	stackRootDir = -40 // where a walk ends: struct dentry,
	stackRootMnt = -48 // struct vfsmount
	stackNode    = -56 // struct dentry or kernfs_node that a walk has come to
	stackKey     = -64 // key of an array, 4 bytes
)

// builder puts a program together. Kernel memory is read by helpers that survive any address,
// at offsets that this kernel's BTF gives.
type builder struct {
	asm.Instructions
	types *types
	label string // of the next instruction
	walks int    // written so far, to tell their labels apart
}

func (b *builder) add(ins ...asm.Instruction) {
	if b.label != "" {
		ins[0], b.label = ins[0].WithSymbol(b.label), ""
	}
	b.Instructions = append(b.Instructions, ins...)
}

// mark names the place of the next instruction, which has no other name.
func (b *builder) mark(label string) { b.label = label }

// read copies n bytes from off behind the kernel address in base to the scratch. What cannot be
// read is zero.
func (b *builder) read(to, n int32, base asm.Register, off int32) {
	b.add(asm.Mov.Reg(asm.R3, base), asm.Add.Imm(asm.R3, off),
		asm.Mov.Reg(asm.R1, regScratch), asm.Add.Imm(asm.R1, to), asm.Mov.Imm(asm.R2, n),
		asm.FnProbeReadKernel.Call())
}

// readField copies a member of the struct at base to the scratch.
func (b *builder) readField(to int32, base asm.Register, m member) { b.read(to, m.size, base, m.off) }

// readReg reads a member of at most 8 bytes of the struct at base into a register.
func (b *builder) readReg(to, base asm.Register, m member) {
	b.add(asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, stackRead, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R3, base), asm.Add.Imm(asm.R3, m.off),
		asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, stackRead), asm.Mov.Imm(asm.R2, m.size),
		asm.FnProbeReadKernel.Call())
	size := asm.DWord
	switch m.size {
	case 1:
		size = asm.Byte
	case 2:
		size = asm.Half
	case 4:
		size = asm.Word
	}
	b.add(asm.LoadMem(to, asm.RFP, stackRead, size))
}

// zero clears n bytes of the scratch, a multiple of 8.
func (b *builder) zero(at, n int16) {
	b.add(asm.Mov.Imm(asm.R1, 0))
	for i := int16(0); i < n; i += 8 {
		b.add(asm.StoreMem(regScratch, at+i, asm.R1, asm.DWord))
	}
}

// scratch puts the address of the program's scratch into regScratch, or jumps.
func (b *builder) scratch(m *ebpf.Map, missing string) {
	b.add(asm.StoreImm(asm.RFP, stackKey, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, missing), asm.Mov.Reg(regScratch, asm.R0))
}

// inScratch puts the address of a place in the scratch into a register.
func (b *builder) inScratch(to asm.Register, at int32) {
	b.add(asm.Mov.Reg(to, regScratch), asm.Add.Imm(to, at))
}

// output sends what lies in the scratch to the agent; the size is in R3. What finds no room is
// counted.
func (b *builder) output(maps *maps, at int32) {
	sent := fmt.Sprintf("sent %d", len(b.Instructions))
	b.inScratch(asm.R2, at)
	b.add(asm.LoadMapPtr(asm.R1, maps.ring.FD()), asm.Mov.Imm(asm.R4, noWakeup), asm.FnRingbufOutput.Call(),
		asm.JEq.Imm(asm.R0, 0, sent))
	b.count(maps, countLost)
	b.mark(sent)
	b.add(asm.Mov.Imm(asm.R0, 0)) // somewhere for the label to stand
}

// count adds one to a count.
func (b *builder) count(maps *maps, which uint32) {
	counted := fmt.Sprintf("counted %d", len(b.Instructions))
	b.add(asm.StoreImm(asm.RFP, stackKey, int64(which), asm.Word),
		asm.LoadMapPtr(asm.R1, maps.counts.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, counted),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord))
	b.mark(counted)
	b.add(asm.Mov.Imm(asm.R0, 0))
}
