package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"portolan/cmd/internal/bus"
)

// The explanation of a hit has the numbers of its arithmetic, and for one that nothing came before they give its e-value.
func TestExplainHasTheArithmetic(t *testing.T) {
	hits := outputOf(t, "replay", "--json", "../../testdata/pcap/mul-add.pcap", "../../testdata/pcap/half-swap.pcap", "../../testdata/pcap/txt-xor.pcapng.gz")
	single := 0
	for line := range strings.Lines(hits) {
		m, err := bus.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		p := &program{stdin: strings.NewReader(line), stdout: &out, stderr: &errs}
		if status := p.run(t.Context(), []string{"explain", "--file", "-"}); status != exitDone {
			t.Fatalf("status %d: %s", status, &errs)
		}
		c := &m.Portolan.Calc
		text := strings.Join(strings.Fields(out.String()), " ")
		for _, want := range []string{
			c.Expression, "Time line", "alternatives", "baseline " + fmt.Sprintf("%q", m.Portolan.Baseline.Model), "decoys", "expected false",
			"Coverage", "prior weight",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("hit %s: %q is missing in\n%s", m.Portolan.HitID, want, &out)
			}
		}
		if c.Support.Trials == 1 && len(c.Alternatives) == 0 {
			single++
			if want := fmt.Sprintf("chance) = %.3g ", c.EValue); !strings.Contains(text, want) {
				t.Errorf("hit %s: %q is missing in\n%s", m.Portolan.HitID, want, &out)
			}
		}
	}
	if single < 3 {
		t.Errorf("%d hits that nothing came before: the test shows too little", single)
	}
}
