package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"portolan/cmd/internal/lab"
)

// labOutcome compares what the implants did with what the subscriber heard.
type labOutcome struct {
	Passed      bool           `json:"passed"` // every implant found, no false alert
	Implants    []implantFound `json:"implants"`
	FalseAlerts []string       `json:"false_alerts"`
	FalseOthers []string       `json:"false_watches_and_leads"`
	Latency     latency        `json:"wire_to_subscriber"`
	Wire        latency        `json:"wire_to_hit"`
	Stream      latency        `json:"hit_to_stream"`
	Subscriber  latency        `json:"stream_to_subscriber"`
	Lookups     uint64         `json:"lookups"`
	Connections uint64         `json:"connections"`
	Benign      int            `json:"benign_clients"`
}

// implantFound is one implant.
type implantFound struct {
	Family   string     `json:"family"`
	Client   netip.Addr `json:"client"`
	Did      string     `json:"did"` // its first contact
	Contacts int        `json:"contacts"`
	Found    int        `json:"found"` // contacts that a hit of the level the evidence warrants names
	Level    string     `json:"level"` // of its strongest hit, "" without one
	Latency  latency    `json:"wire_to_subscriber"`

	Process *implantNamed `json:"process,omitempty"` // with an endpoint agent
}

// latency is the time from a connection's first frame on the mirror, by kernel stamp, to
// the first message about it at the subscriber, in nanoseconds.
type latency struct {
	Messages int           `json:"messages"`
	Median   time.Duration `json:"median_ns"`
	P99      time.Duration `json:"p99_ns"`
	Max      time.Duration `json:"max_ns"`
}

func latencyOf(all []time.Duration) latency {
	if len(all) == 0 {
		return latency{}
	}
	slices.Sort(all)
	at := func(share float64) time.Duration { return all[int(share*float64(len(all)-1)+0.5)] }
	return latency{len(all), at(.5), at(.99), all[len(all)-1]}
}

// flow names a connection.
type flow struct {
	src, dst netip.AddrPort
	proto    string
}

// heardFlow is what the subscriber was told of one connection.
type heardFlow struct {
	first time.Duration    // from the wire to the first message
	stage [3]time.Duration // of that: to the hit, from there to the stream, from there to the subscriber
	last  heardHit         // highest revision
	named time.Duration    // from the wire to the first message that names processes; 0 without one
}

// stages says where the time of a message went; all is nothing when that is not known.
func (h *heardHit) stages() (s [3]time.Duration) {
	if made := h.Event.Created; made != nil && !h.stored.IsZero() {
		s = [3]time.Duration{made.Sub(h.Timestamp), h.stored.Sub(*made), h.received.Sub(h.stored)}
	}
	return s
}

var levelOrder = [...]string{"none", "lead", "watch", "alert"}

func rank(level string) int { return slices.Index(levelOrder[:], level) }

// flowOf returns the connection that a message is about.
func flowOf(h *heardHit) flow {
	return flow{
		netip.AddrPortFrom(h.Source.IP, h.Source.Port), netip.AddrPortFrom(h.Destination.IP, h.Destination.Port),
		h.Network.Transport,
	}
}

// truthFlow returns the connection that an implant made.
func truthFlow(c *lab.Contact) flow { return flow{c.Source, c.Destination, c.Proto.String()} }

// judgeLab draws up the outcome. The source is that of the endpoint agent, "" without one.
func judgeLab(hosts []lab.Host, truth []lab.Contact, traffic lab.Traffic, heard []heardHit, source string) *labOutcome {
	flows := map[flow]*heardFlow{}
	var order []flow
	for _, h := range heard {
		k := flowOf(&h)
		f, known := flows[k]
		if !known {
			f = &heardFlow{first: h.received.Sub(h.Timestamp), stage: h.stages(), last: h}
			flows[k] = f
			order = append(order, k)
		} else if h.Portolan.Revision > f.last.Portolan.Revision {
			f.last = h
		}
		if f.named == 0 && h.named() {
			f.named = h.received.Sub(h.Timestamp)
		}
	}
	o := &labOutcome{Lookups: traffic.Lookups, Connections: traffic.Connections, FalseAlerts: []string{}, FalseOthers: []string{}}
	var all []time.Duration
	var stage [3][]time.Duration
	for _, f := range flows {
		all = append(all, f.first)
		for i, d := range f.stage {
			stage[i] = append(stage[i], d)
		}
	}
	o.Latency = latencyOf(all)
	o.Wire, o.Stream, o.Subscriber = latencyOf(stage[0]), latencyOf(stage[1]), latencyOf(stage[2])
	expected := map[flow]bool{}
	for _, h := range hosts {
		if !h.Implant {
			o.Benign++
			continue
		}
		i := judgeImplant(h, truth, flows, expected)
		if source != "" {
			i.Process = judgeProcesses(source, h, labUser+uint32(len(o.Implants)), truth, flows)
		}
		o.Implants = append(o.Implants, i)
	}
	o.Passed = len(o.Implants) > 0
	for _, i := range o.Implants {
		o.Passed = o.Passed && i.Level == "alert" && (i.Process == nil || len(i.Process.Wrong) == 0)
	}
	for _, k := range order {
		m := flows[k].last
		if expected[k] || m.Portolan.State == "retracted" {
			continue
		}
		text := printable(m.Message.Message)
		if m.Portolan.Level == "alert" {
			o.FalseAlerts, o.Passed = append(o.FalseAlerts, text), false
		} else {
			o.FalseOthers = append(o.FalseOthers, m.Portolan.Level+": "+text)
		}
	}
	return o
}

