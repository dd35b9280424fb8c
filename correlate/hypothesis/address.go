package hypothesis

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Transform numbers a calculation from an IPv4 address, or from four bytes of another
// record, to an IPv4 address. All are bijections of the 32-bit word.
type Transform uint8

// Where the families of transforms begin.
const (
	identity  Transform = 0 // the word as it is; for words that were not an address in the record
	halfSwap  Transform = 1
	nymaim    Transform = 2
	reverse   Transform = 3
	xorKnown  Transform = 4
	xorOctet  Transform = xorKnown + Transform(len(keys))
	permute   Transform = xorOctet + Transform(len(octetKeys))
	octetBits Transform = permute + Transform(len(permutations))
	revXor    Transform = octetBits + 8                 // per-octet rotation by 1 to 7, then bit reversal
	subXor    Transform = revXor + Transform(len(keys)) // two of the known keys: one subtracted, then XOR the other
	// NumTransforms is the number of transforms.
	NumTransforms = subXor + 1
)

// keys are the 32-bit constants known from malware (DETECTION, A3). The first was seen
// live in 2026 and carries half of the family's weight.
var keys = [...]uint32{0xE7708E59, 0x00AE0413, 0xAE041300, 0xCAFEBABE, 0x64DC7972, 0x4AB73CE1, 0xDEADBEEF}

// The constants of subXor are two of the keys that come from the same family of AAAA dead drops.
const subKey, subXorKey = 0x64DC7972, 0x4AB73CE1

// octetKeys are the 8-bit constants known from malware (DETECTION, A5).
var octetKeys = [...]uint32{0xFE, 0xA5, 0xFF, 0xED, 0x30}

// permutations are the orders of the four octets other than the identity, the half swap
// and the reversal: output octet i is input octet p[i].
var permutations = [21][4]uint8{
	{0, 1, 3, 2}, {0, 2, 1, 3}, {0, 2, 3, 1}, {0, 3, 1, 2}, {0, 3, 2, 1},
	{1, 0, 2, 3}, {1, 0, 3, 2}, {1, 2, 0, 3}, {1, 2, 3, 0}, {1, 3, 0, 2}, {1, 3, 2, 0},
	{2, 0, 1, 3}, {2, 0, 3, 1}, {2, 1, 0, 3}, {2, 1, 3, 0}, {2, 3, 1, 0},
	{3, 0, 1, 2}, {3, 0, 2, 1}, {3, 1, 0, 2}, {3, 1, 2, 0}, {3, 2, 0, 1},
}

// inversePermutations undoes permutations, in the same order.
var inversePermutations = invertAll(permutations)

func invertAll(all [21][4]uint8) (inv [21][4]uint8) {
	for i, p := range all {
		for to, from := range p {
			inv[i][from] = uint8(to)
		}
	}
	return inv
}

func permuted(x uint32, p *[4]uint8) uint32 {
	at := func(i uint8) uint32 { return x >> (24 - 8*i) & 255 }
	return at(p[0])<<24 | at(p[1])<<16 | at(p[2])<<8 | at(p[3])
}

// nymaimForward is Nymaim's transform: sixteen rounds on the little-endian word.
func nymaimForward(x uint32) uint32 {
	v := bits.ReverseBytes32(x)
	for range 16 {
		v ^= 0x87568289
		v -= 0x78643587
		v ^= 0x18482642
	}
	return bits.ReverseBytes32(v)
}

func nymaimInverse(y uint32) uint32 {
	v := bits.ReverseBytes32(y)
	for range 16 {
		v ^= 0x18482642
		v += 0x78643587
		v ^= 0x87568289
	}
	return bits.ReverseBytes32(v)
}

// rotateOctets rotates each octet left by n bits, 1 to 7.
func rotateOctets(x uint32, n uint) uint32 {
	low := uint32(0x01010101) * (0xff >> n) // the bits that stay in their octet when shifted
	return x&low<<n | x>>(8-n)&(uint32(0x01010101)*(1<<n-1))
}

func reverseBits(x uint32) uint32 { return bits.Reverse32(bits.ReverseBytes32(x)) }

// Apply returns T(x).
func (t Transform) Apply(x uint32) uint32 {
	switch {
	case t == identity:
		return x
	case t == halfSwap:
		return bits.RotateLeft32(x, 16)
	case t == nymaim:
		return nymaimForward(x)
	case t == reverse:
		return bits.ReverseBytes32(x)
	case t < xorOctet:
		return x ^ keys[t-xorKnown]
	case t < permute:
		return x ^ octetKeys[t-xorOctet]*0x01010101
	case t < octetBits:
		return permuted(x, &permutations[t-permute])
	case t < octetBits+7:
		return rotateOctets(x, uint(t-octetBits)+1)
	case t == octetBits+7:
		return reverseBits(x)
	}
	if t == subXor {
		return (x - subKey) ^ subXorKey
	}
	return bits.ReverseBytes32(x) ^ keys[t-revXor]
}

