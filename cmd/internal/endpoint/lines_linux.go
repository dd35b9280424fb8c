package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/audit"
	foreign "portolan/cmd/internal/feed/process"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// sourceLines is the source of Host records beside lines of other tools, whose records name theirs.
const sourceLines = "lines"

var (
	seesLines  = [...]string{"connect"}
	blindLines = [...]string{"what the tool that wrote the lines leaves out"}
)

func (a *Agent) origin() feed.Origin {
	return feed.Origin{HostID: a.cfg.HostID, Host: a.cfg.Host, Only: true, Now: func() event.Time { return event.TimeOf(time.Now()) }}
}

// RunFile hands on what is appended to a log file of auditd or of another tool that package
// feed/process reads, from its end and over its rotation, until ctx ends.
func (a *Agent) RunFile(ctx context.Context, name string, ready func()) error {
	t, err := openTail(name)
	if err != nil {
		return err
	}
	defer t.close()
	p := foreign.New(foreign.Auto, a.origin())
	to := (*recordSink)(a)
	a.host.sees, a.host.blind = seesAudit[:], blindAudit[:]
	return a.follow(ctx, audit.Source, p, to, ready, func() (bool, error) {
		err := t.read(func(line []byte) { a.line(p.Line(line, to)) })
		sleep(ctx, pollEvery)
		return false, err
	})
}

// RunLines is RunFile for lines that are read until there are no more.
func (a *Agent) RunLines(ctx context.Context, r io.Reader, ready func()) error {
	p := foreign.New(foreign.Auto, a.origin())
	to := (*foreignSink)(a)
	var split lines
	buf := make([]byte, 64<<10)
	a.host.sees, a.host.blind = seesLines[:], blindLines[:]
	return a.follow(ctx, sourceLines, p, to, ready, func() (bool, error) {
		if f, ok := r.(*os.File); ok { // else nothing could end a read that waits
			poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
			if n, err := unix.Poll(poll, int(pollEvery/time.Millisecond)); n == 0 || errors.Is(err, unix.EINTR) {
				return false, nil
			}
		}
		n, err := r.Read(buf)
		each := func(line []byte) { a.line(p.Line(line, to)) }
		split.take(buf[:n], each)
		if errors.Is(err, io.EOF) {
			split.take([]byte{'\n'}, each) // the last line may have no end
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("read lines: %w", err)
		}
		return false, nil
	})
}

// flusher hands on what waits for lines that will not come.
type flusher interface{ Flush(feed.Sink) }

// follow calls next, which reads what is there and waits for pollEvery at most, until it is done or
// ctx ends, and does what is due in between.
func (a *Agent) follow(ctx context.Context, source string, p flusher, to feed.Sink, ready func(), next func() (bool, error)) error {
	a.files = newHasher(a.cfg.HashSize, a.cfg.HashRate)
	defer a.files.close()
	if err := a.announce(time.Now(), source); err != nil {
		return err
	}
	ready()
	var quiet time.Time // since when nothing came
	for done := false; !done && ctx.Err() == nil; {
		before := a.seen
		var err error
		if done, err = next(); err != nil {
			return err
		}
		now := time.Now()
		if a.seen != before || quiet.IsZero() {
			quiet = now
		} else if now.Sub(quiet) > flushAfter { // the last record has no successor that ends it
			p.Flush(to)
			quiet = now
		}
		a.release(now)
		if err := a.clock.adjust(now); err != nil {
			return err
		}
		if a.host.due(now) {
			if err := a.announce(now, source); err != nil {
				return err
			}
		}
	}
	p.Flush(to)
	a.release(time.Time{})
	return nil
}

// flushAfter is after how long without a line an event of several is complete.
const flushAfter = 200 * time.Millisecond

// line counts what came, and what could not be used, of which the first is shown.
func (a *Agent) line(err error) {
	a.seen++
	if err != nil && a.refused.Add(1) == 1 {
		a.cfg.Log.Warn("a record cannot be used; others like it are counted", "reason", err)
	}
}

