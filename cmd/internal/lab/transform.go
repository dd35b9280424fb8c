package lab

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

// The arithmetic of the implants, forwards, as DETECTION sections 1 to 3 give it. It shares no code
// with the sensor on purpose: what one of the two gets wrong the other does not repeat.

// Keys of the implants that XOR.
const (
	addressKey = 0xE7708E59 // A3
	textKey    = 0xCAFEBABE // TXT-XOR
)

func toWord(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromWord(x uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, x)))
}

// mulAdd is P1: a·b+c, of which a port keeps 16 bits; a·b+c is 65280 at most.
func mulAdd(a netip.Addr) uint16 {
	o := a.As4()
	return uint16(o[0])*uint16(o[1]) + uint16(o[2])
}

// halfSwap is A1: a.b.c.d becomes c.d.a.b.
func halfSwap(a netip.Addr) netip.Addr { return fromWord(bits.RotateLeft32(toWord(a), 16)) }

// xorKnown is A3.
func xorKnown(a netip.Addr) netip.Addr { return fromWord(toWord(a) ^ addressKey) }

// reversed is A6: a.b.c.d becomes d.c.b.a.
func reversed(a netip.Addr) netip.Addr { return fromWord(bits.ReverseBytes32(toWord(a))) }

// The constants of Nymaim's 16 rounds.
const (
	nymaimRounds = 16
	nymaimFirst  = 0x87568289
	nymaimMinus  = 0x78643587
	nymaimLast   = 0x18482642
)

// nymaimWord is A4 on the little-endian word of an address.
func nymaimWord(v uint32) uint32 {
	for range nymaimRounds {
		v = (v ^ nymaimFirst) - nymaimMinus ^ nymaimLast
	}
	return v
}

// nymaimAnswer undoes nymaimWord: who runs the DNS server needs it for the checksum record.
func nymaimAnswer(v uint32) uint32 {
	for range nymaimRounds {
		v = (v ^ nymaimLast) + nymaimMinus ^ nymaimFirst
	}
	return v
}

func toLittle(a netip.Addr) uint32   { return bits.ReverseBytes32(toWord(a)) }
func fromLittle(v uint32) netip.Addr { return fromWord(bits.ReverseBytes32(v)) }

// nymaim is A4.
func nymaim(a netip.Addr) netip.Addr { return fromLittle(nymaimWord(toLittle(a))) }

// nymaimChecksum returns the record which, added to others, makes them an RRset that the implant takes:
// its transform is the sum of theirs.
func nymaimChecksum(others []netip.Addr) netip.Addr {
	var sum uint32
	for _, a := range others {
		sum += nymaimWord(toLittle(a))
	}
	return fromLittle(nymaimAnswer(sum))
}

// nymaimContacts returns the records of an RRset that are not its checksum, nil if it has none.
func nymaimContacts(set []netip.Addr) []netip.Addr {
	for i := range set {
		others := append(append([]netip.Addr(nil), set[:i]...), set[i+1:]...)
		if nymaimChecksum(others) == set[i] {
			return others
		}
	}
	return nil
}

// textOf writes an address as the TXT-XOR implant's operator does.
func textOf(a netip.Addr) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, toWord(a)^textKey))
}

// fromText is TXT-XOR: four bytes in base64, XOR a key.
func fromText(s string) (netip.Addr, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read TXT %q: %w", s, err)
	}
	if len(b) != 4 {
		return netip.Addr{}, fmt.Errorf("read TXT %q: %d bytes, want 4", s, len(b))
	}
	return fromWord(binary.BigEndian.Uint32(b) ^ textKey), nil
}

// calculated reports whether one of the formulas of DETECTION section 3 without a learned constant gives port
// from a: by P1 to P12, W, X, M or their bytes swapped. The plan keeps such accidents away from unusual ports
// of innocent services; usual ports have them as on any network.
func calculated(addr netip.Addr, port uint16) bool {
	o, x := addr.As4(), toWord(addr)
	a, b, c, d := uint32(o[0]), uint32(o[1]), uint32(o[2]), uint32(o[3])
	for _, f := range []uint32{
		a*b + c, a * (b + c), (a + b) * c, a*c + b, b*c + a, b*c + d,
		c*d + a, c*d + b, a*b + c + d, a*b + c*d, a * b * c, a * b,
		a<<8 | b, b<<8 | a, c<<8 | d, d<<8 | c, b<<8 | c, c<<8 | b,
		x>>16 ^ x&0xffff, x>>16 + x&0xffff,
		1024 + x%64512, 1024 + bits.ReverseBytes32(x)%64512, x % 65535,
	} {
		if p := uint16(f); p == port || bits.ReverseBytes16(p) == port {
			return true
		}
	}
	return false
}
