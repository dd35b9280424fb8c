package correlate

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// benchTable is a correlator in which each of n clients was given eight answers, with
// events to go on with. Clients come up in an order that no cache foresees.
type benchTable struct {
	c     *Correlator
	n     int
	i     int
	at    event.Time
	hits  []Hit
	batch event.Batch
	step  event.Time // between two events

	lookup event.Lookup
	conn   event.Connection
}

const (
	benchAnswers = 8
	benchBatch   = 2048 // events; a block of a ring holds about as many
)

func newBenchTable(b *testing.B, n int, alloc func(int) []byte) *benchTable {
	cfg := DefaultConfig()
	cfg.MemoryBytes = max(1<<30, int64(n)*1500)
	cfg.Alloc = alloc
	c, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	t := &benchTable{c: c, n: n, at: 1, step: event.Time(100 * time.Microsecond)}
	t.lookup = event.Lookup{Resolver: netip.MustParseAddrPort("10.255.255.53:53"), Proto: event.UDP, Type: event.A}
	t.lookup.Records = make([]event.Record, 1)
	for i := range n {
		for k := range benchAnswers {
			t.batch.Lookup(t.nextLookup(uint32(i), uint32(k)))
		}
		if t.batch.Len() >= benchBatch || i == n-1 {
			t.observe()
		}
	}
	t.at = t.at.Add(time.Minute)
	t.hits = c.Advance(t.hits[:0], t.at)
	return t
}

// observe hands the batch to the correlator.
func (t *benchTable) observe() {
	t.hits = t.c.ObserveBatch(t.hits[:0], &t.batch)
	t.batch.Reset()
}

func (t *benchTable) client(i uint32) netip.AddrPort {
	return netip.AddrPortFrom(addr4(0x0A000000+i), 4000)
}

// answerOf returns an address that client i is given, the k-th of eight.
func answerOf(i, k uint32) netip.Addr { return addr4(0x50000000 + (i*benchAnswers+k)*2654435761>>3) }

func (t *benchTable) nextLookup(i, k uint32) *event.Lookup {
	t.at += t.step
	l := &t.lookup
	l.Time, l.Client = t.at, t.client(i)
	l.Name = names[i%uint32(len(names))]
	l.Records[0] = event.Record{Type: event.A, TTL: 60, Addr: answerOf(i, k), Owner: l.Name}
	return l
}

func (t *benchTable) nextConnection(i uint32, dst netip.Addr) *event.Connection {
	t.at += t.step
	t.conn = event.Connection{Time: t.at, Src: t.client(i), Dst: netip.AddrPortFrom(dst, 443), Proto: event.TCP}
	return &t.conn
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

// benchClients are the sizes that tables are measured at. PORTOLAN_BENCH_CLIENTS adds another, such as
// 10000000, which takes 8 GB.
func benchClients(b *testing.B) []int {
	sizes := []int{1e3, 1e5, 1e6}
	if s := os.Getenv("PORTOLAN_BENCH_CLIENTS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// BenchmarkTable gives the cost of an event at several sizes of the table, settling included, one by one
// and in batches, the memory in use per client of eight answers, and the longest pause for
// garbage collection while one collection follows the other. Making the event is part of it, as is copying it into
// the batch: BenchmarkMakeEvents is what to take off.
func BenchmarkTable(b *testing.B) {
	for _, n := range benchClients(b) {
		b.Run(fmt.Sprintf("clients=%.0e", float64(n)), func(b *testing.B) {
			t := newBenchTable(b, n, hugePages)
			lookup := func() *event.Lookup { return t.nextLookup(t.next(), uint32(t.i)%benchAnswers) }
			explained := func() *event.Connection {
				i := t.next()
				return t.nextConnection(i, answerOf(i, uint32(t.i)%benchAnswers))
			}
			b.Run("memory", func(b *testing.B) {
				for b.Loop() {
				}
				st := t.c.Stats()
				if st.Clients != uint64(n) || st.EvictedAnswers+st.EvictedClients+st.Refused != 0 {
					b.Fatalf("not all are remembered: %+v", st)
				}
				b.ReportMetric(float64(st.MemoryBytes-st.FixedBytes)/float64(n), "B/client")
			})
			b.Run("lookup", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					t.hits = t.c.ObserveLookup(t.hits[:0], lookup())
				}
			})
			b.Run("explained", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					t.hits = t.c.ObserveConnection(t.hits[:0], explained())
				}
			})
			b.Run("lookup-batch", func(b *testing.B) {
				b.ReportAllocs()
				t.inBatches(b, func() { t.batch.Lookup(lookup()) })
			})
			b.Run("explained-batch", func(b *testing.B) {
				b.ReportAllocs()
				t.inBatches(b, func() { t.batch.Connection(explained()) })
			})
			b.Run("pauses", func(b *testing.B) {
				longest := collecting(func() { t.inBatches(b, func() { t.batch.Connection(explained()) }) })
				b.ReportMetric(float64(longest.Nanoseconds()), "ns/longest-pause")
			})
			// Last: each is the first unexplained destination of its client, which learning memory is made for.
			b.Run("unexplained", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					t.hits = t.c.ObserveConnection(t.hits[:0], t.nextConnection(t.next(), addr4(0x30000000+uint32(t.i))))
				}
			})
		})
	}
}

