package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portolan/cmd/internal/endpoint/kernel"
	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/audit"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

var (
	seesAudit  = [...]string{"connect", "arguments", "process-start, container, parent and executable-hash while the process lives"}
	blindAudit = [...]string{
		"local address and port: a connection is found by its destination and time",
		"how a connect that does not wait has ended",
		"names asked for in DNS",
		"container, parent and hash of processes that end at once",
		"datagrams of sockets that are not connected, unless a rule has sendto and sendmsg",
	}
)

// AuditLost is what is lost where audit records stand in for the eBPF programs, for people.
const AuditLost = "no local address and port, no result of non-blocking connects, no DNS questions, little of processes that end at once"

// RunAudit hands on connects from the kernel's audit records, until ctx ends, and calls ready once
// they can be seen: of the multicast group that the kernel sends to for "", else of a log file, from
// its end and over its rotation. The group takes CAP_AUDIT_READ, rules CAP_AUDIT_CONTROL.
func (a *Agent) RunAudit(ctx context.Context, file string, ready func()) (err error) {
	a.files = newHasher(a.cfg.HashSize, a.cfg.HashRate)
	defer a.files.close()
	a.host.sees, a.host.blind = seesAudit[:], blindAudit[:]
	if a.cfg.AuditRule {
		rules, err := addRules()
		if err != nil {
			return fmt.Errorf("add audit rules: %w", err)
		}
		defer func() { err = errors.Join(err, rules.remove()) }()
	}
	p := audit.New(feed.Origin{HostID: a.cfg.HostID, Host: a.cfg.Host})
	to := (*auditSink)(a)
	var next func() error // reads what is there, waits for pollEvery at most
	if file == "" {
		group, err := openGroup()
		if err != nil {
			return err
		}
		defer group.close()
		next = func() error {
			return group.read(func(kind uint16, text []byte) { a.line(p.Message(kind, text, to)) }, &a.lost)
		}
	} else {
		tail, err := openTail(file)
		if err != nil {
			return err
		}
		defer tail.close()
		next = func() error {
			err := tail.read(func(line []byte) { a.line(p.Line(line, to)) })
			sleep(ctx, pollEvery)
			return err
		}
	}
	if err := a.announce(time.Now(), audit.Source); err != nil {
		return err
	}
	ready()
	idle := time.Now()
	for ctx.Err() == nil {
		before := a.refused.Load() + uint64(len(a.queue))
		if err := next(); err != nil {
			return err
		}
		now := time.Now()
		if a.refused.Load()+uint64(len(a.queue)) != before {
			idle = now
		} else if now.Sub(idle) > auditIdle { // the last record of a burst has no successor to end it
			p.Flush(to)
			idle = now
		}
		a.release(now)
		if err := a.clock.adjust(now); err != nil {
			return err
		}
		if a.host.due(now) {
			if err := a.announce(now, audit.Source); err != nil {
				return err
			}
		}
	}
	p.Flush(to)
	a.release(time.Time{})
	return nil
}

// auditIdle is after how long without a record an event is complete.
const auditIdle = 200 * time.Millisecond

// auditCoarse is how far behind the time of an audit record may be: it is that of the last timer
// interrupt, cut to milliseconds.
const auditCoarse = 20 * time.Millisecond

// line counts what could not be used.
func (a *Agent) line(err error) {
	if err != nil {
		a.refused.Add(1)
	}
}

// auditSink takes what audit records tell.
type auditSink Agent

// Lookup is never called: audit records hold none.
func (*auditSink) Lookup(*event.Lookup) {}

// Connection is of no use here: who made it is what matters.
func (*auditSink) Connection(*event.Connection) {}

// Record completes a record by what the process's directory tells, as long as it is there.
func (s *auditSink) Record(r *attribute.Record) {
	a := (*Agent)(s)
	if r.Remote.Addr().IsLoopback() && !a.cfg.Kernel.Loopback {
		return
	}
	now := time.Now()
	w := &waiting{record: *r, hashed: now.Add(a.cfg.HashWait), hash: unhashed()}
	p := &w.record.Process
	if p.User == "" && p.HasUID {
		p.User = a.users.name(p.UID, now)
	}
	a.complete(w)
	a.queue = append(a.queue, w)
}

