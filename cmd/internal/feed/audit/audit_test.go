package audit

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

// heard writes what a Sink is handed, a line each.
type heard struct {
	strings.Builder
	ids []string
}

func (h *heard) Lookup(l *event.Lookup) { fmt.Fprintf(h, "lookup %s\n", l.Name) }

func (h *heard) Connection(c *event.Connection) {
	fmt.Fprintf(h, "  connection %d %v %v %v %v\n", c.Time, c.Proto, c.Start, c.Src, c.Dst)
}

func (h *heard) Record(r *attribute.Record) {
	h.ids = append(h.ids, r.ID)
	p := &r.Process
	fmt.Fprintf(h, "%v %d host=%s,%s proto=%v remote=%v result=%s errno=%d pid=%d ppid=%d", r.Kind, r.Time, r.HostID,
		r.Host, r.Proto, r.Remote, r.Result, r.Errno, p.PID, p.Parent.PID)
	if p.HasUID {
		fmt.Fprintf(h, " uid=%d", p.UID)
	}
	if p.HasLoginUID {
		fmt.Fprintf(h, " login=%d", p.LoginUID)
	}
	fmt.Fprintf(h, " user=%q name=%q exe=%q args=%q dir=%q\n", p.User, p.Name, p.Executable, p.Args, p.Dir)
}

func origin() feed.Origin {
	return feed.Origin{
		HostID: "host-1", Host: "host-1.example", Addr: netip.MustParseAddr("10.0.0.7"),
		Addrs: map[string]netip.Addr{"web-1.example": netip.MustParseAddr("10.0.0.8")},
		Now:   func() event.Time { return 1700000200e9 },
	}
}

func readAll(p *Parser, text []byte) (*heard, map[string]int) {
	h, refused := &heard{}, map[string]int{}
	for line := range bytes.Lines(text) {
		if err := p.Line(bytes.TrimSuffix(line, []byte("\n")), h); err != nil {
			refused[err.Error()]++
			fmt.Fprintf(h, "refused: %v\n", err)
		}
	}
	p.Flush(h)
	return h, refused
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata/*.txtar: ", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			h, _ := readAll(New(origin()), a.Files[0].Data)
			if *update {
				a.Files[1].Data = []byte(h.String())
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got, want := h.String(), string(a.Files[1].Data); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			again, _ := readAll(New(origin()), a.Files[0].Data)
			seen := map[string]bool{}
			for i, id := range h.ids {
				if again.ids[i] != id {
					t.Errorf("record %d is named %s, and %s when read again", i, id, again.ids[i])
				}
				if seen[id] {
					t.Errorf("two records are named %s", id)
				}
				seen[id] = true
			}
		})
	}
}

// TestMessage: the kernel's messages are the lines' text without what auditd puts before it.
func TestMessage(t *testing.T) {
	a, err := txtar.ParseFile("testdata/captured.txtar")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := readAll(New(origin()), a.Files[0].Data)
	p, got := New(origin()), &heard{}
	for line := range bytes.Lines(a.Files[0].Data) {
		kind, text, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("type=")), []byte(" msg="))
		if err := p.Message(uint16(typeOf(kind)), text, got); err != nil {
			t.Errorf("%v: %s", err, line)
		}
	}
	p.Flush(got)
	if got.String() != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestForeign: on a host, lines of another one are refused.
func TestForeign(t *testing.T) {
	o := origin()
	o.Only = true
	line := []byte(`node=evil type=SYSCALL msg=audit(1700000100.100:900): arch=c000003e syscall=42 exit=0 pid=700`)
	if err := New(o).Line(line, &heard{}); !errors.Is(err, feed.ErrForeignHost) {
		t.Errorf("got %v, want %v", err, feed.ErrForeignHost)
	}
	o.Host = "evil.example"
	if err := New(o).Line(line, &heard{}); err != nil {
		t.Errorf("a short name of the same host: %v", err)
	}
}

// TestBounds: events that never end do not pile up, and their connects are not lost.
func TestBounds(t *testing.T) {
	p, h := New(origin()), &heard{}
	const events = 1000
	for i := range events {
		for _, record := range []string{"SYSCALL msg=audit(1700000100.100:%d): arch=c000003e syscall=42 exit=-115 pid=7",
			"SOCKADDR msg=audit(1700000100.100:%d): saddr=02000035CB00710A"} {
			if err := p.Line(fmt.Appendf(nil, "type="+record, i), h); err != nil {
				t.Fatal(err)
			}
		}
		if len(p.open)+len(p.idle) > maxOpen+1 {
			t.Fatalf("%d events are kept", len(p.open)+len(p.idle))
		}
	}
	p.Flush(h)
	if len(h.ids) != events {
		t.Errorf("%d records of %d connects", len(h.ids), events)
	}
	if err := p.Line(bytes.Repeat([]byte("type="), maxLine), h); err == nil {
		t.Error("a line of 5 MiB is taken")
	}
}

func BenchmarkLine(b *testing.B) {
	a, err := txtar.ParseFile("testdata/captured.txtar")
	if err != nil {
		b.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSuffix(a.Files[0].Data, []byte("\n")), []byte("\n"))
	p := New(origin())
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := p.Line(lines[n%len(lines)], nothing{}); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

type nothing struct{}

func (nothing) Lookup(*event.Lookup)         {}
func (nothing) Connection(*event.Connection) {}
func (nothing) Record(*attribute.Record)     {}
