// Package fleet lets several sensors see as one: they publish what they decoded, and any number of
// workers correlate it, so that an answer seen at one tap explains a connection seen at another.
//
// # Partitions
//
// Everything about one client goes to one partition, and one worker at a time owns it. The
// partition is the FNV-1a hash of zone and client modulo their number, exactly what a mapping
// "partition(n,…)" of nats-server makes of the two as tokens of a subject.
//
// # Zones
//
// A sensor numbers its own observation points, which says nothing to others. In observations the
// zone's point is therefore the number of an address space that the fleet agrees on, Config.Zone:
// taps with the same number see the same hosts under the same addresses. The tag stays, unless
// Config.Untag says that taps see the same hosts with different ones.
//
// # What can be lost
//
// Observations wait in memory for the server, up to Config.QueueBytes; what does not fit is counted
// by the publisher, and shows at the workers as a gap in the batches' sequence. Hits are not lost:
// a worker remembers how far it came only after the server has stored every hit up to there.
package fleet

import (
	"net/netip"
	"strconv"

	"portolan/cmd/internal/bus"
	"portolan/sensor/event"
)

// MaxPartitions bounds the number of partitions.
const MaxPartitions = 256

// Partition returns which of n partitions holds a client, from 0 to n−1. n has to be at least 1.
func Partition(z event.Zone, client netip.Addr, n int) int {
	const offset, prime = 2166136261, 16777619 // FNV-1a, 32 bits
	var text [64]byte
	b := appendHost(appendZone(text[:0], z), client)
	h := uint32(offset)
	for _, c := range b {
		h = (h ^ uint32(c)) * prime
	}
	return int(h % uint32(n))
}

// appendZone appends what event.Zone.String returns, without making garbage.
func appendZone(b []byte, z event.Zone) []byte {
	b = strconv.AppendUint(b, uint64(z.Point), 10)
	switch z.Kind {
	case event.VLAN:
		b = append(b, "/vlan"...)
	case event.VNI:
		b = append(b, "/vni"...)
	case event.ERSPAN:
		b = append(b, "/erspan"...)
	default:
		return b
	}
	return strconv.AppendUint(b, uint64(z.ID), 10)
}

// appendHost appends what bus.HostToken returns, without making garbage.
func appendHost(b []byte, a netip.Addr) []byte {
	const digits = "0123456789abcdef"
	if !a.IsValid() {
		return append(b, '0')
	}
	if a = a.Unmap(); a.Is4() {
		for _, c := range a.As4() {
			b = append(b, digits[c>>4], digits[c&15])
		}
		return b
	}
	for _, c := range a.As16() {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// The kinds of observations, as they stand in subjects.
const (
	kindDNS = iota
	kindConn
	numKinds
)

var kindNames = [numKinds]string{"dns", "conn"}

// subject returns where a sensor publishes observations of a kind: portolan.v1.obs.{kind}.{sensor}.{p}.
func subject(kind int, sensor string, partition int) string {
	return "portolan.v1.obs." + kindNames[kind] + "." + bus.SensorToken(sensor) + "." + strconv.Itoa(partition)
}

// filter returns the subject of all observations in a partition.
func filter(partition int) string { return "portolan.v1.obs.*.*." + strconv.Itoa(partition) }
