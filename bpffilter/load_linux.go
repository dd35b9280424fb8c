package bpffilter

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Program is an eBPF program with its memory of flows and its counts, loaded into the
// kernel. Any goroutine may call its methods, and Close once, after all others.
type Program struct {
	prog          *ebpf.Program
	flows, counts *ebpf.Map
	link          link.Link // XDP: nil before it is attached
}

// LoadSocket loads the filter with a memory of UDP flows for packet sockets, which needs
// CAP_BPF: without it the error wraps unix.EPERM. It passes what Assemble's program passes,
// but of the datagrams of a flow only the first, and then one each 5 s. Sockets that share
// one Program share the memory: a frame must reach the filter of one of them only.
func LoadSocket(o Options) (*Program, error) { return load(o, false, nil) }

// LoadXDP loads the same filter for XDP, where it drops what does not pass in front of
// everything else that looks at frames of the interface. It needs Linux 5.18, CAP_BPF and CAP_NET_ADMIN,
// and CAP_PERFMON. Outgoing frames do not come by here.
func LoadXDP(o Options) (*Program, error) { return load(o, true, nil) }

// load loads either. A clock is for tests.
func load(o Options, xdp bool, clock *ebpf.Map) (_ *Program, err error) {
	what, spec := "socket filter", ebpf.ProgramSpec{Name: "portolan_socket", Type: ebpf.SocketFilter, License: "Apache-2.0"}
	if xdp {
		what, spec = "XDP filter", ebpf.ProgramSpec{Name: "portolan_xdp", Type: ebpf.XDP, License: "Apache-2.0", Flags: unix.BPF_F_XDP_HAS_FRAGS}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("load eBPF %s: %w", what, err)
		}
	}()
	if o.Flows < 1 || o.Flows > MaxFlows {
		return nil, fmt.Errorf("assemble filter: Flows is %d, want 1 to %d", o.Flows, MaxFlows)
	}
	code, err := o.classify(!xdp)
	if err != nil {
		return nil, err
	}
	// Before Linux 5.11 maps count as locked memory; if the limit cannot be lifted, the maps tell.
	_ = rlimit.RemoveMemlock()
	p := &Program{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	p.flows, err = ebpf.NewMap(&ebpf.MapSpec{Name: "portolan_flows", Type: ebpf.LRUHash, KeySize: keyLen, ValueSize: timeLen, MaxEntries: uint32(o.Flows)})
	if err != nil {
		return nil, err
	}
	p.counts, err = ebpf.NewMap(&ebpf.MapSpec{Name: "portolan_counts", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: uint32(NumClasses)})
	if err != nil {
		return nil, err
	}
	if spec.Instructions, err = o.instructions(code, xdp, p, clock); err != nil {
		return nil, err
	}
	if p.prog, err = ebpf.NewProgram(&spec); err != nil {
		return nil, err
	}
	return p, nil
}

// instructions puts the parts of a program together.
func (o Options) instructions(code []bpf.Instruction, xdp bool, p *Program, clock *ebpf.Map) (asm.Instructions, error) {
	t := translator{xdp: xdp}
	if err := t.program(code); err != nil {
		return nil, err
	}
	m := memory{ip: o.ip(), xdp: xdp, flows: p.flows, clock: clock}
	m.program()
	v := verdict{xdp: xdp, snapLen: o.SnapLen, counts: p.counts}
	v.program(o.DropOutgoing && !xdp)
	return append(append(t.Instructions, m.Instructions...), v.Instructions...), nil
}

// AttachSocket makes the program the filter of a packet socket, in place of the one it has.
func (p *Program) AttachSocket(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, p.prog.FD()); err != nil {
		return fmt.Errorf("attach eBPF socket filter: %w", err)
	}
	return nil
}

// AttachXDP puts the program in front of an interface in the network namespace of the
// calling thread: in its driver if that can, else in front of the stack. It stays until Close
// or until the process ends, however it does. An interface with an XDP program keeps that,
// and the error wraps unix.EBUSY or unix.EEXIST.
func (p *Program) AttachXDP(index int) (native bool, err error) {
	p.link, err = link.AttachXDP(link.XDPOptions{Program: p.prog, Interface: index, Flags: link.XDPDriverMode})
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
		if p.link, err = link.AttachXDP(link.XDPOptions{Program: p.prog, Interface: index, Flags: link.XDPGenericMode}); err == nil {
			return false, nil
		}
	}
	return false, fmt.Errorf("attach XDP filter: %w", err)
}

// Counts returns how many frames of each class there were since the program was loaded. A
// socket's program does not count frames too short to tell.
func (p *Program) Counts() (sum Counts, err error) {
	var each []Count
	for class := range sum {
		if err := p.counts.Lookup(uint32(class), &each); err != nil {
			return Counts{}, fmt.Errorf("read counts of the eBPF filter: %w", err)
		}
		for _, n := range each {
			sum[class].Frames += n.Frames
			sum[class].Bytes += n.Bytes
		}
	}
	return sum, nil
}

// Close takes the program off its interface and frees what it holds. Sockets keep it
// until they are closed.
func (p *Program) Close() error {
	var errs []error
	if p.link != nil {
		errs = append(errs, p.link.Close())
	}
	return errors.Join(append(errs, p.prog.Close(), p.flows.Close(), p.counts.Close())...)
}
