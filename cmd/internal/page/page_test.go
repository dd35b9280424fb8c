package page

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

const nasty = `<script>alert("1")</script>&'`

// sample is a page with one of each thing, nasty text wherever text goes.
func sample() *Page {
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	span := Span{from, from.Add(24 * time.Hour)}
	strip := Strip{Caption: nasty, Note: nasty, Span: span, Legend: []Key{{ClassGood, nasty}}, Rows: []StripRow{{nasty, []Cell{
		{from, from.Add(time.Hour), ClassGood, nasty}, {from.Add(time.Hour), from.Add(2 * time.Hour), ClassPartial, "a"},
		{from.Add(2 * time.Hour), from.Add(9 * time.Hour), ClassMissing, "b"}, {from.Add(9 * time.Hour), from.Add(99 * time.Hour), ClassBlind, "c"},
	}}}}
	lines := Chart{Caption: nasty, Span: span, At: []time.Time{from, from.Add(time.Hour), from.Add(2 * time.Hour), from.Add(3 * time.Hour)},
		Series: []Series{{nasty, ClassA, true, []float64{1, math.NaN(), 3, 2}}, {"short", ClassB, false, []float64{1}}}}
	bars := lines
	bars.Bars, bars.Step = true, time.Hour
	rows := Bars{Caption: nasty, Rows: []Bar{{nasty, 3, ClassA}, {"none", 0, ClassB}}}
	table := Table{Caption: nasty, Head: []string{nasty, "n"}, Numbers: []bool{false, true}, Rows: []Row{{[]string{nasty, "1"}, ClassBlind}}}
	empty := Table{Caption: nasty, Empty: nasty}
	p := &Page{Title: nasty, Subtitle: nasty, Verdict: &Badge{nasty, ClassGood}, Facts: []Fact{{nasty, nasty, ClassGood}}, Foot: []string{nasty}}
	p.Sections = append(p.Sections, Section{Title: nasty, Text: nasty})
	s := &p.Sections[0]
	s.Blocks = append(s.Blocks, strip.HTML(), lines.HTML(), bars.HTML(), rows.HTML(), table.HTML(), empty.HTML())
	return p
}

// Text never becomes markup, whatever it holds, and the page asks for nothing from outside.
func TestPageIsSelfContained(t *testing.T) {
	var b strings.Builder
	if err := sample().Write(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, bad := range []string{"<script", "src=", "href=", "http://", "https://", "@import", "url(http", "NaN", "ZgotmplZ"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if n := strings.Count(text, "&lt;script&gt;"); n < 20 {
		t.Errorf("the text stands escaped in %d places, want all of some twenty", n)
	}
}

// Every drawing is well-formed, as other tools may read it.
func TestDrawingsAreWellFormed(t *testing.T) {
	for i, block := range sample().Sections[0].Blocks {
		d := xml.NewDecoder(strings.NewReader(string(block)))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("block %d: %v\n%s", i, err, block)
				break
			}
		}
	}
}

func TestTicks(t *testing.T) {
	from := time.Date(2026, 3, 2, 10, 20, 30, 0, time.UTC)
	for _, whole := range []time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour, 30 * time.Hour, 7 * 24 * time.Hour, 90 * 24 * time.Hour, 3 * 365 * 24 * time.Hour} {
		at, form := Span{from, from.Add(whole)}.ticks()
		if len(at) < 1 || len(at) > 13 {
			t.Errorf("%v: %d ticks (%s)", whole, len(at), form)
		}
		seen := map[string]bool{}
		for _, x := range at {
			text := x.Format(form)
			if x.Before(from) || x.After(from.Add(whole)) || seen[text] {
				t.Errorf("%v: tick %s is outside, or there twice", whole, text)
			}
			seen[text] = true
		}
	}
	if at, _ := (Span{from, from}).ticks(); len(at) > 1 {
		t.Errorf("an empty span has %d ticks", len(at))
	}
}

func TestHighest(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{nil, 4}, {[]float64{0}, 4}, {[]float64{math.NaN(), 3}, 4}, {[]float64{17}, 20}, {[]float64{81}, 100}, {[]float64{0.3}, 0.4}, {[]float64{4e6}, 4e6}} {
		c := Chart{At: make([]time.Time, len(tt.values)), Series: []Series{{Values: tt.values}}}
		if got := c.highest(); math.Abs(got-tt.want) > tt.want/1e9 {
			t.Errorf("%v: axis up to %v, want %v", tt.values, got, tt.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 0.25: "0.25", 7: "7", 999: "999", 1000: "1,000", 12345: "12,345", 999499: "999,499", 1234567: "1.23 M", 4.5e9: "4.5 G", 2e12: "2 T"} {
		if got := Number(n); got != want {
			t.Errorf("Number(%v) = %q, want %q", n, got, want)
		}
	}
	for share, want := range map[float64]string{0: "0 %", 0.0001: "<0.1 %", 0.5: "50 %", 0.49999999999: "50 %", 1 - 1e-15: "100 %", 0.123: "12.3 %", 0.9999: ">99.9 %", 1: "100 %"} {
		if got := Percent(share); got != want {
			t.Errorf("Percent(%v) = %q, want %q", share, got, want)
		}
	}
	if got, want := fmt.Sprint(shorten("observatory", 8)), "observa…"; got != want {
		t.Errorf("shorten: %q, want %q", got, want)
	}
}
