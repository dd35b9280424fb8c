package process

import (
	"bytes"
	"net/netip"
	"unicode/utf8"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/audit"
	"portolan/cmd/internal/feed/field"
	"portolan/cmd/internal/feed/jsonline"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Bounds of what a record takes from a line.
const (
	maxArgs  = 256
	maxArg   = 4 << 10 // bytes
	maxName  = 4 << 10 // bytes of any other text
	unset    = 1<<32 - 1
	maxPort  = 1<<16 - 1
	maxErrno = 4095 // of the kernel
	minID    = 12   // hex digits that runtimes shorten a container's id to
	maxID    = 64
)

// begin starts a record of the line's host, time and process. The address is where that host's
// connections come from, if the origin knows it.
func (p *Parser) begin(source Format, kind attribute.Kind, at event.Time) (*attribute.Record, netip.Addr, error) {
	f, r := &p.fields, &p.record
	if err := p.origin.InTime(at); err != nil {
		return nil, netip.Addr{}, err
	}
	id, name, addr, err := p.origin.Resolve(p.strings.Of(f.text(host)))
	if err != nil {
		return nil, netip.Addr{}, err
	}
	if own := f.text(hostID); len(own) > 0 && id != p.origin.HostID {
		id = feed.HostToken(p.strings.Of(own))
	}
	*r = attribute.Record{Kind: kind, HostID: id, Host: name, Source: source.String(), Time: at}
	return r, addr, p.process(&r.Process)
}

// process fills in what the line tells of the process.
func (p *Parser) process(x *attribute.Process) error {
	f := &p.fields
	var firstErr error
	number := func(s slot, most uint64) uint64 {
		n, err := f.uint(s, most)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		return n
	}
	text := func(s slot) string {
		b := f.text(s)
		if !utf8.Valid(b) && firstErr == nil {
			firstErr = errUTF8
		}
		if k := f.v[s].kind; k != 0 && k != '"' && firstErr == nil && !(k == '[' && len(b) > 0) {
			firstErr = unreadable(s)
		}
		return p.strings.Of(b[:min(len(b), maxName)])
	}
	x.PID = uint32(number(pid, unset))
	x.Name, x.Executable, x.Dir = text(name), text(executable), text(dir)
	x.Container, x.User = text(container), text(user)
	x.Parent = attribute.Parent{PID: uint32(number(parentPID, unset)), Name: text(parentName), Executable: text(parentExecutable)}
	x.NetNS = number(netns, 1<<63-1)
	x.UID, x.HasUID = f.id(uid)
	x.LoginUID, x.HasLoginUID = f.id(loginUID)
	x.SHA256 = p.strings.Of(hexDigits(f.text(sha256), 64, 64))
	id := f.text(containerID)
	if i := bytes.Index(id, []byte("://")); i >= 0 { // containerd://…
		id = id[i+3:]
	}
	x.ContainerID = p.strings.Of(hexDigits(id, minID, maxID))
	if b := f.text(pod); len(b) > 0 {
		p.scratch = append(p.scratch[:0], f.text(namespace)...)
		if len(p.scratch) > 0 {
			p.scratch = append(p.scratch, '/')
		}
		p.scratch = append(p.scratch, b...)
		if x.Container != "" {
			p.scratch = append(append(p.scratch, '/'), x.Container...)
		}
		x.Container = p.strings.Of(p.scratch[:min(len(p.scratch), maxName)])
	}
	var err error
	if x.Args, err = p.arguments(); err != nil && firstErr == nil {
		firstErr = err
	}
	x.Start = f.stamp(start)
	x.Parent.Start = f.stamp(parentStart)
	return firstErr
}

// id returns a user's number; sources also give names, and −1 or 2^32−1 for none.
func (f *fields) id(s slot) (uint32, bool) {
	n, ok := field.Uint(f.text(s), unset)
	return uint32(n), ok && n != unset
}

// stamp returns a time in the form of RFC 3339, 0 when there is none.
func (f *fields) stamp(s slot) event.Time {
	t, _ := field.Stamp(f.text(s))
	return t
}

// hexDigits returns b if it is from least to most lower-case hex digits, and nil otherwise.
func hexDigits(b []byte, least, most int) []byte {
	if len(b) < least || len(b) > most {
		return nil
	}
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return nil
		}
	}
	return b
}

// arguments returns the arguments, from an array or from a command line.
func (p *Parser) arguments() ([]string, error) {
	f := &p.fields
	p.args = p.args[:0]
	add := func(b []byte) {
		if len(p.args) < maxArgs {
			p.args = append(p.args, p.strings.Of(b[:min(len(b), maxArg)]))
		}
	}
	if v := f.v[args]; v.kind == '[' {
		a := jsonline.Value(v.b).Elements()
		for e, ok := a.Next(); ok; e, ok = a.Next() {
			b := e.Text(&f.scratch)
			if !utf8.Valid(b) {
				return nil, errUTF8
			}
			add(b)
		}
	} else if v.kind != 0 {
		return nil, unreadable(args)
	} else if line := f.text(commandLine); len(line) > 0 {
		if !utf8.Valid(line) {
			return nil, errUTF8
		}
		splitWords(line, add)
	}
	if len(p.args) == 0 {
		return nil, nil
	}
	return p.args, nil
}

