package page

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

// The measures of charts, in the units of their own coordinates; they scale to the width of the page.
const (
	chartWidth = 1000
	leftRoom   = 88 // for labels
	rightRoom  = 12
	topRoom    = 10
	axisRoom   = 26 // below, for times
	plotWidth  = chartWidth - leftRoom - rightRoom
)

// Span is a time range with places on a chart's axis.
type Span struct{ From, To time.Time }

// x returns where a time is; outside the span it is at its edge.
func (s Span) x(t time.Time) float64 {
	whole := s.To.Sub(s.From)
	if whole <= 0 {
		return leftRoom
	}
	return leftRoom + plotWidth*min(1, max(0, float64(t.Sub(s.From))/float64(whole)))
}

// ticks returns times for the axis, at most some ten, on whole units, and how to write them.
func (s Span) ticks() (at []time.Time, form string) {
	whole := s.To.Sub(s.From)
	steps := []time.Duration{
		time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
		time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
		24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 30 * 24 * time.Hour, 90 * 24 * time.Hour, 365 * 24 * time.Hour,
	}
	step := steps[len(steps)-1]
	for _, d := range steps {
		if whole/d <= 12 {
			step = d
			break
		}
	}
	switch {
	case step < time.Second:
		form = "15:04:05.000"
	case step < time.Minute:
		form = "15:04:05"
	case step < 24*time.Hour && whole <= 24*time.Hour:
		form = "15:04"
	case step < 24*time.Hour:
		form = "Jan 2 15:04"
	default:
		form = "Jan 2"
	}
	if form == "Jan 2 15:04" && whole/step > 8 { // they are wide
		step *= 2
	}
	for t := s.From.UTC().Truncate(step); !t.After(s.To); t = t.Add(step) {
		if !t.Before(s.From) {
			at = append(at, t)
		}
	}
	return at, form
}

// axis draws the times below a plot that ends at y, and a grid from top on.
func (s Span) axis(b *strings.Builder, top, y float64) {
	at, form := s.ticks()
	for _, t := range at {
		x := s.x(t)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, x, top, x, y+4)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, min(x, chartWidth-26), y+18, t.UTC().Format(form))
	}
	b.WriteByte('\n')
}

// figure wraps a drawing with its caption and legend.
func figure(caption, note string, height float64, drawing string, legend []Key) template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<figure><figcaption>%s`, escape(caption))
	if note != "" {
		fmt.Fprintf(&b, ` <span>%s</span>`, escape(note))
	}
	fmt.Fprintf(&b, `</figcaption><svg viewBox="0 0 %d %.0f" role="img" aria-label="%s">`+"\n%s</svg>", chartWidth, height, escape(caption), drawing)
	if len(legend) > 0 {
		b.WriteString(`<ul class="legend">`)
		for _, k := range legend {
			fmt.Fprintf(&b, `<li><i class="%s"></i>%s</li>`, k.Class, escape(k.Label))
		}
		b.WriteString(`</ul>`)
	}
	b.WriteString("</figure>")
	return template.HTML(b.String()) //nolint:gosec // all text in it was escaped
}

// Key is an entry of a legend.
type Key struct {
	Class Class
	Label string
}

// Strip is a chart of states over time, a row for each thing that has them.
type Strip struct {
	Caption, Note string
	Span          Span
	Rows          []StripRow
	Legend        []Key
}

// StripRow is one row of cells.
type StripRow struct {
	Label string
	Cells []Cell
}

// Cell is a state that lasted for a while. Its text shows when somebody points at it.
type Cell struct {
	From, To time.Time
	Class    Class
	Text     string
}

// HTML draws the strip. States differ by pattern as well as by colour.
func (s *Strip) HTML() template.HTML {
	const row, bar = 26, 20
	var b strings.Builder
	bottom := topRoom + float64(row*len(s.Rows))
	s.Span.axis(&b, topRoom, bottom)
	for i, r := range s.Rows {
		y := topRoom + float64(i*row)
		fmt.Fprintf(&b, `<text class="row" x="%d" y="%.1f" text-anchor="end">%s</text>`, leftRoom-8, y+bar/2+4, escape(shorten(r.Label, 13)))
		for _, c := range r.Cells {
			x := s.Span.x(c.From)
			width := s.Span.x(c.To) - x
			if width <= 0 {
				continue
			}
			class := "cell " + string(c.Class)
			switch c.Class {
			case ClassPartial:
				class = "cell hatched"
			case ClassMissing:
				class = "cell dotted"
			}
			fmt.Fprintf(&b, `<rect class="%s" x="%.2f" y="%.1f" width="%.2f" height="%d"><title>%s</title></rect>`, class, x, y, max(width, 0.8), bar, escape(c.Text))
		}
		b.WriteByte('\n')
	}
	return figure(s.Caption, s.Note, bottom+axisRoom, b.String(), s.Legend)
}

// shorten cuts text to so many runes.
func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// Series is one line, or one part of the bars, of a Chart: a value for each of its times. NaN means that there is none.
type Series struct {
	Label  string
	Class  Class
	Dashed bool
	Values []float64
}

// Chart draws series over time.
type Chart struct {
	Caption, Note string
	Span          Span
	At            []time.Time // where a value stands; for bars, where its bar begins
	Step          time.Duration
	Series        []Series
	Bars          bool                 // stacked bars of width Step, else lines
	Top           float64              // of the axis; 0 finds one
	Format        func(float64) string // of values; nil for Number
	Height        float64              // of the plot; 0 for 150
}

// HTML draws the chart.
func (c *Chart) HTML() template.HTML {
	height := c.Height
	if height == 0 {
		height = 150
	}
	format := c.Format
	if format == nil {
		format = Number
	}
	top := c.Top
	if top == 0 {
		top = c.highest()
	}
	var b strings.Builder
	bottom := topRoom + height
	y := func(v float64) float64 { return bottom - height*min(1, v/top) }
	c.Span.axis(&b, topRoom, bottom)
	const lines = 4
	for i := range lines + 1 {
		v := top * float64(i) / lines
		class := "grid"
		if i == 0 {
			class = "axis"
		}
		fmt.Fprintf(&b, `<line class="%s" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			class, leftRoom, y(v), chartWidth-rightRoom, y(v), leftRoom-8, y(v)+4, escape(format(v)))
	}
	b.WriteByte('\n')
	if c.Bars {
		c.bars(&b, y, format)
	} else {
		c.lines(&b, y)
	}
	var legend []Key
	for _, s := range c.Series {
		if len(c.Series) > 1 || s.Label != "" {
			legend = append(legend, Key{s.Class, s.Label})
		}
	}
	return figure(c.Caption, c.Note, bottom+axisRoom, b.String(), legend)
}

