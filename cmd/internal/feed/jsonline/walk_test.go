package jsonline

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// document has what a walk meets: nesting, arrays of objects and of others, dotted names, null,
// empty containers, escapes and white space.
const document = `{"a":1, "b" : {"c":"x\"}","d":{"e":[1,2,{"f":null}],"g":{}},"h":[]},
	"i.j":true,"k":[{"l":1},{"l":[{"m":"n"}]},7,[{"o":2}]],"":-1.5e3,"z":null}`

// flat returns the paths and values of a document by encoding/json.
func flat(path string, v any, to *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for key, m := range v {
			if path != "" {
				key = path + "." + key
			}
			flat(key, m, to)
		}
	case []any:
		for _, e := range v {
			if o, ok := e.(map[string]any); ok {
				flat(path, o, to)
			}
		}
	case nil:
	default:
		*to = append(*to, fmt.Sprintf("%s=%v", path, v))
	}
}

// everything walks through all of a document. Arrays are entered, so their plain elements are passed.
func everything(t *testing.T, text string) (got []string, ok bool) {
	var w Walker
	var at string
	w.Step = func(path []byte) Step {
		at = string(path)
		if len(w.rest) > 0 && (w.rest[0] == '{' || w.rest[0] == '[') {
			return Enter
		}
		return Take
	}
	w.Take = func(v Value) error {
		var x any
		if err := json.Unmarshal(v, &x); err != nil {
			x = err // a value that was cut off is handed out as it is
		}
		got = append(got, fmt.Sprintf("%s=%v", at, x))
		return nil
	}
	ok, err := w.Walk([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got, ok
}

func TestWalk(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(document), &v); err != nil {
		t.Fatal(err)
	}
	var want []string
	flat("", v, &want)
	slices.Sort(want)
	got, ok := everything(t, document)
	if !ok || !slices.Equal(got, want) {
		t.Errorf("a walk gives %q, %t; encoding/json %q", got, ok, want)
	}
	for n := range len(document) {
		if _, ok := everything(t, document[:n]); ok {
			t.Errorf("the first %d bytes pass for whole: %s", n, document[:n])
		}
	}
}

func TestWalkStops(t *testing.T) {
	errFull := errors.New("full")
	for _, tt := range []struct {
		about string
		step  Step
		text  string
		ok    bool
		err   error
		steps int
	}{
		{"stopped before what is no JSON", Stop, `{"a":1,"b":}`, true, nil, 1},
		{"passed", Pass, `{"a":{"b":1},"c":2}`, true, nil, 2},
		{"an error of Take", Take, `{"a":1,"b":2}`, true, errFull, 1},
		{"null is not taken", Take, `{"a":null,"b":null}`, true, nil, 2},
		{"entered down to the bound", Enter, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), true, nil, maxDepth},
		{"no object", Enter, `[{"a":1}]`, false, nil, 0},
		{"nothing", Enter, "", false, nil, 0},
		{"broken below the bound", Enter, strings.Repeat(`{"a":`, 100) + "1", false, nil, maxDepth},
	} {
		steps := 0
		w := Walker{Step: func([]byte) Step { steps++; return tt.step }, Take: func(Value) error { return errFull }}
		ok, err := w.Walk([]byte(tt.text))
		if ok != tt.ok || !errors.Is(err, tt.err) || steps != tt.steps {
			t.Errorf("%s: %t, %v after %d steps; want %t, %v after %d", tt.about, ok, err, steps, tt.ok, tt.err, tt.steps)
		}
	}
}
