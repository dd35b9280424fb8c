package bus

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

const (
	ecsVersion = "8.17.0"

	// maxEValue is below the largest 32-bit float: stores such as Elasticsearch map JSON numbers
	// to those unless told otherwise, and refuse what does not fit. The logarithm beside it
	// holds the rest.
	maxEValue = 1e38

	maxName         = 1024 // bytes: 255 octets of a name, each written as \DDD at worst (RFC 1035, section 5.1)
	maxText         = 512  // bytes of any other text
	maxAlternatives = 8
	maxWhy          = 16
)

// NewMessage returns h as subscribers see it. The message shares nothing with h or c.
func NewMessage(h *correlate.Hit, c Context) *Message {
	x := &h.Connection
	name := cleanName(h.Lookup.Name)
	sensor := SensorToken(c.Sensor)
	m := &Message{
		Timestamp: x.Time.UTC(),
		ECS:       ECS{Version: ecsVersion},
		Event: Event{
			Kind:     kindOf(h),
			Category: []string{"network", "intrusion_detection"},
			Type:     []string{"connection", "info"},
			Module:   "portolan",
			Dataset:  "portolan.hit",
			ID:       MessageID(h.ID.String(), h.Revision),
			Severity: severityOf(h),
			Start:    x.Time.UTC(),
		},
		Rule: Rule{
			ID:          clean(h.Calc.Hypothesis),
			Name:        clean(h.Calc.Name),
			Category:    "DNS Calculation",
			Ruleset:     "portolan",
			Version:     clean(c.Version),
			Reference:   "https://attack.mitre.org/techniques/T1568/003/",
			Description: ruleDescriptions[h.Calc.Kind == correlate.Port],
		},
		Threat: Threat{
			Framework: "MITRE ATT&CK",
			Tactic:    threatRef("TA0011", "Command and Control", "https://attack.mitre.org/tactics/TA0011/"),
			Technique: Technique{
				ThreatRef:    threatRef("T1568", "Dynamic Resolution", "https://attack.mitre.org/techniques/T1568/"),
				Subtechnique: threatRef("T1568.003", "DNS Calculation", "https://attack.mitre.org/techniques/T1568/003/"),
			},
		},
		Source:      Source{IP: plain(x.Src.Addr()), Port: x.Src.Port(), MAC: macText(x.MAC)},
		Destination: Destination{IP: plain(x.Dst.Addr()), Port: x.Dst.Port()},
		Network: Network{
			Type:        familyOf(x.Dst.Addr()),
			Transport:   x.Proto.String(),
			CommunityID: communityID(uint8(x.Proto), x.Src, x.Dst),
		},
		DNS:      dnsOf(h, name),
		Observer: Observer{Name: sensor, Type: "sensor", Vendor: "Portolan", Product: "Portolan", Version: clean(c.Version)},
		Related:  relatedOf(h, name),
		Portolan: Portolan{
			Schema:   Schema,
			HitID:    h.ID.String(),
			Revision: h.Revision,
			State:    h.State.String(),
			Level:    h.Level.String(),
			Sequence: c.Sequence,
			Calc:     calcOf(h, c),
			Lookup: Lookup{
				Time:     h.Lookup.Time.UTC(),
				Name:     name,
				Answer:   plain(h.Lookup.Answer),
				Via:      clean(h.Lookup.Via),
				TTL:      h.Lookup.TTL,
				Resolver: plainPort(h.Lookup.Server),
			},
			Timing:      Timing{LagNS: h.Lookup.Lag.Nanoseconds()},
			Baseline:    Baseline{Model: clean(h.Baseline.Model), Chance: unit(h.Baseline.Chance), Trials: h.Baseline.Trials},
			Explained:   explainedOf(h),
			Zone:        zoneOf(h.Zone),
			Coverage:    coverageOf(h, c),
			Attribution: Attribution{Status: notConfigured, Reason: "no endpoint records are joined here: source names the client as the wire shows it"},
		},
	}
	if c.Attributed {
		m.Portolan.Attribution = Attribution{Status: pending, Reason: "a later revision says what endpoints know of it"}
	}
	m.Portolan.Attribution.Host = holderOf(&c.Holder)
	if c.Downgraded != nil {
		d := *c.Downgraded
		m.Portolan.Downgraded = &d
	}
	if !c.Created.IsZero() {
		t := c.Created.UTC()
		m.Event.Created = &t
	}
	if h.Zone.Kind == event.VLAN {
		m.Network.VLAN = &VLAN{ID: strconv.FormatUint(uint64(h.Zone.ID), 10)}
	}
	if c.Device != "" {
		m.Observer.Ingress = &Ingress{Interface: Interface{Name: clean(c.Device)}}
	}
	m.Portolan.Retro = c.Retro.clean()
	if h := m.Portolan.Attribution.Host; h != nil {
		for _, n := range h.Names {
			if !slices.Contains(m.Related.Hosts, n.Name) {
				m.Related.Hosts = append(m.Related.Hosts, n.Name)
			}
		}
	}
	m.Message = m.sentence()
	return m
}

