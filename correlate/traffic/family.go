package traffic

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Family is a kind of implant: one calculation of DETECTION, sections 2 and 3.
type Family struct {
	ID      string // as in the catalogue where it is listed there, such as "P1" or "A3:E7708E59"
	Group   string // such as "A3"
	Name    string // such as "xor-known"
	Learned bool   // the calculation has a constant that nobody knows beforehand
	// Catalogue is what the catalogue of hypotheses lists the calculation as, or the beginning of that where
	// it is a drawn constant that says which one it is.
	Catalogue string
}

// family is a Family with its arithmetic.
type family struct {
	Family
	// calc is the calculation on one IPv4 answer, to an address or a port; nil where it takes anything else.
	calc func(c *campaign, x uint32) uint32
	// plan draws answers and what is calculated from them. It may fail: the caller draws again.
	plan func(d *dice, c *campaign, p *plan) bool
}

// campaign holds the constants that all implants of a family share, drawn with the world.
type campaign struct {
	key   uint32
	order [4]int
}

// plan is one contact: what the answer holds and where the implant goes.
type plan struct {
	txt      []byte     // for TXT
	words    []uint32   // for A: the answers that the calculation uses, in order
	rest     []uint32   // for A: others that belong to the RRset, such as a checksum
	v6       [16]byte   // for AAAA
	record   recordKind // which of the above
	dst      uint32     // calculated, or the answer
	dst6     bool       // the destination is v6 itself
	port     uint16     // 0 when it is not calculated
	original bool       // the destination is the answer
}

type recordKind uint8

const (
	recordA recordKind = iota
	recordAAAA
	recordTXT
)

// Families returns every family, in the order of DETECTION.
func Families() []Family {
	var all []Family
	for _, f := range families() {
		all = append(all, f.Family)
	}
	return all
}

func selectFamilies(names []string) []family {
	all := families()
	if names == nil {
		return all
	}
	return slices.DeleteFunc(all, func(f family) bool {
		return !slices.Contains(names, f.ID) && !slices.Contains(names, f.Group)
	})
}

func octets(x uint32) (a, b, c, d uint32) { return x >> 24, x >> 16 & 255, x >> 8 & 255, x & 255 }

func join(a, b, c, d uint32) uint32 { return a&255<<24 | b&255<<16 | c&255<<8 | d&255 }

func swapBytes(x uint32) uint32 {
	a, b, c, d := octets(x)
	return join(d, c, b, a)
}

// known keys and octet keys, as DETECTION lists them.
var (
	knownKeys   = []uint32{0xE7708E59, 0x00AE0413, 0xAE041300, 0xCAFEBABE, 0x64DC7972, 0x4AB73CE1, 0xDEADBEEF}
	knownOctets = []uint32{0xFE, 0xA5, 0xFF, 0xED, 0x30}
)

// nymaimRounds is Nymaim's transform on the little-endian word.
func nymaimRounds(v uint32) uint32 {
	for range 16 {
		v = ((v ^ 0x87568289) - 0x78643587) ^ 0x18482642
	}
	return v
}

func nymaimBack(v uint32) uint32 {
	for range 16 {
		v = ((v ^ 0x18482642) + 0x78643587) ^ 0x87568289
	}
	return v
}

func perOctet(x uint32, f func(uint32) uint32) uint32 {
	a, b, c, d := octets(x)
	return join(f(a), f(b), f(c), f(d))
}

