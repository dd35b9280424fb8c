package traffic

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"portolan/sensor/event"
)

// implant is an infected host's share of a campaign, and its habits.
type implant struct {
	family   *family
	campaign *campaign
	interval time.Duration // mean time between two contacts
	ports    []uint16      // when the port is not calculated
	decoys   int           // records of the RRset that nothing is calculated from
	ttl      uint32        // seconds
	resolver netip.AddrPort
	domain   []byte
	proto    event.Proto
	always53 bool // speaks its own protocol to port 53

	contacts int
	given    []uint32 // every answer it got
	last     plan
	scratch  plan
	answer   []uint32
}

// crowds are the hosts on which a learned key would be manufactured easily.
var (
	crowds     = [...]Model{Swarm, InnerScanner, Cameras, DHT}
	crowdNames = [...]string{"swarm", "inner-scanner", "cameras", "dht"}
)

// portTables are where implants without a port formula go; DETECTION, section 1.
var portTables = [...][]uint16{
	{23, 80, 443, 2323, 5555, 8080, 8443, 9034, 31337, 37215, 52869},
	{80, 443, 1312, 6667, 8888, 13579, 23561, 47808},
	{443, 9876, 12012, 19990, 25001, 27015, 33211, 40125, 44818, 51230, 53413, 57000, 59999, 61001, 62078},
	{80},
}

// addImplants infects cfg.Implants hosts with each family.
func (g *Generator) addImplants(d *dice) {
	for fi := range g.families {
		f := &g.families[fi]
		seeds := uint64(0)
		for _, c := range []byte(f.ID) { // whichever families are chosen, one keeps its constants
			seeds = mix(seeds + uint64(c))
		}
		fd := &dice{*rand.NewPCG(g.cfg.Seed, seeds)}
		c := newCampaign(fd)
		for j := range g.cfg.Implants {
			h := g.addHost(d, false)
			var around string
			switch j % 4 {
			case 0:
				around = "quiet"
				g.addActor(h, NTP, nil)
				g.addActor(h, Mail, nil)
			case 1:
				around = "busy"
				for _, m := range []Model{Browsing, CDN, Mail, NTP, Meeting, WebRTC} {
					g.addActor(h, m, nil)
				}
			case 2:
				around = "nat"
				g.addActor(h, Browsing, nil)
				for range natGroup - 1 {
					other := g.addHost(d, true)
					g.hosts[other].resolver = g.hosts[h].resolver
					g.addActor(other, Browsing, nil)
					g.addActor(other, [...]Model{Game, CDN, WebRTC, IoT}[d.n(4)], nil)
				}
			default:
				k := (fi + j/4) % len(crowds)
				around = crowdNames[k]
				g.addActor(h, Browsing, nil)
				g.addActor(h, crowds[k], nil)
			}
			g.infected[g.hosts[h].addr] = around
			a := g.addActor(h, NumModels, &implant{family: f, campaign: c})
			a.implant.settle(g, fd, fi, j)
		}
		d.Uint64()
	}
}

func newCampaign(d *dice) *campaign {
	c := &campaign{key: d.u32() | 0x01000100} // differs from 0 in the high half and the low one
	o := orders()
	c.order = o[1+d.n(len(o)-1)]
	return c
}

// settle chooses the habits of the j-th implant of family fi.
func (i *implant) settle(g *Generator, d *dice, fi, j int) {
	i.interval = d.spread(g.cfg.Interval[0], g.cfg.Interval[1])
	i.ports = portTables[d.n(3)]
	i.decoys = [...]int{0, 0, 2, 7}[d.n(4)]
	i.ttl = [...]uint32{1, 30, 60, 300}[d.n(4)]
	i.proto = event.TCP
	if d.chance(.25) {
		i.proto = event.UDP
	}
	if d.chance(.4) {
		i.resolver = publicResolver
	}
	switch {
	case i.family.ID == "A4":
		i.ports, i.decoys, i.proto = portTables[3], 0, event.TCP
	case i.family.Group == "TXT" && j%2 == 1:
		i.always53, i.proto = true, event.UDP
	}
	i.domain = append(strconv.AppendInt([]byte("c"), int64(fi), 36), ".campaign.test"...)
}

