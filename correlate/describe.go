package correlate

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// maxAlternatives bounds the other hypotheses that a hit names.
const maxAlternatives = 8

// client4 returns the address of c, IPv4 as such.
func client4(c *client) netip.Addr { return netip.AddrFrom16(c.addr).Unmap() }

func destination(x *pending) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(x.addr).Unmap(), x.dport)
}

// hit describes connection x of client c with everything but its ID, revision and level.
func (s *shard) hit(c *client, before []pending, x *pending, v *verdict, w *weighed) Hit {
	top := &w.shares[0]
	past := s.past(c)
	src := s.source(c, before, x, top)
	h := Hit{
		Zone:   c.zone,
		Client: client4(c),
		Connection: event.Connection{
			Time: x.time, Zone: c.zone, Src: netip.AddrPortFrom(client4(c), x.sport), Dst: destination(x),
			MAC: x.mac, Frame: x.frame, Proto: x.proto, Start: x.start,
		},
		Lookup: src.Source,
		Calc: Calc{
			Kind: v.kind, Match: s.matchOf(top, src.text), EValue: w.eValue, Chance: chance(v, top, &s.own), Hypotheses: v.hypotheses(&s.own),
			Answers: v.competing(&top.found), Constants: top.keys, SupportTrials: top.trials, SupportAnswers: top.operands,
		},
		Baseline: Baseline{Model: modelOf(v), Chance: v.q, Trials: uint64(w.ordinal - 1)},
		Coverage: Coverage{
			Connections: uint64(c.conns), Explained: uint64(c.explained), Lookups: uint64(c.lookups),
			Late: uint64(past.late), Forgotten: uint64(past.forgotten),
		},
	}
	for i := 1; i < len(w.shares) && i <= maxAlternatives; i++ {
		h.Calc.Alternatives = append(h.Calc.Alternatives, s.matchOf(&w.shares[i], src.text))
	}
	return h
}

// foundSource is a Source with the text of a TXT record.
type foundSource struct {
	Source
	text string
}

// source returns the newest mention, not later than x, of the answer that f was read from.
func (s *shard) source(c *client, before []pending, x *pending, f *share) (src foundSource) {
	k := kindA
	switch {
	case f.via >= hypothesis.ViaTXTPlain:
		k = kind(f.via)
	case f.via != hypothesis.ViaA:
		k = kindAAAA
	}
	want := pending{kind: k, addr: f.operand}
	var origin uint32
	if p := earlier(before, &want); p != nil {
		src.Time, src.TTL, origin = p.time, p.ttl, p.origin
	} else if a, ok := s.known(c, &want); ok {
		src.Time, src.TTL, origin = a.last, a.ttl, a.origin
	}
	src.Lag = x.time.Sub(src.Time)
	src.Via = f.via.String()
	if k == kindA || k == kindAAAA {
		src.Answer = netip.AddrFrom16(f.operand).Unmap()
	}
	src.Server, src.Name, src.text = readOrigin(s.strings.get(origin))
	return src
}

// matchOf describes one hypothesis with the numbers put in; text is the TXT record.
func (s *shard) matchOf(f *share, text string) Match {
	m := Match{EValue: f.eValue, Operand: netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, f.word)))}
	switch f.sort {
	case sortCustom:
		p := program(&s.own, &f.found)
		m.Hypothesis, m.Name, m.Expression = p.ID(), p.Name(), p.Expression(f.word)
		return m
	case sortOctet:
		k := uint8(f.constant)
		m.Hypothesis, m.Name, m.Expression = hypothesis.OctetID(k), "octet-xor", hypothesis.OctetExpression(f.word, k)
		return m
	case sortPair:
		p := hypothesis.Pair(f.which)
		m.Hypothesis, m.Name, m.Expression = p.ID(), p.Name(), p.Expression(f.word, f.second)
		return m
	case sortLearned:
		l := hypothesis.Learned(f.which)
		m.Hypothesis, m.Name = fmt.Sprintf("%s:%08X", l.ID(), f.constant), l.Name()
		m.Expression = l.Expression(f.word, f.constant)
		if f.site {
			m.Expression += "; the constant was learned from another client"
		} else {
			m.Expression += fmt.Sprintf("; the constant was learned from %s of this client before", plural(f.times, "pair"))
		}
		return m
	case sortOffset:
		o := hypothesis.Offset(f.which)
		m.Hypothesis, m.Name = fmt.Sprintf("%s+%d", o.ID(), f.constant), o.Name()
		m.Expression = o.Expression(f.word, uint16(f.constant)) + fmt.Sprintf("; the constant was learned from %s of this client before", plural(f.times, "connection"))
		return m
	}
	switch f.mixture {
	case hypothesis.Port4:
		t := hypothesis.Formula(f.which)
		m.Hypothesis, m.Name, m.Expression = t.ID(), t.Name(), t.Expression(f.word)
	case hypothesis.Port6:
		g := hypothesis.Group(f.which)
		m.Operand = netip.AddrFrom16(f.operand)
		m.Hypothesis, m.Name, m.Expression = g.ID(), g.Name(), g.Expression(&f.operand)
	default:
		t := hypothesis.Transform(f.which)
		m.Hypothesis, m.Name = t.In(f.via)
		m.Expression = readFrom(f, text) + t.Expression(f.word)
		if f.worth > 1 {
			m.Expression += "; another record of the set is Nymaim's checksum of the rest"
		}
	}
	return m
}

// modelOf names what the chance of a port or a destination comes from.
func modelOf(v *verdict) string {
	if v.known > 0 {
		return "learned"
	}
	return baseline.PriorName
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// readFrom says how an operand that was not an IPv4 address in its record was read from it.
func readFrom(f *share, text string) string {
	word := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, f.word)))
	switch {
	case f.via >= hypothesis.ViaTXTPlain:
		return fmt.Sprintf("TXT %q (%s) = %s; ", text, strings.TrimPrefix(f.via.String(), "txt-"), word)
	case f.via > hypothesis.ViaAAAA:
		return fmt.Sprintf("%s of %s = %s; ", f.via, netip.AddrFrom16(f.operand), word)
	}
	return ""
}

// chance returns how likely a trial such as this one, drawn from the baseline, is to be
// predicted by any hypothesis that was tried.
func chance(v *verdict, top *share, own *hypothesis.Programs) float64 {
	sum := 0.0
	switch top.mixture {
	case hypothesis.Port4, hypothesis.Port6, hypothesis.CustomPort:
		var ports []uint16
		if top.mixture == hypothesis.Port6 {
			ports = hypothesis.Ports6(ports, &top.operand)
		} else {
			ports = hypothesis.Ports(ports, top.word)
			for _, p := range own.Port {
				ports = append(ports, uint16(p.Eval(top.word)))
			}
		}
		seen := make(map[uint16]bool, len(ports))
		for _, p := range ports {
			if !seen[p] {
				seen[p] = true
				sum += baseline.Port(p)
			}
		}
	default:
		a := v.operand[hypothesis.AddressA] - v.aaaa
		n := a*(hypothesis.Tried(hypothesis.ViaA)+hypothesis.OctetKeys+len(own.Address)) +
			v.aaaa*len(hypothesis.Embedded)*hypothesis.Tried(hypothesis.ViaAAAA12) +
			v.operand[hypothesis.AddressT]*hypothesis.Tried(hypothesis.ViaTXTBase64)
		sum = float64(n) * v.q
	}
	sum += float64(v.competing(&top.found)*top.keys) * v.q
	return math.Min(sum, 1)
}
