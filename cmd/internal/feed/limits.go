package feed

import (
	"errors"
	"strings"
)

// Limits says what a source of records cannot tell, as a set. What is judged by its records has
// to say so.
type Limits uint16

// What a source may not tell.
const (
	NoLookups    Limits = 1 << iota // no lookups at all
	NoConns                         // no connections at all
	NoAnswers                       // lookups without the addresses they gave
	NoClient                        // some lookups without the client that asked
	NoSourcePort                    // connections without the client's port
	NoSubSecond                     // times in whole seconds
	NoTTL                           // answers without a TTL
	NoServices                      // no ports of SRV, SVCB and HTTPS records
	NoVLAN                          // no VLAN: hosts with one address in two VLANs are one
	NoDirection                     // who began a connection is a guess
	NoQuestion                      // lookups without the name that was asked for
	ForeignClock                    // times of another clock than that of the packets
	NoUDP                           // no UDP connections
)

var limitTexts = [...]string{
	"no lookups", "no connections", "no answers", "lookups without a client", "connections without source port",
	"times in whole seconds", "answers without TTL", "no ports of SRV and HTTPS records", "no VLANs",
	"direction of connections guessed", "lookups without the name", "times of another clock", "no UDP connections",
}

// Texts returns each limit in words.
func (l Limits) Texts() []string {
	var all []string
	for i, text := range limitTexts {
		if l&(1<<i) != 0 {
			all = append(all, text)
		}
	}
	return all
}

// String returns the limits in words, with commas; "none" when there are none.
func (l Limits) String() string {
	if l == 0 {
		return "none"
	}
	return strings.Join(l.Texts(), ", ")
}

// Limited is a Parser that knows what its source cannot tell, from the lines it has taken so far.
type Limited interface {
	Parser
	Limits() Limits
}

// Splitter takes a stream apart into lines or messages.
type Splitter interface {
	// Next returns the next one, which holds until the call after it. An error that is a Skip refuses one of
	// them, of which the beginning comes with it; any other is the end: io.EOF, or what went wrong.
	Next() ([]byte, error)
}

// Skip is an error that concerns one line or message only.
type Skip string

// Error returns why.
func (s Skip) Error() string { return string(s) }

// Skips reports whether err is a Skip.
func Skips(err error) bool {
	var s Skip
	return errors.As(err, &s)
}
