package correlate

import (
	"fmt"
	"net/netip"
	"time"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
)

// Config says how far back the correlator looks and how much memory it may use. Take
// DefaultConfig and change what must differ.
type Config struct {
	// Shards is the number of independently locked parts, a power of two from 1 to 4096.
	Shards int
	// MemoryBytes bounds the whole table, from 1 MiB up: an eighth of it (at most 1 MiB a shard) for names, a quarter for
	// what is learned, some twentieth for the index, the rest for clients, answers and pending events, which leave a
	// sixteenth of it to the histories of clients that make trials. A client takes 64 bytes,
	// 32 for each answer (64 for one that is not IPv4), in blocks that are on average a fifth
	// larger, and 80 once it has made a trial: 384 with eight answers and a resolver. One that learns takes some 4,500 besides.
	// Not counted are the queue of clients with pending events (16 bytes each), the lists of free places (4 bytes
	// each), and the evidence of at most 4,096 clients a shard that a hypothesis predicted a
	// connection of: 64 hypotheses and 256 trials, some 50 KB, for each at most.
	MemoryBytes int64
	// Alloc returns n bytes of zeros for ever, beginning at a multiple of 64; it is asked for at most
	// MemoryBytes in all. Nil takes them from the heap. Huge pages make a large table faster.
	Alloc func(n int) []byte

	// AddressWindow is how long an answer can be the operand of a transform, PortWindow of a
	// formula, after it was last given; both are stretched to the record's TTL, but not beyond MaxTTL.
	AddressWindow, PortWindow, MaxTTL time.Duration

	// Hold is how long an event waits, in packet time, for others stamped earlier that are
	// still on their way. Events that arrive no more than half of it late change nothing
	// in the final set of hits.
	Hold time.Duration

	// AnswersPerClient and PendingPerClient bound what is kept for one client; 4 to 1024.
	AnswersPerClient, PendingPerClient int

	// Alert and Watch are the e-values from which a hit has that level.
	Alert, Watch float64
	// VolumeThreshold is how many distinct connections one hypothesis must have predicted for
	// a client before the next is an alert and not a watch; from 1, which asks for no more than the e-value does, to 100.
	VolumeThreshold int

	// ResolverWhitelist lists resolvers whose answers explain connections but are never
	// operands (the analytic's ResolverWhitelist). Empty by default: malware asks public resolvers.
	ResolverWhitelist []netip.Prefix
	// EphemeralPortRange is the first and last port that formulas are tried on (the
	// analytic's EphemeralPortRange). All by default: formulas give any port.
	EphemeralPortRange [2]uint16

	// Seed, when it is not 0, is what hashes and decoys are drawn from, so that the same events give the same
	// counts again. A sensor leaves it 0: whoever knows the seed can aim at its decoys.
	Seed uint64

	// Hypotheses are the operator's own; at most hypothesis.MaxCustom.
	Hypotheses []hypothesis.Custom
	// Baseline learns what is ordinary in each zone. It is read and taught, and may be shared with
	// nobody but who exports it. Without one the fixed prior and the client's own history decide.
	Baseline *baseline.Model
}

// DefaultConfig returns the settings that suit a sensor of some 100,000 clients.
func DefaultConfig() Config {
	return Config{
		Shards:             64,
		MemoryBytes:        512 << 20,
		AddressWindow:      1200 * time.Second,
		PortWindow:         600 * time.Second,
		MaxTTL:             24 * time.Hour,
		Hold:               2 * time.Second,
		AnswersPerClient:   128,
		PendingPerClient:   64,
		Alert:              1e6,
		Watch:              1e3,
		VolumeThreshold:    1,
		EphemeralPortRange: [2]uint16{1, 65535},
	}
}

// Validate names the first field that is out of range.
func (c Config) Validate() error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s %v: want %s", field, value, want)
	}
	switch {
	case c.Shards < 1 || c.Shards > 4096 || c.Shards&(c.Shards-1) != 0:
		return bad("Shards", c.Shards, "a power of two from 1 to 4096")
	case c.MemoryBytes < 1<<20:
		return bad("MemoryBytes", c.MemoryBytes, "at least 1048576")
	case c.AddressWindow <= 0 || c.AddressWindow > 24*time.Hour:
		return bad("AddressWindow", c.AddressWindow, "more than 0 and at most 24h")
	case c.PortWindow <= 0 || c.PortWindow > 24*time.Hour:
		return bad("PortWindow", c.PortWindow, "more than 0 and at most 24h")
	case c.MaxTTL < 0 || c.MaxTTL > 7*24*time.Hour:
		return bad("MaxTTL", c.MaxTTL, "from 0 to 168h")
	case c.Hold <= 0 || c.Hold > time.Minute:
		return bad("Hold", c.Hold, "more than 0 and at most 1m")
	case c.AnswersPerClient < 4 || c.AnswersPerClient > 1024:
		return bad("AnswersPerClient", c.AnswersPerClient, "4 to 1024")
	case c.PendingPerClient < 4 || c.PendingPerClient > 1024:
		return bad("PendingPerClient", c.PendingPerClient, "4 to 1024")
	case !(c.Watch >= 10):
		return bad("Watch", c.Watch, "at least 10")
	case !(c.Alert >= c.Watch):
		return bad("Alert", c.Alert, "at least Watch")
	case c.VolumeThreshold < 1 || c.VolumeThreshold > 100:
		return bad("VolumeThreshold", c.VolumeThreshold, "1 to 100")
	case c.EphemeralPortRange[0] == 0 || c.EphemeralPortRange[0] > c.EphemeralPortRange[1]:
		return bad("EphemeralPortRange", c.EphemeralPortRange, "first and last port, rising, from 1")
	}
	if err := hypothesis.ValidateCustom(c.Hypotheses); err != nil {
		return fmt.Errorf("%s: %w", "Hypotheses", err)
	}
	for _, p := range c.ResolverWhitelist {
		if !p.IsValid() {
			return bad("ResolverWhitelist", p, "addresses or prefixes")
		}
	}
	return nil
}
