package process

import (
	"bytes"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// falcoSlot knows the fields of a Falco alert with json_output, which falcosidekick hands on
// with fields of its own beside. What output_fields holds is up to the rule's output.
func falcoSlot(path []byte) slot {
	switch string(path) {
	case "output_fields":
		return inside
	case "time":
		return when
	case "hostname":
		return host
	}
	rest, ok := bytes.CutPrefix(path, []byte("output_fields."))
	if !ok {
		return skip
	}
	switch string(rest) {
	case "evt.type":
		return what
	case "evt.res":
		return outcome
	case "fd.l4proto":
		return protocol
	case "fd.name":
		return sockets
	case "fd.cip":
		return localIP
	case "fd.cport":
		return localPort
	case "fd.sip":
		return remoteIP
	case "fd.sport":
		return remotePort
	case "proc.pid":
		return pid
	case "proc.pid.ts":
		return start
	case "proc.name":
		return name
	case "proc.exepath":
		return executable
	case "proc.cmdline":
		return commandLine
	case "proc.cwd":
		return dir
	case "proc.ppid":
		return parentPID
	case "proc.ppid.ts":
		return parentStart
	case "proc.pname":
		return parentName
	case "proc.pexepath":
		return parentExecutable
	case "user.uid":
		return uid
	case "user.name":
		return user
	case "user.loginuid":
		return loginUID
	case "container.id":
		return containerID
	case "container.name":
		return container
	case "k8s.pod.name":
		return pod
	case "k8s.ns.name":
		return namespace
	}
	return skip
}

// falco makes a record of an alert on connecting or on sending a datagram.
func (p *Parser) falco(to feed.Sink) error {
	f := &p.fields
	switch string(f.text(what)) {
	case "connect", "sendto", "sendmsg", "sendmmsg", "":
	default:
		return nil
	}
	for s := range f.v {
		if string(f.v[s].b) == "<NA>" { // Falco knows of no value
			f.v[s] = value{}
		}
	}
	if f.v[remoteIP].kind == 0 {
		// fd.name is client:port->server:port.
		client, server, ok := bytes.Cut(f.text(sockets), []byte("->"))
		if !ok {
			return nil // an alert on something else
		}
		f.endpoint(client, localIP, localPort)
		f.endpoint(server, remoteIP, remotePort)
		if f.v[remoteIP].kind == 0 {
			return nil // a unix socket
		}
	}
	if string(f.text(containerID)) == "host" { // outside of all containers
		f.v[containerID], f.v[container] = value{}, value{}
	}
	r, addr, err := p.begin(Falco, attribute.Connect, f.stamp(when))
	if err != nil {
		return err
	}
	r.Process.Start, r.Process.Parent.Start = f.nanoseconds(start), f.nanoseconds(parentStart)
	if err := f.sockets(r); err != nil {
		return err
	}
	if r.Proto = f.transport(); r.Proto == 0 {
		r.Proto = feed.GuessProto(r.Remote)
	}
	if b := f.text(outcome); len(b) > 0 {
		if e, ok := errnoOf(b); ok && !ended(r, e) {
			return nil
		}
	}
	p.hand(r, addr, to)
	return nil
}

// endpoint takes an address with a port apart; IPv6 stands without brackets.
func (f *fields) endpoint(b []byte, ip, port slot) {
	i := bytes.LastIndexByte(b, ':')
	if i < 0 {
		return
	}
	if _, ok := field.Addr(b[:i]); ok {
		f.v[ip], f.v[port] = value{b[:i], '"'}, value{b[i+1:], '"'}
	}
}

// nanoseconds returns a time given in nanoseconds since 1970, 0 when there is none.
func (f *fields) nanoseconds(s slot) event.Time {
	n, ok := field.Uint(f.text(s), uint64(field.Latest))
	if !ok {
		return 0
	}
	return event.Time(n)
}
