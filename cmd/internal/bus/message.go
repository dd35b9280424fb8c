package bus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"portolan/cmd/internal/coverage"
	"portolan/correlate"
	"portolan/correlate/attribute"
)

// Schema names the form of a Message. Minor versions only add.
const Schema = "portolan.hit/1.0"

// MaxMessage bounds an encoded message in bytes.
const MaxMessage = 64 << 10

// Message is one hit as subscribers see it: an ECS document (Elastic Common Schema, version
// ecsVersion) with everything of our own under "portolan.". Fields are encoded in the order
// they stand in. testdata/hit holds the JSON Schema. A Message shares nothing with the hit it
// was made from.
type Message struct {
	Timestamp   time.Time   `json:"@timestamp"` // of the connection
	ECS         ECS         `json:"ecs"`
	Event       Event       `json:"event"`
	Message     string      `json:"message"` // one sentence for people
	Rule        Rule        `json:"rule"`
	Threat      Threat      `json:"threat"`
	Source      Source      `json:"source"`
	Destination Destination `json:"destination"`
	Network     Network     `json:"network"`
	DNS         DNS         `json:"dns"`
	Observer    Observer    `json:"observer"`
	Related     Related     `json:"related"`
	Host        *Endpoint   `json:"host,omitempty"` // the client, when its endpoint is known, and what ran there
	Process     *ECSProcess `json:"process,omitempty"`
	User        *User       `json:"user,omitempty"`
	Container   *Container  `json:"container,omitempty"`
	Portolan    Portolan    `json:"portolan"`
}

// ECS says which version of the Elastic Common Schema the message follows.
type ECS struct {
	Version string `json:"version"`
}

// Event is ECS event.*.
type Event struct {
	Kind     string     `json:"kind"` // "alert" for levels alert and watch, "event" for leads and retractions
	Category []string   `json:"category"`
	Type     []string   `json:"type"`
	Module   string     `json:"module"`
	Dataset  string     `json:"dataset"`
	ID       string     `json:"id"`       // hit id and revision, as MessageID writes it
	Severity int        `json:"severity"` // 73 alert, 47 watch, 21 lead, 0 retracted
	Start    time.Time  `json:"start"`
	Created  *time.Time `json:"created,omitempty"` // by the sensor's clock
}

// Rule is ECS rule.*: the hypothesis.
type Rule struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Category    string `json:"category"`
	Ruleset     string `json:"ruleset"`
	Version     string `json:"version,omitempty"`
	Reference   string `json:"reference"`
	Description string `json:"description"`
}

// Threat is ECS threat.*.
type Threat struct {
	Framework string    `json:"framework"`
	Tactic    ThreatRef `json:"tactic"`
	Technique Technique `json:"technique"`
}

// Technique is ECS threat.technique.*.
type Technique struct {
	ThreatRef
	Subtechnique ThreatRef `json:"subtechnique"`
}

// ThreatRef names entries of ATT&CK.
type ThreatRef struct {
	ID        []string `json:"id"`
	Name      []string `json:"name"`
	Reference []string `json:"reference"`
}

// Source is the client.
type Source struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port"`
	MAC  string     `json:"mac,omitempty"` // RFC 7042: upper case, hyphens
}

// Destination is where the client connected to.
type Destination struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port"`
}

// Network is ECS network.*.
type Network struct {
	Type        string `json:"type"`      // "ipv4" or "ipv6"
	Transport   string `json:"transport"` // "tcp" or "udp"
	CommunityID string `json:"community_id"`
	VLAN        *VLAN  `json:"vlan,omitempty"`
}

// VLAN is ECS network.vlan.*.
type VLAN struct {
	ID string `json:"id"`
}

// DNS is ECS dns.*: the lookup that gave the operand.
type DNS struct {
	Type       string       `json:"type"`
	Question   *Question    `json:"question,omitempty"` // absent when memory no longer held the name
	Answers    []Answer     `json:"answers,omitempty"`
	ResolvedIP []netip.Addr `json:"resolved_ip,omitempty"` // absent for TXT
}

// Question is ECS dns.question.*.
type Question struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
}

