package correlate

import (
	"portolan/correlate/hypothesis"
)

// maxSet bounds the RRsets that calculations from several answers are tried on: larger
// ones are those of large services, and the pairs of one grow with its square.
const maxSet = 16

// forSets calls use with each set of 2 to maxSet fresh answers that were given together.
// The slice holds until use returns.
func (s *shard) forSets(all []fresh, use func(set []fresh)) {
	if len(all) < 2 {
		return
	}
	// Chains of answers by a small hash of when and how they were given.
	s.heads = [256]uint16{}
	s.links = s.links[:0]
	for i := range all {
		f := &all[i]
		at := (uint32(f.last) ^ uint32(f.last>>32)*31 ^ f.origin*0x85EBCA6B) * 0x9E3779B1 >> 24
		s.links = append(s.links, s.heads[at])
		s.heads[at] = uint16(i + 1)
	}
	for i := len(all) - 1; i > 0; i-- {
		if s.links[i] == 0 || all[i].inSet { // alone, or counted with a later one
			continue
		}
		f := all[i]
		s.set = append(s.set[:0], f)
		for j := s.links[i]; j != 0; j = s.links[j-1] {
			if g := &all[j-1]; g.last == f.last && g.origin == f.origin {
				g.inSet = true
				s.set = append(s.set, *g)
			}
		}
		if len(s.set) >= 2 && len(s.set) <= maxSet {
			use(s.set)
		}
	}
	for i := range all {
		all[i].inSet = false
	}
}

// tryPairs finds the calculations from two answers of one RRset that give the destination y
// (A11), and with decoys those that the scrambled answers give.
func (s *shard) tryPairs(y uint32, decoys bool) {
	from, fromDecoys := len(s.tries.found), len(s.chance.found)
	pairs := 0
	s.forSets(s.tries.fresh, func(set []fresh) {
		pairs += len(set) * (len(set) - 1) / 2
		for i := range set {
			for j := range set[:i] {
				s.tries.tryPair(set[i].word, set[j].word, y)
				if decoys {
					s.chance.tryPair(set[i].decoy, set[j].decoy, y)
				}
			}
		}
	})
	s.tries.compete(from, pairs)
	s.chance.compete(fromDecoys, pairs)
}

// compete notes how many pairs competed to be those found since from.
func (t *tries) compete(from, pairs int) {
	for i := from; i < len(t.found); i++ {
		f := &t.found[i]
		f.of = pairs
		if hypothesis.Pair(f.which) == hypothesis.PairHalves {
			f.of *= 2 // either may give the high half
		}
	}
}

func (t *tries) tryPair(a, b, y uint32) {
	t.pair(hypothesis.PairXor, a, b, y)
	t.pair(hypothesis.PairSum, a, b, y)
	t.pair(hypothesis.PairHalves, a, b, y)
	t.pair(hypothesis.PairHalves, b, a, y)
}

func (t *tries) pair(p hypothesis.Pair, a, b, y uint32) {
	if p.Apply(a, b) == y && a != b {
		t.found = append(t.found, found{mixture: hypothesis.AddressA, sort: sortPair, which: uint8(p), word: a, second: b, operand: mapped(a)})
	}
}

// checksumShare is the share of Nymaim's RRsets that are taken to keep its checksum rule.
const checksumShare = 0.1

// confirm looks for Nymaim's mark in the RRset of an answer that its transform matched:
// evidence in the answers alone, whatever the destination.
func (s *shard) confirm(t *tries) {
	for i := range t.found {
		f := &t.found[i]
		if f.sort != sortFixed || f.via != hypothesis.ViaA || f.mixture != hypothesis.AddressA || !hypothesis.Transform(f.which).IsNymaim() {
			continue
		}
		s.forSets(t.fresh, func(set []fresh) {
			s.words = s.words[:0]
			in := false
			for _, g := range set {
				s.words = append(s.words, g.word)
				in = in || g.word == f.word
			}
			if in && hypothesis.NymaimChecksum(s.words, f.word) {
				f.worth = 1 - checksumShare + checksumShare*(1<<32)/float64(len(set))
			}
		})
	}
}
