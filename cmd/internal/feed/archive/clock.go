package archive

import (
	"time"

	"portolan/sensor/event"
)

// leap is how far an event's time may lie beyond those before it, within one file, before it takes others
// to confirm it. One broken stamp must not make all that follows late.
const leap = time.Hour

// What decides about events whose time leaps.
const (
	confirming = 4 // so many that leap are right
	refuting   = 8 // so many after the first of them that do not leap prove them wrong
)

// clock follows the times of a file. The zero value has seen none.
type clock struct {
	reached event.Time // the newest time that is believed
	begun   bool
	doubted int // events that leap, held back
	against int // events since the first of those that do not
	near    int // events since the clock was first read, or read anew
	behind  int // events in a row that lie a leap before reached
}

// What is to be done with an event.
type ruling uint8

const (
	pass    ruling = iota // hand it on
	doubt                 // hold it back
	believe               // hand on those that are held back, then this one
	refute                // drop those that are held back, hand on this one
)

// take rules on an event of time t.
func (c *clock) take(t event.Time) ruling {
	switch {
	case !c.begun:
		c.begun, c.reached, c.near = true, t, 1
		return pass
	case t > c.reached.Add(leap):
		c.behind = 0
		if c.doubted++; c.doubted < confirming {
			return doubt
		}
		c.reached, c.doubted, c.against = t, 0, 0
		return believe
	case t < c.reached.Add(-leap):
		// Logs that are written at the end of connections hold many such. But when nothing came near
		// what the file began with, that was wrong.
		if c.behind++; c.behind >= refuting && c.near < refuting {
			c.reached, c.behind, c.near = t, 0, 1
		}
	default:
		c.behind = 0
		c.near++
		c.reached = max(c.reached, t)
	}
	if c.doubted > 0 {
		if c.against++; c.against >= refuting {
			c.doubted, c.against = 0, 0
			return refute
		}
	}
	return pass
}
