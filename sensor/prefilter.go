package sensor

import (
	"fmt"
	"strings"
)

// Prefilter says which programs in the kernel keep frames that mean nothing to the decoder
// away from the rings.
type Prefilter string

// The prefilters, each stronger than the one before it. Package bpffilter says what they pass.
const (
	// PrefilterAuto is the strongest that can be had: PrefilterXDP only on a mirror port.
	PrefilterAuto Prefilter = "auto"
	// PrefilterOff lets everything into the rings.
	PrefilterOff Prefilter = "off"
	// PrefilterSocket is a classic BPF program on each socket. It always works.
	PrefilterSocket Prefilter = "socket"
	// PrefilterEBPF is a program on each socket that remembers UDP flows and passes the first
	// datagram of each. It needs CAP_BPF.
	PrefilterEBPF Prefilter = "ebpf"
	// PrefilterXDP is the same in front of the interface, where it drops frames for everyone
	// on this host: only on a mirror port. It needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
	PrefilterXDP Prefilter = "xdp"
)

// Prefilters returns all values of Prefilter.
func Prefilters() []Prefilter {
	return []Prefilter{PrefilterAuto, PrefilterOff, PrefilterSocket, PrefilterEBPF, PrefilterXDP}
}

// InForce says what filters and shares out the frames of an interface.
type InForce struct {
	Prefilter Prefilter // never PrefilterAuto
	Native    bool      // XDP runs in the interface's driver and not in front of the stack
	Why       string    // why nothing stronger is in force; "" when there is nothing stronger, or it was asked for
	// FanOut says by what frames are shared out among several rings: "client" or "flow"; ""
	// when there is one ring.
	FanOut string
}

// String returns it for people, on one line.
func (f InForce) String() string {
	var b strings.Builder
	switch f.Prefilter {
	case PrefilterOff:
		b.WriteString("no kernel filter")
	case PrefilterSocket:
		b.WriteString("socket filter")
	case PrefilterEBPF:
		b.WriteString("eBPF socket filter")
	case PrefilterXDP:
		b.WriteString("XDP filter ")
		if f.Native {
			b.WriteString("in the driver")
		} else {
			b.WriteString("in front of the stack")
		}
	}
	if f.Why != "" {
		fmt.Fprintf(&b, " (%s)", f.Why)
	}
	if f.FanOut != "" {
		fmt.Fprintf(&b, ", fan-out by %s", f.FanOut)
	}
	return b.String()
}