// judgeImplant compares the contacts of one implant with what was heard, and marks them in seen.
func judgeImplant(h lab.Host, truth []lab.Contact, flows map[flow]*heardFlow, seen map[flow]bool) implantFound {
	r := implantFound{Family: h.Role, Client: h.Addr}
	var times []time.Duration
	for _, c := range truth {
		if c.Source.Addr() != h.Addr {
			continue
		}
		if r.Contacts++; r.Did == "" {
			r.Did = contactText(&c)
		}
		k := truthFlow(&c)
		seen[k] = true
		f := flows[k]
		if f == nil || f.last.Portolan.State == "retracted" {
			continue
		}
		times = append(times, f.first)
		level := f.last.Portolan.Level
		if rank(level) >= rank(c.Level) {
			r.Found++
		}
		if r.Level == "" || rank(level) > rank(r.Level) {
			r.Level = level
		}
	}
	r.Latency = latencyOf(times)
	return r
}

// contactText says what an implant did: what the DNS told it and where it went.
func contactText(c *lab.Contact) string {
	told := "TXT " + printable(c.Text)
	if c.Answer.IsValid() {
		told = c.Answer.String()
	}
	return fmt.Sprintf("%s → %s/%s", told, c.Destination, c.Proto)
}

func (o *labOutcome) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(o)
}

// write writes a table for people.
func (o *labOutcome) write(w io.Writer) error {
	rows := [][]string{{"implant", "client", "outcome", "level", "contacts", "wire to subscriber", "first contact"}}
	for _, i := range o.Implants {
		outcome, soon := "FOUND", "-"
		if i.Level != "alert" {
			outcome = "MISSED"
		}
		if i.Latency.Messages > 0 {
			soon = lagText(i.Latency.Median)
		}
		rows = append(rows, []string{
			i.Family, i.Client.String(), outcome, cmp.Or(i.Level, "-"), fmt.Sprintf("%d of %d", i.Found, i.Contacts), soon, i.Did,
		})
	}
	var b strings.Builder
	writeTable(&b, rows)
	verdict := "PASSED: every implant found, no false alert"
	if o.Implants[0].Process != nil {
		verdict = "PASSED: every implant found, its process named, no false alert"
		o.writeProcesses(&b)
	}
	fmt.Fprintf(&b, "\nfalse alerts       %d, among %s with %d lookups and %d connections\n", len(o.FalseAlerts),
		count(o.Benign, "benign client", "benign clients"), o.Lookups, o.Connections)
	for _, text := range o.FalseAlerts {
		fmt.Fprintf(&b, "    %s\n", text)
	}
	fmt.Fprintf(&b, "other false hits   %d\n", len(o.FalseOthers))
	for _, text := range o.FalseOthers {
		fmt.Fprintf(&b, "    %s\n", text)
	}
	fmt.Fprintf(&b, "wire to subscriber median %s, 99th percentile %s, longest %s, over %s\n", lagText(o.Latency.Median),
		lagText(o.Latency.P99), lagText(o.Latency.Max), count(o.Latency.Messages, "hit", "hits"))
	fmt.Fprintf(&b, "  of that          to the hit %s (%s), to the stream %s (%s), to the subscriber %s (%s)\n",
		lagText(o.Wire.Median), lagText(o.Wire.P99), lagText(o.Stream.Median), lagText(o.Stream.P99),
		lagText(o.Subscriber.Median), lagText(o.Subscriber.P99))
	if !o.Passed {
		verdict = "NOT PASSED"
	}
	b.WriteString(verdict + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTable writes rows in columns two spaces apart; the first row is the heading.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, r := range rows {
		for i, cell := range r {
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
}
