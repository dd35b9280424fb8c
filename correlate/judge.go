package correlate

import (
	"encoding/binary"
	"math"
	"math/bits"
	"time"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// class is what judging a connection comes to.
type class uint8

const (
	unjudged  class = iota // no lookup of the client is remembered, or the destination cannot be calculated
	explained              // to an answer, on a port that says nothing
	tried                  // a trial that no hypothesis predicts
	predicted              // a trial that at least one hypothesis predicts
)

// found is a hypothesis that predicts a connection.
type found struct {
	mixture hypothesis.Mixture
	which   uint8 // Formula, Group or Transform
	via     hypothesis.Via
	word    uint32   // the operand of a formula or transform
	operand [16]byte // the answer it was read from
}

// key names the hypothesis within a client's evidence.
func (f *found) key() uint32 {
	return uint32(f.mixture)<<16 | uint32(f.via)<<8 | uint32(f.which)
}

// verdict is how a connection was judged.
type verdict struct {
	class
	kind    Kind
	operand [hypothesis.NumMixtures]int // answers that competed, by mixture; 0 means no trial of that mixture
	aaaa    int                         // of those of AddressA, how many are AAAA
	q       float64                     // chance of the port or destination
}

// trials returns the mixtures that the connection is a trial of, as a bit mask.
func (v *verdict) trials() (mask uint8) {
	for m, n := range v.operand {
		if n > 0 {
			mask |= 1 << m
		}
	}
	return mask
}

// competing returns how many answers competed with the one that f was read from.
func (v *verdict) competing(f *found) int {
	switch {
	case f.mixture != hypothesis.AddressA:
		return v.operand[f.mixture]
	case f.via == hypothesis.ViaA:
		return v.operand[f.mixture] - v.aaaa
	}
	return v.aaaa
}

// hypotheses returns how many hypotheses were tried.
func (v *verdict) hypotheses() (n int) {
	if v.operand[hypothesis.Port4] > 0 {
		n += hypothesis.NumFormulas
	}
	if v.operand[hypothesis.Port6] > 0 {
		n += hypothesis.NumGroups
	}
	if v.operand[hypothesis.AddressA] > v.aaaa {
		n += hypothesis.Tried(hypothesis.ViaA)
	}
	if v.aaaa > 0 {
		n += len(hypothesis.Embedded) * hypothesis.Tried(hypothesis.ViaAAAA12)
	}
	if v.operand[hypothesis.AddressT] > 0 {
		n += hypothesis.Tried(hypothesis.ViaTXTBase64)
	}
	return n
}

func mapped(x uint32) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	binary.BigEndian.PutUint32(a[12:], x)
	return a
}

// word returns the IPv4 address that a holds.
func word(a *[16]byte) (x uint32, ok bool) {
	const prefix = 0xffff // bytes 8 to 11 of ::ffff:0:0/96 (RFC 4291, section 2.5.5.2)
	ok = binary.BigEndian.Uint64(a[:]) == 0 && binary.BigEndian.Uint32(a[8:]) == prefix
	return binary.BigEndian.Uint32(a[12:]), ok
}

// ttl returns how long a record's TTL stretches a window.
func (s *shard) ttl(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, s.cfg.MaxTTL)
}

// judge looks at connection x of client c in the light of its settled answers and of the
// pending events before, all stamped no later. What predicts x is left in s.found.
func (s *shard) judge(c *client, before []pending, x *pending) verdict {
	s.found = s.found[:0]
	if x.proto == event.UDP && x.sport == 53 { // a resolver's answer to a query not seen
		return verdict{}
	}
	settled := s.answers.of(&c.answers)
	isAnswer := false
	portFresh, ownKind := event.Time(math.MinInt64), kindExplains
	for i := range settled {
		a := &settled[i]
		if a.addr == x.addr && a.kind.explains(x.dport) {
			isAnswer = true
			if a.kind.operand() && a.last <= x.time {
				ownKind, portFresh = a.kind, max(portFresh, a.ttlEnd, a.last.Add(s.cfg.PortWindow))
			}
		}
	}
	for i := range before {
		p := &before[i]
		if p.addr == x.addr && p.kind.explains(x.dport) {
			isAnswer = true
			if p.kind.operand() {
				ownKind, portFresh = p.kind, max(portFresh, p.ttlEnd, p.time.Add(s.cfg.PortWindow))
			}
		}
	}
	if isAnswer {
		if !ownKind.operand() || x.time > portFresh {
			return verdict{class: explained}
		}
		return s.judgePort(x)
	}
	return s.judgeAddress(c, settled, before, x)
}

