package hypothesis

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"

	"portolan/correlate/baseline"
)

func compiled(t testing.TB, kind Kind, expr string) *Program {
	t.Helper()
	p, err := Compile(Custom{ID: "t", Kind: kind, Expr: expr})
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return p
}

func TestExpressions(t *testing.T) {
	const x = 198<<24 | 51<<16 | 100<<8 | 23
	for _, tt := range []struct {
		what, expr string
		want       uint32
	}{
		{"the documented form", "a*b + c + 7", 10205},
		{"product before sum", "a + b*c", 198 + 51*100},
		{"shift binds like a product", "a + b<<8", 198 + 51<<8},
		{"and binds like a product", "a | c&6", 198 | 100&6},
		{"xor binds like a sum", "x ^ a + b", x ^ 198 + 51},
		{"left to right", "c - b - d", 100 - 51 - 23},
		{"division left to right", "x / a / b", x / 198 / 51},
		{"parentheses", "(a+b)*c", (198 + 51) * 100},
		{"below zero", "d - a", 1<<32 + 23 - 198},
		{"sign", "-d + x", x - 23},
		{"sign binds to what follows at once", "-a*b", 1<<32 - 198*51},
		{"two signs", "~-x", x - 1},
		{"complement", "~x", ^uint32(x)},
		{"hex", "x ^ 0xE7708e59", x ^ 0xE7708E59},
		{"largest number", "x & 4294967295", x},
		{"division by zero", "x / (a-198)", 0},
		{"remainder of division by zero", "x % (a-198)", 0},
		{"remainder", "1024 + x%64512", 1024 + x%64512},
		{"shift by 31", "x << 31", 1 << 31},
		{"shift by 32", "x << 32", 0},
		{"shift right by far too much", "x >> x", 0},
		{"little-endian word", "le", 23<<24 | 100<<16 | 51<<8 | 198},
		{"rotate left", "rol(x, 8)", 51<<24 | 100<<16 | 23<<8 | 198},
		{"rotate right", "ror(x,8)", 23<<24 | 198<<16 | 51<<8 | 100},
		{"rotate by 40", "rol(x, 40)", 51<<24 | 100<<16 | 23<<8 | 198},
		{"rotate right by -8", "ror(x, -8)", 51<<24 | 100<<16 | 23<<8 | 198},
		{"swapped bytes of a port", "swap16(lo(x))", 23<<8 | 100},
		{"swapped bytes of both halves", "swap16(x)", 51<<24 | 198<<16 | 23<<8 | 100},
		{"reversed", "rev(x)", 23<<24 | 100<<16 | 51<<8 | 198},
		{"halves", "hi(x) ^ lo(x)", (198<<8 | 51) ^ (100<<8 | 23)},
		{"octets in another order", "quad(c, d, a, b)", 100<<24 | 23<<16 | 198<<8 | 51},
		{"octets overflow alone", "quad(a+100, b-52, c, 512+d)", (298-256)<<24 | 255<<16 | 100<<8 | 23},
		{"calls within calls", "rol(quad(d,c,b,a), lo(a)-190)", bits.RotateLeft32(23<<24|100<<16|51<<8|198, 8)},
		{"no spaces", "a*b+c<<2|d", 198*51 + 100<<2 | 23},
		{"much space", " \t( a )\t", 198},
	} {
		steps, err := compile(tt.expr)
		if err != nil {
			t.Errorf("%s: %s: %v", tt.what, tt.expr, err)
			continue
		}
		if got := evaluate(steps, x); got != tt.want {
			t.Errorf("%s: %s = %d, want %d", tt.what, tt.expr, got, tt.want)
		}
	}
}

