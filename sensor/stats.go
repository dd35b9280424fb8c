package sensor

import (
	"reflect"
	"slices"
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
	Oversize      uint64 // frames longer than the line carries; in a capture file, than a jumbo frame
	Backward      uint64 // frames stamped more than a second before one that came earlier
	Reasons       [decode.NumReasons]uint64
	// Counters of all decoders, and what a caller's Decoder brought along. Live, Queries
	// lacks most of those over TCP, which the kernel filter drops.
	Counters    decode.Counters
	First, Last event.Time // earliest and latest stamp; 0 before the first frame

	Rings     []RingStats // live only, one for each ring
	Interface Interface   // live only
	// Counter names the counters that Interface.Lost comes from, such as "rx_dropped" or "rx_out_of_buffer of
	// mlx5_core". Live only.
	Counter string
	Gaps    []Gap         // live only: the newest, in order
	Dark    time.Duration // live only: how long all gaps lasted, the open one up to now
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
	Oversize      uint64 // frames longer than the line carries: the adapter or the kernel merged several
	Backward      uint64 // frames stamped more than a second before one that came earlier: the clock was set
	Early         uint64 // frames that came before the filter was in force, thrown away
	Reasons       [decode.NumReasons]uint64
	Counters      decode.Counters
	First, Last   event.Time // earliest and latest stamp; 0 before the first frame

	// LongestGap is the longest time between two looks at the ring, waits for frames left
	// out: what a block took to decode and hand on, with every stall of the process.
	LongestGap time.Duration

	// Turns is how often its goroutine looked at the ring, or for its interface: several times
	// a second, unless it hangs.
	Turns     uint64
	LinkDowns uint64 // times the link was found down
	Reopens   uint64 // times the socket was opened anew because its device had gone

	longest int // bytes of a frame on the line, tags included
}

const (
	backward     = event.Time(time.Second) // rings and taps deliver out of turn, but not by so much
	lineOverhead = 14 + 2*4                // Ethernet header and two VLAN tags: what a frame may be longer than the MTU
	jumbo        = 9216 + lineOverhead     // the longest frame on any Ethernet, for captures that do not tell theirs
)

// Interface holds what the network interface itself counted since Open, frames that never reached a ring.
type Interface struct {
	Dropped uint64 // rx_dropped: no buffer, longer than the MTU, or no protocol that wanted the frame
	Missed  uint64 // rx_missed_errors: the adapter had no room
	Overrun uint64 // rx_over_errors or rx_fifo_errors, whichever is more: the adapter's queue was full
	Errors  uint64 // rx_errors: bad checksums, lengths and the like
	Driver  uint64 // what the driver counts under names of its own, as "ethtool -S" shows them
	Queue   uint64 // drops of the queueing discipline, of an interface that has one on the way to us: an ifb
}

// Lost returns how many frames the interface lost. What drivers count under names of their own is mostly in the
// standard counters too, but not always: the greater of the two is nearest to the truth.
func (i Interface) Lost() uint64 {
	return i.Queue + max(i.standard(), i.Driver)
}

// standard returns what the counters say that every driver has. Some count a full queue as missed as well.
func (i Interface) standard() uint64 { return i.Dropped + max(i.Missed, i.Overrun) }

// plus returns the sums of both.
func (i Interface) plus(more Interface) Interface {
	return Interface{
		i.Dropped + more.Dropped, i.Missed + more.Missed, i.Overrun + more.Overrun, i.Errors + more.Errors,
		i.Driver + more.Driver, i.Queue + more.Queue,
	}
}

// Gap is a time without frames because the link or the interface was away, told to about a second.
type Gap struct {
	From  time.Time
	To    time.Time // zero while it lasts
	Cause string    // GapLink or GapInterface
}

// The causes of a Gap.
const (
	GapLink      = "link down"
	GapInterface = "interface gone"
)

// Gone reports whether the interface is not there, and waited for.
func (s *Stats) Gone() bool {
	n := len(s.Gaps)
	return n > 0 && s.Gaps[n-1].To.IsZero() && s.Gaps[n-1].Cause == GapInterface
}

// maxGaps bounds the gaps in Stats; the oldest make room.
const maxGaps = 64

// count adds a frame that ended in reason r.
func (s *RingStats) count(f *decode.Frame, r decode.Reason) {
	if s.Frames == 0 {
		s.First, s.Last = f.Time, f.Time
	}
	if f.Time < s.Last-backward {
		s.Backward++
	}
	if f.Len > s.longest {
		s.Oversize++
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

// Add adds what another sensor counted.
func (s *Stats) Add(o *Stats) {
	sum := RingStats{
		Frames: o.Frames, Bytes: o.Bytes, CapturedBytes: o.CapturedBytes, Truncated: o.Truncated, Oversize: o.Oversize,
		Backward: o.Backward, Reasons: o.Reasons, Counters: o.Counters, First: o.First, Last: o.Last,
	}
	s.add(&sum)
	s.Rings = append(slices.Clone(s.Rings), o.Rings...)
	s.Prefilter.Add(&o.Prefilter)
	s.Interface = s.Interface.plus(o.Interface)
	if s.Counter == "" || o.Interface.Lost() > 0 {
		s.Counter = o.Counter
	}
	s.Gaps = append(slices.Clone(s.Gaps), o.Gaps...)
	s.Dark += o.Dark
	if o.Incomplete != "" {
		s.Incomplete = o.Incomplete
	}
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
	s.Oversize += r.Oversize
	s.Backward += r.Backward
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
