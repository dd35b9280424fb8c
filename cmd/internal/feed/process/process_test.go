package process

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

var update = flag.Bool("update", false, "write what the parser makes of testdata/*.txtar into them")

// heard writes what a Sink is handed, a line each; records as they are published.
type heard struct {
	t       testing.TB
	out     strings.Builder
	records []attribute.Record
}

func (h *heard) Lookup(l *event.Lookup) {
	fmt.Fprintf(&h.out, "lookup %d client=%v resolver=%v name=%s type=%d", l.Time, l.Client, l.Resolver, l.Name, l.Type)
	for _, r := range l.Records {
		fmt.Fprintf(&h.out, " %s=%v", r.Owner, r.Addr)
	}
	h.out.WriteByte('\n')
}

func (h *heard) Connection(c *event.Connection) {
	fmt.Fprintf(&h.out, "connection %d %v %v %v %v\n", c.Time, c.Proto, c.Start, c.Src, c.Dst)
}

func (h *heard) Record(r *attribute.Record) {
	b, err := r.Append(nil)
	if err != nil {
		h.t.Errorf("a record that cannot be published: %v", err)
	}
	h.out.Write(append(b, '\n'))
	kept := *r
	kept.Process.Args = append([]string(nil), r.Process.Args...)
	h.records = append(h.records, kept)
}

func origin() feed.Origin {
	return feed.Origin{HostID: "host-1", Host: "host-1", Addr: netip.MustParseAddr("10.0.0.7"),
		Addrs: map[string]netip.Addr{"web-1": netip.MustParseAddr("10.0.0.8")},
		Now:   func() event.Time { return 1700000200e9 }}
}

