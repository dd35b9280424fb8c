package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"portolan/sensor/event"
)

// family is one way to calculate where to connect from what the DNS answered.
type family struct {
	name, hypothesis string
	records          int                         // in an answer; the implant uses one of them
	text             bool                        // the answer is TXT and holds the destination, encoded
	checksum         bool                        // the answer has one more record, which guards the others
	transform        func(netip.Addr) netip.Addr // from answer to destination; nil for the answer itself
	ports            []uint16                    // one at random; nil for mulAdd of the answer
	datagram         bool                        // every second contact is to UDP port 53, and no DNS
}

// families returns what the lab has of DETECTION section 1, and a reversal as in section 2.
func families() []family {
	return []family{
		{name: "mul-add", hypothesis: "P1", records: 1},
		{name: "half-swap", hypothesis: "A1", records: 3, transform: halfSwap, ports: []uint16{
			80, 443, 2053, 5555, 7777, 8080, 8443, 9931, 21337, 35791, 47808}},
		{name: "xor-known", hypothesis: "A3", records: 1, transform: xorKnown, ports: []uint16{443, 8443, 25565}},
		{name: "nymaim", hypothesis: "A4", records: 10, checksum: true, transform: nymaim, ports: []uint16{80}},
		{name: "txt-xor", hypothesis: "TXT", records: 1, text: true, ports: []uint16{
			22, 443, 853, 1443, 2377, 3074, 5061, 6881, 9034, 10001, 19153, 23023, 31337, 41337, 61613}},
		{name: "reverse", hypothesis: "A6", records: 2, transform: reversed, ports: []uint16{443, 4444}, datagram: true},
	}
}

// Families returns the names of the implants' families, in the order of their addresses.
func Families() []string {
	var names []string
	for _, f := range families() {
		names = append(names, f.name)
	}
	return names
}

// implant is one infected host and what its operator put into the DNS.
type implant struct {
	Host
	family
	name     string
	contacts int
	host     habitOf // what else the host does
}

// implant draws an implant's name, and an answer for each of its contacts into the zone.
func (p *planner) implant(h Host, f family, contacts int, net *innocent) *implant {
	i := &implant{Host: h, family: f, name: p.name(), contacts: contacts, host: net.browser}
	for _, port := range f.ports {
		p.tcp[port] = true
	}
	for range contacts {
		p.answer(i)
	}
	return i
}

// answer adds the answer of one more lookup. Whatever record of it the implant uses, it leads to a
// public address that is no answer, or for a port formula to a port that stands out.
func (p *planner) answer(i *implant) {
	var set []netip.Addr
	for range i.records {
		a := p.draw(func(a netip.Addr) bool { return p.usable(i, a) })
		set = append(set, a)
		switch {
		case i.transform != nil:
			to := i.transform(a)
			p.used[to] = true
			if i.datagram {
				p.silent = append(p.silent, netip.AddrPortFrom(to, 53))
			}
		case i.ports == nil:
			p.tcp[mulAdd(a)] = true
		}
	}
	switch {
	case i.text:
		p.zone.add([]dns.RR{&dns.TXT{Hdr: header(i.name, dns.TypeTXT, 60), Txt: []string{textOf(set[0])}}})
		return
	case i.checksum:
		sum := nymaimChecksum(set)
		p.used[sum] = true
		set = slices.Insert(set, p.rng.IntN(len(set)+1), sum)
	}
	p.addA(i.name, 60, set)
}

// usable reports whether an implant that takes a record with the address a gets somewhere as answer says.
func (p *planner) usable(i *implant, a netip.Addr) bool {
	if i.ports == nil {
		port := mulAdd(a)
		if port < 10000 || p.tcp[port] || p.udp[port] || p.closed[port] {
			return false
		}
	}
	if i.transform == nil {
		return public(a)
	}
	to := i.transform(a)
	classE := a.As4()[0] >= 240 // seen as answers of such families
	return (public(a) || classE) && public(to) && to != a && !p.used[to]
}

// run makes the implant's contacts, spread over the time d, and what else its host does before each.
func (i *implant) run(ctx context.Context, c *client, d time.Duration) error {
	begin := time.Now()
	other := i.host(c)
	part := d / time.Duration(i.contacts)
	for n := range i.contacts {
		// Somewhere in the first half of the nth of equal parts.
		wait(ctx, time.Until(begin.Add(part*time.Duration(n)+time.Duration(c.rng.Int64N(int64(part/2))))))
		if ctx.Err() != nil {
			return nil
		}
		if n < 2 {
			if err := other(ctx); err != nil {
				return err
			}
		}
		if err := i.contact(ctx, c, n, part/3); err != nil {
			return fmt.Errorf("contact %d: %w", n+1, err)
		}
	}
	return nil
}

// contact asks, calculates, connects and reports what it did. Every second contact is up to late after its
// answer, but no more than 300 ms.
func (i *implant) contact(ctx context.Context, c *client, n int, late time.Duration) error {
	k := Contact{Family: i.family.name, Hypothesis: i.hypothesis, Proto: event.TCP, Name: i.name, Level: "alert"}
	if i.ports == nil && n == 0 {
		k.Level = "watch"
	}
	typ := dns.TypeA
	if i.text {
		typ = dns.TypeTXT
	}
	rrs, err := c.lookup(ctx, i.name, typ)
	if err != nil {
		return err
	}
	k.Answered = event.TimeOf(time.Now())
	k.Records = len(rrs)
	if err := i.calculate(&k, rrs, n, c.rng); err != nil {
		return err
	}
	if n%2 == 0 { // known implants connect 0.5 to 6 ms after the answer, or much later
		late = 6 * time.Millisecond
	}
	late = min(late, 300*time.Millisecond)
	c.pause(ctx, late/12, late)
	if ctx.Err() != nil {
		return nil
	}
	s, err := c.dial(ctx, k.Proto, k.Destination, func() { k.Time = event.TimeOf(time.Now()) })
	if err != nil {
		return err
	}
	defer s.Close()
	if k.Source, err = netip.ParseAddrPort(s.LocalAddr().String()); err != nil {
		return fmt.Errorf("read the connection's own port: %w", err)
	}
	if k.Proto == event.UDP {
		_, err = io.WriteString(s, request) // nobody answers
	}
	if err != nil {
		return err
	}
	c.lab.report(k)
	if k.Proto == event.UDP {
		return nil
	}
	return talk(s, k.Proto)
}

// calculate is the technique: it fills in what the implant makes of an answer.
func (i *implant) calculate(k *Contact, rrs []dns.RR, n int, rng *rand.Rand) (err error) {
	var to netip.Addr
	if i.text {
		t, ok := rrs[0].(*dns.TXT)
		if !ok || len(t.Txt) != 1 {
			return errors.New("the answer is no TXT record of one string")
		}
		k.Text = t.Txt[0]
		if to, err = fromText(k.Text); err != nil {
			return err
		}
	} else {
		set := onlyA(rrs)
		if i.checksum {
			set = nymaimContacts(set)
		}
		if len(set) == 0 {
			return errors.New("the answer has no address to use")
		}
		k.Answer = set[rng.IntN(len(set))]
		if to = k.Answer; i.transform != nil {
			to = i.transform(k.Answer)
		}
	}
	var port uint16
	switch {
	case i.ports == nil:
		port = mulAdd(k.Answer)
	case i.datagram && n%2 == 1:
		k.Proto, port = event.UDP, 53
	default:
		port = i.ports[rng.IntN(len(i.ports))]
	}
	k.Destination = netip.AddrPortFrom(to, port)
	return nil
}
