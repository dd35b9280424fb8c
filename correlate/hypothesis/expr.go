package hypothesis

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Bounds of an expression: of its text in bytes, and of what it is compiled to in steps.
// There is no loop, so they bound the time of one evaluation too.
const (
	maxExprText  = 256
	maxExprSteps = 64
)

// opcode is what one step does. Operands push a word; the others replace as many words as
// they take by their result.
type opcode uint8

const (
	opNumber opcode = iota
	opA
	opB
	opC
	opD
	opX
	opLE // the last operand

	opNegate
	opNot
	opSwap16
	opReverse
	opLow
	opHigh // the last that takes one word

	opAdd
	opSub
	opMul
	opDiv
	opMod
	opAnd
	opOr
	opXor
	opLeft
	opRight
	opRotateLeft
	opRotateRight // the last that takes two

	opQuad // takes four
)

// step is one instruction of a stack machine on 32-bit words.
type step struct {
	op     opcode
	number uint32 // of opNumber
}

// variables are the names of operands.
var variables = [...]struct {
	name string
	op   opcode
}{{"a", opA}, {"b", opB}, {"c", opC}, {"d", opD}, {"x", opX}, {"le", opLE}}

// functions are called by name, with as many values as they take.
var functions = [...]struct {
	name  string
	takes int
	op    opcode
}{
	{"rol", 2, opRotateLeft}, {"ror", 2, opRotateRight}, {"swap16", 1, opSwap16}, {"rev", 1, opReverse},
	{"lo", 1, opLow}, {"hi", 1, opHigh}, {"quad", 4, opQuad},
}

// names lists what an expression can be made of, for whoever mistyped one of them.
const names = "there are a, b, c, d, x, le, rol(v,n), ror(v,n), swap16(v), rev(v), lo(v), hi(v), quad(a,b,c,d)"

// operators are those between two values, with Go's precedence.
var operators = [...]struct {
	text       string
	precedence int
	op         opcode
}{
	{"*", 2, opMul}, {"/", 2, opDiv}, {"%", 2, opMod}, {"<<", 2, opLeft}, {">>", 2, opRight}, {"&", 2, opAnd},
	{"+", 1, opAdd}, {"-", 1, opSub}, {"|", 1, opOr}, {"^", 1, opXor},
}

// evaluate runs steps, which compile made, on the answer x.
func evaluate(steps []step, x uint32) uint32 {
	var stack [maxExprSteps]uint32
	n := 0
	for i := range steps {
		switch s := &steps[i]; {
		case s.op <= opLE:
			stack[n] = s.operand(x)
			n++
		case s.op <= opHigh:
			stack[n-1] = ofOne(s.op, stack[n-1])
		case s.op <= opRotateRight:
			n--
			stack[n-1] = ofTwo(s.op, stack[n-1], stack[n])
		default:
			n -= 3
			stack[n-1] = stack[n-1]<<24 | stack[n]&255<<16 | stack[n+1]&255<<8 | stack[n+2]&255
		}
	}
	return stack[0]
}

func (s *step) operand(x uint32) uint32 {
	switch s.op {
	case opA:
		return x >> 24
	case opB:
		return x >> 16 & 255
	case opC:
		return x >> 8 & 255
	case opD:
		return x & 255
	case opX:
		return x
	case opLE:
		return bits.ReverseBytes32(x)
	}
	return s.number
}

func ofOne(op opcode, v uint32) uint32 {
	switch op {
	case opNegate:
		return -v
	case opNot:
		return ^v
	case opSwap16:
		return v&0x00ff00ff<<8 | v>>8&0x00ff00ff
	case opReverse:
		return bits.ReverseBytes32(v)
	case opLow:
		return v & 0xffff
	}
	return v >> 16
}

func ofTwo(op opcode, v, w uint32) uint32 {
	switch op {
	case opAdd:
		return v + w
	case opSub:
		return v - w
	case opMul:
		return v * w
	case opAnd:
		return v & w
	case opOr:
		return v | w
	case opXor:
		return v ^ w
	case opLeft:
		return v << w
	case opRight:
		return v >> w
	case opRotateLeft:
		return bits.RotateLeft32(v, int(w&31))
	case opRotateRight:
		return bits.RotateLeft32(v, -int(w&31))
	}
	if w == 0 { // of division, so that every expression has a value
		return 0
	}
	if op == opDiv {
		return v / w
	}
	return v % w
}

// token is what the text of an expression consists of.
type token struct {
	kind   tokenKind
	text   string
	column int // of its first byte, from 1
}

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenNumber
	tokenName
	tokenMark // an operator, a parenthesis or a comma
)

// String returns the token as errors name it.
func (t token) String() string {
	if t.kind == tokenEnd {
		return "the end"
	}
	return t.text
}

// compiler turns text into steps by recursive descent, whose depth the length of the text
// bounds. After the first error all that is left of the text is its end.
type compiler struct {
	text  string
	at    int // offset of what follows tok
	tok   token
	steps []step
	err   *CustomError
}