func TestWrongExpressionsNameTheColumn(t *testing.T) {
	for _, tt := range []struct {
		what, expr string
		column     int
		message    string // how it starts
	}{
		{"unknown name", "a*b + foo", 7, "unknown name foo; there are a, b, c, d, x, le, rol(v,n)"},
		{"capitals", "A*b", 1, "unknown name A"},
		{"nothing", "", 1, "a value was expected, not the end"},
		{"spaces only", "  ", 3, "a value was expected, not the end"},
		{"ends with an operator", "a +", 4, "a value was expected, not the end"},
		{"two operators", "a + * b", 5, "a value was expected, not *"},
		{"no operator", "a b", 3, "an operator was expected, not b"},
		{"number against name", "2a", 1, "2a is not a number"},
		{"not closed", "(a+b", 5, ") was expected, not the end"},
		{"not opened", "a+b)", 4, "an operator was expected, not )"},
		{"function without call", "rol + a", 5, "( was expected, not +"},
		{"too few values", "rol(x)", 6, "rol takes 2 values, not 1"},
		{"too many values", "rev(x, 1)", 6, "rev takes 1 values, not more"},
		{"call of a variable", "a(b)", 2, "an operator was expected, not ("},
		{"number of 33 bits", "x ^ 4294967296", 5, "4294967296 does not fit in 32 bits"},
		{"hex of 33 bits", "x ^ 0x100000000", 5, "0x100000000 does not fit in 32 bits"},
		{"hex without digits", "x ^ 0x", 5, "0x is not a number"},
		{"octal", "x ^ 017", 5, "017 is not a number: decimal ones do not start with 0"},
		{"a point", "1.5 * a", 2, `unexpected '.'`},
		{"typographic sign", "a·b+c", 2, `unexpected '·'`},
		{"not UTF-8", "a\xff", 2, `unexpected '�'`},
		{"one angle bracket", "a < b", 3, `unexpected '<'`},
		{"Go's and-not", "a &^ b", 4, "a value was expected, not ^"},
		{"line break", "a\n+b", 2, `unexpected '\n'`},
		{"too many steps", strings.Repeat("a+", 32) + "a", 64, "the expression takes more than 64 steps"},
		{"too long", strings.Repeat(" ", 256) + "a", 257, "the expression is longer than 256 characters"},
		{"deep", strings.Repeat("(", 256), 257, "a value was expected, not the end"},
	} {
		_, err := Compile(Custom{ID: "t", Expr: tt.expr})
		var ce *CustomError
		if !errors.As(err, &ce) {
			t.Errorf("%s: error %v, want a CustomError", tt.what, err)
			continue
		}
		if ce.Field != FieldExpr || ce.Column != tt.column || !strings.HasPrefix(ce.Message, tt.message) {
			t.Errorf("%s: %s: %v, want column %d: %s", tt.what, ce.Field, err, tt.column, tt.message)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error takes more than a line: %q", tt.what, err)
		}
	}
}

func TestPointlessHypothesesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		what string
		kind Kind
		expr string
		want string // start of the error, "" for none
	}{
		{"constant port", ToPort, "31337", "it gives port 31337 for 100 % of 4096 sampled answers"},
		{"constant in disguise", ToPort, "x*0 + 4444", "it gives port 4444 for 100 %"},
		{"mostly one port", ToPort, "20000 + a/200*b", "it gives port 20000 for"},
		{"few ports", ToPort, "1024 + d%3", ""},
		{"ordinary ports", ToPort, "8008 + x%2 + x/2%2*72", "it gives the port of a well-known service"},
		{"port is an octet", ToPort, "20000 + d", ""},
		{"constant address", ToAddress, "0xC6336417", "it gives 198.51.100.23 for 100 %"},
		{"identity", ToAddress, "quad(a,b,c,d)", "it gives the answer itself for 100 %"},
		{"identity for one answer in 64", ToAddress, "x ^ 0xE7708E59*((x%64+63)/64)", "it gives the answer itself for 1."},
		{"identity for one answer in 256", ToAddress, "quad(a,b,d,c)", ""},
		{"nobody's address", ToAddress, "x & 0xffffff", "it gives an address that no host can have for 100 %"},
		{"half swap", ToAddress, "rol(x, 16)", ""},
	} {
		_, err := Compile(Custom{ID: "t", Kind: tt.kind, Expr: tt.expr})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: %s: error %v, want %q", tt.what, tt.expr, err, tt.want)
		}
	}
}

