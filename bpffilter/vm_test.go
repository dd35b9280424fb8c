package bpffilter_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
)

// vm runs a classic program. Other than bpf.VM, it knows what the kernel says of a frame
// besides its bytes, and 16 words of scratch memory that must be written before they are read.
type vm struct {
	code     []bpf.Instruction
	other    *bpf.VM // runs what it can, faster
	outgoing bool
	proto    uint16 // EtherType in front of the frame
}

func newVM(t testing.TB, raw []bpf.RawInstruction) *vm {
	t.Helper()
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("an instruction that does not disassemble")
	}
	m := &vm{code: code}
	extended := slices.ContainsFunc(code, func(i bpf.Instruction) bool { _, ok := i.(bpf.LoadExtension); return ok })
	if !extended {
		var err error
		if m.other, err = bpf.NewVM(code); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// run returns what the program returns for a frame.
func (m *vm) run(t testing.TB, frame []byte) int {
	t.Helper()
	if m.other == nil {
		return m.eval(t, frame)
	}
	n, err := m.other.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (m *vm) eval(t testing.TB, frame []byte) int {
	t.Helper()
	var a, x uint32
	var mem [16]uint32
	written := uint16(0)
	load := func(off, size int) bool {
		if off < 0 || off+size > len(frame) {
			return false
		}
		var b [4]byte
		copy(b[4-size:], frame[off:off+size])
		a = binary.BigEndian.Uint32(b[:])
		return true
	}
	for pc := 0; pc < len(m.code); pc++ {
		switch i := m.code[pc].(type) {
		case bpf.LoadAbsolute:
			if !load(int(i.Off), i.Size) {
				return 0
			}
		case bpf.LoadIndirect:
			if !load(int(i.Off)+int(x), i.Size) {
				return 0
			}
		case bpf.LoadConstant:
			if i.Dst == bpf.RegX {
				x = i.Val
			} else {
				a = i.Val
			}
		case bpf.LoadScratch:
			if written>>i.N&1 == 0 {
				t.Fatalf("instruction %d reads scratch memory %d, which nothing was written to", pc, i.N)
			}
			if i.Dst == bpf.RegX {
				x = mem[i.N]
			} else {
				a = mem[i.N]
			}
		case bpf.StoreScratch:
			written |= 1 << i.N
			mem[i.N] = a
			if i.Src == bpf.RegX {
				mem[i.N] = x
			}
		case bpf.LoadExtension:
			switch i.Num {
			case bpf.ExtType:
				a = 0
				if m.outgoing {
					a = 4
				}
			case bpf.ExtProto:
				a = uint32(m.proto)
			default:
				t.Fatalf("instruction %d: extension %d", pc, i.Num)
			}
		case bpf.ALUOpConstant:
			a = alu(t, i.Op, a, i.Val)
		case bpf.ALUOpX:
			a = alu(t, i.Op, a, x)
		case bpf.TAX:
			x = a
		case bpf.TXA:
			a = x
		case bpf.Jump:
			pc += int(i.Skip)
		case bpf.JumpIf:
			pc += skipped(t, i.Cond, a, i.Val, i.SkipTrue, i.SkipFalse)
		case bpf.JumpIfX:
			pc += skipped(t, i.Cond, a, x, i.SkipTrue, i.SkipFalse)
		case bpf.RetA:
			return int(a)
		case bpf.RetConstant:
			return int(i.Val)
		default:
			t.Fatalf("instruction %d: %v", pc, i)
		}
	}
	t.Fatal("the program runs off its end")
	return 0
}

func alu(t testing.TB, op bpf.ALUOp, a, b uint32) uint32 {
	t.Helper()
	switch op {
	case bpf.ALUOpAdd:
		return a + b
	case bpf.ALUOpSub:
		return a - b
	case bpf.ALUOpMul:
		return a * b
	case bpf.ALUOpAnd:
		return a & b
	case bpf.ALUOpXor:
		return a ^ b
	case bpf.ALUOpShiftLeft:
		return a << b
	case bpf.ALUOpShiftRight:
		return a >> b
	}
	t.Fatalf("operation %#x", op)
	return 0
}

func skipped(t testing.TB, cond bpf.JumpTest, a, b uint32, yes, no uint8) int {
	t.Helper()
	var holds bool
	switch cond {
	case bpf.JumpEqual:
		holds = a == b
	case bpf.JumpNotEqual:
		holds = a != b
	case bpf.JumpGreaterThan:
		holds = a > b
	case bpf.JumpLessThan:
		holds = a < b
	case bpf.JumpGreaterOrEqual:
		holds = a >= b
	case bpf.JumpLessOrEqual:
		holds = a <= b
	case bpf.JumpBitsSet:
		holds = a&b != 0
	case bpf.JumpBitsNotSet:
		holds = a&b == 0
	default:
		t.Fatalf("comparison %v", cond)
	}
	if holds {
		return int(yes)
	}
	return int(no)
}
