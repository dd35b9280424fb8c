package coverage

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"portolan/sensor/decode"
)

// The bounds of the rules. A rule that speaks of a share waits until there is enough to take a share of.
const (
	tolerableLoss   = 0.001 // share of frames, from which it limits
	blindingLoss    = 0.25  // from which every fourth destination lacks its lookup
	enough          = 100   // queries, connections, or starts
	answeredLeast   = 0.9   // share of queries with an answer that was seen
	explainedLeast  = 0.2   // share of connections to an address that a lookup gave
	copiesLeast     = 0.05  // share of starts that came twice at once
	iterativeLeast  = 0.9   // share of answers to questions without recursion desired
	resolversMost   = 4     // clients that such answers may go to
	partialLeast    = 0.01  // share of lookups that were cut
	oversizeLeast   = 0.001 // share of frames
	opaqueLeast     = 0.01  // share of frames in tunnels that could not be taken apart
	elsewhereLeast  = 0.1   // share of clients that resolve out of sight
	oneWayMost      = 0.01  // share of the rarer direction, below which there is one
	some            = 20    // of what has to be there before its absence says anything
	silentLeast     = 30 * time.Second
	darkLeast       = 0.9 // share of the interval without a link
	darkWorthSaying = time.Second
)

// Rules returns the names of all rules, in the order in which they are looked at.
func Rules() []string {
	names := make([]string, len(rules))
	for i, r := range rules {
		names[i] = r.name
	}
	return names
}

// rule looks for one thing.
type rule struct {
	name        string
	consequence string
	look        func(*looked) (Severity, string) // "" when it does not apply
}

// looked is what rules look at.
type looked struct {
	*Counts
	*View
	Source
}

// told reports whether there were lookups that no frame held: somebody else told of them.
func (x *looked) told() bool {
	return (x.Records != nil || x.Beside != nil) && x.Counts.Lookups > 0 && x.Decoder.Responses == 0
}

// Assess says how far what was counted can be judged. A nil View means that nothing is known of single clients.
func Assess(c *Counts, v *View, s Source) Assessment {
	if v == nil {
		v = &View{}
	}
	x := looked{c, v, s}
	var all []Finding
	for _, r := range rules {
		if severity, evidence := r.look(&x); severity != "" {
			all = append(all, Finding{r.name, severity, evidence, r.consequence})
		}
	}
	return conclude(all)
}

// limitIf returns the severity Limits with the evidence when a rule applies.
func limitIf(applies bool, format string, args ...any) (Severity, string) {
	if !applies {
		return "", ""
	}
	return Limits, fmt.Sprintf(format, args...)
}

// lost assesses frames lost of those there were.
func lost(n, frames uint64, where string) (Severity, string) {
	of := share(n, frames+n)
	text := fmt.Sprintf("%s of frames lost %s (%d of %d)", Percent(of), where, n, frames+n)
	switch {
	case of <= tolerableLoss:
		return "", ""
	case of >= blindingLoss:
		return Disables, text
	}
	return Limits, text
}

