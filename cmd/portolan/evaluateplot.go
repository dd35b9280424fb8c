package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// A plot is two panels side by side over the same axis of e-values.
const (
	panelWidth, panelHeight = 400, 300 // pixels
	panelTop, panelLeft     = 70, 80
	panelGap                = 110
)

// curve is a line of a panel: one value for each threshold.
type curve struct {
	name, color string
	dashed      bool
	values      []float64
}

// writeSVG draws detection and false hits by threshold.
func (r *evaluationReport) writeSVG(w io.Writer) error {
	var found, third, first, clean, infected, bound, naive []float64
	for _, t := range r.ByLevel {
		found, third, first = append(found, t.Found), append(third, t.FoundThird), append(first, t.FoundFirst)
		clean, infected, bound = append(clean, t.FalsePerDay), append(infected, t.InfectedPerDay), append(bound, t.Expected)
		naive = append(naive, r.Naive.PerDay)
	}
	const width = panelLeft + 2*panelWidth + panelGap + 30
	const height = panelTop + panelHeight + 120
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="28" font-size="17">Portolan on generated traffic: %d families, %.3g million connections, seed %d</text>`+"\n",
		panelLeft, len(r.Families), float64(r.World.Connections)/1e6, r.World.Seed)
	r.panel(&b, panelLeft, "Share of implants found", false, []curve{
		{"at any contact", "#1b6ca8", false, found},
		{"by the third contact", "#2f9e6e", false, third},
		{"at the first contact", "#c9781b", false, first},
	})
	r.panel(&b, panelLeft+panelWidth+panelGap, "False hits per client-day", true, []curve{
		{"hosts without implant", "#b3261e", false, clean},
		{"benign connections of infected hosts", "#7a4fb5", false, infected},
		{"bound: trials ÷ e-value", "#666666", true, bound},
		{"port = a·b+c or a·(b+c), no lookups", "#222222", true, naive},
	})
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// panel draws curves over the thresholds; with logarithmic, the values on a logarithmic axis too,
// where 0 is not drawn.
func (r *evaluationReport) panel(b *strings.Builder, left int, title string, logarithmic bool, curves []curve) {
	low, high := 0.0, 1.0
	if logarithmic {
		low, high = math.Inf(1), math.Inf(-1)
		for _, c := range curves {
			for _, v := range c.values {
				if v > 0 {
					low, high = min(low, math.Floor(math.Log10(v))), max(high, math.Ceil(math.Log10(v)))
				}
			}
		}
		if low >= high { // all alike, or nothing to draw
			low, high = -6, 0
		}
	}
	begin, end := math.Log10(r.ByLevel[0].EValue), float64(thresholds)
	x := func(exponent float64) float64 {
		return float64(left) + (exponent-begin)/(end-begin)*panelWidth
	}
	y := func(v float64) float64 {
		return panelTop + panelHeight*(1-(v-low)/(high-low))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, panelTop-12, title)
	for i := range r.ByLevel {
		at := begin + float64(i)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#e4e4e4"/>`, x(at), panelTop, x(at), panelTop+panelHeight)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(at), panelTop+panelHeight+18, power(int(math.Round(at))))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">e-value from which a hit counts</text>`+"\n", left+panelWidth/2, panelTop+panelHeight+38)
	steps := 5.0
	if logarithmic {
		steps = high - low
	}
	for i := range int(steps) + 1 {
		v := low + float64(i)*(high-low)/steps
		label := fmt.Sprintf("%.0f %%", 100*v)
		if logarithmic {
			label = power(int(v))
		}
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e4e4e4"/>`, left, y(v), left+panelWidth, y(v))
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-8, y(v)+4, label)
	}
	for _, mark := range []struct {
		name  string
		value float64
	}{{"watch", r.Watch}, {"alert", r.Alert}} {
		if at := math.Log10(mark.value); at >= begin && at <= end {
			fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#999999" stroke-dasharray="2 3"/>`, x(at), panelTop, x(at), panelTop+panelHeight)
			fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#777777" font-size="11">%s</text>`+"\n", x(at)+3, panelTop+panelHeight-6, mark.name)
		}
	}
	for n, c := range curves {
		style := fmt.Sprintf(`stroke="%s" stroke-width="2"`, c.color)
		if c.dashed {
			style += ` stroke-dasharray="6 4"`
		}
		var points []string
		for i, v := range c.values {
			if logarithmic {
				if v <= 0 {
					continue
				}
				v = math.Log10(v)
			}
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(begin+float64(i)), y(v)))
			if !c.dashed {
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(begin+float64(i)), y(v), c.color)
			}
		}
		name := c.name
		if len(points) == 0 {
			name += ": none"
		}
		fmt.Fprintf(b, `<polyline fill="none" %s points="%s"/>`+"\n", style, strings.Join(points, " "))
		row := panelTop + panelHeight + 58 + 17*n
		fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%d" y2="%d" %s/>`, left, row-4, left+28, row-4, style)
		fmt.Fprintf(b, `<text x="%d" y="%d">%s</text>`+"\n", left+36, row, name)
	}
}

// power writes a power of ten with its exponent raised.
func power(n int) string {
	return fmt.Sprintf(`10<tspan dy="-5" font-size="9">%d</tspan>`, n)
}
