// Package page writes reports as one HTML file each that needs nothing else: no script, no other file, no network. They read
// well on a screen, light or dark, and on paper, and keep for an audit as they are.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"time"
)

// Page is a report. All text in it is plain; what is made with this package's charts and tables is HTML.
type Page struct {
	Title    string
	Subtitle string // what it is about: a time range, a capture
	Verdict  *Badge // stands beside the title; nil for none
	Facts    []Fact // the numbers that matter most
	Sections []Section
	Foot     []string // lines at the end: what made the page, when, from what
}

// Badge is a word on a coloured ground.
type Badge struct {
	Text  string
	Class Class
}

// Fact is a number with what it counts.
type Fact struct {
	Value, Label string
	Class        Class // ClassNone for the colour of text
}

// Section is a part of the page with a heading.
type Section struct {
	Title  string
	Text   string // in front of the blocks; may be empty
	Blocks []template.HTML
}

// Class says what a colour means. The page has one set for light, one for dark and one for paper.
type Class string

// The classes. The first four mark states, the others tell series of a chart apart.
const (
	ClassNone    Class = ""
	ClassGood    Class = "good"
	ClassPartial Class = "partial"
	ClassBlind   Class = "blind"
	ClassMissing Class = "missing" // nothing is known
	ClassA       Class = "a"
	ClassB       Class = "b"
	ClassC       Class = "c"
	ClassD       Class = "d"
	ClassE       Class = "e"
)

//go:embed page.css
var css string

//go:embed page.html
var layout string

// Write writes the page.
func (p *Page) Write(w io.Writer) error {
	t, err := template.New("page").Parse(layout)
	if err != nil {
		return fmt.Errorf("page layout: %w", err)
	}
	err = t.Execute(w, struct {
		*Page
		CSS template.CSS
	}{p, template.CSS(css)}) //nolint:gosec // it is part of the program
	if err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// Table is rows of text under a heading. A row may be marked with a class.
type Table struct {
	Caption string // may be empty
	Head    []string
	Numbers []bool // by column: align to the right
	Rows    []Row
	Empty   string // stands there instead when there are no rows
}

// Row is one of a Table.
type Row struct {
	Cells []string
	Class Class // of the first cell's mark; ClassNone for none
}

// HTML returns the table.
func (t *Table) HTML() template.HTML {
	var b strings.Builder
	if len(t.Rows) == 0 {
		if t.Caption != "" {
			fmt.Fprintf(&b, "<figure><figcaption>%s</figcaption>", escape(t.Caption))
		}
		fmt.Fprintf(&b, `<p class="empty">%s</p>`, escape(t.Empty))
		if t.Caption != "" {
			b.WriteString("</figure>")
		}
		return template.HTML(b.String()) //nolint:gosec // escaped above
	}
	number := func(i int) string {
		if i < len(t.Numbers) && t.Numbers[i] {
			return ` class="number"`
		}
		return ""
	}
	b.WriteString("<table>")
	if t.Caption != "" {
		fmt.Fprintf(&b, "<caption>%s</caption>", escape(t.Caption))
	}
	b.WriteString("<thead><tr>")
	for i, h := range t.Head {
		fmt.Fprintf(&b, "<th%s>%s</th>", number(i), escape(h))
	}
	b.WriteString("</tr></thead><tbody>\n")
	for _, r := range t.Rows {
		b.WriteString("<tr>")
		for i, c := range r.Cells {
			mark := ""
			if i == 0 && r.Class != ClassNone {
				mark = fmt.Sprintf(`<i class="mark %s"></i>`, r.Class)
			}
			fmt.Fprintf(&b, "<td%s>%s%s</td>", number(i), mark, escape(c))
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody></table>")
	return template.HTML(b.String()) //nolint:gosec // escaped above
}

// escape makes text safe in HTML and in attributes.
func escape(s string) string { return template.HTMLEscapeString(s) }

// Number writes a count for people: 950, 12,345, 1.23 M, 4.5 G.
func Number(n float64) string {
	switch {
	case n >= 999.5e9:
		return strconv.FormatFloat(n/1e12, 'g', 3, 64) + " T"
	case n >= 999.5e6:
		return strconv.FormatFloat(n/1e9, 'g', 3, 64) + " G"
	case n >= 999.5e3:
		return strconv.FormatFloat(n/1e6, 'g', 3, 64) + " M"
	case n >= 1000:
		s := strconv.FormatFloat(n, 'f', 0, 64)
		return s[:len(s)-3] + "," + s[len(s)-3:]
	case n >= 10 || n == float64(int64(n)):
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	return strconv.FormatFloat(n, 'g', 2, 64)
}

// Percent writes a share from 0 to 1, and what is nearly nothing or nearly all as that.
func Percent(share float64) string {
	p := 100 * share
	switch {
	case p > 0 && p < 0.1:
		return "<0.1 %"
	case p < 100-1e-9 && p > 99.9:
		return ">99.9 %"
	}
	return strings.TrimSuffix(strconv.FormatFloat(p, 'f', 1, 64), ".0") + " %"
}

// Moment writes a time in UTC as reports do.
func Moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
