package main

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// count returns a number with its noun: "1 hit", "2 hits".
func count[T ~int | ~uint64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// lagText returns a time as people read it, with three digits: "1.74ms", "341s".
func lagText(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + lagText(-d)
	case d < time.Microsecond:
		return d.String()
	case d < time.Millisecond:
		return fmt.Sprintf("%.3gµs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3gms", float64(d)/1e6)
	case d < 1000*time.Second:
		return fmt.Sprintf("%.3gs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// percent returns a share from 0 to 1 for people; what is above 0 never reads as 0, and
// what is below 1 never as 100.
func percent(share float64) string {
	p := 100 * share
	switch {
	case p > 0 && p < 1:
		return "<1 %"
	case p < 100 && p > 99:
		return ">99 %"
	}
	return fmt.Sprintf("%.0f %%", p)
}

// oneIn returns a probability as people weigh it: "1 in 14,300,000".
func oneIn(p float64) string {
	if !(p > 0) {
		return "none"
	}
	if p >= 0.5 {
		return percent(p)
	}
	return "1 in " + grouped(1/p)
}

// grouped returns a number from 1 up with three leading digits, and commas.
func grouped(x float64) string {
	if x >= 1e15 {
		return fmt.Sprintf("%.2g", x)
	}
	if x >= 1000 {
		unit := math.Pow10(int(math.Log10(x)) - 2)
		x = math.Round(x/unit) * unit
	}
	digits := fmt.Sprintf("%.0f", x)
	var b strings.Builder
	for i, c := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// printable returns s on one line without anything that a terminal would act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
