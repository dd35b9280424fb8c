package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/feed/archive"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// summary is what one traffic came to.
type summary struct {
	stats sensor.Stats // of all its files, or of all rings
	names []string     // files or devices

	archive *archive.Report // of records; else nil
	hits    [correlate.Alert + 1]uint64

	allowed allowed // hits that allow rules kept back; not among hits
}

// add adds what one file of the traffic held. The decoder is the same for all of them, so
// the newest counters hold for all.
func (s *summary) add(name string, x *sensor.Stats) {
	s.names = append(s.names, name)
	s.stats.Add(x)
	s.stats.Counters = x.Counters
}

// write writes the summary for people.
func (s *summary) write(w io.Writer, c *correlate.Stats, v *coverage.Assessment) error {
	var b strings.Builder
	row := func(label, format string, args ...any) {
		const indent, column = 16, 84
		for i, line := range wrap(fmt.Sprintf(format, args...), column) {
			if i > 0 {
				label = ""
			}
			fmt.Fprintf(&b, "  %-*s%s\n", indent-2, label, line)
		}
	}
	t := &s.stats
	if s.archive != nil {
		fmt.Fprintf(&b, "%s: %s", s.title(), archiveHead(s.archive))
	} else {
		fmt.Fprintf(&b, "%s: %s, %s", s.title(), count(t.Frames, "frame", "frames"), bytesText(int64(t.Bytes)))
	}
	if t.Frames > 0 {
		fmt.Fprintf(&b, ", from %s UTC on for %s", t.First.UTC().Format("2006-01-02 15:04:05"), lagText(t.Last.Sub(t.First)))
	}
	b.WriteByte('\n')
	if t.Frames > 0 {
		row("frames", "%s", reasonsText(&t.Reasons))
	}
	if text := tunnelsText(&t.Counters); text != "" {
		row("tunnels", "%s", text)
	}
	row("lookups", "%d, of %s", c.Lookups, count(c.Clients, "client", "clients"))
	row("connections", "%d; a lookup seen here explains %d of them (%s)", c.Connections, c.Explained,
		percent(share(c.Explained, c.Connections)))
	if text := explainedText(c); text != "" {
		row("explained", "%s", text)
	}
	row("tried", "%d ports by formula, %d destinations by transform", c.PortTrials, c.AddressTrials)
	row("hits", "%s", hitsText(&s.hits))
	for _, line := range s.allowed.lines {
		row("allowed", "%s", line)
	}
	row("by chance", "scrambled answers reached %s", hitsText(&c.Decoys))
	if c.Gated > 0 {
		row("gated", "%s of clients that walk through many destinations taught nothing", count(c.Gated, "trial", "trials"))
	}
	if c.Unjudged > 0 {
		row("not judged", "%s: no lookup of the client was seen before (encrypted, cached, one direction missing), "+
			"or the destination is none that a calculation can give", count(c.Unjudged, "connection", "connections"))
	}
	if t.Truncated > 0 && len(t.Rings) == 0 { // live, the kernel keeps no more of a frame than counts
		row("cut", "%s captured shorter than on the wire", count(t.Truncated, "frame was", "frames were"))
	}
	if t.Incomplete != "" {
		row("incomplete", "%s", t.Incomplete)
	}
	row("coverage", "%s", v.Text())
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *summary) title() string {
	if len(s.names) <= 3 {
		return strings.Join(s.names, ", ")
	}
	return fmt.Sprintf("%s and %d more", s.names[0], len(s.names)-1)
}

// reasonsText lists what became of the frames, the commonest first.
func reasonsText(reasons *[decode.NumReasons]uint64) string {
	var order []decode.Reason
	for r := range decode.NumReasons {
		if reasons[r] > 0 {
			order = append(order, r)
		}
	}
	slices.SortStableFunc(order, func(a, b decode.Reason) int { return cmp.Compare(reasons[b], reasons[a]) })
	var list []string
	for _, r := range order {
		list = append(list, fmt.Sprintf("%d %s", reasons[r], r))
	}
	return strings.Join(list, ", ")
}

// tunnelsText lists the tunnels that were taken apart, and how many frames nest too deep; ""
// when there was none.
func tunnelsText(c *decode.Counters) string {
	var list []string
	for k, n := range c.Tunnels {
		if n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, decode.TunnelKind(k)))
		}
	}
	if n := c.TunnelsTooDeep; n > 0 {
		list = append(list, fmt.Sprintf("%d too deep", n))
	}
	return strings.Join(list, ", ")
}

// explainedText lists what other than an answer explained connections, "" when nothing did.
func explainedText(c *correlate.Stats) string {
	var list []string
	for i, name := range correlate.ExplanationNames() {
		if n := c.ExplainedBy[i]; n > 0 && name != "" && name != "answer" {
			list = append(list, fmt.Sprintf("%d by %s", n, name))
		}
	}
	return strings.Join(list, ", ")
}

// hitsText lists hits by level, strongest first.
func hitsText(hits *[correlate.Alert + 1]uint64) string {
	var list []string
	for l := correlate.Alert; l > correlate.None; l-- {
		if n := hits[l]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, l))
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
