package bpffilter

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// xdpContext is struct xdp_md in linux/bpf.h.
type xdpContext struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }

// Inject hands frames, from the Ethernet header on, to whatever takes frames that arrive at an interface in
// the network namespace of the calling thread, in their order: packet sockets see them as received from the
// line. Nothing leaves the interface, and an XDP program in its driver does not see them. It needs Linux
// 5.18, CAP_BPF and CAP_NET_ADMIN: without them the error wraps unix.EPERM. Whether anyone took the frames is
// not known.
func Inject(index int, frames ...[]byte) error {
	const pass = 2 // XDP_PASS: on to the stack
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "portolan_inject", Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, pass), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a program to inject frames: %w", err)
	}
	defer p.Close()
	for i, f := range frames {
		_, err := p.Run(&ebpf.RunOptions{
			Data: f, Context: xdpContext{DataEnd: uint32(len(f)), Ingress: uint32(index)},
			Repeat: 1, BatchSize: 1, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		})
		if err != nil {
			return fmt.Errorf("inject frame %d: %w", i, err)
		}
	}
	return nil
}