func TestMeasure(t *testing.T) {
	const answers = 1 << 14
	near := func(got, want float64) bool { return got > .9*want && got < 1.1*want }

	m := compiled(t, ToPort, "c<<8 | d").Measure(answers)
	if !near(m.Chance, 1.0/65536) || m.Distinct < 12000 || m.CommonShare > .001 {
		t.Errorf("a formula that spreads evenly is measured as %+v", m)
	}
	m = compiled(t, ToPort, "8000 + d").Measure(answers)
	if m.Distinct != 256 || m.Pointless < 5./256 || m.Pointless > 9./256 || !near(m.Chance, baseline.Port(8001)) {
		t.Errorf("a formula with 256 results, seven of them ordinary ports, is measured as %+v", m)
	}
	m = compiled(t, ToAddress, "x ^ 0x12345678").Measure(answers)
	if m.Chance > 1.2*baseline.Floor || m.Same != 0 {
		t.Errorf("a transform far from the answer is measured as %+v", m)
	}
	m = compiled(t, ToAddress, "x ^ 1").Measure(answers)
	if !near(m.Chance, .05/256*224/256) {
		t.Errorf("a transform to the neighbour of the answer is measured as %+v", m)
	}
	if again := compiled(t, ToAddress, "x ^ 1").Measure(answers); again != m {
		t.Errorf("measured twice: %+v and %+v", m, again)
	}
}

func TestProgramDescribesItself(t *testing.T) {
	const x = 198<<24 | 51<<16 | 100<<8 | 23
	for _, tt := range []struct {
		custom         Custom
		id, name, expr string
		result         uint32
	}{
		{Custom{ID: "acme-1", Name: "Acme's", Expr: "a*b + c + 7"}, "U:acme-1", "Acme's", "a*b + c + 7 with 198.51.100.23 = 10205", 10205},
		{Custom{ID: "p", Expr: " a*b*c\t+1 "}, "U:p", "user formula", "a*b*c +1 with 198.51.100.23 = 1009801 mod 65536 = 26761", 26761},
		{Custom{ID: "s", Kind: ToAddress, Expr: "rol(x,16)"}, "U:s", "user transform", "rol(x,16) with 198.51.100.23 = 100.23.198.51",
			100<<24 | 23<<16 | 198<<8 | 51},
	} {
		p, err := Compile(tt.custom)
		if err != nil {
			t.Fatal(err)
		}
		if p.ID() != tt.id || p.Name() != tt.name || p.Expression(x) != tt.expr || p.Eval(x) != tt.result || p.Weight() != 1 {
			t.Errorf("%+v: %s, %s, %q, %d", tt.custom, p.ID(), p.Name(), p.Expression(x), p.Eval(x))
		}
	}
}

