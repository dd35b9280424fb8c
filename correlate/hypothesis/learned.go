package hypothesis

import (
	"fmt"
	"math/bits"
	"slices"
)

// Learned numbers a family of transforms with a constant that is not known beforehand: each
// pair of an answer and a destination fits exactly one constant, and a second pair that
// fits the same one is evidence (DETECTION, section 4).
type Learned uint8

// The families. From permuteXor on, the octets are permuted before the XOR.
const (
	XorLearned Learned = iota
	AddBig             // modulo 2^32, octets as a big-endian word
	AddLittle          // the same, little-endian
	AddOctets          // each octet modulo 256
	permuteXor
	// NumLearned is the number of families.
	NumLearned = permuteXor + Learned(len(orders))
)

// orders are all orders of four octets but the identity.
var orders = func() (all [23][4]uint8) {
	all[0], all[1] = [4]uint8{2, 3, 0, 1}, [4]uint8{3, 2, 1, 0}
	copy(all[2:], permutations[:])
	return all
}()

// inverseOrders undoes orders, in the same order.
var inverseOrders = func() (inv [23][4]uint8) {
	for i, p := range orders {
		for to, from := range p {
			inv[i][from] = uint8(to)
		}
	}
	return inv
}()

// addOctets adds two words octet by octet, without carries.
func addOctets(x, y uint32) uint32 {
	const high = 0x80808080
	return (x&^high + y&^high) ^ (x^y)&high
}

func subOctets(x, y uint32) uint32 {
	const high = 0x80808080
	return (x | high) - y&^high ^ (x^^y)&high
}

// Key returns the constant with which l turns x into y.
func (l Learned) Key(x, y uint32) uint32 {
	switch l {
	case XorLearned:
		return x ^ y
	case AddBig:
		return y - x
	case AddLittle:
		return bits.ReverseBytes32(y) - bits.ReverseBytes32(x)
	case AddOctets:
		return subOctets(y, x)
	}
	return permuted(x, &orders[l-permuteXor]) ^ y
}

// Apply returns what l with the given constant makes of x.
func (l Learned) Apply(x, key uint32) uint32 {
	switch l {
	case XorLearned:
		return x ^ key
	case AddBig:
		return x + key
	case AddLittle:
		return bits.ReverseBytes32(bits.ReverseBytes32(x) + key)
	case AddOctets:
		return addOctets(x, key)
	}
	return permuted(x, &orders[l-permuteXor]) ^ key
}

// Undo returns the word that l with the given constant makes y of.
func (l Learned) Undo(y, key uint32) uint32 {
	switch l {
	case XorLearned:
		return y ^ key
	case AddBig:
		return y - key
	case AddLittle:
		return bits.ReverseBytes32(bits.ReverseBytes32(y) - key)
	case AddOctets:
		return subOctets(y, key)
	}
	return permuted(y^key, &inverseOrders[l-permuteXor])
}

// Fixed reports whether l with this constant is a hypothesis of its own: a known key of A3, or
// one octet four times (A5).
func (l Learned) Fixed(key uint32) bool {
	return l == XorLearned && (slices.Contains(keys[:], key) || key == key&255*0x01010101)
}

// Weight returns the prior weight of l in AddressA.
func (l Learned) Weight() float64 {
	switch {
	case l == XorLearned:
		return .18
	case l < permuteXor:
		return .05 / 3
	}
	return .05 / float64(len(orders))
}

// ID returns the family's id in the catalogue.
func (l Learned) ID() string {
	switch l {
	case XorLearned:
		return "A2"
	case AddBig:
		return "A7:be"
	case AddLittle:
		return "A7:le"
	case AddOctets:
		return "A7:octets"
	}
	return "A8:" + letters(&orders[l-permuteXor])
}

// Name returns the family's name for people.
func (l Learned) Name() string {
	switch {
	case l == XorLearned:
		return "xor-learned"
	case l < permuteXor:
		return "add-learned"
	}
	return "permute-xor"
}

func (l Learned) text() string {
	switch l {
	case XorLearned:
		return "x XOR k, k learned"
	case AddBig:
		return "x + k mod 2^32, k learned"
	case AddLittle:
		return "little-endian x + k mod 2^32, k learned"
	case AddOctets:
		return "each octet + its own k mod 256, learned"
	}
	return "octets in the order " + letters(&orders[l-permuteXor]) + ", XOR k, k learned"
}

// Expression writes the arithmetic with the word x and the constant put in.
func (l Learned) Expression(x, key uint32) string {
	y := quad(l.Apply(x, key))
	switch l {
	case XorLearned:
		return fmt.Sprintf("%s XOR %08X = %s", quad(x), key, y)
	case AddBig:
		return fmt.Sprintf("%s + %08X = %s", quad(x), key, y)
	case AddLittle:
		return fmt.Sprintf("%s little-endian + %08X = %s", quad(x), key, y)
	case AddOctets:
		return fmt.Sprintf("%s + %s octet by octet = %s", quad(x), quad(key), y)
	}
	return fmt.Sprintf("octets of %s in the order %s, XOR %08X = %s", quad(x), letters(&orders[l-permuteXor]), key, y)
}

// octetShare is how much of A5 goes to constants that are not known.
const octetShare = .03

