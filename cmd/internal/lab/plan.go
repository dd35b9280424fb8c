package lab

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// dnsServer answers every client's lookups.
const dnsServer = "192.0.2.53"

// Addresses of the routers' own ports and of the servers' on the wan, and what they lead to.
var (
	lanPrefix  = netip.MustParsePrefix("10.0.0.0/24")
	lanRouter  = netip.MustParseAddr("10.0.0.1")
	wanPrefix  = netip.MustParsePrefix("10.0.1.0/30")
	wanRouter  = netip.MustParseAddr("10.0.1.1")
	wanServers = netip.MustParseAddr("10.0.1.2")
	everywhere = netip.MustParsePrefix("0.0.0.0/0")
)

// Where clients start to count: benign ones are 10.0.0.11 and on, implants 10.0.0.101 and on.
const (
	firstBenign  = 11
	firstImplant = 101
)

// plan is everything that the seed decides before the first frame: who is there, what the
// DNS server knows, where servers listen. It does not change once it is made, except that the zone turns.
type plan struct {
	hosts    []Host
	benign   []habitOf // one for each benign host
	implants []*implant
	zone     *zone
	tcp, udp []uint16         // ports on which servers answer at every address, in order
	silent   []netip.AddrPort // UDP endpoints that take datagrams and say nothing
}

// clientAddrs returns the address of every host.
func (p *plan) clientAddrs() []netip.Addr {
	a := make([]netip.Addr, len(p.hosts))
	for i, h := range p.hosts {
		a[i] = h.Addr
	}
	return a
}

func lanAddr(n int) netip.Addr {
	b := lanPrefix.Addr().As4()
	b[3] = byte(n)
	return netip.AddrFrom4(b)
}

// notPublic are the ranges that no implant's destination may lie in; the lab's own hosts are in the
// last four of them.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
}

// public reports whether an IPv4 address is global unicast, and so none of the lab's own.
func public(a netip.Addr) bool {
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// planner draws the plan; each address and each port that stands for itself is drawn once.
type planner struct {
	rng      *rand.Rand
	zone     *zone
	used     map[netip.Addr]bool
	tcp, udp map[uint16]bool
	closed   map[uint16]bool // TCP ports where nobody listens
	silent   []netip.AddrPort
	next     int // benign servers given so far
}

// newPlan draws the plan of a valid configuration.
func newPlan(cfg Config) *plan {
	p := &planner{
		rng:    rand.New(rand.NewPCG(cfg.Seed, 0x9e3779b97f4a7c15)),
		zone:   newZone(),
		used:   map[netip.Addr]bool{netip.MustParseAddr(dnsServer): true},
		tcp:    make(map[uint16]bool),
		udp:    make(map[uint16]bool),
		closed: make(map[uint16]bool),
	}
	out := new(plan)
	net := p.innocent()
	for n := range cfg.Clients {
		role, does := net.role(p, n)
		out.hosts = append(out.hosts, Host{Addr: lanAddr(firstBenign + n), Role: role})
		out.benign = append(out.benign, does)
	}
	for n, f := range families() {
		h := Host{Addr: lanAddr(firstImplant + n), Role: f.name, Implant: true}
		out.hosts = append(out.hosts, h)
		out.implants = append(out.implants, p.implant(h, f, cfg.Contacts, net))
	}
	out.zone, out.silent = p.zone, p.silent
	out.tcp = slices.Sorted(maps.Keys(p.tcp))
	out.udp = slices.Sorted(maps.Keys(p.udp))
	return out
}

// server returns the next address of a benign server. There are 300 in two documentation ranges; after
// them addresses are shared, as on any network.
func (p *planner) server() netip.Addr {
	n := p.next % 300
	p.next++
	b := [4]byte{198, 51, 100, byte(10 + n%150)}
	if n >= 150 {
		b = [4]byte{203, 0, 113, byte(10 + n%150)}
	}
	a := netip.AddrFrom4(b)
	p.used[a] = true
	return a
}

// servers returns n addresses of benign servers.
func (p *planner) servers(n int) []netip.Addr {
	set := make([]netip.Addr, n)
	for i := range set {
		set[i] = p.server()
	}
	return set
}

// serversFor returns n addresses of benign servers from none of which a formula gives port.
func (p *planner) serversFor(n int, port uint16) []netip.Addr {
	var set []netip.Addr
	for len(set) < n {
		if a := p.server(); !calculated(a, port) {
			set = append(set, a)
		}
	}
	return set
}

// draw returns an address that satisfies ok and that the plan has not used yet.
func (p *planner) draw(ok func(netip.Addr) bool) netip.Addr {
	for {
		a := fromWord(p.rng.Uint32())
		if !p.used[a] && ok(a) {
			p.used[a] = true
			return a
		}
	}
}

// port returns a port from 10000 to 64999 that the plan has not used yet.
func (p *planner) port() uint16 {
	for {
		n := uint16(10000 + p.rng.IntN(55000))
		if !p.tcp[n] && !p.udp[n] && !p.closed[n] {
			return n
		}
	}
}

// name returns a name that says nothing, under the domain reserved for examples.
func (p *planner) name() string {
	b := make([]byte, 9)
	for i := range b {
		b[i] = byte('a' + p.rng.IntN(26))
	}
	return fmt.Sprintf("%s.example", b)
}

// addA adds an RRset of A records; asking again turns to the RRset that was added next.
func (p *planner) addA(name string, ttl uint32, set []netip.Addr) {
	rrs := make([]dns.RR, len(set))
	for i, a := range set {
		rrs[i] = &dns.A{Hdr: header(name, dns.TypeA, ttl), A: a.AsSlice()}
	}
	p.zone.add(rrs)
}

// addAAAA adds n AAAA records. They make clients of two protocols look like such; nobody can
// connect to them, for the lab routes no IPv6.
func (p *planner) addAAAA(name string, ttl uint32, n int) {
	var rrs []dns.RR
	for range n {
		b := [16]byte{0x20, 0x01, 0x0d, 0xb8}
		binary.BigEndian.PutUint64(b[8:], p.rng.Uint64())
		rrs = append(rrs, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: b[:]})
	}
	p.zone.add(rrs)
}

func header(name string, t uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: dns.Fqdn(name), Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}
