package event

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

type transcript []string

func (t *transcript) Lookup(l *Lookup)         { *t = append(*t, fmt.Sprintf("%+v", *l)) }
func (t *transcript) Connection(c *Connection) { *t = append(*t, fmt.Sprintf("%+v", *c)) }

// feed gives a sink n events as a decoder does: their bytes change as soon as it returns.
func feed(to Sink, n int) {
	buf := make([]byte, 0, 64)
	for i := range n {
		if i%3 == 1 {
			to.Connection(&Connection{Time: Time(i), Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 7)})
			continue
		}
		buf = fmt.Appendf(buf[:0], "host%04d.example|target%04d", i, i)
		name, target := buf[:16], buf[17:]
		to.Lookup(&Lookup{Time: Time(i), Name: name, Records: []Record{
			{Type: A, Owner: name, TTL: uint32(i)},
			{Type: SRV, Owner: name[4:], Target: target},
			{Type: TXT, Owner: name[4:], Text: target[2:]},
			{Type: AAAA, Owner: name},
		}[:i%5]})
		clear(buf[:cap(buf)])
	}
}

// TestBatchKeepsEvents: what comes out is what went in, in the same order, also after Reset,
// and while the batch grew.
func TestBatchKeepsEvents(t *testing.T) {
	var b Batch
	for _, n := range []int{0, 1, 2, 100, 3, 3000} {
		var want, got transcript
		feed(&want, n)
		b.Reset()
		feed(&b, n)
		b.Each(&got)
		if b.Len() != n || !slices.Equal(got, want) {
			t.Errorf("%d events in, %d out, or others than went in", n, b.Len())
		}
		if len(b.Lookups())+len(b.Connections()) != n {
			t.Errorf("%d lookups and %d connections, want %d together", len(b.Lookups()), len(b.Connections()), n)
		}
	}
}

func TestBatchFull(t *testing.T) {
	text := make([]byte, fullBytes/2)
	fill := map[string]struct {
		put  func(*Batch)
		want int
	}{
		"events":  {func(b *Batch) { b.Connection(&Connection{}) }, fullEvents},
		"records": {func(b *Batch) { b.Lookup(&Lookup{Records: make([]Record, 1024)}) }, fullRecords / 1024},
		"bytes":   {func(b *Batch) { b.Lookup(&Lookup{Name: text}) }, 2},
	}
	for name, f := range fill {
		var b Batch
		for !b.Full() {
			f.put(&b)
		}
		if b.Len() != f.want {
			t.Errorf("full of %s after %d events, want %d", name, b.Len(), f.want)
		}
		if b.Reset(); b.Full() || b.Len() != 0 {
			t.Errorf("full of %s after Reset", name)
		}
	}
}

func TestBatchAllocations(t *testing.T) {
	var b Batch
	l := Lookup{Name: []byte("cdn.example"), Records: make([]Record, 20)}
	for i := range l.Records {
		l.Records[i] = Record{Type: A, Owner: l.Name, Text: []byte("text")}
	}
	round := func() {
		b.Reset()
		for range 50 {
			b.Lookup(&l)
			b.Connection(&Connection{})
		}
	}
	round()
	if n := testing.AllocsPerRun(20, round); n != 0 {
		t.Errorf("%v allocations for 100 events", n)
	}
}

func BenchmarkBatch(b *testing.B) {
	var batch Batch
	name := []byte("cdn.example")
	l := Lookup{Name: name, Records: []Record{{Type: A, Owner: name, Addr: netip.AddrFrom4([4]byte{198, 51, 100, 23})}}}
	c := Connection{Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 7}), 7)}
	bench := func(put func()) func(*testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if put(); batch.Len() == 1024 {
					batch.Reset()
				}
			}
		}
	}
	b.Run("lookup with 1 answer", bench(func() { batch.Lookup(&l) }))
	b.Run("connection", bench(func() { batch.Connection(&c) }))
}
