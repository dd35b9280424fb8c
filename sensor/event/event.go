// Package event holds what Portolan makes of frames: lookups and connections, and
// their text form. They are plain values; the package imports the standard library
// only, so that subscribers can use it without taking the sensor along.
package event

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Time is a moment in nanoseconds since 1970-01-01 UTC, as the kernel or the capture
// file stamped it.
type Time int64

// Add returns t moved by d.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub returns the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// UTC returns t as a time.Time in UTC.
func (t Time) UTC() time.Time { return time.Unix(0, int64(t)).UTC() }

// TimeOf returns the Time of u.
func TimeOf(u time.Time) Time { return Time(u.UnixNano()) }

// Proto is a transport protocol by its IANA number.
type Proto uint8

// The transports that connections use.
const (
	TCP Proto = 6
	UDP Proto = 17
)

// String returns "tcp", "udp" or the number.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return strconv.Itoa(int(p))
}

// TagKind says what kind of identifier separates a zone from others at the same
// observation point.
type TagKind uint16

// The kinds of outermost tag. Untagged frames have none.
const (
	Untagged TagKind = iota
	VLAN             // IEEE 802.1Q VLAN identifier, 1 to 4094
	VNI              // VXLAN, NVGRE or Geneve network identifier
	ERSPAN           // ERSPAN session identifier
)

// Zone is where a host was seen: the observation point (RFC 7011) and the outermost
// tag there. One address in two zones is two hosts.
type Zone struct {
	Point uint16 // observation point, numbered by the sensor; 0 in capture files
	Kind  TagKind
	ID    uint32 // 0 when Kind is Untagged
}

var tagNames = [...]string{Untagged: "", VLAN: "vlan", VNI: "vni", ERSPAN: "erspan"}

// String returns the zone as "POINT" or "POINT/KINDid", such as "0" or "0/vlan12".
func (z Zone) String() string {
	p := strconv.Itoa(int(z.Point))
	if z.Kind == Untagged || int(z.Kind) >= len(tagNames) {
		return p
	}
	return p + "/" + tagNames[z.Kind] + strconv.FormatUint(uint64(z.ID), 10)
}

// ParseZone reads what Zone.String writes.
func ParseZone(s string) (Zone, error) {
	point, tag, tagged := strings.Cut(s, "/")
	p, err := strconv.ParseUint(point, 10, 16)
	if err != nil {
		return Zone{}, fmt.Errorf("zone %q: the observation point is a number from 0 to 65535", s)
	}
	z := Zone{Point: uint16(p)}
	if !tagged {
		return z, nil
	}
	for k := VLAN; k <= ERSPAN; k++ {
		digits, ok := strings.CutPrefix(tag, tagNames[k])
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			break
		}
		z.Kind, z.ID = k, uint32(id)
		return z, nil
	}
	return Zone{}, fmt.Errorf("zone %q: the tag is vlanN, vniN or erspanN", s)
}

// MAC is an Ethernet address; the zero value means that none was seen.
type MAC [6]byte

// String returns the address as six hex octets with colons, or "" for the zero value.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Type is a DNS record or query type by its IANA number.
type Type uint16

// The record types that a Lookup carries.
const (
	A     Type = 1   // RFC 1035
	CNAME Type = 5   // RFC 1035
	TXT   Type = 16  // RFC 1035
	AAAA  Type = 28  // RFC 3596
	SRV   Type = 33  // RFC 2782
	NAPTR Type = 35  // RFC 3403
	SVCB  Type = 64  // RFC 9460
	HTTPS Type = 65  // RFC 9460
	URI   Type = 256 // RFC 7553
	AXFR  Type = 252 // RFC 5936; never a lookup
	IXFR  Type = 251 // RFC 1995; never a lookup
	// Hint is not on the wire: one ipv4hint or ipv6hint address of the SVCB or HTTPS
	// record before it (RFC 9460, section 7.3). The number is from the private range.
	Hint Type = 65280
)

// Record is one record of a lookup's answer section. Its slices alias the decoder's
// buffer: they hold until the Sink returns.
type Record struct {
	Type   Type
	Port   uint16     // SRV port, or the port of SVCB and HTTPS; 0 when there is none
	TTL    uint32     // seconds
	Addr   netip.Addr // A, AAAA and Hint
	Owner  []byte     // lower case, no last dot, "." for the root
	Target []byte     // CNAME, SRV, SVCB, HTTPS target or NAPTR replacement; written as Owner
	Text   []byte     // TXT: the strings joined; NAPTR: services, a space, regexp; URI: the target
}

// Lookup is a DNS response on its way to a client: QR=1, opcode 0, from port 53,
// whatever its RCODE, no zone transfer. Its slices alias the decoder's buffer and hold
// until the Sink returns.
type Lookup struct {
	Time      Time // of the frame that completed the message
	Zone      Zone
	Client    netip.AddrPort // destination of the response
	Resolver  netip.AddrPort // source of the response
	MAC       MAC            // the frame's destination
	Frame     uint64         // number of the frame, from 1; 0 when unknown
	Proto     Proto
	ID        uint16
	Type      Type   // QTYPE of the first question, 0 without one
	Name      []byte // QNAME of the first question: lower case, no last dot, "." for the root; empty without one
	RCode     uint8  // 0 to 15
	Truncated bool   // TC: the message held less than the resolver had to say
	Records   []Record
}

// Start says what began a connection.
type Start uint8

// What a connection starts with.
const (
	SYN      Start = iota // SYN without ACK, RST or FIN
	SYNACK                // only the answer was seen; source and destination are the client's and the server's all the same
	Datagram              // first UDP datagram between two endpoints, or the first after 60 s of silence
)

// String returns "syn", "synack" or "udp".
func (s Start) String() string {
	switch s {
	case SYN:
		return "syn"
	case SYNACK:
		return "synack"
	}
	return "udp"
}

// Connection is a client's first packet to a server.
type Connection struct {
	Time     Time
	Zone     Zone
	Src, Dst netip.AddrPort // client and server
	MAC      MAC            // the frame's source, or its destination when Start is SYNACK
	Frame    uint64         // number of the frame, from 1; 0 when unknown
	Proto    Proto
	Start    Start
	Hops     uint8 // TTL or hop limit of the client's packet; 0 when unknown, and of a SYNACK, which is the server's
}

// Sink takes events as they are decoded. Neither pointer may be kept after the call
// returns, nor what a Lookup's slices alias. A Sink is called by one goroutine at a time
// unless its documentation says more.
type Sink interface {
	Lookup(*Lookup)
	Connection(*Connection)
}
