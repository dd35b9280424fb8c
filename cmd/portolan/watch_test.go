package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
)

func streamOf(created time.Time, first, last uint64) *hitsStream {
	s := &hitsStream{Created: created}
	s.State.First, s.State.Last = first, last
	return s
}

// TestResume: where a watch begins, and what it tells people, for each thing that the stream may have
// been through since.
func TestResume(t *testing.T) {
	created := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	now := created.Add(48 * time.Hour)
	read := place{Schema: placeSchema, Stream: bus.HitsStream, Created: created, After: 40}
	since := place{Schema: placeSchema, Stream: bus.HitsStream, Created: created, From: now.Add(-5 * time.Hour)}
	for _, c := range []struct {
		name     string
		file     *place
		stream   *hitsStream
		since    time.Duration
		sequence uint64        // where it has to begin,
		last     time.Duration // or how far back
		notice   string
	}{
		{"no file, from now", nil, streamOf(created, 1, 7), 0, 8, 0, ""},
		{"no file, empty stream", nil, streamOf(created, 1, 0), 0, 1, 0, ""},
		{"no file, since", nil, streamOf(created, 1, 7), time.Hour, 0, time.Hour, ""},
		{"goes on", &read, streamOf(created, 1, 50), 0, 41, 0, ""},
		{"file wins over since", &read, streamOf(created, 1, 50), time.Hour, 41, 0, ""},
		{"nothing new", &read, streamOf(created, 1, 40), 0, 41, 0, ""},
		{"just expired", &read, streamOf(created, 41, 50), 0, 41, 0, ""},
		{"one lost", &read, streamOf(created, 42, 50), 0, 41, 0, "lost: 1 message left "},
		{"all lost", &read, streamOf(created, 51, 50), 0, 41, 0, "lost: 10 messages left the stream before this watch came to read; 41 to 50,"},
		{"made anew", &read, streamOf(created.Add(1), 1, 50), 0, 1, 0, "was made anew on 2026-03-01T12:00:00Z"},
		{"set back", &read, streamOf(created, 1, 39), 0, 1, 0, "ends at message 39 and had 40 before"},
		{"nothing read of since", &since, streamOf(created, 9, 50), 0, 0, 5 * time.Hour, ""},
		{"since, made anew", &since, streamOf(created.Add(1), 1, 50), 0, 1, 0, "was made anew"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "place")
			if c.file != nil {
				if err := c.file.write(path); err != nil {
					t.Fatal(err)
				}
			}
			var notices []string
			r, err := resume(path, c.stream, c.since, now, func(line string) { notices = append(notices, line) })
			if err != nil {
				t.Fatal(err)
			}
			var f bus.Filter
			r.filter(&f, now)
			if f.Sequence != c.sequence || f.Last != c.last || f.Validate() != nil {
				t.Errorf("begins at %d, %v back (%v); want %d, %v", f.Sequence, f.Last, f.Validate(), c.sequence, c.last)
			}
			if got := strings.Join(notices, "; "); (got == "") != (c.notice == "") || !strings.Contains(got, c.notice) {
				t.Errorf("said %q, want %q", got, c.notice)
			}
			// What was found lies in the file, also when nothing comes, and is not said again.
			notices = nil
			again, err := resume(path, c.stream, 0, now, func(line string) { notices = append(notices, line) })
			if err != nil {
				t.Fatal(err)
			}
			var g bus.Filter
			again.filter(&g, now)
			if g.Sequence != f.Sequence || g.Last != f.Last {
				t.Errorf("begins at %d, %v the next time, and at %d, %v the first", g.Sequence, g.Last, f.Sequence, f.Last)
			}
			if lost := strings.HasPrefix(c.notice, "lost"); !lost && len(notices) > 0 {
				t.Errorf("said the next time: %q", notices)
			}
		})
	}
}

// TestResumeFile: the file is private and replaced as a whole, and moves when something was read.
func TestResumeFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "place")
	stream := streamOf(time.Now(), 1, 3)
	silent := func(line string) { t.Errorf("said %q", line) }
	r, err := resume(path, stream, time.Hour, time.Now(), silent)
	if err != nil {
		t.Fatal(err)
	}
	r.passed(3)
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 1 {
		t.Errorf("files %v (%v), want one", names, err)
	}
	if hidden, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(hidden) != 0 {
		t.Errorf("files %v (%v) left over", hidden, err)
	}
	got, err := readPlace(path)
	if err != nil || got.After != 3 || !got.From.IsZero() || !got.Created.Equal(stream.Created) {
		t.Errorf("%+v (%v), want after 3 of the stream of %v", got, err, stream.Created)
	}

	// A place that cannot be written is said before anything is read.
	_, err = resume(filepath.Join(dir, "none", "place"), stream, 0, time.Now(), silent)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory missing: %v, want %v", err, fs.ErrNotExist)
	}
	if _, err = resume(dir, stream, 0, time.Now(), silent); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: %v, want that it is no regular file", err)
	}
}

