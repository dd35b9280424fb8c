package decode

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"portolan/sensor/event"
)

// TestPoolAgainstBytes holds chains of blocks against one array of bytes in which those
// that come first stay.
func TestPoolAgainstBytes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		const size = 9000
		base := uint32(rnd.Uint64()) // near the wrap now and then
		if round%2 == 0 {
			base = 1<<32 - size/2
		}
		var want [size]byte
		var have [size]bool
		p := newPool(minBytes)
		head, blocks := none, 0
		for range 1 + rnd.IntN(20) {
			from := rnd.IntN(size)
			data := make([]byte, 1+rnd.IntN(min(size-from, 3000)))
			for i := range data {
				data[i] = byte(1 + rnd.IntN(255))
			}
			took, stored, ok := p.insert(&head, base, piece{seq: base + uint32(from), data: data}, maxBlocks-blocks)
			blocks += took
			if !ok {
				t.Fatalf("no room for %d bytes with %d blocks used", len(data), blocks)
			}
			fresh := 0
			for i, c := range data {
				if !have[from+i] {
					have[from+i], want[from+i] = true, c
					fresh++
				}
			}
			if stored != fresh {
				t.Fatalf("stored %d bytes of which %d were new", stored, fresh)
			}
		}
		run := slices.Index(have[:], false)
		if run < 0 {
			run = size
		}
		if n := p.run(head, base); n != run {
			t.Fatalf("a run of %d bytes, want %d", n, run)
		}
		got := make([]byte, size)
		if n, _, _ := p.whole(head, base, got); n != run || !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("%d bytes, want %d, or their values differ", n, run)
		}
		for head != none {
			head = p.release(head)
		}
		if p.avail != len(p.blocks) {
			t.Fatalf("%d of %d blocks given back", p.avail, len(p.blocks))
		}
	}
}

// TestStreamsInAnyOrder cuts streams of messages at random, delivers the segments out of
// order and some twice, and wants each message once, in order.
func TestStreamsInAnyOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var stream []byte
		var ids []uint16
		for i := range 1 + rnd.IntN(8) {
			id := uint16(i + 1)
			ids = append(ids, id)
			var rrs []string
			for range rnd.IntN(30) {
				rrs = append(rrs, "cdn.example. 60 IN A 198.51.100.23")
			}
			stream = append(stream, framed(answer(t, id, "cdn.example", 1, rrs...))...)
		}
		var cuts []int
		for range rnd.IntN(12) {
			cuts = append(cuts, 1+rnd.IntN(len(stream)-1))
		}
		slices.Sort(cuts)
		segments := segmentsOf(stream, slices.Compact(cuts)...)
		segments = append(segments, segments[rnd.IntN(len(segments))])
		rnd.Shuffle(len(segments), func(i, j int) { segments[i], segments[j] = segments[j], segments[i] })

		d := newDecoder(t, small)
		var got []event.Lookup
		d.Decode(frameOf(1, 0, ethernet(ip(resolver, client, protoTCP, tcp(dnsPort, 40000, 0, 1, syn|ack, nil)))), keepLookups{&got})
		for i, s := range segments {
			d.Decode(frameOf(uint64(i+2), time.Duration(i)*time.Millisecond, s), keepLookups{&got})
		}
		var seen []uint16
		for _, l := range got {
			seen = append(seen, l.ID)
		}
		if !slices.Equal(seen, ids) {
			t.Fatalf("messages %v out of %d segments, want %v", seen, len(segments), ids)
		}
		checkPool(t, &d.streams)
		if d.streams.pool.avail != len(d.streams.pool.blocks) {
			t.Fatalf("%d blocks still used", len(d.streams.pool.blocks)-d.streams.pool.avail)
		}
	}
}
