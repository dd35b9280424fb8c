package main

import (
	"slices"
	"testing"
	"time"
)

func TestTextForPeople(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{lagText(0), "0s"},
		{lagText(742 * time.Microsecond), "742µs"},
		{lagText(1740 * time.Microsecond), "1.74ms"},
		{lagText(341 * time.Second), "341s"},
		{lagText(2 * time.Hour), "2h0m0s"},
		{lagText(-5 * time.Millisecond), "-5ms"},
		{percent(0), "0 %"},
		{percent(0.0001), "<1 %"},
		{percent(0.999), ">99 %"},
		{percent(1), "100 %"},
		{oneIn(0), "none"},
		{oneIn(1.0 / (1 << 32)), "1 in 4,290,000,000"},
		{oneIn(1.0 / 130666), "1 in 131,000"},
		{oneIn(0.25), "1 in 4"},
		{oneIn(0.9), "90 %"},
		{count(1, "hit", "hits"), "1 hit"},
		{count(0, "hit", "hits"), "0 hits"},
		{bytesText(1023), "1023 B"},
		{bytesText(1536), "1.5 KiB"},
		{bytesText(1 << 62), "4194304.0 TiB"},
		{printable("a\x1b[31m\u202eb\nc\xff"), "a?[31m?b?c?"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

func TestWrap(t *testing.T) {
	if got, want := wrap("one two  three verylongword x", 8), []string{"one two", "three", "verylongword", "x"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Flags may stand anywhere until "--".
func TestFlagsAmongArguments(t *testing.T) {
	for _, tt := range []struct {
		args []string
		rest []string
		set  bool
	}{
		{[]string{"a", "--json", "b"}, []string{"a", "b"}, true},
		{[]string{"-json", "-"}, []string{"-"}, true},
		{[]string{"a", "--", "--json"}, []string{"a", "--json"}, false},
		{[]string{"--json=false", "a"}, []string{"a"}, false},
		{nil, nil, false},
	} {
		o := newOptions(&command{name: "test"})
		set := false
		o.bool(&set, "json", "")
		rest, err := o.parse(tt.args)
		if err != nil || !slices.Equal(rest, tt.rest) || set != tt.set {
			t.Errorf("%q gives %q, --json %v, error %v; want %q, %v", tt.args, rest, set, err, tt.rest, tt.set)
		}
	}
}
