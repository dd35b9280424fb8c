// Package dnstap reads what DNS servers say of their traffic in dnstap (https://dnstap.info), from
// files and from servers themselves: BIND, Unbound, Knot, CoreDNS, dnsdist and PowerDNS write it.
//
// A response to a client, or a stub's, a tool's or an authoritative server's, is a lookup at the
// server's time of it, however it was carried: over UDP, TCP, TLS or HTTPS. What a resolver asks
// others for itself is none, as no client was told.
package dnstap

import (
	"errors"
	"net/netip"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/protobuf"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// Why a message is refused.
var (
	errProtobuf = errors.New("no protocol buffer")
	errTime     = errors.New("no time of the response")
	errClient   = errors.New("a response without its client's address")
	errMessage  = errors.New("a response without its DNS message")
	errDNS      = errors.New("a response whose DNS message cannot be read")
)

// The types of dnstap messages that a client was answered by.
const (
	authResponse   = 2
	clientResponse = 6
	stubResponse   = 10
	toolResponse   = 12
)

// Parser makes lookups of dnstap messages: a "line" is one, without its length. One goroutine at a time may use one.
type Parser struct {
	messages *decode.Messages
	lookups  bool
	noClient bool
}

// New returns a Parser.
func New() *Parser { return &Parser{messages: decode.NewMessages()} }

// Limits returns what the messages cannot tell.
func (p *Parser) Limits() feed.Limits {
	l := feed.NoConns | feed.NoVLAN | feed.ForeignClock
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

// message is what matters of a Message of dnstap.proto.
type message struct {
	kind             uint64
	transport        uint64
	client, server   []byte
	cport, sport     uint64
	sec, nsec        uint64
	querySec, queryN uint64
	response         []byte
}

// The fields of Dnstap and Message in dnstap.proto.
const (
	dnstapMessage = 14

	fieldType         = 1
	fieldProtocol     = 3
	fieldQueryAddr    = 4
	fieldResponseAddr = 5
	fieldQueryPort    = 6
	fieldResponsePort = 7
	fieldQuerySec     = 8
	fieldQueryNsec    = 9
	fieldSec          = 12
	fieldNsec         = 13
	fieldResponse     = 14
)

func read(b []byte) (m message, ok bool) {
	outer := protobuf.Of(b)
	for f, more := outer.Next(); more; f, more = outer.Next() {
		if f.ID != dnstapMessage {
			continue
		}
		inner := protobuf.Of(f.Bytes)
		for f, more := inner.Next(); more; f, more = inner.Next() {
			switch f.ID {
			case fieldType:
				m.kind = f.Number
			case fieldProtocol:
				m.transport = f.Number
			case fieldQueryAddr:
				m.client = f.Bytes
			case fieldResponseAddr:
				m.server = f.Bytes
			case fieldQueryPort:
				m.cport = f.Number
			case fieldResponsePort:
				m.sport = f.Number
			case fieldQuerySec:
				m.querySec = f.Number
			case fieldQueryNsec:
				m.queryN = f.Number
			case fieldSec:
				m.sec = f.Number
			case fieldNsec:
				m.nsec = f.Number
			case fieldResponse:
				m.response = f.Bytes
			}
		}
		if inner.Bad() {
			return m, false
		}
	}
	return m, !outer.Bad()
}

// latest is the last second that a time may have: beyond it nanoseconds overflow.
const latest = 1<<33 - 1

// Line takes a message.
func (p *Parser) Line(b []byte, to feed.Sink) error {
	m, ok := read(b)
	if !ok {
		return errProtobuf
	}
	switch m.kind {
	case authResponse, clientResponse, stubResponse, toolResponse:
	default:
		return nil
	}
	client, ok := netip.AddrFromSlice(m.client)
	if !ok {
		p.noClient = true
		return errClient
	}
	if m.sec == 0 {
		m.sec, m.nsec = m.querySec, m.queryN
	}
	if m.sec == 0 || m.sec > latest || m.nsec >= 1e9 {
		return errTime
	}
	if m.response == nil {
		return errMessage
	}
	l, reason := p.messages.Lookup(m.response)
	switch {
	case l != nil:
	case reason == decode.DNSMalformed:
		return errDNS
	default:
		return nil // a transfer, or no query
	}
	p.lookups = true
	l.Time = event.Time(m.sec)*1e9 + event.Time(m.nsec)
	l.Client = netip.AddrPortFrom(client, uint16(m.cport))
	l.Resolver = netip.AddrPort{}
	if server, ok := netip.AddrFromSlice(m.server); ok {
		l.Resolver = netip.AddrPortFrom(server, uint16(m.sport))
	}
	l.Proto = event.TCP
	const udp, dnscryptUDP, quic = 1, 5, 7
	if m.transport == udp || m.transport == dnscryptUDP || m.transport == quic {
		l.Proto = event.UDP
	}
	l.MAC, l.Zone, l.Frame = event.MAC{}, event.Zone{}, 0
	to.Lookup(l)
	return nil
}
