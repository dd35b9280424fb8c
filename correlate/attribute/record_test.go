package attribute

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"portolan/sensor/event"
)

var update = flag.Bool("update", false, "write the golden messages anew")

const goldenDir = "../../testdata/endpoint"

const hostID = "4c4c4544003510538034b4c04f4d3532"

func at(text string) event.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return event.TimeOf(t)
}

// golden returns a record of each kind with everything in it.
func golden() map[string]*Record {
	process := Process{
		PID: 4242, Start: at("2026-03-14T09:26:50.001Z"), Name: "updater", Executable: "/opt/tool/updater",
		SHA256: strings.Repeat("0123456789abcdef", 4), Args: []string{"/opt/tool/updater", "--quiet", "a \"quoted\"\nword", "ünï\x01"},
		Dir: "/", UID: 1000, HasUID: true, LoginUID: 1001, HasLoginUID: true, User: "build",
		Parent: Parent{PID: 4200, Start: at("2026-03-14T08:00:00Z"), Name: "sh", Executable: "/usr/bin/dash"},
		Cgroup: "/system.slice/docker-1.scope", ContainerID: strings.Repeat("ab", 32), Container: "builder", NetNS: 4026532281,
	}
	return map[string]*Record{
		"connect": {
			ID: "c1-4242-1773480413000000000", Kind: Connect, HostID: hostID, Host: "build-7", Source: "ebpf",
			Time: at("2026-03-14T09:26:53.589793238Z"), Proto: event.TCP, Local: netip.MustParseAddrPort("10.0.0.7:49152"),
			Remote: netip.MustParseAddrPort("198.51.100.23:10198"), Result: Refused, Errno: 111, Process: process,
		},
		"connect-auditd": {
			ID: "1773480413.589:1234", Kind: Connect, HostID: hostID, Source: "auditd", Time: at("2026-03-14T09:26:53.589Z"),
			Proto: event.TCP, Remote: netip.MustParseAddrPort("[2001:db8::23]:443"), Result: InProgress, Errno: 115,
			Process: Process{PID: 7, Name: "curl", HasUID: true, HasLoginUID: true, LoginUID: 1<<32 - 1},
		},
		"lookup": {
			ID: "l1", Kind: Lookup, HostID: hostID, Host: "build-7", Source: "ebpf", Time: at("2026-03-14T09:26:53.5Z"),
			Proto: event.UDP, Local: netip.MustParseAddrPort("10.0.0.7:40001"), Remote: netip.MustParseAddrPort("10.0.0.53:53"),
			Query: "cdn.example", Process: process,
		},
		"host": {
			ID: "h1", Kind: Host, HostID: hostID, Host: "build-7", Source: "ebpf", Time: at("2026-03-14T09:00:00Z"),
			About: &HostFacts{
				Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("172.17.0.2")},
				Boot:      at("2026-03-01T00:00:00Z"), Interval: int64(5 * time.Minute), Kernel: "6.18.0", Agent: "1.4.0",
				Sees: []string{"connect", "local-port", "netns"}, Blind: []string{"lookups through io_uring"}, Lost: 3, Refused: 1,
			},
		},
	}
}

