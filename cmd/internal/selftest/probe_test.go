package selftest

import (
	"net/netip"
	"testing"

	"portolan/correlate"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// taken keeps the events of a decoder, as a correlator sees them.
type taken struct {
	t    *testing.T
	c    *correlate.Correlator
	hits []correlate.Hit

	lookups, connections int
}

func (s *taken) Lookup(l *event.Lookup) {
	s.lookups++
	s.hits = s.c.ObserveLookup(s.hits, l)
}

func (s *taken) Connection(c *event.Connection) {
	s.connections++
	s.hits = s.c.ObserveConnection(s.hits, c)
}

// TestProbe: the frames decode into a lookup and a connection, which are an alert the first time, and nothing of it is left
// behind Without.
func TestProbe(t *testing.T) {
	for range 20 {
		p := NewProbe()
		for _, hidden := range []bool{false, true} {
			d, err := decode.New(decode.DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			s := &taken{t: t, c: correlator(t)}
			to := event.Sink(s)
			if hidden {
				to = Without(s)
			}
			for i, b := range p.Frames() {
				f := decode.Frame{Time: event.Time(i+1) * 1e6, Data: b, Len: len(b), Number: uint64(i + 1), Link: decode.Ethernet}
				d.Decode(&f, to)
			}
			if n := d.Counters(); n.Queries != 1 || n.Responses != 1 || n.SYN != 1 || n.SYNACK != 1 {
				t.Fatalf("the frames of %+v are %+v", p, n)
			}
			if hidden {
				if s.lookups+s.connections != 0 {
					t.Fatalf("%d lookups and %d connections of %+v are not hidden", s.lookups, s.connections, p)
				}
				continue
			}
			found := 0
			for i := range s.hits {
				if h := &s.hits[i]; p.Found(h) && h.Level == correlate.Alert && Marked(&h.Connection) {
					found++
				}
			}
			if s.lookups != 1 || found != 1 {
				t.Fatalf("%d lookups, and hits %+v of %+v", s.lookups, s.hits, p)
			}
			if other := NewProbe(); *other != *p && other.Found(&s.hits[0]) {
				t.Fatalf("%+v takes the hit of %+v for its own", other, p)
			}
		}
	}
}

// TestMarked: nothing but what a probe does is taken for one.
func TestMarked(t *testing.T) {
	for _, tt := range []struct {
		src, dst string
		want     bool
	}{
		{"192.0.2.70:50000", "100.77.198.51:30000", true},
		{"192.0.2.70:50000", "192.0.2.53:53", true},
		{"192.0.2.70:50000", "192.0.2.53:443", false},
		{"10.0.0.7:50000", "100.77.198.51:30000", false},
		{"192.0.2.70:50000", "100.7.198.51:30000", false}, // some host's on the Internet
		{"192.0.2.70:50000", "203.0.113.9:443", false},
		{"[2001:db8::7]:50000", "[2001:db8::9]:443", false},
	} {
		c := event.Connection{Src: netip.MustParseAddrPort(tt.src), Dst: netip.MustParseAddrPort(tt.dst)}
		if got := Marked(&c); got != tt.want {
			t.Errorf("Marked(%s to %s) = %v", tt.src, tt.dst, got)
		}
	}
}
