package audit

import (
	"bytes"

	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

const (
	fastOpenFlag = 0x20000000 // MSG_FASTOPEN
	unset        = 1<<32 - 1  // a login uid that was never set

	afInet, afInet6       = 2, 10
	sockStream, sockDgram = 1, 2
)

// begin opens an event with its SYSCALL or URINGOP record, unless it does not matter.
func (p *Parser) begin(kind uint64, node string, t event.Time, serial uint64, body []byte, to feed.Sink) error {
	if p.find(node, t, serial) >= 0 {
		return nil // the line came twice
	}
	g := p.take()
	g.node, g.time, g.serial, g.uring = node, t, serial, kind == typeUringOp
	var arch, nr, op uint64
	var a [4]uint64
	for f, rest := next(body); f.key != nil; f, rest = next(rest) {
		switch string(f.key) {
		case "arch":
			arch, _ = number(f.value, 16)
		case "syscall":
			nr, _ = number(f.value, 10)
			if g.call = callOf(uint32(arch), nr); g.call == other && nr != 102 {
				p.idle = append(p.idle, g) // most records of a busy log end here
				return nil
			}
		case "uring_op":
			op, _ = number(f.value, 10)
			g.call = uringCall(op)
		case "exit":
			g.exit = exit(f.value)
		case "a0":
			a[0], _ = number(f.value, 16)
		case "a1":
			a[1], _ = number(f.value, 16)
		case "a2":
			a[2], _ = number(f.value, 16)
		case "a3":
			a[3], _ = number(f.value, 16)
		case "ppid":
			g.ppid, _ = number32(f.value)
		case "pid":
			g.pid, _ = number32(f.value)
		case "auid":
			g.auid, g.hasAUID = number32(f.value)
		case "uid":
			g.uid, g.hasUID = number32(f.value)
		case "comm":
			g.comm = p.text(f)
		case "exe":
			g.exe = p.text(f)
		case "UID":
			g.user = p.text(f)
		}
	}
	if g.call == other {
		g.call = socketcall(uint32(arch), nr, a[0])
	} else {
		g.fd = a[0]
	}
	switch g.call {
	case other:
		p.idle = append(p.idle, g)
		return nil
	case socket:
		p.opened(g, a[0], a[1])
		p.idle = append(p.idle, g)
		return nil
	case sendto, sendmmsg:
		g.fastOpen = a[3]&fastOpenFlag != 0
	case sendmsg:
		g.fastOpen = a[2]&fastOpenFlag != 0
	}
	var err error
	if g.hostID, g.host, g.addr, err = p.origin.Resolve(node); err != nil {
		p.idle = append(p.idle, g)
		return p.refuse(err)
	}
	if len(p.open) == maxOpen {
		err = p.close(0, to)
	}
	p.open = append(p.open, g)
	return err
}

// take returns a group to fill.
func (p *Parser) take() *group {
	if len(p.idle) == 0 {
		return &group{}
	}
	g := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	// An execve's arguments live on in what is remembered of programs.
	*g = group{sockaddr: g.sockaddr[:0], title: g.title[:0]}
	return g
}

// exit reads a system call's result, which auditd may also have written as a name.
func exit(b []byte) int64 {
	digits, negative := bytes.CutPrefix(b, []byte("-"))
	n, ok := number(digits, 10)
	if !ok || n > 1<<31 {
		return 0
	}
	if negative {
		return -int64(n)
	}
	return int64(n)
}

func number32(b []byte) (uint32, bool) {
	n, ok := number(b, 10)
	return uint32(n), ok && n < 1<<32
}

// text returns a field's string, remembered.
func (p *Parser) text(f field) string {
	if f.quoted {
		return p.strings.Of(f.value)
	}
	p.scratch = f.text(p.scratch[:0])
	return p.strings.Of(p.scratch)
}

// add takes what a further record says of an event.
func (p *Parser) add(g *group, kind uint64, body []byte) {
	if kind == typeExecve {
		p.addArgs(g, body)
		return
	}
	for f, rest := next(body); f.key != nil; f, rest = next(rest) {
		switch string(f.key) {
		case "saddr":
			const most = 2 * 28 // struct sockaddr_in6
			g.sockaddr = append(g.sockaddr[:0], f.value[:min(len(f.value), most)]...)
		case "cwd":
			g.cwd = p.text(f)
		case "proctitle":
			g.title = f.text(g.title[:0])
			g.title = bytes.TrimRight(g.title[:min(len(g.title), maxTitle)], "\x00")
		}
	}
}

// output is what a Sink is handed; it is filled anew for each call.
type output struct {
	record     attribute.Record
	connection event.Connection
}

// finish makes a record of an event that is over. It reports false for a connect whose address
// is missing.
func (p *Parser) finish(g *group, to feed.Sink) bool {
	if g.call == execve {
		p.started(g)
		return true
	}
	if len(g.sockaddr) == 0 {
		return g.call != connect || g.exit == -efault
	}
	remote := ParseSockaddr(g.sockaddr)
	if !remote.IsValid() || remote.Port() == 0 { // another family; asking for a source address only
		return true
	}
	r := &p.out.record
	*r = attribute.Record{
		Kind: attribute.Connect, HostID: g.hostID, Host: g.host, Source: Source, Time: g.time, Remote: remote,
		Process: attribute.Process{
			PID: g.pid, Name: g.comm, Executable: g.exe,
			UID: g.uid, HasUID: g.hasUID, LoginUID: g.auid, HasLoginUID: g.hasAUID && g.auid != unset, User: g.user,
			Parent: attribute.Parent{PID: g.ppid},
		},
	}
	if !p.outcome(g, r) {
		return true
	}
	r.Process.Args, r.Process.Dir = p.arguments(g)
	feed.SetID(r, g.serial)
	if feed.Hand(r, g.addr, &p.out.connection, to) {
		p.connections = true
	}
	return true
}

// outcome fills in protocol, result and error. It reports false for calls that begin nothing.
func (p *Parser) outcome(g *group, r *attribute.Record) bool {
	if g.exit < 0 {
		r.Errno = uint16(min(-g.exit, 1<<16-1))
	}
	if g.call == connect || g.fastOpen {
		var begun bool
		r.Result, begun = Outcome(r.Errno)
		switch known, ok := p.sockets.Get(socketKey{g.node, g.pid, g.fd}); {
		case g.fastOpen, r.Result == attribute.InProgress, r.Result == attribute.Refused, r.Result == attribute.TimedOut:
			r.Proto = event.TCP // a datagram socket's connect never waits and is never refused
		case ok:
			r.Proto = known
		default:
			r.Proto = feed.GuessProto(r.Remote)
		}
		return begun
	}
	r.Proto = event.UDP
	if g.exit < 0 {
		r.Result = attribute.Failed
		return true
	}
	r.Result = attribute.Sent
	return p.sent.First(feed.Datagram{Host: g.node, PID: g.pid, FD: g.fd, Remote: r.Remote}, g.time)
}

// socketKey is a socket as system calls name it.
type socketKey struct {
	node string
	pid  uint32
	fd   uint64
}

// opened remembers the protocol of a socket from the call that made it.
func (p *Parser) opened(g *group, family, kind uint64) {
	const typeMask = 15 // the rest are flags (SOCK_NONBLOCK, SOCK_CLOEXEC)
	if g.exit < 0 || family != afInet && family != afInet6 {
		return
	}
	switch kind & typeMask {
	case sockStream:
		p.sockets.Put(socketKey{g.node, g.pid, uint64(g.exit)}, event.TCP, 1)
	case sockDgram:
		p.sockets.Put(socketKey{g.node, g.pid, uint64(g.exit)}, event.UDP, 1)
	}
}
