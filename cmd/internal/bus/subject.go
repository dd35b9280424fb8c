package bus

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// subjectRoot starts every subject; the version stands second, so that permissions and streams can name it.
const subjectRoot = "portolan.v1"

// maxSensor bounds a sensor's name in bytes.
const maxSensor = 64

// Subject returns where a hit of a level is published: portolan.v1.hit.{level}.{sensor}.{host}.
func Subject(level, sensor string, host netip.Addr) string {
	return subjectRoot + ".hit." + level + "." + SensorToken(sensor) + "." + HostToken(host)
}

// EnrichedSubject returns where later revisions of a hit are published:
// portolan.v1.enriched.{level}.{sensor}.{host}.
func EnrichedSubject(level, sensor string, host netip.Addr) string {
	return subjectRoot + ".enriched." + level + "." + SensorToken(sensor) + "." + HostToken(host)
}

// CoverSubject returns where a sensor's coverage records are published.
func CoverSubject(sensor string) string { return subjectRoot + ".cover." + SensorToken(sensor) }

// StatSubject returns where a sensor's heartbeats are published.
func StatSubject(sensor string) string { return subjectRoot + ".stat." + SensorToken(sensor) }

// HostToken returns an address as one subject token: lower-case hex, 8 digits for IPv4 and
// 32 for IPv6. IPv4-mapped addresses are IPv4; the IPv6 zone is left out. "0" stands for the
// invalid address.
func HostToken(a netip.Addr) string {
	if !a.IsValid() {
		return "0"
	}
	return hex.EncodeToString(a.Unmap().AsSlice())
}

// ValidateSensor reports whether name can stand in a subject as it is: 1 to 64 letters,
// digits, hyphens and underscores of ASCII.
func ValidateSensor(name string) error {
	if name == "" || SensorToken(name) != name {
		return fmt.Errorf("sensor name %q: 1 to %d letters, digits, - and _ are allowed", name, maxSensor)
	}
	return nil
}

// SensorToken returns name as one subject token, with a hyphen for every byte that
// ValidateSensor does not allow, "sensor" for the empty name. A host name serves so.
func SensorToken(name string) string {
	if name == "" {
		return "sensor"
	}
	name = name[:min(len(name), maxSensor)]
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, name)
}
