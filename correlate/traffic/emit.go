package traffic

import (
	"net/netip"
	"time"

	"portolan/sensor/event"
)

// connect has the actor's host open a connection at t.
func (g *Generator) connect(a *actor, t event.Time, p event.Proto, dst uint32, port uint16) {
	g.open(a, t, p, g.hosts[a.host].addr, netip.AddrPortFrom(addr(dst), port))
}

func (g *Generator) open(a *actor, t event.Time, p event.Proto, src netip.Addr, dst netip.AddrPort) *connection {
	h := &g.hosts[a.host]
	if h.sport += uint16(1 + a.n(3)); h.sport > 60999 {
		h.sport = 32768
	}
	var slot uint32
	if n := len(g.freeConns); n > 0 {
		slot, g.freeConns = g.freeConns[n-1], g.freeConns[:n-1]
	} else {
		slot = uint32(len(g.conns))
		g.conns = append(g.conns, connection{})
	}
	c := &g.conns[slot]
	*c = connection{
		Connection: event.Connection{Time: t, Zone: h.zone, Proto: p, Src: netip.AddrPortFrom(src, h.sport), Dst: dst},
		actor:      a.number,
	}
	if p == event.UDP {
		c.Start = event.Datagram
	}
	if a.implant != nil {
		c.contact = int32(a.implant.contacts)
	}
	g.push(t, slot<<refBits|refConnection)
	return c
}

// ask has the actor's host send a query at t and returns the response, which comes some
// milliseconds later: the caller adds records before it does anything else.
func (g *Generator) ask(a *actor, t event.Time, typ event.Type, name []byte) *lookup {
	h := &g.hosts[a.host]
	return g.askBy(a, t, typ, name, h.asker, h.resolver)
}

func (g *Generator) askBy(a *actor, t event.Time, typ event.Type, name []byte, client netip.Addr, resolver netip.AddrPort) *lookup {
	h := &g.hosts[a.host]
	q := g.open(a, t, event.UDP, client, resolver)
	q.query = true
	took := a.between(200*time.Microsecond, 3*time.Millisecond)
	if a.chance(.3) { // not in the resolver's cache
		took += a.exp(25 * time.Millisecond)
	}
	var slot uint32
	if n := len(g.freeLookups); n > 0 {
		slot, g.freeLookups = g.freeLookups[n-1], g.freeLookups[:n-1]
	} else {
		slot = uint32(len(g.lookups))
		g.lookups = append(g.lookups, &lookup{})
	}
	l := g.lookups[slot]
	l.Lookup = event.Lookup{
		Time: t.Add(took), Zone: h.zone, Client: q.Src, Resolver: resolver, Proto: event.UDP,
		ID: uint16(a.u32()), Type: typ, Records: l.Records[:0],
	}
	l.actor, l.contact = q.actor, q.contact
	l.buf = append(l.buf[:0], name...)
	l.Name = l.buf
	g.push(l.Time, slot<<refBits|refLookup)
	return l
}

func (l *lookup) a(x, ttl uint32) {
	l.Records = append(l.Records, event.Record{Type: event.A, TTL: ttl, Addr: addr(x), Owner: l.owner()})
}

func (l *lookup) aaaa(ip [16]byte, ttl uint32) {
	l.Records = append(l.Records, event.Record{Type: event.AAAA, TTL: ttl, Addr: netip.AddrFrom16(ip), Owner: l.owner()})
}

func (l *lookup) txt(text []byte, ttl uint32) {
	n := len(l.buf)
	l.buf = append(l.buf, text...)
	l.Records = append(l.Records, event.Record{Type: event.TXT, TTL: ttl, Owner: l.Name, Text: l.buf[n:]})
}

func (l *lookup) cname(target []byte, ttl uint32) {
	l.Records = append(l.Records, event.Record{Type: event.CNAME, TTL: ttl, Owner: l.owner(), Target: target})
}

func (l *lookup) srv(target []byte, port uint16, ttl uint32) {
	l.Records = append(l.Records, event.Record{Type: event.SRV, TTL: ttl, Owner: l.Name, Target: target, Port: port})
}

// owner returns the name that the next address record is of: the end of the chain so far.
func (l *lookup) owner() []byte {
	if n := len(l.Records); n > 0 {
		if r := &l.Records[n-1]; r.Type == event.CNAME {
			return r.Target
		} else if r.Type == event.A || r.Type == event.AAAA {
			return r.Owner
		}
	}
	return l.Name
}

// resolve looks up s at t and returns the address that the host will use and when it knows it.
func (g *Generator) resolve(a *actor, t event.Time, s *site) (x uint32, known event.Time) {
	l := g.ask(a, t, event.A, s.name)
	if s.edge != nil {
		l.cname(s.edge, s.ttl)
	}
	ttl := s.ttl
	if s.answers > 1 && a.chance(.5) { // from the resolver's cache, some of its life gone
		ttl = uint32(a.in(1, int(s.ttl)))
	}
	first := s.at(&a.dice)
	l.a(first, ttl)
	for range s.answers - 1 {
		l.a(s.at(&a.dice), ttl)
	}
	g.hosts[a.host].remember(s, first, l.Time.Add(time.Duration(ttl)*time.Second))
	return first, l.Time
}

// reach returns an address of s and when the host knows it, by a lookup if need be.
func (g *Generator) reach(a *actor, t event.Time, s *site) (x uint32, known event.Time) {
	if x, ok := g.hosts[a.host].recall(s, t, &a.dice); ok {
		return x, t
	}
	return g.resolve(a, t, s)
}

// visit has the host reach s and connect to its port, with the odd retry.
func (g *Generator) visit(a *actor, t event.Time, p event.Proto, s *site) (x uint32, connected event.Time) {
	x, t = g.reach(a, t, s)
	t = t.Add(a.between(300*time.Microsecond, 20*time.Millisecond))
	g.connect(a, t, p, x, s.port)
	if a.chance(.03) {
		g.connect(a, t.Add(time.Second), p, x, s.port)
	}
	return x, t
}
