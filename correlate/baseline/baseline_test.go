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
	for _, tt := range []struct {
		what   string
		y, own uint32
		answer Near
		want   float64
	}{
		{"public address", 0xC6336417, 0x0A000007, Anywhere, Floor},
		{"private address elsewhere", 0x0A090909, 0x0A000007, Anywhere, .05 / (1 << 24)},
		{"private address, same /16", 0x0A000909, 0x0A000007, Anywhere, .05 / (1 << 16)},
		{"private address, same /24", 0x0A000009, 0x0A000007, Anywhere, .05 / (1 << 8)},
		{"next to an answer", 0xC6336418, 0x0A000007, SamePrefix24, .05 / (1 << 8)},
		{"public resolver", 0x08080808, 0x0A000007, Anywhere, 1e-3},
		{"client without IPv4", 0x00000042, 0, Anywhere, Floor},
	} {
		if got := Destination(tt.y, tt.own, tt.answer); math.Abs(got/tt.want-1) > 1e-12 {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
}

// What goes beyond the uniform floor must stay small in sum, so that the floor is honest
// to within that share: all private space, neighbours of one client and of one answer, and the resolvers.
func TestDestinationMass(t *testing.T) {
	private := .05 + .05 + .05 + .02
	neighbours := 2 * (.05 + .05)
	resolvers := 12 * 1e-3
	if sum := private + neighbours + resolvers; sum > .5 {
		t.Errorf("%v of the mass lies above the floor", sum)
	}
}
