package archive

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// order is a feed.Sink that checks that events come in order, and counts.
type order struct {
	last      event.Time
	backwards int
	n         int
	each      func()
}

func (o *order) take(t event.Time) {
	if o.n++; t < o.last {
		o.backwards++
	}
	o.last = max(o.last, t)
	if o.each != nil {
		o.each()
	}
}

func (o *order) Lookup(l *event.Lookup)         { o.take(l.Time) }
func (o *order) Connection(c *event.Connection) { o.take(c.Time) }
func (o *order) Record(r *attribute.Record)     { o.take(r.Time) }

func readOrder(t *testing.T, cfg Config, paths ...string) (Report, *order) {
	t.Helper()
	a, err := Open(paths, cfg)
	if err != nil {
		t.Fatal(err)
	}
	o := &order{}
	r, err := a.Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r, o
}

func gz(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rotate cuts a log into files with the same header.
func rotate(log string, n int) []string {
	lines := strings.SplitAfter(log, "\n")
	i := slices.IndexFunc(lines, func(s string) bool { return !strings.HasPrefix(s, "#") })
	head, lines := strings.Join(lines[:i], ""), lines[i:]
	var files []string
	for part := range slices.Chunk(lines, (len(lines)+n-1)/n) {
		files = append(files, head+strings.Join(part, ""))
	}
	return files
}

// Rotated and compressed logs of two kinds, out of order within each, beside a file of another kind, are one traffic.
func TestFolder(t *testing.T) {
	const n = 3000
	dns, conn := site(n).ZeekTSV()
	dir := t.TempDir()
	for i, text := range rotate(dns, 5) {
		write(t, dir, fmt.Sprintf("z%d.gz", 9-i), gz(t, text))
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range rotate(conn, 3) {
		write(t, dir, fmt.Sprintf("a%d", 9-i), z.EncodeAll([]byte(text), nil))
	}
	write(t, dir, "notes.txt", []byte("not a log\n"))
	r, o := readOrder(t, DefaultConfig(), dir)
	if o.n != 2*n || o.backwards != 0 || r.Late != 0 || r.Early != 0 || r.Lookups != n || r.Connections != n {
		t.Errorf("%d events, %d of them backwards; %d late, %d early", o.n, o.backwards, r.Late, r.Early)
	}
	if last := r.Sources[len(r.Sources)-1]; len(r.Sources) != 9 || last.Format != "" || !strings.HasSuffix(last.Path, "notes.txt") {
		t.Errorf("%d sources, the last is %+v", len(r.Sources), last)
	}

	// conn.log holds connections when they end, up to five minutes after they began: with less than that some come late, and none is lost.
	cfg := DefaultConfig()
	cfg.Disorder = time.Second
	if r, o := readOrder(t, cfg, dir); o.n != 2*n || r.Late == 0 || uint64(o.backwards) != r.Late {
		t.Errorf("%d events with %d late, %d backwards", o.n, r.Late, o.backwards)
	}
	cfg = DefaultConfig()
	cfg.Memory = 1 << 20
	if r, o := readOrder(t, cfg, dir); o.n != 2*n || r.Early == 0 {
		t.Errorf("%d events with %d early, in 1 MiB", o.n, r.Early)
	}
}

// Memory does not depend on the length of the archive.
func TestMemory(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Disorder = 10 * time.Second
	peak := func(n int) (most uint64) {
		dns, _ := site(n).ZeekTSV()
		a, err := Open([]string{write(t, t.TempDir(), "dns.log", []byte(dns))}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		o := &order{}
		o.each = func() {
			if o.n%5_000 == 0 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
		if _, err := a.Run(context.Background(), o); err != nil || o.n != n {
			t.Fatalf("%d of %d events, %v", o.n, n, err)
		}
		return most
	}
	// Some runs of two thousand events are under way, how many is a matter of chance; all of the events would take 50 MiB.
	short, long := peak(10_000), peak(100_000)
	if long > short+16<<20 {
		t.Errorf("a log of 100,000 lines takes %d bytes, one of 10,000 %d", long, short)
	}
}

// What is broken in a log is counted by its reason, with the first such line, and all the rest is read.
func TestBroken(t *testing.T) {
	const n = 400
	dns, _ := site(n).ZeekTSV()
	lines := strings.SplitAfter(strings.TrimSuffix(dns, "#close\t2026-01-01-01-00-00\n"), "\n")
	head, lines := strings.Join(lines[:8], ""), lines[8:]
	json, _ := site(n).ZeekJSON(true)
	jsonLines := strings.SplitAfter(json, "\n")
	logs := site(n)
	eve := append(strings.SplitAfter(logs.EVE(1, false), "\n")[:20], strings.SplitAfter(logs.EVE(3, true), "\n")[20:40]...)

	var b strings.Builder
	b.WriteString("before\tthe\theader\n" + head)
	for i, line := range lines[:n] {
		switch i {
		case 100:
			b.WriteString("too\tfew\tcolumns\n")
		case 110:
			b.WriteString(strings.Repeat("x", 3<<20) + "\n")
		case 120:
			b.WriteString("\x00\x01\x02\xff\n\n\r\n")
		case 130: // one stamp from another century
			b.WriteString(strings.Replace(line, "17672", "57672", 1))
		case 140: // a newer Zeek, with a column more in another place, and JSON in between
			b.WriteString(jsonLines[140])
			b.WriteString(strings.Replace(head, "\tuid", "\tuid\tnew_column", 1))
		case 150:
			b.WriteString(strings.Repeat("\t", 24) + "\n")
			b.WriteString("{\"_path\":\"dns\",\"ts\":1767225607.5,\"broken\n")
		}
		if i >= 140 {
			line = strings.Replace(line, "\tC", "\tnew\tC", 1)
		}
		b.WriteString(line)
	}
	b.WriteString(lines[n-1][:30]) // written while it was copied
	path := write(t, t.TempDir(), "dns.log", []byte(b.String()))
	r, o := readOrder(t, DefaultConfig(), path)
	if o.n != n+1 {
		t.Errorf("%d lookups, want all %d and one as JSON", o.n, n)
	}
	want := map[string]uint64{
		"columns before a #fields line that names them": 1, "not as many columns as #fields names": 3,
		"a line longer than 1 MiB": 1, "no time in ts": 1, "broken JSON": 1, reasonLeap: 1,
	}
	for _, x := range r.Sources[0].Refused {
		if want[x.Why] != x.Count || x.Line == 0 || x.Excerpt == "" && x.Why != "no time in ts" {
			t.Errorf("%+v, want %d", x, want[x.Why])
		}
		delete(want, x.Why)
	}
	if len(want) > 0 {
		t.Errorf("not counted: %v", want)
	}

	// Versions of EVE in one file.
	if _, o := readOrder(t, DefaultConfig(), write(t, t.TempDir(), "eve.json", []byte(strings.Join(eve, "")))); o.n != 30 {
		t.Errorf("%d lookups of ten in version 1, in two lines each, and twenty in version 3", o.n)
	}
}

// A compressed file that breaks off gives what could be read of it.
func TestTruncated(t *testing.T) {
	const n = 3000
	dns, _ := site(n).ZeekTSV()
	whole := gz(t, dns)
	path := write(t, t.TempDir(), "dns.log.gz", whole[:len(whole)/2])
	z, err := gzip.NewReader(bytes.NewReader(whole[:len(whole)/2]))
	if err != nil {
		t.Fatal(err)
	}
	var part bytes.Buffer
	if _, err := part.ReadFrom(z); err == nil {
		t.Fatal("half a file can be read to its end")
	}
	want := bytes.Count(part.Bytes(), []byte("\n")) - 8
	r, o := readOrder(t, DefaultConfig(), path)
	if s := r.Sources[0]; o.n != want || want < n/4 || !strings.Contains(s.Incomplete, "ends early") {
		t.Errorf("%d lookups of %d whole lines; %q", o.n, want, s.Incomplete)
	}
}

// A clock that was set, and nights without traffic, are no mistakes.
func TestLeaps(t *testing.T) {
	logs := ""
	at := func(hours float64) {
		logs += fmt.Sprintf("{\"_path\":\"conn\",\"ts\":%f,\"id.orig_h\":\"10.0.0.7\",\"id.orig_p\":1,\"id.resp_h\":\"192.0.2.1\","+
			"\"id.resp_p\":443,\"proto\":\"tcp\",\"history\":\"S\"}\n", storyBegin/1e9+hours*3600)
	}
	for i := range 20 {
		at(float64(i) / 60)
	}
	for i := range 20 {
		at(30 + float64(i)/60) // a day and more of silence
	}
	at(90) // and the last two after another
	at(91)
	r, o := readOrder(t, DefaultConfig(), write(t, t.TempDir(), "conn.log", []byte(logs)))
	if o.n != 42 || o.backwards != 0 || len(r.Sources[0].Refused) != 0 || r.Sources[0].Leaps != 1 {
		t.Errorf("%d events: %+v", o.n, r)
	}
}

// The order of files, and how the reading goroutines run, change nothing.
func TestSameOrderEachTime(t *testing.T) {
	dns, conn := site(2000).ZeekTSV()
	dir := t.TempDir()
	for i, text := range append(rotate(dns, 4), rotate(conn, 4)...) {
		write(t, dir, fmt.Sprint(rand.IntN(1000), i), []byte(text))
	}
	_, first := read(t, DefaultConfig(), dir)
	for range 3 {
		if _, again := read(t, DefaultConfig(), dir); again.String() != first.String() {
			t.Fatal("the same archive was read in another order")
		}
	}
}

// FuzzContent reads any bytes as whatever they look like, and as each format.
func FuzzContent(f *testing.F) {
	logs := site(3)
	dns, conn := logs.ZeekTSV()
	json, _ := logs.ZeekJSON(true)
	for _, s := range []string{
		dns, conn, json, logs.EVE(1, false), logs.EVE(2, true), logs.EVE(3, false),
		"Nov 24 01:02:03 dnsmasq[7]: 1 192.0.2.7/4000 query[A] a.example from 192.0.2.7\nNov 24 01:02:03 dnsmasq[7]: 1 192.0.2.7/4000 reply a.example is 192.0.2.1\n",
		"\x00\x00\x00\x00\x00\x00\x00\x22\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x16protobuf:dnstap.Dnstap\x00\x00\x00\x04\x72\x02\x08\x06",
		"\x00\x16\x08\x02\x12\x10aaaaaaaaaaaaaaaa\x30\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		Recognise(bytes.NewReader(b))
		all := formats()
		for i := range all {
			if all[i].parser == nil {
				continue
			}
			cfg := DefaultConfig()
			s := &source{format: &all[i], modified: storyBegin, cfg: &cfg, out: make(chan *run, 1<<16), free: make(chan *run), done: t.Context().Done(), run: &run{}}
			p, err := decompress(bytes.NewReader(b))
			if err != nil {
				return
			}
			_ = s.parse(p)
			p.close()
			check := func(at event.Time, what any) {
				if at < 0 || at > 1<<33*1e9 {
					t.Errorf("%s: time %d of %+v", all[i].name, at, what)
				}
			}
			for _, l := range s.run.events.Lookups() {
				check(l.Time, l)
				if !l.Client.IsValid() {
					t.Errorf("%s: no client in %+v", all[i].name, l)
				}
			}
			for _, c := range s.run.events.Connections() {
				check(c.Time, c)
				if !c.Src.IsValid() || !c.Dst.IsValid() || c.Proto != event.TCP && c.Proto != event.UDP {
					t.Errorf("%s: no connection: %+v", all[i].name, c)
				}
			}
		}
	})
}