// Answer is one element of ECS dns.answers.
type Answer struct {
	Type string `json:"type"`
	TTL  uint32 `json:"ttl"` // seconds
	Data string `json:"data,omitempty"`
}

// Observer is ECS observer.*: the sensor.
type Observer struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Vendor  string   `json:"vendor"`
	Product string   `json:"product"`
	Version string   `json:"version,omitempty"`
	Ingress *Ingress `json:"ingress,omitempty"`
}

// Ingress is ECS observer.ingress.*.
type Ingress struct {
	Interface Interface `json:"interface"`
}

// Interface is ECS observer.ingress.interface.*: a device, or the base name of a capture file.
type Interface struct {
	Name string `json:"name"`
}

// Related is ECS related.*.
type Related struct {
	IP    []netip.Addr `json:"ip"`
	Hosts []string     `json:"hosts,omitempty"`
}

// Portolan is what ECS has no place for.
type Portolan struct {
	Schema      string      `json:"schema"`
	HitID       string      `json:"hit_id"`
	Revision    uint32      `json:"revision"` // from 1; each is complete, consumers keep the highest
	State       string      `json:"state"`    // "provisional", "final", "enriched", "retracted"
	Level       string      `json:"level"`    // "alert", "watch", "lead"; "none" only when retracted
	Sequence    uint64      `json:"sequence,omitempty"`
	Calc        Calc        `json:"calc"`
	Lookup      Lookup      `json:"lookup"`
	Timing      Timing      `json:"timing"`
	Baseline    Baseline    `json:"baseline"`
	Explained   Explained   `json:"explained"`
	Zone        Zone        `json:"zone"`
	Coverage    Coverage    `json:"coverage"`
	Attribution Attribution `json:"attribution"`
	Suppressed  *Suppressed `json:"suppressed,omitempty"` // makes the hit a summary of others like it
	Retro       *Retro      `json:"retro,omitempty"`      // makes it one that was found afterwards, in an archive
	Downgraded  *Downgrade  `json:"downgraded,omitempty"` // says that level would be another on better coverage
}

// Downgrade says why a hit has a lower level than its evidence alone would give it. Id and evidence are the same.
type Downgrade struct {
	From string `json:"from"` // "alert"
	Rule string `json:"rule"` // of package coverage, that made coverage blind; "client" when it concerns this client alone
	Why  string `json:"why"`
}

// Match is one hypothesis that predicts the connection.
type Match struct {
	Hypothesis  string     `json:"hypothesis"`
	Name        string     `json:"name"`
	Expression  string     `json:"expression"` // with the numbers put in
	Operand     netip.Addr `json:"operand,omitzero"`
	EValue      float64    `json:"e_value"` // finite: saturates at 1e38, which 32-bit consumers still hold
	EValueLog10 float64    `json:"e_value_log10"`
}

// Calc is the arithmetic and the weight of evidence.
type Calc struct {
	Kind string `json:"kind"` // "port" or "address"
	Match
	Chance              float64 `json:"chance"` // of one trial to match by chance, from 0 to 1
	ExpectedFalsePerDay float64 `json:"expected_false_per_day"`
	ExpectedFalseBasis  string  `json:"expected_false_basis"` // "bound": by theory; "measured": by decoys
	Decoys              Decoys  `json:"decoys"`
	Hypotheses          int     `json:"hypotheses"`          // tried on this connection
	Answers             int     `json:"answers"`             // competed to be the operand
	Constants           int     `json:"constants,omitempty"` // remembered, with one that was learned: any could have fitted
	Alternatives        []Match `json:"alternatives"`        // at most maxAlternatives, heaviest first
	Support             Support `json:"support"`
}

// Support counts what else the hypothesis predicted for this client, this trial included.
type Support struct {
	Trials  int `json:"trials"`
	Answers int `json:"answers"` // distinct operands among them
}

// Lookup is the DNS response that gave the operand.
type Lookup struct {
	Time     time.Time      `json:"time"`
	Name     string         `json:"name,omitempty"`
	Answer   netip.Addr     `json:"answer,omitzero"` // absent for TXT
	Via      string         `json:"via"`             // how the operand was read from the record, such as "a" or "txt-base64"
	TTL      uint32         `json:"ttl_s"`
	Resolver netip.AddrPort `json:"resolver,omitzero"`
}

