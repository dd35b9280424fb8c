package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// huntWorld is a small site with an implant of each of some families, for two days.
func huntWorld() traffic.Config {
	world := traffic.DefaultConfig()
	world.Clients, world.Implants, world.Duration = 3, 1, 26*time.Hour
	world.Families = []string{"A1", "P1", "P2"}
	return world
}

// zeekLog writes dns.log and conn.log as Zeek rotates them, each half day, every other in gzip.
type zeekLog struct {
	t    testing.TB
	dir  string
	base event.Time
	open map[string]*zeekFile
}

type zeekFile struct {
	number int64
	out    *bufio.Writer
	close  func() error
}

var zeekFields = map[string]string{
	"dns":  "ts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\ttrans_id\trtt\tquery\tqclass\tqclass_name\tqtype\tqtype_name\trcode\trcode_name\tAA\tTC\tRD\tRA\tZ\tanswers\tTTLs\trejected",
	"conn": "ts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\tlocal_orig\tlocal_resp\tmissed_bytes\thistory\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\ttunnel_parents",
}

func (z *zeekLog) line(kind string, at event.Time, line string) {
	n := int64(at-z.base) / int64(12*time.Hour)
	f := z.open[kind]
	if f == nil || f.number != n {
		if f != nil {
			z.end(f)
		}
		f = &zeekFile{number: n}
		name := filepath.Join(z.dir, fmt.Sprintf("%s.%02d.log", kind, n))
		if n%2 == 1 {
			name += ".gz"
		}
		file, err := os.Create(name)
		if err != nil {
			z.t.Fatal(err)
		}
		f.out, f.close = bufio.NewWriter(file), file.Close
		if n%2 == 1 {
			g := gzip.NewWriter(file)
			f.out = bufio.NewWriter(g)
			f.close = func() error {
				if err := g.Close(); err != nil {
					return err
				}
				return file.Close()
			}
		}
		fmt.Fprintf(f.out, "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t%s\n#open\t2026-01-01-00-00-00\n#fields\t%s\n", kind, zeekFields[kind])
		types := strings.Repeat("\tstring", strings.Count(zeekFields[kind], "\t")+1)
		fmt.Fprintf(f.out, "#types%s\n", types)
		z.open[kind] = f
	}
	fmt.Fprintln(f.out, line)
}

func (z *zeekLog) end(f *zeekFile) {
	if err := f.out.Flush(); err != nil {
		z.t.Fatal(err)
	}
	if err := f.close(); err != nil {
		z.t.Fatal(err)
	}
}

func zeekTime(t event.Time) string { return fmt.Sprintf("%d.%06d", t/1e9, t%1e9/1e3) }

func zeekPair(a, b netip.AddrPort) string {
	return fmt.Sprintf("%s\t%d\t%s\t%d", a.Addr(), a.Port(), b.Addr(), b.Port())
}

func (z *zeekLog) take(e traffic.Event) {
	if x := e.Connection; x != nil {
		state, history := "SF", "ShADadFf"
		if x.Proto == event.UDP {
			history = "Dd"
		}
		z.line("conn", x.Time, fmt.Sprintf("%s\tC1\t%s\t%s\t-\t1.000000\t100\t200\t%s\tT\tF\t0\t%s\t4\t300\t4\t400\t-", zeekTime(x.Time), zeekPair(x.Src, x.Dst), x.Proto, state, history))
		return
	}
	l := e.Lookup
	var answers, ttls []string
	for _, r := range l.Records {
		if r.Addr.IsValid() {
			answers, ttls = append(answers, r.Addr.String()), append(ttls, fmt.Sprintf("%d.000000", r.TTL))
		}
	}
	if len(answers) == 0 {
		answers, ttls = []string{"-"}, []string{"-"}
	}
	const rtt = 1000 // µs
	z.line("dns", l.Time, fmt.Sprintf("%s\tC2\t%s\tudp\t%d\t0.00%d\t%s\t1\tC_INTERNET\t%d\tA\t%d\tNOERROR\tF\tF\tT\tT\t0\t%s\t%s\tF", zeekTime(l.Time-rtt*1000),
		zeekPair(l.Client, l.Resolver), l.ID, rtt, l.Name, l.Type, l.RCode, strings.Join(answers, ","), strings.Join(ttls, ",")))
}

// writeZeek writes a world as logs into a folder.
func writeZeek(t testing.TB, dir string, world traffic.Config) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	z := &zeekLog{t: t, dir: dir, base: world.Start, open: map[string]*zeekFile{}}
	g, err := traffic.New(world)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(context.Background(), z.take); err != nil {
		t.Fatal(err)
	}
	for _, f := range z.open {
		z.end(f)
	}
}

// runHunt hunts through the front door and returns the report.
func runHunt(t *testing.T, args ...string) *huntReport {
	t.Helper()
	var out, log bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &log, environ: []string{"PORTOLAN_SENSOR=tester"}}
	if status := p.run(t.Context(), append([]string{"hunt", "--json"}, args...)); status != exitDone {
		t.Fatalf("status %d: %s", status, log.String())
	}
	var r huntReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// timeless takes out of a report when it was made.
