// Package feedtest has what tests of readers of foreign records share.
package feedtest

import (
	"fmt"
	"strings"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Log is a sink that writes down what it gets, in the text form of events with times since Base.
type Log struct {
	Base        event.Time
	Lookups     int
	Connections int
	Records     int
	strings.Builder
}

// Lookup writes a line.
func (l *Log) Lookup(x *event.Lookup) {
	l.Lookups++
	fmt.Fprintf(l, "%s", x.AppendText(nil, l.Base))
	if x.Truncated {
		l.WriteString(" (truncated)")
	}
	l.WriteByte('\n')
}

// Connection writes a line.
func (l *Log) Connection(x *event.Connection) {
	l.Connections++
	fmt.Fprintf(l, "%s\n", x.AppendText(nil, l.Base))
}

// Record writes a line.
func (l *Log) Record(x *attribute.Record) {
	l.Records++
	fmt.Fprintf(l, "%-8s %s %s > %s\n", x.Time.Sub(l.Base), x.Kind, x.Local, x.Remote)
}
