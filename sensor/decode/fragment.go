package decode

import (
	"time"

	"portolan/sensor/event"
)

// fragmentWindow is how long the fragments of a datagram may take (RFC 8200, section 4.5).
const fragmentWindow = event.Time(60 * time.Second)

// fragment is what an IP header says of a piece of a datagram.
type fragment struct {
	hash   uint64
	offset int // bytes
	more   bool
	proto  uint8 // of the datagram; in IPv6 only the first fragment's word counts
}

// reassemble returns the datagram that f completes, in d.datagram, and the protocol of its
// payload; p's addresses move when they were there. Else it returns nil and what became of f. Where pieces overlap, the bytes that
// came first count. A piece cut by the capture length can never be completed: the first
// one is returned as it is, as ports and perhaps more can be read from it.
func (d *Decoder) reassemble(f fragment, b []byte, p *packet) (whole []byte, proto uint8, r Reason) {
	if p.lost > 0 {
		if f.offset == 0 && len(b) > 0 {
			return b, f.proto, Event
		}
		return nil, 0, FragmentDropped
	}
	if len(b) == 0 || f.offset+len(b) > maxMessage {
		return nil, 0, FragmentDropped
	}
	t := &d.fragments
	a := t.get(f.hash)
	if a != nil {
		if age := d.now - a.at; age > fragmentWindow || age < -fragmentWindow {
			d.counters.FragmentsExpired++
			t.drop(a)
			a = nil
		}
	}
	if a == nil {
		a = t.add(f.hash, d.now)
	}
	if f.offset == 0 && a.proto == 0 {
		a.proto = f.proto
	}
	if !f.more && a.total < 0 {
		a.total = int32(f.offset + len(b))
	}
	had := a.held
	if !t.insert(a, piece{seq: uint32(f.offset), data: b, at: d.now, frame: d.number}) {
		d.counters.FragmentsEvicted++
		t.drop(a)
		return nil, 0, FragmentDropped
	}
	switch {
	case a.total >= 0 && a.held >= a.total:
		p.addrs = d.addrs[:copy(d.addrs[:], p.addrs)] // this may be a fragment inside of what was put together
		n, _, _ := t.pool.whole(a.head, 0, d.datagram[:a.total])
		if n < int(a.total) { // pieces beyond the last one count in held
			return nil, 0, FragmentHeld
		}
		proto = a.proto
		t.drop(a)
		d.counters.Reassembled++
		return d.datagram[:n], proto, Event
	case a.held == had:
		return nil, 0, FragmentDropped
	}
	return nil, 0, FragmentHeld
}
