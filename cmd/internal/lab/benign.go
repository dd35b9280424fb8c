package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"portolan/sensor/event"
)

// habit is what a benign client does again and again. An error means that the lab does not work.
type habit func(context.Context) error

// habitOf gives a client its habit.
type habitOf func(*client) habit

// innocent is the benign side of the network: names with their addresses and ports.
type innocent struct {
	sites   []string // web sites
	api     string   // has an HTTPS record that names apiPort
	pool    string   // with more addresses than a UDP response holds
	time    string
	chat    string // has an SRV record
	play    string // has an SRV record
	gateway string // of a branch office, administered on adminPort
	tracker string // where peers meet
	sensors []netip.AddrPort
}

// Ports of benign services that are not everybody's.
const (
	apiPort     = 8444
	adminPort   = 8291
	chatPort    = 5269
	playPort    = 27015
	trackerPort = 6969
	metricsPort = 9100
	poolSize    = 48 // A records, 16 bytes each with compression
)

// innocent draws the benign services into the zone.
func (p *planner) innocent() *innocent {
	for _, n := range []uint16{80, 443, 8080, 8443, apiPort, adminPort, chatPort, playPort, metricsPort} {
		p.tcp[n] = true
	}
	for _, n := range []uint16{123, 443, trackerPort} {
		p.udp[n] = true
	}
	in := &innocent{
		api: "api.build.example", pool: "pool.build.example", time: "time.example",
		chat: "_xmpp-server._tcp.chat.example", play: "_game._tcp.play.example",
		gateway: "gateway.branch.example", tracker: "tracker.swarm.example",
	}
	for n := range 30 {
		in.sites = append(in.sites, p.site(n))
	}
	p.addA(in.api, 60, p.serversFor(2, apiPort))
	p.zone.add([]dns.RR{&dns.HTTPS{SVCB: dns.SVCB{
		Hdr: header(in.api, dns.TypeHTTPS, 60), Priority: 1, Target: ".",
		Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: []string{"h2"}}, &dns.SVCBPort{Port: apiPort}},
	}}})
	p.addA(in.pool, 30, p.servers(poolSize))
	p.addA(in.time, 600, p.serversFor(4, 123))
	p.addService(in.chat, "xmpp.chat.example", chatPort)
	p.addService(in.play, "eu-1.play.example", playPort)
	p.addA(in.gateway, 20, p.serversFor(1, adminPort))
	p.addA(in.tracker, 300, p.serversFor(1, trackerPort))
	for n := range 4 { // by address, as a monitoring system has them in its inventory
		in.sensors = append(in.sensors, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(20 + n)}), metricsPort))
	}
	for _, a := range p.serversFor(2, metricsPort) {
		in.sensors = append(in.sensors, netip.AddrPortFrom(a, metricsPort))
	}
	return in
}

func (p *planner) addService(name, target string, port uint16) {
	p.zone.add([]dns.RR{&dns.SRV{
		Hdr: header(name, dns.TypeSRV, 120), Priority: 10, Weight: 5, Port: port, Target: dns.Fqdn(target),
	}})
	p.addA(target, 120, p.serversFor(2, port))
}

// site draws a web site of one of four shapes: a single address, several in two protocols, an alias
// chain into a content network, and a content network that answers differently each time.
func (p *planner) site(n int) string {
	name := fmt.Sprintf("www.site-%02d.example", n)
	alias := func(from, to string) {
		p.zone.add([]dns.RR{&dns.CNAME{Hdr: header(from, dns.TypeCNAME, 300), Target: dns.Fqdn(to)}})
	}
	switch n % 4 {
	case 0:
		p.addA(name, 300, p.servers(1))
	case 1:
		p.addA(name, 60, p.servers(1+p.rng.IntN(5)))
		p.addAAAA(name, 60, 2)
	case 2:
		cdn, edge := fmt.Sprintf("site-%02d.cdn.example", n), fmt.Sprintf("e%d.edge.cdn.example", 100+n)
		alias(name, cdn)
		alias(cdn, edge)
		p.addA(edge, 20, p.servers(3))
		p.addAAAA(edge, 20, 1)
	case 3:
		for range 3 {
			p.addA(name, 20, p.servers(2))
		}
	}
	return name
}

// role returns the name and the behaviour of the nth benign client.
func (in *innocent) role(p *planner, n int) (string, habitOf) {
	switch n % 8 {
	case 0:
		return "browser", in.browser
	case 1:
		return "chat", in.service(in.chat)
	case 2:
		return "timekeeper", in.timekeeper
	case 3:
		return "administrator", in.administrator
	case 4:
		return "monitor", in.monitor
	case 5:
		return "peer", in.peer(p)
	case 6:
		return "developer", in.developer
	}
	return "player", in.service(in.play)
}

// visit looks up a site as a browser does and fetches from it.
func (in *innocent) visit(ctx context.Context, c *client) error {
	site := pick(c, in.sites)
	for _, typ := range []uint16{dns.TypeHTTPS, dns.TypeAAAA} {
		if c.rng.IntN(2) == 0 {
			if _, err := c.lookup(ctx, site, typ); err != nil {
				return err
			}
		}
	}
	set, err := c.addresses(ctx, site)
	if err != nil {
		return err
	}
	c.pause(ctx, time.Millisecond, 10*time.Millisecond)
	for range 1 + c.rng.IntN(3) {
		if err := c.fetch(ctx, event.TCP, netip.AddrPortFrom(set[0], pick(c, []uint16{443, 443, 443, 80}))); err != nil {
			return err
		}
	}
	if c.rng.IntN(3) == 0 {
		return c.fetch(ctx, event.UDP, netip.AddrPortFrom(set[0], 443)) // as QUIC does
	}
	return nil
}

