package main

import (
	"fmt"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/decode"
)

// coverage is what could be judged, and what not. It is the same for a mirror port and for
// a capture file, except that a file does not tell what was lost before it was written.
type coverage struct {
	verdict    string
	why        []string
	loss       bus.Loss
	directions bus.Directions
}

// The bounds of a good verdict.
const (
	tolerableLoss      = 0.001 // share of frames
	tolerableExplained = 0.2   // least share of connections to an address that a lookup gave
	enoughConnections  = 100   // before that share says anything
)

// lostMessages counts hits that never reached NATS, by where they were lost.
type lostMessages struct{ queue, spool uint64 }

// assess says how far what was seen can be judged.
func assess(s *sensor.Stats, c *correlate.Stats, lost lostMessages) coverage {
	n := &s.Counters
	v := coverage{
		loss: bus.Loss{
			Decoder:    n.StartsEvicted + n.FlowsEvicted + n.FragmentsEvicted + n.StreamsEvicted + n.StreamsCut,
			Correlator: c.EvictedClients + c.EvictedAnswers + c.EvictedEvidence + c.Refused,
			Queue:      lost.queue,
			Spool:      lost.spool,
		},
		directions: bus.Directions{DNS: bus.Direction(n.Queries, n.Responses), TCP: bus.Direction(n.SYN, n.SYNACK)},
	}
	if len(s.Rings) == 0 {
		v.loss.Unknown = []string{"before the capture was written"}
	}
	for _, r := range s.Rings {
		v.loss.Ring += r.Dropped
	}
	v.loss.NIC = s.Interface.Missed + s.Interface.Dropped

	if frames := v.loss.NIC + v.loss.Ring; share(frames, s.Frames+frames) > tolerableLoss {
		v.because("%s of frames lost", percent(share(frames, s.Frames+frames)))
	}
	switch {
	case n.Responses == 0 && n.Queries > 0:
		v.because("DNS queries but no responses seen: the mirror shows one direction")
	case n.Responses == 0:
		v.because("no DNS responses seen: encrypted, cached, or not on this path")
	case n.Queries == 0:
		v.because("DNS responses but no queries seen: the mirror shows one direction")
	}
	switch v.directions.TCP {
	case bus.FromClient:
		v.because("TCP seen from clients only")
	case bus.ToClient:
		v.because("TCP seen to clients only")
	}
	if explained := share(c.Explained, c.Connections); c.Connections >= enoughConnections && explained < tolerableExplained {
		v.because("a lookup seen here explains only %s of connections: encrypted DNS, caches, or a resolver behind the mirror",
			percent(explained))
	}
	if v.loss.Decoder > 0 {
		v.because("the decoder's tables were too small %s", count(v.loss.Decoder, "time", "times"))
	}
	if v.loss.Correlator > 0 {
		v.because("%s made room for others early", count(v.loss.Correlator, "remembered fact", "remembered facts"))
	}
	if v.loss.Queue+v.loss.Spool > 0 {
		v.because("%s lost before NATS", count(v.loss.Queue+v.loss.Spool, "message", "messages"))
	}
	if s.Incomplete != "" {
		v.because("the capture ends early")
	}
	v.verdict = bus.Good
	if len(v.why) > 0 {
		v.verdict = bus.Partial
	}
	return v
}

func (v *coverage) because(format string, args ...any) {
	v.why = append(v.why, fmt.Sprintf(format, args...))
}

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// leastSpan is the shortest time over which a rate of trials is taken.
const leastSpan = time.Minute

// expectation is how many false hits of a level to expect in a day, and how that is known.
type expectation struct {
	perDay float64
	basis  string // "bound" or "measured"
}

// expectedFalse says for each level how many hits chance makes in a day: what the decoys
// reached, with one more as if it came next, or the bound of package evidence (trials over threshold)
// where that is less.
func expectedFalse(cfg *correlate.Config, c *correlate.Stats, span time.Duration) (all [correlate.Alert + 1]expectation) {
	perDay := float64(24*time.Hour) / float64(max(span, leastSpan))
	trials := float64(c.PortTrials+c.AddressTrials) * perDay
	for level, threshold := range map[correlate.Level]float64{correlate.Watch: cfg.Watch, correlate.Alert: cfg.Alert} {
		reached := uint64(0)
		for l := level; l <= correlate.Alert; l++ {
			reached += c.Decoys[l]
		}
		all[level] = expectation{trials / threshold, "bound"}
		if measured := float64(reached+1) * perDay; measured < all[level].perDay {
			all[level] = expectation{measured, "measured"}
		}
	}
	return all
}

// put writes the expectation for a level, and the decoys it comes from, into c.
func (e *expectation) put(c *bus.Context, s *correlate.Stats) {
	c.ExpectedFalsePerDay, c.ExpectedFalseBasis = e.perDay, e.basis
	c.Decoys = bus.Decoys{Watch: s.Decoys[correlate.Watch], Alert: s.Decoys[correlate.Alert]}
}

// context returns what a message says of the sensor, for hits of each level alike.
func (v *coverage) context(sensorName, device string) bus.Context {
	return bus.Context{
		Sensor:     sensorName,
		Version:    thisBuild().Version,
		Device:     device,
		Verdict:    v.verdict,
		Why:        v.why,
		Loss:       v.loss,
		Directions: v.directions,
	}
}

// tunnelCounts returns the tunnels that occurred, by name; nil when there were none.
func tunnelCounts(c *decode.Counters) map[string]uint64 {
	var m map[string]uint64
	put := func(name string, n uint64) {
		if n == 0 {
			return
		}
		if m == nil {
			m = map[string]uint64{}
		}
		m[name] = n
	}
	for k, n := range c.Tunnels {
		put(decode.TunnelKind(k).String(), n)
	}
	put("too-deep", c.TunnelsTooDeep)
	return m
}

// reasonCounts returns the reasons that occurred, by name.
func reasonCounts(reasons *[decode.NumReasons]uint64) map[string]uint64 {
	m := map[string]uint64{}
	for r := range decode.NumReasons {
		if n := reasons[r]; n > 0 {
			m[r.String()] = n
		}
	}
	return m
}