// TestResumeDamaged: whatever is wrong with a file is one line with a remedy, and the file stays
// as it was.
func TestResumeDamaged(t *testing.T) {
	good := fmt.Sprintf(`{"schema":%q,"stream":%q,"created":"2026-03-01T12:00:00Z","after":4}`, placeSchema, bus.HitsStream)
	for _, text := range []string{
		"", "\x00\x00\x00", good[:len(good)-1], good + good, "[]", "null", "{}",
		strings.Replace(good, "watch/1", "watch/2", 1),
		strings.Replace(good, bus.HitsStream, bus.OpsStream, 1),
		strings.Replace(good, `"created":"2026-03-01T12:00:00Z",`, "", 1),
		strings.Replace(good, "4}", "-4}", 1),
		good + strings.Repeat(" ", maxPlace),
	} {
		path := filepath.Join(t.TempDir(), "place")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := resume(path, streamOf(time.Now(), 1, 9), 0, time.Now(), func(string) {})
		if err == nil || !strings.HasPrefix(err.Error(), "resume from "+path+": damaged: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.120q: error %v, want one line that says damaged", text, err)
			continue
		}
		if hintFor(err) == "" {
			t.Errorf("%.120q: no hint", text)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%.120q: is %.120q now (%v)", text, b, err)
		}
	}
}

// resumeServer is a NATS server, and a connection that may do all.
type resumeServer struct {
	url string
	js  jetstream.JetStream
}

func startResumeServer(t *testing.T) *resumeServer {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("nats server not ready")
	}
	conn, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return &resumeServer{s.ClientURL(), js}
}

// publish replays a capture into the stream, as a sensor of that name.
func (s *resumeServer) publish(t *testing.T, sensor, capture string) {
	t.Helper()
	if status, out := runProgram(t, t.Context(), "replay", "--nats", s.url, "--sensor", sensor, "--json",
		filepath.Join("..", "..", "testdata", "pcap", capture)); status != exitDone {
		t.Fatalf("replay ended with status %d: %s", status, out)
	}
}

// count returns how many messages the stream has taken.
func (s *resumeServer) count(t *testing.T) int {
	t.Helper()
	stream, err := s.js.Stream(t.Context(), bus.HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	return int(stream.CachedInfo().State.LastSeq)
}

// watch runs portolan watch with a file until it has printed n hits and says that it stands at sequence
// after, and returns the ids of the hits and what went to stderr.
func (s *resumeServer) watch(t *testing.T, file string, n int, after uint64, args ...string) (ids []string, said string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr output
	ended := make(chan int, 1)
	p := testProgram(t, &stdout, &stderr)
	go func() {
		ended <- p.run(ctx, append([]string{"watch", "--nats", s.url, "--json", "--resume", file}, args...))
	}()
	stderr.await(t, "waiting for hits")
	for end := time.Now().Add(patience); strings.Count(stdout.String(), "\n") < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d hits, want %d:\n%s", strings.Count(stdout.String(), "\n"), n, &stderr)
		}
	}
	cancel()
	if status := <-ended; status != exitDone {
		t.Fatalf("watch ended with status %d:\n%s", status, &stderr)
	}
	at, err := readPlace(file)
	if err != nil || at.After != after {
		t.Errorf("stands at %+v (%v), want after %d", at, err, after)
	}
	for line := range strings.Lines(stdout.String()) {
		m, err := bus.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.Portolan.HitID)
	}
	return ids, stderr.String()
}

func testProgram(t *testing.T, stdout, stderr *output) *program {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return &program{stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, environ: []string{"PORTOLAN_CONFIG=" + none}}
}

func runProgram(t *testing.T, ctx context.Context, args ...string) (status int, out string) {
	t.Helper()
	var both output
	return testProgram(t, &both, &both).run(ctx, args), both.String()
}