var rules = []rule{
	{"records.limits", "what the records leave out can neither be calculated with nor explain anything", func(x *looked) (Severity, string) {
		return limitIf(len(x.Records) > 0, "%s", strings.Join(x.Records, "; "))
	}},
	{"link.down", "nothing of that time was seen", func(x *looked) (Severity, string) {
		dark := time.Duration(x.Dark)
		text := fmt.Sprintf("no link for %v, down %d times, interface gone %d times", dark.Round(time.Millisecond), x.LinkDowns, x.Reopens)
		switch {
		case x.Span > 0 && float64(dark) >= darkLeast*float64(x.Span):
			return Disables, text
		case dark >= darkWorthSaying || x.LinkDowns > 0 || x.Reopens > 0:
			return Limits, text
		}
		return "", ""
	}},
	{"mirror.silent", "that nothing was found means nothing", func(x *looked) (Severity, string) {
		if !x.Live || x.Frames > 0 || x.Span < silentLeast {
			return "", ""
		}
		return Disables, fmt.Sprintf("no frame in %v", x.Span.Round(time.Second))
	}},
	{"loss.nic", "lookups are missing that would explain connections, and connections that were calculated", func(x *looked) (Severity, string) {
		return lost(x.Loss.NIC, x.Frames+x.Loss.Ring, "at the NIC")
	}},
	{"loss.ring", "lookups are missing that would explain connections, and connections that were calculated", func(x *looked) (Severity, string) {
		return lost(x.Loss.Ring, x.Frames, "at the ring")
	}},
	{"loss.decoder", "some connections count twice, some answers in fragments or over TCP are missing", func(x *looked) (Severity, string) {
		return limitIf(x.Loss.Decoder > 0, "the decoder's tables were too small %s", times(x.Loss.Decoder))
	}},
	{"loss.correlator", "what was forgotten explains nothing any more and is not calculated with", func(x *looked) (Severity, string) {
		return limitIf(x.Loss.Correlator > 0, "%d remembered facts made room for others early", x.Loss.Correlator)
	}},
	{"loss.messages", "hits were found that no subscriber got", func(x *looked) (Severity, string) {
		return limitIf(x.Loss.Queue+x.Loss.Spool > 0, "%d messages lost before NATS, %d in the queue and %d in the spool",
			x.Loss.Queue+x.Loss.Spool, x.Loss.Queue, x.Loss.Spool)
	}},
	{"mirror.one-way", "an answer and the connection it explains have to be seen both", oneWay},
	{"dns.none", "no lookup was seen: nothing can be calculated with, and nothing is explained", func(x *looked) (Severity, string) {
		if x.Decoder.Queries+x.Decoder.Responses > 0 || x.told() {
			return "", ""
		}
		text := fmt.Sprintf("no DNS seen beside %d connections: encrypted, cached, or not on this path", x.Decoder.Connections)
		if x.Decoder.Connections >= some {
			return Disables, text
		}
		return Limits, text
	}},
	{"dns.answers-missing", "without its answer a lookup explains nothing and is not calculated with", func(x *looked) (Severity, string) {
		q, r := x.Decoder.Queries, x.Decoder.Responses
		switch {
		case q == 0 || r > 0 && q < enough || float64(r) >= answeredLeast*float64(q):
			return "", ""
		case r == 0 && q >= some && !x.told():
			return Disables, fmt.Sprintf("none of %d DNS queries has an answer that was seen", q)
		}
		return Limits, fmt.Sprintf("%s of %d DNS queries have an answer that was seen", Percent(share(r, q)), q)
	}},
	{"dns.answers-only", "whether answers are missing cannot be told", func(x *looked) (Severity, string) {
		return limitIf(x.Decoder.Responses > 0 && x.Decoder.Queries == 0, "%d DNS answers seen, and no query", x.Decoder.Responses)
	}},
	{"dns.resolver-side", "answers go to the resolver, not to the hosts: no lookup belongs to who connects", func(x *looked) (Severity, string) {
		r, i := x.Decoder.Responses, x.Decoder.Iterative
		if r < some || share(i, r) < iterativeLeast || x.Answered > resolversMost {
			return "", ""
		}
		return Disables, fmt.Sprintf("%s of %d DNS answers are of authoritative servers to %d clients, which do not ask for recursion",
			Percent(share(i, r)), r, x.Answered)
	}},
	{"dns.elsewhere", "what these clients are told is not seen: of them it means nothing that no lookup explains a destination", func(x *looked) (Severity, string) {
		if x.Elsewhere == 0 {
			return "", ""
		}
		text := fmt.Sprintf("%d of %d clients resolve out of sight (%s); of %d of them no answer was seen",
			x.Elsewhere, x.Clients, hiddenText(&x.Traffic), x.Only)
		switch {
		case x.Answered == 0: // where others get answers that are seen, those can be judged
			return Disables, text
		case share(x.Elsewhere, x.Clients) >= elsewhereLeast:
			return Limits, text
		}
		return Note, text
	}},
	{"dns.unexplained", "most destinations have no lookup: encrypted DNS, caches, or a resolver behind the mirror", func(x *looked) (Severity, string) {
		of := share(x.Explained, x.Settled)
		return limitIf(x.Settled >= enough && of < explainedLeast, "a lookup seen here explains only %s of %d connections", Percent(of), x.Settled)
	}},
	{"tcp.one-way", "connections are counted when they are tried, or when they are answered, and not both", func(x *looked) (Severity, string) {
		syn, synack := x.Decoder.SYN, x.Decoder.SYNACK
		if x.Decoder.Queries == 0 != (x.Decoder.Responses == 0) {
			return "", "" // then the mirror is
		}
		switch {
		case synack == 0 && syn > 0 || syn >= enough && share(synack, syn) < oneWayMost:
			return Limits, fmt.Sprintf("%d SYN and %d SYN+ACK seen: TCP from clients only", syn, synack)
		case syn == 0 && synack > 0 || synack >= enough && share(syn, synack) < oneWayMost:
			return Limits, fmt.Sprintf("%d SYN and %d SYN+ACK seen: TCP to clients only", syn, synack)
		}
		return "", ""
	}},
	{"mirror.duplicates", "half of the mirror's and the sensor's room goes to copies; shares of loss are of both", func(x *looked) (Severity, string) {
		starts := x.Decoder.SYN + x.Decoder.SYNACK
		of := share(x.Decoder.Copies, starts)
		return limitIf(starts >= some && of >= copiesLeast, "%s of %d SYN and SYN+ACK came a second time at once, as from a mirror of both ports",
			Percent(of), starts)
	}},
	{"frames.truncated", "answers and connections behind the cut were not read", func(x *looked) (Severity, string) {
		cut, answers := x.Reasons[decode.Truncated], x.Decoder.DNSPartial+x.Decoder.DNSMalformed
		return limitIf(share(cut, x.Frames) > tolerableLoss || x.Truncated > 0 && share(answers, x.Decoder.Responses) > partialLeast,
			"%d frames were cut before what decides, and %d of %d DNS answers", cut, answers, x.Decoder.Responses)
	}},
	{"frames.merged", "datagrams that were merged count as one, and only the first of them is read", func(x *looked) (Severity, string) {
		return limitIf(x.Oversize > 0 && share(x.Oversize, x.Frames) > oversizeLeast, "%d frames are longer than the line carries: merged by GRO or LRO", x.Oversize)
	}},
	{"clock.step", "what came first, and how long after, is not known across the step", func(x *looked) (Severity, string) {
		switch {
		case x.ClockSteps > 0:
			return Limits, fmt.Sprintf("the clock was set %s, by %v in all", times(x.ClockSteps), time.Duration(x.ClockStepped).Round(time.Millisecond))
		case x.Backward > 0:
			return Limits, fmt.Sprintf("%d frames are stamped more than a second before one that came earlier", x.Backward)
		}
		return "", ""
	}},
	{"zone.split", "a lookup in one zone explains no connection in another", splitZones},
	{"zone.shared", "what two hosts do counts as one's: VLAN tags are missing, or addresses are used twice", func(x *looked) (Severity, string) {
		return limitIf(x.Alternates > 0, "%d clients send from two Ethernet addresses by turns%s", x.Alternates,
			such(x.Examples, func(c *ClientView) bool { return c.Alternates }))
	}},
	{"client.resolver", "hits name the resolver, not the host that asked it", func(x *looked) (Severity, string) {
		if x.Resolvers == 0 {
			return "", ""
		}
		return Note, fmt.Sprintf("%d clients ask %d DNS servers or more, as resolvers do%s", x.Resolvers, manyServers,
			such(x.Examples, func(c *ClientView) bool { return c.Resolver() }))
	}},
	{"nat.suspected", "hits name the address that several hosts have in common, and not the host", func(x *looked) (Severity, string) {
		if x.NAT == 0 {
			return "", ""
		}
		return Note, fmt.Sprintf("%d clients are perhaps several hosts each%s: their SYNs come with different TTLs by turns", x.NAT,
			such(x.Examples, func(c *ClientView) bool { return c.NAT != "" }))
	}},
	{"tunnel.opaque", "what is inside was not read", func(x *looked) (Severity, string) {
		n := x.Reasons[decode.Tunnel]
		return limitIf(share(n, x.Frames) >= opaqueLeast, "%s of frames are tunnels without readable IP, %d of them too deep", Percent(share(n, x.Frames)),
			x.Decoder.TunnelsTooDeep)
	}},
	{"records.beside", "lookups that were told and not seen are as good as who told them", func(x *looked) (Severity, string) {
		if len(x.Beside) == 0 {
			return "", ""
		}
		return Note, strings.Join(x.Beside, "; ")
	}},
	{"tunnel.inside", "the packets inside are judged; the tunnel's own addresses are not", func(x *looked) (Severity, string) {
		var kinds []string
		for k, n := range x.Decoder.Tunnels {
			if n > 0 {
				kinds = append(kinds, fmt.Sprintf("%d %s", n, decode.TunnelKind(k)))
			}
		}
		if len(kinds) == 0 {
			return "", ""
		}
		return Note, "frames come in tunnels: " + strings.Join(kinds, ", ")
	}},
	{"order.late", "pairs may have been judged the wrong way round", func(x *looked) (Severity, string) {
		return limitIf(share(x.Late, x.Lookups+x.Connections) > tolerableLoss, "%d of %d events came later than waited for", x.Late, x.Lookups+x.Connections)
	}},
	{"selftest.failed", "what has to be found may not be", func(x *looked) (Severity, string) {
		return limitIf(x.SelfTest != "", "%s", x.SelfTest)
	}},
	{"file.incomplete", "the rest is missing", func(x *looked) (Severity, string) {
		return limitIf(x.Incomplete, "the capture ends early")
	}},
}