// Inverses holds, for each transform, the word that it would turn into one destination,
// and a small hash index over those words.
type Inverses struct {
	word  [NumTransforms]uint32
	slot  [128]uint8 // transform + 1; open addressing
	maybe [64]uint32 // a bit for each hash of a word
	also  []uint32   // expected besides
}

func slotOf(w uint32) uint32 { return w * 0x9E3779B1 >> 25 }

// Set prepares v for the destination y. It costs the same whatever the number of answers.
func (v *Inverses) Set(y uint32) {
	w := &v.word
	w[identity] = y
	w[halfSwap] = bits.RotateLeft32(y, 16)
	w[nymaim] = nymaimInverse(y)
	w[reverse] = bits.ReverseBytes32(y)
	for i, k := range keys {
		w[xorKnown+Transform(i)] = y ^ k
		w[revXor+Transform(i)] = bits.ReverseBytes32(y ^ k)
	}
	for i, k := range octetKeys {
		w[xorOctet+Transform(i)] = y ^ k*0x01010101
	}
	for i := range inversePermutations {
		w[permute+Transform(i)] = permuted(y, &inversePermutations[i])
	}
	for n := uint(1); n <= 7; n++ {
		w[octetBits+Transform(n-1)] = rotateOctets(y, 8-n)
	}
	w[octetBits+7] = reverseBits(y)
	w[subXor] = (y ^ subXorKey) + subKey

	v.slot, v.maybe, v.also = [128]uint8{}, [64]uint32{}, v.also[:0]
	for t := range NumTransforms {
		v.note(w[t])
		s := slotOf(w[t])
		for v.slot[s] != 0 {
			s = (s + 1) & 127
		}
		v.slot[s] = uint8(t) + 1
	}
}

func (v *Inverses) note(x uint32) {
	h := x * 0x85EBCA6B
	v.maybe[h>>26] |= 1 << (h >> 21 & 31)
}

// Expect has Maybe and Expected report true for x too, until the next Set.
func (v *Inverses) Expect(x uint32) {
	v.note(x)
	v.also = append(v.also, x)
}

// Expected reports whether Expect was told x.
func (v *Inverses) Expected(x uint32) bool { return slices.Contains(v.also, x) }

// Maybe reports false only when no transform turns x into the destination and x is not expected: one test
// that is right for all but one word in thirty or so.
func (v *Inverses) Maybe(x uint32) bool {
	h := x * 0x85EBCA6B
	return v.maybe[h>>26]>>(h>>21&31)&1 != 0
}

// Each calls found for every transform, whatever its weight, that turns x into the
// destination.
func (v *Inverses) Each(x uint32, found func(Transform)) {
	for s := slotOf(x); v.slot[s] != 0; s = (s + 1) & 127 {
		if t := Transform(v.slot[s] - 1); v.word[t] == x {
			found(t)
		}
	}
}

// Hit reports whether any transform with weight for words read by way of via turns x
// into the destination.
func (v *Inverses) Hit(x uint32, via Via) bool {
	for s := slotOf(x); v.slot[s] != 0; s = (s + 1) & 127 {
		if t := Transform(v.slot[s] - 1); v.word[t] == x && weights[via][t] != 0 {
			return true
		}
	}
	return false
}

// weights holds the prior weight of each transform for each way to an operand. For A
// answers they are DETECTION's; the known constants of A5 share half of its .06, A10 shares .04 between
// four positions, and the words of TXT records are a mixture of their own.
var weights = priorWeights()

func priorWeights() (w [numVia][NumTransforms]float64) {
	a := &w[ViaA]
	a[halfSwap], a[nymaim], a[reverse] = .30, .06, .05
	spread(a, xorKnown, len(keys), .12, .5)
	spread(a, xorOctet, len(octetKeys), .06-octetShare, 0)
	spread(a, permute, len(permutations), .04, 0)
	spread(a, octetBits, 8, .02, 0)
	for _, e := range Embedded {
		embedded(&w[e.Via], .04*e.share)
	}
	for v := ViaTXTPlain; v <= ViaTXTBase64; v++ {
		embedded(&w[v], txtShare[v])
	}
	return w
}

// embedded spreads total over what is done to a word that was not an address in its
// record: nothing, a known key, least significant byte first, both, or two keys.
func embedded(w *[NumTransforms]float64, total float64) {
	w[identity], w[reverse], w[subXor] = .4*total, .1*total, .1*total
	spread(w, xorKnown, len(keys), .3*total, 0)
	spread(w, revXor, len(keys), .1*total, 0)
}

// spread gives the first of n transforms the share first of total, and the others equal
// parts of the rest; with first 0 all are equal.
func spread(w *[NumTransforms]float64, from Transform, n int, total, first float64) {
	for i := range n {
		switch {
		case first == 0:
			w[int(from)+i] = total / float64(n)
		case i == 0:
			w[int(from)+i] = total * first
		default:
			w[int(from)+i] = total * (1 - first) / float64(n-1)
		}
	}
}

// Weight returns the prior weight of t for operands read by way of v; 0 means that t is not tried on them.
func (t Transform) Weight(v Via) float64 { return weights[v][t] }

