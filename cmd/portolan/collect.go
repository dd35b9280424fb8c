package main

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"portolan/bpffilter"
	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/fleet"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// verdicts lists the verdicts on coverage.
func verdicts() []string { return []string{bus.Good, bus.Partial, bus.Blind, bus.Unknown} }

// scrape takes the values of one scrape.
type scrape chan<- prometheus.Metric

func (c scrape) count(d *prometheus.Desc, n uint64, labels ...string) {
	c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (c scrape) value(d *prometheus.Desc, v float64, labels ...string) {
	c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (c scrape) is(d *prometheus.Desc, yes bool, labels ...string) {
	v := 0.0
	if yes {
		v = 1
	}
	c.value(d, v, labels...)
}

// process collects what the runtime and the kernel know of the process, under their usual names.
func process() []prometheus.Collector {
	return []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
}

// Describe is part of prometheus.Collector.
func (r *reloads) Describe(c chan<- *prometheus.Desc) {
	c <- descReloadOK
	c <- descReloadTime
}

// Collect is part of prometheus.Collector.
func (r *reloads) Collect(c chan<- prometheus.Metric) {
	scrape(c).is(descReloadOK, !r.failed.Load())
	scrape(c).value(descReloadTime, seconds(r.at.Load()))
}

// seconds returns nanoseconds as Prometheus wants them.
func seconds(ns int64) float64 { return float64(ns) / float64(time.Second) }

// common collects what every command has.
func (c scrape) common(b *bus.Bus, capacity int64, start time.Time) {
	c.value(descBuildInfo, 1, thisBuild().Version, runtime.Version())
	c.value(descStartTime, seconds(start.UnixNano()))
	p, now := b.PublishStats(), b.Condition()
	for outcome, n := range map[string]uint64{
		"accepted": p.Accepted, "recovered": p.Recovered, "stored": p.Stored, "duplicate": p.Duplicates, "retried": p.Retried,
		"unstored": p.Unstored, "suppressed": p.Suppressed,
	} {
		c.count(descPublished, n, outcome)
	}
	c.count(descMessagesLost, p.LostQueue, "queue")
	c.count(descMessagesLost, p.LostSpool, "spool")
	c.count(descMessagesLost, p.Spoilt, "disk")
	c.value(descPending, float64(p.Pending))
	c.is(descNatsConnected, now.Connected)
	c.value(descSpoolBytes, float64(now.SpoolBytes))
	c.value(descSpoolCapacity, float64(capacity/3)) // the rest is for rewriting the file
	c.is(descSpoolFailing, now.Failing)
}

// describeCommon describes that.
func describeCommon(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuildInfo, descStartTime, descNatsConnected, descPublished, descMessagesLost, descPending, descSpoolBytes, descSpoolCapacity, descSpoolFailing,
	} {
		c <- d
	}
}

// runCollector collects what a sensor's monitor saw when it looked last: a scrape costs the capture nothing.
type runCollector struct {
	m   *monitor
	cfg *config.Config
}

// Describe is part of prometheus.Collector.
func (r *runCollector) Describe(c chan<- *prometheus.Desc) {
	describeCommon(c)
	for _, d := range []*prometheus.Desc{
		descFrames, descFrameBytes, descCapturedBytes, descFramesLost, descFramesReason, descFramesCut, descInterfaceErr, descRingFrozen, descRingGap, descLinkDowns, descReopens, descDeviceGone,
		descFilterInfo, descFiltered, descTunnels, descDnsMessages, descTcpOpenings, descDecoderEvicted, descLookups, descConnections, descExplained, descTrials, descInverted, descLate,
		descClients, descTableBytes, descTableCapacity, descEvicted, descHits, descHitsAllowed, descHitsRetracted, descDecoys, descCoverageState, descLastFrame, descLastLook,
		descObservationsLost, descObserved,
	} {
		c <- d
	}
}

// Collect is part of prometheus.Collector.
func (r *runCollector) Collect(ch chan<- prometheus.Metric) {
	c := scrape(ch)
	c.common(r.m.line.bus, r.cfg.Spool, r.m.start)
	if o := r.m.line.observations; o != nil {
		s := o.Stats()
		c.count(descObserved, s.Observations)
		c.count(descObservationsLost, s.Lost)
	}
	v := r.m.saw.Load()
	if v == nil {
		return // it has not looked yet
	}
	c.value(descLastLook, seconds(v.at.UnixNano()))
	if last := v.snapshot.stats.Last; last != 0 {
		c.value(descLastFrame, seconds(int64(last)))
	}
	for i := range v.snapshot.each {
		c.device(r.cfg.Device[i], &v.snapshot.each[i], r.m.sensors[i].InForce())
	}
	c.correlated(&v.snapshot.correlate, r.cfg.Correlate.MemoryBytes)
	c.count(descHitsAllowed, v.snapshot.allowed)
	for _, verdict := range verdicts() {
		c.is(descCoverageState, string(v.coverage.Verdict) == verdict, verdict)
	}
}

// device collects what one device gave.
func (c scrape) device(name string, s *sensor.Stats, force sensor.InForce) {
	var downs, opened uint64
	for i := range s.Rings {
		r, ring := &s.Rings[i], strconv.Itoa(i)
		c.count(descFrames, r.Frames, name, ring)
		c.count(descFrameBytes, r.Bytes, name, ring)
		c.count(descCapturedBytes, r.CapturedBytes, name, ring)
		c.count(descFramesLost, r.Dropped, name, "ring", ring)
		c.count(descRingFrozen, r.Frozen, name, ring)
		c.value(descRingGap, r.LongestGap.Seconds(), name, ring)
		downs, opened = max(downs, r.LinkDowns), max(opened, r.Reopens) // all rings see the same
	}
	c.count(descFramesLost, s.Interface.Lost(), name, "nic", "")
	c.count(descInterfaceErr, s.Interface.Errors, name)
	c.count(descFramesCut, s.Truncated, name)
	c.count(descLinkDowns, downs, name)
	c.count(descReopens, opened, name)
	c.is(descDeviceGone, s.Gone(), name)
	c.value(descFilterInfo, 1, name, string(force.Prefilter), force.FanOut)
	for reason := range decode.NumReasons {
		c.count(descFramesReason, s.Reasons[reason], name, reason.String())
	}
	for class := range bpffilter.NumClasses {
		action := "drop"
		if class.Passes() {
			action = "pass"
		}
		c.count(descFiltered, s.Prefilter[class].Frames, name, class.String(), action)
	}
	n := &s.Counters
	for k := range decode.NumTunnelKinds {
		c.count(descTunnels, n.Tunnels[k], name, k.String())
	}
	c.count(descDnsMessages, n.Queries, name, "query")
	c.count(descDnsMessages, n.Responses, name, "response")
	c.count(descTcpOpenings, n.SYN, name, "syn")
	c.count(descTcpOpenings, n.SYNACK, name, "synack")
	for table, n := range map[string]uint64{
		"starts": n.StartsEvicted, "flows": n.FlowsEvicted, "fragments": n.FragmentsEvicted, "streams": n.StreamsEvicted + n.StreamsCut,
	} {
		c.count(descDecoderEvicted, n, name, table)
	}
}

// correlated collects what became of events.
func (c scrape) correlated(s *correlate.Stats, capacity int64) {
	c.count(descLookups, s.Lookups)
	c.count(descConnections, s.Connections)
	for i, by := range correlate.ExplanationNames() {
		if by != "" {
			c.count(descExplained, s.ExplainedBy[i], by)
		}
	}
	c.count(descTrials, s.PortTrials, "port")
	c.count(descTrials, s.AddressTrials, "address")
	c.count(descInverted, s.Inverted)
	c.count(descLate, s.Late)
	c.value(descClients, float64(s.Clients))
	c.value(descTableBytes, float64(s.MemoryBytes))
	c.value(descTableCapacity, float64(capacity))
	for table, n := range map[string]uint64{
		"clients": s.EvictedClients, "strangers": s.EvictedStrangers, "answers": s.EvictedAnswers, "evidence": s.EvictedEvidence,
		"learners": s.EvictedLearners, "refused": s.Refused,
	} {
		c.count(descEvicted, n, table)
	}
	for level := correlate.Lead; level <= correlate.Alert; level++ {
		c.count(descHits, s.Final[level], level.String())
	}
	c.count(descHitsRetracted, s.Retracted)
	for level := correlate.Watch; level <= correlate.Alert; level++ {
		c.count(descDecoys, s.Decoys[level], level.String())
	}
}

// workerCollector collects what a worker did.
type workerCollector struct {
	b     *bus.Bus
	w     *fleet.Worker
	cfg   *config.Config
	start time.Time
}

// Describe is part of prometheus.Collector.
func (r *workerCollector) Describe(c chan<- *prometheus.Desc) {
	describeCommon(c)
	for _, d := range []*prometheus.Desc{descWorkerParts, descWorkerObserved, descWorkerLost, descWorkerDamaged, descWorkerHits} {
		c <- d
	}
}

// Collect is part of prometheus.Collector.
func (r *workerCollector) Collect(ch chan<- prometheus.Metric) {
	c, s := scrape(ch), r.w.Stats()
	c.common(r.b, r.cfg.Spool, r.start)
	c.value(descWorkerParts, float64(s.Partitions))
	c.count(descWorkerObserved, s.Observations-s.Again, "no")
	c.count(descWorkerObserved, s.Again, "yes")
	c.count(descWorkerLost, s.Lost)
	c.count(descWorkerDamaged, s.Damaged)
	c.count(descWorkerHits, s.Hits)
}
