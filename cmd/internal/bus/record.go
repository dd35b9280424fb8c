package bus

import "time"

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

	Verdict    string     `json:"verdict"` // Good, Partial or Unknown
	Why        []string   `json:"why,omitempty"`
	Loss       Loss       `json:"loss"`
	Directions Directions `json:"directions"`

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
}
