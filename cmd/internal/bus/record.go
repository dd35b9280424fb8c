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
