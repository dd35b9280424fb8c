package decode

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// endpoints are the two ends of a packet: the addresses as they stand in its IP header,
// source then destination, 8 bytes for IPv4 and 32 for IPv6, and the ports.
type endpoints struct {
	addrs    []byte // aliases the frame
	src, dst uint16
}

// keys make hashes that nobody outside can predict. A hash multiplies words that keys were
// mixed into, two by two, to 128 bits of which both halves count: the construction of wyhash,
// as Go's maps use it on processors without AES. For a few words it takes a third of the
// time of hash/maphash.
type keys [5]uint64

// newKeys returns keys that were never used before.
func newKeys() (k keys) {
	var b [8 * len(k)]byte
	_, _ = rand.Read(b[:]) // never fails
	for i := range k {
		k[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return k
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// hash returns the hash of the zone and e from source to destination, or from destination
// to source. It is never 0, which marks empty places in tables.
func (d *Decoder) hash(e endpoints, reverse bool) uint64 {
	ports := uint64(e.src)<<16 | uint64(e.dst)
	if reverse {
		ports = uint64(e.dst)<<16 | uint64(e.src)
	}
	return d.hashAddrs(e.addrs, reverse, ports)
}

// hashFlow is hash in that direction which the two ends' datagrams have in common.
func (d *Decoder) hashFlow(e endpoints) uint64 {
	a := e.addrs
	var src, dst uint64
	if len(a) == 8 {
		src, dst = uint64(binary.BigEndian.Uint32(a)), uint64(binary.BigEndian.Uint32(a[4:]))
	} else if src, dst = binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(a[24:]); src == dst {
		src, dst = binary.BigEndian.Uint64(a), binary.BigEndian.Uint64(a[16:])
	}
	return d.hash(e, src > dst || src == dst && e.src > e.dst)
}

// hashFragment returns the hash of what the fragments of one datagram have in common: zone,
// addresses, identification, and in IPv4 the protocol (RFC 791, section 3.2; RFC 8200,
// section 4.5).
func (d *Decoder) hashFragment(addrs []byte, id uint32, proto uint8) uint64 {
	return d.hashAddrs(addrs, false, uint64(proto)<<32|uint64(id))
}

// hashAddrs hashes the zone, the addresses, reversed or not, and a word.
func (d *Decoder) hashAddrs(addrs []byte, reverse bool, word uint64) uint64 {
	k := &d.keys
	var h uint64
	if len(addrs) == 8 {
		a := binary.LittleEndian.Uint64(addrs)
		if reverse {
			a = bits.RotateLeft64(a, 32)
		}
		h = mix(a^k[0], word^k[1])
		h = mix(h^k[2], d.zoneKey^k[3])
	} else {
		b := addrs[:32] // one bounds check for the reads below
		s0, s1 := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		d0, d1 := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
		if reverse {
			s0, s1, d0, d1 = d0, d1, s0, s1
		}
		h = mix(mix(s0^k[0], s1^k[1])^word^k[4], mix(d0^k[2], d1^k[3])^d.zoneKey)
	}
	if h == 0 {
		return 1
	}
	return h
}
