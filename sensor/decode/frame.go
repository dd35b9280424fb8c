// Package decode turns frames into events: DNS responses into lookups, first packets into
// connections. It is total, allocates nothing per frame once its buffers are warm, and
// keeps bounded state for what one frame cannot tell: flow starts, fragments, and DNS
// over TCP.
package decode

import (
	"fmt"

	"portolan/sensor/event"
)

// LinkType says how a frame begins, by its LINKTYPE_ number as in capture files.
type LinkType uint16

// The link types that Decode takes apart; frames of any other end in LinkTypeUnknown.
const (
	Null     LinkType = 0   // BSD loopback: address family in the byte order of the capturing host
	Ethernet LinkType = 1   // also with 802.1Q, 802.1ad and Q-in-Q tags
	Raw12    LinkType = 12  // raw IP, as some systems number it
	Raw14    LinkType = 14  // raw IP, as OpenBSD numbers it
	Raw      LinkType = 101 // raw IP, version 4 or 6
	Loop     LinkType = 108 // OpenBSD loopback: address family in network byte order
	SLL      LinkType = 113 // Linux "cooked" capture, version 1
	IPv4     LinkType = 228 // raw IPv4
	IPv6     LinkType = 229 // raw IPv6
	SLL2     LinkType = 276 // Linux "cooked" capture, version 2

	PPP      LinkType = 9   // RFC 1661, with or without address and control
	FDDI     LinkType = 10  // ISO 9314-2
	PPPHDLC  LinkType = 50  // RFC 1662, or Cisco's HDLC
	PPPEther LinkType = 51  // PPPoE from its own header on
	CHDLC    LinkType = 104 // Cisco's HDLC (RFC 1547, section 4.3.1)
	WiFi     LinkType = 105 // IEEE 802.11
	Prism    LinkType = 119 // 802.11 behind a Prism header
	Radiotap LinkType = 127 // 802.11 behind a radiotap header
	AVS      LinkType = 163 // 802.11 behind an AVS header
	PPI      LinkType = 192 // per-packet information, then a link type that it names
	NFLOG    LinkType = 239 // Linux netfilter log
)

// Frame is one frame as captured.
type Frame struct {
	Time    event.Time
	Data    []byte // from the link header on; not kept after Decode returns
	Len     int    // length on the wire in bytes, not below len(Data)
	Number  uint64 // from 1, for people; goes into events as it is
	Link    LinkType
	Point   uint16 // observation point
	VLAN    uint16 // tag control information of the tag that the kernel took off; only with HasVLAN
	HasVLAN bool
}

// Reason says what became of a frame. Every frame has exactly one.
type Reason uint8

// The reasons. A frame that gave any event is an Event, whatever else it held.
const (
	Event           Reason = iota // a lookup, a connection, or both
	Truncated                     // the capture length cut off what would have decided
	LinkTypeUnknown               // the frame's link type is not one that Decode takes apart
	NotIP                         // ARP, LLDP, spanning tree and the like
	BadIP                         // an IP header that contradicts itself
	FragmentHeld                  // kept until the rest of its datagram comes
	FragmentDropped               // a fragment that can never be completed, or comes again
	Tunnel                        // a tunnel that holds no IP packet, or one nested too deep to follow
	ICMP                          // ICMP and ICMPv6; packets quoted inside do not count
	Transport                     // an IP protocol other than TCP, UDP and ICMP
	BadTransport                  // a TCP or UDP header that contradicts itself
	NotOpening                    // a TCP segment that neither opens a connection nor comes from port 53 with data
	Repeat                        // a SYN or SYN+ACK of a connection already reported
	StreamHeld                    // DNS over TCP: a part of a message that is not complete yet
	StreamOld                     // DNS over TCP: only bytes that were there already
	StreamUnsynced                // DNS over TCP: no start of a message known, none found here
	Flow                          // a UDP datagram of a flow already reported
	DNSNotLookup                  // a message from port 53 that is a query, or of another opcode
	DNSTransfer                   // part of a zone transfer
	DNSMalformed                  // a message from port 53 without a readable header and question
	NumReasons                    // how many reasons there are; not one itself
)

var reasonNames = [NumReasons]string{
	Event:           "event",
	Truncated:       "truncated",
	LinkTypeUnknown: "link-type",
	NotIP:           "not-ip",
	BadIP:           "bad-ip",
	FragmentHeld:    "fragment-held",
	FragmentDropped: "fragment-dropped",
	Tunnel:          "tunnel",
	ICMP:            "icmp",
	Transport:       "transport",
	BadTransport:    "bad-transport",
	NotOpening:      "tcp-not-opening",
	Repeat:          "tcp-repeat",
	StreamHeld:      "tcp-dns-held",
	StreamOld:       "tcp-dns-old",
	StreamUnsynced:  "tcp-dns-unsynced",
	Flow:            "udp-flow",
	DNSNotLookup:    "dns-not-lookup",
	DNSTransfer:     "dns-transfer",
	DNSMalformed:    "dns-malformed",
}

// String returns the reason as it stands in counts: lower case, words joined by hyphens.
func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d?", uint8(r))
}

// Counters say what a Decoder saw beyond the reasons. Each counts from New on.
type Counters struct {
	Queries     uint64 // DNS queries to port 53, over UDP, or seen at the start of a TCP segment
	Responses   uint64 // DNS responses from port 53, over UDP or complete over TCP
	Namings     uint64 // what frames said of hosts, handed to the Sink
	Iterative   uint64 // of those, to questions that did not ask for recursion, as resolvers ask authoritative servers
	Lookups     uint64 // responses handed to the Sink
	Connections uint64 // connections handed to the Sink
	SYN         uint64 // frames with SYN and none of ACK, RST, FIN, repeats included
	SYNACK      uint64 // frames with SYN and ACK and none of RST, FIN, repeats included
	Copies      uint64 // of SYN, those that came again within 100 ms: no host repeats one so soon, a mirror of two ports does

	DNSPartial    uint64 // lookups that gave only the records before a cut or a malformed one
	DNSMalformed  uint64 // messages from port 53 without a readable header and question
	DNSOverBudget uint64 // of those partial: more names than a message of its length is worth

	StartsEvicted    uint64 // TCP starts forgotten before 120 s: a repeat of one would count again
	FlowsEvicted     uint64 // UDP flows forgotten before 60 s of silence: the next datagram would count as a start
	FragmentsEvicted uint64 // incomplete datagrams that made room for others
	FragmentsExpired uint64 // incomplete datagrams found after 60 s
	Reassembled      uint64 // datagrams completed from fragments

	Tunnels        [NumTunnelKinds]uint64 // tunnels taken apart down to an IP packet, by kind
	TunnelsTooDeep uint64                 // frames given up because of too many headers in a row

	StreamsEvicted uint64 // DNS streams over TCP that made room for others within 120 s
	StreamsCut     uint64 // DNS streams that lost held bytes to a full buffer
	StreamHoles    uint64 // holes in DNS streams given up for lost
}
