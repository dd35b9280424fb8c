package bus

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"portolan/correlate"
)

// textWidth bounds a line of the human form in columns.
const textWidth = 100

// ANSI sequences of the human form.
const (
	ansiBold   = "\x1b[1m"
	ansiDim    = "\x1b[2m"
	ansiRed    = "\x1b[1;31m"
	ansiYellow = "\x1b[1;33m"
	ansiCyan   = "\x1b[1;36m"
	ansiReset  = "\x1b[0m"
)

// WriteText writes the hit for people: about ten lines of at most 100 columns, coloured for
// a terminal when color is set. Nothing that a stranger chose, such as a name, reaches the
// terminal unescaped, also when the message was decoded.
func (m *Message) WriteText(w io.Writer, color bool) error {
	t := textWriter{color: color}
	t.head(m)
	t.row("when", whenText(m))
	t.row("client", clientText(m))
	if h := m.Portolan.Attribution.Host; h != nil {
		t.row("host", holderText(h, m.Source.MAC))
	}
	t.row("lookup", lookupText(m))
	if m.Portolan.Level == correlate.Lead.String() {
		t.row("why", clean(m.Portolan.Calc.Expression))
	} else {
		t.calc(m)
		t.chance(m)
		t.row("baseline", baselineText(m))
	}
	t.row("coverage", coverageText(&m.Portolan.Coverage))
	if a := &m.Portolan.Attribution; a.Status != notConfigured {
		for _, r := range a.Rows() {
			t.row(r.Label, r.Text)
		}
	}
	if r := m.Portolan.Retro; r != nil {
		t.row("retro", r.text())
	}
	if s := m.Portolan.Suppressed; s != nil {
		t.row("summary", fmt.Sprintf("of %s like this one between %s and %s that were not published one by one",
			count(s.Count), s.Since.UTC().Format(time.TimeOnly), s.Until.UTC().Format(time.TimeOnly)))
	}
	t.row("hit", fmt.Sprintf("%s revision %d, %s, by %s", clean(m.Portolan.HitID), m.Portolan.Revision,
		clean(m.Portolan.State), clean(m.Observer.Name)))
	_, err := w.Write(t.buf.Bytes())
	return err
}

type textWriter struct {
	buf   bytes.Buffer
	color bool
}

func (t *textWriter) paint(code, s string) string {
	if !t.color {
		return s
	}
	return code + s + ansiReset
}

// head writes who, where and what at one glance.
func (t *textWriter) head(m *Message) {
	level := strings.ToUpper(middle(clean(m.Portolan.Level), 16))
	code := map[string]string{"ALERT": ansiRed, "WATCH": ansiYellow, "LEAD": ansiCyan}[level]
	if m.Portolan.State == stateRetracted {
		level, code = "RETRACTED", ansiDim
	}
	who := fmt.Sprintf("%s → %s", plain(m.Source.IP), clean(m.destination()))
	what := clean(m.Portolan.Calc.Name) + " of " + m.origin()
	used := utf8.RuneCountInString(level) + 2 + utf8.RuneCountInString(who) + 3
	level = t.paint(code, level)
	if used+utf8.RuneCountInString(what) <= textWidth {
		fmt.Fprintf(&t.buf, "%s  %s   %s\n", level, t.paint(ansiBold, who), what)
		return
	}
	fmt.Fprintf(&t.buf, "%s  %s\n", level, t.paint(ansiBold, who))
	t.row("what", what)
}

func whenText(m *Message) string {
	l := &m.Portolan.Lookup
	lag := time.Duration(m.Portolan.Timing.LagNS)
	ttl := fmt.Sprintf("TTL %d s", l.TTL)
	if lag > time.Duration(l.TTL)*time.Second {
		ttl += " had run out"
	}
	return fmt.Sprintf("%s UTC, %s after the answer (%s)",
		m.Timestamp.UTC().Format("2006-01-02 15:04:05.000000000"), lagText(lag), ttl)
}

func clientText(m *Message) string {
	s := fmt.Sprintf("%s port %d, zone %s", plain(m.Source.IP), m.Source.Port, clean(m.Portolan.Zone.Text))
	if m.Source.MAC != "" {
		s += ", MAC " + clean(m.Source.MAC)
	}
	return s
}

// holderText says who held the client's address; frame is the address that the connection's own
// frame came from.
func holderText(h *Holder, frame string) string {
	var parts []string
	for _, n := range h.Names[:min(len(h.Names), maxAlternatives)] {
		parts = append(parts, fmt.Sprintf("%s (%s)", clean(n.Name), clean(n.Via)))
	}
	if h.MAC != "" {
		s := fmt.Sprintf("MAC %s by %s", clean(h.MAC), clean(h.Via))
		if frame != "" && h.MAC != frame {
			s += ", behind a router"
		}
		parts = append(parts, s)
	}
	if h.Lease != nil {
		parts = append(parts, "leased until "+h.Lease.UTC().Format("2006-01-02 15:04:05"))
	}
	if h.Contested {
		parts = append(parts, "another host claims the address, too")
	}
	return strings.Join(parts, "; ")
}

