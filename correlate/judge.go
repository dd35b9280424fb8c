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

// sort says what found.which numbers.
type sort uint8

const (
	sortFixed   sort = iota // Formula, Group or Transform
	sortOctet               // XOR of each octet with a constant that is not known
	sortPair                // hypothesis.Pair
	sortLearned             // hypothesis.Learned
	sortOffset              // hypothesis.Offset
	sortCustom              // place in the operator's list
)

// found is a hypothesis that predicts a connection.
type found struct {
	mixture  hypothesis.Mixture
	sort     sort
	which    uint8
	via      hypothesis.Via
	constant uint32   // what was learned
	word     uint32   // the operand of a formula or transform
	second   uint32   // the other operand of a pair
	operand  [16]byte // the answer that word was read from
	times    int      // predictions alike; 0 counts as 1
	of       int      // answers, or pairs of answers, that competed; 0 means as many as answers
	keys     int      // constants remembered, of which each could have made one fit; 0 counts as 1
	site     bool     // the constant was confirmed at another client
	worth    float64  // factor for what else is known of the prediction; 0 counts as 1
}

// factor returns f.worth, and 1 where nothing else is known.
func (f *found) factor() float64 {
	if f.worth == 0 {
		return 1
	}
	return f.worth
}

// key names the hypothesis within a client's evidence.
func (f *found) key() uint64 {
	return uint64(f.mixture)<<56 | uint64(f.sort)<<48 | uint64(f.via)<<40 | uint64(f.which)<<32 | uint64(f.constant)
}

// explanation says why a connection needs no calculation.
type explanation uint8

const (
	byNothing  explanation = iota
	byAnswer               // an answer that the client was given
	byService              // SRV, SVCB, HTTPS, NAPTR, URI or a name that carries the port
	byControl              // a control channel to the same destination shortly before
	byEmbedded             // an IPv4 address that an AAAA answer carries by standard
	numExplanations
)

var explanationNames = [...]string{"", "answer", "service", "control-channel", "embedded-ipv4"}

// String returns the explanation's name as it stands in messages.
func (e explanation) String() string { return explanationNames[e] }

// verdict is how a connection was judged.
type verdict struct {
	class
	kind    Kind
	operand [hypothesis.NumMixtures]int // answers that competed, by mixture; 0 means no trial of that mixture
	aaaa    int                         // of those of AddressA, how many are AAAA
	q       float64                     // chance of the port or destination
	near    baseline.Near
	known   float64 // trials behind q, of the client and its zone; 0 when the fixed prior alone decides
	by      explanation
	again   bool // the client made this trial before: what is known as a miss earns the decoys nothing either
	quiet   bool // something else accounts for destinations like this one: no constant is learned from it, and it gives no lead
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
	case f.of > 0:
		return f.of
	case f.mixture != hypothesis.AddressA:
		return v.operand[f.mixture]
	case f.via == hypothesis.ViaA:
		return v.operand[f.mixture] - v.aaaa
	}
	return v.aaaa
}

