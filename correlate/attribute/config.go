package attribute

import (
	"fmt"
	"net/netip"
	"time"

	"portolan/sensor/event"
)

// Config says how hits and records are joined.
type Config struct {
	HitBytes    int64 // memory for hits that records may still explain, from 64 KiB
	RecordBytes int64 // memory for records whose hits may still come, from 64 KiB
	HostBytes   int64 // memory for what hosts say of themselves, from 64 KiB

	Window time.Duration // between a hit and a record that names its five-tuple, by two clocks, at most; above 0
	Near   time.Duration // the same for a record that names less, once the host's skew is known; above 0
	Far    time.Duration // and before it is known; from Near to Window
	Settle time.Duration // how long an answer short of the five-tuple waits for others that contradict it; from 0
	Wait   time.Duration // after which a hit without an answer is told to have none; from Settle
	Recall time.Duration // a hit older than that, when it is first seen, is not told to have no answer; above 0

	NAT []NAT
}

// NAT says that hosts with inside addresses are seen with outside ones. Where both are equally
// large the rest of the address stays, and the port too; else only destination and time tell
// hosts apart.
type NAT struct {
	Inside, Outside netip.Prefix
	From, Until     event.Time // when that holds; 0 for no bound
}

// DefaultConfig returns the settings that suit most.
func DefaultConfig() Config {
	return Config{
		HitBytes:    64 << 20,
		RecordBytes: 128 << 20,
		HostBytes:   64 << 20,
		Window:      2 * time.Minute,
		Near:        500 * time.Millisecond,
		Far:         5 * time.Second,
		Settle:      750 * time.Millisecond,
		Wait:        20 * time.Second,
		Recall:      24 * time.Hour,
	}
}

// minBytes is the least of each share of memory.
const minBytes = 64 << 10

// Validate returns an error that names the first field with a value that cannot be.
func (c Config) Validate() error {
	for _, m := range []struct {
		name  string
		bytes int64
	}{{"hit bytes", c.HitBytes}, {"record bytes", c.RecordBytes}, {"host bytes", c.HostBytes}} {
		if m.bytes < minBytes {
			return fmt.Errorf("%s %d: want at least %d", m.name, m.bytes, minBytes)
		}
	}
	switch {
	case c.Near <= 0:
		return fmt.Errorf("near %v: want above 0", c.Near)
	case c.Far < c.Near || c.Far > c.Window:
		return fmt.Errorf("far %v: want from near, %v, to window, %v", c.Far, c.Near, c.Window)
	case c.Settle < 0:
		return fmt.Errorf("settle %v: want 0 or above", c.Settle)
	case c.Wait < c.Settle:
		return fmt.Errorf("wait %v: want at least settle, %v", c.Wait, c.Settle)
	case c.Recall <= 0:
		return fmt.Errorf("recall %v: want above 0", c.Recall)
	}
	for i, n := range c.NAT {
		if err := n.validate(); err != nil {
			return fmt.Errorf("nat %d: %w", i+1, err)
		}
	}
	return nil
}

func (n NAT) validate() error {
	switch {
	case !n.Inside.IsValid() || n.Inside.Masked() != n.Inside:
		return fmt.Errorf("inside %v: want a prefix without host bits", n.Inside)
	case !n.Outside.IsValid() || n.Outside.Masked() != n.Outside:
		return fmt.Errorf("outside %v: want a prefix without host bits", n.Outside)
	case n.From != 0 && n.Until != 0 && n.Until < n.From:
		return fmt.Errorf("until %s: want after from, %s", timeText(n.Until), timeText(n.From))
	}
	return nil
}

// oneToOne reports whether each outside address stands for one inside.
func (n *NAT) oneToOne() bool {
	return n.Inside.Addr().BitLen() == n.Outside.Addr().BitLen() && n.Inside.Bits() == n.Outside.Bits()
}

// covers reports whether an outside address is meant at t.
func (n *NAT) covers(outside netip.Addr, t event.Time) bool {
	return n.Outside.Contains(outside) && (n.From == 0 || t >= n.From) && (n.Until == 0 || t <= n.Until)
}

// inside returns the address behind an outside one; n is oneToOne.
func (n *NAT) inside(outside netip.Addr) netip.Addr {
	in, out := n.Inside.Addr().AsSlice(), outside.AsSlice()
	bits := n.Inside.Bits()
	for i := range in {
		keep := byte(0)
		if left := bits - 8*i; left >= 8 {
			keep = 0xff
		} else if left > 0 {
			keep = 0xff << (8 - left)
		}
		in[i] = in[i]&keep | out[i]&^keep
	}
	a, _ := netip.AddrFromSlice(in)
	return a
}
