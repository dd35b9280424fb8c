package traffic

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"time"

	"portolan/sensor/event"
)

// This file holds the models that are run by machines and their keepers.

// inside returns an address of the private network, by number.
func inside(second, third, fourth int) uint32 {
	return 10<<24 | uint32(second)<<16 | uint32(third)<<8 | uint32(fourth)
}

var scanned = [...]uint16{
	22, 80, 443, 445, 3389, 23, 8080, 21, 25, 3306, 5432, 1433, 5900, 8443, 139, 135, 161, 5985, 9200, 6379, 27017, 11211, 2375,
	7001, 8009, 4786, 50070, 10443, 8291, 5555, 37215, 52869, 60001,
}

// scanInside sweeps a subnet, address by address or at random.
func (g *Generator) scanInside(a *actor, t event.Time) time.Duration {
	if a.count%8 == 0 {
		g.visit(a, t, event.TCP, g.world.one(cloudService, a.self)) // fetches its rules
	}
	a.count++
	third := int(a.count) % 200
	port := scanned[a.rank(len(scanned))]
	shuffled := a.chance(.3)
	for i := range 254 {
		last := 1 + i
		if shuffled {
			last = a.in(1, 254)
		}
		g.connect(a, t.Add(time.Duration(i)*10*time.Millisecond), event.TCP, inside(16, third, last), port)
	}
	return a.between(10*time.Minute, 20*time.Minute)
}

// scanOutside sweeps public addresses for one port after the other.
func (g *Generator) scanOutside(a *actor, t event.Time) time.Duration {
	if a.count%20 == 0 {
		g.visit(a, t, event.TCP, g.world.web(&a.dice, t))
	}
	a.count++
	port := scanned[a.rank(len(scanned))]
	if a.chance(.2) {
		port = uint16(a.in(1, 65535))
	}
	from := publicOf(a.Uint64())
	sequential := a.chance(.5)
	for i := range 500 {
		x := from + uint32(i)
		if !sequential {
			x = publicOf(a.Uint64())
		}
		if public(x) {
			g.connect(a, t.Add(time.Duration(i)*20*time.Millisecond), event.TCP, x, port)
		}
	}
	return a.between(15*time.Minute, 40*time.Minute)
}

// scanPorts tries many ports of a host that it looked up, in order, at random, or the
// likely ones first; now and then all of them.
func (g *Generator) scanPorts(a *actor, t event.Time) time.Duration {
	s := g.world.web(&a.dice, t)
	x, at := g.resolve(a, t, s)
	how, port, n := a.n(3), a.in(1, 60000), 1000
	if a.chance(.1) {
		how, port, n = 0, 1, 65535
	}
	for i := range n {
		g.connect(a, at.Add(time.Duration(i)*5*time.Millisecond), event.TCP, x, uint16(port))
		switch how {
		case 0:
			port++
		case 1:
			port = a.in(1, 65535)
		default:
			port = 1 + a.rank(65535)
		}
	}
	return a.between(2*time.Hour, 8*time.Hour)
}

// discover asks for a service by SRV and connects to the port that the record names: a
// cluster's own services on ports given out anew, or a public one.
func (g *Generator) discover(a *actor, t event.Time) time.Duration {
	if a.chance(.1) {
		s := g.world.one(srvService, uint64(a.n(20)))
		l := g.ask(a, t, event.SRV, s.name)
		l.srv(s.name, s.port, s.ttl)
		x, at := g.resolve(a, l.Time, s)
		g.connect(a, at.Add(a.exp(10*time.Millisecond)), event.TCP, x, s.port)
		return a.exp(15 * time.Minute)
	}
	instance := a.n(12)
	epoch := uint64(t) / uint64(6*time.Hour)
	h := mix(a.self%50 + uint64(instance)<<32 + epoch)
	x, port := inside(64, int(a.self%50), 10+instance), uint16(20000+h%12001)
	var name, target [40]byte
	l := g.ask(a, t, event.SRV, number(name[:0], "job", instance, ".service.test"))
	l.buf = append(l.buf, number(target[:0], "node", instance, ".node.test")...)
	l.srv(l.buf[len(l.Name):], port, 0)
	at := l.Time
	l = g.ask(a, at, event.A, number(target[:0], "node", instance, ".node.test"))
	l.a(x, 0)
	g.connect(a, l.Time.Add(a.exp(3*time.Millisecond)), event.TCP, x, port)
	return a.exp(10 * time.Minute)
}

func number(b []byte, before string, n int, after string) []byte {
	b = append(b, before...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, after...)
}

