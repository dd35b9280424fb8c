package bpffilter

import (
	"fmt"
	"math"

	"golang.org/x/net/bpf"
)

// program is a BPF program under construction, with names for the places it jumps to.
// Jumps go forward only, as the kernel wants them.
type program struct {
	code  []bpf.Instruction
	marks map[string]int // name: index of the instruction behind it
	jumps []jump
}

// jump is a jump whose distance is not known yet.
type jump struct {
	at     int // index in code
	to     string
	unless bool // jump when the comparison does not hold
}

func (p *program) do(ins ...bpf.Instruction) { p.code = append(p.code, ins...) }

func (p *program) mark(name string) { p.marks[name] = len(p.code) }

// when jumps if the comparison of register A with val holds.
func (p *program) when(cond bpf.JumpTest, val uint32, to string) {
	p.jumps = append(p.jumps, jump{at: len(p.code), to: to})
	p.do(bpf.JumpIf{Cond: cond, Val: val})
}

// unless jumps if the comparison of register A with val does not hold.
func (p *program) unless(cond bpf.JumpTest, val uint32, to string) {
	p.jumps = append(p.jumps, jump{at: len(p.code), to: to, unless: true})
	p.do(bpf.JumpIf{Cond: cond, Val: val})
}

// jump jumps whatever the registers hold.
func (p *program) jump(to string) {
	p.jumps = append(p.jumps, jump{at: len(p.code), to: to})
	p.do(bpf.Jump{})
}

// assemble puts the distances in and returns the program as the kernel takes it.
func (p *program) assemble() ([]bpf.RawInstruction, error) {
	for _, j := range p.jumps {
		target, ok := p.marks[j.to]
		n := target - j.at - 1
		if !ok || n < 0 {
			return nil, fmt.Errorf("assemble filter: instruction %d jumps to %q, which does not follow", j.at, j.to)
		}
		switch ins := p.code[j.at].(type) {
		case bpf.Jump:
			ins.Skip = uint32(n)
			p.code[j.at] = ins
		case bpf.JumpIf:
			if n > math.MaxUint8 {
				return nil, fmt.Errorf("assemble filter: instruction %d jumps %d instructions to %q", j.at, n, j.to)
			}
			if ins.SkipTrue = uint8(n); j.unless {
				ins.SkipTrue, ins.SkipFalse = 0, uint8(n)
			}
			p.code[j.at] = ins
		}
	}
	raw, err := bpf.Assemble(p.code)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return raw, nil
}
