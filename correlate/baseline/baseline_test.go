package baseline

import (
	"math"
	"slices"
	"testing"
)

func TestOrdinaryIsSorted(t *testing.T) {
	if !slices.IsSorted(ordinary[:]) || len(slices.Compact(slices.Clone(ordinary[:]))) != len(ordinary) {
		t.Error("the list of ordinary ports is not in rising order")
	}
}

// An e-value needs a probability: the chances of all ports must not add up to more than 1.
func TestPortIsAProbability(t *testing.T) {
	sum := 0.0
	for p := range 1 << 16 {
		q := Port(uint16(p))
		if (q == 0) != Ordinary(uint16(p)) {
			t.Fatalf("port %d: chance %v, ordinary %v", p, q, Ordinary(uint16(p)))
		}
		sum += q
	}
	if sum > 1+1e-12 || sum < .95 {
		t.Errorf("chances add up to %v", sum)
	}
}

func TestDestination(t *testing.T) {
	const client = 0x0A000007
	for _, tt := range []struct {
		what    string
		y, own  uint32
		answers []uint32
		want    float64
	}{
		{"public address", 0xC6336417, client, []uint32{0x01020304}, Floor},
		{"private address elsewhere", 0x0A190909, client, nil, .05 / (1 << 24)},
		{"private address, same /12", 0x0A090909, client, nil, .05 / (1 << 20)},
		{"private address, same /16", 0x0A000909, client, nil, .05 / (1 << 16)},
		{"private address, same /24", 0x0A000009, client, nil, .05 / (1 << 8)},
		{"next to an answer", 0xC6336418, client, []uint32{0x01020304, 0xC6336401}, .05 / (1 << 8)},
		{"same /16 as one of two answers", 0xC6336418, client, []uint32{0x01020304, 0xC6330001}, .05 / (1 << 16)},
		{"same /12 as one of two answers", 0xC6336418, client, []uint32{0x01020304, 0xC6300001}, .05 / (1 << 20) / 2},
		{"same /8 as both answers", 0xC6336418, client, []uint32{0xC6E20304, 0xC6F00001}, .05 / (1 << 24)},
		{"same /8 as one of 100 answers", 0xC6336418, client, append(make([]uint32, 99), 0xC6F00001), Floor},
		{"public resolver", 0x08080808, client, nil, 1e-3},
		{"client without IPv4", 0x00000042, 0, nil, Floor},
	} {
		var n Near
		for _, x := range tt.answers {
			n.Measure(x, tt.y)
		}
		if got := Destination(tt.y, tt.own, &n); math.Abs(got/tt.want-1) > 1e-12 {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
}

// What goes beyond the uniform floor must stay small in sum, so that the floor is honest
// to within that share: all private space, neighbours of one client and of one answer, and the resolvers.
func TestDestinationMass(t *testing.T) {
	private := .05 + .05 + .05 + .02
	neighbours := 2 * 4 * .05
	resolvers := 12 * 1e-3
	if sum := private + neighbours + resolvers; sum > .75 {
		t.Errorf("%v of the mass lies above the floor", sum)
	}
}
