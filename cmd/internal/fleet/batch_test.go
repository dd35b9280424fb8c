package fleet

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"portolan/sensor/event"
)

// collector keeps copies of events.
type collector struct {
	lookups []event.Lookup
	conns   []event.Connection
}

func (c *collector) Lookup(l *event.Lookup) {
	k := *l
	k.Name = bytes.Clone(l.Name)
	k.Records = nil
	for _, r := range l.Records {
		r.Owner, r.Target, r.Text = bytes.Clone(r.Owner), bytes.Clone(r.Target), bytes.Clone(r.Text)
		k.Records = append(k.Records, r)
	}
	c.lookups = append(c.lookups, k)
}

func (c *collector) Connection(x *event.Connection) { c.conns = append(c.conns, *x) }

func sampleLookup() event.Lookup {
	name := []byte("cdn.example")
	return event.Lookup{
		Time: 1_700_000_000_123_456_789, Zone: event.Zone{Point: 7, Kind: event.VLAN, ID: 12},
		Client:   netip.MustParseAddrPort("10.0.0.7:40001"),
		Resolver: netip.MustParseAddrPort("[2001:db8::53]:53"),
		MAC:      event.MAC{2, 0, 0, 0, 0, 7}, Frame: 12, Proto: event.UDP, ID: 4711, Type: event.A, Name: name, RCode: 3, Truncated: true,
		Records: []event.Record{
			{Type: event.CNAME, TTL: 300, Owner: name, Target: []byte("edge.example")},
			{Type: event.A, TTL: 1<<32 - 1, Owner: []byte("edge.example"), Addr: netip.MustParseAddr("198.51.100.23")},
			{Type: event.AAAA, TTL: 60, Owner: name, Addr: netip.MustParseAddr("::ffff:198.51.100.23")},
			{Type: event.TXT, TTL: 0, Owner: name, Text: []byte("\x00\xff text")},
			{Type: event.SRV, TTL: 5, Owner: name, Port: 5060, Target: []byte("sip.example")},
		},
	}
}

func sampleConnection() event.Connection {
	return event.Connection{
		Time: 1_700_000_000_000_000_000, Zone: event.Zone{Kind: event.ERSPAN, ID: 1 << 31},
		Src: netip.MustParseAddrPort("[2001:db8::7]:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
		MAC: event.MAC{2, 0, 0, 0, 0, 8}, Frame: 1 << 40, Proto: event.TCP, Start: event.SYNACK,
	}
}

func sampleBatch() []byte {
	l, x := sampleLookup(), sampleConnection()
	const base = 1_700_000_000_100_000_000
	b := appendLookup(make([]byte, headerLen), base, l.Zone, &l)
	b = appendConnection(b, base, x.Zone, &x)
	h := header{epoch: 99, sequence: 3, partitions: 16, base: base, reached: 5, count: 2}
	h.put(b)
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	var c collector
	h, err := new(decoder).decode(sampleBatch(), &c)
	if err != nil {
		t.Fatal(err)
	}
	want := header{epoch: 99, sequence: 3, partitions: 16, base: 1_700_000_000_100_000_000, reached: 5, count: 2}
	if h != want {
		t.Errorf("header %+v, want %+v", h, want)
	}
	if l := sampleLookup(); len(c.lookups) != 1 || !reflect.DeepEqual(c.lookups[0], l) {
		t.Errorf("lookups\n%+v, want\n%+v", c.lookups, l)
	}
	if x := sampleConnection(); len(c.conns) != 1 || c.conns[0] != x {
		t.Errorf("connections %+v, want %+v", c.conns, x)
	}
}

// A decoder of today reads records that a later version has made longer.
func TestBatchLaterVersionAdds(t *testing.T) {
	x := sampleConnection()
	b := appendConnection(make([]byte, headerLen), x.Time, x.Zone, &x)
	b = append(b, "more"...)
	b[headerLen+1] += 4
	h := header{epoch: 1, sequence: 1, base: x.Time, count: 1}
	h.put(b)
	var c collector
	if _, err := new(decoder).decode(b, &c); err != nil || len(c.conns) != 1 || c.conns[0] != x {
		t.Errorf("connections %+v, error %v, want %+v", c.conns, err, x)
	}
}

func TestBatchHugeLookup(t *testing.T) {
	l := sampleLookup()
	l.Truncated = false
	for i := range 200 {
		l.Records = append(l.Records, event.Record{Type: event.TXT, Owner: l.Name, Text: []byte(strings.Repeat("x", 200+i))})
	}
	b := appendLookup(make([]byte, headerLen), l.Time, l.Zone, &l)
	if len(b) > headerLen+2+maxRecord {
		t.Errorf("%d bytes, want at most %d", len(b), headerLen+2+maxRecord)
	}
	h := header{epoch: 1, sequence: 1, base: l.Time, count: 1}
	h.put(b)
	var c collector
	if _, err := new(decoder).decode(b, &c); err != nil {
		t.Fatal(err)
	}
	got := c.lookups[0]
	if n := len(got.Records); n < 50 || n >= len(l.Records) || !got.Truncated {
		t.Errorf("%d of %d records, truncated %t, want some and true", n, len(l.Records), got.Truncated)
	}
	if !reflect.DeepEqual(got.Records[:20], l.Records[:20]) {
		t.Error("the records that fit are not those of the lookup")
	}
}

func TestBatchErrors(t *testing.T) {
	good := sampleBatch()
	for n := range len(good) {
		if _, err := new(decoder).decode(good[:n], &collector{}); err == nil {
			t.Errorf("the first %d of %d bytes: no error", n, len(good))
		}
	}
	for _, tt := range []struct {
		about string
		at    int
		value byte
		want  string
	}{
		{"another magic number", 0, 'X', "not a batch of observations"},
		{"a version to come", 2, 9, "batch of version 9, want 1"},
		{"more records than there are", 41, 200, "record 3 of 200: a record is cut short or holds a value that cannot be"},
	} {
		b := bytes.Clone(good)
		b[tt.at] = tt.value
		if _, err := new(decoder).decode(b, &collector{}); err == nil || err.Error() != tt.want {
			t.Errorf("%s: error %v, want %s", tt.about, err, tt.want)
		}
	}
}

// FuzzBatch: a decoder takes whatever comes, and what it read it would read again from what it writes.
func FuzzBatch(f *testing.F) {
	f.Add(sampleBatch())
	f.Add([]byte("PO\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var first collector
		h, err := new(decoder).decode(b, &first)
		if err != nil {
			return
		}
		again := make([]byte, headerLen)
		for i := range first.lookups {
			again = appendLookup(again, h.base, first.lookups[i].Zone, &first.lookups[i])
		}
		for i := range first.conns {
			again = appendConnection(again, h.base, first.conns[i].Zone, &first.conns[i])
		}
		h.count = uint32(len(first.lookups) + len(first.conns))
		h.put(again)
		var second collector
		if _, err := new(decoder).decode(again, &second); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%+v", first) != fmt.Sprintf("%+v", second) && len(again) < maxRecord {
			t.Errorf("read %+v\nthen %+v", first, second)
		}
	})
}

