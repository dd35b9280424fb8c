package endpoint

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"portolan/sensor/event"
)

// clock turns times since boot into those of the host's clock. A process that was given a start
// keeps it; all others follow when the host's clock is set.
type clock struct {
	boot  event.Time // when the kernel started
	again time.Time  // look at the host's clock
}

const (
	clockEvery = 10 * time.Second
	clockOff   = 10 * time.Millisecond // by less the host's clock was not set
	startRound = time.Millisecond      // of a start: more than two agents' readings of the clocks differ
)

// adjust looks, now and then, whether the host's clock was set.
func (c *clock) adjust(now time.Time) error {
	if now.Before(c.again) {
		return nil
	}
	c.again = now.Add(clockEvery)
	best := int64(1 << 62)
	var boot event.Time
	for range 5 { // an interruption between the readings would pass for a difference
		var before, real, after unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &before)
		if err == nil {
			err = unix.ClockGettime(unix.CLOCK_REALTIME, &real)
		}
		if err == nil {
			err = unix.ClockGettime(unix.CLOCK_BOOTTIME, &after)
		}
		if err != nil {
			return fmt.Errorf("read the clock: %w", err)
		}
		if took := after.Nano() - before.Nano(); took < best {
			best, boot = took, event.Time(real.Nano()-before.Nano()-took/2)
		}
	}
	if off := boot.Sub(c.boot); off > clockOff || off < -clockOff {
		c.boot = boot
	}
	return nil
}

func (c *clock) at(sinceBoot time.Duration) event.Time { return c.boot.Add(sinceBoot) }

// start is at for the start of a process, rounded so that it is the same whoever says it.
func (c *clock) start(sinceBoot time.Duration) event.Time {
	return event.Time(time.Duration(c.at(sinceBoot)).Round(startRound))
}