// Tried returns how many transforms are tried on one operand read by way of v.
func Tried(v Via) (n int) {
	for _, w := range weights[v] {
		if w != 0 {
			n++
		}
	}
	return n
}

// In returns the id and the name of t in the catalogue when its operand is read by way of v.
func (t Transform) In(v Via) (id, name string) {
	switch {
	case v >= ViaTXTPlain:
		return "T:" + v.String() + ":" + t.ID(), v.String() + ", " + t.Name()
	case v > ViaAAAA:
		return "A10:" + v.String() + ":" + t.ID(), v.String() + ", " + t.Name()
	}
	return t.ID(), t.Name()
}

// IsNymaim reports whether t is Nymaim's transform.
func (t Transform) IsNymaim() bool { return t == nymaim }

// ID returns the id of t on A answers.
func (t Transform) ID() string {
	switch {
	case t == identity:
		return "A0"
	case t == halfSwap:
		return "A1"
	case t == nymaim:
		return "A4"
	case t == reverse:
		return "A6"
	case t < xorOctet:
		return fmt.Sprintf("A3:%08X", keys[t-xorKnown])
	case t < permute:
		return fmt.Sprintf("A5:%02X", octetKeys[t-xorOctet])
	case t < octetBits:
		return "A9:" + letters(&permutations[t-permute])
	case t < octetBits+7:
		return fmt.Sprintf("A12:rol%d", t-octetBits+1)
	case t == octetBits+7:
		return "A12:rev"
	case t == subXor:
		return "sub-xor"
	}
	return fmt.Sprintf("A6+A3:%08X", keys[t-revXor])
}

// Name returns the transform's name for people.
func (t Transform) Name() string {
	switch {
	case t == identity:
		return "as written"
	case t == halfSwap:
		return "half-swap"
	case t == nymaim:
		return "nymaim"
	case t == reverse:
		return "reverse"
	case t < xorOctet:
		return "xor-known"
	case t < permute:
		return "octet-xor"
	case t < octetBits:
		return "permute"
	case t < octetBits+7:
		return "octet-rotate"
	case t == octetBits+7:
		return "octet-bit-reverse"
	case t == subXor:
		return "sub-then-xor"
	}
	return "reverse, xor-known"
}

func (t Transform) text() string {
	switch {
	case t == identity:
		return "a.b.c.d"
	case t == halfSwap:
		return "c.d.a.b"
	case t == nymaim:
		return "16 × (v ^= 87568289; v −= 78643587; v ^= 18482642), v little-endian"
	case t == reverse:
		return "d.c.b.a"
	case t < xorOctet:
		return fmt.Sprintf("x XOR %08X", keys[t-xorKnown])
	case t < permute:
		return fmt.Sprintf("each octet XOR %02X", octetKeys[t-xorOctet])
	case t < octetBits:
		return strings.Join(strings.Split(strings.ToLower(letters(&permutations[t-permute])), ""), ".")
	case t < octetBits+7:
		return fmt.Sprintf("each octet rotated left by %d", t-octetBits+1)
	case t == octetBits+7:
		return "bits of each octet reversed"
	case t == subXor:
		return fmt.Sprintf("(x − %08X) XOR %08X", subKey, subXorKey)
	}
	return fmt.Sprintf("d.c.b.a XOR %08X", keys[t-revXor])
}

// letters writes a permutation as the letters of its octets, such as "BADC".
func letters(p *[4]uint8) string {
	b := make([]byte, 4)
	for i, from := range p {
		b[i] = 'A' + from
	}
	return string(b)
}

// Expression writes the arithmetic with the word x put in, such as
// "half-swap of 87.243.45.156 = 45.156.87.243".
func (t Transform) Expression(x uint32) string {
	y := quad(t.Apply(x))
	switch {
	case t == identity:
		return fmt.Sprintf("%s as written", y)
	case t >= xorKnown && t < xorOctet:
		return fmt.Sprintf("%s XOR %08X = %s", quad(x), keys[t-xorKnown], y)
	case t >= xorOctet && t < permute:
		return fmt.Sprintf("%s, each octet XOR %02X = %s", quad(x), octetKeys[t-xorOctet], y)
	case t >= permute && t < octetBits:
		return fmt.Sprintf("octets of %s in the order %s = %s", quad(x), t.text(), y)
	case t >= octetBits && t < octetBits+7:
		return fmt.Sprintf("%s, each octet rotated left by %d = %s", quad(x), t-octetBits+1, y)
	case t == octetBits+7:
		return fmt.Sprintf("%s, bits of each octet reversed = %s", quad(x), y)
	case t == subXor:
		return fmt.Sprintf("(%s − %08X) XOR %08X = %s", quad(x), subKey, subXorKey, y)
	case t >= revXor:
		return fmt.Sprintf("%s reversed, XOR %08X = %s", quad(x), keys[t-revXor], y)
	}
	return fmt.Sprintf("%s of %s = %s", t.Name(), quad(x), y)
}
