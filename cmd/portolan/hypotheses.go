package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"unicode/utf8"

	"portolan/correlate/baseline"
	"portolan/correlate/hypothesis"
)

func hypothesesCommand() *command {
	return &command{
		name:  "hypotheses",
		brief: "prints the calculations that are looked for, with weight and chance",
		usage: []string{"portolan hypotheses [--json] [--hypothesis LIST] [--config FILE]"},
		about: fmt.Sprintf(`Prints every formula (answer to port) and transform (answer to address) that is tried. The
answer is a.b.c.d, or x as a big-endian word. Weights are prior, and add up to at most 1 in
each group. The chance is that of one match by accident: for a port formula, that a client
which picks an unusual port by the baseline picks the calculated one, measured over
%d answers; for a transform, that a random destination is what it makes of one answer.

Yours come last; ids start with U. An expression has the octets a b c d, the word x, or le
with its bytes reversed; numbers, 0x too; ( ) * / %% << >> & + - | ^ ~ with Go's precedence;
rol(v,n) ror(v,n) rev(v) swap16(v) hi(v) lo(v) quad(a,b,c,d). Values are 32 bits wide, a port
the lowest 16; division by 0 gives 0. Their chances are measured likewise: one far above
those of the others names addresses near the answer, which clients contact anyway.`, sampleAnswers),
		example: []string{"portolan hypotheses | head -20", "portolan hypotheses --hypothesis 'acme=port:a*b + c + 7' | tail -3"},
		declare: func(o *options) action {
			asJSON := false
			o.bool(&asJSON, "json", "print one JSON object a hypothesis")
			o.settings("hypotheses")
			return func(_ context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("hypotheses: takes no arguments, got %q", args[0])
				}
				c, err := o.load(p)
				if err != nil {
					return err
				}
				custom, err := hypothesis.CompileAll(c.Correlate.Hypotheses)
				if err != nil {
					return err
				}
				list := append(measured(), measuredCustom(custom)...)
				if asJSON {
					return writeHypothesesJSON(p.stdout, list)
				}
				return writeHypotheses(p.stdout, list)
			}
		},
	}
}

// measuredHypothesis is an entry of the catalogue with its chance of one accidental match.
type measuredHypothesis struct {
	hypothesis.Hypothesis
	chance float64 // 0 when it depends on what was learned before
}

// sampleAnswers is how many random answers the chance of port formulas is measured over.
const sampleAnswers = 1 << 16

// measured returns the catalogue with chance rates. The answers drawn are the same each time.
func measured() []measuredHypothesis {
	ports := portChances()
	var list []measuredHypothesis
	for _, h := range hypothesis.Catalogue() {
		m := measuredHypothesis{Hypothesis: h, chance: ports[h.ID]}
		if h.Mixture == hypothesis.AddressA || h.Mixture == hypothesis.AddressT {
			m.chance = baseline.Floor
		}
		list = append(list, m)
	}
	return list
}

// measuredCustom returns the operator's hypotheses with chance rates.
func measuredCustom(all hypothesis.Programs) []measuredHypothesis {
	var list []measuredHypothesis
	add := func(programs []*hypothesis.Program, m hypothesis.Mixture) {
		for _, p := range programs {
			h := hypothesis.Hypothesis{ID: p.ID(), Name: p.Name(), Formula: p.Formula(), Mixture: m, Weight: p.Weight()}
			list = append(list, measuredHypothesis{h, p.Measure(sampleAnswers).Chance})
		}
	}
	add(all.Port, hypothesis.CustomPort)
	add(all.Address, hypothesis.CustomAddress)
	return list
}

// portChances returns, by id, the probability that a port drawn from the baseline is what
// a formula makes of a random answer.
func portChances() map[string]float64 {
	random := rand.New(rand.NewPCG(0, 0))
	chances := map[string]float64{}
	var ids, groups []string
	for f := range hypothesis.Formula(hypothesis.NumFormulas / 2) {
		ids = append(ids, f.ID(), f.ID()+"~") // as hypothesis.Ports: each formula, then its bytes swapped
	}
	for g := range hypothesis.Group(hypothesis.NumGroups) {
		groups = append(groups, g.ID())
	}
	var ports []uint16
	for range sampleAnswers {
		ports = hypothesis.Ports(ports[:0], random.Uint32())
		for i, port := range ports {
			chances[ids[i]] += baseline.Port(port) / sampleAnswers
		}
		var ip [16]byte
		binary.BigEndian.PutUint64(ip[:], 0x20010db8<<32|uint64(random.Uint32()))
		binary.BigEndian.PutUint64(ip[8:], random.Uint64())
		ports = hypothesis.Ports6(ports[:0], &ip)
		for i, port := range ports {
			chances[groups[i]] += baseline.Port(port) / sampleAnswers
		}
	}
	return chances
}

func writeHypothesesJSON(w io.Writer, list []measuredHypothesis) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, h := range list {
		err := e.Encode(struct {
			ID      string  `json:"id"`
			Name    string  `json:"name"`
			Formula string  `json:"formula"`
			Group   string  `json:"group"`
			Weight  float64 `json:"weight"`
			Chance  float64 `json:"chance,omitempty"`
		}{h.ID, h.Name, h.Formula, h.Mixture.String(), h.Weight, h.chance})
		if err != nil {
			return err
		}
	}
	return nil
}

// mixtureTitle says for people what a group calculates, and from what.
func mixtureTitle(m hypothesis.Mixture) string {
	switch m {
	case hypothesis.Port4:
		return "From an A answer to the port"
	case hypothesis.Port6:
		return "From an AAAA answer to the port"
	case hypothesis.AddressA:
		return "From an A or AAAA answer to the IPv4 destination"
	case hypothesis.CustomPort:
		return "Yours, from an A answer to the port"
	case hypothesis.CustomAddress:
		return "Yours, from an A answer to the IPv4 destination"
	}
	return "From a TXT answer to the IPv4 destination"
}

func writeHypotheses(w io.Writer, list []measuredHypothesis) error {
	idWidth, nameWidth := 0, 0
	for _, h := range list {
		idWidth, nameWidth = max(idWidth, len(h.ID)), max(nameWidth, utf8.RuneCountInString(h.Name))
	}
	var b strings.Builder
	for m := range hypothesis.NumMixtures {
		n, weight, chance := 0, 0.0, 0.0
		var rows strings.Builder
		for _, h := range list {
			if h.Mixture != m {
				continue
			}
			n++
			weight += h.Weight
			chance += h.chance
			one := "-"
			if h.chance > 0 {
				one = fmt.Sprintf("%.2g", h.chance)
			}
			fmt.Fprintf(&rows, "  %-*s  %-*s  %7.5f  %8s  %s\n", idWidth, h.ID, nameWidth, h.Name, h.Weight, one, h.Formula)
		}
		if n == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s: %s, weight %.3f, together by chance %.2g\n", mixtureTitle(m), count(n, "hypothesis", "hypotheses"), weight, chance)
		fmt.Fprintf(&b, "  %-*s  %-*s  %7s  %8s  %s\n%s\n", idWidth, "id", nameWidth, "name", "weight", "chance", "calculation", rows.String())
	}
	_, err := io.WriteString(w, strings.TrimSuffix(b.String(), "\n"))
	return err
}
