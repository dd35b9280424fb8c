package sensor

import (
	"encoding/binary"
	"fmt"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// pcap reads the classic format (draft-ietf-opsawg-pcap), of either byte order, with
// stamps in microseconds or nanoseconds, and its variant with longer record headers.
type pcap struct {
	*stream
	order  binary.ByteOrder
	unit   event.Time // ns in one unit of the stamp's fraction
	record int        // bytes of a record's header
	link   decode.LinkType
}

const (
	pcapHeaderLen   = 24
	pcapRecordLen   = 16
	pcapModifiedLen = 24 // also interface index, EtherType, packet type, padding
)

func newPcap(s *stream) (*pcap, error) {
	h, err := s.peek(pcapHeaderLen)
	if len(h) < 4 {
		return nil, err
	}
	p := &pcap{stream: s, unit: 1000, record: pcapRecordLen}
	for _, p.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch p.order.Uint32(h) {
		case 0xa1b2c3d4:
		case 0xa1b23c4d:
			p.unit = 1
		case 0xa1b2cd34:
			p.record = pcapModifiedLen
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		// The upper half of the field tells of checksums that frames may end with. The snap
		// length is not worth reading: records longer than it say do occur.
		p.link = decode.LinkType(p.order.Uint32(h[20:]))
		return p, s.skip(pcapHeaderLen)
	}
	return nil, fmt.Errorf("%w: it begins with % x", ErrNotCapture, h[:4])
}

func (p *pcap) next(f *decode.Frame) error {
	h, err := p.begin(p.record)
	if err != nil {
		return err
	}
	sec, frac := p.order.Uint32(h[0:]), p.order.Uint32(h[4:])
	captured, length := p.order.Uint32(h[8:]), p.order.Uint32(h[12:])
	if captured > maxFrame {
		return corruptf("%d captured bytes, more than %d,", captured, maxFrame)
	}
	if f.Data, err = p.take(int(captured)); err != nil {
		return err
	}
	f.Time = event.Time(sec)*1e9 + event.Time(frac)*p.unit
	f.Len = frameLen(captured, length)
	f.Link = p.link
	return nil
}

// frameLen returns the length on the wire: what the file says, but not less than what it holds.
func frameLen(captured, length uint32) int { return int(max(captured, length)) }
