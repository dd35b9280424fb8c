package evidence

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestSharesAreWeights(t *testing.T) {
	sum := 0.0
	for _, s := range shares {
		if s.pi <= 0 || s.pi >= 1 {
			t.Errorf("share %v", s.pi)
		}
		sum += s.weight
	}
	if math.Abs(sum-1) > 1e-12 {
		t.Errorf("weights add up to %v", sum)
	}
}

// slow is the definition: every trial one by one.
func slow(trials []float64) float64 {
	e := 0.0
	for _, s := range shares {
		m := 1.0
		for _, r := range trials {
			m = max(1, m) * (1 - s.pi + s.pi*r)
		}
		e += s.weight * m
	}
	return e
}

func TestProcessIsTheProduct(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		var p Process
		var trials []float64
		for range 1 + r.IntN(200) {
			ratio := 0.0
			if r.IntN(10) == 0 {
				ratio = math.Exp(r.Float64()*12 - 2)
			}
			trials = append(trials, ratio)
			if ratio == 0 {
				continue
			}
			got, want := p.Match(uint64(len(trials)), ratio), slow(trials)
			if math.Abs(got/want-1) > 1e-9 {
				t.Fatalf("after %d trials %v, want %v", len(trials), got, want)
			}
		}
	}
}

func TestProcessStaysFinite(t *testing.T) {
	var p Process
	for i := range uint64(200) {
		if e := p.Match(i+1, 1e30); math.IsInf(e, 0) || math.IsNaN(e) {
			t.Fatalf("e-value %v after %d matches", e, i+1)
		}
	}
}

// Under the model — a hypothesis predicts a trial with the probability q that the baseline
// gives, and the ratio is 1/q — reaching 1/α takes at least 1/α trials in the mean. Where a hypothesis
// predicts every other trial the process moves in small steps, and little is missing to the bound.
func TestRunLengthWithoutCalculation(t *testing.T) {
	const threshold, runs = 200.0, 400
	for _, q := range []float64{.5, .2, .05, .01} {
		r := rand.New(rand.NewPCG(7, 9))
		total := 0.0
		for range runs {
			var p Process
			for n := uint64(1); ; n++ {
				if r.Float64() < q && p.Match(n, 1/q) >= threshold {
					total += float64(n)
					break
				}
			}
		}
		t.Logf("a hypothesis that predicts a share of %v: %.0f trials until e-value %v", q, total/runs, threshold)
		if mean := total / runs; mean < threshold {
			t.Errorf("a hypothesis that predicts a share of %v: mean run length %v trials, want at least %v", q, mean, threshold)
		}
	}
}