// OctetKey returns the octet k with which XOR of each octet turns x into y.
func OctetKey(x, y uint32) (k uint8, ok bool) {
	z := x ^ y
	return uint8(z), z == z&255*0x01010101 && z != 0
}

// OctetKeyKnown reports whether k is one of the constants that A5 has by itself.
func OctetKeyKnown(k uint8) bool {
	for _, known := range octetKeys {
		if uint32(k) == known {
			return true
		}
	}
	return false
}

// OctetKeys is the number of constants of A5 that are not known.
const OctetKeys = 255 - len(octetKeys)

// OctetWeight returns the prior weight of one constant of A5 that is not known.
func OctetWeight() float64 { return octetShare / float64(OctetKeys) }

// OctetID returns the id of a constant of A5 that is not known.
func OctetID(k uint8) string { return fmt.Sprintf("A5:k8:%02X", k) }

// OctetExpression writes the arithmetic with the word x and the constant put in.
func OctetExpression(x uint32, k uint8) string {
	return fmt.Sprintf("%s, each octet XOR %02X = %s", quad(x), k, quad(x^uint32(k)*0x01010101))
}

// Pair numbers a calculation from two answers of one RRset (A11).
type Pair uint8

// The calculations from two answers.
const (
	PairXor Pair = iota
	PairSum
	PairHalves // the high half of one, the low half of another
	NumPairs
)

// Apply returns what p makes of x1 and x2.
func (p Pair) Apply(x1, x2 uint32) uint32 {
	switch p {
	case PairXor:
		return x1 ^ x2
	case PairSum:
		return x1 + x2
	}
	return x1&^0xffff | x2&0xffff
}

// Weight returns the prior weight of p in AddressA.
func (p Pair) Weight() float64 { return .02 / float64(NumPairs) }

// ID returns the calculation's id in the catalogue.
func (p Pair) ID() string { return "A11:" + [...]string{"xor", "sum", "halves"}[p] }

// Name returns the calculation's name for people.
func (p Pair) Name() string { return "two answers" }

func (p Pair) text() string {
	return [...]string{"x1 XOR x2", "x1 + x2 mod 2^32", "high half of x1, low half of x2"}[p] + ", both of one RRset"
}

// Expression writes the arithmetic with both answers put in.
func (p Pair) Expression(x1, x2 uint32) string {
	return fmt.Sprintf("%s %s %s = %s", quad(x1), [...]string{"XOR", "+", "(high half) and (low half)"}[p], quad(x2), quad(p.Apply(x1, x2)))
}

// Offset numbers a port formula with a constant added that is learned (C*).
type Offset uint8

// NumOffsets is the number of formulas that a constant is added to.
const NumOffsets = Offset(len(offsets))

var offsets = [...]struct {
	text string
	calc func(a, b, c, d uint32) uint32
}{
	{"a·b+c", func(a, b, c, _ uint32) uint32 { return a*b + c }},
	{"a<<8|b", func(a, b, _, _ uint32) uint32 { return a<<8 | b }},
	{"c<<8|d", func(_, _, c, d uint32) uint32 { return c<<8 | d }},
	{"a+b+c+d", func(a, b, c, d uint32) uint32 { return a + b + c + d }},
	{"d", func(_, _, _, d uint32) uint32 { return d }},
}

// Value returns the formula's value for x, before the constant is added.
func (o Offset) Value(x uint32) uint16 {
	return uint16(offsets[o].calc(x>>24, x>>16&255, x>>8&255, x&255))
}

// Weight returns the prior weight of o in Port4.
func (o Offset) Weight() float64 { return .06 / float64(NumOffsets) }

// ID returns the formula's id in the catalogue.
func (o Offset) ID() string { return "C:" + offsets[o].text }

// Name returns the formula's name for people.
func (o Offset) Name() string { return "offset-learned" }

// Expression writes the arithmetic with the value for x and the constant put in.
func (o Offset) Expression(x uint32, key uint16) string {
	return fmt.Sprintf("%s of %s = %d; + %d mod 65536 = %d", offsets[o].text, quad(x), o.Value(x), key, o.Value(x)+key)
}

// learnedCatalogue lists what has a constant to be learned, and the calculations from two answers.
func learnedCatalogue() (all []Hypothesis) {
	for o := range NumOffsets {
		all = append(all, Hypothesis{o.ID(), o.Name(), offsets[o].text + " + k mod 65536, k learned", Port4, o.Weight()})
	}
	for l := range NumLearned {
		all = append(all, Hypothesis{l.ID(), l.Name(), l.text(), AddressA, l.Weight()})
	}
	all = append(all, Hypothesis{"A5:k8", "octet-xor", "each octet XOR k, any k", AddressA, octetShare})
	for p := range NumPairs {
		all = append(all, Hypothesis{p.ID(), p.Name(), p.text(), AddressA, p.Weight()})
	}
	return all
}

// NymaimChecksum reports whether one word of an RRset is the sum of the others after
// Nymaim's transform, little-endian, modulo 2^32, and is not x itself: the family marks its RRsets so.
func NymaimChecksum(set []uint32, x uint32) bool {
	if len(set) < 3 {
		return false
	}
	sum := uint32(0)
	for _, w := range set {
		sum += bits.ReverseBytes32(nymaimForward(w))
	}
	for _, w := range set {
		if v := bits.ReverseBytes32(nymaimForward(w)); v+v == sum && w != x {
			return true
		}
	}
	return false
}
