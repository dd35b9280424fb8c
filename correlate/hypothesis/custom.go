package hypothesis

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"portolan/correlate/baseline"
)

// Kind says what a calculation gives.
type Kind uint8

// The kinds.
const (
	ToPort    Kind = iota // the lowest 16 bits are a port
	ToAddress             // the word is an IPv4 address, big-endian
)

// String returns the kind as configuration names it.
func (k Kind) String() string {
	if k == ToAddress {
		return "address"
	}
	return "port"
}

// Custom is a calculation from an A answer that the operator wrote.
//
// The expression is unsigned arithmetic modulo 2^32 over the answer's octets a, b, c and d,
// its big-endian word x and its little-endian word le. It has the operators of Go with their
// precedence, * / % << >> & before + - | ^, the signs - and ~, parentheses, decimal and 0x
// numbers, and the functions
//
//	rol(v,n) ror(v,n)  v rotated by n mod 32 bits
//	rev(v)             the four bytes of v in reverse order
//	swap16(v)          the two bytes of each half of v exchanged
//	hi(v) lo(v)        the upper or lower 16 bits of v
//	quad(a,b,c,d)      a word of the lowest 8 bits of each
//
// What is divided by 0 is 0, and so is what is shifted by 32 or more.
type Custom struct {
	ID   string // 1 to 32 letters, digits, - and _; listed with "U:" before it
	Name string // for people, at most 64 characters; may be empty
	Kind Kind
	Expr string // at most 256 bytes, and 64 numbers, names, operators and calls
}

// MaxCustom is how many hypotheses an operator can add.
const MaxCustom = 32

// Fields of Custom as CustomError names them.
const (
	FieldID   = "id"
	FieldName = "name"
	FieldExpr = "expression"
)

// CustomError is what is wrong with a hypothesis that the operator wrote.
type CustomError struct {
	Index   int    // of the hypothesis in its list, from 0
	Field   string // FieldID, FieldName or FieldExpr
	Column  int    // of the expression, in bytes from 1; 0 when no place in it is to blame
	Message string
}

// Error returns the message on one line, with the column before it.
func (e *CustomError) Error() string {
	if e.Column > 0 {
		return fmt.Sprintf("column %d: %s", e.Column, e.Message)
	}
	return e.Message
}

// Program is a Custom in force. It does not change, and is safe for concurrent use.
type Program struct {
	custom Custom
	steps  []step
	weight float64
}

var customID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// How much of a sample of answers may give a result that says nothing, before the
// hypothesis is refused.
const (
	checkedAnswers = 1 << 12
	maxSame        = .01
	maxCommon      = .5
	maxPointless   = .5
)

// Compile checks c and makes a Program of it, with all the weight of its mixture. It
// refuses what a sample of answers shows to be no calculation: a constant, the answer
// itself, or ports and addresses that no hypothesis is tried on. An error is a *CustomError.
func Compile(c Custom) (*Program, error) {
	p, err := compileCustom(c)
	if err != nil { // a nil *CustomError would be an error that is not nil
		return nil, err
	}
	return p, nil
}

func compileCustom(c Custom) (*Program, *CustomError) {
	if !customID.MatchString(c.ID) {
		return nil, &CustomError{Field: FieldID, Message: fmt.Sprintf("%q is not an id of 1 to 32 letters, digits, - and _", c.ID)}
	}
	unfit := func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune("()=;", r) }
	if utf8.RuneCountInString(c.Name) > 64 || !utf8.ValidString(c.Name) || strings.ContainsFunc(c.Name, unfit) {
		return nil, &CustomError{Field: FieldName, Message: fmt.Sprintf("%q is not a name of at most 64 printable characters without ( ) = ;", c.Name)}
	}
	steps, bad := compile(c.Expr)
	if bad != nil {
		return nil, bad
	}
	p := &Program{custom: c, steps: steps, weight: 1}
	if reason := p.pointless(p.Measure(checkedAnswers)); reason != "" {
		return nil, &CustomError{Field: FieldExpr, Message: reason}
	}
	return p, nil
}

// Programs are the hypotheses of an operator, by what they give, in the order of the configuration.
type Programs struct{ Port, Address []*Program }

// CompileAll checks and compiles a whole list. Those of one kind share its mixture evenly.
// An error wraps a *CustomError.
func CompileAll(list []Custom) (Programs, error) {
	var all Programs
	for i, c := range list {
		p, err := compileNext(list[:i], c)
		if err != nil {
			err.Index = i
			return Programs{}, fmt.Errorf("hypothesis %s: %w", c.ID, err)
		}
		if c.Kind == ToAddress {
			all.Address = append(all.Address, p)
		} else {
			all.Port = append(all.Port, p)
		}
	}
	for _, of := range [...][]*Program{all.Port, all.Address} {
		for _, p := range of {
			p.weight = 1 / float64(len(of))
		}
	}
	return all, nil
}

