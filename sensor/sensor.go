// Package sensor feeds frames to the decoder: live ones from the packet rings of an
// interface, and those of capture files.
package sensor

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"runtime"
	"slices"
	"time"

	"portolan/bpffilter"
	"portolan/sensor/decode"
)

// Errors that say why an interface cannot be opened. Open wraps them. Without permission
// it wraps syscall.EPERM.
var (
	// ErrNoInterface: there is no interface of that name.
	ErrNoInterface = errors.New("no such interface")
	// ErrDown: the interface has not been set up.
	ErrDown = errors.New("the interface is down")
	// ErrLinkType: the interface carries neither Ethernet frames nor bare IP packets.
	ErrLinkType = errors.New("neither Ethernet nor raw IP")
	// ErrNotMirrorPort: the interface was not declared to be a mirror port, or cannot be one.
	ErrNotMirrorPort = errors.New("not a mirror port")
	// ErrUnsupported: this build cannot capture.
	ErrUnsupported = errors.New("live capture needs Linux and a build with cgo")
)

// Config says what to capture and how. DefaultConfig has all but the device.
type Config struct {
	Device string // name of the interface
	Point  uint16 // observation point of its frames

	// Rings is the number of packet rings, each with a goroutine and a decoder of its own.
	// The kernel steers all that concerns one client, both directions of its flows, and all
	// fragments of a datagram, to one ring.
	Rings int
	// HashFanOut has the kernel steer by its own hash of addresses and ports instead, which
	// separates a client's connections from its answers.
	HashFanOut bool
	// CPUs pins the rings' goroutines: ring i runs on CPUs[i mod len(CPUs)] and nowhere else.
	// Numbers are the kernel's; those of one memory node, the adapter's, serve best. Empty pins nothing.
	CPUs []int
	// BlockSize and Blocks give a ring's memory: BlockSize×Blocks bytes that the kernel
	// pins, BlockSize a power of two. Many small blocks are better than few large ones, as
	// each holds what came within BlockTimeout, however little: their number is how many
	// such spans the sensor may fall behind before frames are dropped.
	BlockSize int
	Blocks    int
	// BlockTimeout is how long the kernel keeps a block that is not full: the greatest
	// delay of a frame on a quiet line. Whole milliseconds.
	BlockTimeout time.Duration
	// SnapLen is how many bytes of a frame are captured.
	SnapLen int

	// Promiscuous makes the adapter take frames that are not addressed to it, as all on a
	// mirror port are.
	Promiscuous bool
	// IgnoreOutgoing leaves out what this host sends through the interface. On a mirror
	// port that is its own chatter. On a gateway it is half of the traffic; hence it is
	// off by default. On a loopback interface, where every frame goes out and comes in,
	// it is always on.
	IgnoreOutgoing bool
	// Prefilter is what keeps frames away that mean nothing to the decoder.
	Prefilter Prefilter
	// PrefilterFlows is how many UDP flows it remembers, about 120 bytes of the kernel's memory each.
	PrefilterFlows int
	// MirrorPort declares that the interface carries copies of frames and nothing that this
	// host needs: XDP may drop them. Tags that the adapter took off would escape XDP; it is told to leave
	// them in while the sensor is open. (A virtual pair hands them over apart from the frame
	// if its other end does; there, the same flow in two VLANs at a time counts once.)
	MirrorPort bool
	// DropTunnels has the kernel drop tunnelled packets, except those in UDP.
	DropTunnels bool

	Decode decode.Config // bounds of each ring's decoder
	Logger *slog.Logger  // for links that go down and come up; nil logs nothing
}

// DefaultConfig returns a configuration for a busy mirror port, with 28 MiB of memory a
// ring and a ring for each CPU up to 8.
func DefaultConfig() Config {
	return Config{
		Rings:        min(runtime.NumCPU(), 8),
		BlockSize:    128 << 10,
		Blocks:       224,
		BlockTimeout: time.Millisecond,
		SnapLen:      65535,
		Promiscuous:  true,
		Prefilter:    PrefilterAuto,

		PrefilterFlows: 1 << 18,

		Decode: decode.DefaultConfig(),
	}
}

// Bounds of Config.
const (
	maxRings       = 64
	maxCPUs        = 1024     // what a set of CPUs holds
	minBlockSize   = 64 << 10 // a frame has to fit; the greatest page size
	maxBlockSize   = 16 << 20
	maxRingSize    = 2 << 30
	maxBlockMillis = 1000
)

// Validate returns an error that names the first field out of bounds, and its value.
func (c Config) Validate() error {
	switch {
	case c.Device == "":
		return errors.New("sensor: Device is empty")
	case c.Rings < 1 || c.Rings > maxRings:
		return fmt.Errorf("sensor: Rings is %d, want 1 to %d", c.Rings, maxRings)
	case slices.ContainsFunc(c.CPUs, func(n int) bool { return n < 0 || n >= maxCPUs }):
		return fmt.Errorf("sensor: CPUs is %v, want numbers from 0 to %d", c.CPUs, maxCPUs-1)
	case c.BlockSize < minBlockSize || c.BlockSize > maxBlockSize || bits.OnesCount(uint(c.BlockSize)) != 1:
		return fmt.Errorf("sensor: BlockSize is %d bytes, want a power of two from %d to %d", c.BlockSize, minBlockSize, maxBlockSize)
	case c.Blocks < 2 || c.Blocks > maxRingSize/c.BlockSize:
		return fmt.Errorf("sensor: Blocks is %d, want 2 to %d of %d bytes", c.Blocks, maxRingSize/c.BlockSize, c.BlockSize)
	case c.BlockTimeout < time.Millisecond || c.BlockTimeout > maxBlockMillis*time.Millisecond || c.BlockTimeout%time.Millisecond != 0:
		return fmt.Errorf("sensor: BlockTimeout is %v, want whole milliseconds from 1ms to %dms", c.BlockTimeout, maxBlockMillis)
	case c.SnapLen < 1 || c.SnapLen > bpffilter.MaxSnapLen:
		return fmt.Errorf("sensor: SnapLen is %d bytes, want 1 to %d", c.SnapLen, bpffilter.MaxSnapLen)
	case !slices.Contains(Prefilters(), c.Prefilter):
		return fmt.Errorf("sensor: Prefilter is %q, want one of %q", c.Prefilter, Prefilters())
	case c.PrefilterFlows < 1 || c.PrefilterFlows > bpffilter.MaxFlows:
		return fmt.Errorf("sensor: PrefilterFlows is %d, want 1 to %d", c.PrefilterFlows, bpffilter.MaxFlows)
	}
	return c.Decode.Validate()
}
