package feed

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

func TestResolve(t *testing.T) {
	own, other := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8")
	one := Origin{HostID: "machine", Host: "web-1.example", Addr: own, Addrs: map[string]netip.Addr{"Web-2.example": other}}
	only := one
	only.Only = true
	for _, tt := range []struct {
		about  string
		origin Origin
		name   string
		id     string
		addr   netip.Addr
		err    error
	}{
		{"no name is the origin's host", one, "", "machine", own, nil},
		{"its own name", one, "WEB-1.example", "machine", own, nil},
		{"its short name", one, "web-1", "machine", own, nil},
		{"the same short name in another domain", one, "web-1.test", "web-1-test", netip.Addr{}, nil},
		{"a host whose address is known", one, "Web-2.example", "web-2-example", other, nil},
		{"another host, where only one may speak", only, "web-2", "", netip.Addr{}, ErrForeignHost},
		{"no name, where nobody is meant", Origin{}, "", "", netip.Addr{}, ErrNoHost},
		{"any name, where nobody is meant", Origin{}, "web-3", "web-3", netip.Addr{}, nil},
	} {
		id, _, addr, err := tt.origin.Resolve(tt.name)
		if id != tt.id || addr != tt.addr || !errors.Is(err, tt.err) {
			t.Errorf("%s: Resolve(%q) = %q, %v, %v; want %q, %v, %v", tt.about, tt.name, id, addr, err, tt.id, tt.addr, tt.err)
		}
	}
	if got, want := HostToken("a.B c/ü"+strings.Repeat("x", 100)), "a-b-c---"+strings.Repeat("x", 56); got != want {
		t.Errorf("HostToken = %q, want %q", got, want)
	}
}

func TestInTime(t *testing.T) {
	const now = event.Time(1700000000e9)
	o := Origin{Now: func() event.Time { return now }}
	for at, want := range map[event.Time]error{
		0: ErrTime, -1: ErrTime, now: nil, now.Add(attribute.MaxAhead): nil, now.Add(attribute.MaxAhead + 1): ErrTime, 1: nil,
	} {
		if err := o.InTime(at); !errors.Is(err, want) {
			t.Errorf("InTime(%d) = %v, want %v", at, err, want)
		}
	}
	if err := (&Origin{}).InTime(1 << 62); err != nil {
		t.Errorf("without a clock nothing is in the future: %v", err)
	}
}

// TestSetID: every fact that tells two records apart changes the name.
func TestSetID(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.7:1"), netip.MustParseAddrPort("10.0.0.8:1")
	base := attribute.Record{Source: "falco", HostID: "h", Time: 1, Proto: event.TCP, Local: a, Remote: b}
	seen := map[string]int{}
	for i, change := range []func(*attribute.Record){
		func(*attribute.Record) {},
		func(r *attribute.Record) { r.Source = "ecs" },
		func(r *attribute.Record) { r.HostID = "i" },
		func(r *attribute.Record) { r.Source, r.HostID = "falcoh", "" },
		func(r *attribute.Record) { r.Kind = attribute.Lookup },
		func(r *attribute.Record) { r.Time = 2 },
		func(r *attribute.Record) { r.Proto = event.UDP },
		func(r *attribute.Record) { r.Local = b },
		func(r *attribute.Record) { r.Remote = a },
		func(r *attribute.Record) { r.Process.PID = 1 },
		func(r *attribute.Record) { r.Query = "x" },
	} {
		r := base
		change(&r)
		SetID(&r, 0)
		if j, known := seen[r.ID]; known {
			t.Errorf("records %d and %d have one name", i, j)
		}
		seen[r.ID] = i
	}
	r := base
	if SetID(&r, 1); len(r.ID) != 32 || seen[r.ID] != 0 {
		t.Errorf("the nonce does not count: %s", r.ID)
	}
}

func TestMemory(t *testing.T) {
	m := Memory[int, int]{Limit: 10}
	for i := range 1000 {
		m.Put(i, i, 1)
		if v, ok := m.Get(i); !ok || v != i {
			t.Fatalf("what was put last is forgotten: %d, %t", v, ok)
		}
		if n := len(m.young) + len(m.old); n > 20 {
			t.Fatalf("%d entries are kept", n)
		}
	}
	if _, ok := m.Get(985); !ok {
		t.Error("what lies 15 entries back is forgotten")
	}
	if _, ok := m.Get(900); ok {
		t.Error("what lies 100 entries back is kept")
	}
}

func TestDatagrams(t *testing.T) {
	var d Datagrams
	k := Datagram{Host: "h", PID: 1}
	for i, tt := range []struct {
		at    time.Duration
		first bool
	}{{0, true}, {time.Second, false}, {61 * time.Second, false}, {122 * time.Second, true}, {time.Second, true}} {
		if got := d.First(k, event.Time(tt.at)); got != tt.first {
			t.Errorf("datagram %d at %v: first is %t", i, tt.at, got)
		}
	}
	if !d.First(Datagram{Host: "h", PID: 2}, event.Time(time.Second)) {
		t.Error("another process's first datagram is none")
	}
}

func TestStrings(t *testing.T) {
	var s Strings
	for i := range 20_000 {
		if text := fmt.Sprintf("%0100d", i); s.Of([]byte(text)) != text {
			t.Fatal("another string comes back")
		}
	}
	if s.bytes > 2*maxRememberedBytes {
		t.Errorf("%d bytes are kept", s.bytes)
	}
	if n := testing.AllocsPerRun(100, func() { s.Of([]byte("a name")) }); n > 0 {
		t.Errorf("a known string costs %v allocations", n)
	}
}
