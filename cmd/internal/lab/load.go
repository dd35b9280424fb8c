package lab

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Mix is a kind of traffic that a Wire carries.
type Mix string

// The mixes.
const (
	MixSYN  Mix = "syn"  // TCP SYNs of 64 bytes
	MixDNS  Mix = "dns"  // DNS responses with one answer
	MixBulk Mix = "bulk" // segments and QUIC datagrams of 500 bytes, with 3 % SYNs and DNS responses
)

// Mixes returns all of them.
func Mixes() []Mix { return []Mix{MixSYN, MixDNS, MixBulk} }

// ParseMix returns the mix of that name.
func ParseMix(name string) (Mix, error) {
	if m := Mix(name); slices.Contains(Mixes(), m) {
		return m, nil
	}
	return "", fmt.Errorf("%q is no mix; there are %s, %s and %s", name, MixSYN, MixDNS, MixBulk)
}

// String says what the mix holds.
func (m Mix) String() string {
	var parts []string
	for _, k := range m.kinds() {
		parts = append(parts, fmt.Sprintf("%g %% %s of %d bytes", k.percent, k.name, len(k.image)+4))
	}
	return strings.Join(parts, ", ")
}

// Sent counts frames by what they are to a sensor.
type Sent struct {
	Frames      uint64
	Connections uint64 // frames that begin a TCP connection; of UDP flows there are few, and they stay
	Lookups     uint64 // frames that are a DNS response
}

// Traversed counts frames on their way over a wire.
type Traversed struct {
	Offered  Sent          // by the senders
	Arrived  uint64        // at the far end's device
	Rejected uint64        // of those, thrown away before any socket or program could see them
	CPU      time.Duration // that the senders took, with the kernel's work for the receiver; complete after Stop
}

// loadClients is how many hosts the frames of a mix come from, or go to, from 10.64.0.0 on; a power of two.
// Every one of them is another client to the correlator. All destinations are neighbours of all answers, so
// that nothing looks calculated.
const loadClients = 1 << 16

// quicFlows is how many UDP flows there are in a mix; a power of two.
const quicFlows = 1 << 13

// kind is one kind of frame: an image in which some bits are random in each copy.
type kind struct {
	name    string
	percent float64
	image   []byte // without check sequence
	random  []random
	counts  func(*Sent) *uint64 // what it adds to besides Frames; nil for nothing
}

// random is a big-endian word of which the bits in mask are drawn anew for each frame.
type random struct {
	at, size int // bytes; size is 2 or 4
	mask     uint32
	client   bool // it is a client's address, which Wire.SetClients changes
}

// Where things are in an Ethernet frame with IPv4 and no options.
const (
	atSource      = 26 // IPv4 addresses
	atDestination = 30
	atPorts       = 34
	atSequence    = 38 // TCP
	atMessage     = 42 // UDP payload
)

func (m Mix) kinds() []kind {
	switch m {
	case MixSYN:
		return []kind{synKind(100)}
	case MixDNS:
		return []kind{dnsKind(100)}
	}
	const size = 500 - 4 // and the check sequence
	data := kind{name: "TCP segments", percent: 67, image: pad(tcpImage(0x18), size), random: []random{
		{atSource, 4, loadClients - 1, true}, {atPorts, 2, 0x7fff, false}, {atSequence, 4, 1<<32 - 1, false},
	}}
	quic := kind{name: "QUIC datagrams", percent: 30, image: pad(udpImage(50000, 443, size-atMessage), size), random: []random{
		{atSource, 4, quicFlows - 1, true},
	}}
	return []kind{data, quic, synKind(2), dnsKind(1)}
}

// synKind is a TCP SYN to one of 256 servers.
func synKind(percent float64) kind {
	return kind{name: "SYNs", percent: percent, image: pad(tcpImage(0x02), 60),
		random: []random{
			{atSource, 4, loadClients - 1, true}, {atDestination, 4, 0xff, false}, {atPorts, 2, 0x7fff, false}, {atSequence, 4, 1<<32 - 1, false},
		},
		counts: func(s *Sent) *uint64 { return &s.Connections },
	}
}

// dnsKind is a response: a name of eight random letters has one of 256 addresses.
func dnsKind(percent float64) kind {
	message := []byte{0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}
	name := len(message)
	message = append(message, "\x08aaaaaaaa\x07example\x00\x00\x01\x00\x01"...)
	message = append(message, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 0)
	b := append(udpImage(53, 0x8000, len(message)), message...)
	copy(b[atSource:], []byte{192, 0, 2, 53})
	copy(b[atDestination:], []byte{10, 64, 0, 0})
	return kind{name: "DNS responses", percent: percent, image: b,
		random: []random{
			{atDestination, 4, loadClients - 1, true}, {atPorts + 2, 2, 0x7fff, false}, {atMessage, 2, 0xffff, false},
			{atMessage + name + 1, 4, 0x0e0e0e0e, false}, {atMessage + name + 5, 4, 0x0e0e0e0e, false}, // from 'a' to 'o'
			{len(b) - 2, 2, 0xff, false},
		},
		counts: func(s *Sent) *uint64 { return &s.Lookups },
	}
}

// ipImage is an Ethernet and an IPv4 header from a client to a server.
func ipImage(proto byte, payload int) []byte {
	b := []byte{
		0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00,
		0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, proto, 0, 0, 10, 64, 0, 0, 198, 51, 100, 0,
	}
	binary.BigEndian.PutUint16(b[16:], uint16(20+payload))
	return b
}

func tcpImage(flags byte) []byte {
	payload := 20
	if flags&0x02 == 0 {
		payload = 500 - 4 - atPorts
	}
	return append(ipImage(6, payload), 0x80, 0, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
}

func udpImage(from, to uint16, payload int) []byte {
	b := ipImage(17, 8+payload)
	b = binary.BigEndian.AppendUint16(b, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+payload))
	return append(b, 0, 0)
}

// pad returns b with as many zeros as make it size bytes long.
func pad(b []byte, size int) []byte { return append(b, make([]byte, size-len(b))...) }