// BenchmarkEncode is what an observation costs the capture's goroutine: finding its partition and
// writing it into the batch. One in five is a lookup with two answers.
func BenchmarkEncode(b *testing.B) {
	const n = 16
	lookups, conns := make([]event.Lookup, 1024), make([]event.Connection, 1024)
	for i := range lookups {
		l, x := &lookups[i], &conns[i]
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), 40001)
		*l = sampleLookup()
		l.Client, l.Records = client, l.Records[:2]
		*x = sampleConnection()
		x.Src = client
	}
	s := &Sink{p: &Publisher{cfg: DefaultPublisherConfig()}}
	s.p.cfg.Partitions = n
	buffers := [n][]byte{}
	for i := range buffers {
		buffers[i] = make([]byte, headerLen, 64<<10)
	}
	bytes := 0
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		k := i % len(lookups)
		i++
		var z event.Zone
		var p int
		if k%5 == 0 {
			l := &lookups[k]
			z = s.p.zone(l.Zone)
			p = Partition(z, l.Client.Addr(), n)
			buffers[p] = appendLookup(buffers[p], l.Time, z, l)
		} else {
			x := &conns[k]
			z = s.p.zone(x.Zone)
			p = Partition(z, x.Src.Addr(), n)
			buffers[p] = appendConnection(buffers[p], x.Time, z, x)
		}
		if len(buffers[p]) >= 32<<10 {
			bytes += len(buffers[p])
			buffers[p] = buffers[p][:headerLen]
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "observations/s")
	b.ReportMetric(float64(bytes)/float64(b.N), "B/observation")
}

func BenchmarkDecode(b *testing.B) {
	x := sampleConnection()
	batch := make([]byte, headerLen)
	h := header{epoch: 1, sequence: 1, base: x.Time}
	for len(batch) < 32<<10 {
		batch = appendConnection(batch, x.Time, x.Zone, &x)
		h.count++
	}
	h.put(batch)
	var d decoder
	var n counter
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.decode(batch, &n); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "observations/s")
}

type counter int

func (c *counter) Lookup(*event.Lookup)         { *c++ }
func (c *counter) Connection(*event.Connection) { *c++ }
