package feed

import (
	"net/netip"
	"time"

	"portolan/sensor/event"
)

// Memory is a map bounded in what its entries weigh: when the younger half is full, the older
// half is forgotten. Limit is the weight of either half. One goroutine at a time may use one.
type Memory[K comparable, V any] struct {
	Limit      int
	weight     int
	young, old map[K]V
}

// Get returns what was put last for k, unless it is forgotten.
func (m *Memory[K, V]) Get(k K) (V, bool) {
	if v, ok := m.young[k]; ok {
		return v, true
	}
	v, ok := m.old[k]
	return v, ok
}

// Put remembers v for k. The weight is in the unit of Limit.
func (m *Memory[K, V]) Put(k K, v V, weight int) {
	if m.young == nil || m.weight+weight > m.Limit {
		m.old, m.young, m.weight = m.young, map[K]V{}, 0
	}
	m.young[k] = v
	m.weight += weight
}

// Datagram is a socket and whom it sends datagrams; what a source does not tell is zero.
type Datagram struct {
	Host   string
	PID    uint32
	FD     uint64
	Local  netip.AddrPort
	Remote netip.AddrPort
}

const (
	silence      = 60 * time.Second // after which a datagram is a first one again
	maxDatagrams = 8192             // sockets remembered, twice over
)

// Datagrams tells a socket's first datagram to an address from those that follow. The zero
// value is ready. One goroutine at a time may use one.
type Datagrams struct {
	last Memory[Datagram, event.Time]
}

// First reports whether a datagram at t is the first of its kind, or the first after 60 s of silence.
func (d *Datagrams) First(k Datagram, t event.Time) bool {
	d.last.Limit = maxDatagrams
	last, known := d.last.Get(k)
	d.last.Put(k, t, 1)
	return !known || t.Sub(last) > silence || t < last
}
