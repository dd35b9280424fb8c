// Package audit makes of coverage records and hits a report over a time range: what could be seen, hour by hour, where the
// gaps are, and what became of the hits. Records and hits go in, in any order; it has no clock and does no I/O.
package audit

import (
	"cmp"
	"slices"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/spool"
)

// Report is what a time range came to. It encodes to JSON as it is.
type Report struct {
	From      time.Time    `json:"from"`
	To        time.Time    `json:"to"`
	Made      time.Time    `json:"made"`
	Step      float64      `json:"step_s"`  // of a Slot
	Verdict   string       `json:"verdict"` // good when every sensor was good all the time, blind when none was better at any, else partial
	Share     Share        `json:"share"`   // of the time of all sensors
	Sensors   []Sensor     `json:"sensors"`
	Hits      Hits         `json:"hits"`
	Retention []bus.Stored `json:"retention"`
}

// Share says for which part of a time, from 0 to 1, coverage was what. They add up to 1.
type Share struct {
	Good    float64 `json:"good"`
	Partial float64 `json:"partial"`
	Blind   float64 `json:"blind"`
	Unknown float64 `json:"unknown"` // no record, or one that does not say
}

// Totals are what records count, added up.
type Totals struct {
	Frames      uint64 `json:"frames"`
	Bytes       uint64 `json:"bytes"`
	Lookups     uint64 `json:"lookups"`
	Connections uint64 `json:"connections"`
	Queries     uint64 `json:"queries"`
	Answers     uint64 `json:"answers"`
	Settled     uint64 `json:"settled"`
	Explained   uint64 `json:"explained"`
	LostNIC     uint64 `json:"lost_nic"`
	LostRing    uint64 `json:"lost_ring"`
	Evicted     uint64 `json:"evicted"`       // entries of the decoder's and the correlator's tables
	LostBefore  uint64 `json:"lost_messages"` // in queue and spool
	Downgraded  uint64 `json:"downgraded"`    // alerts published as watches
	Muted       uint64 `json:"muted"`         // leads not published
}

func (t *Totals) add(r *bus.CoverageRecord) {
	t.Frames += r.Frames
	t.Bytes += r.Bytes
	t.Lookups += r.Lookups
	t.Connections += r.Connections
	t.LostNIC += r.Loss.NIC
	t.LostRing += r.Loss.Ring
	t.Evicted += r.Loss.Decoder + r.Loss.Correlator
	t.LostBefore += r.Loss.Queue + r.Loss.Spool
	if w := r.Wire; w != nil {
		t.Queries += w.Queries
		t.Answers += w.Answers
		t.Settled += w.Settled
		t.Explained += w.Explained
		t.Downgraded += w.Downgraded
		t.Muted += w.Muted
	}
}

// Slot is one hour of a sensor, or a shorter time when the range is short, or the part of it that is in the range.
type Slot struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Share Share     `json:"share"`
	Rules []string  `json:"rules,omitempty"` // that made it less than good, those that did longest first
	Totals

	lasted map[string]time.Duration // by rule
}

// Worst returns the worst verdict of the slot: one that lasted a minute can be the one that counts.
func (h *Slot) Worst() string {
	switch {
	case h.Share.Blind > 0:
		return bus.Blind
	case h.Share.Unknown > tolerableGap.Seconds()/h.To.Sub(h.From).Seconds():
		return bus.Unknown
	case h.Share.Partial > 0:
		return bus.Partial
	}
	return bus.Good
}