// holderOf returns who held an address as messages have it, nil when nothing is known.
func holderOf(h *attribute.HostHolder) *Holder {
	if h.MAC == (event.MAC{}) && len(h.Names) == 0 {
		return nil
	}
	to := &Holder{Contested: h.Contested}
	if h.MAC != (event.MAC{}) {
		since, seen := h.Since.UTC(), h.Last.UTC()
		to.MAC, to.Via, to.Since, to.Seen = macText(h.MAC), h.Via.String(), &since, &seen
	}
	if h.Lease != 0 {
		lease := h.Lease.UTC()
		to.Lease = &lease
	}
	for _, n := range h.Names {
		to.Names = append(to.Names, HostName{Name: clean(n.Text), Via: n.Via.String(), Seen: n.Seen.UTC()})
	}
	return to
}

// MessageID returns what names one revision of a hit: its id, a dot, the revision.
func MessageID(hitID string, revision uint32) string {
	return hitID + "." + strconv.FormatUint(uint64(revision), 10)
}

// Subject returns where the message is published.
func (m *Message) Subject() string {
	if m.enriched() {
		return EnrichedSubject(m.Portolan.Level, m.Observer.Name, m.Source.IP)
	}
	return Subject(m.Portolan.Level, m.Observer.Name, m.Source.IP)
}

// enriched reports whether the revision is an enricher's.
func (m *Message) enriched() bool {
	return m.Portolan.State == stateEnriched || m.Portolan.Revision >= enrichedBase
}

const (
	stateEnriched  = "enriched" // set by the enricher, so not among correlate's states
	stateRetracted = "retracted"
)

// ruleDescriptions is keyed by whether a port is calculated.
var ruleDescriptions = map[bool]string{
	true:  "The destination port is what this formula calculates from an address that a DNS answer gave the client.",
	false: "The destination is no answer that the client was given, but what this transform makes of one.",
}

// kindOf tells ECS consumers what to count as an alert: a retraction must not add one.
func kindOf(h *correlate.Hit) string {
	if h.State != correlate.Retracted && h.Level >= correlate.Watch {
		return "alert"
	}
	return "event"
}

// severityOf uses the steps that Elastic's own rules use for high, medium and low.
func severityOf(h *correlate.Hit) int {
	if h.State == correlate.Retracted {
		return 0
	}
	switch h.Level {
	case correlate.Alert:
		return 73
	case correlate.Watch:
		return 47
	case correlate.Lead:
		return 21
	}
	return 0
}

func threatRef(id, name, url string) ThreatRef {
	return ThreatRef{ID: []string{id}, Name: []string{name}, Reference: []string{url}}
}

func dnsOf(h *correlate.Hit, name string) DNS {
	d := DNS{Type: "answer"}
	t := recordType(h.Lookup.Via)
	if name != "" {
		d.Question = &Question{Name: name, Type: t}
	}
	a := Answer{Type: t, TTL: h.Lookup.TTL}
	if ip := plain(h.Lookup.Answer); ip.IsValid() {
		d.ResolvedIP = []netip.Addr{ip}
		a.Data = ip.String()
	}
	d.Answers = []Answer{a}
	return d
}

