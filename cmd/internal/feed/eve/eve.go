// Package eve reads the dns and flow events of Suricata's EVE log
// (https://docs.suricata.io/en/latest/output/eve/eve-json-format.html), in dns versions 1, 2 and 3.
//
// A dns event of a response is a lookup, at the time of its packet; version 1 writes one event for each
// record, which become one lookup again. A flow event is a connection, at the time of the flow's
// first packet. netflow events tell the same once more, in two halves, and are passed over.
package eve

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/cmd/internal/feed/jsonline"
	"portolan/sensor/event"
)

// Why a line is refused.
var (
	errJSON     = errors.New("broken JSON")
	errTime     = errors.New("no time in timestamp or flow.start")
	errEnds     = errors.New("no address or port in src_ip, src_port, dest_ip or dest_port")
	errDNS      = errors.New("a dns event without its dns object")
	errNotEvent = errors.New("an object that is no event")
)

const dnsPort = 53

// Parser reads lines of an EVE log. One goroutine at a time may use one.
type Parser struct {
	limits  feed.Limits
	lookups bool
	conns   bool

	lookup  event.Lookup // with version 1, collected over several lines
	waiting bool         // lookup is not complete
	conn    event.Connection
	text    []byte // what the lookup's slices point to
}

// New returns a Parser.
func New() *Parser { return &Parser{} }

// Recognise reports whether a file that begins with head is an EVE log: one of its first lines is an event.
func Recognise(head []byte) bool {
	const recognisedBy = 16
	for range recognisedBy {
		line, rest, more := bytes.Cut(head, []byte("\n"))
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] == '{' {
			if e, err := envelopeOf(line); err == nil && e.stamp != nil && e.kind != nil {
				return true
			}
		}
		if !more {
			break
		}
		head = rest
	}
	return false
}

// envelope is what matters of an event outside of its own object.
type envelope struct {
	stamp, kind, proto   []byte
	srcIP, dstIP         []byte
	srcPort, dstPort     []byte
	vlan, dns, flow, tcp jsonline.Value
}

// envelopeOf reads the members of an event; of one that is neither dns nor flow, those up to its type.
func envelopeOf(line []byte) (e envelope, err error) {
	o := jsonline.Value(line).Members()
	for key, v, ok := o.Next(); ok; key, v, ok = o.Next() {
		switch string(key) {
		case "timestamp":
			e.stamp = v.Plain()
		case "event_type":
			if e.kind = v.Plain(); string(e.kind) != "dns" && string(e.kind) != "flow" {
				return e, nil
			}
		case "src_ip":
			e.srcIP = v.Plain()
		case "src_port":
			e.srcPort = v.Plain()
		case "dest_ip":
			e.dstIP = v.Plain()
		case "dest_port":
			e.dstPort = v.Plain()
		case "proto":
			e.proto = v.Plain()
		case "vlan":
			e.vlan = v
		case "dns":
			e.dns = v
		case "flow":
			e.flow = v
		case "tcp":
			e.tcp = v
		}
	}
	if o.Bad() {
		return e, errJSON
	}
	return e, nil
}

// Line takes a line of the log.
func (p *Parser) Line(line []byte, to feed.Sink) error {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return nil
	}
	e, err := envelopeOf(line)
	if err != nil {
		return err
	}
	switch string(e.kind) {
	case "dns":
		return p.dns(&e, to)
	case "flow":
		return p.flow(&e, to)
	case "":
		return errNotEvent
	}
	return nil
}

// Flush hands on a lookup whose records came one by one.
func (p *Parser) Flush(to feed.Sink) {
	if p.waiting {
		p.waiting = false
		to.Lookup(&p.lookup)
	}
}

// Limits returns what the log cannot tell.
func (p *Parser) Limits() feed.Limits {
	l := p.limits
	if !p.lookups {
		l |= feed.NoLookups
	}
	if !p.conns {
		l |= feed.NoConns
	}
	return l
}

// ends reads source and destination.
func (e *envelope) ends() (src, dst netip.AddrPort, err error) {
	sa, ok1 := field.Addr(e.srcIP)
	da, ok2 := field.Addr(e.dstIP)
	sp, ok3 := field.Port(e.srcPort)
	dp, ok4 := field.Port(e.dstPort)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return src, dst, errEnds
	}
	return netip.AddrPortFrom(sa, sp), netip.AddrPortFrom(da, dp), nil
}

// zone returns the zone of the outermost VLAN.
func (e *envelope) zone() (z event.Zone) {
	a := e.vlan.Elements()
	if v, ok := a.Next(); ok {
		if id, ok := field.Uint(v.Plain(), 4095); ok && id != 0 {
			z.Kind, z.ID = event.VLAN, uint32(id)
		}
	}
	return z
}

func transport(b []byte) event.Proto {
	switch string(b) {
	case "TCP", "tcp":
		return event.TCP
	case "UDP", "udp":
		return event.UDP
	}
	return 0
}

// The flags of TCP (RFC 9293, section 3.1) that say how a connection began.
const (
	flagSYN = 0x02
	flagACK = 0x10
)

// flow makes a connection of a flow event.
func (p *Parser) flow(e *envelope, to feed.Sink) error {
	p.conns = true
	c := &p.conn
	*c = event.Connection{Proto: transport(e.proto), Zone: e.zone()}
	switch c.Proto {
	case event.TCP:
		var begun bool
		if c.Start, begun = beginning(e.tcp); !begun {
			return nil
		}
	case event.UDP:
		c.Start = event.Datagram
	default:
		return nil
	}
	var ok bool
	if c.Time, ok = field.Stamp(e.flow.Get("start").Plain()); !ok {
		return errTime
	}
	var err error
	if c.Src, c.Dst, err = e.ends(); err != nil {
		return err
	}
	to.Connection(c)
	return nil
}

// beginning says what began a TCP connection, and whether that was seen, by the flags of either side.
func beginning(tcp jsonline.Value) (event.Start, bool) {
	fromClient, ok1 := hexFlags(tcp.Get("tcp_flags_ts").Plain())
	fromServer, ok2 := hexFlags(tcp.Get("tcp_flags_tc").Plain())
	switch {
	case !ok1 && !ok2:
		return event.SYN, true
	case fromClient&flagSYN != 0:
		return event.SYN, true
	case fromServer&(flagSYN|flagACK) == flagSYN|flagACK:
		return event.SYNACK, true
	}
	return 0, false
}

func hexFlags(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b), 16, 16)
	return n, err == nil
}
