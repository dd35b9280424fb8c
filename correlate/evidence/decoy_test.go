package evidence

import (
	"math/rand/v2"
	"testing"
)

func TestDecoyIsABijection(t *testing.T) {
	d := NewDecoy(rand.New(rand.NewPCG(1, 2)))
	// The inverse of the last round, and of those before it, must lead back.
	back := func(w uint32) uint32 {
		l, r := w>>16, w&0xffff
		for i := len(d.key) - 1; i >= 0; i-- {
			k := d.key[i]
			f := (l + k>>16) * k
			l, r = r^(f>>13&0xffff), l
		}
		return l<<16 | r
	}
	same := 0
	for i := range uint32(1 << 20) {
		w := i * 4093
		s := d.Word(w)
		if back(s) != w {
			t.Fatalf("%08x becomes %08x, which leads back to %08x", w, s, back(s))
		}
		if s>>16 == w>>16 {
			same++
		}
	}
	seen := [1 << 16]bool{}
	for w := range uint32(1 << 16) {
		n := d.Neighbour(0x60010000 | w)
		if n>>16 != 0x6001 || seen[n&0xffff] {
			t.Fatalf("the neighbour of %08x is %08x", 0x60010000|w, n)
		}
		seen[n&0xffff] = true
	}
	// Neighbours are torn apart: about one in 65,536 keeps its upper half by chance.
	if same > 200 {
		t.Errorf("%d of a million words kept their upper half", same)
	}
}
