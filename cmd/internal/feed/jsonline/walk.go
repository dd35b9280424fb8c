package jsonline

import "errors"

// Step says what a walk does with a value.
type Step uint8

// The steps.
const (
	Pass  Step = iota // go past it
	Take              // hand it out as it stands
	Enter             // walk through it, if it is an object or an array; the objects of an array, one after the other
	Stop              // end the walk before it
)

var errStop = errors.New("the walk ends here")

// Bounds of a walk. What lies deeper or has a longer path is passed.
const (
	maxDepth = 8   // objects and arrays within each other that are entered
	maxPath  = 256 // bytes of a path
)

// Walker walks through an object and what it holds in one pass, whatever the depth. A path is the
// names that lead to a value, joined by dots, so that nested and dotted names are one; elements
// of an array have the array's path. One goroutine at a time may use one.
type Walker struct {
	// Step says what to do with the value of a path, which is valid during the call only.
	Step func(path []byte) Step
	// Take takes a value that is not null; an error of it ends the walk. The path is the one
	// that Step was asked for last.
	Take func(Value) error

	path []byte
	rest []byte
	bad  bool
}

// Walk goes through the object at the start of b. It reports false when the text is no JSON;
// the error is that of Take.
func (w *Walker) Walk(b []byte) (ok bool, err error) {
	w.path, w.rest, w.bad = w.path[:0], b, len(b) == 0 || b[0] != '{'
	if !w.bad {
		err = w.object(1)
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	return !w.bad, err
}

// object walks through the object that rest begins with.
func (w *Walker) object(depth int) error {
	base := len(w.path)
	defer func() { w.path = w.path[:base] }()
	b := space(w.rest[1:])
	if len(b) > 0 && b[0] == '}' {
		w.rest = b[1:]
		return nil
	}
	for {
		n := stringEnd(b)
		if n < 0 {
			return w.fail()
		}
		if w.path = w.path[:base]; base > 0 {
			w.path = append(w.path, '.')
		}
		w.path = append(w.path, b[1:n-1]...)
		if b = space(b[n:]); len(b) == 0 || b[0] != ':' {
			return w.fail()
		}
		w.rest = space(b[1:])
		step := Pass
		if len(w.path) <= maxPath {
			step = w.Step(w.path)
		}
		if err := w.value(step, depth); err != nil || w.bad {
			return err
		}
		if b = space(w.rest); len(b) == 0 {
			return w.fail()
		}
		if b[0] == '}' {
			w.rest = b[1:]
			return nil
		}
		if b[0] != ',' {
			return w.fail()
		}
		b = space(b[1:])
	}
}

// array walks through the array that rest begins with.
func (w *Walker) array(depth int) error {
	b := space(w.rest[1:])
	if len(b) > 0 && b[0] == ']' {
		w.rest = b[1:]
		return nil
	}
	for {
		step := Pass
		if len(b) > 0 && b[0] == '{' {
			step = Enter
		}
		w.rest = b
		if err := w.value(step, depth); err != nil || w.bad {
			return err
		}
		if b = space(w.rest); len(b) == 0 {
			return w.fail()
		}
		if b[0] == ']' {
			w.rest = b[1:]
			return nil
		}
		if b[0] != ',' {
			return w.fail()
		}
		b = space(b[1:])
	}
}

// value does what step says with the value that rest begins with, and goes past it.
func (w *Walker) value(step Step, depth int) error {
	if step == Stop {
		return errStop
	}
	if step == Enter && depth < maxDepth && len(w.rest) > 0 {
		switch w.rest[0] {
		case '{':
			return w.object(depth + 1)
		case '[':
			return w.array(depth + 1)
		}
	}
	n := valueEnd(w.rest)
	if n <= 0 {
		return w.fail()
	}
	v := Value(w.rest[:n:n])
	w.rest = w.rest[n:]
	if step != Take || v.IsNull() {
		return nil
	}
	return w.Take(v)
}

func (w *Walker) fail() error {
	w.bad = true
	return nil
}
