package attribute

import (
	"hash/maphash"
	"net/netip"

	"portolan/sensor/event"
)

// sighting is what is kept of a record: what it can be joined by, and whose process it names.
// It holds no pointers, so that millions cost the garbage collector nothing. The rest of the record is
// read again by its reference when a hit needs it.
type sighting struct {
	key    uint64 // seeded hash of what it is looked up by
	prev   uint64 // ordinal of the sighting before it in its bucket, 0 for none
	ref    uint64
	time   event.Time
	start  event.Time // of the process
	local  netipPort
	remote netipPort
	host   uint32
	pid    uint32
	kind   Kind
	proto  event.Proto
	named  bool // by a Community ID in place of sockets
}

// netipPort is netip.AddrPort without its pointer. The zero value stands for the unknown address;
// no one uses :: to connect.
type netipPort struct {
	addr [16]byte
	port uint16
}

func flat(a netip.AddrPort) netipPort {
	p := netipPort{port: a.Port()}
	if a.Addr().IsValid() {
		p.addr = a.Addr().As16()
	}
	return p
}

// ring keeps the newest sightings in a fixed memory. A sighting that makes room leaves its chain by
// being overwritten: chains go from new to old, and end where ordinals are no longer in the ring.
type ring struct {
	slots   []sighting // by ordinal modulo their number
	heads   []uint64   // newest ordinal of each bucket; a power of two
	next    uint64     // ordinal of the next sighting, from 1
	evicted uint64
}

const (
	sightingBytes = 88
	slotBytes     = sightingBytes + 8 // and its share of heads
)

func newRing(bytes int64) *ring {
	heads := 1
	for int64(heads)*2*slotBytes <= bytes {
		heads *= 2
	}
	n := (bytes - int64(heads)*8) / sightingBytes
	return &ring{slots: make([]sighting, n), heads: make([]uint64, heads), next: 1}
}

func (r *ring) add(s *sighting) {
	head := &r.heads[s.key&uint64(len(r.heads)-1)]
	slot := &r.slots[r.next%uint64(len(r.slots))]
	if r.next > uint64(len(r.slots)) {
		r.evicted++
	}
	*slot = *s
	slot.prev = *head
	*head = r.next
	r.next++
}

// oldest is the ordinal of the oldest sighting in the ring.
func (r *ring) oldest() uint64 {
	if n := uint64(len(r.slots)); r.next > n {
		return r.next - n
	}
	return 1
}

// maxWalk bounds how many sightings are looked at for one hit.
const maxWalk = 1 << 16

// find calls f for sightings with a key, newest first. It reports whether all were looked at.
func (r *ring) find(key uint64, f func(*sighting)) bool {
	oldest := r.oldest()
	at := r.heads[key&uint64(len(r.heads)-1)]
	for n := 0; at >= oldest && at != 0; n++ {
		if n == maxWalk {
			return false
		}
		s := &r.slots[at%uint64(len(r.slots))]
		if s.key == key {
			f(s)
		}
		at = s.prev
	}
	return true
}

// flowKey is what a connection is looked up by.
type flowKey struct {
	remote netipPort
	proto  event.Proto
}

// keys makes keys with a seed, so that nobody can make them fall together.
type keys struct{ seed maphash.Seed }

func (k keys) flow(proto event.Proto, remote netipPort) uint64 {
	return maphash.Comparable(k.seed, flowKey{remote, proto})
}

func (k keys) question(name string) uint64  { return maphash.String(k.seed, "?"+name) }
func (k keys) community(name string) uint64 { return maphash.String(k.seed, name) }

// keyOf returns the key that a record is looked up by.
func (k keys) of(r *Record) uint64 {
	switch {
	case r.Kind == Lookup:
		return k.question(r.Query)
	case !r.Remote.Addr().IsValid() || r.Remote.Port() == 0:
		return k.community(r.CommunityID)
	}
	return k.flow(r.Proto, flat(r.Remote))
}