// TestWatchGoesOn: what comes while nobody watches is printed by the next watch, once; what expired is
// counted; a stream made anew is read from its beginning.
func TestWatchGoesOn(t *testing.T) {
	s := startResumeServer(t)
	file := filepath.Join(t.TempDir(), "place")
	s.publish(t, "north", "half-swap.pcap")
	first := s.count(t)
	if first < 2 {
		t.Fatalf("%d messages, want some", first)
	}
	before, said := s.watch(t, file, first, uint64(first), "--since", "1h")
	if strings.Contains(strings.ReplaceAll(said, "lost: 0", ""), "lost") {
		t.Errorf("said %q", said)
	}
	if ids, _ := s.watch(t, file, 0, uint64(first), "--since", "1h"); len(ids) > 0 {
		t.Errorf("%d hits again", len(ids))
	}

	s.publish(t, "south", "nymaim.pcap")
	total := s.count(t)
	after, said := s.watch(t, file, total-first, uint64(total))
	if strings.Contains(strings.ReplaceAll(said, "lost: 0", ""), "lost") {
		t.Errorf("said %q", said)
	}
	for _, id := range after {
		if slices.Contains(before, id) {
			t.Errorf("hit %s again", id)
		}
	}
	if len(after) != total-first {
		t.Errorf("%d hits, want %d", len(after), total-first)
	}

	// One that asks for another sensor goes on as well, and reads only that.
	other := filepath.Join(t.TempDir(), "other")
	if err := (place{Schema: placeSchema, Stream: bus.HitsStream, Created: streamCreated(t, s), After: 1}).write(other); err != nil {
		t.Fatal(err)
	}
	ids, _ := s.watch(t, other, total-first, uint64(total), "--from", "south")
	if !slices.Equal(ids, after) {
		t.Errorf("of the other sensor %v, want %v", ids, after)
	}

	// Two expire unread.
	stream, err := s.js.Stream(t.Context(), bus.HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := (place{Schema: placeSchema, Stream: bus.HitsStream, Created: streamCreated(t, s)}).write(other); err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	if ids, said = s.watch(t, other, total-2, uint64(total)); len(ids) != total-2 ||
		!strings.Contains(said, "portolan: lost: 2 messages left the stream before this watch came to read; 1 to 2,") {
		t.Errorf("%d hits, want %d; said %q", len(ids), total-2, said)
	}

	// The stream is deleted, and a sensor makes it again.
	if err := s.js.DeleteStream(t.Context(), bus.HitsStream); err != nil {
		t.Fatal(err)
	}
	status, out := runProgram(t, t.Context(), "watch", "--nats", s.url, "--resume", file)
	if status != exitFailed || !strings.Contains(out, "stream not found") || !strings.Contains(out, "hint: --resume") {
		t.Errorf("without a stream: status %d, said %q", status, out)
	}
	s.publish(t, "north", "half-swap.pcap")
	ids, said = s.watch(t, file, first, uint64(first))
	if !slices.Equal(ids, before) || !strings.Contains(said, "was made anew on ") {
		t.Errorf("of the new stream %v, want %v; said %q", ids, before, said)
	}
}

func streamCreated(t *testing.T, s *resumeServer) time.Time {
	t.Helper()
	stream, err := s.js.Stream(t.Context(), bus.HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().Created
}

// fullWriter takes some lines and then no more.
type fullWriter struct {
	output
	left int
}

var errFull = errors.New("no room")

// Write appends while there is room.
func (w *fullWriter) Write(b []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errFull
	}
	return w.output.Write(b)
}

// TestWatchKeepsWhatWasNotWritten: a hit that could not be written comes again.
func TestWatchKeepsWhatWasNotWritten(t *testing.T) {
	s := startResumeServer(t)
	s.publish(t, "north", "half-swap.pcap")
	total := s.count(t)
	file := filepath.Join(t.TempDir(), "place")
	var stderr output
	p := testProgram(t, nil, &stderr)
	p.stdout = &fullWriter{left: 1}
	status := p.run(t.Context(), []string{"watch", "--nats", s.url, "--json", "--since", "1h", "--resume", file})
	if status != exitFailed || !strings.Contains(stderr.String(), errFull.Error()) {
		t.Fatalf("status %d, said %q", status, &stderr)
	}
	if at, err := readPlace(file); err != nil || at.After != 1 {
		t.Fatalf("stands at %+v (%v), want after 1", at, err)
	}
	if ids, _ := s.watch(t, file, total-1, uint64(total)); len(ids) != total-1 {
		t.Errorf("%d hits, want %d", len(ids), total-1)
	}
}

// TestWatchTakesBack: a hit that an earlier watch showed is taken back by the next one,
// in text for people as well.
func TestWatchTakesBack(t *testing.T) {
	s := startResumeServer(t)
	file := filepath.Join(t.TempDir(), "place")
	s.publish(t, "north", "half-swap.pcap")
	stream, err := s.js.Stream(t.Context(), bus.HitsStream)
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	m, err := bus.Decode(first.Data)
	if err != nil {
		t.Fatal(err)
	}
	at := place{Schema: placeSchema, Stream: bus.HitsStream, Created: stream.CachedInfo().Created, After: uint64(s.count(t))}
	if err := at.write(file); err != nil {
		t.Fatal(err)
	}
	m.Portolan.Revision, m.Portolan.State, m.Portolan.Level = m.Portolan.Revision+1, "retracted", "none"
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.js.Publish(t.Context(), m.Subject(), data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr output
	ended := make(chan int, 1)
	p := testProgram(t, &stdout, &stderr)
	go func() { ended <- p.run(ctx, []string{"watch", "--nats", s.url, "--resume", file, "--level", "alert"}) }()
	stdout.await(t, m.Portolan.HitID[:8])
	cancel()
	if status := <-ended; status != exitDone {
		t.Errorf("watch ended with status %d:\n%s", status, &stderr)
	}
}
