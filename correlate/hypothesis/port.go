package hypothesis

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"strings"
)

// Formula numbers a calculation from an IPv4 address to a port, in the order of the
// catalogue; with the bit swapped set it means the result with its bytes exchanged.
type Formula uint8

const swapped Formula = 0x80

// swapShare is how much of a formula's weight its byte-swapped result is worth, before
// both are scaled so that together they weigh what the catalogue says.
const swapShare = 0.1

var formulas = [...]struct {
	id, name, text string
	weight         float64
	calc           func(x, a, b, c, d uint32) uint32
	show           string // with A, B, C, D and X standing for the numbers
}{
	{"P1", "mul-add", "a·b+c", .40, func(_, a, b, c, _ uint32) uint32 { return a*b + c }, "A·B+C"},
	{"P2", "mul-sum", "a·(b+c)", .05, func(_, a, b, c, _ uint32) uint32 { return a * (b + c) }, "A·(B+C)"},
	{"P3", "sum-mul", "(a+b)·c", .03, func(_, a, b, c, _ uint32) uint32 { return (a + b) * c }, "(A+B)·C"},
	{"P4", "mul-add-acb", "a·c+b", .03, func(_, a, b, c, _ uint32) uint32 { return a*c + b }, "A·C+B"},
	{"P5", "mul-add-bca", "b·c+a", .03, func(_, a, b, c, _ uint32) uint32 { return b*c + a }, "B·C+A"},
	{"P6", "mul-add-bcd", "b·c+d", .03, func(_, _, b, c, d uint32) uint32 { return b*c + d }, "B·C+D"},
	{"P7", "mul-add-cda", "c·d+a", .02, func(_, a, _, c, d uint32) uint32 { return c*d + a }, "C·D+A"},
	{"P8", "mul-add-cdb", "c·d+b", .02, func(_, _, b, c, d uint32) uint32 { return c*d + b }, "C·D+B"},
	{"P9", "mul-add-add", "a·b+c+d", .02, func(_, a, b, c, d uint32) uint32 { return a*b + c + d }, "A·B+C+D"},
	{"P10", "mul-add-mul", "a·b+c·d", .012, func(_, a, b, c, d uint32) uint32 { return a*b + c*d }, "A·B+C·D"},
	{"P11", "mul-mul", "a·b·c", .012, func(_, a, b, c, _ uint32) uint32 { return a * b * c }, "A·B·C"},
	{"P12", "mul", "a·b", .011, func(_, a, b, _, _ uint32) uint32 { return a * b }, "A·B"},
	{"W1", "word-ab", "a<<8|b", .04, func(_, a, b, _, _ uint32) uint32 { return a<<8 | b }, "A<<8|B"},
	{"W2", "word-ba", "b<<8|a", .04, func(_, a, b, _, _ uint32) uint32 { return b<<8 | a }, "B<<8|A"},
	{"W3", "word-cd", "c<<8|d", .05, func(_, _, _, c, d uint32) uint32 { return c<<8 | d }, "C<<8|D"},
	{"W4", "word-dc", "d<<8|c", .05, func(_, _, _, c, d uint32) uint32 { return d<<8 | c }, "D<<8|C"},
	{"W5", "word-bc", "b<<8|c", .02, func(_, _, b, c, _ uint32) uint32 { return b<<8 | c }, "B<<8|C"},
	{"W6", "word-cb", "c<<8|b", .02, func(_, _, b, c, _ uint32) uint32 { return c<<8 | b }, "C<<8|B"},
	{"X1", "halves-xor", "hi16 XOR lo16", .015, func(x, _, _, _, _ uint32) uint32 { return x>>16 ^ x&0xffff }, "(A<<8|B) XOR (C<<8|D)"},
	{"X2", "halves-sum", "hi16 + lo16", .015, func(x, _, _, _, _ uint32) uint32 { return x>>16 + x&0xffff }, "(A<<8|B) + (C<<8|D)"},
	{"M1", "mod-64512", "1024 + x mod 64512", .02 / 3, func(x, _, _, _, _ uint32) uint32 { return 1024 + x%64512 }, "1024 + X mod 64512"},
	{"M2", "mod-64512-le", "1024 + little-endian x mod 64512", .02 / 3,
		func(x, _, _, _, _ uint32) uint32 { return 1024 + bits.ReverseBytes32(x)%64512 }, "1024 + Y mod 64512"},
	{"M3", "mod-65535", "x mod 65535", .02 / 3, func(x, _, _, _, _ uint32) uint32 { return x % 65535 }, "X mod 65535"},
}

// NumFormulas is the number of formulas tried on an IPv4 answer, byte-swapped results included.
const NumFormulas = 2 * len(formulas)

// Formulas is a set of formulas.
type Formulas struct{ plain, swapped uint32 }

// Empty reports whether no formula is in s.
func (s Formulas) Empty() bool { return s.plain|s.swapped == 0 }

// All returns the formulas of s in the order of the catalogue.
func (s Formulas) All() iter.Seq[Formula] {
	return func(yield func(Formula) bool) {
		for m := s.plain; m != 0; m &= m - 1 {
			if !yield(Formula(bits.TrailingZeros32(m))) {
				return
			}
		}
		for m := s.swapped; m != 0; m &= m - 1 {
			if !yield(Formula(bits.TrailingZeros32(m)) | swapped) {
				return
			}
		}
	}
}