// compile returns the steps of an expression.
func compile(text string) ([]step, *CustomError) {
	c := compiler{text: text}
	if len(text) > maxExprText {
		c.fail(maxExprText+1, "the expression is longer than %d characters", maxExprText)
		return nil, c.err
	}
	c.next()
	c.expression(1)
	if c.tok.kind != tokenEnd {
		c.fail(c.tok.column, "an operator was expected, not %s", c.tok)
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.steps, nil
}

func (c *compiler) fail(column int, format string, args ...any) {
	if c.err == nil {
		c.err = &CustomError{Field: FieldExpr, Column: column, Message: fmt.Sprintf(format, args...)}
	}
	c.tok = token{kind: tokenEnd, column: column}
	c.at = len(c.text)
}

// next reads the token that follows.
func (c *compiler) next() {
	for c.at < len(c.text) && (c.text[c.at] == ' ' || c.text[c.at] == '\t') {
		c.at++
	}
	from := c.at
	c.tok = token{column: from + 1}
	if from == len(c.text) {
		return
	}
	switch b := c.text[from]; {
	case isDigit(b) || isLetter(b):
		for c.at < len(c.text) && (isDigit(c.text[c.at]) || isLetter(c.text[c.at])) {
			c.at++
		}
		c.tok.kind = tokenName
		if isDigit(b) {
			c.tok.kind = tokenNumber
		}
	case strings.HasPrefix(c.text[from:], "<<"), strings.HasPrefix(c.text[from:], ">>"):
		c.tok.kind = tokenMark
		c.at += 2
	case strings.IndexByte("+-*/%&|^~(),", b) >= 0:
		c.tok.kind = tokenMark
		c.at++
	default:
		for _, r := range c.text[from:] {
			c.fail(from+1, "unexpected %q", r)
			return
		}
	}
	c.tok.text = c.text[from:c.at]
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

func isLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_' }

// expression compiles a value and the operators after it that bind at least as strongly.
func (c *compiler) expression(precedence int) {
	c.value()
	for c.tok.kind == tokenMark {
		found := false
		for _, o := range operators {
			if o.text != c.tok.text || o.precedence < precedence {
				continue
			}
			found = true
			at := c.tok.column
			c.next()
			c.expression(o.precedence + 1)
			c.emit(at, step{op: o.op})
			break
		}
		if !found {
			return
		}
	}
}

// value compiles a number, a variable, a call, what stands in parentheses, or one of
// these with a sign before it.
func (c *compiler) value() {
	t := c.tok
	switch {
	case t.kind == tokenNumber:
		c.emit(t.column, step{number: c.number(t)})
		c.next()
	case t.kind == tokenName:
		c.next()
		c.named(t)
	case t.text == "-", t.text == "~":
		c.next()
		c.value()
		op := opNegate
		if t.text == "~" {
			op = opNot
		}
		c.emit(t.column, step{op: op})
	case t.text == "(":
		c.next()
		c.expression(1)
		c.expect(")")
	default:
		c.fail(t.column, "a value was expected, not %s", t)
	}
}

func (c *compiler) number(t token) uint32 {
	digits, base := t.text, 10
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		digits, base = hex, 16
	} else if len(digits) > 1 && digits[0] == '0' {
		c.fail(t.column, "%s is not a number: decimal ones do not start with 0", t)
		return 0
	}
	n, err := strconv.ParseUint(digits, base, 32)
	switch {
	case err == nil:
		return uint32(n)
	case strings.Trim(digits, "0123456789abcdefABCDEF") == "" && len(digits) > 8:
		c.fail(t.column, "%s does not fit in 32 bits", t)
	default:
		c.fail(t.column, "%s is not a number", t)
	}
	return 0
}

func (c *compiler) named(t token) {
	for _, v := range variables {
		if v.name == t.text {
			c.emit(t.column, step{op: v.op})
			return
		}
	}
	for _, f := range functions {
		if f.name == t.text {
			c.call(t, f.takes, f.op)
			return
		}
	}
	c.fail(t.column, "unknown name %s; %s", t, names)
}

func (c *compiler) call(t token, takes int, op opcode) {
	c.expect("(")
	for i := range takes {
		if i > 0 {
			if c.tok.text == ")" {
				c.fail(c.tok.column, "%s takes %d values, not %d", t, takes, i)
			}
			c.expect(",")
		}
		c.expression(1)
	}
	if c.tok.text == "," {
		c.fail(c.tok.column, "%s takes %d values, not more", t, takes)
	}
	c.expect(")")
	c.emit(t.column, step{op: op})
}

func (c *compiler) expect(mark string) {
	if c.tok.text != mark {
		c.fail(c.tok.column, "%s was expected, not %s", mark, c.tok)
		return
	}
	c.next()
}

func (c *compiler) emit(column int, s step) {
	if len(c.steps) == maxExprSteps {
		c.fail(column, "the expression takes more than %d steps: each number, name, operator and call is one", maxExprSteps)
		return
	}
	c.steps = append(c.steps, s)
}