// families builds the catalogue of implants.
func families() []family {
	var all []family
	add := func(id, group, name string, learned bool, plan func(*dice, *campaign, *plan) bool) {
		all = append(all, family{Family: Family{ID: id, Group: group, Name: name, Learned: learned}, plan: plan})
	}
	from := func(id, group, name string, learned bool, calc func(c *campaign, x uint32) uint32) {
		add(id, group, name, learned, func(d *dice, c *campaign, p *plan) bool {
			x := d.u32()
			p.words = append(p.words, x)
			p.dst = calc(c, x)
			return speakable(x) && p.dst != x
		})
		all[len(all)-1].calc = calc
	}
	known := func(calc func(x uint32) uint32) func(*campaign, uint32) uint32 {
		return func(_ *campaign, x uint32) uint32 { return calc(x) }
	}
	from("A1", "A1", "half-swap", false, known(func(x uint32) uint32 {
		a, b, c, d := octets(x)
		return join(c, d, a, b)
	}))
	from("A2", "A2", "xor-learned", true, func(c *campaign, x uint32) uint32 { return x ^ c.key })
	for _, k := range knownKeys {
		from(fmt.Sprintf("A3:%08X", k), "A3", "xor-known", false, known(func(x uint32) uint32 { return x ^ k }))
	}
	add("A4", "A4", "nymaim", false, planNymaim)
	for _, k := range knownOctets {
		from(fmt.Sprintf("A5:%02X", k), "A5", "octet-xor", false, known(func(x uint32) uint32 {
			return perOctet(x, func(o uint32) uint32 { return o ^ k })
		}))
	}
	from("A5:learned", "A5 learned", "octet-xor, key unknown", true, func(c *campaign, x uint32) uint32 {
		return perOctet(x, func(o uint32) uint32 { return o ^ (c.key>>8&255 | 1) })
	})
	from("A6", "A6", "reverse", false, known(swapBytes))
	from("A7:be", "A7", "add-learned", true, func(c *campaign, x uint32) uint32 { return x + c.key })
	from("A7:le", "A7", "add-learned, little-endian", true, func(c *campaign, x uint32) uint32 {
		return swapBytes(swapBytes(x) + c.key)
	})
	from("A7:octets", "A7", "add-learned, each octet", true, func(c *campaign, x uint32) uint32 {
		a, b, e, f := octets(x)
		j, k, l, m := octets(c.key)
		return join(a+j, b+k, e+l, f+m)
	})
	from("A8", "A8", "permute-xor", true, func(c *campaign, x uint32) uint32 { return ordered(x, c.order) ^ c.key })
	for _, o := range orders() {
		if o == [4]int{0, 1, 2, 3} || o == [4]int{2, 3, 0, 1} || o == [4]int{3, 2, 1, 0} {
			continue
		}
		id := "A9:"
		for _, i := range o {
			id += string(rune('A' + i))
		}
		from(id, "A9", "permute", false, known(func(x uint32) uint32 { return ordered(x, o) }))
	}
	addEmbedded(add)
	addPairs(add)
	for n := 1; n <= 7; n++ {
		from(fmt.Sprintf("A12:rol%d", n), "A12", "octet-rotate", false, known(func(x uint32) uint32 {
			return perOctet(x, func(o uint32) uint32 { return o<<n | o>>(8-n) })
		}))
	}
	from("A12:rev", "A12", "octet-bit-reverse", false, known(func(x uint32) uint32 {
		return perOctet(x, func(o uint32) uint32 {
			r := uint32(0)
			for i := range 8 {
				r |= o >> i & 1 << (7 - i)
			}
			return r
		})
	}))
	addTXT(add)
	addPorts(func(id, group, name string, learned bool, calc func(c *campaign, x uint32) uint32) {
		add(id, group, name, learned, func(d *dice, c *campaign, p *plan) bool {
			x := publicOf(d.Uint64())
			p.words = append(p.words, x)
			p.dst, p.original = x, true
			p.port = uint16(calc(c, x))
			return p.port != 0
		})
		all[len(all)-1].calc = calc
	})
	addGroups(add)
	addBoth(add)
	for i := range all {
		switch f := &all[i].Family; {
		case f.ID == "A1+P1":
			f.Catalogue = "A1"
		case f.ID == "A5:learned":
			f.Catalogue = "A5:k8"
		case f.ID == "C*:P1":
			f.Catalogue = "C:a·b+c"
		case f.ID == "C*:W1":
			f.Catalogue = "C:a<<8|b"
		case f.ID == "C*:W3":
			f.Catalogue = "C:c<<8|d"
		case f.Group == "C*":
			f.Catalogue = "C:" + strings.TrimPrefix(f.ID, "C*:")
		default:
			f.Catalogue = strings.TrimSuffix(f.ID, ":port")
		}
	}
	return all
}

// speakable reports whether an operator would put x into an answer: class E and bogons are seen, but
// neither 0.0.0.0/8 nor loopback.
func speakable(x uint32) bool { return x>>24 != 0 && x>>24 != 127 }

func ordered(x uint32, order [4]int) uint32 {
	var o [4]uint32
	o[0], o[1], o[2], o[3] = octets(x)
	return join(o[order[0]], o[order[1]], o[order[2]], o[order[3]])
}

func orders() (all [][4]int) {
	for i := range 256 {
		o := [4]int{i >> 6, i >> 4 & 3, i >> 2 & 3, i & 3}
		if o[0] != o[1] && o[0] != o[2] && o[0] != o[3] && o[1] != o[2] && o[1] != o[3] && o[2] != o[3] {
			all = append(all, o)
		}
	}
	return all
}

// planNymaim answers with ten records and an eleventh whose transform is the sum of
// theirs; that one is never contacted.
func planNymaim(d *dice, _ *campaign, p *plan) bool {
	sum := uint32(0)
	for i := range 10 {
		x := d.u32()
		v := nymaimRounds(swapBytes(x))
		if !speakable(x) || !public(swapBytes(v)) {
			return false
		}
		sum += v
		if i == 0 {
			p.words = append(p.words, x)
			p.dst = swapBytes(v)
		} else {
			p.rest = append(p.rest, x)
		}
	}
	check := swapBytes(nymaimBack(sum))
	p.rest = append(p.rest, check)
	return speakable(check)
}

