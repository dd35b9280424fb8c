package decode_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portolan/sensor"
	"portolan/sensor/event"
)

// captures holds real captures and, in truth.jsonl, what another program found in them.
const captures = "../../../shared/captures"

// tolerance is how far apart the two may see the time of one event.
const tolerance = event.Time(time.Millisecond)

// fact is one record of truth.jsonl, or the same thing seen by the decoder.
type fact struct {
	Kind   string     `json:"k"`
	File   string     `json:"file"`
	Time   event.Time `json:"t"`
	Client netip.Addr `json:"client"`
	Query  *string    `json:"q"`
	IP     netip.Addr `json:"ip"`
	TTL    uint32     `json:"ttl"`
	Proto  string     `json:"p"`
	Src    netip.Addr `json:"src"`
	SPort  uint16     `json:"sp"`
	Dst    netip.Addr `json:"dst"`
	DPort  uint16     `json:"dp"`

	Frame     int `json:"f"`
	NP        int `json:"np"`  // found by heuristics, not by port
	Ambiguous int `json:"amb"` // its columns could not be put back into records
}

// key is what two facts have in common when they are one.
func (f *fact) key() string {
	q := "-"
	if f.Query != nil {
		q = *f.Query
	}
	switch f.Kind {
	case "lookup":
		return fmt.Sprintf("%s %q %s %d", f.Client, q, f.IP, f.TTL)
	case "hint":
		return fmt.Sprintf("%s %s", f.Client, f.IP)
	}
	return fmt.Sprintf("%s %s:%d %s:%d", f.Proto, f.Src, f.SPort, f.Dst, f.DPort)
}

// collector makes facts of events.
type collector struct {
	file  string
	facts []fact
}

func (c *collector) Lookup(l *event.Lookup) {
	for _, r := range l.Records {
		f := fact{File: c.file, Time: l.Time, Client: l.Client.Addr(), TTL: r.TTL, Frame: int(l.Frame)}
		if len(l.Name) > 0 {
			q := string(l.Name)
			f.Query = &q
		}
		switch r.Type {
		case event.A, event.AAAA:
			f.Kind, f.IP = "lookup", r.Addr
		case event.Hint:
			f.Kind, f.IP = "hint", r.Addr
		default:
			continue
		}
		c.facts = append(c.facts, f)
	}
}

func (c *collector) Connection(x *event.Connection) {
	c.facts = append(c.facts, fact{
		Kind: "conn", File: c.file, Time: x.Time, Proto: x.Proto.String(), Frame: int(x.Frame),
		Src: x.Src.Addr(), SPort: x.Src.Port(), Dst: x.Dst.Addr(), DPort: x.Dst.Port(),
	})
}

// fileKind is what differences are counted by.
type fileKind struct{ file, kind string }

// difference is how often truth has a fact that the decoder has not, and the other way round.
type difference struct{ missing, extra int }

// explained lists every difference, and why it is there: truth.jsonl takes an address for one
// host, whatever VLAN it is seen in; and a tunnel's own header for a connection when the
// capture length cut off what the tunnel holds.
var explained = []struct {
	file, kind     string
	missing, extra int
	why            string
}{
	{"arkime--dns-flags0110.pcap", "conn", 0, 1, "the query has VLAN 500, the answer before it none"},
	{"ipfixprobe--vlan.pcapng", "conn", 0, 2, "one lookup seen three times: in VLAN 123, in VLAN 150 and untagged"},
	{"zeek--loc-29-trunc.pcap", "conn", 0, 1, "the query has VLAN 1042, the answer VLAN 1041"},
	{"zeek--vlan-pcp-dei.pcapng", "conn", 0, 2, "one SYN seen three times: in VLAN 10, in VLAN 20 and untagged"},
	{"zeek--geneve-truncated.pcapng", "conn", 1, 0, "in the tunnel, 4 bytes of an Ethernet header were captured"},
}