// hypotheses returns how many hypotheses were tried.
func (v *verdict) hypotheses(own *hypothesis.Programs) (n int) {
	if v.operand[hypothesis.Port4] > 0 {
		n += hypothesis.NumFormulas + int(hypothesis.NumOffsets)
	}
	if v.operand[hypothesis.Port6] > 0 {
		n += hypothesis.NumGroups
	}
	if v.operand[hypothesis.CustomPort] > 0 {
		n += len(own.Port)
	}
	if v.operand[hypothesis.CustomAddress] > 0 {
		n += len(own.Address)
	}
	if v.operand[hypothesis.AddressA] > v.aaaa {
		n += hypothesis.Tried(hypothesis.ViaA) + hypothesis.OctetKeys + int(hypothesis.NumPairs) + int(hypothesis.NumLearned)
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

// network returns the first two octets of the IPv4 address that a holds.
func network(a *[16]byte) uint16 { return binary.BigEndian.Uint16(a[12:]) }

// ttl returns how long a record's TTL stretches a window.
func (s *shard) ttl(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, s.cfg.MaxTTL)
}

// judge looks at connection x of client c in the light of its settled answers and of the
// pending events before, all stamped no later. What predicts x is left in s.tries, with
// the A answers that compete, and what scrambled answers predict in s.chance.
func (s *shard) judge(c *client, before []pending, x *pending) verdict {
	s.tries.reset()
	s.chance.reset()
	if x.proto == event.UDP && x.sport == 53 { // a resolver's answer to a query not seen
		return verdict{}
	}
	// On a port that says nothing, being an answer is all that matters.
	r := s.cfg.EphemeralPortRange
	plain := baseline.Ordinary(x.dport) || x.dport < r[0] || x.dport > r[1]
	e := explainer{x: x, portFresh: math.MinInt64, own: kindExplains, window: s.cfg.PortWindow}
	t := s.told(c)
	s.stats.Compared += uint64(t.len + len(before))
	want := tagOf(kindAAAA, &x.addr) & tagAddress
	for i, g := range t.tags() {
		k := kindOfTag(g)
		if g&tagAddress != want && k < kindService || k == kindRest {
			continue
		}
		if plain && want&tagWide == 0 && g&tagAddress == want && k.explains(x.dport) {
			return verdict{class: explained, by: byAnswer}
		}
		a := t.at(i)
		e.look(k, &a.addr, a.last, a.ttlEnd)
	}
	for i := range before {
		p := &before[i]
		e.look(p.kind, &p.addr, p.time, p.ttlEnd)
	}
	switch {
	case !e.answered:
		return s.judgeAddress(c, before, x, e.service || e.control || e.media)
	case plain || !e.own.operand() || x.time > e.portFresh:
		return verdict{class: explained, by: byAnswer}
	}
	return s.judgePort(x, &e)
}

// explainer gathers what accounts for a connection.
type explainer struct {
	x         *pending
	window    time.Duration
	answered  bool       // the destination is an answer
	own       kind       // of that answer, when formulas can be tried on it
	portFresh event.Time // until when they are
	service   bool       // the port was given by a record or a name
	control   bool       // a control channel leads to the destination
	media     bool       // the client looks for peers by STUN
}

func (e *explainer) look(k kind, addr *[16]byte, last, ttlEnd event.Time) {
	x := e.x
	switch k {
	case kindConn:
	case kindService:
		e.service = e.service || servicePort(addr) == x.dport
	case kindControl:
		e.control = e.control || *addr == x.addr && x.time-last <= ctrlTime && !controls(x.proto, x.dport)
	case kindMedia:
		e.media = e.media || x.time-last <= mediaTime && x.proto == event.UDP
	default:
		if *addr != x.addr || !k.explains(x.dport) {
			return
		}
		e.answered = true
		if k.operand() && last <= x.time {
			e.own, e.portFresh = k, max(e.portFresh, ttlEnd, last.Add(e.window))
		}
	}
}

// judgePort tries the formulas on the answer that is the destination (DETECTION, section 3).
func (s *shard) judgePort(x *pending, e *explainer) verdict {
	switch {
	case e.service:
		return verdict{class: explained, by: byService}
	case e.control:
		return verdict{class: explained, by: byControl}
	}
	v := verdict{class: tried, kind: Port, q: baseline.Port(x.dport), quiet: e.media}
	if _, ok := word(&x.addr); ok {
		v.operand[hypothesis.Port4] = 1
		v.operand[hypothesis.CustomPort] = min(1, len(s.own.Port))
	} else {
		v.operand[hypothesis.Port6] = 1
	}
	s.tryPort(&s.tries, &x.addr, &x.addr, x.dport)
	decoy := x.addr
	s.scramble(&decoy)
	s.tryPort(&s.chance, &decoy, &x.addr, x.dport)
	if len(s.tries.found) > 0 {
		v.class = predicted
	}
	return v
}

// tries is what judging leaves behind: for the answers as they are, or scrambled.
type tries struct {
	found []found
	fresh []fresh // A answers that compete; those of the decoys are made when they are needed
}

func (t *tries) reset() { t.found, t.fresh = t.found[:0], t.fresh[:0] }

// tryPort tries the formulas on the address of an answer, or on the decoy made of it.
func (s *shard) tryPort(t *tries, addr, answer *[16]byte, port uint16) {
	if w, ok := word(addr); ok {
		t.fresh = append(t.fresh, fresh{word: w, network: network(answer)})
		for f := range hypothesis.Predicting(w, port).All() {
			t.found = append(t.found, found{mixture: hypothesis.Port4, which: uint8(f), via: hypothesis.ViaA, word: w, operand: *addr})
		}
		for i, p := range s.own.Port {
			if p.Eval(w) == uint32(port) {
				t.found = append(t.found, found{mixture: hypothesis.CustomPort, sort: sortCustom, which: uint8(i), word: w, operand: *addr})
			}
		}
		return
	}
	for m := hypothesis.Predicting6(addr, port); m != 0; m &= m - 1 {
		g := uint8(bits.TrailingZeros64(m))
		t.found = append(t.found, found{mixture: hypothesis.Port6, which: g, via: hypothesis.ViaAAAA, operand: *addr})
	}
}

// scramble makes a decoy of an address: of its last 32 bits when it is IPv4, else of each 32 bits.
func (s *shard) scramble(a *[16]byte) {
	i := 0
	if _, ok := word(a); ok {
		i = 12
	}
	for ; i < 16; i += 4 {
		binary.BigEndian.PutUint32(a[i:], s.decoyKey.Word(binary.BigEndian.Uint32(a[i:])))
	}
}
