package decode

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// endpoints are the two ends of a packet: the addresses as they stand in its IP header,
// source then destination, 8 bytes for IPv4 and 32 for IPv6, and the ports.
type endpoints struct {
	addrs    []byte // aliases the frame
	src, dst uint16
}

// half is the length of one address.
func (e endpoints) half() int { return len(e.addrs) / 2 }

// ordered reports whether the source comes before the destination.
func (e endpoints) ordered() bool {
	c := bytes.Compare(e.addrs[:e.half()], e.addrs[e.half():])
	return c < 0 || c == 0 && e.src <= e.dst
}

// maxKey is the length of a key: zone, two ports, two IPv6 addresses.
const maxKey = 8 + 4 + 32

// hash returns the seeded hash of the zone and e from source to destination, or from
// destination to source. It is never 0, which marks empty places in tables.
func (d *Decoder) hash(e endpoints, reverse bool) uint64 {
	var k [maxKey]byte
	binary.LittleEndian.PutUint64(k[:], d.zoneKey)
	if !reverse {
		binary.LittleEndian.PutUint32(k[8:], uint32(e.src)<<16|uint32(e.dst))
		copy(k[12:], e.addrs)
	} else {
		binary.LittleEndian.PutUint32(k[8:], uint32(e.dst)<<16|uint32(e.src))
		copy(k[12:], e.addrs[e.half():])
		copy(k[12+e.half():], e.addrs[:e.half()])
	}
	return nonZero(maphash.Bytes(d.seed, k[:12+len(e.addrs)]))
}

// hashFragment returns the seeded hash of what the fragments of one datagram have in
// common: zone, addresses, identification, and in IPv4 the protocol (RFC 791, section 3.2;
// RFC 8200, section 4.5).
func (d *Decoder) hashFragment(addrs []byte, id uint32, proto uint8) uint64 {
	var k [maxKey + 1]byte
	binary.LittleEndian.PutUint64(k[:], d.zoneKey)
	binary.LittleEndian.PutUint32(k[8:], id)
	k[12] = proto
	copy(k[13:], addrs)
	return nonZero(maphash.Bytes(d.seed, k[:13+len(addrs)]))
}

func nonZero(h uint64) uint64 {
	if h == 0 {
		return 1
	}
	return h
}
