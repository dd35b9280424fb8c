package sensor

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// pcap reads the classic format (draft-ietf-opsawg-pcap), of either byte order, with
// stamps in microseconds or nanoseconds, and its variant with longer record headers.
type pcap struct {
	big    bool       // the most significant byte comes first
	unit   event.Time // ns in one unit of the stamp's fraction
	record int        // bytes of a record's header
	link   decode.LinkType
}

const (
	pcapHeaderLen   = 24
	pcapRecordLen   = 16
	pcapModifiedLen = 24 // also interface index, EtherType, packet type, padding
)

// newPcap reads the header of a file, of which b may be a beginning of at least four bytes.
func newPcap(b []byte) (*pcap, error) {
	p := &pcap{unit: 1000, record: pcapRecordLen}
	for _, p.big = range []bool{false, true} {
		switch p.word(b) {
		case 0xa1b2c3d4:
		case 0xa1b23c4d:
			p.unit = 1
		case 0xa1b2cd34:
			p.record = pcapModifiedLen
		default:
			continue
		}
		// The upper half of the field tells of checksums that frames may end with. The snap
		// length is not worth reading: records longer than it say do occur.
		if len(b) >= pcapHeaderLen {
			p.link = decode.LinkType(p.word(b[20:]))
		}
		return p, nil
	}
	return nil, fmt.Errorf("%w: it begins with % x", ErrNotCapture, b[:4])
}

// word reads four bytes. It is worth more than binary.ByteOrder, whose methods are called through a table.
func (p *pcap) word(b []byte) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if p.big {
		v = bits.ReverseBytes32(v)
	}
	return v
}

func (p *pcap) next(b []byte, f *decode.Frame) (kind, int, error) {
	if len(b) < p.record {
		return partial, 0, nil
	}
	captured, length := p.word(b[8:]), p.word(b[12:])
	if captured > maxFrame {
		return partial, 0, corruptf("%d captured bytes, more than %d,", captured, maxFrame)
	}
	end := p.record + int(captured)
	if len(b) < end {
		return partial, 0, nil
	}
	f.Data = b[p.record:end:end]
	f.Time = event.Time(p.word(b[0:]))*1e9 + event.Time(p.word(b[4:]))*p.unit
	f.Len = frameLen(captured, length)
	f.Link = p.link
	return frame, end, nil
}

// frameLen returns the length on the wire: what the file says, but not less than what it holds.
func frameLen(captured, length uint32) int { return int(max(captured, length)) }
