package process

import (
	"bytes"
	"strconv"
	"strings"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/audit"
	"portolan/cmd/internal/feed/field"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// laurelSlot knows the fields of an audit event as laurel writes it: the records of one event in
// one object, numbers decimal or as text with 0x, strings percent-encoded.
func laurelSlot(path []byte) slot {
	switch string(path) {
	case "SYSCALL", "SOCKADDR", "PROCTITLE", "CWD", "PARENT_INFO", "CONTAINER_INFO", "SYSCALL.PPID":
		return inside
	case "ID":
		return when
	case "NODE":
		return host
	case "SYSCALL.arch":
		return what2
	case "SYSCALL.syscall":
		return what
	case "SYSCALL.exit":
		return errno
	case "SYSCALL.pid":
		return pid
	case "SYSCALL.ppid":
		return parentPID
	case "SYSCALL.auid":
		return loginUID
	case "SYSCALL.uid":
		return uid
	case "SYSCALL.UID":
		return user
	case "SYSCALL.comm":
		return name
	case "SYSCALL.exe":
		return executable
	case "SOCKADDR.saddr":
		return sockaddr
	case "PROCTITLE.ARGV":
		return args
	case "CWD.cwd":
		return dir
	case "SYSCALL.PPID.comm":
		return parentName
	case "SYSCALL.PPID.exe":
		return parentExecutable
	case "PARENT_INFO.comm": // the same in another place; both may be there
		return formerParentName
	case "PARENT_INFO.exe":
		return formerParentExecutable
	case "CONTAINER_INFO.id":
		return containerID
	}
	return skip
}

// laurel makes a record of an audit event with a socket address.
func (p *Parser) laurel(to feed.Sink) error {
	f := &p.fields
	if f.v[sockaddr].kind == 0 {
		return nil
	}
	arch, err := strconv.ParseUint(string(f.text(what2)), 0, 32)
	if err != nil {
		return unreadable(what2)
	}
	nr, err := f.uint(what, unset)
	if err != nil {
		return err
	}
	connects, sends := audit.Kind(uint32(arch), nr)
	if !connects && !sends {
		return nil
	}
	remote := audit.ParseSockaddr(f.text(sockaddr))
	if !remote.IsValid() {
		remote = audit.Sockaddr(f.decode(f.text(sockaddr)))
	}
	if !remote.IsValid() || remote.Port() == 0 {
		return nil // another family; asking for a source address only
	}
	stamp, serial, _ := bytes.Cut(f.text(when), []byte(":"))
	at, ok := field.Seconds(stamp)
	number, ok2 := field.Uint(serial, 1<<63)
	if !ok || !ok2 {
		return unreadable(when)
	}
	if f.v[parentExecutable].kind == 0 {
		f.v[parentName], f.v[parentExecutable] = f.v[formerParentName], f.v[formerParentExecutable]
	}
	for _, s := range []slot{name, executable, dir, parentName, parentExecutable} {
		f.v[s].b = f.decode(f.v[s].b)
	}
	r, addr, err := p.begin(Laurel, attribute.Connect, at)
	if err != nil {
		return err
	}
	for i, arg := range p.args {
		if strings.IndexByte(arg, '%') >= 0 {
			p.args[i] = p.strings.Of(f.decode([]byte(arg)))
		}
	}
	r.Remote, r.Proto = remote, event.UDP
	if connects {
		r.Proto = feed.GuessProto(remote)
	}
	e, ok := errnoOf(f.text(errno))
	if e != 0 && connects {
		r.Proto = event.TCP // a datagram socket's connect never waits and is never refused
	}
	if positive := len(f.text(errno)) > 0 && f.text(errno)[0] != '-'; positive {
		e, ok = 0, true // bytes sent
	}
	if !ok || !ended(r, e) {
		return nil
	}
	p.handNumbered(r, addr, number, to)
	return nil
}

// decode returns b with %xx turned into the byte it stands for.
func (f *fields) decode(b []byte) []byte {
	if bytes.IndexByte(b, '%') < 0 {
		return b
	}
	from := len(f.scratch)
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '%' && i+2 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+3]), 16, 8); err == nil {
				c = byte(n)
				i += 2
			}
		}
		f.scratch = append(f.scratch, c)
	}
	return f.scratch[from:len(f.scratch):len(f.scratch)]
}
