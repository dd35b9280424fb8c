package traffic

import (
	"math/rand/v2"
	"net/netip"
	"strconv"

	"portolan/sensor/event"
)

// site is a name in the world's DNS and the addresses behind it.
type site struct {
	name, edge []byte // edge is what a CNAME leads to; nil without one
	base, span uint32 // answers rotate over base to base+span-1
	answers    uint8  // addresses given at a time
	ttl        uint32 // seconds
	port       uint16 // where the service listens
	v6         bool   // has AAAA records as well
}

// at returns one of the addresses of s.
func (s *site) at(d *dice) uint32 { return s.base + uint32(d.n(int(s.span))) }

// has reports whether x may be an answer of s.
func (s *site) has(x uint32) bool { return x-s.base < s.span }

// service is a kind of site.
type service int

const (
	webService service = iota
	cdnService
	trackerService
	gameService
	sipService
	stunService
	vpnService
	mailService
	poolService
	ftpService
	meetingService
	cloudService // names that devices call home to
	srvService
	gatewayService // a customer's router under a dynamic name
	numServices
)

var services = [numServices]struct {
	label string
	count int
}{
	webService: {"www", 20000}, cdnService: {"edge", 60}, trackerService: {"tracker", 40}, gameService: {"play", 60},
	sipService: {"sip", 40}, stunService: {"stun", 8}, vpnService: {"vpn", 50}, mailService: {"mx", 200},
	poolService: {"pool", 12}, ftpService: {"ftp", 60}, meetingService: {"meet", 6}, cloudService: {"api", 300},
	srvService: {"srv", 60}, gatewayService: {"gw", 60},
}

// operators are networks that many sites share: content networks and clouds.
const operators = 24

// world is what all hosts share: names, addresses, and who is who inside.
type world struct {
	seed  uint64
	sites [numServices][]site
	used  [1 << 16 / 64]uint64 // /16 prefixes in which a site may have addresses
}

func newWorld(seed uint64) *world {
	w := &world{seed: seed}
	d := &dice{*rand.NewPCG(seed, 0x776f726c64)}
	var networks [operators]uint32
	for i := range networks {
		networks[i] = publicOf(d.Uint64()) &^ 0x3ffff // a /14
	}
	for k := range services {
		for i := range services[k].count {
			s := site{span: 1, answers: 1, ttl: 300, port: 443}
			s.name = siteName(services[k].label, i)
			w.place(d, service(k), &s, &networks)
			for x := s.base >> 16; x <= (s.base+s.span-1)>>16; x++ {
				w.used[x/64] |= 1 << (x % 64)
			}
			w.sites[k] = append(w.sites[k], s)
		}
	}
	return w
}

// place gives a site its addresses, port and records.
func (w *world) place(d *dice, k service, s *site, networks *[operators]uint32) {
	s.ttl = [...]uint32{20, 30, 60, 60, 120, 300, 300, 600, 3600, 21600}[d.n(10)]
	network := networks[d.rank(operators)]
	s.base = network + uint32(d.n(1<<18))&^1023
	switch k {
	case webService:
		s.v6 = d.chance(.4)
		switch {
		case d.chance(.5): // on a content network, behind a CNAME more often than not
			s.span, s.answers = 1<<d.in(2, 10), uint8(d.in(1, 6))
			if d.chance(.7) {
				s.edge = append(append([]byte{}, s.name...), ".edge-net.test"...)
			}
		case d.chance(.5): // rented in a cloud
			s.base += uint32(d.n(1024))
		default:
			s.base = publicOf(d.Uint64())
		}
		switch {
		case d.chance(.06):
			s.port = 80
		case d.chance(.008):
			s.port = [...]uint16{8080, 8443, 8000, 8888, 8081}[d.n(5)]
		case d.chance(.004):
			s.port = oddPort(d)
		}
	case cdnService:
		s.span, s.answers, s.ttl = 1<<d.in(6, 10), uint8(d.in(2, 8)), 20
	case poolService:
		s.base, s.span, s.answers, s.ttl, s.port = publicOf(d.Uint64())&^0xffff, 1<<16, 4, 130, 123
	case meetingService:
		s.span, s.answers, s.ttl = 1024, 2, 60
	case gameService, vpnService:
		s.port = oddPort(d)
		if k == vpnService && d.chance(.5) {
			s.port = [...]uint16{1194, 51820, 500, 4500}[d.n(4)]
		}
		s.span = 1 << d.n(5)
	case gatewayService:
		s.base, s.ttl, s.port = publicOf(d.Uint64()), 60, 8000
	case trackerService:
		s.port = [...]uint16{6969, 1337, 80, 2710, 451}[d.n(5)]
		s.base = publicOf(d.Uint64())
	case stunService:
		s.port = [...]uint16{19302, 3478}[d.n(2)]
	case sipService:
		s.port = 5060
	case mailService:
		s.port = 25
	case ftpService:
		s.port = 21
	case srvService:
		s.port = uint16(d.in(20000, 32000))
	case cloudService:
		if d.chance(.1) {
			s.port = [...]uint16{8883, 1883, 5671, 4433}[d.n(4)]
		}
	}
	if !public(s.base) || !public(s.base+s.span-1) {
		s.base, s.span = publicOf(d.Uint64()), 1
	}
}

