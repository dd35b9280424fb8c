//go:build linux && cgo

package sensor

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"portolan/bpffilter"
	"portolan/sensor/decode"
)

// prefilter is what was put into the kernel besides the sockets' classic filters. It goes
// with the sockets: an interface that comes back gets a new one, with nothing remembered.
type prefilter struct {
	inForce InForce
	program *bpffilter.Program // nil when there is none
	restore func()             // gives the interface back its settings; may be nil
}

// filterOptions returns what passes the kernel on an interface.
func filterOptions(cfg *Config, l link, kind decode.LinkType) bpffilter.Options {
	return bpffilter.Options{
		SnapLen:      uint32(cfg.SnapLen),
		RawIP:        kind == decode.Raw,
		DropTunnels:  cfg.DropTunnels,
		TunnelPorts:  cfg.Decode.VXLANPorts,
		DropOutgoing: cfg.IgnoreOutgoing || l.flags&unix.IFF_LOOPBACK != 0,
		Flows:        cfg.PrefilterFlows,
	}
}

// engage puts the strongest prefilter into force that cfg and the host allow. The sockets
// have their classic filters already. Memory begins with what passes from now on, when all
// rings take frames, so that no start of a flow is remembered that no ring has seen.
func engage(cfg *Config, l link, kind decode.LinkType, handles []*handle) (*prefilter, error) {
	p := &prefilter{inForce: InForce{Prefilter: PrefilterSocket}}
	o := filterOptions(cfg, l, kind)
	var why []string
	for _, try := range []struct {
		kind Prefilter
		do   func() error
	}{
		{PrefilterXDP, func() error { return p.xdp(cfg, l, o) }},
		{PrefilterEBPF, func() error { return p.sockets(o, handles) }},
	} {
		if cfg.Prefilter != PrefilterAuto && cfg.Prefilter != try.kind {
			continue
		}
		err := try.do()
		if err == nil {
			p.inForce.Prefilter = try.kind
			break
		}
		if cfg.Prefilter != PrefilterAuto {
			return nil, fmt.Errorf("prefilter %s: %w", try.kind, err)
		}
		why = append(why, fmt.Sprintf("no %s: %v", try.kind, err))
	}
	if cfg.Prefilter == PrefilterOff {
		p.inForce.Prefilter = PrefilterOff
	}
	p.inForce.Why = strings.Join(why, "; ")
	return p, nil
}

// sockets gives all rings one eBPF filter, whose memory they share: the fan-out brings
// each frame to one of them.
func (p *prefilter) sockets(o bpffilter.Options, handles []*handle) error {
	program, err := bpffilter.LoadSocket(o)
	if err != nil {
		return needs(err, "CAP_BPF")
	}
	for i, h := range handles {
		if err := program.AttachSocket(h.fd); err != nil {
			program.Close()
			return fmt.Errorf("ring %d: %w", i, err)
		}
	}
	p.program = program
	return nil
}

// xdp puts the filter in front of the interface. The sockets keep their classic filters: a
// second memory behind the first would take the datagrams that it passed for repeats.
func (p *prefilter) xdp(cfg *Config, l link, o bpffilter.Options) (err error) {
	if !cfg.MirrorPort {
		return fmt.Errorf("%w: it was not declared one", ErrNotMirrorPort)
	}
	if err := checkMirrorPort(l); err != nil {
		return err
	}
	if o.RawIP {
		return errors.New("its frames have no Ethernet header")
	}
	program, err := bpffilter.LoadXDP(o)
	if err != nil {
		return needs(err, "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
	}
	defer func() {
		if err != nil {
			program.Close()
		}
	}()
	// A tag that the adapter takes off is not in the frame that XDP sees, and flows in
	// different VLANs would be one. The kernel takes it off later just as well.
	restore, err := keepTags(cfg.Device)
	if err != nil {
		return err
	}
	native, err := program.AttachXDP(l.index)
	if err != nil {
		restore()
		return needs(err, "CAP_NET_ADMIN")
	}
	p.program, p.restore, p.inForce.Native = program, restore, native
	return nil
}

// needs names the capabilities that an error without permission asks for. Without CAP_PERFMON
// the verifier refuses what XDP programs do, and says where.
func needs(err error, capabilities string) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: it needs %s", unix.EPERM, capabilities)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: does it have %s?", err, capabilities)
	}
	return err
}

// counts returns what the program counted; nothing without one.
func (p *prefilter) counts() bpffilter.Counts {
	if p == nil || p.program == nil {
		return bpffilter.Counts{}
	}
	n, err := p.program.Counts()
	if err != nil {
		return bpffilter.Counts{}
	}
	return n
}

// close takes it out of the kernel.
func (p *prefilter) close() {
	if p == nil {
		return
	}
	if p.program != nil {
		p.program.Close()
	}
	if p.restore != nil {
		p.restore()
	}
}