type adder func(id, group, name string, learned bool, plan func(*dice, *campaign, *plan) bool)

// addEmbedded adds A10: IPv4 addresses inside AAAA answers.
func addEmbedded(add adder) {
	embedded := func(offset int, id, name string, encode func(y uint32) uint32) {
		via := fmt.Sprintf("aaaa[%d:%d]", offset, offset+4)
		add("A10:"+via+":"+id, "A10", via+", "+name, false, func(d *dice, _ *campaign, p *plan) bool {
			p.record = recordAAAA
			p.dst = publicOf(d.Uint64())
			for i := range p.v6 {
				p.v6[i] = byte(d.n(256))
			}
			p.v6[0], p.v6[1] = 0x2a, 0x0e
			w := encode(p.dst)
			for i := range 4 {
				p.v6[offset+i] = byte(w >> (24 - 8*i))
			}
			reserved := p.v6[0] == 0 || p.v6[0] == 0xff || p.v6[0] == 0x20 && (p.v6[1] == 1 || p.v6[1] == 2)
			return !reserved
		})
	}
	for _, offset := range []int{12, 4, 8, 0} {
		embedded(offset, "A0", "as written", func(y uint32) uint32 { return y })
	}
	embedded(12, "A6", "reverse", swapBytes)
	embedded(4, "A6", "reverse", swapBytes)
	embedded(12, "A3:E7708E59", "xor-known", func(y uint32) uint32 { return y ^ 0xE7708E59 })
	embedded(4, "A3:4AB73CE1", "xor-known", func(y uint32) uint32 { return y ^ 0x4AB73CE1 })
	embedded(12, "A6+A3:DEADBEEF", "reverse, xor-known", func(y uint32) uint32 { return swapBytes(y ^ 0xDEADBEEF) })
	// The implant subtracts one constant, then XORs the other.
	embedded(12, "sub-xor", "sub-then-xor", func(y uint32) uint32 { return (y ^ 0x4AB73CE1) + 0x64DC7972 })
	embedded(4, "sub-xor", "sub-then-xor", func(y uint32) uint32 { return (y ^ 0x4AB73CE1) + 0x64DC7972 })
}

// addPairs adds A11: two answers of one RRset.
func addPairs(add adder) {
	pair := func(id, name string, calc func(x, y uint32) uint32) {
		add("A11:"+id, "A11", name, false, func(d *dice, _ *campaign, p *plan) bool {
			x, y := d.u32(), d.u32()
			p.words = append(p.words, x, y)
			p.dst = calc(x, y)
			return speakable(x) && speakable(y)
		})
	}
	pair("xor", "xor of two answers", func(x, y uint32) uint32 { return x ^ y })
	pair("sum", "sum of two answers", func(x, y uint32) uint32 { return x + y })
	pair("halves", "halves of two answers", func(x, y uint32) uint32 { return x&0xffff0000 | y&0xffff })
}

