package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"portolan/cmd/internal/bus"
	"portolan/correlate/evidence"
	"portolan/correlate/hypothesis"
)

// explanation writes the sections of one hit. Text that a stranger chose goes through
// printable.
type explanation struct{ *bufio.Writer }

func (x explanation) section(title string) { fmt.Fprintf(x, "\n%s\n", title) }

func (x explanation) row(label, format string, args ...any) {
	const labelWidth, column = 22, 76
	for i, line := range wrap(fmt.Sprintf(format, args...), column) {
		if i > 0 {
			label = ""
		}
		pad := strings.Repeat(" ", max(labelWidth-utf8.RuneCountInString(label), 1))
		fmt.Fprintf(x, "  %s%s%s\n", label, pad, line)
	}
}

// writeExplanation writes everything that a hit's message says, in the order in which one
// would check it.
func writeExplanation(w *bufio.Writer, m *bus.Message) {
	x := explanation{w}
	p := &m.Portolan
	fmt.Fprintf(x, "%s  %s\n", strings.ToUpper(printable(p.Level)), printable(m.Message))
	x.timeLine(m)
	x.arithmetic(m)
	x.evidence(m)
	x.coverage(&p.Coverage)
	x.who(&p.Attribution)

	x.section("Name")
	x.row("hit", "%s, revision %d, %s", printable(p.HitID), p.Revision, printable(p.State))
	x.row("sensor", "%s, zone %s", printable(m.Observer.Name), printable(p.Zone.Text))
	x.row("community id", "%s", printable(m.Network.CommunityID))
	x.row("technique", "%s", printable(strings.Join(m.Threat.Technique.Subtechnique.ID, ", ")))
}

// who says which process, user and container it was, how sure that is, and why.
func (x explanation) who(a *bus.Attribution) {
	x.section("Who")
	for _, r := range a.Rows() {
		x.row(r.Label, "%s", printable(r.Text))
	}
	if q := a.Process; q != nil {
		if len(q.Args) > 0 {
			x.row("command line", "%s", printable(strings.Join(q.Args, " ")))
		}
		if q.Start != nil {
			x.row("running since", "%s", q.Start.UTC().Format("2006-01-02 15:04:05.000")+" UTC, by its host's clock")
		}
	}
	if a.SkewNS != nil {
		x.row("clocks", "the endpoint's is %s %s the sensor's", lagText(time.Duration(*a.SkewNS).Abs()), aheadOf(*a.SkewNS))
	}
}

func aheadOf(ns int64) string {
	if ns < 0 {
		return "behind"
	}
	return "ahead of"
}

func (x explanation) timeLine(m *bus.Message) {
	const clock = "15:04:05.000000"
	p := &m.Portolan
	x.section("Time line, " + m.Timestamp.UTC().Format("2006-01-02") + " UTC")
	l := &p.Lookup
	name, by := "a name that memory no longer holds", ""
	if l.Name != "" {
		name = printable(l.Name)
	}
	if l.Resolver.IsValid() {
		by = l.Resolver.Addr().String() + " "
	}
	answer := "TXT"
	if l.Answer.IsValid() {
		answer = l.Answer.String()
	}
	x.row(l.Time.UTC().Format(clock), "%sanswers %s: %s is %s, for %d s", by, m.Source.IP, name, answer, l.TTL)
	lag := time.Duration(p.Timing.LagNS)
	late := ""
	if lag > time.Duration(l.TTL)*time.Second {
		late = ", after the TTL had run out"
	}
	x.row(m.Timestamp.UTC().Format(clock), "%s connects to %s/%s, %s later%s", netip.AddrPortFrom(m.Source.IP, m.Source.Port),
		netip.AddrPortFrom(m.Destination.IP, m.Destination.Port), printable(m.Network.Transport), lagText(lag), late)
}

func (x explanation) arithmetic(m *bus.Message) {
	c := &m.Portolan.Calc
	x.section("Arithmetic")
	x.row(printable(c.Hypothesis)+" "+printable(c.Name), "%s", printable(c.Expression))
	if m.Portolan.Lookup.Via != "a" && m.Portolan.Lookup.Via != "aaaa" {
		x.row("operand", "%s, read from the record as %s", c.Operand, printable(m.Portolan.Lookup.Via))
	}
	if m.Portolan.Explained.Destination {
		x.row("destination", "an answer that the client was given; the port is what is calculated")
	} else {
		x.row("destination", "no lookup seen here gave it to the client")
	}
	if len(c.Alternatives) == 0 {
		x.row("alternatives", "none of the others tried gives the same")
	}
	for _, a := range c.Alternatives {
		x.row("or "+printable(a.Hypothesis)+" "+printable(a.Name), "%s (e-value %.3g)", printable(a.Expression), a.EValue)
	}
}

