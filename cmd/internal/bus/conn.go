package bus

import "github.com/nats-io/nats.go"

// Conn returns the connection, for what is more than hits: observations, and the leases of
// those who work on them. It belongs to the bus, which closes it.
func (b *Bus) Conn() *nats.Conn { return b.conn }
