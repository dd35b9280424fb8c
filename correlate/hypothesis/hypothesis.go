// Package hypothesis is the catalogue of calculations that turn an answer into a port
// or into another address (DETECTION, sections 2 and 3), and the code that tries them.
//
// A formula calculates a port and is tried forwards. A transform calculates an address
// and is tried backwards: its inverse is applied to the destination, so that the cost
// does not grow with the number of answers. Hypotheses are grouped into mixtures; within
// one mixture the prior weights add up to at most 1.
package hypothesis

import "fmt"

// Mixture names a group of hypotheses whose weights add up to at most 1 and whose
// e-values are averaged with those weights.
type Mixture uint8

// The mixtures. Each is an e-process of its own.
const (
	Port4         Mixture = iota // answer a.b.c.d to port
	Port6                        // AAAA answer to port
	AddressA                     // A or AAAA answer to IPv4 destination
	AddressT                     // TXT answer to IPv4 destination
	CustomPort                   // the operator's own: A answer to port
	CustomAddress                // the operator's own: A answer to IPv4 destination
	NumMixtures
)

var mixtureNames = [...]string{Port4: "port", Port6: "port-v6", AddressA: "address", AddressT: "address-txt", CustomPort: "port-custom", CustomAddress: "address-custom"}

// String returns the mixture's name as it stands in listings.
func (m Mixture) String() string { return mixtureNames[m] }

// Hypothesis is one entry of the catalogue.
type Hypothesis struct {
	ID      string // stable, such as "P1" or "A3:E7708E59"
	Name    string // for people, such as "mul-add"
	Formula string // in the octets a, b, c, d or the big-endian word x of the answer
	Mixture Mixture
	Weight  float64 // prior weight, 0 to 1
}

// Via says how an operand was read from a record.
type Via uint8

// The ways to an operand. A destination is compared with transforms of an A answer, with
// four words of an AAAA answer, and with what a TXT answer decodes to.
const (
	ViaA         Via = iota
	ViaAAAA          // the whole address; formulas of Port6 use it
	ViaAAAA12        // bytes 12 to 15
	ViaAAAA4         // bytes 4 to 7
	ViaAAAA8         // bytes 8 to 11
	ViaAAAA0         // bytes 0 to 3
	ViaTXTPlain      // a TXT that is an IPv4 address, with or without a port
	ViaTXTHex        // eight hex digits, or twelve with a port
	ViaTXTBase64     // base64 of four bytes, or six with a port
	numVia
)

var viaNames = [...]string{"a", "aaaa", "aaaa[12:16]", "aaaa[4:8]", "aaaa[8:12]", "aaaa[0:4]", "txt-plain", "txt-hex", "txt-base64"}

// String returns the way's name as it stands in messages.
func (v Via) String() string { return viaNames[v] }

// Embedded lists the ways to take four bytes out of an AAAA answer, likeliest first, with
// the offset of the first byte and the share of weight.
var Embedded = [...]struct {
	Via    Via
	Offset int
	share  float64
}{{ViaAAAA12, 12, .4}, {ViaAAAA4, 4, .3}, {ViaAAAA8, 8, .15}, {ViaAAAA0, 0, .15}}

// txtShare is the prior share of each way of writing an address into a TXT record.
var txtShare = [numVia]float64{ViaTXTPlain: .2, ViaTXTHex: .2, ViaTXTBase64: .6}

// Catalogue returns every hypothesis in force, those with a constant to be learned last. The caller
// owns the slice.
func Catalogue() []Hypothesis {
	var all []Hypothesis
	for i, f := range formulas {
		w := Formula(i)
		all = append(all, Hypothesis{f.id, f.name, f.text, Port4, w.weight()})
	}
	for i, f := range formulas {
		w := Formula(i) | swapped
		all = append(all, Hypothesis{w.ID(), w.Name(), "bytes of the result swapped: " + f.text, Port4, w.weight()})
	}
	for g := range Group(NumGroups) {
		all = append(all, Hypothesis{g.ID(), g.Name(), g.text(), Port6, g.Weight()})
	}
	for v := range numVia {
		if v == ViaAAAA {
			continue
		}
		for t := range NumTransforms {
			w := t.Weight(v)
			if w == 0 {
				continue
			}
			m := AddressA
			if v >= ViaTXTPlain {
				m = AddressT
			}
			id, name := t.In(v)
			all = append(all, Hypothesis{id, name, t.text(), m, w})
		}
	}
	return append(all, learnedCatalogue()...)
}

// quad writes x as dotted octets.
func quad(x uint32) string {
	return fmt.Sprintf("%d.%d.%d.%d", x>>24, x>>16&255, x>>8&255, x&255)
}
