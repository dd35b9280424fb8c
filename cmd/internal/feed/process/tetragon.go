package process

import (
	"bytes"

	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// tetragonSlot knows the fields of Tetragon's GetEventsResponse in protobuf's JSON form, as its
// export file and tetra getevents have them. Kernel probes and LSM hooks look the same.
func tetragonSlot(path []byte) slot {
	switch string(path) {
	case "time":
		return when
	case "node_name":
		return host
	case "process_kprobe", "process_lsm":
		return inside
	}
	rest, ok := bytes.CutPrefix(path, []byte("process_kprobe."))
	if !ok {
		if rest, ok = bytes.CutPrefix(path, []byte("process_lsm.")); !ok {
			return skip
		}
	}
	switch string(rest) {
	case "process", "process.pod", "process.pod.container", "process.user", "process.ns", "process.ns.net", "parent",
		"args", "args.sock_arg", "args.sockaddr_arg", "return":
		return inside
	case "function_name":
		return what
	case "return.int_arg":
		return errno
	case "process.pid":
		return pid
	case "process.uid":
		return uid
	case "process.auid":
		return loginUID
	case "process.user.name":
		return user
	case "process.start_time":
		return start
	case "process.binary":
		return executable
	case "process.arguments":
		return commandLine
	case "process.cwd":
		return dir
	case "process.ns.net.inum":
		return netns
	case "process.pod.namespace":
		return namespace
	case "process.pod.name":
		return pod
	case "process.pod.container.id":
		return containerID
	case "process.pod.container.name":
		return container
	case "parent.pid":
		return parentPID
	case "parent.binary":
		return parentExecutable
	case "parent.start_time":
		return parentStart
	case "args.sock_arg.protocol":
		return protocol
	case "args.sock_arg.saddr":
		return localIP
	case "args.sock_arg.sport":
		return localPort
	case "args.sock_arg.daddr":
		return remoteIP
	case "args.sock_arg.dport":
		return remotePort
	case "args.sockaddr_arg.addr":
		return calledIP
	case "args.sockaddr_arg.port":
		return calledPort
	}
	return skip
}

// tetragon makes a record of a probe on connecting or on sending a datagram. Probes tell of the
// call's beginning; its result is there only when the policy asks for the return value.
func (p *Parser) tetragon(to feed.Sink) error {
	f := &p.fields
	datagram := false
	switch string(f.text(what)) {
	case "tcp_connect", "tcp_v4_connect", "tcp_v6_connect", "security_socket_connect", "socket_connect",
		"sys_connect", "__sys_connect", "__x64_sys_connect", "__arm64_sys_connect":
	case "udp_sendmsg", "udpv6_sendmsg":
		datagram = true
	default:
		return nil
	}
	if f.v[calledIP].kind != 0 { // the socket itself does not know yet
		f.v[remoteIP], f.v[remotePort] = f.v[calledIP], f.v[calledPort]
	}
	if f.v[remoteIP].kind == 0 {
		return nil // a socket of another family
	}
	r, addr, err := p.begin(Tetragon, attribute.Connect, f.stamp(when))
	if err != nil {
		return err
	}
	if err := f.sockets(r); err != nil {
		return err
	}
	if p.withProgram(r); datagram {
		r.Proto = event.UDP
	} else if r.Proto = f.transport(); r.Proto == 0 {
		if r.Proto = feed.GuessProto(r.Remote); bytes.HasPrefix(f.text(what), []byte("tcp_")) {
			r.Proto = event.TCP
		}
	}
	if b := f.text(errno); len(b) > 0 {
		if e, ok := errnoOf(b); !ok || !ended(r, e) {
			return nil
		}
	}
	p.hand(r, addr, to)
	return nil
}

// withProgram puts the program before arguments that come without it.
func (p *Parser) withProgram(r *attribute.Record) {
	if r.Process.Executable == "" {
		return
	}
	p.args = append(p.args, "")
	copy(p.args[1:], p.args)
	p.args[0] = r.Process.Executable
	r.Process.Args = p.args
}
