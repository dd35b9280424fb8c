package archive

import (
	"bytes"
	"context"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"portolan/cmd/internal/feed/feedtest"
	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor"
	"portolan/sensor/event"
)

// finder is a feed.Sink that keeps the final hits, each by its id with its level.
type finder struct {
	t     *testing.T
	c     *correlate.Correlator
	hits  []correlate.Hit
	found map[correlate.ID]correlate.Level
	times map[correlate.ID]int // how often it was final
	next  event.Time
}

func newFinder(t *testing.T) *finder {
	t.Helper()
	cfg := correlate.DefaultConfig()
	cfg.MemoryBytes, cfg.Shards = 32<<20, 4
	c, err := correlate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &finder{t: t, c: c, found: map[correlate.ID]correlate.Level{}, times: map[correlate.ID]int{}}
}

func (f *finder) take() {
	for i := range f.hits {
		if h := &f.hits[i]; h.State == correlate.Final && h.Level > correlate.Lead {
			f.found[h.ID] = max(h.Level, f.found[h.ID])
			f.times[h.ID]++
		}
	}
}

func (f *finder) tick(t event.Time) {
	if t >= f.next {
		f.next = t + 1e9
		f.hits = f.c.Advance(f.hits[:0], t)
		f.take()
	}
}

func (f *finder) Lookup(l *event.Lookup) {
	f.tick(l.Time)
	f.hits = f.c.ObserveLookup(f.hits[:0], l)
	f.take()
}

func (f *finder) Connection(c *event.Connection) {
	f.tick(c.Time)
	f.hits = f.c.ObserveConnection(f.hits[:0], c)
	f.take()
}

func (*finder) Record(*attribute.Record) {}

// end returns what was found.
func (f *finder) end() map[correlate.ID]correlate.Level {
	f.hits = f.c.Flush(f.hits[:0])
	f.take()
	for id, n := range f.times {
		if n > 1 {
			f.t.Errorf("hit %s was final %d times", id, n)
		}
	}
	return f.found
}

// hunt returns what is found in the files.
func hunt(t *testing.T, paths ...string) (Report, map[correlate.ID]correlate.Level) {
	t.Helper()
	return huntAs(t, DefaultConfig(), paths...)
}

// huntAs does so with what a configuration says.
func huntAs(t *testing.T, cfg Config, paths ...string) (Report, map[correlate.ID]correlate.Level) {
	t.Helper()
	a, err := Open(paths, cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := newFinder(t)
	r, err := a.Run(context.Background(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Sources {
		for _, x := range s.Refused {
			t.Errorf("%s: %d refused: %s: %s", s.Path, x.Count, x.Why, x.Excerpt)
		}
	}
	return r, f.end()
}

// traffic hands the events of a capture or a story to a sink.
func traffic(t *testing.T, path string, to event.Sink) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, ".txtar") {
		for _, f := range txtar.Parse(b).Files {
			if f.Name == "events" {
				if err := event.ReadText(bytes.NewReader(f.Data), &later{to}); err != nil {
					t.Fatal(err)
				}
			}
		}
		return
	}
	if _, err := sensor.Replay(context.Background(), bytes.NewReader(b), sensor.DefaultReplayConfig(), to); err != nil {
		t.Fatal(err)
	}
}

// later moves stories, which begin in 1970 and partly before, to a time that logs can hold, and takes
// out what no log holds: tunnels' zones.
type later struct{ to event.Sink }

const storyBegin = 1_767_225_600e9

func (l *later) Lookup(x *event.Lookup) {
	x.Time += storyBegin
	resolver := x.Resolver.Addr()
	if !resolver.IsValid() {
		resolver = netip.MustParseAddr("10.0.0.53")
	}
	x.Resolver = netip.AddrPortFrom(resolver, 53)
	l.to.Lookup(x)
}

func (l *later) Connection(x *event.Connection) {
	x.Time += storyBegin
	l.to.Connection(x)
}

// The same traffic once as packets, or events, and once as each log gives the same hits by id and level.
func TestLogsGiveTheSameHits(t *testing.T) {
	var paths []string
	for _, glob := range []string{"../../../../testdata/pcap/*.pcap*", "../../../../testdata/story/*.txtar"} {
		more, err := filepath.Glob(glob)
		if err != nil || len(more) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		paths = append(paths, more...)
	}
	total := 0
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var logs feedtest.Logs
			want := newFinder(t)
			traffic(t, path, want)
			traffic(t, path, &logs)
			found := want.end()
			total += len(found)
			tsvDNS, tsvConn := logs.ZeekTSV()
			jsonDNS, jsonConn := logs.ZeekJSON(false)
			streamDNS, streamConn := logs.ZeekJSON(true)
			for name, files := range map[string][]string{
				"zeek tsv": {tsvDNS, tsvConn}, "zeek json": {jsonDNS, jsonConn}, "zeek json streamed": {streamDNS + streamConn},
				"eve v1": {logs.EVE(1, false)}, "eve v2": {logs.EVE(2, false)}, "eve v3": {logs.EVE(3, false)},
				"eve v2 grouped": {logs.EVE(2, true)}, "eve v3 grouped": {logs.EVE(3, true)},
			} {
				if lacks(name, filepath.Base(path)) {
					continue
				}
				dir := t.TempDir()
				for i, text := range files {
					write(t, dir, string(rune('a'+i))+".log", []byte(text))
				}
				if _, got := hunt(t, dir); !maps.Equal(got, found) {
					t.Errorf("%s: found %v, the packets give %v", name, slices.Collect(maps.Values(got)), slices.Collect(maps.Values(found)))
				}
			}
		})
	}
	if total == 0 {
		t.Error("there was nothing to find")
	}
}

// lacks reports whether a log does not hold what the hits of a traffic rest on.
func lacks(log, traffic string) bool {
	zeek := strings.HasPrefix(log, "zeek")
	switch traffic {
	case "half-swap-qinq.pcap", "zones.txtar":
		return zeek // no VLANs
	case "explained-ports.txtar", "benign.txtar":
		return true // no ports of SVCB and HTTPS records
	case "window.txtar":
		return strings.HasSuffix(log, "grouped") // no TTLs, which stretch windows there
	}
	return false
}

func write(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