// cameras looks at a site's cameras: inside by name or address, each on 8000 and its last octet,
// or from outside on one gateway that forwards those ports.
func (g *Generator) cameras(a *actor, t event.Time) time.Duration {
	const base = 8000
	at := t
	third, second := int(a.self%100), a.in(80, 82) // three sites, numbered alike
	for range a.in(1, 16) {
		last := a.in(11, 74)
		port := uint16(base + last)
		at = at.Add(a.exp(2 * time.Second))
		switch a.self % 3 {
		case 0: // through the gateway
			x, known := g.reach(a, at, g.world.one(gatewayService, a.self))
			g.connect(a, known.Add(a.exp(5*time.Millisecond)), event.TCP, x, port)
		case 1: // by name
			var name [40]byte
			x := inside(second, third, last)
			l := g.ask(a, at, event.A, number(name[:0], "cam", last, ".site.test"))
			l.a(x, 60)
			g.connect(a, l.Time.Add(a.exp(5*time.Millisecond)), event.TCP, x, port)
		default:
			g.connect(a, at, event.TCP, inside(second, third, last), port)
		}
	}
	return waking(t, a.exp(30*time.Minute))
}

// vpn keeps a tunnel up: to a name's address on its port, or to one from a file. Some
// providers hop ports.
func (g *Generator) vpn(a *actor, t event.Time) time.Duration {
	if a.self%4 == 0 {
		g.connect(a, t, event.UDP, publicOf(a.self), oddPort(&dice{*rand.NewPCG(a.self, 0)}))
		return a.exp(3 * time.Hour)
	}
	s := g.world.one(vpnService, a.self+uint64(a.n(2)))
	x, at := g.visit(a, t, event.UDP, s)
	if a.self%4 == 1 { // hops
		g.connect(a, at.Add(a.exp(time.Second)), event.UDP, x, uint16(a.in(20000, 50000)))
	}
	return a.exp(2 * time.Hour)
}

// monitor polls thirty machines by address.
func (g *Generator) monitor(a *actor, t event.Time) time.Duration {
	ports := [...]uint16{9100, 10050, 5666, 9182, 161, 8089, 12489, 9256}
	for i := range 30 {
		h := mix(a.self + uint64(i))
		p := event.TCP
		port := ports[h%8]
		if port == 161 {
			p = event.UDP
		}
		g.connect(a, t.Add(time.Duration(i)*20*time.Millisecond), p, inside(70, int(h>>8%4), 1+int(h>>16%250)), port)
	}
	if a.count++; a.count%20 == 1 {
		g.visit(a, t, event.TCP, g.world.one(cloudService, a.self))
	}
	return 5 * time.Minute
}

// ntp asks a pool for four servers and goes on asking them long after the TTL.
func (g *Generator) ntp(a *actor, t event.Time) time.Duration {
	s := g.world.one(poolService, a.self)
	if a.count%8 == 0 {
		l := g.ask(a, t, event.A, s.name)
		for range s.answers {
			x := s.at(&a.dice)
			l.a(x, s.ttl)
			g.connect(a, l.Time.Add(a.exp(5*time.Millisecond)), event.UDP, x, 123)
			a.until = event.Time(x)
		}
	} else {
		g.connect(a, t, event.UDP, uint32(a.until), 123)
	}
	a.count++
	return a.between(15*time.Minute, 35*time.Minute)
}

// mail fetches mail, and delivers some to the exchangers of many domains.
func (g *Generator) mail(a *actor, t event.Time) time.Duration {
	ports := [...]uint16{993, 993, 587, 25, 465, 143, 110}
	s := g.world.one(mailService, a.self)
	if a.self%16 == 0 { // a mail server
		s = &g.world.sites[mailService][a.rank(len(g.world.sites[mailService]))]
	}
	x, at := g.reach(a, t, s)
	g.connect(a, at.Add(a.exp(10*time.Millisecond)), event.TCP, x, ports[a.n(len(ports))])
	return waking(t, a.exp(12*time.Minute))
}

// iot is a thing that calls home, to a name now and then and to addresses it was built with.
func (g *Generator) iot(a *actor, t event.Time) time.Duration {
	if a.count++; a.count%24 == 1 {
		g.visit(a, t, event.TCP, g.world.one(cloudService, a.self))
	}
	built := mix(a.self + uint64(a.n(3)))
	x := publicOf(built)
	port := [...]uint16{443, 8883, 32100, 10001, 1883, 10240, 80, 32108}[built>>60&7]
	p := event.UDP
	if built>>59&1 == 0 {
		p = event.TCP
	}
	g.connect(a, t, p, x, port)
	return a.between(4*time.Minute, 12*time.Minute)
}

// ftp logs in and fetches files, each over a port that the server picks.
func (g *Generator) ftp(a *actor, t event.Time) time.Duration {
	x, at := g.visit(a, t, event.TCP, g.world.one(ftpService, a.self+uint64(a.n(3))))
	for range 1 + a.rank(20) {
		at = at.Add(a.exp(2 * time.Second))
		g.connect(a, at, event.TCP, x, uint16(a.in(30000, 65535)))
	}
	return waking(t, a.exp(2*time.Hour))
}

