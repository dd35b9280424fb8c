package correlate

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// contest is the trial of a destination against the answers that compete for it.
type contest struct {
	y               uint32
	near            baseline.Near
	v               verdict
	prepared        bool // s.inverses are those of y
	embedded        bool // an AAAA answer carries the destination by standard
	site, siteDecoy bool // a constant known at the site leads from an answer, or a decoy, to the destination
}

// judgeAddress tries the transforms on a destination that is no answer (DETECTION, section 2).
func (s *shard) judgeAddress(c *client, before []pending, x *pending, quiet bool) verdict {
	y, ok := word(&x.addr)
	if !ok || !baseline.Reachable(y) {
		return verdict{}
	}
	t := contest{y: y, v: verdict{kind: Address, quiet: quiet}}
	if c.past != 0 {
		t.v.again = slices.Contains(s.pasts.at(c.past - 1)[0].recent[:], s.seeds.fingerprint(&trial{addr: x.addr}))
	}
	told := s.told(c)
	s.stats.Compared += uint64(told.len + len(before))
	all := slices.Grow(s.tries.fresh, told.len)
	for i, g := range told.tags() {
		k := kindOfTag(g)
		if !k.operand() {
			continue
		}
		r := told.rest(i)
		last := event.Time(r[0])
		if last > x.time {
			continue
		}
		stale := x.time > s.freshUntil(last, event.Time(r[1]))
		if k == kindA {
			w := uint32(g)
			t.near.Measure(w, y)
			if !stale {
				all = append(all, fresh{word: w, last: last, origin: uint32(r[2]), network: uint16(w >> 16)})
			}
		} else if !stale {
			addr := told.addr(i)
			s.compete(&t, x.time, k, &addr)
		}
	}
	for i := range before {
		p := &before[i]
		if !p.kind.operand() {
			continue
		}
		w := binary.BigEndian.Uint32(p.addr[12:])
		if p.kind == kindA {
			t.near.Measure(w, y) // one that is pending as well as settled counts twice
		}
		switch {
		case x.time > p.fresh:
		case p.kind != kindA:
			if p.before < x.time {
				s.compete(&t, x.time, p.kind, &p.addr)
			}
		case p.before < x.time:
			all = append(all, fresh{word: w, last: p.time, origin: p.origin, network: uint16(w >> 16)})
		default: // competes already, and was given again
			if f := slices.IndexFunc(all, func(f fresh) bool { return f.word == w }); f >= 0 {
				all[f].last, all[f].origin = p.time, p.origin
			}
		}
	}
	s.tries.fresh = all
	v := &t.v
	if len(s.tries.fresh) > 0 {
		s.tryFresh(&t, x.time)
	}
	switch {
	case !t.prepared:
		return *v
	case t.embedded:
		return verdict{class: explained, by: byEmbedded}
	}
	v.class, v.near = tried, t.near
	own, _ := word(&c.addr)
	v.q = baseline.Destination(y, own, &t.near)
	if m := s.cfg.Baseline; m != nil {
		v.q = max(v.q, m.DestinationChance(c.zone, x.time, y))
	}
	s.tryPairs(y, !t.v.again)
	if t.site {
		s.trySite(&s.tries, y, x.time)
	}
	if t.siteDecoy {
		s.decoyFresh()
		s.trySite(&s.chance, y, x.time)
	}
	if len(s.tries.found) > 0 {
		v.class = predicted
		s.confirm(&s.tries)
	}
	return *v
}

// prepare makes the tables that answers are compared with for the destination of t at time at.
func (s *shard) prepare(t *contest, at event.Time) {
	if !t.prepared {
		t.prepared = true
		s.inverses.Set(t.y)
		s.expectSite(t.y, at)
	}
}

// tryFresh tries the transforms on the A answers that compete, at the cost of a few instructions each: a
// table says of all but one answer in thirty that nothing leads from it to the destination.
func (s *shard) tryFresh(t *contest, at event.Time) {
	s.prepare(t, at)
	all := s.tries.fresh
	t.v.operand[hypothesis.AddressA] += len(all)
	if len(s.own.Address) > 0 {
		t.v.operand[hypothesis.CustomAddress] += len(all)
	}
	for i := range all {
		if w := all[i].word; s.worth(t.y, w) {
			t.site = t.site || s.inverses.Expected(w)
			answer := mapped(w)
			s.tryA(&s.tries, t.y, w, &answer)
		}
	}
	if t.v.again {
		return
	}
	for i := range all {
		w := s.decoyWord(all[i].word, t.y)
		all[i].decoy = w
		if s.worth(t.y, w) {
			t.siteDecoy = t.siteDecoy || s.inverses.Expected(w)
			answer := mapped(all[i].word)
			s.tryA(&s.chance, t.y, w, &answer)
		}
	}
}