func read(t testing.TB, p *Parser, text []byte) *heard {
	h := &heard{t: t}
	for line := range bytes.Lines(text) {
		if err := p.Line(bytes.TrimSuffix(line, []byte("\n")), h); err != nil {
			fmt.Fprintf(&h.out, "refused: %v\n", err)
		}
	}
	p.Flush(h)
	return h
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata/*.txtar: ", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h := read(t, New(Auto, origin()), a.Files[0].Data)
			if *update {
				a.Files[1].Data = []byte(h.out.String())
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got, want := h.out.String(), string(a.Files[1].Data); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			again := read(t, New(Auto, origin()), a.Files[0].Data)
			seen := map[string]bool{}
			for i, r := range h.records {
				if again.records[i].ID != r.ID {
					t.Errorf("record %d is named %s, and %s when read again", i, r.ID, again.records[i].ID)
				}
				if seen[r.ID] {
					t.Errorf("two records are named %s", r.ID)
				}
				seen[r.ID] = true
			}
		})
	}
}

// TestFormats: lines of every format, mixed, give what each format by itself gives, and a line
// that is read as the wrong format gives nothing.
func TestFormats(t *testing.T) {
	var all, want []string
	for f := Tetragon; f < Auditd; f++ {
		a, err := txtar.ParseFile("testdata/" + f.String() + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		own := read(t, New(f, origin()), a.Files[0].Data)
		if got := own.out.String(); got != string(a.Files[1].Data) {
			t.Errorf("%v by name gives\n%s\nand by content\n%s", f, got, a.Files[1].Data)
		}
		for line := range bytes.Lines(a.Files[0].Data) {
			if got := Detect(line); got != f {
				t.Errorf("Detect = %v, want %v, of %s", got, f, line)
			}
		}
		all = append(all, string(a.Files[0].Data))
		want = append(want, own.out.String())
		parsed, err := ParseFormat(f.String())
		if err != nil || parsed != f {
			t.Errorf("ParseFormat(%q) = %v, %v", f, parsed, err)
		}
	}
	const audited = `type=SYSCALL msg=audit(1700000100.100:900): arch=c000003e syscall=42 exit=-115 pid=7 comm="c" exe="/c"
type=SOCKADDR msg=audit(1700000100.100:900): saddr=020027D6C63364170000000000000000 SADDR={ saddr_fam=inet laddr=198.51.100.23 lport=10198 }
type=PROCTITLE msg=audit(1700000100.100:900): proctitle="c"
`
	mixed := read(t, New(Auto, origin()), []byte(strings.Join(all, "")+audited))
	got, found := strings.CutPrefix(mixed.out.String(), strings.Join(want, ""))
	if !found || strings.Count(got, `"source":"auditd"`) != 1 {
		t.Errorf("mixed lines give\n%s", mixed.out.String())
	}
	for f := Tetragon; f < Auditd; f++ {
		if got := Recognise([]byte("Nov 14 22:13:20 web-1 systemd[1]: Started.\n" + all[f-Tetragon])); got != f {
			t.Errorf("a file of %v is taken for %v", f, got)
		}
	}
	if Recognise([]byte(`{"ts":1,"uid":"C1","id.orig_h":"10.0.0.7"}`)) != Auto {
		t.Error("a log of Zeek is recognised")
	}
	if _, err := ParseFormat("splunk"); err == nil {
		t.Error("a format that is none is taken")
	}
}

// TestLimits: what the lines so far do not tell is said.
func TestLimits(t *testing.T) {
	const whole = feed.NoVLAN | feed.ForeignClock
	for _, tt := range []struct {
		file string
		want feed.Limits
	}{
		{"falco", whole | feed.NoLookups | feed.NoSourcePort}, // of the alert without fd.cport
		{"ecs", whole | feed.NoTTL | feed.NoServices | feed.NoSourcePort},
		{"osquery", whole | feed.NoLookups | feed.NoSourcePort | feed.NoSubSecond},
		{"hostile", whole | feed.NoLookups | feed.NoConns},
	} {
		a, err := txtar.ParseFile("testdata/" + tt.file + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		p := New(Auto, origin())
		read(t, p, a.Files[0].Data)
		if got := p.Limits(); got != tt.want {
			t.Errorf("%s: %v; want %v", tt.file, got, tt.want)
		}
	}
}

// TestHostile: lines made to cost memory or time, or to speak for others.
func TestHostile(t *testing.T) {
	connect := func(rest string) string {
		return `{"process_kprobe":{"function_name":"tcp_connect","process":{"pid":1` + rest +
			`},"args":[{"sock_arg":{"daddr":"198.51.100.23","dport":1}}]},"node_name":"w","time":"2023-11-14T22:13:20Z"}`
	}
	foreign := origin()
	foreign.Only = true
	for _, tt := range []struct {
		name   string
		line   string
		origin feed.Origin
		reason error
	}{
		{"not UTF-8", connect(`,"binary":"/tmp/` + "\xff" + `"`), origin(), errUTF8},
		{"another host", connect(""), foreign, feed.ErrForeignHost},
		{"no host", strings.Replace(connect(""), "node_name", "node", 1), feed.Origin{}, feed.ErrNoHost},
		{"2 MiB", connect(`,"arguments":"` + strings.Repeat("a ", 1<<20) + `"`), origin(), errLong},
		{"nested in what nobody reads", connect(`,"x":` + strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5)), origin(), nil},
		{"nested in arguments", connect(`,"pod":` + strings.Repeat(`{"container":`, 1e4) + "1" + strings.Repeat("}", 1e4)), origin(), nil},
		{"nested without end", connect(`,"x":` + strings.Repeat("[", 1e5)), origin(), errSyntax},
		{"a long name", connect(`,"` + strings.Repeat("a", 1e5) + `":1`), origin(), nil},
		{"many arguments", connect(`,"arguments":"` + strings.Repeat("a ", 1e5) + `"`), origin(), nil},
		{"a long argument", connect(`,"arguments":"` + strings.Repeat("a", 1e6) + `"`), origin(), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &heard{t: t}
			err := New(Auto, tt.origin).Line([]byte(tt.line), h)
			if !errors.Is(err, tt.reason) {
				t.Fatalf("got %v, want %v", err, tt.reason)
			}
			if refused := new(feed.Refusal); err != nil && !errors.As(err, &refused) {
				t.Errorf("%v is no refusal", err)
			}
			if want := 1; tt.reason == nil && len(h.records) != want {
				t.Fatalf("%d records, want %d", len(h.records), want)
			}
			if tt.reason == nil && len(h.out.String()) > attribute.MaxRecord+200 {
				t.Errorf("the record has %d bytes", len(h.out.String()))
			}
		})
	}
}

// FuzzLine: whatever a line is taken for, it neither panics nor gives a record that cannot be
// published, and read again it gives the same.
func FuzzLine(f *testing.F) {
	for format := Tetragon; format < Auditd; format++ {
		a, err := txtar.ParseFile("testdata/" + format.String() + ".txtar")
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(a.Files[0].Data) {
			f.Add(uint8(format), line)
		}
	}
	f.Add(uint8(Auditd), []byte("type=SYSCALL msg=audit(1.1:1): arch=c000003e syscall=42 exit=-115 pid=7 comm=\"c\"\n"+
		"type=SOCKADDR msg=audit(1.1:1): saddr=020027D6C6336417\x1dSADDR={ }\ntype=EOE msg=audit(1.1:1): "))
	f.Fuzz(func(t *testing.T, format uint8, text []byte) {
		once := read(t, New(Format(format%uint8(numFormats)), origin()), text)
		p := New(Format(format%uint8(numFormats)), origin())
		read(t, p, []byte(strings.Repeat("x", 1000)+"\n{\"a\":\"\\n\"}")) // what came before leaves no trace
		again := read(t, p, text)
		if got := again.out.String(); got != once.out.String() {
			t.Errorf("once\n%s\nand then\n%s", once.out.String(), got)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	for f := Tetragon; f < Auditd; f++ {
		for _, content := range []bool{false, true} {
			name, format := f.String(), f
			if content {
				name, format = name+"-auto", Auto
			}
			b.Run(name, func(b *testing.B) {
				a, err := txtar.ParseFile("testdata/" + f.String() + ".txtar")
				if err != nil {
					b.Fatal(err)
				}
				line, _, _ := bytes.Cut(a.Files[0].Data, []byte("\n"))
				p := New(format, origin())
				b.ReportAllocs()
				b.SetBytes(int64(len(line)))
				for b.Loop() {
					if err := p.Line(line, nothing{}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
			})
		}
	}
}

type nothing struct{}

func (nothing) Lookup(*event.Lookup)         {}
func (nothing) Connection(*event.Connection) {}
func (nothing) Record(*attribute.Record)     {}
