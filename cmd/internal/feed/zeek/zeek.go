// Package zeek reads the dns.log and conn.log of Zeek, in its own columns and as JSON
// (https://docs.zeek.org/en/master/log-formats.html).
//
// An entry of dns.log is a lookup when a response was seen; its time is that of the query plus the round
// trip. An entry of conn.log is a connection when its beginning was seen; its time is that of the first
// packet. Both are exact to the microsecond.
package zeek

import (
	"bytes"
	"errors"

	"portolan/cmd/internal/feed"
	"portolan/sensor/event"
)

// Why a line is refused.
var (
	errHeader    = errors.New("columns before a #fields line that names them")
	errColumns   = errors.New("not as many columns as #fields names")
	errSeparator = errors.New("a #separator that is not one byte")
	errTime      = errors.New("no time in ts")
	errAddress   = errors.New("no address in id.orig_h or id.resp_h")
	errPort      = errors.New("no port in id.orig_p or id.resp_p")
	errRTT       = errors.New("no time in rtt")
	errJSON      = errors.New("broken JSON")
)

// log is which of Zeek's logs a line is from.
type log uint8

const (
	unknown log = iota
	other       // one that holds no lookups and no connections
	dns
	conn
)

func logOf(path []byte) log {
	switch string(path) {
	case "dns":
		return dns
	case "conn":
		return conn
	}
	return other
}

// column is a value of an entry that matters here.
type column uint8

const (
	none column = iota
	colTS
	colOrigH
	colOrigP
	colRespH
	colRespP
	colProto
	colOrigMAC
	colTransID // of dns.log from here on
	colRTT
	colQuery
	colType
	colRCode
	colTC
	colAnswers
	colTTLs
	colOpcode
	colState // of conn.log
	colHistory
	numColumns
)

// columnOf returns the column by its name.
func columnOf(name []byte) column {
	switch string(name) {
	case "ts":
		return colTS
	case "id.orig_h":
		return colOrigH
	case "id.orig_p":
		return colOrigP
	case "id.resp_h":
		return colRespH
	case "id.resp_p":
		return colRespP
	case "proto":
		return colProto
	case "orig_l2_addr":
		return colOrigMAC
	case "trans_id":
		return colTransID
	case "rtt":
		return colRTT
	case "query":
		return colQuery
	case "qtype":
		return colType
	case "rcode":
		return colRCode
	case "TC":
		return colTC
	case "answers":
		return colAnswers
	case "TTLs":
		return colTTLs
	case "opcode":
		return colOpcode
	case "conn_state":
		return colState
	case "history":
		return colHistory
	}
	return none
}

// Parser reads lines of dns.log and conn.log, in either form, one after the other in any mixture.
// Lines of other logs give nothing. One goroutine at a time may use one.
type Parser struct {
	tsv   columns
	value [numColumns][]byte // of the line at hand; nil when unset or absent

	seen    feed.Limits // what the logs seen so far do not lack
	lookup  event.Lookup
	conn    event.Connection
	text    []byte // what the lookup's slices point to
	escaped []byte // JSON strings without their escapes
	answers [][]byte
	ttls    [][]byte
}

// New returns a Parser that has seen no header.
func New() *Parser { return &Parser{} }

// Recognise reports whether a file that begins with head is of Zeek: one of its first lines is a header, or
// an entry in JSON.
func Recognise(head []byte) bool {
	for range recognisedBy {
		line, rest, more := bytes.Cut(head, []byte("\n"))
		if bytes.HasPrefix(line, []byte("#separator ")) || bytes.HasPrefix(line, []byte("#fields\t")) ||
			bytes.HasPrefix(line, []byte("#path\t")) || recogniseJSON(line) {
			return true
		}
		if !more {
			break
		}
		head = rest
	}
	return false
}

// recognisedBy is how many lines say of which format a file is.
const recognisedBy = 16

// Line takes a line of a log.
func (p *Parser) Line(line []byte, to feed.Sink) error {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil
	}
	var from log
	var err error
	switch line[0] {
	case '#':
		return p.tsv.header(line)
	case '{':
		from, err = p.object(line)
	default:
		if from, err = p.tsv.entry(line, &p.value); from == dns {
			p.answers, p.ttls = p.tsv.split(p.answers[:0], p.value[colAnswers]), p.tsv.split(p.ttls[:0], p.value[colTTLs])
		}
	}
	if err != nil {
		return err
	}
	switch from {
	case dns:
		p.seen |= feed.NoLookups
		return p.dns(to)
	case conn:
		p.seen |= feed.NoConns
		return p.connection(to)
	}
	return nil
}

// Flush has nothing to hand on: an entry is a line.
func (p *Parser) Flush(feed.Sink) {}

// Limits returns what the logs cannot tell.
func (p *Parser) Limits() feed.Limits {
	l := (feed.NoLookups | feed.NoConns) &^ p.seen
	l |= feed.NoVLAN
	if p.seen&feed.NoLookups != 0 {
		l |= feed.NoServices
	}
	return l
}

// microseconds rounds to what Zeek knows: its times are floating-point seconds.
func microseconds(t event.Time) event.Time { return (t + 500) / 1000 * 1000 }
