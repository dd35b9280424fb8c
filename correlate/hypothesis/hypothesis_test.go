package hypothesis

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func word(s string) uint32 {
	a := netip.MustParseAddr(s).As4()
	return binary.BigEndian.Uint32(a[:])
}

// The vectors of DETECTION, section 4: seen in real traffic.
func TestTransformVectors(t *testing.T) {
	for _, tt := range []struct{ id, answer, contacted string }{
		{"A4", "84.15.72.201", "84.255.244.213"},
		{"A4", "109.158.209.148", "109.121.223.150"},
		{"A4", "14.234.0.124", "78.90.1.126"},
		{"A4", "250.210.187.100", "186.50.166.98"},
		{"A1", "87.243.45.156", "45.156.87.243"},
		{"A1", "34.245.45.153", "45.153.34.245"},
		{"A1", "253.229.172.232", "172.232.253.229"},
		{"A3:E7708E59", "1.2.3.4", "230.114.141.93"},
		{"A5:FE", "1.2.3.4", "255.252.253.250"},
		{"A6", "1.2.3.4", "4.3.2.1"},
		{"A9:BADC", "1.2.3.4", "2.1.4.3"},
		{"A12:rol1", "129.2.3.4", "3.4.6.8"},
		{"A12:rol4", "1.2.3.254", "16.32.48.239"},
		{"A12:rev", "1.2.3.4", "128.64.192.32"},
	} {
		var v Inverses
		v.Set(word(tt.contacted))
		var got []string
		v.Each(word(tt.answer), func(t Transform) { got = append(got, t.ID()) })
		if !slices.Contains(got, tt.id) {
			t.Errorf("%s from %s: found %v, want %s", tt.contacted, tt.answer, got, tt.id)
		}
	}
}

func TestInversesUndoTransforms(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		x := r.Uint32()
		for tr := range NumTransforms {
			y := tr.Apply(x)
			var v Inverses
			v.Set(y)
			if v.word[tr] != x {
				t.Fatalf("%s: %08x became %08x, its inverse %08x", tr.ID(), x, y, v.word[tr])
			}
			var all []Transform
			v.Each(x, func(f Transform) { all = append(all, f) })
			for other := range NumTransforms {
				if (other.Apply(x) == y) != slices.Contains(all, other) {
					t.Fatalf("%08x to %08x: %s is wrong in %v", x, y, other.ID(), all)
				}
			}
		}
	}
}

// Every port that a formula gives is found again, and a port that none gives is not.
func TestPredictingAgreesWithPorts(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		x := r.Uint32()
		ports := Ports(nil, x)
		if len(ports) != NumFormulas {
			t.Fatalf("%d ports, want %d", len(ports), NumFormulas)
		}
		for range 4 {
			p := uint16(r.Uint32())
			if slices.Contains(ports, p) == Predicting(x, p).Empty() {
				t.Fatalf("%s port %d: the two disagree", quad(x), p)
			}
		}
		for _, p := range ports {
			n := 0
			for f := range Predicting(x, p).All() {
				want := ports[2*int(f&^swapped)]
				if f&swapped != 0 {
					want = bits.ReverseBytes16(want)
				}
				if want != p {
					t.Fatalf("%s port %d: %s gives %d", quad(x), p, f.ID(), want)
				}
				n++
			}
			if n == 0 {
				t.Fatalf("%s port %d: no formula found again", quad(x), p)
			}
		}
	}
}

func TestFormulas(t *testing.T) {
	for _, tt := range []struct {
		what, answer string
		port         uint16
		id, expr     string
	}{
		{"the documented form", "198.51.100.23", 10198, "P1", "198·51+100 = 10198"},
		{"octets as a word", "198.51.100.23", 100<<8 | 23, "W3", "100<<8|23 = 25623"},
		{"more than 16 bits", "203.113.77.9", 62367, "P11", "203·113·77 = 1766303 mod 65536 = 62367"},
		{"bytes swapped", "198.51.100.23", 0xd627, "P1~", "198·51+100 = 10198, bytes swapped = 54823"},
	} {
		var got []string
		for f := range Predicting(word(tt.answer), tt.port).All() {
			got = append(got, f.ID()+" "+f.Expression(word(tt.answer)))
		}
		want := tt.id + " " + tt.expr
		if !slices.Contains(got, want) {
			t.Errorf("%s: found %q, want %q", tt.what, got, want)
		}
	}
}

func TestGroups(t *testing.T) {
	ip := netip.MustParseAddr("2001:db8:1:2:3:4:5:6789").As16()
	for _, tt := range []struct {
		port uint16
		id   string
	}{
		{0x6789, "V6:7"}, {0x8967, "V6:7-le"}, {^uint16(0x6789), "V6:7-not"}, {0xb80d, "V6:1-le"},
		{0x2001 ^ 0xdb8 ^ 1 ^ 2 ^ 3 ^ 4 ^ 5 ^ 0x6789, "V6:xor"},
	} {
		var got []string
		for m := Predicting6(&ip, tt.port); m != 0; m &= m - 1 {
			got = append(got, Group(bits.TrailingZeros64(m)).ID())
		}
		if !slices.Contains(got, tt.id) {
			t.Errorf("port %d: found %v, want %s", tt.port, got, tt.id)
		}
	}
}

