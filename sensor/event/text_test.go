package event

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorder is a Sink that keeps copies.
type recorder struct{ all []any }

func (r *recorder) Lookup(l *Lookup) {
	c := *l
	c.Records = slices.Clone(l.Records)
	r.all = append(r.all, c)
}
func (r *recorder) Connection(c *Connection) { r.all = append(r.all, *c) }

func TestReadText(t *testing.T) {
	const text = `
# A comment, and an empty line above.
180ms  connection src=10.0.0.7:49152 dst=198.51.100.23:10198 proto=tcp zone=0/vlan12
0s     lookup     client=10.0.0.7 name=CDN.example. a=198.51.100.23 ttl=60
2s     lookup     client=10.0.0.7:4000 resolver=10.0.0.53:53 proto=tcp id=9 type=16 rcode=3 name=t.example ttl=5 owner=u.example txt="a b" srv=x.example:99 https=.`
	var r recorder
	if err := ReadText(strings.NewReader(text), &r); err != nil {
		t.Fatal(err)
	}
	cdn := []byte("cdn.example")
	want := []any{
		Connection{
			Time: Time(180 * time.Millisecond), Zone: Zone{Kind: VLAN, ID: 12}, Proto: TCP,
			Src: netip.MustParseAddrPort("10.0.0.7:49152"), Dst: netip.MustParseAddrPort("198.51.100.23:10198"),
		},
		Lookup{
			Client: netip.MustParseAddrPort("10.0.0.7:0"), Proto: UDP, Type: A, Name: cdn,
			// The TTL stands behind the answer, so it does not count for it.
			Records: []Record{{Type: A, Addr: netip.MustParseAddr("198.51.100.23"), Owner: cdn}},
		},
		Lookup{
			Time: Time(2 * time.Second), Client: netip.MustParseAddrPort("10.0.0.7:4000"), Resolver: netip.MustParseAddrPort("10.0.0.53:53"),
			Proto: TCP, ID: 9, Type: TXT, RCode: 3, Name: []byte("t.example"),
			Records: []Record{
				{Type: TXT, TTL: 5, Owner: []byte("u.example"), Text: []byte("a b")},
				{Type: SRV, TTL: 5, Owner: []byte("u.example"), Target: []byte("x.example"), Port: 99},
				{Type: HTTPS, TTL: 5, Owner: []byte("u.example"), Target: []byte(".")},
			},
		},
	}
	if !reflect.DeepEqual(r.all, want) {
		t.Errorf("read\n%+v\nwant\n%+v", r.all, want)
	}
}

// What AppendText writes, ReadText reads.
func TestTextRoundTrip(t *testing.T) {
	name := []byte(`we\.ird"name`)
	all := []any{
		Connection{
			Time: 5_000_000_007, Zone: Zone{Point: 2, Kind: VNI, ID: 5000}, Proto: UDP, Start: Datagram,
			Src: netip.MustParseAddrPort("[2001:db8::7]:5"), Dst: netip.MustParseAddrPort("[2001:db8::8]:53"),
		},
		Connection{Proto: TCP, Start: SYNACK, Src: netip.MustParseAddrPort("10.0.0.7:5"), Dst: netip.MustParseAddrPort("10.0.0.8:80")},
		Lookup{
			Time: 1, Client: netip.MustParseAddrPort("10.0.0.7:4000"), Resolver: netip.MustParseAddrPort("10.0.0.53:53"),
			Proto: UDP, ID: 77, Type: AAAA, RCode: 2, Name: name, Zone: Zone{Kind: ERSPAN, ID: 1},
			Records: []Record{
				{Type: CNAME, TTL: 1, Owner: name, Target: []byte("b.example")},
				{Type: A, TTL: 2, Owner: []byte("b.example"), Addr: netip.MustParseAddr("192.0.2.1")},
				{Type: AAAA, TTL: 2, Owner: []byte("b.example"), Addr: netip.MustParseAddr("2001:db8::1")},
				{Type: Hint, TTL: 0, Owner: []byte("b.example"), Addr: netip.MustParseAddr("192.0.2.2")},
				{Type: TXT, TTL: 0, Owner: name, Text: []byte("x\x00 \"y\"")},
				{Type: NAPTR, TTL: 9, Owner: name, Text: []byte("E2U+sip !^.*$!sip:a@b!")},
				{Type: URI, TTL: 9, Owner: name, Text: []byte("https://a.example:8443/b c")},
				{Type: SRV, TTL: 9, Owner: name, Target: []byte("c.example"), Port: 5060},
				{Type: SVCB, TTL: 9, Owner: name, Target: []byte("d.example")},
			},
		},
	}
	var text []byte
	for _, e := range all {
		switch e := e.(type) {
		case Connection:
			text = e.AppendText(text, 0)
		case Lookup:
			text = e.AppendText(text, 0)
		}
		text = append(text, '\n')
	}
	var r recorder
	if err := ReadText(bytes.NewReader(text), &r); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if !reflect.DeepEqual(r.all, all) {
		t.Errorf("wrote\n%s\nread\n%+v\nwant\n%+v", text, r.all, all)
	}
}

func TestReadTextErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"soon lookup client=10.0.0.7", `line 1: time "soon" is not a duration such as 180ms`},
		{"\n1s query client=10.0.0.7", `line 2: event "query" is neither lookup nor connection`},
		{"1s lookup name=x", "line 1: a lookup needs client="},
		{"1s connection src=10.0.0.7:1", "line 1: a connection needs src= and dst="},
		{"1s lookup client=10.0.0.7 port=5", "line 1: port=5: a lookup has no such field"},
		{"1s lookup client=10.0.0.7 a=2001:db8::1", "line 1: a=2001:db8::1: wrong address family"},
		{`1s lookup client=10.0.0.7 txt="x`, "line 1: txt=: the quoted value does not end"},
		{"1s lookup client=10.0.0.7 stray", `line 1: "stray" is not key=value`},
		{"1s connection src=10.0.0.7:1 dst=10.0.0.8:1 zone=x", `line 1: zone=x: zone "x": the observation point is a number from 0 to 65535`},
		{"1s connection src=10.0.0.7:1 dst=10.0.0.8:1 zone=0/net5", `line 1: zone=0/net5: zone "0/net5": the tag is vlanN, vniN or erspanN`},
	} {
		if err := ReadText(strings.NewReader(tt.text), &recorder{}); err == nil || err.Error() != tt.want {
			t.Errorf("%q: error %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestZones(t *testing.T) {
	for _, z := range []Zone{{}, {Point: 3}, {Kind: VLAN, ID: 4094}, {Point: 65535, Kind: VNI, ID: 1<<24 - 1}, {Kind: ERSPAN, ID: 1023}} {
		if got, err := ParseZone(z.String()); err != nil || got != z {
			t.Errorf("%+v is written %s and read %+v, %v", z, z, got, err)
		}
	}
	if s := fmt.Sprint(MAC{}, MAC{2, 0, 0, 0, 0, 0xab}, TCP, UDP, Proto(132)); s != " 02:00:00:00:00:ab tcp udp 132" {
		t.Errorf("got %q", s)
	}
}
