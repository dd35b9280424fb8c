package bus

import (
	"time"

	"portolan/cmd/internal/coverage"
)

// The forms of a CoverageRecord and of a Stat. Minor versions only add.
const (
	CoverSchema = "portolan.cover/1.0"
	StatSchema  = "portolan.stat/1.0"
)

// CoverageRecord says what a sensor could judge in an interval, and what not. Counts are
// those of the interval.
type CoverageRecord struct {
	Schema   string    `json:"schema"`
	Time     time.Time `json:"time"` // end of the interval, by the sensor's clock
	Sensor   string    `json:"sensor"`
	Version  string    `json:"version,omitempty"`
	Device   string    `json:"device,omitempty"`
	Interval float64   `json:"interval_s"`

	Verdict    string             `json:"verdict"`        // Good, Partial, Blind or Unknown
	Rule       string             `json:"rule,omitempty"` // that gave the verdict
	Why        []string           `json:"why,omitempty"`
	Findings   []coverage.Finding `json:"findings,omitempty"`
	Loss       Loss               `json:"loss"`
	Counter    string             `json:"counter,omitempty"` // where Loss.NIC comes from, such as "rx_out_of_buffer of mlx5_core"
	Directions Directions         `json:"directions"`
	Wire       *Wire              `json:"wire,omitempty"`
	Clients    *Clients           `json:"clients,omitempty"`
	Zones      []ZoneCoverage     `json:"zones,omitempty"` // at most maxZones, those with most connections
	Gaps       []Gap              `json:"gaps,omitempty"`  // that touch the interval

	Frames      uint64            `json:"frames"`
	Bytes       uint64            `json:"bytes"`
	Reasons     map[string]uint64 `json:"reasons"`             // by decode.Reason; the sum is Frames
	Tunnels     map[string]uint64 `json:"tunnels,omitempty"`   // taken apart, by decode.TunnelKind; "too-deep" counts frames that were not
	Filter      string            `json:"filter,omitempty"`    // what filtered in the kernel, and why nothing stronger
	Prefilter   map[string]uint64 `json:"prefilter,omitempty"` // frames that it saw, those dropped too, by bpffilter.Class
	Inverted    uint64            `json:"inverted"`            // events that came after a later one of their client
	Lookups     uint64            `json:"lookups"`
	Connections uint64            `json:"connections"`
	Hits        map[string]uint64 `json:"hits"`    // by level
	Allowed     uint64            `json:"allowed"` // hits that became final and were kept back by allow rules
	Published   PublishStats      `json:"published"`
	Delivery    *Delivery         `json:"delivery,omitempty"` // set by PublishCoverage when there is a spool
	Enrich      *EnrichCounts     `json:"enrich,omitempty"`   // of an enricher; since it started
	SelfTest    *SelfTest         `json:"self_test,omitempty"`
}

// EnrichCounts says what an enricher did since it started, and what it refused.
type EnrichCounts struct {
	Records  uint64            `json:"records"`            // of endpoints, read
	Refused  map[string]uint64 `json:"refused,omitempty"`  // of those, by reason
	Examples map[string]string `json:"examples,omitempty"` // the first that was refused for each reason
	Foreign  uint64            `json:"foreign"`            // records with an address that their host does not say it has
	Revised  map[string]uint64 `json:"revised,omitempty"`  // revisions published, by status; "kept" those of a hit that the sensor revised
	Gone     uint64            `json:"gone"`               // hits and records that were no longer in their stream
	Recalled uint64            `json:"recalled"`           // records read again for a hit that came late
	Hits     int               `json:"hits"`               // that records may still explain, now
	Hosts    int               `json:"hosts"`              // that spoke, now
	Evicted  uint64            `json:"evicted"`            // hits that made room for others before their time
	Homeless uint64            `json:"homeless"`           // hosts and addresses for which there was no room
	Crowded  uint64            `json:"crowded"`            // hits that more records fit than are weighed
	Behind   uint64            `json:"behind"`             // records stored and not read yet
	Import   *ImportCounts     `json:"import,omitempty"`   // when other programs' subjects are read
}