// Timing says how long after the answer the connection came.
type Timing struct {
	LagNS int64 `json:"lag_ns"`
}

// Baseline says how ordinary the connection is without any calculation.
type Baseline struct {
	Model  string  `json:"model"`
	Chance float64 `json:"chance"`
	Trials uint64  `json:"trials"`
}

// Explained says whether some lookup gave the client the destination, without arithmetic.
type Explained struct {
	Destination bool   `json:"destination"`
	By          string `json:"by,omitempty"` // "answer"
}

// Zone is where the client was seen.
type Zone struct {
	Point uint16 `json:"point"`
	Kind  string `json:"kind"` // "untagged", "vlan", "vni", "erspan"
	ID    uint32 `json:"id"`
	Text  string `json:"text"` // as event.Zone.String writes it
}

// Coverage says what could be judged and what could not. A hit without it is not evidence.
type Coverage struct {
	Verdict    string         `json:"verdict"`         // "good", "partial", "blind" or "unknown"
	Rule       string         `json:"rule,omitempty"`  // that gave the verdict, such as "loss.ring"
	Why        []string       `json:"why,omitempty"`   // what makes it partial or blind: a rule's name, a colon, what was counted
	Notes      []string       `json:"notes,omitempty"` // what else is known, written likewise
	Window     *Window        `json:"window,omitempty"`
	Loss       Loss           `json:"loss"`
	Directions Directions     `json:"directions"`
	Client     ClientCoverage `json:"client"`
}

// Window is the time that coverage is about: from the lookup, or some minutes earlier, up to when the message was made.
// It is absent when that is all of the traffic so far.
type Window struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// The verdicts on coverage.
const (
	Good    = string(coverage.Good)
	Partial = string(coverage.Partial)
	Blind   = string(coverage.Blind)
	Unknown = string(coverage.Unknown)
)

// Loss counts what was lost in the window, by place; all but Correlator, Queue
// and Spool in frames.
type Loss struct {
	NIC        uint64   `json:"nic"`
	Ring       uint64   `json:"ring"`
	Decoder    uint64   `json:"decoder"`           // frames that did not fit the decoder's bounded tables
	Correlator uint64   `json:"correlator"`        // entries of its tables that made room before their time
	Queue      uint64   `json:"queue"`             // messages that did not fit the publisher's queue
	Spool      uint64   `json:"spool"`             // messages that did not fit the spool
	Unknown    []string `json:"unknown,omitempty"` // places that cannot be measured here, such as "nic" in a capture file
}

// Directions says which way traffic was seen: Both, FromClient, ToClient, Nothing or Unknown.
type Directions struct {
	DNS string `json:"dns"`
	TCP string `json:"tcp"`
}

// What Directions hold, besides Unknown.
const (
	Both       = "both"
	FromClient = "from-client"
	ToClient   = "to-client"
	Nothing    = "none"
)

// Direction names what was seen of a protocol, given how many openings (queries, SYN) came
// from clients and how many answers (responses, SYN+ACK) went to them.
func Direction(from, to uint64) string {
	switch {
	case from > 0 && to > 0:
		return Both
	case from > 0:
		return FromClient
	case to > 0:
		return ToClient
	}
	return Nothing
}

// ClientCoverage is correlate.Coverage.
type ClientCoverage struct {
	Connections uint64  `json:"connections"`
	Explained   uint64  `json:"explained"`
	Share       float64 `json:"share"` // from 0 to 1
	Lookups     uint64  `json:"lookups"`
	Late        uint64  `json:"late"`
	Forgotten   uint64  `json:"forgotten"`
	Gated       bool    `json:"gated"` // it walks through many destinations: constants are not learned from it

	Elsewhere []string `json:"elsewhere,omitempty"`     // how it resolves out of sight, such as "DNS over TLS"
	Resolver  bool     `json:"resolver,omitempty"`      // it asks many servers, as a resolver does: other hosts may be behind it
	Shared    bool     `json:"shared,omitempty"`        // its address is that of two hosts, or behind two routers
	NAT       string   `json:"nat_suspected,omitempty"` // why its address is perhaps that of several hosts
}

