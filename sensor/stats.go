package sensor

import (
	"reflect"
	"time"

	"portolan/bpffilter"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// StatsDelay is how old the kernel's counts of a ring may be in Stats.
const StatsDelay = 250 * time.Millisecond

// Stats says what became of the frames of a capture file or of a live sensor. The reasons
// add up to the frames.
type Stats struct {
	Frames        uint64 // handed to a decoder
	Bytes         uint64 // on the wire, of these frames
	CapturedBytes uint64 // captured, of these frames
	Truncated     uint64 // frames of which less was captured than was on the wire
	Reasons       [decode.NumReasons]uint64
	// Counters of all decoders, and what a caller's Decoder brought along. Live, Queries
	// lacks most of those over TCP, which the kernel filter drops.
	Counters    decode.Counters
	First, Last event.Time // earliest and latest stamp; 0 before the first frame

	Rings     []RingStats // live only, one for each ring
	Interface Interface   // live only
	// Prefilter is what an eBPF prefilter saw, by class: with XDP all frames of the interface
	// but those that this host sends. Live only; zero without one.
	Prefilter bpffilter.Counts

	// Incomplete says why a capture file ended early, and where; "" when it was whole.
	Incomplete string
}

// RingStats are the counts of one ring since Open. All are 64-bit, whatever the kernel's
// own counters hold.
type RingStats struct {
	Received uint64 // frames that the kernel filter passed and the ring took
	Dropped  uint64 // frames that the kernel filter passed and the ring had no room for
	Frozen   uint64 // times that the ring was full and the kernel stopped filling it

	Frames        uint64 // handed to the ring's decoder
	Bytes         uint64 // on the wire, of these frames
	CapturedBytes uint64 // captured, of these frames
	Truncated     uint64 // frames of which less was captured than was on the wire
	Early         uint64 // frames that came before the filter was in force, thrown away
	Reasons       [decode.NumReasons]uint64
	Counters      decode.Counters
	First, Last   event.Time // earliest and latest stamp; 0 before the first frame

	// LongestGap is the longest time between two looks at the ring, waits for frames left
	// out: what a block took to decode and hand on, with every stall of the process.
	LongestGap time.Duration

	LinkDowns uint64 // times the link was found down
	Reopens   uint64 // times the socket was opened anew because its device had gone
}

// Interface holds what the network interface itself counted since Open, frames that never reached a ring.
type Interface struct {
	Dropped uint64 // rx_dropped: no buffer, or no protocol that wanted the frame
	Missed  uint64 // rx_missed_errors: the adapter had no room
	Errors  uint64 // rx_errors: bad checksums, lengths and the like
}

// count adds a frame that ended in reason r.
func (s *RingStats) count(f *decode.Frame, r decode.Reason) {
	if s.Frames == 0 {
		s.First, s.Last = f.Time, f.Time
	}
	s.First, s.Last = min(s.First, f.Time), max(s.Last, f.Time)
	s.Frames++
	s.Bytes += uint64(f.Len)
	s.CapturedBytes += uint64(len(f.Data))
	if len(f.Data) < f.Len {
		s.Truncated++
	}
	s.Reasons[r]++
}

// add adds what one ring, or one file, counted.
func (s *Stats) add(r *RingStats) {
	addCounts(reflect.ValueOf(&s.Counters).Elem(), reflect.ValueOf(&r.Counters).Elem())
	if r.Frames == 0 {
		return
	}
	if s.Frames == 0 {
		s.First, s.Last = r.First, r.Last
	}
	s.First, s.Last = min(s.First, r.First), max(s.Last, r.Last)
	s.Frames += r.Frames
	s.Bytes += r.Bytes
	s.CapturedBytes += r.CapturedBytes
	s.Truncated += r.Truncated
	for i, n := range r.Reasons {
		s.Reasons[i] += n
	}
}

// addCounts adds the fields of decode.Counters, each a uint64 or an array of them: there will be more than
// anyone would keep in step here.
func addCounts(to, from reflect.Value) {
	switch to.Kind() {
	case reflect.Struct:
		for i := range to.NumField() {
			addCounts(to.Field(i), from.Field(i))
		}
	case reflect.Array:
		for i := range to.Len() {
			addCounts(to.Index(i), from.Index(i))
		}
	default:
		to.SetUint(to.Uint() + from.Uint())
	}
}
