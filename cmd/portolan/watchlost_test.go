package main

import (
	"slices"
	"testing"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/spool"
)

// What a sensor lost is said when its record tells of it, and gaps at the end.
func TestDelivered(t *testing.T) {
	for _, tt := range []struct {
		name    string
		gapless bool
		end     string
	}{
		{"every hit is seen", true, "dmz-1: 4 messages came, lost: 3; not here yet: 8, 12-13"},
		{"some are left out", false, "dmz-1: 4 messages came, lost: 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said []string
			d := newDelivered(tt.gapless, func(line string) { said = append(said, line) })
			hit := func(sequence uint64, unstored bool) {
				m := new(bus.Message)
				m.Observer.Name, m.Portolan.Sequence = "dmz-1", sequence
				d.hit(m, bus.Meta{Unstored: unstored})
			}
			record := func(sequence, leads uint64, missing ...spool.Gap) {
				d.record(&bus.CoverageRecord{Sensor: "dmz-1", Delivery: &bus.Delivery{
					Sequence: sequence, Missing: missing, Lost: map[string]uint64{"lead": leads, "alert": 0},
				}})
			}
			hit(7, false) // what was before is not asked for
			record(7, 10)
			hit(9, false)
			hit(9, false) // twice
			hit(8, true)
			record(9, 10)
			hit(14, false)
			record(14, 13, spool.Gap{First: 10, Last: 11, Reason: spool.Lost})
			d.record(&bus.CoverageRecord{Sensor: "core-1"}) // without a spool
			d.end()
			want := []string{"lost: dmz-1 lost 3 messages that found no room at the sensor; ever: lead 13", tt.end}
			if !slices.Equal(said, want) {
				t.Errorf("said\n%q, want\n%q", said, want)
			}
		})
	}
}
