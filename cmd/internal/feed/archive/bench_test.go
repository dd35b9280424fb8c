package archive

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"portolan/cmd/internal/feed/feedtest"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// nothing is a feed.Sink that counts.
type nothing struct{ n int }

func (s *nothing) Lookup(*event.Lookup)         { s.n++ }
func (s *nothing) Connection(*event.Connection) { s.n++ }
func (s *nothing) Record(*attribute.Record)     { s.n++ }

// site returns n lookups and n connections, of a site with 20 of each in a second.
func site(n int) *feedtest.Logs {
	logs := &feedtest.Logs{}
	resolver := netip.MustParseAddrPort("10.0.0.53:53")
	for i := range n {
		at := event.Time(storyBegin + i*50e6)
		client := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		server := netip.AddrFrom4([4]byte{203, 0, byte(i >> 7), byte(i * 7)})
		name := fmt.Appendf(nil, "host-%d.service.example", i%5000)
		logs.Lookup(&event.Lookup{
			Time: at, Client: netip.AddrPortFrom(client, 40000), Resolver: resolver, Proto: event.UDP, ID: uint16(i), Type: event.A, Name: name,
			Records: []event.Record{{Type: event.A, TTL: 60, Addr: server, Owner: name}, {Type: event.A, TTL: 60, Addr: server.Next(), Owner: name}},
		})
		logs.Connection(&event.Connection{
			Time: at + 4e6, Src: netip.AddrPortFrom(client, uint16(i)), Dst: netip.AddrPortFrom(server, 443), Proto: event.TCP,
		})
	}
	return logs
}

// BenchmarkRun reads logs from files, puts them in order and hands them on. What counts is how many records that
// takes a second of a core's time, all goroutines and the collector included, whatever else the machine does.
func BenchmarkRun(b *testing.B) {
	const n = 100_000
	logs := site(n)
	dns, conn := logs.ZeekTSV()
	b.Run("zeek-tsv", func(b *testing.B) { benchmark(b, 2*n, dns, conn) })
	dns, conn = logs.ZeekJSON(false)
	b.Run("zeek-json", func(b *testing.B) { benchmark(b, 2*n, dns, conn) })
	b.Run("eve-v2", func(b *testing.B) { benchmark(b, 2*n, logs.EVE(2, false)) })
	b.Run("eve-v3-grouped", func(b *testing.B) { benchmark(b, 2*n, logs.EVE(3, true)) })
}

func benchmark(b *testing.B, records int, files ...string) {
	dir, bytes := b.TempDir(), 0
	for i, text := range files {
		write(b, dir, fmt.Sprint(i), []byte(text))
		bytes += len(text)
	}
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		a, err := Open([]string{dir}, DefaultConfig())
		if err != nil {
			b.Fatal(err)
		}
		var sink nothing
		if _, err := a.Run(context.Background(), &sink); err != nil || sink.n != records {
			b.Fatalf("%d records, %v; want %d", sink.n, err, records)
		}
	}
	b.ReportMetric(float64(records)*float64(b.N)/(cpuTime(b)-before).Seconds(), "records/cpu-s")
}

// cpuTime returns the time that the process has had of all cores.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
