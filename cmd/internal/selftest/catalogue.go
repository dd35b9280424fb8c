package selftest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"portolan/correlate"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// Constants that implants would have drawn: none is known, and they change the high half of an address as
// well as the low.
const (
	learnedKey    = 0x5C3A91E7
	learnedOctet  = 0x6B
	learnedOffset = 12345
)

// contacts returns every hypothesis in force with how to make it fire. One that it cannot make is an error:
// the catalogue has grown.
func contacts(cfg *correlate.Config) ([]contact, error) {
	makers := map[string]func(*rand.Rand) (*event.Lookup, *event.Connection){}
	for f := range hypothesis.NumFormulas / 2 {
		// as hypothesis.Ports: each formula, then its bytes swapped
		id := hypothesis.Formula(f).ID()
		makers[id] = toPort(func(x uint32) uint16 { return hypothesis.Ports(nil, x)[2*f] })
		makers[id+"~"] = toPort(func(x uint32) uint16 { return hypothesis.Ports(nil, x)[2*f+1] })
	}
	for g := range hypothesis.Group(hypothesis.NumGroups) {
		makers[g.ID()] = toGroup(int(g))
	}
	for v := hypothesis.ViaA; v <= hypothesis.ViaTXTBase64; v++ {
		for t := range hypothesis.NumTransforms {
			if t.Weight(v) == 0 {
				continue
			}
			id, _ := t.In(v)
			if write := writer(v); write != nil {
				makers[id] = func(r *rand.Rand) (*event.Lookup, *event.Connection) {
					x := public(r)
					return write(r, x), to(v4(t.Apply(x)), portOf(r))
				}
			}
		}
	}
	for o := range hypothesis.NumOffsets {
		makers[o.ID()] = toPort(func(x uint32) uint16 { return o.Value(x) + learnedOffset })
	}
	for l := range hypothesis.NumLearned {
		makers[l.ID()] = toAddress(func(x uint32) uint32 { return l.Apply(x, learnedKey) })
	}
	makers["A5:k8"] = toAddress(func(x uint32) uint32 { return x ^ learnedOctet*0x01010101 })
	for p := range hypothesis.NumPairs {
		makers[p.ID()] = func(r *rand.Rand) (*event.Lookup, *event.Connection) {
			x, y := public(r), public(r)
			return told(event.A, event.Record{Addr: v4(x)}, event.Record{Addr: v4(y)}), to(v4(p.Apply(x, y)), portOf(r))
		}
	}
	var all []contact
	for _, h := range hypothesis.Catalogue() {
		if makers[h.ID] == nil {
			return nil, fmt.Errorf("self-test: nothing is known that makes hypothesis %s fire", h.ID)
		}
		all = append(all, contact{h, makers[h.ID]})
	}
	custom, err := hypothesis.CompileAll(cfg.Hypotheses)
	if err != nil {
		return nil, err
	}
	for _, p := range custom.Port {
		h := hypothesis.Hypothesis{ID: p.ID(), Name: p.Name(), Mixture: hypothesis.CustomPort}
		all = append(all, contact{h, toPort(func(x uint32) uint16 { return uint16(p.Eval(x)) })})
	}
	for _, p := range custom.Address {
		h := hypothesis.Hypothesis{ID: p.ID(), Name: p.Name(), Mixture: hypothesis.CustomAddress}
		all = append(all, contact{h, toAddress(p.Eval)})
	}
	return all, nil
}

// toGroup is a contact of an AAAA answer on one of its groups.
func toGroup(g int) func(*rand.Rand) (*event.Lookup, *event.Connection) {
	return func(r *rand.Rand) (*event.Lookup, *event.Connection) {
		ip := v6(r)
		a := netip.AddrFrom16(ip)
		return told(event.AAAA, event.Record{Addr: a}), to(a, hypothesis.Ports6(nil, &ip)[g])
	}
}

// v6 draws an IPv6 address that a host on the Internet can have.
func v6(r *rand.Rand) (ip [16]byte) {
	binary.BigEndian.PutUint64(ip[:], r.Uint64())
	binary.BigEndian.PutUint64(ip[8:], r.Uint64())
	ip[0], ip[1] = 0x2a, 0x0e // given out by a registry, and none of those that hold IPv4
	return ip
}

// writer returns how to write a word into a record so that it is read by way of v; nil where the whole
// address is the operand.
func writer(v hypothesis.Via) func(r *rand.Rand, x uint32) *event.Lookup {
	text := func(write func(x uint32) string) func(*rand.Rand, uint32) *event.Lookup {
		return func(_ *rand.Rand, x uint32) *event.Lookup {
			return told(event.TXT, event.Record{Text: []byte(write(x))})
		}
	}
	word := func(x uint32) []byte { return binary.BigEndian.AppendUint32(nil, x) }
	switch v {
	case hypothesis.ViaA:
		return func(_ *rand.Rand, x uint32) *event.Lookup { return told(event.A, event.Record{Addr: v4(x)}) }
	case hypothesis.ViaTXTPlain:
		return text(func(x uint32) string { return v4(x).String() })
	case hypothesis.ViaTXTHex:
		return text(func(x uint32) string { return hex.EncodeToString(word(x)) })
	case hypothesis.ViaTXTBase64:
		return text(func(x uint32) string { return base64.StdEncoding.EncodeToString(word(x)) })
	}
	for _, e := range hypothesis.Embedded {
		if e.Via == v {
			return func(r *rand.Rand, x uint32) *event.Lookup {
				ip := v6(r)
				binary.BigEndian.PutUint32(ip[e.Offset:], x)
				return told(event.AAAA, event.Record{Addr: netip.AddrFrom16(ip)})
			}
		}
	}
	return nil
}
