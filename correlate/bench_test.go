package correlate

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"portolan/sensor/event"
)

// benchTable is a correlator in which each of n clients was given eight answers, with
// events to go on with. Clients come up in an order that no cache foresees.
type benchTable struct {
	c      *Correlator
	n      int
	i      int
	at     event.Time
	hits   []Hit
	lookup event.Lookup
	conn   event.Connection
}

const benchAnswers = 8

func newBenchTable(b *testing.B, n int) *benchTable {
	cfg := DefaultConfig()
	cfg.MemoryBytes = 4 << 30
	c, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	t := &benchTable{c: c, n: n, at: 1}
	t.lookup = event.Lookup{Resolver: netip.MustParseAddrPort("10.255.255.53:53"), Proto: event.UDP, Type: event.A}
	t.lookup.Records = make([]event.Record, 1)
	for i := range n {
		for k := range benchAnswers {
			t.observeLookup(uint32(i), uint32(k))
		}
	}
	t.at = t.at.Add(time.Minute)
	t.hits = c.Advance(t.hits[:0], t.at)
	return t
}

func (t *benchTable) client(i uint32) netip.AddrPort {
	return netip.AddrPortFrom(addr4(0x0A000000+i), 4000)
}

// answerOf returns an address that client i is given, the k-th of eight.
func answerOf(i, k uint32) netip.Addr { return addr4(0x50000000 + (i*benchAnswers+k)*2654435761>>3) }

func (t *benchTable) observeLookup(i, k uint32) {
	t.at += event.Time(100 * time.Microsecond)
	l := &t.lookup
	l.Time, l.Client = t.at, t.client(i)
	l.Name = names[i%uint32(len(names))]
	l.Records[0] = event.Record{Type: event.A, TTL: 60, Addr: answerOf(i, k), Owner: l.Name}
	t.hits = t.c.ObserveLookup(t.hits[:0], l)
}

func (t *benchTable) observeConnection(i uint32, dst netip.Addr) {
	t.at += event.Time(100 * time.Microsecond)
	t.conn = event.Connection{Time: t.at, Src: t.client(i), Dst: netip.AddrPortFrom(dst, 443), Proto: event.TCP}
	t.hits = t.c.ObserveConnection(t.hits[:0], &t.conn)
}

func (t *benchTable) next() uint32 {
	t.i++
	return uint32(uint64(t.i) * 2654435761 % uint64(t.n))
}

var names = func() (all [][]byte) {
	for i := range 1000 {
		all = append(all, fmt.Appendf(nil, "host-%d.cdn.example", i))
	}
	return all
}()

// BenchmarkTable gives the cost of an event at several sizes of the table, settling included,
// and the memory in use per client of eight answers.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{1e3, 1e5, 1e6} {
		var t *benchTable
		b.Run(fmt.Sprintf("clients=%.0e", float64(n)), func(b *testing.B) {
			t = newBenchTable(b, n)
			run := func(name string, f func(i uint32)) {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						f(t.next())
					}
				})
			}
			run("lookup", func(i uint32) { t.observeLookup(i, uint32(t.i)%benchAnswers) })
			run("explained", func(i uint32) { t.observeConnection(i, answerOf(i, uint32(t.i)%benchAnswers)) })
			run("unexplained", func(i uint32) { t.observeConnection(i, addr4(0x30000000+uint32(t.i))) })
			b.Run("memory", func(b *testing.B) {
				for b.Loop() {
				}
				t.hits = t.c.Flush(t.hits[:0])
				st := t.c.Stats()
				if st.Clients != uint64(n) || st.EvictedAnswers+st.EvictedClients+st.Refused != 0 {
					b.Fatalf("not all are remembered: %+v", st)
				}
				b.ReportMetric(float64(st.MemoryBytes-st.FixedBytes)/float64(n), "B/client")
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				b.ReportMetric(float64(m.PauseTotalNs)/float64(max(m.NumGC, 1)), "ns/GC-pause")
			})
		})
	}
}

// BenchmarkUnexplained is the cost of a connection that no lookup explains, by how many
// answers compete.
func BenchmarkUnexplained(b *testing.B) {
	for _, n := range []int{1, 8, 32, 128} {
		b.Run(fmt.Sprintf("answers=%d", n), func(b *testing.B) {
			c := freshTable(b)
			var hits []Hit
			for i := range n {
				hits = c.ObserveLookup(hits[:0], lookupOf(event.Time(i), "10.0.0.7", answerOf(1, uint32(i))))
			}
			x := connectionOf(0, "10.0.0.7", netip.MustParseAddrPort("81.2.69.142:443"))
			at := event.Time(time.Minute)
			b.ReportAllocs()
			for b.Loop() {
				at += event.Time(10 * time.Millisecond)
				x.Time = at
				hits = c.ObserveConnection(hits[:0], x)
			}
		})
	}
}