func lookupText(m *Message) string {
	l := &m.Portolan.Lookup
	name := cleanName(l.Name)
	if name == "" {
		name = "(name forgotten)"
	}
	s := name + " → " + recordType(l.Via)
	if l.Answer.IsValid() {
		s += " " + plain(l.Answer).String()
	}
	if via := clean(l.Via); via != "a" && via != "aaaa" {
		s += ", read as " + via
	}
	if l.Resolver.IsValid() {
		s += ", by " + plainPort(l.Resolver).String()
	}
	return s
}

func (t *textWriter) calc(m *Message) {
	c := &m.Portolan.Calc
	if c.Expression != "" {
		t.row("arithmetic", fmt.Sprintf("%s   [%s %s]", clean(c.Expression), clean(c.Hypothesis), clean(c.Name)))
	}
	if c.Support.Trials > 1 {
		t.row("repeated", fmt.Sprintf("%s connections of this client fit it, from %s",
			count(uint64(c.Support.Trials)), plural(uint64(c.Support.Answers), "answer")))
	}
	if n := len(c.Alternatives); n > 0 {
		var list []string
		for _, a := range c.Alternatives[:min(n, 3)] {
			list = append(list, fmt.Sprintf("%s %s", clean(a.Hypothesis), clean(a.Name)))
		}
		if n > len(list) {
			list = append(list, fmt.Sprintf("%d more", n-len(list)))
		}
		t.row("also fits", strings.Join(list, ", "))
	}
}

func (t *textWriter) chance(m *Message) {
	c := &m.Portolan.Calc
	learned := ""
	if c.Constants > 0 {
		learned = ", with " + plural(uint64(c.Constants), "constant") + " remembered"
	}
	t.row("chance", fmt.Sprintf("at most %s match by chance; tried %s on %s%s", trialsText(c.Chance),
		plural(uint64(max(c.Hypotheses, 0)), "hypothesis"), plural(uint64(max(c.Answers, 0)), "answer"), learned))
	basis := "measured here"
	if c.ExpectedFalseBasis == "bound" {
		basis = "at most"
	}
	t.row("evidence", fmt.Sprintf("e-value %s; expected by chance, %s: %s", powerText(c.EValueLog10), basis,
		perDayText(c.ExpectedFalsePerDay, m.Portolan.Level)))
}

func baselineText(m *Message) string {
	b := &m.Portolan.Baseline
	what := "this destination"
	if m.Portolan.Calc.Kind == correlate.Port.String() {
		what = fmt.Sprintf("port %d", m.Destination.Port)
	}
	return fmt.Sprintf("%s: %s (%s, %s before)", what, trialsText(b.Chance), clean(b.Model),
		plural(b.Trials, "trial"))
}

func coverageText(c *Coverage) string {
	parts := []string{clean(c.Verdict)}
	if len(c.Why) > 0 {
		parts[0] += " (" + strings.Join(cleanAll(c.Why), ", ") + ")"
	}
	parts = append(parts, lossText(&c.Loss))
	parts = append(parts, fmt.Sprintf("DNS %s, TCP %s", directionText(c.Directions.DNS), directionText(c.Directions.TCP)))
	if c.Client.Connections > 0 {
		parts = append(parts, fmt.Sprintf("a lookup explains %s of this client's %s (%.0f%%)", count(c.Client.Explained),
			plural(c.Client.Connections, "connection"), 100*unit(c.Client.Share)))
	}
	if c.Client.Forgotten > 0 {
		parts = append(parts, plural(c.Client.Forgotten, "answer")+" of it forgotten")
	}
	return strings.Join(parts, "; ")
}

func lossText(l *Loss) string {
	var lost []string
	for _, p := range []struct {
		place string
		n     uint64
	}{{"NIC", l.NIC}, {"ring", l.Ring}, {"decoder", l.Decoder}, {"correlator", l.Correlator}, {"queue", l.Queue}, {"spool", l.Spool}} {
		if p.n > 0 {
			lost = append(lost, count(p.n)+" at "+p.place)
		}
	}
	s := "nothing lost"
	if len(lost) > 0 {
		s = "lost " + strings.Join(lost, ", ")
	}
	if len(l.Unknown) > 0 {
		s += " (not known: " + strings.Join(cleanAll(l.Unknown), ", ") + ")"
	}
	return s
}

