package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/spool"
)

// delivered tells people what of each sensor's messages does not come: what the sensor says that
// it lost, and, where the watch sees every hit, gaps in the sequence.
type delivered struct {
	gapless bool // every hit is seen, from a moment on
	say     func(line string)

	mu      sync.Mutex
	sensors map[string]*heard
}

// heard is what came of one sensor.
type heard struct {
	messages  uint64
	began     bool // sequences count from some first one
	sequences bus.Sequences
	told      bool   // a record came
	before    uint64 // lost when the first record was made
	lost      uint64 // since then
}

func newDelivered(gapless bool, say func(string)) *delivered {
	return &delivered{gapless: gapless, say: say, sensors: map[string]*heard{}}
}

func (d *delivered) sensor(name string) *heard {
	h := d.sensors[name]
	if h == nil {
		h = new(heard)
		d.sensors[name] = h
	}
	return h
}

// begin asks for nothing before a sequence.
func (h *heard) begin(sequence uint64) {
	if !h.began && sequence > 0 {
		h.began = true
		h.sequences.From(sequence)
	}
}

// hit takes a message of the stream, or one that no stream has yet.
func (d *delivered) hit(m *bus.Message, meta bus.Meta) {
	if meta.Unstored {
		return // it comes again
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.sensor(m.Observer.Name)
	h.messages++
	h.begin(m.Portolan.Sequence)
	h.sequences.Hit(m)
}

// record takes a coverage record, and says when a sensor has lost more.
func (d *delivered) record(r *bus.CoverageRecord) {
	if r.Delivery == nil {
		return
	}
	ever, kinds := r.Delivery.Spoilt, []string(nil)
	for _, class := range slices.Sorted(maps.Keys(r.Delivery.Lost)) {
		if n := r.Delivery.Lost[class]; n > 0 {
			ever += n
			kinds = append(kinds, fmt.Sprintf("%s %d", class, n))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.sensor(r.Sensor)
	h.begin(r.Delivery.Sequence + 1)
	h.sequences.Record(r)
	if !h.told {
		h.told, h.before = true, ever
	}
	if now := ever - min(h.before, ever); now > h.lost {
		d.say(fmt.Sprintf("lost: %s lost %s that found no room at the sensor; ever: %s",
			r.Sensor, count(now-h.lost, "message", "messages"), strings.Join(kinds, ", ")))
		h.lost = now
	}
}

// end says of each sensor how many messages came, and how many did not.
func (d *delivered) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.sensors)) {
		h := d.sensors[name]
		line := fmt.Sprintf("%s: %s came, lost: %d", name, count(h.messages, "message", "messages"), h.lost)
		if missing := h.sequences.Missing(); d.gapless && len(missing) > 0 {
			line += fmt.Sprintf("; not here yet: %s", runsText(missing))
		}
		d.say(line)
	}
}

// maxRuns bounds how many runs are named.
const maxRuns = 8

// runsText writes runs of sequences, such as "3, 7-9".
func runsText(runs []spool.Gap) string {
	var list []string
	for _, g := range runs[:min(len(runs), maxRuns)] {
		if g.First == g.Last {
			list = append(list, fmt.Sprint(g.First))
		} else {
			list = append(list, fmt.Sprintf("%d-%d", g.First, g.Last))
		}
	}
	if n := len(runs) - maxRuns; n > 0 {
		list = append(list, fmt.Sprintf("and %d more runs", n))
	}
	return strings.Join(list, ", ")
}
