package bpffilter

import (
	"fmt"
	"math"
	"slices"

	"golang.org/x/net/bpf"
)

// program is a classic BPF program under construction, with names for the places it jumps
// to. Jumps go forward only, as the kernel wants them.
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
	far    bool // the comparison only skips a jump that reaches further
}

func newProgram() *program { return &program{marks: make(map[string]int)} }

func (p *program) do(ins ...bpf.Instruction) { p.code = append(p.code, ins...) }

func (p *program) mark(name string) { p.marks[name] = len(p.code) }

// wants reports whether a jump leads to the name.
func (p *program) wants(name string) bool {
	return slices.ContainsFunc(p.jumps, func(j jump) bool { return j.to == name })
}

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

// whenX jumps if the comparison of register A with register X holds.
func (p *program) whenX(cond bpf.JumpTest, to string) {
	p.jumps = append(p.jumps, jump{at: len(p.code), to: to})
	p.do(bpf.JumpIfX{Cond: cond})
}

// jump jumps whatever the registers hold.
func (p *program) jump(to string) {
	p.jumps = append(p.jumps, jump{at: len(p.code), to: to})
	p.do(bpf.Jump{})
}

// link returns the program with the distances of its jumps put in. A comparison reaches 255
// instructions; one that has to reach further is followed by a jump.
func (p *program) link() ([]bpf.Instruction, error) {
	place := make([]int, len(p.code)+1) // of each instruction, once there are the jumps in between
	for again := true; again; {
		again = false
		n, j := 0, 0
		for i := range p.code {
			place[i] = n
			n++
			if j < len(p.jumps) && p.jumps[j].at == i {
				if p.jumps[j].far {
					n++
				}
				j++
			}
		}
		place[len(p.code)] = n
		for j := range p.jumps {
			x := &p.jumps[j]
			to, ok := p.marks[x.to]
			if !ok || to <= x.at {
				return nil, fmt.Errorf("assemble filter: instruction %d jumps to %q, which does not follow", x.at, x.to)
			}
			_, always := p.code[x.at].(bpf.Jump)
			if !always && !x.far && place[to]-place[x.at]-1 > math.MaxUint8 {
				x.far, again = true, true
			}
		}
	}
	code := make([]bpf.Instruction, 0, place[len(p.code)])
	j := 0
	for i, ins := range p.code {
		if j == len(p.jumps) || p.jumps[j].at != i {
			code = append(code, ins)
			continue
		}
		x := &p.jumps[j]
		j++
		n := place[p.marks[x.to]] - place[i] - 1
		yes, no := uint8(n), uint8(0)
		if x.far {
			yes, no = 0, 1
		}
		if x.unless {
			yes, no = no, yes
		}
		switch ins := ins.(type) {
		case bpf.Jump:
			ins.Skip = uint32(n)
			code = append(code, ins)
		case bpf.JumpIf:
			ins.SkipTrue, ins.SkipFalse = yes, no
			code = append(code, ins)
		case bpf.JumpIfX:
			ins.SkipTrue, ins.SkipFalse = yes, no
			code = append(code, ins)
		}
		if x.far {
			code = append(code, bpf.Jump{Skip: uint32(n - 1)})
		}
	}
	return code, nil
}

// assemble returns the program as the kernel takes it.
func assemble(code []bpf.Instruction) ([]bpf.RawInstruction, error) {
	raw, err := bpf.Assemble(code)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return raw, nil
}
