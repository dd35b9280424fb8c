package correlate

import (
	"math/rand/v2"
	"testing"

	"portolan/correlate/baseline"
	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
	"portolan/sensor/event"
)

// What the first contact is worth with n answers in the window is plain arithmetic: the
// hypothesis' weight, times the mean share of trials it would account for, over n times the
// chance of the destination. The heavy transforms alert at once with a hundred answers, the
// light ones with fewer; with two contacts all do.
func TestFirstContact(t *testing.T) {
	const answers = 100
	meanShare := evidence.MeanShare() // near enough for ratios as large as these
	atOnce := map[string]bool{"A1": true, "A3:E7708E59": true, "A4": true, "A6": true}
	for tr := range hypothesis.NumTransforms {
		w := tr.Weight(hypothesis.ViaA)
		if w == 0 {
			continue
		}
		c := freshTable(t)
		r := rand.New(rand.NewPCG(41, 43))
		var given []Hit
		pool := make([]uint32, answers)
		for i := range pool {
			pool[i] = 0x01000000 + r.Uint32()%0xDE000000
			given = c.ObserveLookup(given, lookupOf(event.Time(i), "192.168.77.7", addr4(pool[i])))
		}
		levels, near := []Level{}, false
		var operands []uint32 // two whose results a host can have
		for _, x := range pool {
			if y := tr.Apply(x); baseline.Public(y) && len(operands) < 2 {
				operands = append(operands, x)
			}
		}
		for i, x := range operands {
			given = c.ObserveConnection(given[:0], connectionOf(event.Time(1000+i), "192.168.77.7", netipAddrPort(tr.Apply(x), 443)))
			for _, h := range given {
				if h.State == Provisional {
					levels = append(levels, h.Level)
					near = near || h.Baseline.Chance > 1e-7 // the result stays close to the answer: a neighbour, as far as anybody can tell
					expected := w * meanShare / (answers * h.Baseline.Chance)
					if i == 0 && (h.Calc.EValue < expected*.99 || h.Calc.EValue > expected*1.1) {
						t.Errorf("%s: e-value %.4g at the first contact, the arithmetic says %.4g", tr.ID(), h.Calc.EValue, expected)
					}
				}
			}
		}
		if atOnce[tr.ID()] && (len(levels) == 0 || levels[0] != Alert) {
			t.Errorf("%s: levels %v, want an alert at the first contact", tr.ID(), levels)
		}
		if !near && (len(levels) == 0 || levels[len(levels)-1] != Alert) {
			t.Errorf("%s: levels %v, want an alert at the second contact", tr.ID(), levels)
		}
		delete(atOnce, tr.ID())
	}
	if len(atOnce) > 0 {
		t.Errorf("not tried: %v", atOnce)
	}
}
