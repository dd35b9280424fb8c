package endpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portolan/cmd/internal/endpoint/kernel"
	"portolan/cmd/internal/feed/audit"
	"portolan/correlate/attribute"
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

// RunAudit hands on connects from the audit records that the kernel sends to all who listen, until
// ctx ends, and calls ready once they can be seen. It takes CAP_AUDIT_READ, rules CAP_AUDIT_CONTROL.
func (a *Agent) RunAudit(ctx context.Context, ready func()) (err error) {
	if a.cfg.AuditRule {
		rules, err := addRules()
		if err != nil {
			return fmt.Errorf("add audit rules: %w", err)
		}
		defer func() { err = errors.Join(err, rules.remove()) }()
	}
	group, err := openGroup()
	if err != nil {
		return err
	}
	defer group.close()
	p := audit.New(a.origin())
	to := (*recordSink)(a)
	a.host.sees, a.host.blind = seesAudit[:], blindAudit[:]
	return a.follow(ctx, audit.Source, p, to, ready, func() (bool, error) {
		return false, group.read(func(kind uint16, text []byte) { a.line(p.Message(kind, text, to)) }, &a.lost)
	})
}

// auditCoarse is how far behind the time of an audit record may be: it is that of the last timer
// interrupt, cut to milliseconds.
const auditCoarse = 20 * time.Millisecond

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
