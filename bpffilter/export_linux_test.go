package bpffilter

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
)

// TestProgram is a Program that runs on frames of a test and takes its time from there.
type TestProgram struct {
	*Program
	clock *ebpf.Map
	xdp   bool
}

// LoadTest loads a program for LoadSocket or LoadXDP.
func LoadTest(o Options, xdp bool) (*TestProgram, error) {
	clock, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	p, err := load(o, xdp, clock)
	if err != nil {
		clock.Close()
		return nil, err
	}
	return &TestProgram{p, clock, xdp}, nil
}

// Close frees the program.
func (p *TestProgram) Close() { p.Program.Close(); p.clock.Close() }

// SetTime sets the clock, in ns.
func (p *TestProgram) SetTime(ns uint64) error { return p.clock.Put(uint32(0), ns) }

// Run returns what the program returns for a frame: for sockets the bytes to keep, for XDP
// 1 for drop and 2 for pass. The kernel takes frames of 14 bytes and more for XDP.
func (p *TestProgram) Run(frame []byte) (uint32, error) {
	if !p.xdp { // the kernel takes 14 bytes off, as if they were the link header
		frame = append(binary.BigEndian.AppendUint16(make([]byte, 12), 0x88b5), frame...)
	}
	return p.prog.Run(&ebpf.RunOptions{Data: frame})
}

// Repass is how long a flow is held back.
const Repass = repass