// Sensor is what one sensor could see.
type Sensor struct {
	Name     string             `json:"sensor"`
	Device   string             `json:"device,omitempty"`
	Versions []string           `json:"versions,omitempty"`
	Records  int                `json:"records"`
	Share    Share              `json:"share"`
	Counters []string           `json:"counters,omitempty"` // where loss at the NIC was read
	Filters  []string           `json:"filters,omitempty"`
	Totals   Totals             `json:"totals"`
	Slots    []Slot             `json:"slots"`
	Findings []Finding          `json:"findings,omitempty"` // those that lasted longest first
	Gaps     []Gap              `json:"gaps,omitempty"`
	Zones    []bus.ZoneCoverage `json:"zones,omitempty"`   // as of the newest record
	Clients  *bus.Clients       `json:"clients,omitempty"` // likewise
	Missing  []spool.Gap        `json:"missing,omitempty"` // runs of its messages that neither came nor were named as lost
	Named    []spool.Gap        `json:"named,omitempty"`   // runs that a record says will never come

	minutes []minute
}

// minute is the interval of a record.
type minute struct {
	from, to time.Time
	verdict  string
}

// Finding is one thing that limited a sensor, over the whole range.
type Finding struct {
	Rule        string    `json:"rule"`
	Severity    string    `json:"severity"` // the worst
	Seconds     float64   `json:"seconds"`  // of the intervals in which it was so
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Evidence    string    `json:"evidence"` // of the last interval
	Consequence string    `json:"consequence"`
}

// Gap is a time without coverage.
type Gap struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Cause string    `json:"cause"`
}

// NoRecord is the cause of a Gap of which no record tells.
const NoRecord = "no record: the sensor did not run, or could not deliver, or its records have expired"

// tolerableGap is how much later than due a record may come before there is a gap.
const tolerableGap = 30 * time.Second

// Hits says what was found, each hit in its newest revision.
type Hits struct {
	Levels      map[string]int `json:"levels"`      // hits that stand, by level
	Retracted   int            `json:"retracted"`   // taken back
	Attribution map[string]int `json:"attribution"` // hits that stand, by attribution status
	Coverage    map[string]int `json:"coverage"`    // hits that stand, by the verdict they were found under
	Downgraded  int            `json:"downgraded"`  // published as watches because coverage was blind
	Suppressed  uint64         `json:"suppressed"`  // not published one by one
	List        []Hit          `json:"list"`        // those that stand, strongest and newest first, at most MaxHits
	Unlisted    int            `json:"unlisted"`
}

// Hit is one line about a hit.
type Hit struct {
	ID          string    `json:"hit_id"`
	Time        time.Time `json:"time"`
	Sensor      string    `json:"sensor"`
	Level       string    `json:"level"`
	Client      string    `json:"client"`
	Destination string    `json:"destination"`
	Rule        string    `json:"rule"`
	Name        string    `json:"name,omitempty"`
	Verdict     string    `json:"coverage"`
	Status      string    `json:"attribution"`
	Process     string    `json:"reason,omitempty"` // how it was attributed, or why not
}

// MaxHits bounds how many hits a report lists.
const MaxHits = 500

// step returns how long a slot is, for a range.
func step(from, to time.Time) time.Duration {
	switch whole := to.Sub(from); {
	case whole > 10*24*time.Hour:
		return 6 * time.Hour
	case whole > 6*time.Hour:
		return time.Hour
	case whole > time.Hour:
		return 10 * time.Minute
	}
	return time.Minute
}

// Builder gathers records and hits. The zero value of all but From and To is ready.
type Builder struct {
	From, To time.Time // the range; what lies outside is left out
	Only     string    // one sensor; empty for all

	records map[string][]*bus.CoverageRecord
	hits    map[string]*bus.Message // newest revision, by id
	orders  map[string]*order       // by sensor
}

// order is what is known of a sensor's numbered messages.
type order struct {
	bus.Sequences
	first uint64
	named []spool.Gap
}

func (b *Builder) order(sensor string) *order {
	if b.orders == nil {
		b.orders = map[string]*order{}
	}
	o := b.orders[sensor]
	if o == nil {
		o = &order{}
		b.orders[sensor] = o
	}
	return o
}

func (b *Builder) wants(sensor string) bool { return b.Only == "" || b.Only == sensor }

