// Package dnsmasq reads what dnsmasq logs with log-queries=extra, where each line has the number of
// its query and the client: through syslog with either of its times, or to a file of its own.
//
// The lines that answer one query follow each other and become one lookup. Their times are whole seconds
// unless syslog writes others; those without a year are of the last year that does not
// make them later than the file, and without a zone UTC.
package dnsmasq

import (
	"bytes"
	"errors"
	"net/netip"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/sensor/event"
)

// Why a line is refused.
var (
	errTime   = errors.New("no time before dnsmasq's line")
	errSerial = errors.New("no number and client, as log-queries=extra writes them")
)

// Parser reads lines of a log, of which others than dnsmasq's own give nothing. One goroutine at a time may use one.
type Parser struct {
	year    int64      // of times that tell none
	latest  event.Time // no such time is later
	lookup  event.Lookup
	waiting bool
	serial  uint64
	text    []byte
	asked   [remembered]question
	coarse  bool // some had none
	lookups bool
}

// remembered is how many queries wait for what answers them.
const remembered = 1024

// question is what a query asked for.
type question struct {
	serial uint64
	client netip.AddrPort // as queries over TCP are numbered by processes of their own
	kind   event.Type
	name   []byte
}

// New returns a Parser for a log that was written no later than now.
func New(now event.Time) *Parser {
	return &Parser{year: int64(now.UTC().Year()), latest: now}
}

// Recognise reports whether a file that begins with head is such a log.
func Recognise(head []byte) bool {
	for range 64 {
		line, rest, more := bytes.Cut(head, []byte("\n"))
		if _, body, ok := split(line); ok {
			if _, _, _, ok := numbered(body); ok {
				return true
			}
		}
		if !more {
			return false
		}
		head = rest
	}
	return false
}

// split parts what stands before dnsmasq's own text, a time first, from that text.
func split(line []byte) (before, body []byte, ok bool) {
	i := bytes.Index(line, []byte("dnsmasq["))
	if i < 0 {
		return nil, nil, false
	}
	_, body, ok = bytes.Cut(line[i:], []byte("]: "))
	return line[:i], body, ok
}

// numbered takes number and client off a line: 5 192.0.2.1/40123 reply …
func numbered(body []byte) (serial uint64, client netip.AddrPort, rest []byte, ok bool) {
	number, rest, _ := bytes.Cut(body, []byte(" "))
	who, rest, _ := bytes.Cut(rest, []byte(" "))
	addr, port, _ := bytes.Cut(who, []byte("/"))
	serial, ok1 := field.Uint(number, 1<<32-1)
	a, ok2 := field.Addr(addr)
	p, ok3 := field.Port(port)
	return serial, netip.AddrPortFrom(a, p), rest, ok1 && ok2 && ok3
}

// Limits returns what the log cannot tell.
func (p *Parser) Limits() feed.Limits {
	l := feed.NoConns | feed.NoVLAN | feed.NoTTL | feed.NoServices | feed.ForeignClock
	if p.coarse {
		l |= feed.NoSubSecond
	}
	if !p.lookups {
		l |= feed.NoLookups
	}
	return l
}

// Line takes a line of the log.
func (p *Parser) Line(line []byte, to feed.Sink) error {
	before, body, ok := split(line)
	if !ok {
		return nil
	}
	serial, client, rest, ok := numbered(body)
	if !ok {
		// What it says of itself, of leases and of its own start, has no number.
		if bytes.HasPrefix(body, []byte("query[")) || bytes.HasPrefix(body, []byte("reply ")) {
			return errSerial
		}
		return nil
	}
	verb, rest, _ := bytes.Cut(rest, []byte(" "))
	if kind, ok := bytes.CutPrefix(verb, []byte("query[")); ok {
		p.Flush(to)
		name, _, _ := bytes.Cut(rest, []byte(" "))
		q := &p.asked[serial%remembered]
		q.serial, q.client = serial, client
		q.kind, q.name = field.Type(bytes.TrimSuffix(kind, []byte("]"))), field.Name(q.name[:0], name)
		return nil
	}
	switch string(verb) {
	case "forwarded", "validation", "nameserver", "dnssec-query[DNSKEY]", "dnssec-query[DS]":
		return nil
	}
	// reply, cached, cached-stale, config, DHCP, or the hosts file that had it: NAME is WHAT.
	name, what, ok := bytes.Cut(rest, []byte(" is "))
	if !ok || bytes.IndexByte(name, ' ') >= 0 {
		return nil
	}
	t, ok := p.time(bytes.TrimSpace(before))
	if !ok {
		return errTime
	}
	if l := &p.lookup; !p.waiting || p.serial != serial || l.Client != client {
		p.Flush(to)
		*l = event.Lookup{Time: t, Client: client, Proto: event.UDP, Records: l.Records[:0]}
		p.text = p.text[:0]
		if q := &p.asked[serial%remembered]; q.serial == serial && q.client == client && len(q.name) > 0 {
			p.text = append(p.text, q.name...)
			l.Type = q.kind
		} else {
			p.text = field.Name(p.text, name)
		}
		l.Name = p.text[:len(p.text):len(p.text)]
		p.waiting, p.serial = true, serial
	}
	p.answer(name, what)
	return nil
}

// answer takes one line's answer.
func (p *Parser) answer(name, what []byte) {
	l := &p.lookup
	if string(what) == "NXDOMAIN" {
		l.RCode = 3
		return
	}
	a, ok := field.Addr(what)
	if !ok {
		return // <CNAME>, NODATA, the text of another record
	}
	r := event.Record{Type: event.AAAA, Addr: a}
	if a.Is4() {
		r.Type = event.A
	}
	from := len(p.text)
	p.text = field.Name(p.text, name)
	r.Owner = p.text[from:len(p.text):len(p.text)]
	l.Records = append(l.Records, r)
}

// Flush hands on the lookup that more lines might have belonged to.
func (p *Parser) Flush(to feed.Sink) {
	if p.waiting {
		p.waiting, p.lookups = false, true
		to.Lookup(&p.lookup)
	}
}

// months are the names of months as syslog writes them.
var months = [...]string{"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"}

// time reads the time at the beginning of a line: of RFC 3339, or "Nov 24 01:02:03" as in RFC 3164, section 4.1.2.
func (p *Parser) time(b []byte) (event.Time, bool) {
	if len(b) >= 19 && b[4] == '-' {
		word, _, _ := bytes.Cut(b, []byte(" "))
		t, ok := field.Stamp(word)
		p.coarse = p.coarse || !bytes.ContainsAny(word, ".,")
		return t, ok
	}
	if len(b) < 15 || b[3] != ' ' || b[6] != ' ' {
		return 0, false
	}
	p.coarse = true
	month := int64(0)
	for i, name := range months {
		if string(b[:3]) == name {
			month = int64(i) + 1
		}
	}
	day, ok1 := field.Uint(bytes.TrimLeft(b[4:6], " "), 31)
	clock, ok2 := field.Clock(b[7:15])
	if month == 0 || day == 0 || !ok1 || !ok2 {
		return 0, false
	}
	t := event.Time((field.Days(p.year, month, int64(day))*86400 + clock) * 1e9)
	const day1 = 86400e9 // a clock may be ahead
	if t > p.latest+day1 {
		t = event.Time((field.Days(p.year-1, month, int64(day))*86400 + clock) * 1e9)
	}
	return t, true
}
