// Package powerdns reads what dnsdist and the PowerDNS Recursor log as protocol buffers
// (https://dnsdist.org/reference/protobuf.html), each message behind its length in two bytes.
package powerdns

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/cmd/internal/feed/protobuf"
	"portolan/sensor/event"
)

// Why a message is refused.
var (
	errProtobuf = errors.New("no protocol buffer")
	errTime     = errors.New("no time")
	errClient   = errors.New("a response without its client's address")
)

// Frames reads messages behind their lengths.
type Frames struct {
	in  *bufio.Reader
	buf []byte
}

// NewFrames returns the messages of a file.
func NewFrames(in *bufio.Reader) *Frames { return &Frames{in: in, buf: make([]byte, 0, 1<<16)} }

// Next returns the next message.
func (f *Frames) Next() ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(f.in, size[:]); err != nil {
		return nil, err
	}
	f.buf = f.buf[:binary.BigEndian.Uint16(size[:])]
	if _, err := io.ReadFull(f.in, f.buf); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return f.buf, nil
}

// Recognise reports whether a file that begins with head holds such messages: the first has the length that
// it says, a type and an id, and if there is a second, it is one, too.
func Recognise(head []byte) bool {
	for i := range 2 {
		if len(head) < 2 {
			return i > 0 && len(head) == 0
		}
		n := int(binary.BigEndian.Uint16(head))
		if head = head[2:]; n < 4 || len(head) < n {
			return i > 0
		}
		m := protobuf.Of(head[:n])
		first, ok := m.Next()
		if !ok || first.ID != fieldType || first.Number < 1 || first.Number > 4 {
			return false
		}
		id := false
		for f, ok := m.Next(); ok; f, ok = m.Next() {
			id = id || f.ID == fieldMessageID && len(f.Bytes) == 16
		}
		if m.Bad() || !id {
			return false
		}
		head = head[n:]
	}
	return true
}

// The fields of PBDNSMessage in dnsmessage.proto, of its DNSQuestion, its DNSResponse and that one's DNSRR.
const (
	fieldType      = 1
	fieldMessageID = 2
	fieldProtocol  = 5
	fieldFrom      = 6
	fieldTo        = 7
	fieldSec       = 9
	fieldMicro     = 10
	fieldID        = 11
	fieldQuestion  = 12
	fieldResponse  = 13
	fieldFromPort  = 20
	fieldToPort    = 21

	questionName = 1
	questionType = 2

	responseRCode = 1
	responseRR    = 2

	rrName = 1
	rrType = 2
	rrTTL  = 4
	rrData = 5
)

const (
	typeResponse = 2 // a response to a client
	protocolUDP  = 1
)

// Parser makes lookups of messages: a "line" is one, without its length. One goroutine at a time may use one.
type Parser struct {
	lookup   event.Lookup
	text     []byte
	lookups  bool
	noClient bool
}

// New returns a Parser.
func New() *Parser { return &Parser{} }

// Limits returns what the messages cannot tell.
func (p *Parser) Limits() feed.Limits {
	l := feed.NoConns | feed.NoVLAN | feed.NoServices | feed.ForeignClock
	if !p.lookups {
		l |= feed.NoLookups
	}
	if p.noClient {
		l |= feed.NoClient
	}
	return l
}

// Flush has nothing to hand on.
func (p *Parser) Flush(feed.Sink) {}

// Line takes a message.
func (p *Parser) Line(b []byte, to feed.Sink) error {
	l := &p.lookup
	*l = event.Lookup{Proto: event.TCP, Records: l.Records[:0]}
	p.text = p.text[:0]
	var kind, sec, micro, fromPort, toPort uint64
	var from, server, question, response []byte
	m := protobuf.Of(b)
	for f, ok := m.Next(); ok; f, ok = m.Next() {
		switch f.ID {
		case fieldType:
			kind = f.Number
		case fieldProtocol:
			if f.Number == protocolUDP {
				l.Proto = event.UDP
			}
		case fieldFrom:
			from = f.Bytes
		case fieldTo:
			server = f.Bytes
		case fieldSec:
			sec = f.Number
		case fieldMicro:
			micro = f.Number
		case fieldID:
			l.ID = uint16(f.Number)
		case fieldQuestion:
			question = f.Bytes
		case fieldResponse:
			response = f.Bytes
		case fieldFromPort:
			fromPort = f.Number
		case fieldToPort:
			toPort = f.Number
		}
	}
	switch {
	case m.Bad():
		return errProtobuf
	case kind != typeResponse:
		return nil
	case sec == 0 || sec >= 1<<33 || micro >= 1e6:
		return errTime
	}
	client, ok := netip.AddrFromSlice(from)
	if !ok {
		p.noClient = true
		return errClient
	}
	l.Time = event.Time(sec)*1e9 + event.Time(micro)*1e3
	l.Client = netip.AddrPortFrom(client, uint16(fromPort))
	if a, ok := netip.AddrFromSlice(server); ok {
		l.Resolver = netip.AddrPortFrom(a, uint16(toPort))
	}
	q := protobuf.Of(question)
	for f, ok := q.Next(); ok; f, ok = q.Next() {
		switch f.ID {
		case questionName:
			l.Name = p.name(f.Bytes)
		case questionType:
			l.Type = event.Type(f.Number)
		}
	}
	r := protobuf.Of(response)
	for f, ok := r.Next(); ok; f, ok = r.Next() {
		switch f.ID {
		case responseRCode:
			l.RCode = uint8(f.Number & 15)
		case responseRR:
			p.record(f.Bytes)
		}
	}
	if q.Bad() || r.Bad() {
		return errProtobuf
	}
	if l.Type == event.AXFR || l.Type == event.IXFR {
		return nil
	}
	p.lookups = true
	to.Lookup(l)
	return nil
}

// record takes an address record of the response; others stand there as text, if at all.
func (p *Parser) record(b []byte) {
	var r event.Record
	var data []byte
	m := protobuf.Of(b)
	for f, ok := m.Next(); ok; f, ok = m.Next() {
		switch f.ID {
		case rrName:
			r.Owner = p.name(f.Bytes)
		case rrType:
			r.Type = event.Type(f.Number)
		case rrTTL:
			r.TTL = uint32(min(f.Number, 1<<32-1))
		case rrData:
			data = f.Bytes
		}
	}
	a, ok := netip.AddrFromSlice(data)
	if !ok || r.Type != event.A && r.Type != event.AAAA || a.Is4() != (r.Type == event.A) {
		return
	}
	r.Addr = a
	p.lookup.Records = append(p.lookup.Records, r)
}

func (p *Parser) name(b []byte) []byte {
	from := len(p.text)
	p.text = field.Name(p.text, b)
	return p.text[from:len(p.text):len(p.text)]
}