// siteName returns the i-th name of its kind, all under the reserved domain of RFC 6761.
func siteName(label string, i int) []byte {
	b := append([]byte(label), '.', 's')
	b = strconv.AppendInt(b, int64(i), 10)
	return append(b, ".test"...)
}

// oddPort returns a port that people choose by themselves: the registered range most of
// all, low numbers before high ones, round ones before others.
func oddPort(d *dice) uint16 {
	p := 1024 + d.rank(64000)
	switch {
	case d.chance(.3):
		p -= p % 100
	case d.chance(.3):
		p -= p % 10
	}
	return uint16(max(p, 1024))
}

// answersWith reports whether any site may have x as an answer.
func (w *world) answersWith(x uint32) bool {
	if w.used[x>>16/64]>>(x>>16%64)&1 == 0 {
		return false
	}
	for k := range w.sites {
		for i := range w.sites[k] {
			if w.sites[k][i].has(x) {
				return true
			}
		}
	}
	return false
}

// web returns a site that people look at. What is popular drifts from day to day.
func (w *world) web(d *dice, t event.Time) *site {
	all := w.sites[webService]
	return &all[(d.rank(len(all))+int(t/day)%1000*7)%len(all)]
}

// one returns the site of kind k that belongs to the number h for good.
func (w *world) one(k service, h uint64) *site {
	return &w.sites[k][mix(h^uint64(k)<<56)%uint64(len(w.sites[k]))]
}

func addr(x uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)})
}

// cached is an answer that a host still knows.
type cached struct {
	site  *site
	addr  uint32
	until event.Time
}

// host is one machine. Behind NAT several have one address.
type host struct {
	addr, addr6 netip.Addr
	zone        event.Zone
	resolver    netip.AddrPort
	asker       netip.Addr // who asks the resolver: the host, or a forwarder between
	number      uint32     // of the address, from 0
	sport       uint16     // last source port; all hosts of one address share the range
	next        uint8      // place in cache to be overwritten
	cache       [24]cached
}

// place returns the address with the given number: a hundred hosts to a /24, which is a
// zone of its own.
func (h *host) place(number uint32, d *dice) {
	subnet := number / 100
	h.number = number
	h.addr = addr(10<<24 | (16+subnet>>8)<<16 | subnet&255<<8 | (10 + number%100))
	h.addr6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, byte(subnet >> 8), byte(subnet), 15: byte(10 + number%100)})
	h.zone = event.Zone{Kind: event.VLAN, ID: 100 + subnet%3900}
	h.asker = h.addr
	h.sport = uint16(32768 + d.n(28000))
	switch {
	case d.chance(.7):
		h.resolver = netip.AddrPortFrom(addr(10<<24|53), 53)
	case d.chance(.5):
		h.resolver = netip.AddrPortFrom(addr(10<<24|1<<8|53), 53)
	default:
		h.resolver = publicResolver
	}
}

var (
	publicResolver = netip.AddrPortFrom(addr(8<<24|8<<16|8<<8|8), 53)
	forwarder      = addr(10<<24 | 2)
)

// recall returns what h knows of s; ok is false when it has to ask. Programs hold on to
// an answer for a while after its TTL.
func (h *host) recall(s *site, t event.Time, d *dice) (x uint32, ok bool) {
	for i := range h.cache {
		c := &h.cache[i]
		if c.site == s {
			return c.addr, t <= c.until || d.chance(.17)
		}
	}
	return 0, false
}

func (h *host) remember(s *site, x uint32, until event.Time) {
	for i := range h.cache {
		if h.cache[i].site == s {
			h.cache[i].addr, h.cache[i].until = x, until
			return
		}
	}
	h.cache[h.next] = cached{s, x, until}
	h.next = (h.next + 1) % uint8(len(h.cache))
}
