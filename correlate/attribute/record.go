// Package attribute joins hits with what endpoints said of their processes and sockets. It
// does no I/O, has no clock and starts no goroutine.
package attribute

import (
	"net/netip"

	"portolan/sensor/event"
)

// Kind says what a record tells.
type Kind uint8

// The kinds of record. Their texts are the {kind} token of an endpoint's subjects.
const (
	Connect Kind = iota // a process began a TCP connection, or sent a socket's first datagram to an address
	Lookup              // a process asked a DNS question
	Host                // what the host says of itself: addresses, boot, what its source can see and what it lost
)

var kindNames = [...]string{Connect: "connect", Lookup: "lookup", Host: "host"}

// String returns "connect", "lookup" or "host".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Result says what became of an attempt to connect, as far as the source saw it.
type Result string

// The results. A source that cannot tell leaves the result empty.
const (
	Connected  Result = "connected"   // the call, or the handshake, succeeded
	InProgress Result = "in-progress" // non-blocking: the call returned before the handshake was over (EINPROGRESS)
	Refused    Result = "refused"     // RST or ICMP came back
	TimedOut   Result = "timed-out"   // nothing came back
	Failed     Result = "failed"      // any other error; Errno has its number
	Sent       Result = "sent"        // a datagram left
)

// Record is what an endpoint said once. Fields that its source does not know have their zero
// value: an auditd connect has no local address and port, for example.
type Record struct {
	ID     string     // names the record for ever, 1 to 64 of [0-9A-Za-z._:-]; made of its facts, so that a record sent twice is known
	Kind   Kind       //
	HostID string     // who says so: one subject token, such as a machine id
	Host   string     // the host's name, for people
	Source string     // how it was learned: "ebpf", "auditd", "tetragon", "falco", "sysmon", "ecs", "osquery", "laurel"
	Time   event.Time // by the endpoint's clock

	// Of a Connect, and the DNS server's socket of a Lookup.
	Proto  event.Proto
	Local  netip.AddrPort // the port is 0 and the address may be invalid when unknown
	Remote netip.AddrPort
	Result Result
	Errno  uint16
	// CommunityID is what a source gave that names a flow and not its sockets, such as "1:…"; a
	// record with both sockets needs none.
	CommunityID string

	Query string // of a Lookup: the name asked for, lower case, no last dot

	Process Process
	About   *HostFacts // of a Host record only
}

// Process is who made a call. A pid means nothing without Start, as pids are used again.
type Process struct {
	PID        uint32     // in the host's initial pid namespace; 0 when unknown
	Start      event.Time // when it began, by the endpoint's clock; 0 when unknown
	Name       string     // comm: at most 15 bytes on Linux
	Executable string     // path in the process's own mount namespace
	SHA256     string     // of the executable, 64 lower-case hex digits; empty when it was not readable
	Args       []string   // bounded by whoever made the record
	Dir        string     // working directory

	UID, LoginUID       uint32 // valid when HasUID and HasLoginUID; a login uid of 2^32−1 is "not set", so none
	HasUID, HasLoginUID bool
	User                string // UID's name on that host

	Parent      Parent
	Cgroup      string // path in the unified hierarchy
	ContainerID string // 64 hex digits as runtimes give them, taken from the cgroup
	Container   string // name of the container or pod, when the source knows it
	NetNS       uint64 // inode of the network namespace; 0 when unknown
}

// Parent is the process that a process came from.
type Parent struct {
	PID        uint32
	Start      event.Time
	Name       string
	Executable string
}

// HostFacts is what a host says of itself, now and then and when it changes.
type HostFacts struct {
	Addresses []netip.Addr // configured in the initial network namespace and in those of its containers; no loopback
	Boot      event.Time   // when the kernel started
	Interval  int64        // ns until the next such record, at most; silence beyond it means that the agent is away
	Kernel    string
	Agent     string   // version of Portolan
	Sees      []string // what the source can tell, in words such as "connect", "local-port", "netns"
	Blind     []string // what it cannot, and why
	Lost      uint64   // records lost on this host since the agent started
	Refused   uint64   // lines or messages of a foreign source that could not be used
}