// judgePort tries the formulas on the answer that is the destination (DETECTION, section 3).
func (s *shard) judgePort(x *pending) verdict {
	r := s.cfg.EphemeralPortRange
	if baseline.Ordinary(x.dport) || x.dport < r[0] || x.dport > r[1] {
		return verdict{class: explained}
	}
	v := verdict{class: tried, kind: Port, q: baseline.Port(x.dport)}
	if w, ok := word(&x.addr); ok {
		v.operand[hypothesis.Port4] = 1
		for f := range hypothesis.Predicting(w, x.dport).All() {
			s.found = append(s.found, found{hypothesis.Port4, uint8(f), hypothesis.ViaA, w, x.addr})
		}
	} else {
		v.operand[hypothesis.Port6] = 1
		for m := hypothesis.Predicting6(&x.addr, x.dport); m != 0; m &= m - 1 {
			g := uint8(bits.TrailingZeros64(m))
			s.found = append(s.found, found{hypothesis.Port6, g, hypothesis.ViaAAAA, 0, x.addr})
		}
	}
	if len(s.found) > 0 {
		v.class = predicted
	}
	return v
}

// judgeAddress tries the transforms on a destination that is no answer (DETECTION, section 2).
func (s *shard) judgeAddress(c *client, settled []answer, before []pending, x *pending) verdict {
	y, ok := word(&x.addr)
	if !ok || !baseline.Reachable(y) {
		return verdict{}
	}
	v := verdict{kind: Address}
	near := baseline.Anywhere
	prepared := false
	compete := func(k kind, addr *[16]byte) {
		switch k {
		case kindA:
			v.operand[hypothesis.AddressA]++
			w, _ := word(addr)
			near = max(near, baseline.Closeness(w, y))
		case kindAAAA:
			v.operand[hypothesis.AddressA]++
			v.aaaa++
		default:
			v.operand[hypothesis.AddressT]++
		}
		if !prepared {
			s.inverses.Set(y)
			prepared = true
		}
		s.try(k, addr)
	}
	for i := range settled {
		if a := &settled[i]; a.kind.operand() && a.last <= x.time && x.time <= s.freshUntil(a) {
			compete(a.kind, &a.addr)
		}
	}
	for i := range before {
		if p := &before[i]; p.kind.operand() && p.before < x.time && x.time <= p.fresh {
			compete(p.kind, &p.addr)
		}
	}
	if !prepared {
		return v
	}
	v.class = tried
	own, _ := word(&c.addr)
	v.q = baseline.Destination(y, own, near)
	if len(s.found) > 0 {
		v.class = predicted
	}
	return v
}

// try appends to s.found the transforms that make the prepared destination from an answer.
func (s *shard) try(k kind, addr *[16]byte) {
	if k != kindAAAA {
		s.tryWord(hypothesis.Via(k), binary.BigEndian.Uint32(addr[12:]), addr)
		return
	}
	if translated(addr) {
		return
	}
	for _, e := range hypothesis.Embedded {
		s.tryWord(e.Via, binary.BigEndian.Uint32(addr[e.Offset:]), addr)
	}
}

func (s *shard) tryWord(via hypothesis.Via, w uint32, addr *[16]byte) {
	if !s.inverses.Hit(w, via) {
		return
	}
	m := hypothesis.AddressA
	if via >= hypothesis.ViaTXTPlain {
		m = hypothesis.AddressT
	}
	s.inverses.Each(w, func(t hypothesis.Transform) {
		if t.Weight(via) > 0 {
			s.found = append(s.found, found{m, uint8(t), via, w, *addr})
		}
	})
}

// translated reports whether an IPv6 address carries an IPv4 address by standard: NAT64
// (RFC 6052), Teredo (RFC 4380), 6to4 (RFC 3056). Connecting to what it carries is no calculation.
func translated(a *[16]byte) bool {
	hi := binary.BigEndian.Uint32(a[:])
	return hi == 0x0064ff9b || hi == 0x20010000 || hi>>16 == 0x2002
}