func (x explanation) evidence(m *bus.Message) {
	p := &m.Portolan
	c, what := &p.Calc, "destination"
	if c.Kind == "port" {
		what = "port"
	}
	x.section("Evidence")
	x.row("this "+what, "%s without any calculation, by the baseline %q after %s of this client",
		oneIn(p.Baseline.Chance), printable(p.Baseline.Model), count(p.Baseline.Trials, "trial", "trials"))
	remembered := ""
	if c.Constants > 0 {
		remembered = ", with " + count(c.Constants, "constant", "constants") + " remembered, any of which could have fitted"
	}
	x.row("tried", "%s on %s%s", count(uint64(max(c.Hypotheses, 0)), "hypothesis", "hypotheses"),
		count(uint64(max(c.Answers, 0)), "answer", "answers"), remembered)
	x.row("any match by chance", "%s at most, in one trial such as this", oneIn(c.Chance))
	x.row("same hypothesis", "fits %s of this client, from %s",
		count(uint64(max(c.Support.Trials, 0)), "connection", "connections"),
		count(uint64(max(c.Support.Answers, 0)), "distinct answer", "distinct answers"))
	if weight, ok := weightOf(c.Hypothesis); ok && p.Baseline.Chance > 0 && c.Answers > 0 {
		before := ""
		if c.Support.Trials > 1 {
			before = "; times what those before are worth, less what has faded since"
		}
		competed := float64(c.Answers) * float64(max(c.Constants, 1))
		x.row("by itself", "prior weight %.3g × mean share %.3f ÷ (%g competing × %.3g chance) = %.3g%s", weight, evidence.MeanShare(),
			competed, p.Baseline.Chance, weight*evidence.MeanShare()/(competed*p.Baseline.Chance), before)
	}
	x.row("e-value", "%.3g, of which %.3g by %s; chance reaches E at most once in E trials", c.EValue, c.Match.EValue,
		printable(c.Hypothesis))
	x.row("expected false", "%.2g hits of this level a day (%s)", c.ExpectedFalsePerDay, printable(c.ExpectedFalseBasis))
	x.row("decoys", "at this sensor so far scrambled answers reached a watch %s, an alert %s", times(c.Decoys.Watch), times(c.Decoys.Alert))
}

// times writes how often something happened.
func times(n uint64) string { return count(n, "time", "times") }

// weightOf returns the prior weight of a hypothesis of the catalogue. Behind a colon or a plus sign may
// stand a constant that was learned.
func weightOf(id string) (weight float64, ok bool) {
	short := id
	if at := strings.LastIndexAny(id, ":+"); at > 0 {
		short = id[:at]
	}
	for _, h := range hypothesis.Catalogue() {
		switch h.ID {
		case id:
			return h.Weight, true
		case short:
			weight, ok = h.Weight, true
		}
	}
	return weight, ok
}

func (x explanation) coverage(c *bus.Coverage) {
	x.section("Coverage")
	x.row("verdict", "%s", printable(c.Verdict))
	for _, why := range c.Why {
		x.row("", "%s", printable(why))
	}
	l := &c.Loss
	x.row("lost", "%d at the NIC, %d at the ring, %d at the decoder, %d at the correlator, %d at the queue, %d at the spool",
		l.NIC, l.Ring, l.Decoder, l.Correlator, l.Queue, l.Spool)
	if len(l.Unknown) > 0 {
		x.row("not known", "%s", printable(strings.Join(l.Unknown, ", ")))
	}
	x.row("directions", "DNS %s, TCP %s", printable(c.Directions.DNS), printable(c.Directions.TCP))
	k := &c.Client
	x.row("this client", "%s, of which a lookup explains %d (%s); %s; %s late; %s forgotten",
		count(k.Connections, "connection", "connections"), k.Explained, percent(k.Share), count(k.Lookups, "lookup", "lookups"),
		count(k.Late, "event", "events"), count(k.Forgotten, "answer", "answers"))
}