// highest returns a round number that no value, or stack of them, is above.
func (c *Chart) highest() float64 {
	high := 0.0
	for i := range c.At {
		sum := 0.0
		for _, s := range c.Series {
			v := s.at(i)
			if math.IsNaN(v) {
				continue
			}
			if c.Bars {
				sum += v
			} else {
				sum = max(sum, v)
			}
		}
		high = max(high, sum)
	}
	if !(high > 0) || math.IsInf(high, 0) {
		return 4
	}
	unit := math.Pow(10, math.Floor(math.Log10(high)))
	for _, m := range []float64{1, 2, 4, 8, 10} {
		if high <= m*unit {
			if m*unit < 4 && high >= 1 {
				return 4 // so that counts have whole numbers at the lines
			}
			return m * unit
		}
	}
	return 10 * unit
}

func (s *Series) at(i int) float64 {
	if i < len(s.Values) {
		return s.Values[i]
	}
	return math.NaN()
}

func (c *Chart) bars(b *strings.Builder, y func(float64) float64, format func(float64) string) {
	for i, at := range c.At {
		x, end := c.Span.x(at), c.Span.x(at.Add(c.Step))
		sum := 0.0
		for _, s := range c.Series {
			v := s.at(i)
			if !(v > 0) {
				continue
			}
			from := y(sum)
			sum += v
			fmt.Fprintf(b, `<rect class="%s" x="%.2f" y="%.2f" width="%.2f" height="%.2f"><title>%s %s: %s</title></rect>`, s.Class,
				x+0.5, y(sum), max(end-x-1, 0.8), max(from-y(sum), 0.5), at.UTC().Format("2006-01-02 15:04"), escape(s.Label), escape(format(v)))
		}
	}
	b.WriteByte('\n')
}

func (c *Chart) lines(b *strings.Builder, y func(float64) float64) {
	for _, s := range c.Series {
		class := "line " + string(s.Class)
		if s.Dashed {
			class += " dashed"
		}
		var points []string
		flush := func() {
			switch len(points) {
			case 0:
			case 1: // a value between two that are missing
				x, yy, _ := strings.Cut(points[0], ",")
				fmt.Fprintf(b, `<circle class="%s" cx="%s" cy="%s" r="2.5"/>`, s.Class, x, yy)
			default:
				fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`, class, strings.Join(points, " "))
			}
			points = points[:0]
		}
		for i, at := range c.At {
			v := s.at(i)
			if math.IsNaN(v) {
				flush()
				continue
			}
			points = append(points, fmt.Sprintf("%.2f,%.2f", c.Span.x(at.Add(c.Step/2)), y(max(0, v))))
		}
		flush()
		b.WriteByte('\n')
	}
}

// Bars is a chart of horizontal bars, a row for each value.
type Bars struct {
	Caption, Note string
	Rows          []Bar
	Top           float64              // of the axis; 0 for the greatest value
	Format        func(float64) string // of values; nil for Number
}

// Bar is one row of Bars.
type Bar struct {
	Label string
	Value float64
	Class Class
}

// HTML draws the bars.
func (c *Bars) HTML() template.HTML {
	const row, bar, labels, values = 24, 16, 220, 90
	format := c.Format
	if format == nil {
		format = Number
	}
	top := c.Top
	for _, r := range c.Rows {
		if c.Top == 0 {
			top = max(top, r.Value)
		}
	}
	var b strings.Builder
	for i, r := range c.Rows {
		y := float64(i * row)
		width := 0.0
		if top > 0 {
			width = (chartWidth - labels - values) * min(1, r.Value/top)
		}
		fmt.Fprintf(&b, `<text class="row" x="%d" y="%.1f" text-anchor="end">%s</text><rect class="%s" x="%d" y="%.1f" width="%.1f" height="%d"/><text x="%.1f" y="%.1f">%s</text>`+"\n",
			labels-8, y+bar-2, escape(shorten(r.Label, 32)), r.Class, labels, y+1, max(width, 1), bar, labels+width+7, y+bar-2, escape(format(r.Value)))
	}
	return figure(c.Caption, c.Note, float64(row*len(c.Rows))+4, b.String(), nil)
}
