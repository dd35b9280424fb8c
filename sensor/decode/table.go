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
)

// A bucket names its entries by the whole of a seeded 64-bit hash over zone and endpoints:
// two flows share a tag once in 2^64 pairs, and nobody outside can choose which. Times can
// go backwards, a little between rings and without limit in a hostile file, so an entry
// keeps its newest time unless the clock went back by more than the window.

type startBucket struct {
	tag [ways]uint64
	at  [ways]event.Time
	seq [ways]uint32
	_   [ways]uint32 // so that the tags of every bucket fill one cache line, and not parts of two
}

// starts remembers TCP connections that were reported.
type starts struct {
	buckets []startBucket
	evicted *uint64
}

func newStarts(entries int, evicted *uint64) starts {
	return starts{buckets: make([]startBucket, buckets(entries)), evicted: evicted}
}

// buckets returns the power of two of buckets that hold at least so many entries.
func buckets(entries int) int { return 1 << bits.Len(uint((entries-1)/ways)) }

// slot returns the place of h in its bucket, and whether h was there. If it was not, the
// place is h's from now on.
func (t *starts) slot(h uint64, now event.Time) (b *startBucket, i int, found bool) {
	b = &t.buckets[h&uint64(len(t.buckets)-1)]
	i, found = locate(&b.tag, &b.at, h, now, repeatWindow, t.evicted)
	return b, i, found
}

// locate finds tag h, or makes room for it: an empty place, else the oldest one.
func locate(tags *[ways]uint64, at *[ways]event.Time, h uint64, now, window event.Time, evicted *uint64) (int, bool) {
	for i := range tags {
		if tags[i] == h {
			return i, true
		}
	}
	oldest := 0
	for i := range tags {
		if tags[i] == 0 {
			oldest = i
			break
		}
		if at[i] < at[oldest] {
			oldest = i
		}
	}
	if tags[oldest] != 0 && now-at[oldest] <= window {
		*evicted++
	}
	tags[oldest] = h
	return oldest, false
}

// syn records a SYN and reports whether it starts a connection.
func (t *starts) syn(h uint64, now event.Time, seq uint32) bool {
	b, i, found := t.slot(h, now)
	if !found {
		b.at[i], b.seq[i] = now, seq
		return true
	}
	age := now - b.at[i]
	repeat := b.seq[i] == seq && age <= repeatWindow
	if age >= 0 || age < -repeatWindow {
		b.at[i], b.seq[i] = now, seq
	}
	return !repeat
}

// synack records a SYN+ACK that acknowledges ack and reports whether it starts a
// connection: its SYN was not seen. The SYN may still come, from a ring that is behind;
// then it carries the number before ack.
func (t *starts) synack(h uint64, now event.Time, ack uint32) bool {
	b, i, found := t.slot(h, now)
	age := now - b.at[i]
	if found && age <= repeatWindow {
		if age < -repeatWindow {
			b.at[i] = now
		}
		return false
	}
	b.at[i], b.seq[i] = now, ack-1
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
	i, found := locate(&b.tag, &b.at, h, now, idleWindow, t.evicted)
	age := now - b.at[i]
	if !found || age >= 0 || age < -idleWindow {
		b.at[i] = now
	}
	return !found || age > idleWindow
}