// decoyWord scrambles the word of an A answer; one in the network of the destination y stays there.
func (s *shard) decoyWord(w, y uint32) uint32 {
	if w>>16 == y>>16 {
		return s.decoyKey.Neighbour(w)
	}
	return s.decoyKey.Word(w)
}

// worth reports whether a calculation from one A answer may lead from w to the destination.
func (s *shard) worth(y, w uint32) bool {
	z := w ^ y
	return s.inverses.Maybe(w) || bits.RotateLeft32(z, 8) == z || len(s.own.Address) > 0
}

// tryA tries the transforms, the octet constants and the operator's own on the word w, read from an
// A answer or made of one.
func (s *shard) tryA(to *tries, y, w uint32, answer *[16]byte) {
	s.tryWord(to, hypothesis.ViaA, w, answer)
	if key, ok := hypothesis.OctetKey(w, y); ok && !hypothesis.OctetKeyKnown(key) {
		to.found = append(to.found, found{mixture: hypothesis.AddressA, sort: sortOctet, constant: uint32(key), word: w, operand: *answer})
	}
	for i, p := range s.own.Address {
		if p.Eval(w) == y {
			to.found = append(to.found, found{mixture: hypothesis.CustomAddress, sort: sortCustom, which: uint8(i), word: w, operand: *answer})
		}
	}
}

// compete enters an AAAA or TXT answer into the contest and tries the transforms on it.
func (s *shard) compete(t *contest, at event.Time, k kind, addr *[16]byte) {
	s.prepare(t, at)
	switch k {
	case kindAAAA:
		t.v.operand[hypothesis.AddressA]++
		t.v.aaaa++
		if ip4, ok := translated(addr); ok {
			t.embedded = t.embedded || ip4 == t.y
			return
		}
	default:
		t.v.operand[hypothesis.AddressT]++
	}
	s.tryWords(&s.tries, k, addr, addr)
	if t.v.again {
		return
	}
	decoy := *addr
	s.scramble(&decoy)
	s.tryWords(&s.chance, k, &decoy, addr)
}

// tryWords tries the transforms on the words of an AAAA or TXT answer, or of the decoy made of it.
func (s *shard) tryWords(to *tries, k kind, from, answer *[16]byte) {
	if k != kindAAAA {
		s.tryWord(to, hypothesis.Via(k), binary.BigEndian.Uint32(from[12:]), answer)
		return
	}
	for _, e := range hypothesis.Embedded {
		s.tryWord(to, e.Via, binary.BigEndian.Uint32(from[e.Offset:]), answer)
	}
}

// decoyFresh makes the A answers of the decoys from those that compete.
func (s *shard) decoyFresh() {
	s.chance.fresh = s.chance.fresh[:0]
	for _, f := range s.tries.fresh {
		f.word = f.decoy
		s.chance.fresh = append(s.chance.fresh, f)
	}
}

func (s *shard) tryWord(to *tries, via hypothesis.Via, w uint32, addr *[16]byte) {
	if !s.inverses.Maybe(w) || !s.inverses.Hit(w, via) {
		return
	}
	m := hypothesis.AddressA
	if via >= hypothesis.ViaTXTPlain {
		m = hypothesis.AddressT
	}
	s.inverses.Each(w, func(t hypothesis.Transform) {
		if t.Weight(via) > 0 {
			to.found = append(to.found, found{mixture: m, which: uint8(t), via: via, word: w, operand: *addr})
		}
	})
}

// translated returns the IPv4 address that an IPv6 address carries by standard: NAT64
// (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380). Connecting to it is no calculation.
func translated(a *[16]byte) (ip4 uint32, ok bool) {
	switch hi := binary.BigEndian.Uint32(a[:]); {
	case hi == 0x0064ff9b:
		return binary.BigEndian.Uint32(a[12:]), true
	case hi == 0x20010000:
		return ^binary.BigEndian.Uint32(a[12:]), true
	case hi>>16 == 0x2002:
		return binary.BigEndian.Uint32(a[2:]), true
	}
	return 0, false
}
