package doctor

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Host is a machine to look at: its files, and what only the kernel tells.
type Host struct {
	Files  fs.FS  // the root directory, of which proc and sys are read
	Kernel Kernel // what is not in files
	Self   string // path of this program, for commands to paste
}

// Kernel answers what files do not tell. Errors say why it cannot; errors.ErrUnsupported stands for a device
// or a kernel that has no such thing.
type Kernel interface {
	// Link describes a network interface in the network namespace of the calling thread.
	Link(device string) (Link, error)
	// Adapter describes the hardware behind it, as ethtool shows it.
	Adapter(device string) (Adapter, error)
	// Clock tells how the clock is kept.
	Clock() (Clock, error)
	// Free tells how many bytes of disk an ordinary user may still fill at a path.
	Free(path string) (uint64, error)
}

// Link is a network interface.
type Link struct {
	Index     int
	Up        bool // set up
	Carrier   bool // and connected to something
	Loopback  bool
	Promisc   bool // takes frames for others now
	MTU       int  // bytes
	Addresses []netip.Prefix
	XDP       uint32 // number of the XDP program that is attached, 0 for none
}

// Adapter is what ethtool tells of a device. A nil part is one that the driver does not tell.
type Adapter struct {
	Driver   string
	Speed    int // Mbit/s, 0 when unknown
	GRO      *bool
	LRO      *bool
	GSO, TSO *bool
	RxVLAN   *bool
	Ring     *Ring
	Channels *Channels
	Pause    *Pause
}

// Ring is how many frames the adapter can hold for the kernel.
type Ring struct{ Rx, Max uint32 }

// Channels is over how many queues it spreads frames that come in.
type Channels struct{ Rx, Max uint32 }

// Pause says whether the adapter tells the other end to wait, and waits itself.
type Pause struct{ Rx, Tx bool }

// Clock says how the clock is kept.
type Clock struct {
	Synchronised bool
	Error        time.Duration // largest error that the kernel reckons with
	Offset       time.Duration // that is being worked off
}

// Capabilities that matter, by their bits in linux/capability.h.
const (
	capNetAdmin = 12
	capNetRaw   = 13
	capPerfmon  = 38
	capBPF      = 39
)

// Examine returns the findings on the host itself.
func (h *Host) Examine() []Finding {
	return []Finding{h.kernel(), h.capabilities(), h.memory(), h.clock()}
}

// read returns a file without the white space around it.
func (h *Host) read(path string) (string, error) {
	b, err := fs.ReadFile(h.Files, path)
	return strings.TrimSpace(string(b)), err
}

// unknown is a finding on what could not be looked at.
func unknown(area, check string, err error) Finding {
	return Finding{Area: area, Check: check, Status: Unknown, Evidence: err.Error()}
}

// The oldest kernels that do.
var (
	oldest    = [2]int{4, 5}  // fan-out by a program (PACKET_FANOUT_CBPF is 4.3, its data per group 4.5)
	oldestXDP = [2]int{5, 18} // XDP on frames in several buffers
)

func (h *Host) kernel() Finding {
	release, err := h.read("proc/sys/kernel/osrelease")
	if err != nil {
		return unknown("host", "kernel", err)
	}
	f := Finding{Area: "host", Check: "kernel", Status: OK, Evidence: "Linux " + release}
	v, ok := version(release)
	switch {
	case !ok:
		f.Status = Unknown
	case slices.Compare(v[:], oldest[:]) < 0:
		f.Status = Warn
		f.Consequence = "frames are shared out among rings by flow: answers and the connections after them arrive out of turn"
		f.Advice = "boot Linux 4.5 or later, or run with --rings 1"
	case slices.Compare(v[:], oldestXDP[:]) < 0:
		f.Evidence += "; XDP would need 5.18"
	}
	return f
}

// version reads the first two numbers of a kernel release.
func version(release string) (v [2]int, ok bool) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	for i := range v {
		digits := strings.TrimRight(parts[i], "abcdefghijklmnopqrstuvwxyz-+_")
		n, err := strconv.Atoi(digits)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func (h *Host) capabilities() Finding {
	f := Finding{Area: "host", Check: "capabilities"}
	held, err := h.effective()
	if err != nil {
		return unknown("host", "capabilities", err)
	}
	var have, lack []string
	for _, c := range []struct {
		bit        int
		name, what string
	}{
		{capNetRaw, "cap_net_raw", "capturing"},
		{capBPF, "cap_bpf", "the eBPF prefilter"},
		{capNetAdmin, "cap_net_admin", "XDP, and the self-test on the device"},
		{capPerfmon, "cap_perfmon", "XDP"},
	} {
		if held>>c.bit&1 == 1 {
			have = append(have, c.name)
		} else {
			lack = append(lack, c.name+" for "+c.what)
		}
	}
	f.Status, f.Evidence = OK, "held: "+list(have)
	if len(lack) > 0 {
		f.Evidence += "; not held: " + list(lack)
	}
	if held>>capNetRaw&1 == 0 {
		f.Status = Bad
		f.Consequence = "nothing can be captured"
		f.Remedy = "sudo setcap cap_net_raw+ep " + quote(h.Self)
	}
	return f
}

// effective returns the capabilities that this process holds.
func (h *Host) effective() (uint64, error) {
	text, err := h.read("proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			held, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("read capabilities from /proc/self/status: %w", err)
			}
			return held, nil
		}
	}
	return 0, fmt.Errorf("read capabilities: no CapEff in /proc/self/status")
}

// leastMemory is what the tables and rings want at their defaults, with the runtime's share.
const leastMemory = 1 << 30

func (h *Host) memory() Finding {
	text, err := h.read("proc/meminfo")
	if err != nil {
		return unknown("host", "memory", err)
	}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return unknown("host", "memory", fmt.Errorf("read /proc/meminfo: %w", err))
		}
		f := Finding{Area: "host", Check: "memory", Status: OK, Evidence: bytesText(kib<<10) + " available"}
		if kib<<10 < leastMemory {
			f.Status = Warn
			f.Consequence = "under the defaults (512MiB for clients, 32MiB a ring) the kernel may end the sensor"
			f.Advice = "run with --memory 128MiB, or add memory"
		}
		return f
	}
	return unknown("host", "memory", fmt.Errorf("read /proc/meminfo: it has no MemAvailable"))
}

// worstClock is an error of the clock that puts two sensors' events in the wrong order.
const worstClock = time.Second

func (h *Host) clock() Finding {
	c, err := h.Kernel.Clock()
	if err != nil {
		return unknown("host", "clock", err)
	}
	f := Finding{Area: "host", Check: "clock", Status: OK, Evidence: fmt.Sprintf("synchronised, largest error %v", c.Error.Round(time.Microsecond))}
	switch {
	case !c.Synchronised:
		f.Status, f.Evidence = Warn, "not synchronised by NTP or PTP"
	case c.Error > worstClock:
		f.Status = Warn
	default:
		return f
	}
	f.Consequence = "times in hits are wrong by an unknown amount; joining them with other sensors and endpoints fails; steps cut histories"
	f.Remedy = "sudo timedatectl set-ntp true"
	return f
}

// bytesText writes a number of bytes for people.
func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	x, i := float64(n), 0
	for x >= 1024 && i < len(units)-1 {
		x, i = x/1024, i+1
	}
	return fmt.Sprintf("%.3g %s", x, units[i])
}

// quote writes a path as a shell takes it.
func quote(path string) string {
	plain := func(r rune) bool {
		return r == '/' || r == '.' || r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if path != "" && !strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
