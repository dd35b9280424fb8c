package traffic

import (
	"time"

	"portolan/sensor/event"
)

// Model is something innocent that a host does.
type Model uint8

// The benign models.
const (
	Browsing     Model = iota
	CDN                // a program that also connects to neighbours of what it was told
	Swarm              // BitTorrent peers
	DHT                // distributed hash table
	Game               // a fixed port at the publisher's, then matches at addresses that no lookup gave
	SIP                // telephony: control, then media on changing ports
	WebRTC             // STUN, then peers
	InnerScanner       // an inventory or vulnerability scanner
	OuterScanner       // sweeps the internet
	PortScanner        // tries thousands of ports of a host that it looked up
	Discovery          // SRV records, then the port they name
	Cameras            // ports that are a base and the last octet
	VPN                // a fixed unusual port at the provider's, or a hard-coded address
	Monitoring         // polls fixed machines
	NTP                // pool names
	Mail               // many mail exchangers
	IoT                // hard-coded addresses
	FTP                // passive data connections
	RPC                // endpoint mapper, then a dynamic port
	Meeting            // media servers beside those that were announced
	DoH                // names over HTTPS: connections without lookups
	Forwarded          // a forwarder asks in the host's stead
	NAT64              // IPv4 addresses inside AAAA answers, by RFC 6052
	Mapped             // a network translated one to one between resolver and mirror
	Twins              // each machine has a stand-in at a fixed distance, of which no lookup tells
	Proxied            // names are looked up, but every connection goes to a proxy
	NumModels
)

// models says of each model its name, the share of clients that run it by default, how
// much later than the world it may begin, and what one step does; a step returns the time to the next.
var models = [NumModels]struct {
	name   string
	share  float64
	warmUp time.Duration
	step   func(*Generator, *actor, event.Time) time.Duration
}{
	Browsing:     {"browsing", .8, 10 * time.Minute, (*Generator).browse},
	CDN:          {"cdn", .15, 20 * time.Minute, (*Generator).neighbours},
	Swarm:        {"swarm", .03, 2 * time.Hour, (*Generator).swarm},
	DHT:          {"dht", .02, 2 * time.Hour, (*Generator).dht},
	Game:         {"game", .08, 6 * time.Hour, (*Generator).game},
	SIP:          {"sip", .10, time.Hour, (*Generator).call},
	WebRTC:       {"webrtc", .10, 4 * time.Hour, (*Generator).webRTC},
	InnerScanner: {"inner-scanner", .01, time.Hour, (*Generator).scanInside},
	OuterScanner: {"outer-scanner", .004, time.Hour, (*Generator).scanOutside},
	PortScanner:  {"port-scanner", .006, 6 * time.Hour, (*Generator).scanPorts},
	Discovery:    {"discovery", .10, 30 * time.Minute, (*Generator).discover},
	Cameras:      {"cameras", .02, time.Hour, (*Generator).cameras},
	VPN:          {"vpn", .06, 2 * time.Hour, (*Generator).vpn},
	Monitoring:   {"monitoring", .03, 5 * time.Minute, (*Generator).monitor},
	NTP:          {"ntp", .50, time.Hour, (*Generator).ntp},
	Mail:         {"mail", .20, time.Hour, (*Generator).mail},
	IoT:          {"iot", .10, 10 * time.Minute, (*Generator).iot},
	FTP:          {"ftp", .03, 4 * time.Hour, (*Generator).ftp},
	RPC:          {"rpc", .10, time.Hour, (*Generator).rpc},
	Meeting:      {"meeting", .20, 6 * time.Hour, (*Generator).meeting},
	DoH:          {"doh", .05, 10 * time.Minute, (*Generator).doh},
	Forwarded:    {"forwarded", .03, 10 * time.Minute, (*Generator).forwarded},
	NAT64:        {"nat64", .02, 30 * time.Minute, (*Generator).nat64},
	Mapped:       {"mapped", .02, 30 * time.Minute, (*Generator).mapped},
	Twins:        {"twins", .02, 30 * time.Minute, (*Generator).twins},
	Proxied:      {"proxied", .03, 30 * time.Minute, (*Generator).proxied},
}

// String returns the model's name, as it stands in labels.
func (m Model) String() string { return models[m].name }