func timeless(r *huntReport) *huntReport {
	r.Began = time.Time{}
	for _, m := range r.Hits {
		m.Portolan.Revision, m.Event.ID, m.Portolan.Retro.Began = 0, "", time.Time{}
	}
	return r
}

// A hunt through logs finds each implant, and names its calculation; without implants it finds nothing.
func TestHuntZeekArchive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "zeek")
	world := huntWorld()
	writeZeek(t, dir, world)
	r := runHunt(t, dir)
	rules := map[string]bool{}
	for _, m := range r.Hits {
		if m.Portolan.Level == "alert" {
			rules[strings.SplitN(m.Rule.ID, ":", 2)[0]] = true
		}
		if m.Portolan.Retro == nil || m.Portolan.Revision != uint32(r.Began.Unix()) {
			t.Fatalf("a hit is not marked: %+v", m.Portolan)
		}
	}
	for _, want := range world.Families {
		if !rules[want] {
			t.Errorf("no alert of %s among %v", want, rules)
		}
	}
	if len(r.Sources) != 1 || r.Sources[0].Files != 6 || r.Sources[0].Kind != "zeek" || r.Lookups == 0 || r.Sources[0].Refused > 0 {
		t.Errorf("sources %+v", r.Sources)
	}
	if len(r.Bins) < 26 {
		t.Errorf("%d hours of 26", len(r.Bins))
	}
	if two := runHunt(t, "--cores", "2", dir); !reflect.DeepEqual(timeless(two), timeless(r)) {
		t.Error("two cores report something else than all of them")
	}

	benign := filepath.Join(t.TempDir(), "benign")
	world.Clients, world.Implants, world.Families = 10, 0, nil
	writeZeek(t, benign, world)
	if r := runHunt(t, benign); r.Levels[0].Hits != 0 || r.Lookups == 0 {
		t.Errorf("%d alerts without implants, of %d lookups", r.Levels[0].Hits, r.Lookups)
	}
}

// Captures of one minute, read as an archive, give the hits of a replay.
func TestHuntIsAReplay(t *testing.T) {
	for _, name := range []string{"half-swap.pcap", "mul-add.pcap", "nymaim.pcap", "txt-xor.pcapng.gz", "xor-known.pcap.zst", "benign.pcap"} {
		path := filepath.Join("..", "..", "testdata", "pcap", name)
		var out, log bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &log}
		if status := p.run(t.Context(), []string{"replay", "--json", path}); status != exitDone {
			t.Fatal(log.String())
		}
		var want []string
		for d := json.NewDecoder(&out); ; {
			var m bus.Message
			if err := d.Decode(&m); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprint(m.Portolan.HitID, m.Portolan.Level, m.Portolan.Calc.EValue))
		}
		var got []string
		for _, m := range runHunt(t, path).Hits {
			got = append(got, fmt.Sprint(m.Portolan.HitID, m.Portolan.Level, m.Portolan.Calc.EValue))
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: hunt %v, replay %v", name, got, want)
		}
	}
}

// A hunt that is killed at any moment goes on from its place, to the same report.
func TestHuntKilled(t *testing.T) {
	dir := t.TempDir()
	logs := filepath.Join(dir, "zeek")
	writeZeek(t, logs, huntWorld())
	want := timeless(runHunt(t, logs))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "portolan") // by this name the test's binary is the program
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(dir, "place")
	killed := 0
	for attempt := range 20 {
		var out, log bytes.Buffer
		cmd := exec.CommandContext(t.Context(), program, "hunt", "--json", "--state", place, "--save", "1ms", "--cores", fmt.Sprint(1+attempt%2), logs)
		cmd.Env = append(os.Environ(), "PORTOLAN_SENSOR=tester")
		cmd.Stdout, cmd.Stderr = &out, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		if attempt < 4 { // not before it has a new place to go on from
			before, _ := os.Stat(place)
			for moved := false; !moved && len(done) == 0; time.Sleep(time.Millisecond) {
				now, err := os.Stat(place)
				moved = err == nil && (before == nil || now.ModTime() != before.ModTime())
			}
			time.Sleep(time.Duration(attempt) * 60 * time.Millisecond)
			if err := cmd.Process.Kill(); err == nil {
				killed++
			}
		}
		if err := <-done; err != nil {
			if attempt >= 4 {
				t.Fatalf("%v: %s", err, log.String())
			}
			continue
		}
		var got huntReport
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if killed == 0 || !strings.Contains(log.String(), "went on from") {
			t.Errorf("killed %d times; it says %q", killed, log.String())
		}
		if !reflect.DeepEqual(timeless(&got), want) {
			t.Errorf("killed %d times, it found %v, and %v without", killed, got.Levels, want.Levels)
		}
		if _, err := os.Stat(place); err == nil {
			t.Error("the place is still there")
		}
		return
	}
}
