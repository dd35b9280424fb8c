package decode

import (
	"errors"
	"fmt"
	"slices"
)

// Config bounds what a Decoder remembers. All memory is taken by New; none grows with the
// input. Numbers of entries are rounded up to 8 times a power of two.
type Config struct {
	Starts        int // TCP connections remembered to tell repeats; 24 bytes each
	Flows         int // UDP flows remembered; 16 bytes each
	Fragments     int // datagrams under reassembly at once; 48 bytes each
	FragmentBytes int // bytes for the pieces of these, in blocks of 2 KiB
	Streams       int // DNS streams over TCP at once; 48 bytes each
	StreamBytes   int // bytes for incomplete messages and out-of-order segments of these, in blocks of 2 KiB

	// VXLANPorts are the UDP ports that VXLAN packets go to, at most 16. A datagram on one of
	// them that has not the form of VXLAN is a datagram like any other.
	VXLANPorts []uint16
}

// DefaultConfig returns bounds for a busy mirror port: about 23 MiB a Decoder, most of
// which stays untouched on a quiet one.
func DefaultConfig() Config {
	return Config{
		Starts:        1 << 18,
		Flows:         1 << 18,
		Fragments:     1 << 10,
		FragmentBytes: 4 << 20,
		Streams:       1 << 12,
		StreamBytes:   8 << 20,
		VXLANPorts:    DefaultVXLANPorts(),
	}
}

// DefaultVXLANPorts returns the port of RFC 7348, which cloud networks mirror to as well;
// the one that Linux had before there was a number; and the two of Azure's gateway load
// balancer.
func DefaultVXLANPorts() []uint16 {
	return []uint16{portVXLAN, portVXLANOld, portAzureIn, portAzureOut}
}

// maxVXLANPorts bounds Config.VXLANPorts.
const maxVXLANPorts = 16

// The least and greatest bounds that Validate admits. A byte budget has to hold one
// message of the greatest size, 65,535 bytes and its length.
const (
	minEntries, maxEntries = 64, 1 << 26
	minBytes, maxBytes     = 256 << 10, 1 << 30
)

// Validate returns an error that names the first field out of bounds, and its value.
func (c Config) Validate() error {
	for _, f := range [...]struct {
		name        string
		v, min, max int
	}{
		{"Starts", c.Starts, minEntries, maxEntries},
		{"Flows", c.Flows, minEntries, maxEntries},
		{"Fragments", c.Fragments, minEntries, maxEntries},
		{"FragmentBytes", c.FragmentBytes, minBytes, maxBytes},
		{"Streams", c.Streams, minEntries, maxEntries},
		{"StreamBytes", c.StreamBytes, minBytes, maxBytes},
	} {
		if f.v < f.min || f.v > f.max {
			return fmt.Errorf("decode: %s is %d, want %d to %d", f.name, f.v, f.min, f.max)
		}
	}
	if n := len(c.VXLANPorts); n > maxVXLANPorts {
		return fmt.Errorf("decode: VXLANPorts has %d ports, want at most %d", n, maxVXLANPorts)
	}
	if slices.Contains(c.VXLANPorts, dnsPort) || slices.Contains(c.VXLANPorts, 0) {
		return errors.New("decode: VXLANPorts holds 0 or 53, which are no tunnel's")
	}
	return nil
}