// ImportCounts is what became of other programs' messages.
type ImportCounts struct {
	Lines   uint64            `json:"lines"`
	Refused map[string]uint64 `json:"refused,omitempty"` // lines, and records made of them, by reason
	Records uint64            `json:"records"`           // made of lines, and those that say which address a host has
	Lost    uint64            `json:"lost"`              // messages that came faster than their records could be stored
}

// SelfTest is what became of the newest self-test; its frames and events are in no count of a record.
type SelfTest struct {
	Time       time.Time `json:"time"`
	OK         bool      `json:"ok"`
	Path       string    `json:"path"`              // "device": through the receive path of each; "loopback": through lo, for want of privilege
	After      float64   `json:"after_s,omitempty"` // from the first frame to the hit, of the slowest device
	Why        string    `json:"why,omitempty"`     // it is not OK
	Hypotheses int       `json:"hypotheses"`        // in force
	Fired      int       `json:"fired"`             // of those, when the sensor started
}

// Wire says what an interval's frames were like.
type Wire struct {
	Queries    uint64 `json:"queries"`
	Answers    uint64 `json:"answers"`
	Iterative  uint64 `json:"iterative"` // of the answers, those to a resolver's own questions
	SYN        uint64 `json:"syn"`
	SYNACK     uint64 `json:"synack"`
	Copies     uint64 `json:"copies"`    // SYN that came twice at once
	Truncated  uint64 `json:"truncated"` // frames cut before what decides
	PartialDNS uint64 `json:"partial_dns"`
	Oversize   uint64 `json:"oversize"` // frames longer than the line carries
	DoT        uint64 `json:"dot"`      // connections, and so on
	DoQ        uint64 `json:"doq"`
	DoH        uint64 `json:"doh"`
	ClockSteps uint64 `json:"clock_steps"`
	LinkDowns  uint64 `json:"link_downs"`
	Reopens    uint64 `json:"reopens"`
	Settled    uint64 `json:"settled"`   // connections that were judged for good
	Explained  uint64 `json:"explained"` // of those, to an address that a lookup gave
	Downgraded uint64 `json:"downgraded"`
	Muted      uint64 `json:"muted"` // leads not published, as their client resolves out of sight
}

// Clients says how many clients can be judged, as of the end of the interval.
type Clients struct {
	Known     uint64     `json:"known"`
	Answered  uint64     `json:"answered"`  // got an answer that was seen
	Elsewhere uint64     `json:"elsewhere"` // resolve out of sight
	Only      uint64     `json:"only"`      // of those, got no answer that was seen
	Resolvers uint64     `json:"resolvers"`
	Shared    uint64     `json:"shared"`
	NAT       uint64     `json:"nat_suspected"` // are perhaps several hosts each, by the TTLs of their SYNs
	Tenths    [10]uint64 `json:"tenths"`        // clients with enough connections, by the tenths of them that a lookup explains
	Examples  []string   `json:"examples,omitempty"`
}

// ZoneCoverage says what is known of one zone since the sensor started.
type ZoneCoverage struct {
	Zone        string  `json:"zone"`
	Lookups     uint64  `json:"lookups"`
	Connections uint64  `json:"connections"`
	Explained   uint64  `json:"explained"`
	Share       float64 `json:"share"` // from 0 to 1
	SYN         uint64  `json:"syn"`
	SYNACK      uint64  `json:"synack"`
	Hidden      uint64  `json:"hidden"` // connections that carry DNS nobody can look into
}

// Gap is a time without frames.
type Gap struct {
	From  time.Time  `json:"from"`
	To    *time.Time `json:"to,omitempty"` // absent while it lasts
	Cause string     `json:"cause"`
}

// Stat is a sensor's heartbeat.
type Stat struct {
	Schema    string       `json:"schema"`
	Time      time.Time    `json:"time"`
	Sensor    string       `json:"sensor"`
	Version   string       `json:"version,omitempty"`
	Verdict   string       `json:"verdict"`
	Uptime    float64      `json:"uptime_s"`
	Frames    uint64       `json:"frames"` // since the start
	Hits      uint64       `json:"hits"`
	Published PublishStats `json:"published"`
	SelfTest  *SelfTest    `json:"self_test,omitempty"`
}