func TestLists(t *testing.T) {
	var many []Custom
	for i := range MaxCustom + 1 {
		many = append(many, Custom{ID: fmt.Sprint(i), Expr: fmt.Sprintf("a*b + %d", i)})
	}
	for _, tt := range []struct {
		what string
		list []Custom
		want string
	}{
		{"none", nil, ""},
		{"as many as can be", many[:MaxCustom], ""},
		{"one more", many, "hypothesis 32: at most 32 can be added"},
		{"an id twice", []Custom{{ID: "a", Expr: "a*b"}, {ID: "a", Kind: ToAddress, Expr: "rev(x)"}}, "hypothesis a: there are two with this id"},
		{"id with a colon", []Custom{{ID: "U:a", Expr: "a*b"}}, `hypothesis U:a: "U:a" is not an id`},
		{"no id", []Custom{{Expr: "a*b"}}, `hypothesis : "" is not an id`},
		{"long id", []Custom{{ID: strings.Repeat("a", 33), Expr: "a*b"}}, "hypothesis aaaa"},
		{"name with a line break", []Custom{{ID: "a", Name: "b\nc", Expr: "a*b"}}, `hypothesis a: "b\nc" is not a name`},
		{"wrong expression", []Custom{{ID: "a", Expr: "a*foo"}}, "hypothesis a: column 3: unknown name foo"},
	} {
		err := ValidateCustom(tt.list)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("%s: error %v, want %q", tt.what, err, tt.want)
		}
		var ce *CustomError
		if err != nil && (!errors.As(err, &ce) || ce.Index != len(tt.list)-1) {
			t.Errorf("%s: the error is about another than the last: %+v", tt.what, ce)
		}
	}

	all, err := CompileAll([]Custom{{ID: "p1", Expr: "a*b"}, {ID: "s", Kind: ToAddress, Expr: "rev(x)"}, {ID: "p2", Expr: "a*c"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Port) != 2 || len(all.Address) != 1 || all.Port[1].ID() != "U:p2" || all.Port[0].Weight() != .5 || all.Address[0].Weight() != 1 {
		t.Errorf("compiled to %+v", all)
	}
}

// node is an expression as a tree, with fully parenthesised text.
type node struct {
	text  string
	value func(x uint32) uint32
}

// randomNode makes an expression of at most 3^depth operands by chance.
func randomNode(r *rand.Rand, depth int) node {
	if depth == 0 || r.IntN(8) == 0 {
		n := r.Uint32() >> r.IntN(32)
		leaves := []node{
			{"a", func(x uint32) uint32 { return x >> 24 }},
			{"b", func(x uint32) uint32 { return x << 8 >> 24 }},
			{"c", func(x uint32) uint32 { return x << 16 >> 24 }},
			{"d", func(x uint32) uint32 { return x << 24 >> 24 }},
			{"x", func(x uint32) uint32 { return x }},
			{"le", func(x uint32) uint32 { return x<<24 | x>>8<<24>>8 | x>>16<<24>>16 | x>>24 }},
			{fmt.Sprint(n), func(uint32) uint32 { return n }},
			{fmt.Sprintf("0x%X", n), func(uint32) uint32 { return n }},
		}
		return leaves[r.IntN(len(leaves))]
	}
	v, w := randomNode(r, depth-1), randomNode(r, depth-1)
	both := func(format string, calc func(v, w uint64) uint64) node {
		return node{fmt.Sprintf(format, v.text, w.text), func(x uint32) uint32 {
			return uint32(calc(uint64(v.value(x)), uint64(w.value(x))))
		}}
	}
	one := func(format string, calc func(v uint64) uint64) node {
		return node{fmt.Sprintf(format, v.text), func(x uint32) uint32 { return uint32(calc(uint64(v.value(x)))) }}
	}
	switch r.IntN(18) {
	case 0:
		return both("(%s + %s)", func(v, w uint64) uint64 { return v + w })
	case 1:
		return both("(%s-%s)", func(v, w uint64) uint64 { return v + 1<<32 - w })
	case 2:
		return both("(%s * %s)", func(v, w uint64) uint64 { return v * w })
	case 3:
		return both("(%s/%s)", func(v, w uint64) uint64 {
			if w == 0 {
				return 0
			}
			return v / w
		})
	case 4:
		return both("(%s %% %s)", func(v, w uint64) uint64 {
			if w == 0 {
				return 0
			}
			return v % w
		})
	case 5:
		return both("(%s&%s)", func(v, w uint64) uint64 { return v & w })
	case 6:
		return both("(%s | %s)", func(v, w uint64) uint64 { return v | w })
	case 7:
		return both("(%s ^ %s)", func(v, w uint64) uint64 { return v ^ w })
	case 8:
		return both("(%s << %s)", func(v, w uint64) uint64 {
			if w >= 32 {
				return 0
			}
			return v << w
		})
	case 9:
		return both("(%s>>%s)", func(v, w uint64) uint64 { return v >> w })
	case 10:
		return both("rol(%s, %s)", func(v, w uint64) uint64 { return v<<(w%32) | v>>(32-w%32) })
	case 11:
		return both("ror(%s,%s)", func(v, w uint64) uint64 { return v>>(w%32) | v<<(32-w%32) })
	case 12:
		return one("(-%s)", func(v uint64) uint64 { return 1<<32 - v })
	case 13:
		return one("(~ %s)", func(v uint64) uint64 { return v ^ (1<<32 - 1) })
	case 14:
		return one("swap16(%s)", func(v uint64) uint64 { return v>>8&255 | v&255<<8 | v>>24<<16 | v>>16&255<<24 })
	case 15:
		return one("hi(%s)", func(v uint64) uint64 { return v / 65536 })
	case 16:
		return one("lo(%s)", func(v uint64) uint64 { return v % 65536 })
	}
	return both("quad(257, %s, 7, %s)", func(v, w uint64) uint64 { return 1<<24 | v%256<<16 | 7<<8 | w%256 })
}

// Every expression gives what a tree of closures over 64-bit words gives.
func TestEvaluationAgreesWithTrees(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	compiled := 0
	for range 20_000 {
		n := randomNode(r, 1+r.IntN(4))
		steps, err := compile(n.text)
		if err != nil {
			if len(n.text) <= maxExprText && !strings.Contains(err.Message, "more than 64 steps") {
				t.Fatalf("%s: %v", n.text, err)
			}
			continue
		}
		compiled++
		for range 4 {
			x := r.Uint32()
			if len(n.text)%8 == 0 {
				x &= 0x01ff0001 // octets that divide by 0
			}
			if got, want := evaluate(steps, x), n.value(x); got != want {
				t.Fatalf("%s with %s = %d, want %d", n.text, quad(x), got, want)
			}
		}
	}
	if compiled < 10_000 {
		t.Errorf("only %d of 20000 expressions compiled", compiled)
	}
}

// Operators without parentheses group as in a naive reading: the last of the weakest ones is the root.
func TestPrecedenceAgreesWithSplitting(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var split func(terms []uint32, ops []string) uint32
	split = func(terms []uint32, ops []string) uint32 {
		if len(ops) == 0 {
			return terms[0]
		}
		root := len(ops) - 1
		for i := len(ops) - 1; i >= 0; i-- {
			if strings.Contains("+-|^", ops[i]) {
				root = i
				break
			}
		}
		v, w := split(terms[:root+1], ops[:root]), split(terms[root+1:], ops[root+1:])
		switch ops[root] {
		case "+":
			return v + w
		case "-":
			return v - w
		case "|":
			return v | w
		case "^":
			return v ^ w
		case "*":
			return v * w
		case "&":
			return v & w
		case "<<":
			return v << w
		}
		return v >> w
	}
	all := []string{"+", "-", "|", "^", "*", "&", "<<", ">>"}
	for range 20_000 {
		terms, ops := []uint32{r.Uint32N(1000)}, []string(nil)
		text := fmt.Sprint(terms[0])
		for range r.IntN(8) {
			op, term := all[r.IntN(len(all))], r.Uint32N(1000)
			if op == "<<" || op == ">>" {
				term %= 8
			}
			terms, ops = append(terms, term), append(ops, op)
			text += op + fmt.Sprint(term)
		}
		steps, err := compile(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got, want := evaluate(steps, 0), split(terms, ops); got != want {
			t.Fatalf("%s = %d, want %d", text, got, want)
		}
	}
}

func TestEvalDoesNotAllocate(t *testing.T) {
	p := compiled(t, ToAddress, "rol(quad(d, c, b, a) ^ 0xCAFEBABE, 3) + x/(a+1) - swap16(le)")
	x := uint32(1)
	if n := testing.AllocsPerRun(1000, func() { x = p.Eval(x) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// FuzzCompile: no text panics; what is refused is refused on one line at a column that is
// there, and what is taken is within bounds and has a value for every answer.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"a*b + c", "rol(x, 3) ^ 0xFF", "quad(c,d,a,b)", "((a", "~-~x", "x / 0", "1 << 99", "rol(", "0x", "é", "a,b", ")"} {
		f.Add(s, uint32(0xC6336417))
	}
	f.Fuzz(func(t *testing.T, text string, x uint32) {
		steps, err := compile(text)
		if err != nil {
			if err.Column < 1 || err.Column > len(text)+1 || err.Message == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: error %q at column %d", text, err, err.Column)
			}
			return
		}
		if len(steps) == 0 || len(steps) > maxExprSteps {
			t.Errorf("%q: %d steps", text, len(steps))
		}
		y := evaluate(steps, x)
		if spaced, err := compile("(" + text + ")"); err == nil && evaluate(spaced, x) != y {
			t.Errorf("%q with %s = %d, in parentheses %d", text, quad(x), y, evaluate(spaced, x))
		}
		for _, x := range []uint32{0, 1, 1<<32 - 1, 0x01000000} {
			evaluate(steps, x)
		}
	})
}

func BenchmarkEval(b *testing.B) {
	p := compiled(b, ToPort, "a*b + c + 7")
	b.ReportAllocs()
	x := uint32(0xC6336417)
	for b.Loop() {
		x += p.Eval(x)
	}
}
