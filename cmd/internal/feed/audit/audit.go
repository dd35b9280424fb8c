// Package audit reads the Linux audit system's records: the lines of audit.log, also enriched,
// prefixed by a node or by syslog, and the kernel's messages as its multicast group hands them
// out. From the records of one event it makes a connect with the process that made it.
//
// What the records leave out is left out here: the source address and port, the start of the
// process and its container. Whether a connect that succeeded at once was of a TCP or a UDP socket
// only a rule that records socket(2), too, tells; without it feed.GuessProto does. The C library
// also connects UDP sockets to sort addresses, which sends nothing and looks the same.
package audit

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/sensor/event"
)

// Source is the source that records name.
const Source = "auditd"

// The record types that matter (linux/audit.h).
const (
	typeSyscall   = 1300
	typeSockaddr  = 1306
	typeCwd       = 1307
	typeExecve    = 1309
	typeEOE       = 1320
	typeProctitle = 1327
	typeUringOp   = 1336
)

// Bounds of what a parser keeps. Together they hold less than 8 MiB.
const (
	maxOpen    = 64              // events whose records are still coming in
	maxTitle   = 4 << 10         // bytes of a title; the kernel cuts at 128
	maxArgs    = 16 << 10        // bytes of the arguments of one execve
	maxArgc    = 256             // arguments of one execve
	maxExecs   = 2 << 20         // bytes of what programs were started with, twice over
	maxSockets = 16384           // sockets whose protocol is known, twice over
	maxLine    = 1 << 20         // bytes of one line
	openFor    = 2 * time.Second // after which an event ends without EOE
	latest     = 9223372035      // seconds that an event.Time holds
)

// Reasons why a line is refused.
var (
	errForm       = errors.New("this is no audit record: type=… msg=audit(seconds:serial): is missing")
	errLong       = errors.New("the line is longer than 1 MiB")
	errIncomplete = errors.New("a connect without its SOCKADDR record")
)

// Parser makes records and connections of audit records. It implements feed.Limited. Lines of
// several hosts and of up to 64 events at a time may be mixed; in one event SYSCALL comes first,
// as the kernel writes it.
type Parser struct {
	origin  feed.Origin
	open    []*group
	idle    []*group
	strings feed.Strings
	execs   feed.Memory[execKey, program]
	sockets feed.Memory[socketKey, event.Proto]
	sent    feed.Datagrams
	titles  feed.Memory[string, []string]
	scratch []byte
	out     output

	connections bool // at least one was made
}

// New returns a Parser for lines of an origin. Connections are made only where the origin says
// which address a host's connections come from, as audit records do not.
func New(origin feed.Origin) *Parser {
	return &Parser{
		origin:  origin,
		execs:   feed.Memory[execKey, program]{Limit: maxExecs},
		sockets: feed.Memory[socketKey, event.Proto]{Limit: maxSockets},
		titles:  feed.Memory[string, []string]{Limit: maxExecs},
	}
}

// group is an event whose records are coming in.
type group struct {
	node   string
	time   event.Time
	serial uint64

	hostID, host string
	addr         netip.Addr

	call      call
	fastOpen  bool // a send that opens a TCP connection (MSG_FASTOPEN)
	uring     bool
	exit      int64
	fd        uint64
	pid, ppid uint32
	uid, auid uint32
	hasUID    bool
	hasAUID   bool
	comm, exe string
	user      string
	cwd       string
	sockaddr  []byte // hexadecimal, as it came
	title     []byte
	args      []string
	argBytes  int
}

// Line takes one line of audit.log, or one that syslog or the kernel's log carried.
func (p *Parser) Line(line []byte, to feed.Sink) error {
	if len(line) > maxLine {
		return p.refuse(errLong)
	}
	start := 0
	if !bytes.HasPrefix(line, []byte("type=")) && !bytes.HasPrefix(line, []byte("node=")) {
		if start = bytes.Index(line, []byte("node=")); start < 0 {
			start = bytes.Index(line, []byte("type="))
		}
		if start < 0 {
			return p.refuse(errForm)
		}
	}
	line = line[start:]
	var node string
	if rest, ok := bytes.CutPrefix(line, []byte("node=")); ok {
		name, after, _ := bytes.Cut(rest, []byte(" "))
		node, line = p.strings.Of(name), after
	}
	rest, ok := bytes.CutPrefix(line, []byte("type="))
	if !ok {
		return p.refuse(errForm)
	}
	name, rest, _ := bytes.Cut(rest, []byte(" "))
	rest = bytes.TrimPrefix(rest, []byte("msg="))
	return p.message(typeOf(name), node, rest, to)
}

