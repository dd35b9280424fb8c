package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"portolan/cmd/internal/bus"
	"portolan/sensor"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

func testdata(parts ...string) string {
	return filepath.Join(append([]string{"..", "..", "testdata"}, parts...)...)
}

// outputOf runs a command that has to end well, and returns its standard output.
func outputOf(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
	if status := p.run(t.Context(), args); status != exitDone {
		t.Fatalf("portolan %v: status %d\n%s", args, status, &stderr)
	}
	return stdout.String()
}

// TestReplayIsValidSchema: every line that replay --json prints is valid by the schema
// that subscribers are given.
func TestReplayIsValidSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(testdata("hit", "portolan.hit-1.0.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	captures, err := filepath.Glob(testdata("pcap", "*.pcap*"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(outputOf(t, append([]string{"replay", "--json"}, captures...)...)) {
		n++
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(line))
		if err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("line %d: %v\n%s", n, err, line)
		}
	}
	if n < 8 {
		t.Errorf("%d hits in %d captures, want one at least for each contact of an implant", n, len(captures))
	}
}

// hitIDs returns the ids of the hits in the output of replay --json.
func hitIDs(t *testing.T, out string) (ids []string) {
	t.Helper()
	for line := range strings.Lines(out) {
		m, err := bus.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.Portolan.HitID)
	}
	return ids
}

// TestSplitCaptureGivesTheSameHits: a capture that was rotated into two files is one traffic,
// wherever the cut lies.
func TestSplitCaptureGivesTheSameHits(t *testing.T) {
	const header, record = 24, 16 // bytes of the headers of a pcap file and of a record
	path := testdata("pcap", "mul-add.pcap")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := hitIDs(t, outputOf(t, "replay", "--json", path))
	frames := 0
	for at := header; at < len(b); at += record + int(binary.LittleEndian.Uint32(b[at+8:])) {
		frames++
		if frames%40 != 1 || at == header {
			continue
		}
		dir := t.TempDir()
		parts := []string{filepath.Join(dir, "1.pcap"), filepath.Join(dir, "2.pcap")}
		for i, part := range [][]byte{b[:at], slices.Concat(b[:header], b[at:])} {
			if err := os.WriteFile(parts[i], part, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := hitIDs(t, outputOf(t, "replay", "--json", parts[0], parts[1])); !slices.Equal(got, want) {
			t.Errorf("cut before frame %d: hits %v, want %v", frames, got, want)
		}
	}
	if frames < 400 || len(want) != 3 {
		t.Errorf("%d frames and %d hits: not the capture that was meant", frames, len(want))
	}
}

// TestEventsConserveFrames: the reasons of each file add up to its frames.
func TestEventsConserveFrames(t *testing.T) {
	captures, err := filepath.Glob(testdata("pcap", "*.pcap*"))
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	lookups, conns := map[string]int{}, map[string]int{}
	for line := range strings.Lines(outputOf(t, append([]string{"events"}, captures...)...)) {
		var r struct {
			K, File        string
			Frames         int
			Reasons        map[string]int
			Lookups, Conns int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		switch r.K {
		case "lookup":
			lookups[r.File]++
		case "conn":
			conns[r.File]++
		case "file":
			files++
			sum := 0
			for _, n := range r.Reasons {
				sum += n
			}
			if sum != r.Frames || r.Frames == 0 {
				t.Errorf("%s: reasons add up to %d of %d frames", r.File, sum, r.Frames)
			}
			if lookups[r.File] != r.Lookups || conns[r.File] != r.Conns {
				t.Errorf("%s: %d lookups and %d connections printed, %d and %d counted", r.File,
					lookups[r.File], conns[r.File], r.Lookups, r.Conns)
			}
		}
	}
	if files != len(captures) {
		t.Errorf("%d files summed up, want %d", files, len(captures))
	}
}

// hostileLookup holds octets that JSON cannot take as they are.
func hostileLookup() *event.Lookup {
	return &event.Lookup{
		Time: -1, Client: netip.MustParseAddrPort("[2001:db8::7]:5353"), Resolver: netip.MustParseAddrPort("192.0.2.53:53"),
		Proto: event.TCP, ID: 65535, Type: event.AAAA, RCode: 3, Truncated: true, Frame: 7,
		Zone: event.Zone{Point: 1, Kind: event.VLAN, ID: 12},
		Name: []byte("a\"b\\c\x00\x1f\x7f\xff.example"),
		Records: []event.Record{
			{Type: event.AAAA, Addr: netip.MustParseAddr("2001:db8::1"), TTL: 4294967295, Owner: []byte(".")},
			{Type: event.TXT, Text: []byte("<&>\u00e9"), Owner: []byte("t")},
			{Type: event.SRV, Target: []byte("host"), Port: 5222, Owner: []byte("s")},
			{Type: event.CNAME, Target: []byte("c"), Owner: []byte("o")},
		},
	}
}

func TestEventWriterSurvivesHostileOctets(t *testing.T) {
	var out bytes.Buffer
	to := &lineWriter{Writer: bufio.NewWriter(&out), failed: func(err error) { t.Error(err) }}
	w := newEventWriter(to, "näme\n.pcap")
	w.Lookup(hostileLookup())
	w.file(&sensor.Stats{Frames: 1, Reasons: [decode.NumReasons]uint64{1}, Incomplete: "cut \"off\""})
	to.Flush()
	want := []map[string]any{
		{"k": "lookup", "q": "a\"b\\c\x00\x1f\x7f\u00ff.example", "ip": "2001:db8::1", "ttl": 4294967295.0, "name": ".", "tc": 1.0},
		{"k": "txt", "txt": "<&>\u00c3\u00a9", "zone": "1/vlan12", "file": "näme\n.pcap"},
		{"k": "srv", "target": "host", "port": 5222.0, "client": "2001:db8::7", "cp": 5353.0, "tr": "tcp"},
		{"k": "file", "frames": 1.0, "incomplete": "cut \"off\"", "lookups": 1.0},
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), &out)
	}
	for i, line := range lines {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		for k, v := range want[i] {
			if got[k] != v {
				t.Errorf("line %d: %s is %#v, want %#v", i, k, got[k], v)
			}
		}
	}
}

// nowhere discards, without the cost that a real output has.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

func TestEventWriterDoesNotAllocate(t *testing.T) {
	_, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w := newEventWriter(&lineWriter{Writer: bufio.NewWriter(nowhere{}), failed: cancel}, "x.pcap")
	l := hostileLookup()
	c := &event.Connection{Src: l.Client, Dst: l.Resolver, Proto: event.UDP, Start: event.Datagram, Zone: l.Zone}
	if n := testing.AllocsPerRun(100, func() {
		w.Lookup(l)
		w.Connection(c)
	}); n != 0 {
		t.Errorf("%v allocations for a lookup and a connection, want none", n)
	}
}

func BenchmarkEventWriter(b *testing.B) {
	_, cancel := context.WithCancelCause(b.Context())
	defer cancel(nil)
	w := newEventWriter(&lineWriter{Writer: bufio.NewWriterSize(nowhere{}, 1<<16), failed: cancel}, "x.pcap")
	l := hostileLookup()
	c := &event.Connection{Src: l.Client, Dst: l.Resolver, Proto: event.UDP, Start: event.Datagram}
	b.ReportAllocs()
	for b.Loop() {
		w.Lookup(l)
		w.Connection(c)
	}
}
