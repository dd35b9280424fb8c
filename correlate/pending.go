package correlate

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"

	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// pending is an event that waits for others stamped earlier. One lookup gives as many as
// it has usable records.
type pending struct {
	time   event.Time
	addr   [16]byte // the answer, or the destination of a connection
	frame  uint64
	ttlEnd event.Time // records: when the longest TTL given so far runs out, capped
	fresh  event.Time // records: until when the address competes, all earlier mentions counted
	before event.Time // records: the same without this mention; counted already where it has not passed
	origin uint32     // records: a ref: where they came from
	ttl    uint32
	sport  uint16
	dport  uint16
	kind   kind
	class  class // connections: what judging gave
	proto  event.Proto
	start  event.Start
	mac    event.MAC
	trials uint8 // connections: the mixtures it is a trial of, as a bit mask, and byChance
	by     explanation
}

// order puts pending events in the order that decides what came first: by stamp,
// lookups before connections, and then by content so that arrival decides nothing.
func (p *pending) order(q *pending) int {
	if c := cmp.Compare(p.time, q.time); c != 0 {
		return c
	}
	if a, b := p.kind == kindConn, q.kind == kindConn; a != b {
		if b {
			return -1
		}
		return 1
	}
	return cmp.Or(bytes.Compare(p.addr[:], q.addr[:]), cmp.Compare(p.kind, q.kind), cmp.Compare(p.dport, q.dport),
		cmp.Compare(p.proto, q.proto), cmp.Compare(p.sport, q.sport))
}

// insert puts p among the pending events of client c and returns its place; late reports
// that others stamped after it had come before. ok is false when memory is spent.
func (s *shard) insert(c *client, p *pending) (at int, late, ok bool) {
	all, ok := s.pending.grow(&c.pending, s.cfg.PendingPerClient)
	if !ok {
		return 0, false, false
	}
	at = len(all) - 1
	for at > 0 && p.order(&all[at-1]) < 0 {
		all[at] = all[at-1]
		at--
	}
	all[at] = *p
	if p.kind != kindConn {
		s.chain(c, all, at)
	}
	return at, at < len(all)-1, true
}

// chain brings freshness up to date for the record at place at, and for later mentions
// of the same address.
func (s *shard) chain(c *client, all []pending, at int) {
	p := &all[at]
	before, ttlEnd := event.Time(math.MinInt64), event.Time(math.MinInt64)
	if e := earlier(all[:at], p); e != nil {
		before, ttlEnd = e.fresh, e.ttlEnd
	} else if t := s.told(c); t.len > 0 {
		if i := t.find(p.kind, &p.addr); i >= 0 {
			ttlEnd = t.ttlEnd(i)
			before = s.freshUntil(t.last(i), ttlEnd)
		}
	}
	for i := at; i < len(all); i++ {
		if q := &all[i]; q.kind == p.kind && q.addr == p.addr {
			q.before, q.ttlEnd = before, max(ttlEnd, q.time.Add(s.ttl(q.ttl)))
			q.fresh = max(before, q.ttlEnd, q.time.Add(s.cfg.AddressWindow))
			before, ttlEnd = q.fresh, q.ttlEnd
		}
	}
}

// earlier returns the newest mention among all of what p mentions.
func earlier(all []pending, p *pending) *pending {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].kind == p.kind && all[i].addr == p.addr {
			return &all[i]
		}
	}
	return nil
}

// mentioned reports whether what p mentions is mentioned in all no later than by p.
func mentioned(all []pending, p *pending) bool {
	for i := range all {
		if all[i].kind == p.kind && all[i].addr == p.addr && all[i].time <= p.time {
			return true
		}
	}
	return false
}

// settle takes up what client n has pending from before the given time: nothing that
// arrives in time can change it any more. It appends the final hits to dst.
func (s *shard) settle(dst []Hit, n uint32, before event.Time) []Hit {
	c := s.client(n)
	all := s.pending.of(&c.pending)
	done := 0
	for done < len(all) && all[done].time < before {
		p := &all[done]
		done++
		if p.kind == kindConn {
			dst = s.takeUp(dst, n, c, p)
			continue
		}
		s.keep(n, c, p)
	}
	if done == 0 {
		return dst
	}
	if c.evidence {
		dst = s.prune(dst, s.real.support[n], before)
	}
	if done == len(all) {
		s.pending.release(&c.pending)
	} else {
		copy(all, all[done:])
		c.pending.len -= uint16(done)
	}
	return dst
}

// takeRecords puts each usable record of l among the pending events of client n.
func (s *shard) takeRecords(dst []Hit, n uint32, c *client, hash uint64, l *event.Lookup, listed bool) []Hit {
	p := pending{time: l.Time, frame: l.Frame}
	s.scratch = appendOrigin(s.scratch[:0], l)
	origin := s.strings.put(hash, s.scratch)
	give := func(port uint16) {
		p.kind, p.addr = kindService, service(port)
		dst, _ = s.take(dst, n, c, &p)
	}
	if port := namedPort(l.Name); port != 0 {
		give(port)
	}
	for i := range l.Records {
		r := &l.Records[i]
		p.ttl, p.origin = r.TTL, origin
		servicePorts(r, give)
		switch r.Type {
		case event.A, event.AAAA, event.Hint:
			p.addr = r.Addr.As16()
			switch {
			case r.Type == event.Hint || listed:
				p.kind = kindExplains
			case r.Type == event.A:
				p.kind = kindA
			default:
				p.kind = kindAAAA
			}
			dst, _ = s.take(dst, n, c, &p)
		case event.TXT:
			if listed {
				continue
			}
			hypothesis.DecodeTXT(r.Text, func(v hypothesis.Via, x uint32) {
				p.kind, p.addr, p.origin = kind(v), mapped(x), s.strings.put(hash^s.seeds.bytes(r.Text), append(s.scratch, r.Text...))
				dst, _ = s.take(dst, n, c, &p)
			})
		}
	}
	return dst
}

// appendOrigin appends what is remembered of l with its records: the resolver's address
// and port, the length of the name in two bytes, the name. The text of a TXT record follows.
func appendOrigin(b []byte, l *event.Lookup) []byte {
	a := l.Resolver.Addr().As16()
	b = append(b, a[:]...)
	b = binary.BigEndian.AppendUint16(b, l.Resolver.Port())
	name := l.Name[:min(len(l.Name), maxString/2)]
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	return append(b, name...)
}

// readOrigin takes apart what appendOrigin and the text of a TXT record made; all is
// empty when memory no longer holds it.
func readOrigin(b []byte) (resolver netip.AddrPort, name, text string) {
	if len(b) < 20 {
		return resolver, "", ""
	}
	if addr := netip.AddrFrom16([16]byte(b)); !addr.IsUnspecified() {
		resolver = netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[16:]))
	}
	n := 20 + int(binary.BigEndian.Uint16(b[18:]))
	return resolver, string(b[20:n]), string(b[n:])
}
