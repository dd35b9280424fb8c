package correlate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"portolan/sensor/event"
)

// Batches of any size, in any number of parts, from any number of shards, end in the hits that the same events give one by one.
func TestObserveBatch(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Hold, cfg.AddressWindow, cfg.PortWindow, cfg.MemoryBytes = 10*time.Second, 60*time.Second, 30*time.Second, 256<<20
	hits := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		lookups, connections := worldOf(r, cfg)
		want := finalsOf(t, cfg, lookups, connections)
		hits += len(want)
		cfg.Shards = 1 << r.IntN(8)
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var given []Hit
		var b event.Batch
		most := 1 + r.IntN(200)
		for i, j := 0, 0; i < len(lookups) || j < len(connections); {
			if j == len(connections) || i < len(lookups) && lookups[i].Time <= connections[j].Time {
				b.Lookup(&lookups[i])
				i++
			} else {
				b.Connection(&connections[j])
				j++
			}
			if b.Len() > r.IntN(most) {
				parts := 1 + r.IntN(3)
				for part := range parts {
					given = c.ObservePart(given, &b, part, parts)
				}
				b.Reset()
			}
		}
		given = c.Flush(c.ObserveBatch(given, &b))
		if got := briefs(given); !slices.Equal(got, want) {
			t.Fatalf("seed %d: in batches %v, one by one %v", seed, got, want)
		}
		if st := c.Stats(); st.Lookups != uint64(len(lookups)) || st.Connections != uint64(len(connections)) {
			t.Fatalf("seed %d: %d lookups and %d connections were counted, want %d and %d",
				seed, st.Lookups, st.Connections, len(lookups), len(connections))
		}
	}
	if hits < 100 {
		t.Errorf("%d hits: the events test too little", hits)
	}
}
