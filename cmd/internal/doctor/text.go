package doctor

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// columns is how wide a report is.
const columns = 100

// Text writes a report for people: a line for each finding, and below what is wrong what it means and what
// mends it.
func (r *Report) Text() string {
	width := 0
	for _, f := range r.Findings {
		width = max(width, utf8.RuneCountInString(f.Check))
	}
	var b strings.Builder
	area := ""
	for _, f := range r.Findings {
		if f.Area != area {
			if area != "" {
				b.WriteByte('\n')
			}
			area = f.Area
			b.WriteString(area)
			if area == deviceArea && r.Device != "" {
				b.WriteString(" " + r.Device)
			}
			b.WriteByte('\n')
		}
		head := fmt.Sprintf("  %-7s  %-*s  ", f.Status, width, f.Check)
		below := strings.Repeat(" ", len(head))
		writeWrapped(&b, head, below, f.Evidence)
		if f.Consequence != "" {
			writeWrapped(&b, below+"→ ", below+"  ", f.Consequence)
		}
		if f.Advice != "" {
			writeWrapped(&b, below+"! ", below+"  ", f.Advice)
		}
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%s$ %s\n", below, f.Remedy) // never broken, so that it can be pasted
		}
	}
	return b.String()
}

// writeWrapped writes text that begins behind head and goes on behind below.
func writeWrapped(b *strings.Builder, head, below, text string) {
	b.WriteString(head)
	at := utf8.RuneCountInString(head)
	begin := at
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if at > begin && at+1+n > columns {
			b.WriteString("\n" + below)
			at, begin = utf8.RuneCountInString(below), utf8.RuneCountInString(below)
		}
		if at > begin {
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	b.WriteByte('\n')
}
