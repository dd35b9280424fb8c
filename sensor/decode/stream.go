package decode

import (
	"encoding/binary"
	"time"

	"portolan/sensor/event"
)

// What bounds the wait for DNS over TCP (RFC 7766, section 8: a length of two bytes in
// front of each message).
const (
	// streamWindow is how long a silent stream is worth keeping.
	streamWindow = event.Time(120 * time.Second)
	// streamReach is how far from where a stream stands, in bytes, a segment can belong to it.
	streamReach = 1 << 20
	// patience is how long a lost segment may still come: a few retransmissions.
	patience = event.Time(3 * time.Second)
	// patientBlocks is how many blocks may wait behind a hole.
	patientBlocks = 48
)

// segment is a TCP segment from port 53.
type segment struct {
	endpoints
	seq  uint32
	syn  bool
	data []byte
	lost int // bytes after data that are on the wire and not here
}

// segment adds a segment to the stream of its connection and hands on the messages that it
// completes. A stream whose beginning was not seen, or that lost a segment, is picked up
// where a segment begins with what looks like a response.
func (d *Decoder) segment(s *segment) Reason {
	h := d.hash(s.endpoints, false)
	a := d.streams.get(h)
	if a == nil {
		a = d.streams.add(h, d.now)
		a.base, a.synced = s.seq, false
	}
	a.at = d.now
	if s.syn {
		s.seq++
		if a.base-s.seq >= streamReach || !a.synced { // else the SYN comes again
			d.restart(a, s.seq, true)
		}
		if len(s.data) == 0 {
			return NotOpening
		}
	}
	at := int32(s.seq - a.base)
	if at > streamReach || at < -streamReach || at > 0 && !a.synced && a.blocks == 0 {
		d.restart(a, s.seq, false)
		at = 0
	}
	if int(at)+len(s.data) <= 0 {
		return StreamOld
	}
	if at < 0 {
		s.seq, s.data, at = a.base, s.data[-at:], 0
	}
	if at == 0 && a.blocks == 0 {
		return d.inOrder(a, s)
	}
	if !d.hold(a, s) {
		return StreamUnsynced
	}
	return d.drain(a, s.endpoints)
}

// restart makes a begin at base, where a message starts if synced.
func (d *Decoder) restart(a *assembly, base uint32, synced bool) {
	if a.blocks > 0 {
		d.counters.StreamHoles++
	}
	d.streams.clear(a)
	a.base, a.synced, a.stuck, a.xfers = base, synced, 0, false
}

// hold stores what of s is not there yet. Without room the stream starts anew after it.
func (d *Decoder) hold(a *assembly, s *segment) bool {
	if d.streams.insert(a, piece{seq: s.seq, data: s.data, at: d.now, frame: d.number}) {
		return true
	}
	d.counters.StreamsCut++
	d.restart(a, s.seq+uint32(len(s.data)+s.lost), false)
	return false
}

// inOrder takes messages straight from a segment that is the next of its stream while
// nothing is held, and holds what is left of it.
func (d *Decoder) inOrder(a *assembly, s *segment) Reason {
	r := StreamHeld
	b := s.data
	for len(b) > 0 {
		n, v := message(b, a.synced)
		if v == implausible {
			a.synced = false
			a.base = s.seq + uint32(len(s.data)+s.lost)
			if r == StreamHeld {
				r = StreamUnsynced
			}
			return r
		}
		if v == undecided || n > len(b) {
			break
		}
		a.synced = true
		r = worth(r, d.response(&response{b[2:n], s.endpoints, event.TCP, d.now, d.number, a}))
		b = b[n:]
	}
	a.base = s.seq + uint32(len(s.data)-len(b))
	switch {
	case s.lost > 0:
		return worth(r, d.cutMessage(a, s, b))
	case len(b) > 0:
		s.seq, s.data = a.base, b
		d.hold(a, s)
	}
	return r
}

// cutMessage decodes b, the beginning of a message whose rest the capture length cut off.
// Its length says where the next one starts, if that was not cut off too.
func (d *Decoder) cutMessage(a *assembly, s *segment, b []byte) Reason {
	n, v := message(b, a.synced)
	end := a.base + uint32(len(b)+s.lost)
	if v != plausible {
		a.base, a.synced = end, false
		return Truncated
	}
	r := Truncated
	if len(b) > 2 {
		r = worth(r, d.response(&response{b[2:], s.endpoints, event.TCP, d.now, d.number, a}))
	}
	a.base += uint32(n)
	if int32(end-a.base) > 0 {
		a.base, a.synced = end, false
	}
	return r
}

// worth returns which of two reasons of one frame to report: an event before all others,
// then what was found wrong, then that something is still held.
func worth(r, s Reason) Reason {
	if r == Event || s == StreamHeld {
		return r
	}
	return s
}

// drain hands on the messages that a holds whole, and gives up a hole for lost when it has
// lasted too long.
func (d *Decoder) drain(a *assembly, e endpoints) Reason {
	t := &d.streams
	r, skipped := StreamHeld, false
	for a.blocks > 0 {
		run := t.pool.run(a.head, a.base)
		if run > 0 {
			var h [2 + 8]byte
			k, _, _ := t.pool.whole(a.head, a.base, h[:])
			n, v := message(h[:k], a.synced)
			if v == implausible {
				a.synced = false
				a.base = t.pool.blocks[a.head].end()
				t.advance(a)
				r = worth(r, StreamUnsynced)
				continue
			}
			if v == plausible && run >= n {
				_, at, frame := t.pool.whole(a.head, a.base, d.message[:n])
				if !skipped {
					at, frame = d.now, d.number // TCP hands on what follows a hole once it is filled
				}
				a.base += uint32(n)
				t.advance(a)
				a.synced, a.stuck = true, 0
				r = worth(r, d.response(&response{d.message[2:n], e, event.TCP, at, frame, a}))
				continue
			}
		}
		if spent := max(0, int32(a.base-t.pool.blocks[a.head].seq)); run == int(a.held-spent) {
			a.stuck = 0
			break // no hole: the rest of the message is on its way
		}
		switch {
		case run == 0 && !a.synced:
			// Between two segments that do not hold the start of a message there is nothing to wait for.
		case a.stuck == 0:
			a.stuck = d.now
			return r
		case d.now-a.stuck <= patience && a.blocks <= patientBlocks:
			return r
		default:
			d.counters.StreamHoles++
			skipped = true // lost to the mirror alone: the client had it long ago
		}
		a.base += uint32(run)
		t.advance(a)
		if a.blocks > 0 {
			a.base = t.pool.blocks[a.head].seq
		}
		a.synced, a.stuck = false, 0
	}
	return r
}

// A verdict says what message thinks of the beginning of a message.
type verdict uint8

const (
	plausible verdict = iota
	undecided         // too few bytes
	implausible
)

// message returns the length of the message that b begins with, its own two bytes of
// length included. Unless the stream is known to stand at the start of one, the header has
// to look like that of a response: QR set, an opcode in use, Z clear, at most one question.
func message(b []byte, synced bool) (int, verdict) {
	if len(b) < 2 {
		return 0, undecided
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	switch {
	case n < 2+dnsHeader:
		return 0, implausible
	case synced:
		return n, plausible
	case len(b) < 2+6:
		return 0, undecided
	case b[4]&0x80 == 0 || b[4]>>3&0x0f > 6 || b[5]&0x40 != 0 || b[6] != 0 || b[7] > 1:
		return 0, implausible
	}
	return n, plausible
}