// inBatches is b.Loop with an event an iteration, observed in batches.
func (t *benchTable) inBatches(b *testing.B, put func()) {
	for b.Loop() {
		put()
		if t.batch.Len() == benchBatch {
			t.observe()
		}
	}
	t.observe()
}

// collecting runs f beside a garbage collector that never rests, and returns the longest time that all
// goroutines stood still for it.
func collecting(f func()) time.Duration {
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			runtime.GC()
		}
	})
	before := pauses()
	f()
	stop.Store(true)
	wg.Wait()
	after := pauses()
	longest := time.Duration(0)
	for i, n := range after.Counts {
		if n > before.Counts[i] {
			longest = time.Duration(after.Buckets[i+1] * 1e9)
		}
	}
	return longest
}

func pauses() *metrics.Float64Histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	return sample[0].Value.Float64Histogram()
}

// BenchmarkMakeEvents is the part of BenchmarkTable that is no business of the correlator.
func BenchmarkMakeEvents(b *testing.B) {
	t := &benchTable{n: 1e6}
	t.lookup.Records = make([]event.Record, 1)
	b.Run("lookup", func(b *testing.B) {
		for b.Loop() {
			t.nextLookup(t.next(), uint32(t.i)%benchAnswers)
		}
	})
	b.Run("lookup-batch", func(b *testing.B) {
		for b.Loop() {
			t.batch.Lookup(t.nextLookup(t.next(), uint32(t.i)%benchAnswers))
			if t.batch.Len() == benchBatch {
				t.batch.Reset()
			}
		}
	})
	b.Run("explained-batch", func(b *testing.B) {
		for b.Loop() {
			i := t.next()
			t.batch.Connection(t.nextConnection(i, answerOf(i, uint32(t.i)%benchAnswers)))
			if t.batch.Len() == benchBatch {
				t.batch.Reset()
			}
		}
	})
}

// BenchmarkTraffic is the cost of an event of generated traffic with everything on, one by one and in
// batches, and that of the generator by itself, which is part of both. To compare with a commit that has no
// such benchmark, copy this function and package traffic into its tree and run it there.
func BenchmarkTraffic(b *testing.B) {
	run := func(name string, to func(c *Correlator) event.Sink) {
		b.Run(name, func(b *testing.B) {
			cfg := traffic.DefaultConfig()
			cfg.Connections = 500_000
			events := 0
			for b.Loop() {
				b.StopTimer()
				g, err := traffic.New(cfg)
				if err != nil {
					b.Fatal(err)
				}
				c, err := New(DefaultConfig())
				if err != nil {
					b.Fatal(err)
				}
				counted := &counting{to: to(c), advance: c}
				b.StartTimer()
				if err := g.Feed(b.Context(), counted); err != nil {
					b.Fatal(err)
				}
				c.Flush(nil)
				events += counted.n
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
		})
	}
	run("generator", func(*Correlator) event.Sink { return nobody{} })
	run("one-by-one", func(c *Correlator) event.Sink { return &collector{c: c} })
	run("batch", func(c *Correlator) event.Sink { return &batching{c: c} })
}

// counting hands events on, counts them, and tells the correlator the time each second.
type counting struct {
	to      event.Sink
	advance *Correlator
	next    event.Time
	n       int
}

func (k *counting) tick(t event.Time) {
	if k.n++; t >= k.next {
		k.next = t.Add(time.Second)
		k.advance.Advance(nil, t)
	}
}

func (k *counting) Lookup(l *event.Lookup)         { k.tick(l.Time); k.to.Lookup(l) }
func (k *counting) Connection(x *event.Connection) { k.tick(x.Time); k.to.Connection(x) }

type nobody struct{}

func (nobody) Lookup(*event.Lookup)         {}
func (nobody) Connection(*event.Connection) {}

// batching hands events on as the sensor does.
type batching struct {
	c     *Correlator
	batch event.Batch
	hits  []Hit
}

func (k *batching) Lookup(l *event.Lookup)         { k.batch.Lookup(l); k.put() }
func (k *batching) Connection(x *event.Connection) { k.batch.Connection(x); k.put() }

func (k *batching) put() {
	if k.batch.Len() == benchBatch {
		k.hits = k.c.ObserveBatch(k.hits[:0], &k.batch)
		k.batch.Reset()
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
