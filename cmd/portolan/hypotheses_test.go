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

// TestCustomChancesAgree: an operator's copy of a formula of the catalogue is measured like it.
func TestCustomChancesAgree(t *testing.T) {
	all, err := hypothesis.CompileAll([]hypothesis.Custom{
		{ID: "P1", Expr: "a*b + c"}, {ID: "W3", Expr: "lo(x)"}, {ID: "M2", Expr: "1024 + le%64512"}, {ID: "A1", Kind: hypothesis.ToAddress, Expr: "rol(x,16)"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{}
	for _, h := range measured() {
		want["U:"+h.ID] = h.chance
	}
	list := measuredCustom(all)
	if len(list) != 4 {
		t.Fatalf("%d hypotheses, want 4", len(list))
	}
	for _, h := range list {
		if h.chance < .85*want[h.ID] || h.chance > 1.2*want[h.ID] { // ten standard deviations of the sample
			t.Errorf("%s matches by chance with probability %g, the catalogue's with %g", h.ID, h.chance, want[h.ID])
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