// rpc asks a domain controller's endpoint mapper for a port and connects to it.
func (g *Generator) rpc(a *actor, t event.Time) time.Duration {
	which := a.n(3)
	x := inside(0, 4, 10+which)
	var name [40]byte
	l := g.ask(a, t, event.A, number(name[:0], "dc", which, ".corp.test"))
	l.a(x, 600)
	at := l.Time.Add(a.exp(3 * time.Millisecond))
	g.connect(a, at, event.TCP, x, [...]uint16{389, 88, 445}[a.n(3)])
	g.connect(a, at.Add(2*time.Millisecond), event.TCP, x, 135)
	for range a.in(1, 3) { // services keep their port until the server restarts
		h := mix(uint64(which)<<32 + uint64(a.n(6)) + uint64(t/day)<<40)
		at = at.Add(a.between(2*time.Millisecond, 20*time.Millisecond))
		g.connect(a, at, event.TCP, x, uint16(49152+h%600))
	}
	return waking(t, a.exp(30*time.Minute))
}

// doh asks for one name only, that of its resolver; then connections come out of nowhere.
func (g *Generator) doh(a *actor, t event.Time) time.Duration {
	if a.count++; a.count%60 == 1 {
		g.visit(a, t, event.TCP, g.world.one(cloudService, 1))
	}
	at := t
	for range 2 + a.rank(14) {
		s := g.world.web(&a.dice, t)
		g.connect(a, at, event.TCP, s.at(&a.dice), s.port)
		at = at.Add(a.exp(100 * time.Millisecond))
	}
	if a.chance(.6) {
		return a.exp(20 * time.Second)
	}
	return waking(t, a.exp(10*time.Minute))
}

// forwarded browses like others, but the mirror sees the forwarder's lookups, with the
// forwarder as the client.
func (g *Generator) forwarded(a *actor, t event.Time) time.Duration {
	h := &g.hosts[a.host]
	at := t
	for range 2 + a.rank(14) {
		s := g.world.web(&a.dice, t)
		x, known := h.recall(s, at, &a.dice)
		when := at
		if !known {
			l := g.askBy(a, at, event.A, s.name, forwarder, h.resolver)
			x = s.at(&a.dice)
			l.a(x, s.ttl)
			h.remember(s, x, l.Time.Add(time.Duration(s.ttl)*time.Second))
			when = l.Time
		}
		g.connect(a, when.Add(a.exp(5*time.Millisecond)), event.TCP, x, s.port)
		at = at.Add(a.exp(150 * time.Millisecond))
	}
	return waking(t, a.exp(5*time.Minute))
}

// nat64 is a host on an IPv6-only network with a translator of its own (RFC 6877): it
// takes the IPv4 address out of the AAAA answer.
func (g *Generator) nat64(a *actor, t event.Time) time.Duration {
	s := g.world.web(&a.dice, t)
	x := s.at(&a.dice)
	l := g.ask(a, t, event.AAAA, s.name)
	l.aaaa([16]byte{0, 0x64, 0xff, 0x9b, 12: byte(x >> 24), 13: byte(x >> 16), 14: byte(x >> 8), 15: byte(x)}, s.ttl)
	g.connect(a, l.Time.Add(a.exp(5*time.Millisecond)), event.TCP, x, s.port)
	return waking(t, a.exp(3*time.Minute))
}

// mapped reaches servers of a /14 whose addresses the resolver gives as the world knows
// them, while the mirror stands behind a router that replaces the first fourteen bits.
func (g *Generator) mapped(a *actor, t event.Time) time.Duration {
	outer, inner := publicOf(g.world.seed+'m')&^0x3ffff, inside(128, 0, 0)
	which := a.rank(400)
	low := uint32(mix(uint64(which)) & 0x3ffff)
	var name [40]byte
	l := g.ask(a, t, event.A, number(name[:0], "host", which, ".mapped.test"))
	l.a(outer|low, 600)
	g.connect(a, l.Time.Add(a.exp(5*time.Millisecond)), event.TCP, inner|low, 443)
	return waking(t, a.exp(8*time.Minute))
}

// twins uses machines that come in pairs: the second one, which only the first one's
// protocol tells of, has the number of the first in another part of the network.
func (g *Generator) twins(a *actor, t event.Time) time.Duration {
	const distance = 1 << 17
	network := publicOf(g.world.seed+'t') &^ 0x7ffff
	which := a.rank(200)
	x := network | uint32(mix(uint64(which))&0x5ffff)
	var name [40]byte
	l := g.ask(a, t, event.A, number(name[:0], "shard", which, ".twins.test"))
	l.a(x, 300)
	at := l.Time.Add(a.exp(5 * time.Millisecond))
	g.connect(a, at, event.TCP, x, 9042)
	if a.chance(.5) {
		g.connect(a, at.Add(a.exp(100*time.Millisecond)), event.TCP, x+distance, 9042)
	}
	return waking(t, a.exp(6*time.Minute))
}

// proxied asks for names out of habit and sends everything to a proxy.
func (g *Generator) proxied(a *actor, t event.Time) time.Duration {
	at := t
	for range 1 + a.rank(10) {
		_, known := g.reach(a, at, g.world.web(&a.dice, t))
		g.connect(a, known.Add(a.exp(5*time.Millisecond)), event.TCP, inside(0, 8, 10+int(a.self%2)), 3128)
		at = at.Add(a.exp(200 * time.Millisecond))
	}
	return waking(t, a.exp(4*time.Minute))
}

// address returns the address of the i-th record with a port.
func (l *lookup) address(i int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(l.Records[i].Addr, port)
}
