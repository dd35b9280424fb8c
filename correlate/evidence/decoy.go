package evidence

import "math/rand/v2"

// Decoy scrambles answers: a bijection of 32-bit words with a key of its own. Hypotheses
// that are run on scrambled answers can match by chance only, so what they reach is
// what chance reaches on this network. It may be used by several goroutines.
type Decoy struct{ key [4]uint32 }

// NewDecoy returns a bijection with a fresh key. Malware cannot aim at it as long as it cannot know the key.
func NewDecoy(by *rand.Rand) Decoy {
	var d Decoy
	for i := range d.key {
		d.key[i] = by.Uint32() | 1
	}
	return d
}

// Neighbour returns w with its lower half scrambled: an address of the same network (a bijection as well).
// What lies close to an answer is contacted more often, and some calculations stay close.
func (d *Decoy) Neighbour(w uint32) uint32 {
	c, e := w>>8&255, w&255
	for _, k := range d.key {
		f := (e + k>>24) * k
		c, e = e, c^(f>>19&255)
	}
	return w&^0xffff | c<<8 | e
}

// Word returns the scrambled w: four rounds of a Feistel network over its halves.
func (d *Decoy) Word(w uint32) uint32 {
	l, r := w>>16, w&0xffff
	for _, k := range d.key {
		f := (r + k>>16) * k
		l, r = r, l^(f>>13&0xffff)
	}
	return l<<16 | r
}
