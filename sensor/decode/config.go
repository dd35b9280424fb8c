package decode

import (
	"fmt"
)

// Config bounds what a Decoder remembers. All memory is taken by New; none grows with the
// input. Numbers of entries are rounded up to 8 times a power of two.
type Config struct {
	Starts        int // TCP connections remembered to tell repeats; 20 bytes each
	Flows         int // UDP flows remembered; 16 bytes each
	Fragments     int // datagrams under reassembly at once; 48 bytes each
	FragmentBytes int // bytes for the pieces of these, in blocks of 2 KiB
	Streams       int // DNS streams over TCP at once; 48 bytes each
	StreamBytes   int // bytes for incomplete messages and out-of-order segments of these, in blocks of 2 KiB
}

// DefaultConfig returns bounds for a busy mirror port: about 22 MiB a Decoder, most of
// which stays untouched on a quiet one.
func DefaultConfig() Config {
	return Config{
		Starts:        1 << 18,
		Flows:         1 << 18,
		Fragments:     1 << 10,
		FragmentBytes: 4 << 20,
		Streams:       1 << 12,
		StreamBytes:   8 << 20,
	}
}

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
	return nil
}
