package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"portolan/bpffilter"
	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/feed/dnstap"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// When the monitor speaks.
const (
	coverageLineAfter = 5 * time.Second // for a first impression of the traffic
	heartbeatEvery    = 10 * time.Second
	recordEvery       = time.Minute
	saveEvery         = 5 * time.Minute // of what was learned
)

// monitor looks at a pipeline each second: it tells messages what could be judged, prints
// the coverage line, and publishes heartbeats and coverage records. One goroutine at a
// time may use it.
type monitor struct {
	line    *pipeline
	sensors []*sensor.Sensor
	to      io.Writer // for the coverage line
	log     *slog.Logger
	known   *learned       // saved now and then; may be nil
	tap     *dnstap.Server // may be nil

	start     time.Time
	printed   bool
	verdict   string // of the last look
	heartbeat time.Time
	record    time.Time
	last      snapshot // when the last record was made
	saved     time.Time
}

// snapshot is what all parts had counted at one moment.
type snapshot struct {
	stats     sensor.Stats
	correlate correlate.Stats
	lost      lostMessages
	allowed   uint64 // final hits that allow rules kept back
}

func newMonitor(line *pipeline, sensors []*sensor.Sensor, to io.Writer, log *slog.Logger) *monitor {
	now := time.Now()
	return &monitor{line: line, sensors: sensors, to: to, log: log, start: now, heartbeat: now, record: now, saved: now}
}

func (m *monitor) snapshot() snapshot {
	s := snapshot{correlate: m.line.correlator.Stats(), lost: m.line.lostMessages()}
	kept := m.line.allow.result()
	s.allowed = kept.total()
	for _, x := range m.sensors {
		s.stats = sumStats(s.stats, x.Stats())
	}
	return s
}

// look is called each second.
func (m *monitor) look() {
	now, s := time.Now(), m.snapshot()
	v := assess(&s.stats, &s.correlate, s.lost)
	c := v.context(m.line.cfg.Sensor, m.line.device)
	c.Attributed = m.line.cfg.Attribution.Expected
	m.line.context.Store(&c)
	m.line.chance.Store(&chanceReport{expectedFalse(&m.line.cfg.Correlate, &s.correlate, now.Sub(m.start)), s.correlate})

	if !m.printed && now.Sub(m.start) >= coverageLineAfter {
		m.printed, m.verdict = true, v.verdict
		fmt.Fprintln(m.to, m.coverageLine(&s, &v, now.Sub(m.start)))
	}
	if m.printed && v.verdict != m.verdict {
		m.verdict = v.verdict
		m.log.Info("coverage changed", "verdict", v.verdict, "why", strings.Join(v.why, "; "))
	}
	for _, text := range m.line.allow.expiredNow(now) {
		m.log.Warn(text + ": its hits are published again")
	}
	if now.Sub(m.heartbeat) >= heartbeatEvery {
		m.heartbeat = now
		if err := m.line.bus.PublishStat(m.stat(now, &s, &v)); err != nil {
			m.log.Warn("heartbeat not sent", "error", err)
		}
	}
	if now.Sub(m.record) >= recordEvery {
		m.publishRecord(now, &s)
	}
	if m.known != nil && now.Sub(m.saved) >= saveEvery {
		m.saved = now
		m.known.save()
	}
}

// coverageLine says what is seen here, on one line.
func (m *monitor) coverageLine(s *snapshot, v *coverage, span time.Duration) string {
	rate := float64(s.stats.Counters.Responses) / span.Seconds()
	zones := m.line.zoneTexts()
	slices.Sort(zones)
	zoneText := "no zones yet"
	if n := len(zones); n > 0 {
		zoneText = "zones " + strings.Join(zones[:min(n, 4)], " ")
		if n > 4 {
			zoneText += fmt.Sprintf(" and %d more", n-4)
		}
	}
	lost := v.loss.NIC + v.loss.Ring
	tap := ""
	if m.tap != nil {
		tap = ", " + tapText(m.tap.Stats())
	}
	return fmt.Sprintf("coverage: %s  %s, %s, %s, %s, DNS %s, TCP %s, %.3g DNS answers/s, %d of %d frames lost%s",
		v.text(), m.line.device, m.filterText(s), count(len(s.stats.Rings), "ring", "rings"), zoneText,
		v.directions.DNS, v.directions.TCP, rate, lost, s.stats.Frames+lost, tap)
}

