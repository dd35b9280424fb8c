package config

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"portolan/correlate/hypothesis"
)

func TestHypothesesInTheFile(t *testing.T) {
	want := []hypothesis.Custom{
		{ID: "acme", Name: "Acme's sum", Kind: hypothesis.ToPort, Expr: "a*b + c + 7"},
		{ID: "7", Kind: hypothesis.ToAddress, Expr: "quad(c, d, a, b) ^ 0xFF"},
	}
	for _, tt := range []struct{ what, text string }{
		{"lines", "hypotheses:\n  - id: acme\n    name: Acme's sum\n    port: a*b + c + 7\n  - id: 7\n    address: quad(c, d, a, b) ^ 0xFF\n"},
		{"braces", "hypotheses: [{id: acme, name: \"Acme's sum\", port: a*b + c + 7}, {id: '7', address: 'quad(c, d, a, b) ^ 0xFF'}]\n"},
		{"folded", "hypotheses:\n- {id: acme, name: Acme's sum, port: a*b + c + 7}\n- address: >\n    quad(c, d, a, b)\n    ^ 0xFF\n  id: 7\n"},
	} {
		c, err := Load(Input{File: write(t, tt.text)})
		if err != nil {
			t.Errorf("%s: %v", tt.what, err)
			continue
		}
		if !slices.Equal(c.Correlate.Hypotheses, want) {
			t.Errorf("%s: %+v, want %+v", tt.what, c.Correlate.Hypotheses, want)
		}
		shown := Find("hypotheses").Show(&c)
		var again customs
		if err := again.Set(shown); err != nil || !slices.Equal(again, want) {
			t.Errorf("%s: shown as %q, which gives %+v, %v", tt.what, shown, again, err)
		}
	}
}

func TestHypothesesAsText(t *testing.T) {
	for _, tt := range []struct{ what, text, shown, wrong string }{
		{"one", "acme=port:a*b + c", "acme=port:a*b + c", ""},
		{"two, with spaces and a name", " p (my port) = port : a*c ;; s=address:rev(x); ", "p(my port)=port:a*c; s=address:rev(x)", ""},
		{"no kind", "acme=a*b", "", `"acme=a*b" is not ID=port:EXPRESSION`},
		{"another kind", "acme=ports:a*b", "", `"acme=ports:a*b" is not ID=port:EXPRESSION`},
		{"nothing but an expression", "a*b", "", `"a*b" is not ID=port:EXPRESSION`},
		{"wrong expression", "acme=port:a*b; x=port: a*q", "", "hypothesis x: column 3: unknown name q; there are a, b"},
		{"twice", "x=port:a*b; x=port:a*c", "", "hypothesis x: there are two with this id"},
		{"constant", "x=port:4444", "", "hypothesis x: it gives port 4444 for 100 %"},
	} {
		v := customs{{ID: "before"}}
		err := v.Set(tt.text)
		if tt.wrong != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tt.wrong) || len(v) != 1 || v[0].ID != "before" {
				t.Errorf("%s: error %v, want %q and nothing set", tt.what, err, tt.wrong)
			}
			continue
		}
		if err != nil || v.String() != tt.shown {
			t.Errorf("%s: %q, %v, want %q", tt.what, v.String(), err, tt.shown)
		}
	}
}