// complete reads what /proc tells of a process that an audit record names. The pid may be another's by
// now: only one with the same executable is believed.
func (a *Agent) complete(w *waiting) {
	p := &w.record.Process
	dir := "/proc/" + strconv.FormatUint(uint64(p.PID), 10)
	start, err := startOf(dir)
	if err != nil || a.clock.at(start) > w.record.Time.Add(auditCoarse) {
		return
	}
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil || strings.TrimSuffix(exe, " (deleted)") != p.Executable {
		return
	}
	p.Start = a.clock.start(start)
	p.NetNS, _ = spaceOf(dir)
	v := a.programs.find(kernel.Program{PID: p.PID, Start: start})
	if v == nil || v.Executable != p.Executable {
		v = &process{Process: *p}
		v.complete(start)
		v.parentFrom(dir, &a.clock)
		v.hash = a.files.hash(v, start)
		a.programs.put(kernel.Program{PID: p.PID, Start: start}, v)
	}
	p.Cgroup, p.ContainerID, p.Parent = v.Cgroup, v.ContainerID, v.Parent
	w.hash = v.hash
}

// parentFrom reads who started a process.
func (v *process) parentFrom(dir string, c *clock) {
	b, err := readBounded(filepath.Join(dir, "status"), maxProcFile)
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		text, ok := strings.CutPrefix(line, "PPid:\t")
		if !ok {
			continue
		}
		pid, err := strconv.ParseUint(text, 10, 32)
		if err != nil || pid == 0 {
			return
		}
		of := "/proc/" + text
		if start, err := startOf(of); err == nil {
			v.Parent = attribute.Parent{PID: uint32(pid), Start: c.start(start)}
			name, _ := readBounded(of+"/comm", maxProcFile)
			v.Parent.Name = strings.TrimSuffix(string(name), "\n")
			v.Parent.Executable, _ = os.Readlink(of + "/exe")
		}
		return
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// tail follows a log file: what is appended, and the file that takes its place.
type tail struct {
	name string
	file *os.File
	rest []byte // of a line that is not complete
	skip bool   // the rest of a line that was too long
	buf  []byte
}

const maxAuditLine = 1 << 20 // bytes

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
		t.file, t.rest, t.skip = f, nil, false
		return true, nil
	case old.Size() < at: // emptied in place
		_, err := t.file.Seek(0, io.SeekStart)
		t.rest, t.skip = nil, false
		return err == nil, err
	}
	return false, nil
}

// take splits what was read into lines.
func (t *tail) take(b []byte, line func([]byte)) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			if len(t.rest)+len(b) > maxAuditLine {
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
			if len(t.rest)+end <= maxAuditLine {
				line(append(t.rest, b[:end]...))
			}
			t.rest = t.rest[:0]
		default:
			line(b[:end])
		}
		b = b[end+1:]
	}
}

// group is a socket that listens to what the kernel's audit system sends to all.
type group struct {
	fd  int
	buf []byte
}

const groupBuffer = 8 << 20 // bytes that may wait for us in the kernel

func openGroup() (*group, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("open audit socket: %w", err)
	}
	g := &group{fd: fd, buf: make([]byte, 64<<10)}
	timeout := unix.NsecToTimeval(int64(pollEvery))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err == nil {
		// Without CAP_NET_ADMIN the buffer is what net.core.rmem_max allows.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, groupBuffer) != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, groupBuffer)
		}
	}
	if err == nil {
		const readLog = 1 // AUDIT_NLGRP_READLOG, linux/audit.h
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (readLog - 1)})
	}
	if err != nil {
		g.close()
		return nil, fmt.Errorf("listen to the kernel's audit records: %w", err)
	}
	return g, nil
}

func (g *group) close() { unix.Close(g.fd) }

// counter counts what was lost.
type counter interface{ Add(uint64) uint64 }

// read hands on the messages that are there, and waits for pollEvery if there is none.
func (g *group) read(message func(kind uint16, text []byte), lost counter) error {
	const header = unix.SizeofNlMsghdr
	for range maxBurst {
		n, _, err := unix.Recvfrom(g.fd, g.buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return nil
		case errors.Is(err, unix.ENOBUFS): // the kernel does not say how many
			lost.Add(1)
			continue
		case err != nil:
			return fmt.Errorf("read audit records: %w", err)
		}
		if n > header { // a datagram is a message; the length that it names leaves the header out at times
			message(nativeUint16(g.buf[4:]), g.buf[header:n])
		}
	}
	return nil
}