// recordType returns the type of the record that an operand was read from, given
// correlate.Source.Via.
func recordType(via string) string {
	end := strings.IndexFunc(via, func(r rune) bool { return !unicode.IsLetter(r) })
	if end < 0 {
		end = len(via)
	}
	return strings.ToUpper(via[:end])
}

func relatedOf(h *correlate.Hit, name string) Related {
	var r Related
	for _, a := range []netip.Addr{h.Connection.Src.Addr(), h.Connection.Dst.Addr(), h.Lookup.Answer, h.Calc.Operand,
		h.Lookup.Server.Addr()} {
		if a = plain(a); a.IsValid() && !slices.Contains(r.IP, a) {
			r.IP = append(r.IP, a)
		}
	}
	if name != "" {
		r.Hosts = []string{name}
	}
	return r
}

func calcOf(h *correlate.Hit, c Context) Calc {
	k := Calc{
		Kind:                h.Calc.Kind.String(),
		Match:               matchOf(h.Calc.Match),
		Chance:              unit(h.Calc.Chance),
		ExpectedFalsePerDay: finite(c.ExpectedFalsePerDay),
		ExpectedFalseBasis:  "bound",
		Decoys:              c.Decoys,
		Hypotheses:          h.Calc.Hypotheses,
		Answers:             h.Calc.Answers,
		Constants:           h.Calc.Constants,
		Alternatives:        []Match{}, // an empty list, not null
		Support:             Support{Trials: h.Calc.SupportTrials, Answers: h.Calc.SupportAnswers},
	}
	k.EValue, k.EValueLog10 = eValue(h.Calc.EValue)
	if c.ExpectedFalseBasis != "" {
		k.ExpectedFalseBasis = clean(c.ExpectedFalseBasis)
	}
	for _, a := range h.Calc.Alternatives[:min(len(h.Calc.Alternatives), maxAlternatives)] {
		k.Alternatives = append(k.Alternatives, matchOf(a))
	}
	return k
}

func matchOf(c correlate.Match) Match {
	m := Match{
		Hypothesis: clean(c.Hypothesis),
		Name:       clean(c.Name),
		Expression: clean(c.Expression),
		Operand:    plain(c.Operand),
	}
	m.EValue, m.EValueLog10 = eValue(c.EValue)
	return m
}

// explainedOf says whether the destination is itself the answer; what other lookups explain
// is no hit.
func explainedOf(h *correlate.Hit) Explained {
	if h.Calc.Kind == correlate.Port && plain(h.Connection.Dst.Addr()) == plain(h.Lookup.Answer) {
		return Explained{Destination: true, By: "answer"}
	}
	return Explained{}
}

var zoneKinds = map[event.TagKind]string{
	event.Untagged: "untagged",
	event.VLAN:     "vlan",
	event.VNI:      "vni",
	event.ERSPAN:   "erspan",
}

func zoneOf(z event.Zone) Zone {
	return Zone{Point: z.Point, Kind: zoneKinds[z.Kind], ID: z.ID, Text: z.String()}
}

func coverageOf(h *correlate.Hit, c Context) Coverage {
	v := Coverage{
		Verdict:    orUnknown(c.Verdict),
		Loss:       c.Loss,
		Directions: Directions{DNS: orUnknown(c.Directions.DNS), TCP: orUnknown(c.Directions.TCP)},
		Client: ClientCoverage{
			Connections: h.Coverage.Connections,
			Explained:   h.Coverage.Explained,
			Share:       unit(h.Coverage.Share()),
			Lookups:     h.Coverage.Lookups,
			Late:        h.Coverage.Late,
			Forgotten:   h.Coverage.Forgotten,
			Gated:       h.Coverage.Gated,
			Elsewhere:   c.Client.Hidden,
			Resolver:    c.Client.Resolver(),
			Shared:      c.Client.Alternates,
			NAT:         clean(c.Client.NAT),
		},
		Rule:   clean(c.Rule),
		Notes:  cleanAll(c.Notes),
		Window: c.Window,
	}
	v.Loss.Unknown = cleanAll(c.Loss.Unknown)
	v.Why = cleanAll(c.Why)
	return v
}

