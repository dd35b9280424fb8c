//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// Kernel is the programs in the kernel and what they send. One goroutine reads; Lost may be
// called from any, and Close after both.
type Kernel struct {
	maps    maps
	all     []*ebpf.Map
	progs   []*ebpf.Program
	links   []link.Link
	reader  *ringbuf.Reader
	record  ringbuf.Record
	spoiled uint64
}

// license is what helpers that read the kernel's memory ask for. This package's programs may be
// used under the GNU General Public License, version 2, as well as under the licence of the rest.
const license = "GPL"

// Open loads the programs and attaches them to the whole host. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
func Open(cfg Config) (_ *Kernel, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("eBPF source: %w", err)
	}
	k := &Kernel{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("eBPF source: %w", errors.Join(err, k.Close()))
		}
	}()
	// Before Linux 5.11 maps count as locked memory; if the limit cannot be lifted, the maps tell.
	_ = rlimit.RemoveMemlock()
	t, err := loadTypes()
	if err != nil {
		return nil, err
	}
	if err := k.makeMaps(cfg); err != nil {
		return nil, err
	}
	root, err := openRoot()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := k.load(t, cfg, root); err != nil {
		return nil, err
	}
	k.reader, err = ringbuf.NewReader(k.maps.ring)
	return k, err
}

func (k *Kernel) makeMaps(cfg Config) error {
	for _, m := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&k.maps.ring, ebpf.MapSpec{Name: "portolan_ring", Type: ebpf.RingBuf, MaxEntries: uint32(cfg.Ring)}},
		{&k.maps.counts, ebpf.MapSpec{Name: "portolan_counts", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: numCounts}},
		{&k.maps.seen, ebpf.MapSpec{Name: "portolan_seen", Type: ebpf.LRUHash, KeySize: seenKeyLen, ValueSize: 8, MaxEntries: uint32(cfg.Sockets)}},
		{&k.maps.known, ebpf.MapSpec{Name: "portolan_known", Type: ebpf.LRUHash, KeySize: programKeyLen, ValueSize: 8, MaxEntries: uint32(cfg.Programs)}},
	} {
		made, err := k.makeMap(m.spec)
		if err != nil {
			return err
		}
		*m.to = made
	}
	return nil
}

func (k *Kernel) makeMap(spec ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&spec)
	if err != nil {
		return nil, fmt.Errorf("make map %s: %w", spec.Name, err)
	}
	k.all = append(k.all, m)
	return m, nil
}

// load loads and attaches each program, with a scratch of its own: the kernel runs no program
// twice on a CPU at a time.
func (k *Kernel) load(t *types, cfg Config, root *os.File) error {
	for _, p := range []struct {
		name string
		spec ebpf.ProgramSpec
		code func() asm.Instructions
	}{
		{"portolan_states", ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state"},
			func() asm.Instructions { return states(t, &k.maps, cfg.Loopback) }},
		{"portolan_execs", ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_process_exec"},
			func() asm.Instructions { return execs(t, &k.maps) }},
		{"portolan_egress", ebpf.ProgramSpec{Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress},
			func() asm.Instructions { return egress(t, &k.maps, cfg.Loopback) }},
	} {
		var err error
		k.maps.scratch, err = k.makeMap(ebpf.MapSpec{Name: "portolan_work", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: scratchLen, MaxEntries: 1})
		if err != nil {
			return err
		}
		p.spec.Name, p.spec.License, p.spec.Instructions = p.name, license, p.code()
		if t.err != nil {
			return t.err
		}
		prog, err := ebpf.NewProgram(&p.spec)
		if err != nil {
			return fmt.Errorf("load %s: %w", p.name, err)
		}
		k.progs = append(k.progs, prog)
		var l link.Link
		if p.spec.Type == ebpf.CGroupSKB {
			l, err = link.AttachRawLink(link.RawLinkOptions{Target: int(root.Fd()), Program: prog, Attach: p.spec.AttachType})
		} else {
			l, err = link.AttachTracing(link.TracingOptions{Program: prog})
		}
		if err != nil {
			return fmt.Errorf("attach %s: %w", p.name, err)
		}
		k.links = append(k.links, l)
	}
	return nil
}

// Read waits until the given time for a message, decodes it into m, and says whether there was
// one. Programs do not wake the reader: what they send is there at the latest by that time.
// Strings in m are copies.
func (k *Kernel) Read(m *Message, until time.Time) (bool, error) {
	k.reader.SetDeadline(until)
	err := k.reader.ReadInto(&k.record)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read from the eBPF programs: %w", err)
	}
	if !m.decode(k.record.RawSample) {
		k.spoiled++
		return false, nil
	}
	return true, nil
}

// Lost returns how many messages are missing since Open: the ring was full, or a program was
// called where it had just been interrupted.
func (k *Kernel) Lost() (uint64, error) {
	var each []uint64
	if err := k.maps.counts.Lookup(uint32(countLost), &each); err != nil {
		return 0, fmt.Errorf("read what the eBPF programs lost: %w", err)
	}
	var sum uint64
	for _, n := range each {
		sum += n
	}
	for _, p := range k.progs {
		s, err := p.Stats()
		if err != nil {
			return 0, fmt.Errorf("read what the eBPF programs lost: %w", err)
		}
		sum += s.RecursionMisses
	}
	return sum, nil
}

// Close takes the programs out of the kernel.
func (k *Kernel) Close() error {
	var errs []error
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	if k.reader != nil {
		errs = append(errs, k.reader.Close())
	}
	for _, p := range k.progs {
		errs = append(errs, p.Close())
	}
	for _, m := range k.all {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
