package correlate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"portolan/sensor/event"
)

// What a mirror delivers twice, and what a client sends again, changes no final hit.
func TestDuplicatesChangeNothing(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Hold, cfg.AddressWindow, cfg.PortWindow, cfg.MemoryBytes = 10*time.Second, 60*time.Second, 30*time.Second, 256<<20
	hits := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		lookups, connections := worldOf(r, cfg)
		want := finalsOf(t, cfg, lookups, connections)
		hits += len(want)
		// Copies: the lookup again at the same time, the connection again, from the same port.
		lookups = append(lookups, lookups[:len(lookups)/2]...)
		connections = append(connections, connections[len(connections)/2:]...)
		slices.SortStableFunc(lookups, func(a, b event.Lookup) int { return int(a.Time - b.Time) })
		slices.SortStableFunc(connections, func(a, b event.Connection) int { return int(a.Time - b.Time) })
		if got := finalsOf(t, cfg, lookups, connections); !slices.Equal(got, want) {
			t.Fatalf("seed %d: with copies %v, without %v", seed, got, want)
		}
	}
	if hits < 100 {
		t.Errorf("%d hits: the events test too little", hits)
	}
}

type brief struct {
	id    ID
	level Level
	e     float64
}

// finalsOf returns the final hits with arithmetic, in order of their ids.
func finalsOf(t *testing.T, cfg Config, lookups []event.Lookup, connections []event.Connection) []brief {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var given []Hit
	for len(lookups)+len(connections) > 0 {
		if len(connections) == 0 || len(lookups) > 0 && lookups[0].Time <= connections[0].Time {
			given = c.ObserveLookup(given, &lookups[0])
			lookups = lookups[1:]
		} else {
			given = c.ObserveConnection(given, &connections[0])
			connections = connections[1:]
		}
	}
	return briefs(c.Flush(given))
}

// briefs returns of all that was given out the final hits with arithmetic, in order of their ids.
func briefs(given []Hit) (all []brief) {
	for _, h := range finals(given) {
		if h.Level != Lead {
			all = append(all, brief{h.ID, h.Level, h.Calc.EValue})
		}
	}
	slices.SortFunc(all, func(a, b brief) int { return slices.Compare(a.id[:], b.id[:]) })
	return all
}

// A client that walks through many destinations, or whose cameras are numbered by their addresses, and its
// implants: what it does is no alert and teaches no key, and the implants are found all the same.
func TestCrowdWithImplant(t *testing.T) {
	const client = "10.0.0.7"
	keys := []string{"xor-learned", "add-learned", "permute-xor", "offset-learned"}
	for _, tt := range []struct {
		name string
		// dst returns where the i-th connection goes; answered says that the client was told the address.
		dst  func(r *rand.Rand, i int) (y uint32, port uint16, answered bool)
		gate bool // so much is to teach nothing
	}{
		{"scanner of a network", func(_ *rand.Rand, i int) (uint32, uint16, bool) { return 0x51020000 + uint32(i), 445, false }, true},
		{"scanner of ports", func(_ *rand.Rand, i int) (uint32, uint16, bool) { return 0x51020304, uint16(i), false }, false},
		{"swarm of 600 peers", func(r *rand.Rand, _ int) (uint32, uint16, bool) {
			y := uint32(r.IntN(600)) * 2654435761
			return y%(220<<24) | 1<<24, uint16(1024 + y%64000), false
		}, true},
		{"cameras inside on 8000 + last octet", func(r *rand.Rand, _ int) (uint32, uint16, bool) {
			octet := uint32(10 + r.IntN(200))
			return 0x0A140100 | octet, uint16(8000 + octet), true
		}, false},
		{"cameras behind a public gateway", func(r *rand.Rand, _ int) (uint32, uint16, bool) {
			return 0x51020304, uint16(8000 + 10 + r.IntN(200)), true
		}, true},
		{"cameras at public addresses of one network", func(r *rand.Rand, _ int) (uint32, uint16, bool) {
			octet := uint32(10 + r.IntN(200))
			return 0x51020000 | octet, uint16(8000 + octet), true
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(11, 12))
			c := freshTable(t)
			var given []Hit
			at := event.Time(0)
			for i := range 20_000 {
				at = at.Add(50 * time.Millisecond)
				if i%40 == 0 { // the host also browses
					given = c.ObserveLookup(given, lookupOf(at, client, addr4(0x60000000|r.Uint32()>>4)))
				}
				y, port, answered := tt.dst(r, i)
				if answered {
					given = c.ObserveLookup(given, lookupOf(at, client, addr4(y)))
				}
				given = c.ObserveConnection(given, connectionOf(at.Add(time.Millisecond), client, netipAddrPort(y, port)))
			}
			for _, h := range finals(given) {
				if h.Level == Alert || h.Level == Watch && slices.Contains(keys, h.Calc.Name) {
					t.Errorf("%v on %s: %s, e-value %.3g", h.Level, h.Connection.Dst, h.Calc.Expression, h.Calc.EValue)
				}
			}
			if st := c.Stats(); tt.gate != (st.Gated > 0) && tt.name != "scanner of ports" {
				t.Errorf("%d trials were gated", st.Gated)
			}
			contact := func(x, y uint32, port uint16) Level {
				at = at.Add(time.Minute)
				given = c.ObserveLookup(given[:0], lookupOf(at, client, addr4(x)))
				given = c.ObserveConnection(given, connectionOf(at.Add(time.Millisecond), client, netipAddrPort(y, port)))
				level := None
				for _, h := range given {
					if h.State == Provisional {
						level = max(level, h.Level)
					}
				}
				return level
			}
			if level := contact(0x57F32D9C, 0x2D9C57F3, 443); level != Alert {
				t.Errorf("half-swap on the same host: %v at the first contact, want an alert", level)
			}
			level := None
			for _, x := range []uint32{0x22F52D99, 0x2B4E7153, 0x5E1C8A37} {
				level = max(level, contact(x, x, uint16((x>>24)*(x>>16&255)+x>>8&255)))
			}
			if level != Alert {
				t.Errorf("mul-add on the same host: %v by the third contact, want an alert", level)
			}
		})
	}
}