func TestTruth(t *testing.T) {
	truth := readTruth(t)
	files, err := filepath.Glob(filepath.Join(captures, "*.pcap*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no captures beside truth.jsonl: %v", err)
	}
	got := make(map[fileKind]difference)
	report := make(map[fileKind][]string)
	var total, agreed, extra int
	for _, path := range files {
		seen := replay(t, path)
		for _, kind := range []string{"lookup", "conn", "hint"} {
			at := fileKind{filepath.Base(path), kind}
			of := func(facts []fact) (out []fact) {
				for _, f := range facts {
					if f.Kind == kind {
						out = append(out, f)
					}
				}
				return out
			}
			want := of(truth[at.file])
			missing, more := compare(want, of(seen))
			if len(missing)+len(more) > 0 {
				got[at] = difference{len(missing), len(more)}
			}
			for _, f := range missing {
				report[at] = append(report[at], fmt.Sprintf("missing: frame %d, %s", f.Frame, f.key()))
			}
			for _, f := range more {
				report[at] = append(report[at], fmt.Sprintf("extra: frame %d, %s", f.Frame, f.key()))
			}
			total += len(want)
			agreed += len(want) - len(missing)
			extra += len(more)
		}
	}
	for _, e := range explained {
		at := fileKind{e.file, e.kind}
		if d := got[at]; d != (difference{e.missing, e.extra}) {
			t.Errorf("%s, %s: missing %d and extra %d; the table says %d and %d (%s)\n%s",
				at.file, at.kind, d.missing, d.extra, e.missing, e.extra, e.why, strings.Join(report[at], "\n"))
		}
		delete(got, at)
	}
	for at, d := range got {
		t.Errorf("%s, %s: missing %d and extra %d, explained nowhere\n%s",
			at.file, at.kind, d.missing, d.extra, strings.Join(report[at], "\n"))
	}
	t.Logf("%d of %d facts agree, %d are extra", agreed, total, extra)
	if 1000*agreed < 999*total || 1000*agreed < 999*(agreed+extra) {
		t.Errorf("%d of %d facts agree and %d are extra, want 99.9 %%", agreed, total, extra)
	}
}

func readTruth(t *testing.T) map[string][]fact {
	f, err := os.Open(filepath.Join(captures, "truth.jsonl"))
	if err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skipf("no captures to compare with: %v", err)
	}
	defer f.Close()
	truth := make(map[string][]fact)
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var x fact
		if err := json.Unmarshal(s.Bytes(), &x); err != nil {
			t.Fatalf("truth.jsonl: %v", err)
		}
		if x.NP == 0 && x.Ambiguous == 0 {
			truth[x.File] = append(truth[x.File], x)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return truth
}

// replay returns what the decoder finds in a file, and checks that its reasons add up.
func replay(t *testing.T, path string) []fact {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := collector{file: filepath.Base(path)}
	stats, err := sensor.Replay(context.Background(), f, sensor.DefaultReplayConfig(), &c)
	if err != nil {
		t.Errorf("%s: %v", c.file, err)
	}
	var sum uint64
	for _, n := range stats.Reasons {
		sum += n
	}
	if sum != stats.Frames {
		t.Errorf("%s: the reasons add up to %d, frames are %d", c.file, sum, stats.Frames)
	}
	return c.facts
}

// compare pairs facts of one key within the tolerance, each once, and returns those left over.
func compare(want, got []fact) (missing, extra []fact) {
	left := make(map[string][]fact)
	for _, f := range got {
		left[f.key()] = append(left[f.key()], f)
	}
	byTime := func(a, b fact) int { return cmp.Compare(a.Time, b.Time) }
	for _, l := range left {
		slices.SortFunc(l, byTime)
	}
	want = slices.Clone(want)
	slices.SortFunc(want, byTime)
	for _, f := range want {
		l := left[f.key()]
		i := slices.IndexFunc(l, func(g fact) bool { return g.Time >= f.Time-tolerance && g.Time <= f.Time+tolerance })
		if i < 0 {
			missing = append(missing, f)
			continue
		}
		left[f.key()] = slices.Delete(l, i, i+1)
	}
	for _, l := range left {
		extra = append(extra, l...)
	}
	return missing, extra
}