// contact is one step of an implant: a lookup, the calculation, a connection; or the last
// destination once more.
func (g *Generator) contact(a *actor, t event.Time) time.Duration {
	i := a.implant
	again := a.exp(i.interval)
	if i.contacts > 0 && a.chance(.1) {
		g.dial(a, t, &i.last)
		return again
	}
	p := i.draw(g, &a.dice)
	i.contacts++
	at := g.tell(a, t, p)
	switch r := a.float(); {
	case r < .8: // programs that calculate do so at once
		at = at.Add(a.between(500*time.Microsecond, 6*time.Millisecond))
	case r < .92:
		at = at.Add(a.between(10*time.Millisecond, 30*time.Second))
	default: // the answer was kept for later
		at = at.Add(a.between(time.Minute, 9*time.Minute))
	}
	g.dial(a, at, p)
	if a.chance(.25) { // nobody there: tries again
		at = at.Add(a.between(time.Second, 5*time.Second))
		g.dial(a, at, p)
	}
	i.last, i.scratch = *p, i.last
	return max(again, at.Sub(t)+time.Second)
}

// draw makes a plan whose destination is public, no answer of this client, and no site of
// the world.
func (i *implant) draw(g *Generator, d *dice) *plan {
	p := &i.scratch
	for {
		*p = plan{words: p.words[:0], rest: p.rest[:0], txt: p.txt[:0]}
		if !i.family.plan(d, i.campaign, p) {
			continue
		}
		if p.port == 0 {
			p.port = i.ports[d.n(len(i.ports))]
			if i.always53 {
				p.port = 53
			}
		}
		if p.dst6 {
			return p
		}
		if !public(p.dst) || g.world.answersWith(p.dst) || !p.original && (slices.Contains(i.given, p.dst) ||
			slices.Contains(p.words, p.dst) || slices.Contains(p.rest, p.dst)) {
			continue
		}
		return p
	}
}

// tell sends the query and gives out the response that carries p; it returns when the client has it.
func (g *Generator) tell(a *actor, t event.Time, p *plan) event.Time {
	i := a.implant
	h := &g.hosts[a.host]
	resolver := h.resolver
	if i.resolver.IsValid() {
		resolver = i.resolver
	}
	client := h.addr
	if p.dst6 {
		client = h.addr6
		resolver = resolver6
	}
	var name [64]byte
	n := append(strconv.AppendUint(name[:0], a.Uint64()>>24, 36), '.')
	n = append(n, i.domain...)
	switch p.record {
	case recordTXT:
		if i.always53 { // an innocent address beside the text
			l := g.askBy(a, t, event.A, n, client, resolver)
			l.a(g.world.web(&a.dice, t).at(&a.dice), i.ttl)
		}
		l := g.askBy(a, t, event.TXT, n, client, resolver)
		l.txt(p.txt, i.ttl)
		return l.Time
	case recordAAAA:
		l := g.askBy(a, t, event.AAAA, n, client, resolver)
		for k := range i.decoys + 1 {
			ip := p.v6
			if k > 0 {
				for j := 4; j < 16; j++ {
					ip[j] = byte(a.n(256))
				}
			}
			l.aaaa(ip, i.ttl)
		}
		return l.Time
	}
	l := g.askBy(a, t, event.A, n, client, resolver)
	i.answer = append(append(i.answer[:0], p.words...), p.rest...)
	for range i.decoys {
		if x := publicOf(a.Uint64()); x != p.dst || p.original {
			i.answer = append(i.answer, x)
		}
	}
	if len(p.words) < 2 { // where the order means something it is kept
		for k := len(i.answer) - 1; k > 0; k-- {
			j := a.n(k + 1)
			i.answer[k], i.answer[j] = i.answer[j], i.answer[k]
		}
	}
	for _, x := range i.answer {
		l.a(x, i.ttl)
	}
	if len(i.given) < 4096 {
		i.given = append(i.given, i.answer...)
	}
	return l.Time
}

var resolver6 = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x48, 0x60, 0x48, 0x60, 14: 0x88, 15: 0x88}), 53)

// dial connects to what p calculated.
func (g *Generator) dial(a *actor, t event.Time, p *plan) {
	h := &g.hosts[a.host]
	if p.dst6 {
		g.open(a, t, a.implant.proto, h.addr6, netip.AddrPortFrom(netip.AddrFrom16(p.v6), p.port))
		return
	}
	g.connect(a, t, a.implant.proto, p.dst, p.port)
}
