package decode

import "portolan/sensor/event"

// Messages reads DNS messages that were recorded without their packets, by the rules for those:
// the same scanner decides. One goroutine at a time may use one.
type Messages struct {
	d    Decoder
	keep kept
}

// kept is a sink that remembers the last lookup.
type kept struct{ last *event.Lookup }

// Lookup remembers l.
func (k *kept) Lookup(l *event.Lookup) { k.last = l }

// Connection never comes of a message.
func (*kept) Connection(*event.Connection) {}

// NewMessages returns a reader of messages, which takes some 500 KiB.
func NewMessages() *Messages { return &Messages{d: Decoder{dns: newScanner()}} }

// noAddrs stands for both addresses of a message whose ends are told elsewhere.
var noAddrs [32]byte

// Lookup returns msg as a lookup without time, ends and transport; nil, and the reason, when it
// is none. The lookup, which aliases msg in part, holds until the next call.
func (m *Messages) Lookup(msg []byte) (*event.Lookup, Reason) {
	m.keep.last = nil
	m.d.sink = &m.keep
	r := m.d.response(&response{msg: msg, endpoints: endpoints{addrs: noAddrs[:]}})
	return m.keep.last, r
}