func orUnknown(s string) string {
	if s == "" {
		return Unknown
	}
	return clean(s)
}

// eValue returns e and its decimal logarithm as JSON can hold them: e saturates at
// maxEValue, the logarithm at that of the largest and smallest 64-bit float.
func eValue(e float64) (value, log10 float64) {
	if !(e > 0) { // also NaN
		return 0, math.Log10(math.SmallestNonzeroFloat64)
	}
	return min(e, maxEValue), math.Log10(min(e, math.MaxFloat64))
}

// unit returns p within 0 to 1, where probabilities and shares lie.
func unit(p float64) float64 { return min(finite(p), 1) }

// finite returns x from 0 to maxEValue, 0 for NaN.
func finite(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, maxEValue)
}

// plain returns an address as it stands in JSON: IPv4-mapped ones as IPv4, without an IPv6 zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func plainPort(ap netip.AddrPort) netip.AddrPort {
	if !ap.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(plain(ap.Addr()), ap.Port())
}

func familyOf(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// macText returns an Ethernet address as ECS wants it, "" when none was seen.
func macText(m event.MAC) string {
	if m == (event.MAC{}) {
		return ""
	}
	return fmt.Sprintf("%02X-%02X-%02X-%02X-%02X-%02X", m[0], m[1], m[2], m[3], m[4], m[5])
}

// cleanName returns a DNS name with every byte outside printable ASCII written as \DDD
// (RFC 1035, section 5.1): a name is what a stranger chose, and it reaches terminals.
func cleanName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "\\%03d", c)
		} else {
			b.WriteByte(c)
		}
	}
	return cut(b.String(), maxName)
}

// clean returns s as valid UTF-8 without control and formatting characters, at most maxText bytes long.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return cut(s, maxText)
}

func cleanAll(list []string) []string {
	var out []string
	for _, s := range list[:min(len(list), maxWhy)] {
		out = append(out, clean(s))
	}
	return out
}

// cut returns s, or as many of its first runes with an ellipsis as fit into n bytes.
func cut(s string, n int) string {
	const ellipsis = "…"
	if len(s) <= n {
		return s
	}
	end := n - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// sentence says the hit in one sentence for people.
func (m *Message) sentence() string {
	p := &m.Portolan
	if p.Level == correlate.Lead.String() {
		return fmt.Sprintf("%s connected to %s after %s: %s", m.Source.IP, m.destination(), m.origin(), p.Calc.Expression)
	}
	what := fmt.Sprintf("%s connected to %s, which is what %s (%s) makes of %s",
		m.Source.IP, m.destination(), p.Calc.Name, p.Calc.Hypothesis, m.origin())
	if p.Calc.Kind == correlate.Port.String() {
		what = fmt.Sprintf("%s connected to %s, whose port is what %s (%s) makes of %s",
			m.Source.IP, m.destination(), p.Calc.Name, p.Calc.Hypothesis, m.origin())
	}
	s := fmt.Sprintf("%s, given %s before: %s", what, lagText(time.Duration(p.Timing.LagNS)), p.Calc.Expression)
	if p.State == stateRetracted {
		s = "retracted: " + s
	}
	return s
}

// destination returns where the client connected to, such as "45.156.87.243:5123/tcp".
func (m *Message) destination() string {
	return netip.AddrPortFrom(plain(m.Destination.IP), m.Destination.Port).String() + "/" + middle(m.Network.Transport, 8)
}

// origin says which answer the operand came from.
func (m *Message) origin() string {
	what := "an answer"
	if t := recordType(m.Portolan.Lookup.Via); t == "TXT" {
		what = "a TXT answer"
	}
	if m.Portolan.Lookup.Name == "" {
		return what + " to a forgotten name"
	}
	return what + " for " + cleanName(m.Portolan.Lookup.Name)
}