// Predicting returns the formulas that calculate port from the IPv4 address x, read as a
// big-endian word. Arithmetic is modulo 2^32, the result its lowest 16 bits.
func Predicting(x uint32, port uint16) (s Formulas) {
	a, b, c, d := x>>24, x>>16&255, x>>8&255, x&255
	other := bits.ReverseBytes16(port)
	for i := range formulas {
		p := uint16(formulas[i].calc(x, a, b, c, d))
		if p == port {
			s.plain |= 1 << i
		}
		if p == other {
			s.swapped |= 1 << i
		}
	}
	return s
}

// Ports appends to dst the ports that the formulas calculate from x, byte-swapped ones
// included; a port stands there once for each formula.
func Ports(dst []uint16, x uint32) []uint16 {
	a, b, c, d := x>>24, x>>16&255, x>>8&255, x&255
	for i := range formulas {
		p := uint16(formulas[i].calc(x, a, b, c, d))
		dst = append(dst, p, bits.ReverseBytes16(p))
	}
	return dst
}

func (f Formula) weight() float64 {
	w := formulas[f&^swapped].weight / (1 + swapShare)
	if f&swapped != 0 {
		w *= swapShare
	}
	return w
}

// Weight returns the prior weight of f in Port4.
func (f Formula) Weight() float64 { return f.weight() }

// ID returns the formula's id in the catalogue.
func (f Formula) ID() string {
	if f&swapped != 0 {
		return formulas[f&^swapped].id + "~"
	}
	return formulas[f].id
}

// Name returns the formula's name for people.
func (f Formula) Name() string {
	if f&swapped != 0 {
		return formulas[f&^swapped].name + ", bytes swapped"
	}
	return formulas[f].name
}

// Expression writes the arithmetic with the octets of x put in, such as "198·51+100 = 10198".
func (f Formula) Expression(x uint32) string {
	a, b, c, d := x>>24, x>>16&255, x>>8&255, x&255
	e := &formulas[f&^swapped]
	n := strings.NewReplacer("A", fmt.Sprint(a), "B", fmt.Sprint(b), "C", fmt.Sprint(c), "D", fmt.Sprint(d),
		"Y", fmt.Sprint(bits.ReverseBytes32(x)), "XOR", "XOR", "X", fmt.Sprint(x)).Replace(e.show)
	r := e.calc(x, a, b, c, d)
	s := fmt.Sprintf("%s = %d", n, r)
	if r > 0xffff {
		s += fmt.Sprintf(" mod 65536 = %d", r&0xffff)
	}
	if f&swapped != 0 {
		s += fmt.Sprintf(", bytes swapped = %d", bits.ReverseBytes16(uint16(r)))
	}
	return s
}

// Group numbers a calculation from an IPv6 address to a port: one of the eight 16-bit
// groups, or the XOR of all, read in either byte order, as it is or XOR FFFF.
type Group uint8

// NumGroups is the number of calculations tried on an AAAA answer; their weights are equal.
const NumGroups = 34

// port returns what g calculates from ip.
func (g Group) port(ip *[16]byte) uint16 {
	if g >= 32 {
		var p uint16
		for i := 0; i < 16; i += 2 {
			p ^= binary.BigEndian.Uint16(ip[i:])
		}
		if g == 33 {
			p = bits.ReverseBytes16(p)
		}
		return p
	}
	p := binary.BigEndian.Uint16(ip[g/4*2:])
	if g&1 != 0 {
		p = bits.ReverseBytes16(p)
	}
	if g&2 != 0 {
		p = ^p
	}
	return p
}

// Predicting6 returns the groups that give port from the IPv6 address ip, as a bit mask.
func Predicting6(ip *[16]byte, port uint16) (mask uint64) {
	for g := range Group(NumGroups) {
		if g.port(ip) == port {
			mask |= 1 << g
		}
	}
	return mask
}

// Ports6 appends to dst the ports that the groups of ip give.
func Ports6(dst []uint16, ip *[16]byte) []uint16 {
	for g := range Group(NumGroups) {
		dst = append(dst, g.port(ip))
	}
	return dst
}

// Weight returns the prior weight of g in Port6.
func (g Group) Weight() float64 { return 1.0 / NumGroups }

// ID returns the group's id in the catalogue.
func (g Group) ID() string {
	if g >= 32 {
		return "V6:xor" + [...]string{"", "-le"}[g-32]
	}
	return fmt.Sprintf("V6:%d%s", g/4, [...]string{"", "-le", "-not", "-le-not"}[g&3])
}

// Name returns the group's name for people.
func (g Group) Name() string { return "16 bits of the IPv6 address" }

func (g Group) text() string {
	if g >= 32 {
		return "XOR of all eight groups" + [...]string{"", ", little-endian"}[g-32]
	}
	return fmt.Sprintf("group %d%s", g/4, [...]string{"", ", little-endian", " XOR FFFF", ", little-endian, XOR FFFF"}[g&3])
}

// Expression writes the arithmetic with the bytes of ip put in.
func (g Group) Expression(ip *[16]byte) string {
	p := g.port(ip)
	if g >= 32 {
		return fmt.Sprintf("%s = %04x = %d", g.text(), p, p)
	}
	return fmt.Sprintf("%s (%04x) = %04x = %d", g.text(), binary.BigEndian.Uint16(ip[g/4*2:]), p, p)
}
