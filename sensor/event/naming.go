package event

import "net/netip"

// Via says which protocol told of a host.
type Via uint8

// The protocols that tell who holds an address, or what a host calls itself.
const (
	ARP     Via = iota // RFC 826: the sender of a request or a reply
	ND                 // neighbour discovery (RFC 4861): solicitations and advertisements
	DHCP               // RFC 2131: leases from acknowledgements, names from clients
	DHCPv6             // RFC 8415, RFC 4704
	MDNS               // RFC 6762: a host's own address records
	NetBIOS            // RFC 1002: a host's own registrations, refreshes and answers
	NumVias            // how many there are; not one itself
)

var viaNames = [NumVias]string{ARP: "arp", ND: "nd", DHCP: "dhcp", DHCPv6: "dhcpv6", MDNS: "mdns", NetBIOS: "netbios"}

// String returns the protocol in lower case.
func (v Via) String() string {
	if v < NumVias {
		return viaNames[v]
	}
	return "via?"
}

// Naming is what a frame says of a host by itself: who holds an address, and what it is called.
// A host says it of itself, and may lie; only a lease comes from a server.
type Naming struct {
	Time  Time
	Zone  Zone
	Via   Via
	Addr  netip.Addr // that the host holds; invalid when only a name was said of MAC
	MAC   MAC        // zero when the frame does not tell
	Name  []byte     // printable ASCII in lower case, no last dot; empty without one; aliases the decoder's buffer
	Lease uint32     // seconds from Time for which a server gave the address, 0 when none did
	Ended bool       // the host gave the address back
	Frame uint64     // number of the frame, from 1; 0 when unknown
}

// NamingSink is a Sink that wants namings, too. The pointer may not be kept after the call
// returns, nor what Name aliases.
type NamingSink interface {
	Sink
	Naming(*Naming)
}