// Decoys counts what hypotheses that run on scrambled answers reached at this sensor so far:
// what chance reaches on this network.
type Decoys struct {
	Watch uint64 `json:"watch"`
	Alert uint64 `json:"alert"`
}

// Holder is who held the client's address, as hosts and servers on the mirrored network said
// themselves.
type Holder struct {
	MAC       string     `json:"mac,omitempty"`   // RFC 7042; other than source.mac when a router is in between
	Via       string     `json:"via,omitempty"`   // how MAC was learned: "arp", "nd", "dhcp", "dhcpv6"
	Since     *time.Time `json:"since,omitempty"` // seen to hold it from here
	Seen      *time.Time `json:"seen,omitempty"`  // to here
	Lease     *time.Time `json:"lease,omitempty"` // when the lease that a server gave ends
	Contested bool       `json:"contested,omitempty"`
	Names     []HostName `json:"names,omitempty"` // newest first
}

// HostName is what a host called itself.
type HostName struct {
	Name string    `json:"name"`
	Via  string    `json:"via"` // "dhcp", "dhcpv6", "mdns", "netbios"
	Seen time.Time `json:"seen"`
}

// Context is what a message says that the hit itself does not know.
type Context struct {
	Sensor  string    // one subject token, see ValidateSensor
	Version string    // of Portolan
	Device  string    // capture device, or base name of the capture file
	Created time.Time // by the sensor's clock; the zero time leaves event.created out, as for a replay

	Sequence uint64 // of this sensor's messages, from 1, for subscribers that look for gaps; 0 leaves it out

	// ExpectedFalsePerDay is how many hits of this level chance makes in a day on this network;
	// Basis is "bound" or "measured", empty for "bound".
	ExpectedFalsePerDay float64
	ExpectedFalseBasis  string
	Decoys              Decoys

	Verdict    string // Good, Partial, Blind or Unknown; empty for Unknown
	Rule       string // that gave the verdict
	Why        []string
	Notes      []string
	Window     *Window
	Loss       Loss
	Directions Directions           // empty strings for Unknown
	Holder     attribute.HostHolder // of the client's address; the zero value when nothing is known
	Attributed bool                 // an enricher is expected to say who made the connection
	Client     coverage.ClientView  // what is known of the hit's client besides
	Downgraded *Downgrade           // nil when the hit has the level that its evidence gives it
	Retro      *Retro               // nil for a hit of a sensor
}

// Encode returns the message as one line of JSON without a newline, never longer than MaxMessage.
func (m *Message) Encode() ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // names and expressions hold <, > and &, and stand in no HTML
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("encode hit %s: %w", m.Portolan.HitID, err)
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("encode hit %s: %d bytes are more than %d", m.Portolan.HitID, len(b), MaxMessage)
	}
	return b, nil
}

// Decode reads what Encode writes. Members it does not know are passed over, as minor
// versions add some; another major version is an error.
func Decode(b []byte) (*Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("decode hit: %d bytes are more than %d", len(b), MaxMessage)
	}
	m := new(Message)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode hit: %w", err)
	}
	major := Schema[:strings.LastIndexByte(Schema, '.')]
	if p := &m.Portolan; !strings.HasPrefix(p.Schema, major+".") {
		return nil, fmt.Errorf("decode hit: schema %q is not %s.x", clean(p.Schema), major)
	}
	if _, err := correlate.ParseID(m.Portolan.HitID); err != nil {
		return nil, fmt.Errorf("decode %w", err)
	}
	if m.Portolan.Revision == 0 {
		return nil, fmt.Errorf("decode hit %s: revisions count from 1", m.Portolan.HitID)
	}
	if !m.Source.IP.IsValid() || !m.Destination.IP.IsValid() {
		return nil, fmt.Errorf("decode hit %s: source.ip and destination.ip have to be there", m.Portolan.HitID)
	}
	return m, nil
}
