//go:build !linux

package lab

import (
	"time"

	"golang.org/x/net/bpf"
)

// Ends of a wire.
const (
	NearDevice = "near"
	WireDevice = "mirror"
)

// Wire exists on Linux only.
type Wire struct{}

// NewWire returns an error.
func NewWire(Mix, []int) (*Wire, error) { return nil, errLinux }

// Do returns an error.
func (*Wire) Do(func() error) error { return errLinux }

// Send returns an error.
func (*Wire) Send(float64) error { return errLinux }

// Stop returns an error.
func (*Wire) Stop() error { return errLinux }

// Counts returns an error.
func (*Wire) Counts() (Traversed, error) { return Traversed{}, errLinux }

// Close does nothing.
func (*Wire) Close() error { return nil }

// BareRing exists on Linux only.
type BareRing struct{}

// OpenBareRing returns an error.
func OpenBareRing(string, int, int, time.Duration, []bpf.RawInstruction) (*BareRing, error) {
	return nil, errLinux
}

// Frames returns 0.
func (*BareRing) Frames() uint64 { return 0 }

// Dropped returns an error.
func (*BareRing) Dropped() (uint64, error) { return 0, errLinux }

// Close does nothing.
func (*BareRing) Close() error { return nil }

// ProcessCPU returns an error.
func ProcessCPU() (time.Duration, error) { return 0, errLinux }