// Record takes a coverage record. One whose interval touches the range counts as a whole.
func (b *Builder) Record(r *bus.CoverageRecord) {
	from := r.Time.Add(-time.Duration(r.Interval * float64(time.Second)))
	if !b.wants(r.Sensor) || !r.Time.After(b.From) || !from.Before(b.To) {
		return
	}
	if b.records == nil {
		b.records = map[string][]*bus.CoverageRecord{}
	}
	b.records[r.Sensor] = append(b.records[r.Sensor], r)
	o := b.order(r.Sensor)
	o.Record(r)
	if r.Delivery != nil {
		o.named = append(o.named, r.Delivery.Missing...)
	}
}

// Hit takes a revision of a hit. The connection's time says whether it is in the range.
func (b *Builder) Hit(m *bus.Message) {
	if !b.wants(m.Observer.Name) {
		return
	}
	o := b.order(m.Observer.Name)
	o.Hit(m)
	if q := m.Portolan.Sequence; q > 0 && (o.first == 0 || q < o.first) {
		o.first = q
	}
	if m.Timestamp.Before(b.From) || !m.Timestamp.Before(b.To) {
		return
	}
	if b.hits == nil {
		b.hits = map[string]*bus.Message{}
	}
	if old := b.hits[m.Portolan.HitID]; old == nil || old.Portolan.Revision <= m.Portolan.Revision {
		b.hits[m.Portolan.HitID] = m
	}
}

// Report makes the report.
func (b *Builder) Report(made time.Time, retention []bus.Stored) *Report {
	r := &Report{From: b.From.UTC(), To: b.To.UTC(), Made: made.UTC(), Step: step(b.From, b.To).Seconds(), Retention: retention}
	for name, records := range b.records {
		r.Sensors = append(r.Sensors, b.sensor(name, records))
	}
	slices.SortFunc(r.Sensors, func(a, b Sensor) int { return cmp.Compare(a.Name, b.Name) })
	for i := range r.Sensors {
		s := &r.Sensors[i].Share
		n := float64(len(r.Sensors))
		r.Share.Good += s.Good / n
		r.Share.Partial += s.Partial / n
		r.Share.Blind += s.Blind / n
		r.Share.Unknown += s.Unknown / n
	}
	const all = 1 - 1e-9
	switch {
	case len(r.Sensors) == 0:
		r.Share.Unknown, r.Verdict = 1, bus.Unknown
	case r.Share.Good >= all:
		r.Verdict = bus.Good
	case r.Share.Blind+r.Share.Unknown >= all:
		r.Verdict = bus.Blind
	default:
		r.Verdict = bus.Partial
	}
	r.Hits = b.found()
	return r
}

// found sums up the hits.
func (b *Builder) found() (h Hits) {
	h.Levels, h.Attribution, h.Coverage = map[string]int{}, map[string]int{}, map[string]int{}
	for _, m := range b.hits {
		p := &m.Portolan
		if p.Suppressed != nil {
			h.Suppressed += p.Suppressed.Count
			continue
		}
		if p.State == "retracted" {
			h.Retracted++
			continue
		}
		h.Levels[p.Level]++
		h.Attribution[p.Attribution.Status]++
		h.Coverage[p.Coverage.Verdict]++
		if p.Downgraded != nil {
			h.Downgraded++
		}
		h.List = append(h.List, Hit{
			ID: p.HitID, Time: m.Timestamp, Sensor: m.Observer.Name, Level: p.Level, Client: m.Source.IP.String(),
			Destination: destination(m), Rule: m.Rule.Name, Name: p.Lookup.Name,
			Verdict: p.Coverage.Verdict, Status: p.Attribution.Status, Process: p.Attribution.Reason,
		})
	}
	rank := map[string]int{"alert": 0, "watch": 1, "lead": 2}
	slices.SortFunc(h.List, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(rank[a.Level], rank[b.Level]), b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID))
	})
	if n := len(h.List); n > MaxHits {
		h.List, h.Unlisted = h.List[:MaxHits], n-MaxHits
	}
	return h
}