func TestHypothesisErrorsNameThePlace(t *testing.T) {
	for _, tt := range []struct {
		what, text string
		at         string // what the caret stands under, to the end of its line
		message    string
		hint       string
	}{
		{"unknown name", "hypotheses:\n  - id: acme\n    port: a*b + foo\n", "foo", "hypotheses: acme: unknown name foo", ""},
		{"in double quotes", "hypotheses:\n  - {id: acme, port: \"a*b + foo\"}\n", "foo\"}", "hypotheses: acme: unknown name foo", ""},
		{"in the second", "hypotheses: [{id: a, port: a*c}, {name: é, id: b, address: 'rol(x)'}]\n", ")'}]", "hypotheses: b: rol takes 2 values, not 1", ""},
		{"at the end", "hypotheses:\n- id: acme\n  port: a*\n", "", "hypotheses: acme: a value was expected, not the end", ""},
		{"over two lines", "hypotheses:\n- id: acme\n  port: >\n    a\n    foo\n", ">", "hypotheses: acme: column 3: an operator was expected, not foo", ""},
		{"constant", "hypotheses:\n- id: acme\n  port: 4444\n", "4444", "hypotheses: acme: it gives port 4444 for 100 % of 4096 sampled answers", ""},
		{"identity", "hypotheses:\n- id: acme\n  address: x\n", "x", "hypotheses: acme: it gives the answer itself for 100 %", ""},
		{"bad id", "hypotheses:\n- id: a b\n  port: a*b\n", "a b", `hypotheses: a b: "a b" is not an id`, ""},
		{"id twice", "hypotheses:\n- {id: p, port: a*b}\n- {id: p, port: a*c}\n", "p, port: a*c}", "hypotheses: p: there are two with this id", ""},
		{"no id", "hypotheses:\n- port: a*b\n", "port: a*b", "hypotheses: the hypothesis has no id", ""},
		{"no expression", "hypotheses:\n- id: p\n  name: q\n", "id: p", "hypotheses: the hypothesis has neither port nor address", ""},
		{"two expressions", "hypotheses:\n- id: p\n  port: a*b\n  address: rev(x)\n", "address: rev(x)", "hypotheses: a hypothesis gives a port or an address, not both", ""},
		{"unknown key", "hypotheses:\n- id: p\n  prot: a*b\n", "prot: a*b", `hypotheses: unknown key "prot"`, `did you mean "port"?`},
		{"commas without quotes", "hypotheses: [{id: p, address: rol(x,16)}]\n", "16)}]", `hypotheses: unknown key "16)"`,
			"an expression with commas in braces needs quotes around it"},
		{"no value", "hypotheses:\n- id:\n  port: a*b\n", "", "hypotheses: id: the key has no value", ""},
		{"list for a value", "hypotheses:\n- id: p\n  port: [a*b]\n", "[a*b]", "hypotheses: port: a plain value was expected", ""},
		{"no list", "hypotheses: a*b\n", "a*b", "hypotheses: a list was expected", `each hypothesis is a line such as - {id: acme, port: "a*b + c + 7"}`},
		{"a mapping for the list", "hypotheses: {id: p, port: a*b}\n", "{id: p, port: a*b}", "hypotheses: a list was expected",
			`each hypothesis is a line such as - {id: acme, port: "a*b + c + 7"}`},
		{"text in the list", "hypotheses:\n- p=port:a*b\n", "p=port:a*b", "hypotheses: a hypothesis has the keys id and port, or id and address", ""},
	} {
		_, err := Load(Input{File: write(t, tt.text)})
		var fe *FileError
		if !errors.As(err, &fe) {
			t.Errorf("%s: error %v, want a FileError", tt.what, err)
			continue
		}
		if !strings.HasPrefix(fe.Message, tt.message) || fe.Hint != tt.hint {
			t.Errorf("%s: %q, hint %q; want %q, hint %q", tt.what, fe.Message, fe.Hint, tt.message, tt.hint)
		}
		line := []rune(strings.Split(tt.text, "\n")[fe.Line-1])
		if fe.Column > len(line)+1 {
			t.Errorf("%s: column %d of a line of %d", tt.what, fe.Column, len(line))
		} else if got := string(line[fe.Column-1:]); got != tt.at {
			t.Errorf("%s: the caret stands under %q, want %q", tt.what, got, tt.at)
		}
	}
}

// One more than can be added is refused, at its line.
func TestHypothesesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("hypotheses:\n")
	for i := range hypothesis.MaxCustom + 1 {
		b.WriteString("- {id: p" + strings.Repeat("q", i%30) + string(rune('a'+i/30)) + ", port: a*b}\n")
	}
	_, err := Load(Input{File: write(t, b.String())})
	var fe *FileError
	if !errors.As(err, &fe) || fe.Line != hypothesis.MaxCustom+2 || !strings.Contains(fe.Message, "at most 32 can be added") {
		t.Errorf("error %v, want one on line %d", err, hypothesis.MaxCustom+2)
	}
}
