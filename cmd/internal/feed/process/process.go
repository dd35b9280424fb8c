// Package process reads what endpoint tools write of connections and of the processes behind
// them: Tetragon, Falco and falcosidekick, Sysmon for Linux, Elastic's agents and whatever else
// writes the Elastic Common Schema, osquery, laurel, and auditd by way of package audit. A line
// is one message; what a shipper or a container runtime puts before it is passed over.
//
// JSON is walked through by package jsonline, as encoding/json takes a whole core for 160,000 lines of ECS
// a second. The walk does not judge what it passes; every fact that is taken is judged here, by its kind,
// its range, its UTF-8 and that it is told once.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/audit"
	"portolan/cmd/internal/feed/jsonline"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Format is the form of a line.
type Format uint8

// The formats. Auto tells each line's by its content.
const (
	Auto Format = iota
	Tetragon
	Falco
	Sysmon
	ECS
	Osquery
	Laurel
	Auditd
	numFormats
)

var formatNames = [numFormats]string{"auto", "tetragon", "falco", "sysmon", "ecs", "osquery", "laurel", audit.Source}

// String returns the format's name, which its records have as their source.
func (f Format) String() string { return formatNames[f] }

// Formats returns all formats but Auto.
func Formats() []Format { return []Format{Tetragon, Falco, Sysmon, ECS, Osquery, Laurel, Auditd} }

// ParseFormat returns the format with a name.
func ParseFormat(name string) (Format, error) {
	for f, n := range formatNames {
		if n == name {
			return Format(f), nil
		}
	}
	return Auto, fmt.Errorf("format %q: want one of %s", name, strings.Join(formatNames[:], ", "))
}

// maxLine bounds a line in bytes.
const maxLine = 1 << 20

// Reasons why a line is refused.
var (
	errFormat = errors.New("the format is none that is known")
	errLong   = errors.New("the line is longer than 1 MiB")
	errUTF8   = errors.New("the text is not UTF-8")
)

// Parser makes records and connections of lines. It implements feed.Limited. A line that tells
// of no connection and no lookup, as most do that these tools write, is no error; one that does
// and cannot be used gives a *feed.Refusal.
type Parser struct {
	format   Format
	detector detector
	origin   feed.Origin
	audit    *audit.Parser
	fields   fields
	strings  feed.Strings
	sent     feed.Datagrams
	args     []string
	scratch  []byte
	record   attribute.Record
	conn     event.Connection
	lookup   event.Lookup

	lookups, connections bool        // at least one was made
	audited              bool        // auditd's records were among the lines
	cannot               feed.Limits // of the lines so far, besides
}

// New returns a Parser for lines of a format and an origin.
func New(format Format, origin feed.Origin) *Parser {
	return &Parser{format: format, origin: origin, audit: audit.New(origin)}
}

// Line takes one line.
func (p *Parser) Line(line []byte, to feed.Sink) error {
	if len(line) > maxLine {
		return &feed.Refusal{Format: p.format.String(), Reason: errLong}
	}
	format := p.format
	if format == Auto {
		if format = p.detector.detect(line); format == Auto {
			if len(bytes.TrimSpace(line)) == 0 {
				return nil
			}
			return &feed.Refusal{Format: format.String(), Reason: errFormat}
		}
	}
	if format == Auditd {
		p.audited = true
		return p.audit.Line(line, to)
	}
	if err := p.take(format, line, to); err != nil {
		return &feed.Refusal{Format: format.String(), Reason: err}
	}
	return nil
}

// Flush ends the audit events whose records are still coming in.
func (p *Parser) Flush(to feed.Sink) { p.audit.Flush(to) }

// Limits says what the lines so far cannot tell.
func (p *Parser) Limits() feed.Limits {
	l, connections := feed.NoVLAN|feed.ForeignClock|p.cannot, p.connections
	if p.audited {
		audited := p.audit.Limits()
		l |= audited &^ (feed.NoConns | feed.NoLookups)
		connections = connections || audited&feed.NoConns == 0
	}
	if !connections {
		l |= feed.NoConns
	}
	if p.lookups {
		return l | feed.NoTTL | feed.NoServices
	}
	return l | feed.NoLookups
}

// take makes a record of a line of a format that is known.
func (p *Parser) take(format Format, line []byte, to feed.Sink) error {
	p.fields.reset()
	object := objectOf(line)
	if object == nil {
		if format != Sysmon {
			return errSyntax
		}
		if relevant, err := p.fields.sysmonXML(line); err != nil || !relevant {
			return err
		}
		return p.sysmon(to)
	}
	var of func([]byte) slot
	var make func(feed.Sink) error
	switch format {
	case Tetragon:
		of, make = tetragonSlot, p.tetragon
	case Falco:
		of, make = falcoSlot, p.falco
	case Sysmon:
		of, make = sysmonSlot, p.sysmonJSON
	case ECS:
		of, make = ecsSlot, p.ecs
	case Osquery:
		of, make = osquerySlot, p.osquery
	case Laurel:
		of, make = laurelSlot, p.laurel
	}
	if err := p.fields.walk(object, of); err != nil {
		return err
	}
	return make(to)
}

// objectOf returns the JSON object of a line, without what stands before and after it; nil when there is none.
func objectOf(line []byte) jsonline.Value {
	start, end := bytes.IndexByte(line, '{'), bytes.LastIndexByte(line, '}')
	if start < 0 || end < start {
		return nil
	}
	if i := bytes.Index(line, []byte(eventTag)); i >= 0 && i < start {
		return nil // braces in XML
	}
	return jsonline.Value(line[start : end+1])
}