// browse loads a page: its own site, what the page is made of, and sometimes an address
// of the IPv6 kind, an HTTPS record with hints, a second try.
func (g *Generator) browse(a *actor, t event.Time) time.Duration {
	at := t
	for range 2 + a.rank(14) {
		s := g.world.web(&a.dice, t)
		h := &g.hosts[a.host]
		x, known := h.recall(s, at, &a.dice)
		when := at
		if !known {
			if s.v6 && a.chance(.5) {
				g.resolve6(a, at, s)
			}
			if a.chance(.2) {
				l := g.ask(a, at, event.HTTPS, s.name)
				l.Records = append(l.Records, event.Record{Type: event.HTTPS, TTL: s.ttl, Owner: l.Name, Target: l.Name},
					event.Record{Type: event.Hint, TTL: s.ttl, Owner: l.Name, Addr: addr(s.at(&a.dice))})
			}
			x, when = g.resolve(a, at, s)
		}
		when = when.Add(a.between(300*time.Microsecond, 30*time.Millisecond))
		p := event.TCP
		if s.port == 443 && a.chance(.25) {
			p = event.UDP // QUIC
		}
		for range 1 + a.rank(3) {
			g.connect(a, when, p, x, s.port)
		}
		if a.chance(.03) {
			g.connect(a, when.Add(time.Second), p, x, s.port)
		}
		at = at.Add(a.exp(150 * time.Millisecond))
	}
	if a.chance(.6) { // the next page of a visit
		return a.exp(20 * time.Second)
	}
	return waking(t, a.exp(10*time.Minute))
}

// resolve6 asks for the IPv6 addresses of s and connects to one now and then.
func (g *Generator) resolve6(a *actor, t event.Time, s *site) {
	l := g.ask(a, t, event.AAAA, s.name)
	x := s.at(&a.dice)
	h := mix(uint64(s.base))
	ip := [16]byte{0x2a, byte(h)&0x0f | 0x01, byte(h >> 8), byte(h >> 16), byte(h >> 24), byte(h >> 32),
		12: 0, 13: 0, 14: byte(x >> 8), 15: byte(x)}
	l.aaaa(ip, s.ttl)
	if a.chance(.4) {
		c := g.open(a, l.Time.Add(a.between(time.Millisecond, 20*time.Millisecond)), event.TCP, g.hosts[a.host].addr6, l.address(0, s.port))
		c.query = false
	}
}

// neighbours looks up a content network's name and takes pieces from machines beside the
// ones it was told, which the first one named inside TLS.
func (g *Generator) neighbours(a *actor, t event.Time) time.Duration {
	s := g.world.one(cdnService, a.self+uint64(a.count/4%3))
	a.count++
	x, at := g.visit(a, t, event.TCP, s)
	for range a.in(1, 6) {
		at = at.Add(a.exp(300 * time.Millisecond))
		var y uint32
		switch {
		case a.chance(.6):
			y = x&^255 | uint32(a.n(256))
		case a.chance(.7):
			y = x&^0xffff | uint32(a.n(1<<16))
		default:
			y = x&^0x3ffff | uint32(a.n(1<<18))
		}
		if public(y) {
			g.connect(a, at, event.TCP, y, s.port)
		}
	}
	return waking(t, a.exp(4*time.Minute))
}

// peers is how many a swarm has at a time.
const peers = 600

// peer returns an address and a port that stay together. A swarm changes by a peer in about ten each hour.
func (a *actor) peer(t event.Time) (x uint32, port uint16) {
	i := uint64(a.n(peers))
	epoch := (uint64(t)/uint64(time.Hour) + i) / 10
	h := mix(a.self + i<<32 + epoch)
	return publicOf(h), peerPort(h)
}

func peerPort(h uint64) uint16 {
	switch h >> 40 % 10 {
	case 0, 1:
		return 6881 + uint16(h>>48%9)
	case 2:
		return 51413
	}
	return uint16(1024 + h>>48%64000)
}

// swarm is a BitTorrent client in bursts of hours: trackers by name, peers by address.
func (g *Generator) swarm(a *actor, t event.Time) time.Duration {
	if t > a.until {
		a.until = t.Add(a.between(2*time.Hour, 5*time.Hour))
		return a.between(time.Hour, 8*time.Hour)
	}
	a.count++
	if a.count%200 == 1 {
		g.visit(a, t, event.UDP, g.world.one(trackerService, a.self+uint64(a.n(5))))
	}
	for range a.in(1, 8) {
		x, port := a.peer(t)
		p := event.UDP
		if a.chance(.4) {
			p = event.TCP
		}
		g.connect(a, t.Add(a.between(0, 2*time.Second)), p, x, port)
	}
	return a.exp(5 * time.Second)
}

