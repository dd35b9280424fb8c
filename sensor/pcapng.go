package sensor

import (
	"encoding/binary"
	"math"
	"math/bits"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// Block types (draft-ietf-opsawg-pcapng, section 4). All others are passed over.
const (
	sectionHeader        = 0x0a0d0d0a
	interfaceDescription = 1
	obsoletePacket       = 2
	simplePacket         = 3
	enhancedPacket       = 6
)

const (
	byteOrderMagic = 0x1a2b3c4d
	blockHeadLen   = 8       // type and total length
	blockTailLen   = 4       // total length again
	sectionLen     = 28      // of a section header without options
	maxInterfaces  = 1 << 16 // in one section
	// noLink is the link type of a packet on an interface that was never described.
	noLink decode.LinkType = math.MaxUint16
)

// pcapng reads the newer format: blocks in sections, each of which has a byte order and
// interfaces of its own.
type pcapng struct {
	order      binary.ByteOrder
	interfaces []captureInterface // of this section
}

// captureInterface is what an interface description says of the packets on it.
type captureInterface struct {
	link   decode.LinkType
	snap   uint32     // bytes; 0 means no limit
	clock  resolution // of the stamps
	offset event.Time // seconds to add to the stamps
}

func (p *pcapng) next(b []byte, f *decode.Frame) (kind, int, error) {
	if len(b) < sectionLen && (len(b) < blockHeadLen || p.order.Uint32(b) == sectionHeader) {
		return partial, 0, nil
	}
	if binary.LittleEndian.Uint32(b) == sectionHeader { // reads the same in either byte order
		return p.section(b)
	}
	typ := p.order.Uint32(b)
	n, err := blockLen(p.order.Uint32(b[4:]))
	if err != nil {
		return partial, 0, err
	}
	switch typ {
	case interfaceDescription, enhancedPacket, obsoletePacket, simplePacket:
	default:
		return other, n, nil
	}
	if n > maxRecord {
		return partial, 0, corruptf("a block of type %d with %d bytes", typ, n)
	}
	if len(b) < n {
		return partial, 0, nil
	}
	switch b := b[blockHeadLen : n-blockTailLen]; typ {
	case interfaceDescription:
		return other, n, p.describe(b)
	case simplePacket:
		return frame, n, p.simple(f, b)
	default:
		return frame, n, p.packet(f, b, typ == obsoletePacket)
	}
}

// blockLen returns the length of a block from what it says of that.
func blockLen(total uint32) (int, error) {
	if total < blockHeadLen+blockTailLen || total > math.MaxInt32 {
		return 0, corruptf("a block length of %d", total)
	}
	return int(total+3) &^ 3, nil // some writers leave the padding out of the length
}

// section reads a section header. Its byte order says how to read the length before it
// (section 4.1).
func (p *pcapng) section(b []byte) (kind, int, error) {
	order := b[blockHeadLen:]
	switch {
	case binary.LittleEndian.Uint32(order) == byteOrderMagic:
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(order) == byteOrderMagic:
		p.order = binary.BigEndian
	default:
		return partial, 0, corruptf("no byte order but % x", order[:4])
	}
	p.interfaces = p.interfaces[:0]
	n, err := blockLen(p.order.Uint32(b[4:]))
	if err == nil && n < sectionLen {
		err = corruptf("a section header of %d bytes", n-blockHeadLen-blockTailLen)
	}
	return other, n, err
}

// describe adds an interface (section 4.2).
func (p *pcapng) describe(b []byte) error {
	if len(b) < 8 {
		return corruptf("an interface description of %d bytes", len(b))
	}
	if len(p.interfaces) == maxInterfaces {
		return corruptf("more than %d interfaces", maxInterfaces)
	}
	i := captureInterface{
		link:  decode.LinkType(p.order.Uint16(b)),
		snap:  p.order.Uint32(b[4:]),
		clock: 6, // microseconds
	}
	for b = b[8:]; len(b) >= 4; {
		code, n := p.order.Uint16(b), int(p.order.Uint16(b[2:]))
		if code == 0 || 4+n > len(b) {
			break
		}
		switch v := b[4 : 4+n]; {
		case code == 9 && n >= 1: // if_tsresol
			i.clock = resolution(v[0])
		case code == 14 && n >= 8: // if_tsoffset
			i.offset = event.Time(p.order.Uint64(v))
		}
		b = b[min(4+(n+3)&^3, len(b)):]
	}
	p.interfaces = append(p.interfaces, i)
	return nil
}

// packet reads an enhanced packet (section 4.3) or an obsolete one (appendix A), which
// gives half of the interface number to a count of drops.
func (p *pcapng) packet(f *decode.Frame, b []byte, obsolete bool) error {
	if len(b) < 20 {
		return corruptf("a packet block of %d bytes", len(b))
	}
	n := p.order.Uint32(b)
	if obsolete {
		n = uint32(p.order.Uint16(b))
	}
	stamp := uint64(p.order.Uint32(b[4:]))<<32 | uint64(p.order.Uint32(b[8:]))
	captured, length := p.order.Uint32(b[12:]), p.order.Uint32(b[16:])
	if captured > maxFrame {
		return corruptf("%d captured bytes, more than %d,", captured, maxFrame)
	}
	f.Data = b[20:min(20+int(captured), len(b))]
	f.Len = frameLen(captured, length)
	f.Link, f.Time = noLink, 0
	if uint64(n) < uint64(len(p.interfaces)) {
		i := &p.interfaces[n]
		f.Link = i.link
		f.Time = addSeconds(i.clock.time(stamp), i.offset)
	}
	return nil
}

// simple reads a packet of the first interface that has neither a stamp nor a captured
// length (section 4.4).
func (p *pcapng) simple(f *decode.Frame, b []byte) error {
	if len(b) < 4 {
		return corruptf("a packet block of %d bytes", len(b))
	}
	length := p.order.Uint32(b)
	captured := min(length, uint32(len(b)-4))
	f.Link, f.Time = noLink, 0
	if len(p.interfaces) > 0 {
		i := &p.interfaces[0]
		f.Link = i.link
		if i.snap > 0 {
			captured = min(captured, i.snap)
		}
	}
	if captured > maxFrame {
		return corruptf("%d captured bytes, more than %d,", captured, maxFrame)
	}
	f.Data = b[4 : 4+captured]
	f.Len = int(length)
	return nil
}

// resolution is the length of one unit of a stamp as if_tsresol gives it: 10⁻ⁿ s, or with
// the top bit set 2⁻ⁿ s.
type resolution uint8

// time returns n units as ns; the latest time there is when they exceed it.
func (r resolution) time(n uint64) event.Time {
	e := uint(r & 0x7f)
	var hi, lo uint64
	switch {
	case r&0x80 != 0:
		hi, lo = bits.Mul64(n, 1e9)
		hi, lo = hi>>e, lo>>e|hi<<(64-e)|hi>>(e-64) // shifts of 64 and more, or below 0, give 0
	case e <= 9:
		hi, lo = bits.Mul64(n, powersOf10[9-e])
	case e-9 < uint(len(powersOf10)):
		lo = n / powersOf10[e-9]
	}
	if hi > 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return event.Time(lo)
}

// powersOf10 holds those that 64 bits can.
var powersOf10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10,
	1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// addSeconds returns t moved by s seconds; the earliest or latest time there is when the
// sum exceeds it.
func addSeconds(t, s event.Time) event.Time {
	const most = math.MaxInt64 / 1_000_000_000
	switch {
	case s == 0:
		return t
	case s > most || t > math.MaxInt64-max(s, 0)*1e9:
		return math.MaxInt64
	case s < -most:
		return math.MinInt64
	}
	return t + s*1e9 // t is not below 0
}