func (in *innocent) browser(c *client) habit {
	return func(ctx context.Context) error { return in.visit(ctx, c) }
}

// service returns a client of what an SRV record names (RFC 2782), which browses beside.
func (in *innocent) service(name string) habitOf {
	return func(c *client) habit {
		return func(ctx context.Context) error {
			rrs, err := c.lookup(ctx, name, dns.TypeSRV)
			if err != nil {
				return err
			}
			for _, rr := range rrs {
				srv, ok := rr.(*dns.SRV)
				if !ok {
					continue
				}
				set, err := c.addresses(ctx, srv.Target)
				if err != nil {
					return err
				}
				if err := c.fetch(ctx, event.TCP, netip.AddrPortFrom(pick(c, set), srv.Port)); err != nil {
					return err
				}
			}
			return in.visit(ctx, c)
		}
	}
}

func (in *innocent) timekeeper(c *client) habit {
	return func(ctx context.Context) error {
		set, err := c.addresses(ctx, in.time)
		if err != nil {
			return err
		}
		for _, a := range set {
			if err := c.fetch(ctx, event.UDP, netip.AddrPortFrom(a, 123)); err != nil {
				return err
			}
		}
		return in.visit(ctx, c)
	}
}

// administrator uses a port far from ordinary, always the same one on the same address.
func (in *innocent) administrator(c *client) habit {
	return func(ctx context.Context) error {
		set, err := c.addresses(ctx, in.gateway)
		if err != nil {
			return err
		}
		if err := c.fetch(ctx, event.TCP, netip.AddrPortFrom(set[0], adminPort)); err != nil {
			return err
		}
		return in.visit(ctx, c)
	}
}

// monitor connects to addresses that no lookup gave, all on one port.
func (in *innocent) monitor(c *client) habit {
	return func(ctx context.Context) error {
		for _, at := range in.sensors {
			if err := c.fetch(ctx, event.TCP, at); err != nil {
				return err
			}
			c.pause(ctx, 10*time.Millisecond, 40*time.Millisecond)
		}
		return nil
	}
}

// peerCount is how many others a peer knows.
const peerCount = 30

// remote is a peer somewhere; it is there, or refuses.
type remote struct {
	proto event.Proto
	at    netip.AddrPort
	gone  bool
}

// peer draws the remotes of a peer-to-peer client and returns its behaviour: it walks through them, none
// of which a lookup gave, on high ports of their own.
func (in *innocent) peer(p *planner) habitOf {
	remotes := make([]remote, peerCount)
	for i := range remotes {
		r := remote{proto: event.TCP, at: netip.AddrPortFrom(p.draw(public), p.port())}
		switch i % 3 {
		case 0:
			p.tcp[r.at.Port()] = true
		case 1:
			r.proto = event.UDP
			p.udp[r.at.Port()] = true
		case 2:
			r.gone = true
			p.closed[r.at.Port()] = true
		}
		remotes[i] = r
	}
	return func(c *client) habit {
		next := 0
		return func(ctx context.Context) error {
			if next%10 == 0 {
				set, err := c.addresses(ctx, in.tracker)
				if err != nil {
					return err
				}
				if err := c.fetch(ctx, event.UDP, netip.AddrPortFrom(set[0], trackerPort)); err != nil {
					return err
				}
			}
			r := remotes[next%len(remotes)]
			next++
			err := c.fetch(ctx, r.proto, r.at)
			if r.gone && errors.Is(err, syscall.ECONNREFUSED) {
				return nil
			}
			return err
		}
	}
}

// developer uses 8080 and 8443, a service whose port an HTTPS record names (RFC 9460), and a name
// whose answer only fits into TCP.
func (in *innocent) developer(c *client) habit {
	return func(ctx context.Context) error {
		site := pick(c, in.sites)
		set, err := c.addresses(ctx, site)
		if err != nil {
			return err
		}
		if err := c.fetch(ctx, event.TCP, netip.AddrPortFrom(pick(c, set), pick(c, []uint16{8080, 8443}))); err != nil {
			return err
		}
		rrs, err := c.lookup(ctx, in.api, dns.TypeHTTPS)
		if err != nil {
			return err
		}
		if set, err = c.addresses(ctx, in.api); err != nil {
			return err
		}
		if err := c.fetch(ctx, event.TCP, netip.AddrPortFrom(pick(c, set), portHint(rrs, 443))); err != nil {
			return err
		}
		if set, err = c.addresses(ctx, in.pool); err != nil {
			return err
		}
		return c.fetch(ctx, event.TCP, netip.AddrPortFrom(pick(c, set), 443))
	}
}

// portHint returns the port that an HTTPS record names, or otherwise.
func portHint(rrs []dns.RR, otherwise uint16) uint16 {
	for _, rr := range rrs {
		h, ok := rr.(*dns.HTTPS)
		if !ok {
			continue
		}
		i := slices.IndexFunc(h.Value, func(v dns.SVCBKeyValue) bool { return v.Key() == dns.SVCB_PORT })
		if i >= 0 {
			return h.Value[i].(*dns.SVCBPort).Port
		}
	}
	return otherwise
}
