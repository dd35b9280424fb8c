package bpffilter

import (
	"fmt"
	"math"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// Registers of the translated programs. A and X are those of classic BPF.
const (
	regA       = asm.R0
	regX       = asm.R7
	regContext = asm.R6
	regData    = asm.R8 // XDP: where the frame begins,
	regDataEnd = asm.R9 // and where what is in reach of it ends
)

// maxOffset bounds what register X holds when a frame is read, for the verifier. The
// classifier's X is at most two tags and the longest IP header.
const maxOffset = 1<<10 - 1

// Labels of what follows the translated program.
const (
	labelFlow    = "flow"    // class Datagram
	labelVerdict = "verdict" // class in R0
	labelShort   = "short"   // what was to be read is not there
	labelSkip    = "skip"    // not ours to count: drop
)

// slot returns the offset from the frame pointer of a word of scratch memory.
func slot(n int) int16 { return int16(-8 * (n + 1)) }

// builder is an eBPF program under construction.
type builder struct {
	asm.Instructions
	label string // of the next instruction
}

func (b *builder) add(ins ...asm.Instruction) {
	if b.label != "" {
		ins[0], b.label = ins[0].WithSymbol(b.label), ""
	}
	b.Instructions = append(b.Instructions, ins...)
}

// mark names the place of the next instruction, which has no other name.
func (b *builder) mark(label string) { b.label = label }

// inReach makes sure that n bytes behind the packet pointer base are there, or jumps. It changes R2.
func (b *builder) inReach(base asm.Register, n int32, short string) {
	b.add(asm.Mov.Reg(asm.R2, base), asm.Add.Imm(asm.R2, n), asm.JGT.Reg(asm.R2, regDataEnd, short))
}

// translator turns a classic program whose results are classes into eBPF, instruction by
// instruction: for a socket, where the kernel reads the frame and ends the program when it is
// too short, or for XDP.
type translator struct {
	builder
	xdp bool
}

func (t *translator) program(code []bpf.Instruction) error {
	t.add(asm.Mov.Reg(regContext, asm.R1))
	if t.xdp {
		t.add(asm.LoadMem(regData, asm.R1, xdpData, asm.Word), asm.LoadMem(regDataEnd, asm.R1, xdpDataEnd, asm.Word))
	}
	t.add(asm.Mov.Imm(regA, 0), asm.Mov.Imm(regX, 0))
	for i, ins := range code {
		t.mark(place(i))
		if err := t.instruction(i, ins); err != nil {
			return fmt.Errorf("translate filter: instruction %d, %v: %w", i, ins, err)
		}
	}
	return nil
}

// place names the place of a classic instruction.
func place(i int) string { return fmt.Sprint("i", i) }

func (t *translator) instruction(i int, ins bpf.Instruction) error {
	switch ins := ins.(type) {
	case bpf.LoadAbsolute:
		return t.load(ins.Off, ins.Size, false)
	case bpf.LoadIndirect:
		return t.load(ins.Off, ins.Size, true)
	case bpf.LoadConstant:
		t.add(asm.Mov.Imm(register(ins.Dst), int32(ins.Val)))
	case bpf.LoadScratch:
		t.add(asm.LoadMem(register(ins.Dst), asm.RFP, slot(ins.N), asm.DWord))
	case bpf.StoreScratch:
		t.add(asm.StoreMem(asm.RFP, slot(ins.N), register(ins.Src), asm.DWord))
	case bpf.LoadExtension:
		if t.xdp || ins.Num != bpf.ExtType {
			return fmt.Errorf("extension %d is not known here", ins.Num)
		}
		t.add(asm.LoadMem(regA, regContext, skbType, asm.Word))
	case bpf.ALUOpConstant:
		op, ok := map[bpf.ALUOp]asm.ALUOp{
			bpf.ALUOpAdd: asm.Add, bpf.ALUOpAnd: asm.And, bpf.ALUOpShiftLeft: asm.LSh, bpf.ALUOpShiftRight: asm.RSh,
		}[ins.Op]
		if !ok || ins.Val > math.MaxInt32 {
			return fmt.Errorf("no such operation")
		}
		t.add(op.Imm32(regA, int32(ins.Val)))
	case bpf.ALUOpX:
		if ins.Op != bpf.ALUOpAdd {
			return fmt.Errorf("no such operation")
		}
		t.add(asm.Add.Reg32(regA, regX))
	case bpf.TAX:
		t.add(asm.Mov.Reg32(regX, regA))
	case bpf.TXA:
		t.add(asm.Mov.Reg32(regA, regX))
	case bpf.Jump:
		t.add(asm.Ja.Label(place(i + 1 + int(ins.Skip))))
	case bpf.JumpIf:
		if ins.Val > math.MaxInt32 {
			return fmt.Errorf("comparison with %#x", ins.Val)
		}
		return t.branch(i, ins.Cond, ins.SkipTrue, ins.SkipFalse, func(op asm.JumpOp, to string) asm.Instruction {
			return op.Imm(regA, int32(ins.Val), to)
		})
	case bpf.JumpIfX:
		return t.branch(i, ins.Cond, ins.SkipTrue, ins.SkipFalse, func(op asm.JumpOp, to string) asm.Instruction {
			return op.Reg(regA, regX, to)
		})
	case bpf.RetConstant:
		switch class := Class(ins.Val); {
		case class == Datagram:
			t.add(asm.Ja.Label(labelFlow))
		case class >= NumClasses:
			t.add(asm.Ja.Label(labelSkip))
		default:
			t.add(asm.Mov.Imm(asm.R0, int32(class)), asm.Ja.Label(labelVerdict))
		}
	default:
		return fmt.Errorf("no translation")
	}
	return nil
}

func register(r bpf.Register) asm.Register {
	if r == bpf.RegX {
		return regX
	}
	return regA
}

func (t *translator) branch(i int, cond bpf.JumpTest, yes, no uint8, jump func(asm.JumpOp, string) asm.Instruction) error {
	op, ok := map[bpf.JumpTest]asm.JumpOp{
		bpf.JumpEqual: asm.JEq, bpf.JumpNotEqual: asm.JNE, bpf.JumpGreaterThan: asm.JGT, bpf.JumpLessThan: asm.JLT,
		bpf.JumpGreaterOrEqual: asm.JGE, bpf.JumpLessOrEqual: asm.JLE, bpf.JumpBitsSet: asm.JSet,
	}[cond]
	if !ok {
		return fmt.Errorf("no such comparison")
	}
	t.add(jump(op, place(i+1+int(yes))))
	if no > 0 {
		t.add(asm.Ja.Label(place(i + 1 + int(no))))
	}
	return nil
}

// load reads size bytes, in network byte order, at off, or at X+off.
func (t *translator) load(off uint32, size int, indirect bool) error {
	width, ok := map[int]asm.Size{1: asm.Byte, 2: asm.Half, 4: asm.Word}[size]
	if !ok || off > maxOffset {
		return fmt.Errorf("%d bytes at %d are out of reach", size, off)
	}
	switch {
	case !t.xdp && indirect:
		t.add(asm.LoadInd(asm.R0, regX, int32(off), width))
		return nil
	case !t.xdp:
		t.add(asm.LoadAbs(int32(off), width))
		return nil
	case indirect:
		t.add(asm.Mov.Reg(asm.R1, regX), asm.And.Imm(asm.R1, maxOffset), asm.Add.Reg(asm.R1, regData))
	default:
		t.add(asm.Mov.Reg(asm.R1, regData))
	}
	t.inReach(asm.R1, int32(off)+int32(size), labelShort)
	t.add(asm.LoadMem(regA, asm.R1, int16(off), width))
	if size > 1 {
		t.add(asm.HostTo(asm.BE, regA, width))
	}
	return nil
}