// splitWords hands on the words of a command line that a tool made of an array: parted by
// spaces, unless a whole word is in double quotes. What was a space in a word cannot be told
// from one between words otherwise.
func splitWords(line []byte, word func([]byte)) {
	for {
		line = bytes.TrimLeft(line, " ")
		if len(line) == 0 {
			return
		}
		if line[0] == '"' {
			if end := bytes.IndexByte(line[1:], '"'); end >= 0 && (end+2 == len(line) || line[end+2] == ' ') {
				word(line[1 : 1+end])
				line = line[end+2:]
				continue
			}
		}
		end := bytes.IndexByte(line, ' ')
		if end < 0 {
			end = len(line)
		}
		word(line[:end])
		line = line[end:]
	}
}

// sockets fills in both ends of a connection. Only the remote one must be there.
func (f *fields) sockets(r *attribute.Record) error {
	remote, err := f.socket(remoteIP, remotePort)
	if err != nil {
		return err
	}
	if !remote.Addr().IsValid() {
		return unreadable(remoteIP)
	}
	if remote.Port() == 0 {
		return unreadable(remotePort)
	}
	local, err := f.socket(localIP, localPort)
	if err != nil {
		return err
	}
	if local.Addr().IsUnspecified() { // not bound yet
		local = netip.AddrPortFrom(netip.Addr{}, local.Port())
	}
	r.Local, r.Remote = local, remote
	return nil
}

// socket returns an address and a port, each of which may be missing.
func (f *fields) socket(ip, port slot) (netip.AddrPort, error) {
	var a netip.Addr
	if b := f.text(ip); len(b) > 0 {
		var ok bool
		if a, ok = field.Addr(b); !ok {
			return netip.AddrPort{}, unreadable(ip)
		}
	} else if f.v[ip].kind == '{' {
		return netip.AddrPort{}, unreadable(ip)
	}
	n, err := f.uint(port, maxPort)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), err
}

// transport returns a protocol by its name or its IANA number, 0 when it is missing or another.
func (f *fields) transport() event.Proto {
	switch string(f.text(protocol)) {
	case "tcp", "TCP", "6", "IPPROTO_TCP", "ipv6-tcp":
		return event.TCP
	case "udp", "UDP", "17", "IPPROTO_UDP":
		return event.UDP
	}
	return 0
}

// errnos are the names of errors that calls for a connection end with (asm-generic/errno.h).
func errnoOf(name []byte) (uint16, bool) {
	switch string(bytes.TrimPrefix(name, []byte("-"))) {
	case "SUCCESS", "0":
		return 0, true
	case "EPERM":
		return 1, true
	case "EINTR":
		return 4, true
	case "EAGAIN":
		return 11, true
	case "EACCES":
		return 13, true
	case "EINVAL":
		return 22, true
	case "EAFNOSUPPORT":
		return 97, true
	case "EADDRNOTAVAIL":
		return 99, true
	case "ENETUNREACH":
		return 101, true
	case "ECONNRESET":
		return 104, true
	case "EISCONN":
		return 106, true
	case "ETIMEDOUT":
		return 110, true
	case "ECONNREFUSED":
		return 111, true
	case "EHOSTUNREACH":
		return 113, true
	case "EALREADY":
		return 114, true
	case "EINPROGRESS":
		return 115, true
	}
	n, ok := field.Uint(bytes.TrimPrefix(name, []byte("-")), maxErrno)
	return uint16(n), ok
}

// ended fills in a call's result from its error. It reports false for calls that begin nothing.
func ended(r *attribute.Record, e uint16) bool {
	r.Errno = e
	if r.Proto == event.UDP && e == 0 {
		r.Result = attribute.Sent
		return true
	}
	var begun bool
	r.Result, begun = audit.Outcome(e)
	return begun
}

// hand gives the Sink a connect's record, unless it is of a later datagram. The connection goes
// out without a record when nothing is known of its process.
func (p *Parser) hand(r *attribute.Record, addr netip.Addr, to feed.Sink) {
	p.handNumbered(r, addr, 0, to)
}

// handNumbered is hand for sources that number their events.
func (p *Parser) handNumbered(r *attribute.Record, addr netip.Addr, number uint64, to feed.Sink) {
	if r.Proto == event.UDP && !p.sent.First(feed.Datagram{
		Host: r.HostID, PID: r.Process.PID, Local: r.Local, Remote: r.Remote}, r.Time) {
		return
	}
	if r.Process.PID == 0 && r.Process.Executable == "" && r.Process.Name == "" {
		p.seen(feed.HandConnection(r, addr, &p.conn, to))
		return
	}
	feed.SetID(r, number)
	p.seen(feed.Hand(r, addr, &p.conn, to))
}

// seen notes what the connection that was just made, if one was, does not tell.
func (p *Parser) seen(made bool) {
	if !made {
		return
	}
	p.connections = true
	if p.conn.Src.Port() == 0 {
		p.cannot |= feed.NoSourcePort
	}
}

// asked gives the Sink the record of a lookup.
func (p *Parser) asked(r *attribute.Record, to feed.Sink) error {
	b := p.fields.text(query)
	if len(b) > maxName || !utf8.Valid(b) {
		return unreadable(query)
	}
	p.scratch = field.Name(p.scratch[:0], b)
	if r.Query = p.strings.Of(p.scratch); r.Query == "" {
		return unreadable(query)
	}
	feed.SetID(r, 0)
	to.Record(r)
	return nil
}
