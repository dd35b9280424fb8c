package process

import (
	"net/netip"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/cmd/internal/feed/jsonline"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

const (
	maxCommunity = 64  // bytes
	maxAnswers   = 256 // addresses of one lookup
)

// ecsSlot knows the fields of the Elastic Common Schema that tell of connections, lookups and
// processes, as Elastic Defend, Auditbeat, Packetbeat, the ingest pipelines of Sysmon and others write them.
func ecsSlot(path []byte) slot {
	switch string(path) {
	case "event", "host", "process", "process.parent", "process.hash", "user", "user.audit", "source", "destination",
		"network", "dns", "dns.question", "container", "orchestrator", "orchestrator.resource", "auditd", "auditd.data":
		return inside
	case "@timestamp":
		return when
	case "event.start":
		return whenBegan
	case "event.end":
		return whenSeen
	case "event.category":
		return category
	case "event.action":
		return what
	case "auditd.data.exit":
		return errno
	case "host.name":
		return host
	case "host.id":
		return hostID
	case "network.direction":
		return direction
	case "network.transport":
		return protocol
	case "network.community_id":
		return community
	case "source.ip":
		return localIP
	case "source.port":
		return localPort
	case "destination.ip":
		return remoteIP
	case "destination.port":
		return remotePort
	case "dns.question.name":
		return query
	case "dns.resolved_ip":
		return answers
	case "process.pid":
		return pid
	case "process.start":
		return start
	case "process.name":
		return name
	case "process.executable":
		return executable
	case "process.args":
		return args
	case "process.command_line":
		return commandLine
	case "process.working_directory":
		return dir
	case "process.hash.sha256":
		return sha256
	case "process.parent.pid":
		return parentPID
	case "process.parent.start":
		return parentStart
	case "process.parent.name":
		return parentName
	case "process.parent.executable":
		return parentExecutable
	case "user.id":
		return uid
	case "user.name":
		return user
	case "user.audit.id":
		return loginUID
	case "container.id":
		return containerID
	case "container.name":
		return container
	case "orchestrator.resource.name":
		return pod
	case "orchestrator.namespace":
		return namespace
	}
	return skip
}

// ecs makes a record of a network event, or of a lookup. Which way a flow went and what an
// action is called differs between agents: what ends, what was accepted and what came in is no
// connect of this host.
func (p *Parser) ecs(to feed.Sink) error {
	f := &p.fields
	if f.v[category].kind != 0 && !f.has(category, "network") {
		return nil
	}
	if len(f.text(query)) > 0 {
		return p.ecsLookup(to)
	}
	if f.v[remoteIP].kind == 0 {
		return nil
	}
	incoming := false
	switch string(f.text(what)) {
	case "disconnect_received", "connection_accepted", "accepted-connection-from", "bound-socket", "listen-for-connections":
		return nil
	}
	switch string(f.text(direction)) {
	case "ingress", "inbound":
		incoming = true
	}
	at := f.stamp(whenBegan) // of a flow; its line comes when it ends
	if at == 0 {
		at = f.stamp(when)
	}
	r, addr, err := p.begin(ECS, attribute.Connect, at)
	if err != nil {
		return err
	}
	if err := f.sockets(r); err != nil {
		return err
	}
	if r.Proto = f.transport(); r.Proto == 0 {
		if f.v[protocol].kind != 0 {
			return nil // ICMP and others
		}
		r.Proto = feed.GuessProto(r.Remote)
	}
	if b := f.text(community); len(b) <= maxCommunity {
		r.CommunityID = p.strings.Of(b)
	}
	if b := f.text(errno); len(b) > 0 {
		if e, ok := errnoOf(b); ok && !ended(r, e) {
			return nil
		}
	}
	if incoming {
		p.seen(feed.HandConnection(r, netip.Addr{}, &p.conn, to))
		return nil
	}
	p.hand(r, addr, to)
	return nil
}

// ecsLookup makes a record of a question, and a lookup when the addresses it gave are there.
func (p *Parser) ecsLookup(to feed.Sink) error {
	f := &p.fields
	at := f.stamp(whenSeen) // Packetbeat: when the answer came
	if at == 0 {
		at = f.stamp(when)
	}
	r, addr, err := p.begin(ECS, attribute.Lookup, at)
	if err != nil {
		return err
	}
	client, err := f.socket(localIP, localPort)
	if err != nil {
		return err
	}
	server, err := f.socket(remoteIP, remotePort)
	if err != nil {
		return err
	}
	if r.Local, r.Remote, r.Proto = client, server, f.transport(); !client.Addr().IsValid() {
		client = netip.AddrPortFrom(addr, 0)
	}
	if v := f.v[answers]; v.kind == '[' && client.Addr().IsValid() {
		p.scratch = field.Name(p.scratch[:0], f.text(query))
		l := &p.lookup
		*l = event.Lookup{Time: at, Client: client, Resolver: server, Proto: event.UDP, Type: event.A,
			Name: p.scratch, Records: l.Records[:0]}
		if r.Proto == event.TCP {
			l.Proto = event.TCP
		}
		a := jsonline.Value(v.b).Elements()
		for e, ok := a.Next(); ok && len(l.Records) < maxAnswers; e, ok = a.Next() {
			ip, ok := field.Addr(e.Plain())
			if !ok {
				continue
			}
			x := event.Record{Type: event.A, Addr: ip.Unmap(), Owner: p.scratch}
			if x.Addr.Is6() {
				x.Type = event.AAAA
			}
			l.Type = x.Type
			l.Records = append(l.Records, x)
		}
		if len(l.Records) > 0 {
			p.lookups = true
			to.Lookup(l)
		}
	}
	if r.Process.PID == 0 && r.Process.Executable == "" {
		return nil
	}
	return p.asked(r, to)
}
