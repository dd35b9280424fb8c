package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"portolan/bpffilter"
	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/coverage"
	"portolan/cmd/internal/feed/dnstap"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
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
	saw     atomic.Pointer[view]

	start     time.Time
	printed   bool
	verdict   coverage.Verdict // of the last look
	clock     clockWatch
	heartbeat time.Time
	tried     time.Time // when a record was made
	record    time.Time // when the last one was handed over
	last      snapshot  // as of then
	saved     time.Time
}

// view is what the monitor saw when it looked last, for those who ask at other times.
type view struct {
	at       time.Time
	snapshot snapshot
	coverage coverage.Assessment
	line     string // the coverage line
}

// snapshot is what all parts had counted at one moment.
type snapshot struct {
	stats     sensor.Stats   // of all sensors
	each      []sensor.Stats // of each
	correlate correlate.Stats
	lost      lostMessages
	allowed   uint64 // final hits that allow rules kept back
	counts    coverage.Counts
	view      coverage.View

	muted, downgraded uint64
}

func newMonitor(line *pipeline, sensors []*sensor.Sensor, to io.Writer, log *slog.Logger) *monitor {
	now := time.Now()
	return &monitor{line: line, sensors: sensors, to: to, log: log, start: now, heartbeat: now, tried: now, record: now, saved: now}
}

func (m *monitor) snapshot() snapshot {
	s := snapshot{
		correlate: m.line.correlator.Stats(), lost: m.line.lostMessages(),
		muted: m.line.muted.Load(), downgraded: m.line.downgraded.Load(),
	}
	kept := m.line.allow.result()
	s.allowed = kept.total()
	for _, x := range m.sensors {
		n := x.Stats()
		s.each = append(s.each, n)
		s.stats.Add(&n)
	}
	m.line.own.leaveOut(&s.correlate)
	m.line.tester.leaveOut(&s)
	var traffic coverage.Traffic
	for i, t := range m.line.tallies() {
		n, v := t.Traffic(), t.View()
		if traffic = traffic.Plus(&n); i == 0 {
			s.view = v
		} else {
			s.view.Add(&v)
		}
	}
	s.counts = counted(&s.stats, &s.correlate, s.lost, traffic)
	s.counts.ClockSteps, s.counts.ClockStepped = m.clock.steps, m.clock.stepped
	return s
}

// look is called each second.
func (m *monitor) look() {
	now := time.Now()
	m.clock.look(now.UnixNano(), now.Sub(m.start))
	s := m.snapshot()
	m.line.history.Add(event.TimeOf(now), &s.counts)
	m.line.context.Store(&seen{at: now, counts: s.counts, view: s.view})
	m.line.chance.Store(&chanceReport{expectedFalse(&m.line.cfg.Correlate, &s.correlate, now.Sub(m.start)), s.correlate})

	// The verdict is on the last minutes: what was lost an hour ago says nothing of now.
	counts, began := m.line.history.Since(event.TimeOf(now)-coverage.LeastWindow, &s.counts)
	span := now.Sub(m.start)
	if began > 0 {
		span = event.TimeOf(now).Sub(began)
	}
	v := coverage.Assess(&counts, &s.view, coverage.Source{Live: true, Span: span, SelfTest: m.line.tester.failed(), Beside: m.line.told})
	line := m.coverageLine(&s, &v, now.Sub(m.start))
	m.saw.Store(&view{now, s, v, line})
	if !m.printed && now.Sub(m.start) >= coverageLineAfter {
		m.printed, m.verdict = true, v.Verdict
		fmt.Fprintln(m.to, line)
	}
	if m.printed && v.Verdict != m.verdict {
		m.verdict = v.Verdict
		m.log.Info("coverage changed", "verdict", v.Verdict, "why", strings.Join(v.Why(), "; "))
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
	if now.Sub(m.tried) >= recordEvery {
		m.publishRecord(now, &s)
	}
	if m.known != nil && now.Sub(m.saved) >= saveEvery {
		m.saved = now
		m.known.save()
	}
}

// clockWatch finds when the wall clock, which stamps frames, is set. One goroutine at a time may use it.
type clockWatch struct {
	offset  int64 // of the wall clock to the monotonic one
	any     bool
	steps   uint64
	stepped uint64 // nanoseconds
}

// leastStep is more than any clock drifts, or is slewed, in a second.
const leastStep = int64(50 * time.Millisecond)

// look compares the clocks: the wall's in nanoseconds, and the monotonic one since any moment.
func (c *clockWatch) look(wall int64, monotonic time.Duration) {
	offset := wall - int64(monotonic)
	if by := max(offset-c.offset, c.offset-offset); c.any && by >= leastStep {
		c.steps++
		c.stepped += uint64(by)
	}
	c.offset, c.any = offset, true
}

// coverageLine says what is seen here, on one line.
func (m *monitor) coverageLine(s *snapshot, v *coverage.Assessment, span time.Duration) string {
	rate := float64(s.stats.Counters.Responses) / span.Seconds()
	var zones []string
	for _, z := range s.view.Zones {
		zones = append(zones, z.Zone.String())
	}
	zoneText := "no zones yet"
	if n := len(zones); n > 0 {
		zoneText = "zones " + strings.Join(zones[:min(n, 4)], " ")
		if n > 4 {
			zoneText += fmt.Sprintf(" and %d more", n-4)
		}
	}
	lost, dirs := s.counts.Loss.NIC+s.counts.Loss.Ring, coverageOf(v, &s.counts, true).Directions
	tap := ""
	if m.tap != nil {
		tap = ", " + tapText(m.tap.Stats())
	}
	return fmt.Sprintf("coverage: %s  %s, %s, %s, %s, DNS %s, TCP %s, %.3g DNS answers/s, %d of %d frames lost%s",
		v.Text(), m.line.device, m.filterText(s), count(len(s.stats.Rings), "ring", "rings"), zoneText,
		dirs.DNS, dirs.TCP, rate, lost, s.stats.Frames+lost, tap)
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

func (m *monitor) stat(now time.Time, s *snapshot, v *coverage.Assessment) *bus.Stat {
	hits := uint64(0)
	for _, n := range s.correlate.Final {
		hits += n
	}
	return &bus.Stat{
		Schema: bus.StatSchema, Time: now.UTC(), Sensor: m.line.cfg.Sensor, Version: thisBuild().Version,
		Verdict: string(v.Verdict), Uptime: now.Sub(m.start).Seconds(), Frames: s.stats.Frames, Hits: hits,
		Published: m.line.bus.PublishStats(),
		SelfTest:  m.line.tester.result(),
	}
}

// finish publishes the last record and prints what it all came to.
func (m *monitor) finish() error {
	s := m.snapshot()
	m.publishRecord(time.Now(), &s)
	if m.known != nil {
		m.known.save()
	}
	v := coverage.Assess(&s.counts, &s.view, coverage.Source{Live: true, Span: time.Since(m.start), Beside: m.line.told})
	sum := summary{stats: s.stats, names: []string{m.line.device}, hits: s.correlate.Final, allowed: m.line.allow.result()}
	for level, n := range sum.allowed.hits {
		sum.hits[level] -= n
	}
	if m.tap != nil {
		fmt.Fprintln(m.to, tapText(m.tap.Stats()))
	}
	return sum.write(m.to, &s.correlate, &v)
}