// recordSink takes what lines tell of this host now.
type recordSink Agent

// Lookup is of no use here: a Record says who asked.
func (*recordSink) Lookup(*event.Lookup) {}

// Connection is of no use here: a Record says who made it.
func (*recordSink) Connection(*event.Connection) {}

// Record completes a record by what the process's directory tells, as long as it is there.
func (s *recordSink) Record(r *attribute.Record) {
	a := (*Agent)(s)
	if w := a.hold(r); w != nil {
		a.complete(w)
	}
}

// foreignSink takes what lines tell that may be old.
type foreignSink Agent

// Lookup is of no use here.
func (*foreignSink) Lookup(*event.Lookup) {}

// Connection is of no use here.
func (*foreignSink) Connection(*event.Connection) {}

// Record hands a record on as it is.
func (s *foreignSink) Record(r *attribute.Record) { (*Agent)(s).hold(r) }

// hold lets a record wait, unless it goes to loopback.
func (a *Agent) hold(r *attribute.Record) *waiting {
	if r.Kind == attribute.Connect && r.Remote.Addr().IsLoopback() && !a.cfg.Kernel.Loopback {
		return nil
	}
	now := time.Now()
	name := fnv.New64a()
	_, _ = io.WriteString(name, r.ID) // cannot fail
	w := &waiting{record: *r, cookie: name.Sum64(), hashed: now.Add(a.cfg.HashWait), hash: &hashing{sum: r.Process.SHA256}}
	w.hash.done.Store(true)
	if p := &w.record.Process; p.User == "" && p.HasUID {
		p.User = a.users.name(p.UID, now)
	}
	a.queue = append(a.queue, w)
	return w
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// lines makes lines of what is read in pieces. Longer ones than maxLine are passed over.
type lines struct {
	rest []byte // of a line that is not complete
	skip bool   // the rest of a line that was too long
}

// tail follows a log file: what is appended, and the file that takes its place.
type tail struct {
	name string
	file *os.File
	lines
	buf []byte
}

const maxLine = 1 << 20 // bytes

// openTail opens a log file at its end.
func openTail(name string) (*tail, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, err
	}
	return &tail{name: name, file: f, buf: make([]byte, 64<<10)}, nil
}

func (t *tail) close() { t.file.Close() }

// read hands on the lines that were written since the last call.
func (t *tail) read(line func([]byte)) error {
	for {
		n, err := t.file.Read(t.buf)
		t.take(t.buf[:n], line)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", t.name, err)
		}
		if n > 0 {
			continue
		}
		if moved, err := t.moved(); err != nil || !moved {
			return err
		}
	}
}

// moved goes on with the file that has the name by now, after what was still written to the old one.
func (t *tail) moved() (bool, error) {
	old, err := t.file.Stat()
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", t.name, err)
	}
	at, err := t.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", t.name, err)
	}
	now, err := os.Stat(t.name)
	switch {
	case errors.Is(err, os.ErrNotExist): // in the middle of a rotation
		return false, nil
	case err != nil:
		return false, err
	case !os.SameFile(old, now):
		f, err := os.Open(t.name)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		t.file.Close()
		t.file, t.lines = f, lines{}
		return true, nil
	case old.Size() < at: // emptied in place
		_, err := t.file.Seek(0, io.SeekStart)
		t.lines = lines{}
		return err == nil, err
	}
	return false, nil
}

// take splits what was read into lines.
func (t *lines) take(b []byte, line func([]byte)) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			if len(t.rest)+len(b) > maxLine {
				t.rest, t.skip = nil, true
			}
			if !t.skip {
				t.rest = append(t.rest, b...)
			}
			return
		}
		switch {
		case t.skip:
			t.skip = false
		case len(t.rest) > 0:
			if len(t.rest)+end <= maxLine {
				line(append(t.rest, b[:end]...))
			}
			t.rest = t.rest[:0]
		default:
			line(b[:end])
		}
		b = b[end+1:]
	}
}
