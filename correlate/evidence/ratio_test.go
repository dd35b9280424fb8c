package evidence

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Bounds from published tables of Clopper and Pearson's interval: 0 and 5 of 10 with 95 %.
func TestRatioInterval(t *testing.T) {
	for _, tt := range []struct {
		n, m      uint64
		low, high float64
	}{
		{0, 0, 0, math.Inf(1)},
		{0, 10, 0, .3085 / .6915},
		{10, 0, .6915 / .3085, math.Inf(1)},
		{5, 5, .1871 / .8129, .8129 / .1871},
	} {
		low, high := RatioInterval(tt.n, tt.m, .95)
		if math.Abs(low-tt.low) > 1e-3*tt.low || high != tt.high && math.Abs(high-tt.high) > 1e-3*tt.high {
			t.Errorf("RatioInterval(%d, %d) is %v to %v, want %v to %v", tt.n, tt.m, low, high, tt.low, tt.high)
		}
	}
}

// Of counts that are drawn with a ratio of 2 the interval holds it as often as it says, or more often.
func TestRatioIntervalCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	const runs, confidence = 400, .9
	held := 0
	for range runs {
		var n, m uint64
		for range 30 { // of 30 events two in three are of the first kind
			if r.Float64() < 2.0/3 {
				n++
			} else {
				m++
			}
		}
		if low, high := RatioInterval(n, m, confidence); low <= 2 && 2 <= high {
			held++
		}
	}
	if share := float64(held) / runs; share < confidence || share > .99 {
		t.Errorf("held in %v of the runs, want %v or little more", share, confidence)
	}
}
