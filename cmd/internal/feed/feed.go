// Package feed reads what other programs have recorded: resolver and sensor logs, audit
// records, and the connect records of endpoint tools. A format is a package below this one.
package feed

import (
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Sink takes what records hold. What the pointers lead to is valid during the call only. One
// goroutine at a time calls a Sink.
type Sink interface {
	event.Sink
	Record(*attribute.Record)
}

// Parser makes events and endpoint records of lines. Parsers keep state where a format spreads
// one fact over several lines, bounded in bytes; one goroutine at a time may use one.
type Parser interface {
	// Line takes one line without its newline, valid during the call only. The error says on one
	// line why nothing could be made of it, for counting and for showing the first of its kind;
	// a line that holds nothing of interest is no error.
	Line(line []byte, to Sink) error
	// Flush hands on what waits for lines that will not come.
	Flush(to Sink)
}
