package main

import (
	"testing"

	"portolan/correlate/hypothesis"
)

// TestChanceRates: a formula that spreads evenly over the ports matches a port drawn from
// the baseline once in 65,536 trials; P1 lies more often where the baseline is dense. The
// bounds are ten standard deviations of the sample away.
func TestChanceRates(t *testing.T) {
	const even = 1.0 / 65536
	for id, want := range map[string]struct{ low, high float64 }{
		"W1":     {.9 * even, 1.1 * even},
		"W3":     {.9 * even, 1.1 * even},
		"X1":     {.9 * even, 1.1 * even},
		"V6:7":   {.9 * even, 1.1 * even},
		"V6:xor": {.9 * even, 1.1 * even},
		"P1":     {1.2 * even, 1.6 * even},
	} {
		if got := portChances()[id]; got < want.low || got > want.high {
			t.Errorf("%s matches by chance once in %.0f trials, want once in %.0f to %.0f", id, 1/got, 1/want.high, 1/want.low)
		}
	}
}

// TestEveryFixedFormulaIsMeasured: ids pair up with results as the catalogue has them.
func TestEveryFixedFormulaIsMeasured(t *testing.T) {
	chances := portChances()
	known := map[string]bool{}
	for _, h := range hypothesis.Catalogue() {
		known[h.ID] = true
	}
	for id, p := range chances {
		if !known[id] {
			t.Errorf("%s is measured and not in the catalogue", id)
		}
		if !(p > 0 && p < 1e-3) {
			t.Errorf("%s matches by chance with probability %g", id, p)
		}
	}
	if want := hypothesis.NumFormulas + hypothesis.NumGroups; len(chances) != want {
		t.Errorf("%d formulas measured, want %d", len(chances), want)
	}
}