// filterText says what filters in the kernel, and how much it keeps away if that is known.
func (m *monitor) filterText(s *snapshot) string {
	text := inForce(m.sensors)
	if dropped := s.stats.Prefilter.Dropped().Frames; dropped > 0 {
		text += fmt.Sprintf(", %s of %d frames dropped there", percent(share(dropped, dropped+s.stats.Prefilter.Passed().Frames)),
			dropped+s.stats.Prefilter.Passed().Frames)
	}
	return text
}

// classCounts returns how many frames there were of each class that occurred; nil when a
// prefilter that counts is not in force.
func classCounts(n *bpffilter.Counts) map[string]uint64 {
	var m map[string]uint64
	for class := range bpffilter.NumClasses {
		if frames := n[class].Frames; frames > 0 {
			if m == nil {
				m = map[string]uint64{}
			}
			m[class.String()] = frames
		}
	}
	return m
}

// inForce says what filters in the kernel; sensors mostly agree on it.
func inForce(sensors []*sensor.Sensor) string {
	var all []string
	for _, s := range sensors {
		if text := s.InForce().String(); !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return strings.Join(all, " and ")
}

func (m *monitor) stat(now time.Time, s *snapshot, v *coverage) *bus.Stat {
	hits := uint64(0)
	for _, n := range s.correlate.Final {
		hits += n
	}
	return &bus.Stat{
		Schema: bus.StatSchema, Time: now.UTC(), Sensor: m.line.cfg.Sensor, Version: thisBuild().Version,
		Verdict: v.verdict, Uptime: now.Sub(m.start).Seconds(), Frames: s.stats.Frames, Hits: hits,
		Published: m.line.bus.PublishStats(),
	}
}

// publishRecord publishes what happened since the last record.
func (m *monitor) publishRecord(now time.Time, s *snapshot) {
	d := s.since(&m.last)
	v := assess(&d.stats, &d.correlate, d.lost)
	hits := map[string]uint64{}
	for level := correlate.Lead; level <= correlate.Alert; level++ {
		hits[level.String()] = d.correlate.Final[level]
	}
	err := m.line.bus.PublishCoverage(&bus.CoverageRecord{
		Schema: bus.CoverSchema, Time: now.UTC(), Sensor: m.line.cfg.Sensor, Version: thisBuild().Version,
		Device: m.line.device, Interval: now.Sub(m.record).Seconds(),
		Verdict: v.verdict, Why: v.why, Loss: v.loss, Directions: v.directions,
		Frames: d.stats.Frames, Bytes: d.stats.Bytes, Reasons: reasonCounts(&d.stats.Reasons),
		Tunnels: tunnelCounts(&d.stats.Counters),
		Filter:  inForce(m.sensors), Prefilter: classCounts(&d.stats.Prefilter), Inverted: d.correlate.Inverted,
		Lookups: d.correlate.Lookups, Connections: d.correlate.Connections, Hits: hits, Allowed: d.allowed,
		Published: m.line.bus.PublishStats(),
	})
	if err != nil {
		m.log.Warn("coverage record not sent", "error", err)
	}
	m.record, m.last = now, *s
}

// finish publishes the last record and prints what it all came to.
func (m *monitor) finish() error {
	s := m.snapshot()
	m.publishRecord(time.Now(), &s)
	if m.known != nil {
		m.known.save()
	}
	v := assess(&s.stats, &s.correlate, s.lost)
	sum := summary{stats: s.stats, names: []string{m.line.device}, hits: s.correlate.Final, allowed: m.line.allow.result()}
	for level, n := range sum.allowed.hits {
		sum.hits[level] -= n
	}
	if m.tap != nil {
		fmt.Fprintln(m.to, tapText(m.tap.Stats()))
	}
	return sum.write(m.to, &s.correlate, &v)
}

// sumStats adds the statistics of two sensors.
func sumStats(a, b sensor.Stats) sensor.Stats {
	if a.Frames == 0 {
		a.First, a.Last = b.First, b.Last
	} else if b.Frames > 0 {
		a.First, a.Last = min(a.First, b.First), max(a.Last, b.Last)
	}
	a.Frames += b.Frames
	a.Bytes += b.Bytes
	a.CapturedBytes += b.CapturedBytes
	a.Truncated += b.Truncated
	for r := range decode.NumReasons {
		a.Reasons[r] += b.Reasons[r]
	}
	a.Rings = append(slices.Clone(a.Rings), b.Rings...)
	a.Prefilter.Add(&b.Prefilter)
	a.Interface.Dropped += b.Interface.Dropped
	a.Interface.Missed += b.Interface.Missed
	a.Interface.Errors += b.Interface.Errors
	a.Counters = addCounters(a.Counters, b.Counters, 1)
	return a
}

// since returns what was counted after the moment of o.
func (s *snapshot) since(o *snapshot) snapshot {
	d := *s
	d.lost.queue -= o.lost.queue
	d.lost.spool -= o.lost.spool
	d.allowed -= o.allowed
	d.stats.Frames -= o.stats.Frames
	d.stats.Bytes -= o.stats.Bytes
	d.stats.CapturedBytes -= o.stats.CapturedBytes
	d.stats.Truncated -= o.stats.Truncated
	for r := range decode.NumReasons {
		d.stats.Reasons[r] -= o.stats.Reasons[r]
	}
	d.stats.Rings = slices.Clone(d.stats.Rings)
	for i := range o.stats.Rings {
		d.stats.Rings[i].Dropped -= o.stats.Rings[i].Dropped
	}
	for class := range d.stats.Prefilter {
		d.stats.Prefilter[class].Frames -= o.stats.Prefilter[class].Frames
		d.stats.Prefilter[class].Bytes -= o.stats.Prefilter[class].Bytes
	}
	d.stats.Interface.Dropped -= o.stats.Interface.Dropped
	d.stats.Interface.Missed -= o.stats.Interface.Missed
	d.stats.Counters = addCounters(d.stats.Counters, o.stats.Counters, ^uint64(0))
	c, p := &d.correlate, &o.correlate
	c.Lookups -= p.Lookups
	c.Connections -= p.Connections
	c.Explained -= p.Explained
	c.EvictedClients -= p.EvictedClients
	c.EvictedAnswers -= p.EvictedAnswers
	c.EvictedEvidence -= p.EvictedEvidence
	c.Refused -= p.Refused
	c.Inverted -= p.Inverted
	for i := range c.Final {
		c.Final[i] -= p.Final[i]
	}
	return d
}

// addCounters adds the counters that coverage uses, those of b times sign (1, or all ones for −1).
func addCounters(a, b decode.Counters, sign uint64) decode.Counters {
	a.Queries += sign * b.Queries
	a.Responses += sign * b.Responses
	a.SYN += sign * b.SYN
	a.SYNACK += sign * b.SYNACK
	a.StartsEvicted += sign * b.StartsEvicted
	a.FlowsEvicted += sign * b.FlowsEvicted
	a.FragmentsEvicted += sign * b.FragmentsEvicted
	a.StreamsEvicted += sign * b.StreamsEvicted
	a.StreamsCut += sign * b.StreamsCut
	a.TunnelsTooDeep += sign * b.TunnelsTooDeep
	for k := range a.Tunnels {
		a.Tunnels[k] += sign * b.Tunnels[k]
	}
	return a
}