// Message takes a message of the kernel's audit socket: its netlink type, and its text, which
// starts with audit(.
func (p *Parser) Message(kind uint16, text []byte, to feed.Sink) error {
	return p.message(uint64(kind), "", bytes.TrimRight(text, "\x00\n"), to)
}

// Flush ends the events whose records are still coming in. Whoever reads live calls it after
// two seconds without a line.
func (p *Parser) Flush(to feed.Sink) {
	for _, g := range p.open {
		_ = p.finish(g, to) // incomplete ones: there is no line to blame
		p.idle = append(p.idle, g)
	}
	p.open = p.open[:0]
}

// Limits says what audit records cannot tell.
func (p *Parser) Limits() feed.Limits {
	l := feed.NoLookups | feed.NoSourcePort | feed.NoVLAN | feed.ForeignClock
	if !p.connections {
		l |= feed.NoConns
	}
	return l
}

// typeOf returns a record type's number, 0 for those that do not matter.
func typeOf(name []byte) uint64 {
	switch string(name) {
	case "SYSCALL":
		return typeSyscall
	case "SOCKADDR":
		return typeSockaddr
	case "CWD":
		return typeCwd
	case "EXECVE":
		return typeExecve
	case "EOE":
		return typeEOE
	case "PROCTITLE":
		return typeProctitle
	case "URINGOP":
		return typeUringOp
	}
	name = bytes.TrimPrefix(name, []byte("UNKNOWN["))
	n, _ := number(name, 10)
	return n
}

func (p *Parser) message(kind uint64, node string, text []byte, to feed.Sink) error {
	t, serial, body, ok := stamp(text)
	if !ok {
		return p.refuse(errForm)
	}
	switch kind {
	case typeSyscall, typeUringOp:
		if err := p.origin.InTime(t); err != nil {
			return p.refuse(err)
		}
		old := p.expire(node, t, to)
		if err := p.begin(kind, node, t, serial, body, to); err != nil {
			return err
		}
		return old
	case typeSockaddr, typeCwd, typeExecve, typeProctitle, typeEOE:
		i := p.find(node, t, serial)
		if i < 0 {
			return nil // of an event that does not matter
		}
		g := p.open[i]
		p.add(g, kind, body)
		// auditd leaves EOE out of its file, where PROCTITLE is the last record then.
		if kind == typeEOE || kind == typeProctitle {
			return p.close(i, to)
		}
	}
	return nil
}

// stamp reads audit(1700000000.123:456): and returns what follows.
func stamp(b []byte) (t event.Time, serial uint64, rest []byte, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte("audit("))
	end := bytes.IndexByte(b, ')')
	if !ok || end < 0 {
		return 0, 0, nil, false
	}
	inside, rest := b[:end], bytes.TrimPrefix(b[end+1:], []byte(":"))
	when, number10, ok := bytes.Cut(inside, []byte(":"))
	seconds, fraction, point := bytes.Cut(when, []byte("."))
	s, ok1 := number(seconds, 10)
	serial, ok2 := number(number10, 10)
	if !ok || !ok1 || !ok2 || s > latest {
		return 0, 0, nil, false
	}
	t = event.Time(s) * event.Time(time.Second)
	if point {
		unit := event.Time(time.Second) / 10
		for _, c := range fraction {
			if c < '0' || c > '9' || unit == 0 {
				break
			}
			t += event.Time(c-'0') * unit
			unit /= 10
		}
	}
	return t, serial, rest, true
}

func (p *Parser) find(node string, t event.Time, serial uint64) int {
	for i := len(p.open) - 1; i >= 0; i-- {
		if g := p.open[i]; g.serial == serial && g.time == t && g.node == node {
			return i
		}
	}
	return -1
}

// expire ends the events of a node that are older than records take to come in.
func (p *Parser) expire(node string, t event.Time, to feed.Sink) error {
	var err error
	for i := 0; i < len(p.open); {
		if g := p.open[i]; g.node != node || t.Sub(g.time) < openFor {
			i++
			continue
		}
		err = errors.Join(err, p.close(i, to))
	}
	return err
}

// close ends the event at i.
func (p *Parser) close(i int, to feed.Sink) error {
	g := p.open[i]
	p.open = append(p.open[:i], p.open[i+1:]...)
	p.idle = append(p.idle, g)
	if p.finish(g, to) {
		return nil
	}
	return p.refuse(errIncomplete)
}

func (p *Parser) refuse(reason error) error { return &feed.Refusal{Format: Source, Reason: reason} }