// addPorts adds the port formulas: the destination is the answer.
func addPorts(port func(id, group, name string, learned bool, calc func(c *campaign, x uint32) uint32)) {
	type calc = func(a, b, c, d uint32) uint32
	of := func(f calc) func(*campaign, uint32) uint32 {
		return func(_ *campaign, x uint32) uint32 { return f(octets(x)) }
	}
	for _, f := range []struct {
		id, name string
		calc     calc
	}{
		{"P1", "mul-add", func(a, b, c, _ uint32) uint32 { return c + a*b }},
		{"P2", "mul-sum", func(a, b, c, _ uint32) uint32 { return a*b + a*c }},
		{"P3", "sum-mul", func(a, b, c, _ uint32) uint32 { return a*c + b*c }},
		{"P4", "mul-add-acb", func(a, b, c, _ uint32) uint32 { return b + a*c }},
		{"P5", "mul-add-bca", func(a, b, c, _ uint32) uint32 { return a + b*c }},
		{"P6", "mul-add-bcd", func(_, b, c, d uint32) uint32 { return d + b*c }},
		{"P7", "mul-add-cda", func(a, _, c, d uint32) uint32 { return a + c*d }},
		{"P8", "mul-add-cdb", func(_, b, c, d uint32) uint32 { return b + c*d }},
		{"P9", "mul-add-add", func(a, b, c, d uint32) uint32 { return c + d + a*b }},
		{"P10", "mul-add-mul", func(a, b, c, d uint32) uint32 { return c*d + a*b }},
		{"P11", "mul-mul", func(a, b, c, _ uint32) uint32 { return c * b * a }},
		{"P12", "mul", func(a, b, _, _ uint32) uint32 { return b * a }},
		{"W1", "word-ab", func(a, b, _, _ uint32) uint32 { return a*256 + b }},
		{"W2", "word-ba", func(a, b, _, _ uint32) uint32 { return b*256 + a }},
		{"W3", "word-cd", func(_, _, c, d uint32) uint32 { return c*256 + d }},
		{"W4", "word-dc", func(_, _, c, d uint32) uint32 { return d*256 + c }},
		{"W5", "word-bc", func(_, b, c, _ uint32) uint32 { return b*256 + c }},
		{"W6", "word-cb", func(_, b, c, _ uint32) uint32 { return c*256 + b }},
		{"X1", "halves-xor", func(a, b, c, d uint32) uint32 { return (a^c)*256 + (b ^ d) }},
		{"X2", "halves-sum", func(a, b, c, d uint32) uint32 { return a*256 + b + c*256 + d }},
		{"M1", "mod-64512", func(a, b, c, d uint32) uint32 { return 1024 + join(a, b, c, d)%64512 }},
		{"M2", "mod-64512-le", func(a, b, c, d uint32) uint32 { return 1024 + join(d, c, b, a)%64512 }},
		{"M3", "mod-65535", func(a, b, c, d uint32) uint32 { return join(a, b, c, d) % 65535 }},
	} {
		port(f.id, f.id, f.name, false, of(f.calc))
		if f.id[0] == 'W' {
			continue // W1 with its bytes swapped is W2, and so on
		}
		port(f.id+"~", f.id+"~", f.name+", bytes swapped", false, of(func(a, b, c, d uint32) uint32 {
			return uint32(bits.ReverseBytes16(uint16(f.calc(a, b, c, d))))
		}))
	}
	for _, f := range []struct {
		id   string
		calc calc
	}{
		{"P1", func(a, b, c, _ uint32) uint32 { return a*b + c }},
		{"W1", func(a, b, _, _ uint32) uint32 { return a<<8 + b }},
		{"W3", func(_, _, c, d uint32) uint32 { return c<<8 + d }},
		{"a+b+c+d", func(a, b, c, d uint32) uint32 { return a + b + c + d }},
		{"d", func(_, _, _, d uint32) uint32 { return d }},
	} {
		port("C*:"+f.id, "C*", "offset-learned", true, func(c *campaign, x uint32) uint32 {
			return f.calc(octets(x)) + 10000 + c.key%50000
		})
	}
}

// addBoth adds what calculates both: the address from the answer, the port from the address.
func addBoth(add adder) {
	add("A1+P1", "A1+P1", "half-swap, then mul-add", false, func(d *dice, _ *campaign, p *plan) bool {
		x := d.u32()
		a, b, c, e := octets(x)
		p.words = append(p.words, x)
		p.dst = join(c, e, a, b)
		p.port = uint16(c*e + a)
		return speakable(x) && p.port != 0 && p.dst != x
	})
}

// addGroups adds V6: 16 bits of an IPv6 answer.
func addGroups(add adder) {
	group := func(id string, calc func(ip *[16]byte) uint16) {
		add("V6:"+id, "V6", "16 bits of the IPv6 address", false, func(d *dice, _ *campaign, p *plan) bool {
			p.record, p.dst6, p.original = recordAAAA, true, true
			for i := range p.v6 {
				p.v6[i] = byte(d.n(256))
			}
			p.v6[0] = 0x24 + p.v6[0]%12 // registries give out 2400::/12 to 2e00::/12 and the like
			p.port = calc(&p.v6)
			return p.port != 0
		})
	}
	for i := range 8 {
		be := func(ip *[16]byte) uint16 { return uint16(ip[2*i])<<8 | uint16(ip[2*i+1]) }
		le := func(ip *[16]byte) uint16 { return uint16(ip[2*i+1])<<8 | uint16(ip[2*i]) }
		group(fmt.Sprint(i), be)
		group(fmt.Sprint(i, "-le"), le)
		group(fmt.Sprint(i, "-not"), func(ip *[16]byte) uint16 { return 0xffff - be(ip) })
		group(fmt.Sprint(i, "-le-not"), func(ip *[16]byte) uint16 { return 0xffff - le(ip) })
	}
	xor := func(ip *[16]byte, first int) (p uint16) {
		for i := 0; i < 16; i += 2 {
			p ^= uint16(ip[i+first])<<8 | uint16(ip[i+1-first])
		}
		return p
	}
	group("xor", func(ip *[16]byte) uint16 { return xor(ip, 0) })
	group("xor-le", func(ip *[16]byte) uint16 { return xor(ip, 1) })
}
