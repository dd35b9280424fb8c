package decode

import (
	"math/bits"
	"time"

	"portolan/sensor/event"
)

// ways is how many places a hash has to go to. Eight tags fill one cache line.
const ways = 8

// repeatWindow is how long the same four-tuple and sequence number is the same connection,
// and idleWindow how long a UDP flow may be silent before its next datagram starts another
// (DESIGN, section 3, rules 5 and 7).
const (
	repeatWindow event.Time = event.Time(120 * time.Second)
	idleWindow   event.Time = event.Time(60 * time.Second)
	// copyWindow is shorter than any host waits before it sends a SYN again: a second (RFC 6298, section 2.1), and
	// longer than a mirror takes to deliver a copy.
	copyWindow event.Time = event.Time(100 * time.Millisecond)
)

// A bucket names its entries by the whole of a seeded 64-bit hash over zone and endpoints:
// two flows share a tag once in 2^64 pairs, and nobody outside can choose which. Times can
// go backwards, a little between rings and without limit in a hostile file, so an entry
// keeps its newest time unless the clock went back by more than the window.

// start is what is remembered of a TCP connection.
type start struct {
	at  event.Time
	seq uint32
}

// startBucket has its tags in one cache line and each start in one: of its three, two are
// touched to find an entry.
type startBucket struct {
	tag   [ways]uint64
	start [ways]start
}

// starts remembers TCP connections that were reported.
type starts struct {
	buckets []startBucket
	evicted *uint64
	copies  *uint64
}

func newStarts(entries int, evicted, copies *uint64) starts {
	return starts{buckets: make([]startBucket, buckets(entries)), evicted: evicted, copies: copies}
}

// buckets returns the power of two of buckets that hold at least so many entries.
func buckets(entries int) int { return 1 << bits.Len(uint((entries-1)/ways)) }

// find returns where h is among tags, or ways.
func find(tags *[ways]uint64, h uint64) int {
	for i := range tags {
		if tags[i] == h {
			return i
		}
	}
	return ways
}

// slot returns the place of h in its bucket, and whether h was there. If it was not, the
// place is h's from now on.
func (t *starts) slot(h uint64, now event.Time) (s *start, found bool) {
	b := &t.buckets[h&uint64(len(t.buckets)-1)]
	if i := find(&b.tag, h); i < ways {
		return &b.start[i], true
	}
	return b.room(h, now, t.evicted), false
}

// room gives h an empty place, else the oldest one.
func (b *startBucket) room(h uint64, now event.Time, evicted *uint64) *start {
	i := find(&b.tag, 0)
	if i == ways {
		i = 0
		for j := range b.start {
			if b.start[j].at < b.start[i].at {
				i = j
			}
		}
		if now-b.start[i].at <= repeatWindow {
			*evicted++
		}
	}
	b.tag[i] = h
	return &b.start[i]
}

// syn records a SYN and reports whether it starts a connection.
func (t *starts) syn(h uint64, now event.Time, seq uint32) bool {
	s, found := t.slot(h, now)
	if !found {
		s.at, s.seq = now, seq
		return true
	}
	age := now - s.at
	repeat := s.seq == seq && age <= repeatWindow
	if repeat && age <= copyWindow && age >= -copyWindow {
		*t.copies++
	}
	if age >= 0 || age < -repeatWindow {
		s.at, s.seq = now, seq
	}
	return !repeat
}

// synack records a SYN+ACK that acknowledges ack and reports whether it starts a
// connection: its SYN was not seen. The SYN may still come, from a ring that is behind;
// then it carries the number before ack.
func (t *starts) synack(h uint64, now event.Time, ack uint32) bool {
	s, found := t.slot(h, now)
	age := now - s.at
	if found && age <= repeatWindow {
		if age < -repeatWindow {
			s.at = now
		}
		return false
	}
	s.at, s.seq = now, ack-1
	return true
}

type flowBucket struct {
	tag [ways]uint64
	at  [ways]event.Time
}

// flows remembers UDP flows, both directions of which have one entry.
type flows struct {
	buckets []flowBucket
	evicted *uint64
}

func newFlows(entries int, evicted *uint64) flows {
	return flows{buckets: make([]flowBucket, buckets(entries)), evicted: evicted}
}

// datagram records a datagram and reports whether it starts a flow.
func (t *flows) datagram(h uint64, now event.Time) bool {
	b := &t.buckets[h&uint64(len(t.buckets)-1)]
	i := find(&b.tag, h)
	if i == ways {
		b.at[b.room(h, now, t.evicted)] = now
		return true
	}
	age := now - b.at[i]
	if age >= 0 || age < -idleWindow {
		b.at[i] = now
	}
	return age > idleWindow
}

// room gives h an empty place, else the oldest one.
func (b *flowBucket) room(h uint64, now event.Time, evicted *uint64) int {
	i := find(&b.tag, 0)
	if i == ways {
		i = 0
		for j := range b.at {
			if b.at[j] < b.at[i] {
				i = j
			}
		}
		if now-b.at[i] <= idleWindow {
			*evicted++
		}
	}
	b.tag[i] = h
	return i
}