// oneWay says whether both DNS and TCP go one way only, the same.
func oneWay(x *looked) (Severity, string) {
	d := x.Decoder
	from, to := d.Queries+d.SYN, d.Responses+d.SYNACK
	switch {
	case d.Responses == 0 && d.Queries > 0 && d.SYNACK == 0 && d.SYN > 0:
		text := fmt.Sprintf("only what clients send: %d queries and SYN, no answer", from)
		if x.told() {
			return Limits, text
		}
		return Disables, text
	case d.Queries == 0 && d.Responses > 0 && d.SYN == 0 && d.SYNACK > 0:
		return Limits, fmt.Sprintf("only what clients get: %d answers and SYN+ACK; UDP connections are not seen", to)
	}
	return "", ""
}

// splitZones looks for two zones that have one direction each, as when a mirror tags what comes in and not what goes out.
func splitZones(x *looked) (Severity, string) {
	from := slices.IndexFunc(x.Zones, func(z Zone) bool { return z.SYN >= some && z.Lookups+z.SYNACK == 0 })
	to := slices.IndexFunc(x.Zones, func(z Zone) bool {
		return z.SYNACK >= some && z.SYN+z.Asked == 0 && from >= 0 && x.Zones[from].Zone.Point == z.Zone.Point
	})
	if from < 0 || to < 0 {
		return "", ""
	}
	return Limits, fmt.Sprintf("zone %s has only what clients send, zone %s only what they get: one direction lacks its VLAN tag",
		x.Zones[from].Zone, x.Zones[to].Zone)
}

// such names the clients of a kind.
func such(all []ClientView, is func(*ClientView) bool) string {
	var list []string
	for i := range all {
		if is(&all[i]) && len(list) < 3 {
			list = append(list, all[i].Addr.Unmap().String())
		}
	}
	if len(list) == 0 {
		return ""
	}
	return ", such as " + strings.Join(list, ", ")
}

func hiddenText(t *Traffic) string {
	var list []string
	for how, n := range [...]uint64{dot: t.DoT, doq: t.DoQ, doh: t.DoH} {
		if n > 0 {
			list = append(list, fmt.Sprintf("%d connections of %s", n, hiddenNames[how]))
		}
	}
	if len(list) == 0 {
		return "none of them in this time"
	}
	return strings.Join(list, ", ")
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