func encode(t testing.TB, r *Record) []byte {
	t.Helper()
	b, err := r.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func schemaOf(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(filepath.Join(goldenDir, "portolan.endpoint-1.0.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGolden: what subscribers have seen they see for ever, and it reads back as it was.
func TestGolden(t *testing.T) {
	schema := schemaOf(t)
	for name, r := range golden() {
		b := encode(t, r)
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, b, "", "  "); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, b)
		}
		pretty.WriteByte('\n')
		path := filepath.Join(goldenDir, name+".json")
		if *update {
			if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(pretty.Bytes(), want) {
			t.Errorf("%s is encoded as\n%s\nwant\n%s", name, pretty.Bytes(), want)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			t.Errorf("%s: the schema refuses it: %v", name, err)
		}
		var back Record
		if err := back.Parse(want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(&back, r) {
			t.Errorf("%s reads back as\n%+v\nwant\n%+v", name, back, *r)
		}
	}
}

// TestBounded: a record never has more than MaxRecord bytes, and what is cut still reads.
func TestBounded(t *testing.T) {
	long := strings.Repeat("\x01\"é\xff", 8<<10)
	r := golden()["connect"]
	p := &r.Process
	for _, s := range []*string{&r.Host, &r.Source, &p.Name, &p.Executable, &p.Dir, &p.User, &p.Cgroup, &p.ContainerID, &p.Container, &r.Query,
		&p.Parent.Name, &p.Parent.Executable, &r.CommunityID} {
		*s = long
	}
	p.Args = slices.Repeat([]string{long}, 1000)
	b := encode(t, r)
	var back Record
	if err := back.Parse(b); err != nil || len(b) > MaxRecord {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	if len(back.Process.Args) == 0 || back.Process.PID != p.PID {
		t.Errorf("arguments %q of process %d", back.Process.Args, back.Process.PID)
	}

	h := golden()["host"]
	a := h.About
	a.Sees, a.Blind = slices.Repeat([]string{long}, 100), slices.Repeat([]string{long}, 100)
	h.Host, a.Kernel, a.Agent = long, long, long
	a.Addresses = slices.Repeat([]netip.Addr{netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")}, 10_000)
	if b = encode(t, h); len(b) > MaxRecord {
		t.Errorf("%d bytes", len(b))
	}
	if err := back.Parse(b); err != nil || len(back.About.Addresses) < 128 || len(back.About.Blind) != maxWords {
		t.Errorf("%d addresses: %v", len(back.About.Addresses), err)
	}
}

// TestHostile: what is no record is refused with a reason.
func TestHostile(t *testing.T) {
	const good = `{"@timestamp":"2026-03-14T09:26:53Z","event":{"id":"a"},"host":{"id":"h"},"destination":{"ip":"198.51.100.23","port":443},` +
		`"network":{"transport":"tcp"},"portolan":{"schema":"portolan.endpoint/1.0","endpoint":{"kind":"connect","source":"ebpf"}}}`
	var r Record
	if err := r.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"cut short", `"}}}`, `"`, `want ','`},
		{"more behind it", `"}}}`, `"}}}{}`, `more behind`},
		{"a list in place of an object", `{"id":"a"}`, `["a"]`, `want '{'`},
		{"a number in place of a text", `"id":"a"`, `"id":1`, `want '"'`},
		{"null", `"id":"a"`, `"id":null`, `want '"'`},
		{"a text in place of a number", `443`, `"443"`, `whole number`},
		{"a port that does not fit", `443`, `65536`, `from 0 to 65535`},
		{"a huge number", `443`, `1` + strings.Repeat("0", 400), `from 0 to 65535`},
		{"a negative number", `443`, `-1`, `whole number`},
		{"a fraction", `443`, `443.5`, `whole number`},
		{"an exponent", `443`, `4e2`, `whole number`},
		{"no address", `198.51.100.23`, `198.51.100.256`, `address "198.51.100.256" is none`},
		{"an address with a zone", `198.51.100.23`, `fe80::1%eth0`, `is none`},
		{"no time", `2026-03-14T09:26:53Z`, `yesterday`, `time "yesterday"`},
		{"a time before 1970", `2026-03-14`, `1969-03-14`, `from 1970 to 2262`},
		{"a time that overflows", `2026-03-14`, `9999-03-14`, `from 1970 to 2262`},
		{"a time without a zone", `53Z`, `53`, `time "2026`},
		{"another transport", `"tcp"`, `"icmp"`, `transport "icmp"`},
		{"another kind", `"connect"`, `"listen"`, `kind "listen"`},
		{"another major version", `endpoint/1.0`, `endpoint/2.0`, `is not portolan.endpoint/1.x`},
		{"no id", `"id":"a"`, `"id":""`, `id ""`},
		{"an id that is no token", `"id":"a"`, `"id":"a b"`, `id "a b"`},
		{"a host that is two tokens", `{"id":"h"}`, `{"id":"h.>"}`, `host id "h.>"`},
		{"no destination", `"destination"`, `"elsewhere"`, `without the address`},
		{"no time at all", `"@timestamp"`, `"timestamp"`, `time 0`},
		{"a user that is no number", `"host"`, `"user":{"id":"root"},"host"`, `user id "root"`},
		{"another result", `"source":"ebpf"`, `"source":"ebpf","result":"stolen"`, `result "stolen"`},
		{"a hash that is none", `"host"`, `"process":{"pid":1,"hash":{"sha256":"xyz"}},"host"`, `hash "xyz"`},
		{"too deep", `"host"`, `"x":` + strings.Repeat(`[`, 100) + strings.Repeat(`]`, 100) + `,"host"`, `in each other`},
		{"too many arguments", `"host"`, `"process":{"args":[` + strings.Repeat(`"",`, maxItems) + `""]},"host"`, `more than 512`},
		{"an escape that is none", `"id":"a"`, `"id":"\x"`, `escape`},
		{"a line break in a text", `"id":"a"`, "\"id\":\"a\n\"", `control character`},
		{"bytes that are no text", `"id":"a"`, "\"id\":\"\xff\"", `UTF-8`},
		{"huge", `"host"`, `"x":"` + strings.Repeat("x", MaxRecord) + `","host"`, `bytes are more than`},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		err := r.Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
			t.Errorf("%s: error %v, want one line with %q", tt.name, err, tt.want)
		}
	}
	later := strings.Replace(good, `"host"`, `"later":[1,-2.5e3,true,null,{"a":[{}]},"\u00e9\ud83d\ude00"],"host"`, 1)
	if err := r.Parse([]byte(later)); err != nil {
		t.Errorf("members that a later version adds: %v", err)
	}
}

// TestPlausible: nobody can tell of the future.
func TestPlausible(t *testing.T) {
	now := at("2026-03-14T09:30:00Z")
	for _, tt := range []struct {
		name  string
		move  time.Duration
		start time.Duration
		want  string
	}{
		{"now", 0, -time.Hour, ""},
		{"a day late", -24 * time.Hour, -48 * time.Hour, ""},
		{"a clock ahead", MaxAhead, 0, ""},
		{"tomorrow", 24 * time.Hour, 0, "in the future"},
		{"a process of tomorrow", 0, 24 * time.Hour, "process start"},
		{"last year", -365 * 24 * time.Hour, -366 * 24 * time.Hour, "too long ago"},
	} {
		r := Record{Time: now.Add(tt.move), Process: Process{Start: now.Add(tt.start)}}
		err := r.Plausible(now)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// FuzzRecord: whatever comes, Parse returns; what it accepts is JSON, and is the same after being
// written and read again.
func FuzzRecord(f *testing.F) {
	for _, r := range golden() {
		b, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Record
		if r.Parse(b) != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("accepted, and is no JSON: %q", b)
		}
		one, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(one) > MaxRecord {
			t.Fatalf("%d bytes", len(one))
		}
		if err := again.Parse(one); err != nil {
			t.Fatalf("%v: %s", err, one)
		}
		if two := encode(t, &again); !bytes.Equal(one, two) {
			t.Errorf("written\n%s\nand after reading\n%s", one, two)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	r := golden()["connect"]
	text := encode(b, r)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, MaxRecord)
		for b.Loop() {
			var err error
			if buf, err = r.Append(buf[:0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		var back Record
		for b.Loop() {
			if err := back.Parse(text); err != nil {
				b.Fatal(err)
			}
		}
	})
}
