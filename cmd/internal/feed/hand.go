package feed

import (
	"net/netip"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

const (
	ehostunreach = 113 // the one local error that a packet may have caused: ICMP says so
	dnsPort      = 53
)

// GuessProto returns the protocol of a connect that succeeded at once and whose source does not tell: TCP,
// or UDP to port 53, as resolvers connect their sockets.
func GuessProto(remote netip.AddrPort) event.Proto {
	if remote.Port() == dnsPort {
		return event.UDP
	}
	return event.TCP
}

// Hand gives a Sink a connect's record, and the connection that it stands for if its packet may
// have crossed a mirror: it left, not for this host, and the source's address is known, from the
// record or as src. c is what the connection is made in. Hand reports whether there was one.
func Hand(r *attribute.Record, src netip.Addr, c *event.Connection, to Sink) bool {
	to.Record(r)
	return HandConnection(r, src, c, to)
}

// HandConnection is Hand for sources that know no process.
func HandConnection(r *attribute.Record, src netip.Addr, c *event.Connection, to Sink) bool {
	remote := r.Remote.Addr()
	if remote.IsLoopback() || remote.IsUnspecified() || r.Result == attribute.Failed && r.Errno != ehostunreach {
		return false
	}
	from := r.Local
	if !from.Addr().IsValid() || from.Addr().IsUnspecified() {
		from = netip.AddrPortFrom(src, r.Local.Port())
	}
	if !from.Addr().IsValid() || from.Addr().Is4() != remote.Is4() {
		return false
	}
	*c = event.Connection{Time: r.Time, Src: from, Dst: r.Remote, Proto: r.Proto}
	if c.Proto == event.UDP {
		c.Start = event.Datagram
	}
	to.Connection(c)
	return true
}
