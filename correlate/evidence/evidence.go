// Package evidence turns matches into e-values (DETECTION, section 4).
//
// For a hypothesis h and a trial i the factor is
//
//	L = (1−π) + π·r    with r = w·1[h predicts the trial]/q
//
// where q is the chance of the trial without any calculation, w = 1/n when n answers
// competed, and π the share of trials that h would account for. While no calculation is
// going on the mean of L is at most 1, whatever π.
//
// # Restarts
//
// The e-process of h and π is restarted at 1 whenever it falls below 1:
//
//	M(i) = max(1, M(i−1)) · L(i)
//
// This is the CUSUM e-detector of Shin, Ramdas and Rinaldo (2022): a client that makes
// a thousand innocent trials does not bury the first guilty one, and without a calculation
// the mean number of trials before M reaches 1/α is at least 1/α. The same holds for the
// weighted mean over h and π, so a client that makes n trials a day gives a false alarm at
// threshold 1/α on at most a share n·α of days, to first order, in each mixture.
//
// A process with no match behind it is 1 after every restart, so only matches and the number of
// trials between them need to be kept.
package evidence

import (
	"encoding/binary"
	"fmt"
	"math"
)

// shares are the values of π that are mixed, with the weight of each. Most weight lies
// on large shares: an implant on a quiet host makes nearly every trial. The small ones keep a
// busy host's evidence, or a scanner's, from wearing off between two contacts.
var shares = [...]struct{ pi, weight float64 }{{.9, .4}, {.5, .25}, {.2, .1}, {.1, .1}, {.02, .1}, {.0005, .05}}

// MeanShare returns the mean of the shares of trials that are mixed: what a first match with a large ratio
// is worth for each unit of the ratio.
func MeanShare() (mean float64) {
	for _, s := range shares {
		mean += s.weight * s.pi
	}
	return mean
}

// Process is the e-process of one hypothesis for one client, for every share mixed. The
// zero value has seen no match.
type Process struct {
	m    [len(shares)]float64
	at   uint64 // ordinal of the last match
	seen bool
}

// MarshalBinary returns the process as UnmarshalBinary reads it.
func (p Process) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, processBytes)
	for _, m := range p.m {
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(m))
	}
	seen := byte(0)
	if p.seen {
		seen = 1
	}
	return append(binary.BigEndian.AppendUint64(b, p.at), seen), nil
}

// UnmarshalBinary makes the process what MarshalBinary wrote.
func (p *Process) UnmarshalBinary(b []byte) error {
	if len(b) != processBytes {
		return fmt.Errorf("a process has %d bytes, not %d", processBytes, len(b))
	}
	for i := range p.m {
		p.m[i] = math.Float64frombits(binary.BigEndian.Uint64(b[8*i:]))
	}
	p.at, p.seen = binary.BigEndian.Uint64(b[8*len(p.m):]), b[processBytes-1] != 0
	return nil
}

// processBytes is the length of a process in binary form.
const processBytes = 8*len(shares) + 8 + 1

// Match multiplies in the trial with the given ordinal, which the hypothesis predicts with
// ratio r = w/q, and returns the e-value after it. Ordinals rise; trials between two
// matches count as misses.
func (p *Process) Match(ordinal uint64, r float64) float64 {
	gap := 0.0
	if p.seen && ordinal > p.at {
		gap = float64(ordinal - p.at - 1)
	}
	e := 0.0
	for i, s := range shares {
		m := 1.0
		if p.seen {
			m = max(1, p.m[i]*math.Pow(1-s.pi, gap))
		}
		m = min(m*(1-s.pi+s.pi*r), math.MaxFloat64)
		p.m[i] = m
		e += s.weight * m
	}
	p.at, p.seen = ordinal, true
	return e
}