// compileNext compiles c, which stands behind others in a list.
func compileNext(before []Custom, c Custom) (*Program, *CustomError) {
	if len(before) == MaxCustom {
		return nil, &CustomError{Field: FieldID, Message: fmt.Sprintf("at most %d can be added", MaxCustom)}
	}
	if slices.ContainsFunc(before, func(o Custom) bool { return o.ID == c.ID }) {
		return nil, &CustomError{Field: FieldID, Message: "there are two with this id"}
	}
	return compileCustom(c)
}

// ValidateCustom checks a whole list. An error wraps a *CustomError.
func ValidateCustom(list []Custom) error {
	_, err := CompileAll(list)
	return err
}

// Eval returns what p makes of the answer x, read as a big-endian word: a port from 0 to
// 65535, or an IPv4 address. It has a value for every x and does not allocate.
func (p *Program) Eval(x uint32) uint32 {
	y := evaluate(p.steps, x)
	if p.custom.Kind == ToPort {
		y &= 0xffff
	}
	return y
}

// ID returns the id as listings and hits show it.
func (p *Program) ID() string { return "U:" + p.custom.ID }

// Name returns the operator's name for it, or what it is when it has none.
func (p *Program) Name() string {
	switch {
	case p.custom.Name != "":
		return p.custom.Name
	case p.custom.Kind == ToAddress:
		return "user transform"
	}
	return "user formula"
}

// Kind returns what p gives.
func (p *Program) Kind() Kind { return p.custom.Kind }

// Formula returns the expression as the operator wrote it.
func (p *Program) Formula() string { return strings.Join(strings.Fields(p.custom.Expr), " ") }

// Weight returns the prior weight of p in its mixture: one part of as many as there are.
func (p *Program) Weight() float64 { return p.weight }

// Expression writes the arithmetic with the answer put in, such as
// "a*b + c + 7 with 198.51.100.23 = 10205".
func (p *Program) Expression(x uint32) string {
	y := evaluate(p.steps, x)
	if p.custom.Kind == ToAddress {
		return fmt.Sprintf("%s with %s = %s", p.Formula(), quad(x), quad(y))
	}
	s := fmt.Sprintf("%s with %s = %d", p.Formula(), quad(x), y)
	if y > 0xffff {
		s += fmt.Sprintf(" mod 65536 = %d", y&0xffff)
	}
	return s
}

// Measured is what a Program did with a sample of answers. Shares are from 0 to 1.
type Measured struct {
	Answers     int     // in the sample
	Distinct    int     // results
	Common      uint32  // the commonest result
	CommonShare float64 // of the answers that gave it
	Same        float64 // share of answers that came out as they were
	// Pointless is the share of results that no connection is tried against: ordinary ports,
	// addresses that no host can have.
	Pointless float64
	// Chance is the probability that a port or destination drawn from the baseline, given the answer, is
	// the result. It is high for addresses near the answer: neighbours are contacted without any calculation.
	Chance float64
}

// Measure runs p on a number of answers, at least 1, spread over all of IPv4: the same each time.
func (p *Program) Measure(answers int) Measured {
	random := rand.New(rand.NewPCG(0, 0))
	m := Measured{Answers: answers}
	each := 1 / float64(answers)
	results := make([]uint32, answers)
	for i := range results {
		x := random.Uint32()
		y := p.Eval(x)
		results[i] = y
		if x == y {
			m.Same += each
		}
		if q := p.chance(x, y); q > 0 {
			m.Chance += q * each
		} else {
			m.Pointless += each
		}
	}
	slices.Sort(results)
	for i := 0; i < answers; {
		n := 1
		for i+n < answers && results[i+n] == results[i] {
			n++
		}
		m.Distinct++
		if share := float64(n) * each; share > m.CommonShare {
			m.Common, m.CommonShare = results[i], share
		}
		i += n
	}
	return m
}

// chance returns the probability of the result y by the baseline when x is the answer, 0
// when no trial can have it.
func (p *Program) chance(x, y uint32) float64 {
	if p.custom.Kind == ToPort {
		return baseline.Port(uint16(y))
	}
	if !baseline.Reachable(y) || x == y {
		return 0
	}
	var near baseline.Near
	near.Measure(x, y)
	return baseline.Destination(y, 0, &near)
}

// pointless says why a hypothesis with these measurements proves nothing; "" when it can.
func (p *Program) pointless(m Measured) string {
	share := func(f float64) string { return fmt.Sprintf("for %.3g %% of %d sampled answers", 100*f, m.Answers) }
	address := p.custom.Kind == ToAddress
	switch {
	case address && m.Same > maxSame:
		return fmt.Sprintf("it gives the answer itself %s: going there takes no calculation", share(m.Same))
	case m.CommonShare > maxCommon && address:
		return fmt.Sprintf("it gives %s %s: a constant is not calculated", quad(m.Common), share(m.CommonShare))
	case m.CommonShare > maxCommon:
		return fmt.Sprintf("it gives port %d %s: a constant is not calculated", m.Common, share(m.CommonShare))
	case m.Pointless > maxPointless && address:
		return fmt.Sprintf("it gives an address that no host can have %s", share(m.Pointless))
	case m.Pointless > maxPointless:
		return fmt.Sprintf("it gives the port of a well-known service, which proves nothing, %s", share(m.Pointless))
	}
	return ""
}