func directionText(d string) string {
	switch d {
	case Both:
		return "both ways"
	case FromClient:
		return "from clients only"
	case ToClient:
		return "to clients only"
	case Nothing:
		return "not seen"
	}
	return "direction unknown"
}

// row writes a label and text, broken into lines of at most textWidth columns.
func (t *textWriter) row(label, text string) {
	const indent = 13
	fmt.Fprintf(&t.buf, "  %s", t.paint(ansiDim, fmt.Sprintf("%-*s", indent-2, label)))
	column, gap := indent, 0
	for _, word := range strings.Split(text, " ") {
		if word != "" {
			word = middle(word, textWidth-indent)
			n := utf8.RuneCountInString(word)
			if column > indent && column+gap+n > textWidth {
				fmt.Fprintf(&t.buf, "\n%*s", indent, "")
				column, gap = indent, 0
			}
			fmt.Fprintf(&t.buf, "%*s%s", gap, "", word)
			column, gap = column+gap+n, 0
		}
		gap++
	}
	t.buf.WriteByte('\n')
}

// middle returns s with its middle left out when it has more than n runes: of a long name
// both ends tell most.
func middle(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	head := (n - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(n-1-head):])
}

// trialsText says how many trials a probability makes for one that fits.
func trialsText(p float64) string {
	switch {
	case !(p > 0):
		return "an unknown share of trials"
	case p >= 0.5:
		return "every other trial or more"
	}
	return "1 in " + bigText(1/p) + " trials"
}

// bigText writes a number as people say it: 340, 12,000, 3.4 million, 10^15.
func bigText(x float64) string {
	scales := []struct {
		from float64
		name string
	}{{1e12, "trillion"}, {1e9, "billion"}, {1e6, "million"}}
	if x >= 1e15 {
		return powerText(math.Log10(x))
	}
	for _, s := range scales {
		if x >= 0.9995*s.from { // else rounding makes 1,000,000 of it
			return strconv.FormatFloat(x/s.from, 'g', digits(x/s.from), 64) + " " + s.name
		}
	}
	if x < 10 {
		return strconv.FormatFloat(x, 'g', 2, 64)
	}
	return count(uint64(math.Round(x)))
}

// digits returns how many significant ones keep a number from 1 to 1000 short and free of an exponent.
func digits(x float64) int {
	if x >= 99.5 {
		return 3
	}
	return 2
}

// powerText writes a positive number, given its decimal logarithm, as 4.2·10^6, or plainly
// when that is short.
func powerText(log10 float64) string {
	if math.IsNaN(log10) || math.IsInf(log10, 0) {
		return "beyond numbers"
	}
	if log10 >= -2 && log10 < 5 {
		x := math.Pow(10, log10)
		if x >= 100 {
			return count(uint64(math.Round(x)))
		}
		return strconv.FormatFloat(x, 'g', 2, 64)
	}
	e := math.Floor(log10)
	mantissa := strconv.FormatFloat(math.Pow(10, log10-e), 'f', 1, 64)
	if mantissa == "10.0" {
		mantissa, e = "1.0", e+1
	}
	return fmt.Sprintf("%s·10^%.0f", mantissa, e)
}

// perDayText says how often chance makes a hit of a level.
func perDayText(perDay float64, level string) string {
	if level != correlate.Alert.String() && level != correlate.Watch.String() && level != correlate.Lead.String() {
		level = "hit"
	}
	one := "one such " + level
	switch {
	case !(perDay > 0):
		return "no such " + level
	case perDay >= 1:
		return fmt.Sprintf("%s such %s a day", bigText(perDay), several(level))
	}
	days := 1 / perDay
	if days < 730 {
		return fmt.Sprintf("%s in %s days", one, bigText(days))
	}
	return fmt.Sprintf("%s in %s years", one, bigText(days/365.25))
}

// plural writes a count and what is counted.
func plural(n uint64, what string) string {
	if n != 1 {
		what = several(what)
	}
	return count(n) + " " + what
}

// several returns the plural of what.
func several(what string) string {
	switch {
	case strings.HasSuffix(what, "is"):
		return strings.TrimSuffix(what, "is") + "es"
	case strings.HasSuffix(what, "ch"):
		return what + "es"
	}
	return what + "s"
}

// count writes n with commas.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// lagText writes a duration with three digits, such as 1.24 ms or 341 s.
func lagText(d time.Duration) string {
	units := []struct {
		unit time.Duration
		name string
	}{{time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "µs"}}
	for _, u := range units {
		if d.Abs() >= u.unit {
			x := float64(d) / float64(u.unit)
			if math.Abs(x) >= 1000 {
				return strconv.FormatFloat(x, 'f', 0, 64) + " " + u.name
			}
			return strconv.FormatFloat(x, 'g', 3, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(int64(d), 10) + " ns"
}
