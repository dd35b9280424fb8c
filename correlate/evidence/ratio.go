package evidence

import "math"

// RatioInterval returns between what the ratio of two rates lies of which n and m events were
// counted, with the given confidence, from 0 to 1. It is exact (Clopper and Pearson): given their sum, the
// first count is binomial. High is infinite when m is 0, and low is 0 when n is; all ratios
// are possible when both are.
func RatioInterval(n, m uint64, confidence float64) (low, high float64) {
	tail := (1 - confidence) / 2
	low, high = 0, math.Inf(1)
	if n > 0 {
		p := bisect(func(p float64) bool { return atLeast(n, n+m, p) > tail })
		low = p / (1 - p)
	}
	if m > 0 {
		p := bisect(func(p float64) bool { return atLeast(m, n+m, p) > tail })
		high = (1 - p) / p
	}
	return low, high
}

// bisect returns where, from 0 to 1, above begins to hold.
func bisect(above func(p float64) bool) float64 {
	low, high := 0.0, 1.0
	for range 60 {
		if middle := (low + high) / 2; above(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return (low + high) / 2
}

// atLeast returns the probability of k or more successes, k from 1, in n trials with the probability p each.
func atLeast(k, n uint64, p float64) float64 {
	sum := 0.0
	whole, _ := math.Lgamma(float64(n + 1))
	for i := k; i <= n; i++ {
		a, _ := math.Lgamma(float64(i + 1))
		b, _ := math.Lgamma(float64(n - i + 1))
		sum += math.Exp(whole - a - b + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return sum
}