// dht walks the distributed hash table: nearly every node is new.
func (g *Generator) dht(a *actor, t event.Time) time.Duration {
	a.count++
	if a.count%500 == 1 {
		g.visit(a, t, event.UDP, g.world.one(trackerService, 7))
	}
	h := a.Uint64()
	g.connect(a, t, event.UDP, publicOf(h), peerPort(mix(h)))
	if a.count%1500 == 0 {
		return waking(t, a.between(time.Hour, 4*time.Hour))
	}
	return a.exp(2 * time.Second)
}

// game is an evening's play: log in, reach the title's server on its own port, then
// matches on machines that the server named.
func (g *Generator) game(a *actor, t event.Time) time.Duration {
	s := g.world.one(gameService, a.self+uint64(a.n(2)))
	g.visit(a, t, event.TCP, g.world.one(cloudService, a.self))
	x, at := g.visit(a, t.Add(a.exp(2*time.Second)), event.UDP, s)
	for range a.in(1, 8) {
		at = at.Add(a.between(time.Minute, 20*time.Minute))
		if a.chance(.3) {
			g.connect(a, at, event.UDP, x, s.port)
		}
		y := publicOf(mix(uint64(a.n(400))+a.self%40*1000) + uint64(t/day)) // the title's fleet of the day
		g.connect(a, at, event.UDP, y, uint16(a.in(7000, 60000)))
		if a.chance(.3) { // players among themselves
			for range a.in(1, 8) {
				g.connect(a, at.Add(a.exp(time.Second)), event.UDP, publicOf(a.Uint64()), uint16(a.in(1024, 65535)))
			}
		}
	}
	return waking(t, a.between(3*time.Hour, 10*time.Hour))
}

// call registers, calls, and sends media to even ports of the registrar, of a machine
// beside it, or of the other party.
func (g *Generator) call(a *actor, t event.Time) time.Duration {
	s := g.world.one(sipService, a.self)
	x, at := g.visit(a, t, event.UDP, s)
	if a.chance(.6) { // registration only
		return a.exp(30 * time.Minute)
	}
	rtp := uint16(a.in(5000, 32767)) * 2
	y := x
	switch {
	case a.chance(.4):
		y = x&^255 | uint32(a.n(256))
	case a.chance(.3):
		y = publicOf(a.Uint64())
	}
	at = at.Add(a.between(time.Second, 10*time.Second))
	g.connect(a, at, event.UDP, y, rtp)
	g.connect(a, at.Add(5*time.Millisecond), event.UDP, y, rtp+1)
	return waking(t, a.exp(40*time.Minute))
}

// webRTC asks a STUN server for its own address, then tries peers and relays.
func (g *Generator) webRTC(a *actor, t event.Time) time.Duration {
	s := g.world.one(stunService, a.self+uint64(a.n(3)))
	_, at := g.visit(a, t, event.UDP, s)
	for range a.in(1, 5) {
		at = at.Add(a.exp(200 * time.Millisecond))
		y, port := publicOf(a.Uint64()), uint16(a.in(1024, 65535))
		for range a.in(1, 3) { // checks until one goes through (RFC 8445)
			g.connect(a, at, event.UDP, y, port)
			at = at.Add(50 * time.Millisecond)
		}
	}
	if a.chance(.3) { // a relay that the application named
		g.connect(a, at, event.UDP, g.world.one(meetingService, a.self).base+uint32(a.n(1024)), uint16(a.in(49152, 65535)))
	}
	return waking(t, a.exp(90*time.Minute))
}

// meeting joins a call: the service by name, its media servers by address, beside what
// was announced and elsewhere in the same network.
func (g *Generator) meeting(a *actor, t event.Time) time.Duration {
	s := g.world.one(meetingService, uint64(a.n(2))+a.self%4)
	x, at := g.visit(a, t, event.TCP, s)
	for range a.in(2, 8) {
		at = at.Add(a.exp(400 * time.Millisecond))
		y := x&^0x3ff | uint32(a.n(1024))
		if a.chance(.3) {
			y = x&^0x3ffff | uint32(a.n(1<<18))
		}
		port := uint16(a.in(3478, 3481))
		if a.chance(.3) {
			port = uint16(a.in(8801, 8810))
		}
		if public(y) {
			g.connect(a, at, event.UDP, y, port)
		}
	}
	return waking(t, a.exp(2*time.Hour))
}