func TestDecodeTXT(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"192.0.2.7", "txt-plain 192.0.2.7"},
		{`"192.0.2.7:8080"`, "txt-plain 192.0.2.7"},
		{"192.0.2.7:", ""},
		{"192.0.2.7:x", ""},
		{"192.0.2.300", ""},
		{"c0000207", "txt-hex 192.0.2.7, txt-base64 115.77.52.211"},
		{"C00002071F90", "txt-hex 192.0.2.7"},
		{"wAACBw==", "txt-base64 192.0.2.7"},
		{"wAACBw", "txt-base64 192.0.2.7"},
		{"wAACBx+Q", "txt-base64 192.0.2.7"},
		{"_-78_g", "txt-base64 255.238.252.254"},
		{"v=spf1 ip4:192.0.2.7 -all", ""},
		{"", ""},
		{"======", ""},
	} {
		var got []string
		DecodeTXT([]byte(tt.text), func(v Via, x uint32) { got = append(got, v.String()+" "+quad(x)) })
		if g := strings.Join(got, ", "); g != tt.want {
			t.Errorf("%q reads as %q, want %q", tt.text, g, tt.want)
		}
	}
}

// An e-value is a bound only while the weights of a mixture add up to at most 1.
func TestWeights(t *testing.T) {
	var sum [NumMixtures]float64
	ids := map[string]bool{}
	family := map[string]float64{}
	for _, h := range Catalogue() {
		if ids[h.ID] {
			t.Errorf("%s stands twice", h.ID)
		}
		ids[h.ID] = true
		if h.Weight <= 0 || h.Name == "" || h.Formula == "" {
			t.Errorf("%+v is incomplete", h)
		}
		sum[h.Mixture] += h.Weight
		f, _, _ := strings.Cut(h.ID, ":")
		family[strings.TrimSuffix(f, "~")] += h.Weight
	}
	for m, s := range sum[:CustomPort] { // the operator's own are not in the catalogue
		if s <= 0.5 || s > 1+1e-9 {
			t.Errorf("weights of %s add up to %v", Mixture(m), s)
		}
	}
	for f, want := range map[string]float64{
		"A1": .30, "A3": .12, "A4": .06, "A5": .06, "A6": .05, "A9": .04, "A10": .04, "A12": .02,
		"A2": .18, "A7": .05, "A8": .05, "A11": .02, "C": .06, "P1": .40, "P2": .05, "P12": .011, "W3": .05, "M1": .02 / 3, "T": 1, "V6": 1,
	} {
		if math.Abs(family[f]-want) > 1e-9 {
			t.Errorf("family %s weighs %v, want %v", f, family[f], want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	var v Inverses
	n := 0
	text := []byte("wAACBw==")
	if a := testing.AllocsPerRun(100, func() {
		v.Set(0xc0000207)
		v.Each(0x0207c000, func(Transform) { n++ })
		for range Predicting(0xc0000207, 1234).All() {
			n++
		}
		DecodeTXT(text, func(Via, uint32) { n++ })
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

func BenchmarkInverses(b *testing.B) {
	var v Inverses
	b.ReportAllocs()
	for b.Loop() {
		v.Set(0xc0000207)
	}
}

func BenchmarkPredicting(b *testing.B) {
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if !Predicting(0xc6336417, 10198).Empty() {
			n++
		}
	}
}

func TestLearned(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 5000 {
		x, y := r.Uint32(), r.Uint32()
		for l := range NumLearned {
			if got := l.Apply(x, l.Key(x, y)); got != y {
				t.Fatalf("%s: the constant of %s and %s gives %s", l.ID(), quad(x), quad(y), quad(got))
			}
			if got := l.Undo(y, l.Key(x, y)); got != x {
				t.Fatalf("%s: the constant of %s and %s leads back to %s", l.ID(), quad(x), quad(y), quad(got))
			}
		}
		var slow uint32
		for i := 0; i < 32; i += 8 {
			slow |= (x>>i&255 + y>>i&255) & 255 << i
		}
		if got := addOctets(x, y); got != slow {
			t.Fatalf("octets of %s and %s add up to %s, want %s", quad(x), quad(y), quad(got), quad(slow))
		}
	}
	if k, ok := OctetKey(word("1.2.3.4"), word("6.5.4.3")); !ok || k != 7 {
		t.Errorf("octet key %d, %v", k, ok)
	}
	if _, ok := OctetKey(word("1.2.3.4"), word("6.5.4.4")); ok {
		t.Error("unequal octets have a key")
	}
}

// An RRset that keeps the rule, built from the family's own transform.
func TestNymaimChecksum(t *testing.T) {
	set := []uint32{word("84.15.72.201"), word("109.158.209.148"), word("14.234.0.124"), word("250.210.187.100")}
	sum := uint32(0)
	for _, w := range set {
		sum += bits.ReverseBytes32(nymaimForward(w))
	}
	check := nymaimInverse(bits.ReverseBytes32(sum))
	if !NymaimChecksum(append(set, check), set[0]) {
		t.Error("an RRset with a checksum record is not known")
	}
	if NymaimChecksum(append(set, check), check) {
		t.Error("the checksum record itself counts as an address")
	}
	if NymaimChecksum(append(set, check+1), set[0]) || NymaimChecksum(set[:2], set[0]) {
		t.Error("an RRset without a checksum record passes")
	}
}
