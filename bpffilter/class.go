package bpffilter

// Class says what a frame is to the filter. Each frame is of exactly one class.
type Class uint8

// The classes: first those that are dropped, then those that pass.
const (
	NotIP    Class = iota // no IP packet, a header that contradicts itself, or cut short
	Protocol              // an IP protocol that opens nothing: ICMP, ESP and the like
	Segment               // a TCP segment within a connection
	Repeat                // a UDP datagram of a flow that passed moments ago; only with a memory of flows

	Start    // a TCP segment with SYN
	DNS      // from port 53, or a UDP datagram or a SYN to it
	Datagram // a UDP datagram that may be the first of its flow
	Naming   // ARP, neighbour discovery, DHCP, multicast DNS, NetBIOS names: who holds an address
	Fragment // a piece of an IP packet
	Tunnel   // another packet may lie inside
	Rest     // what would take long to tell

	NumClasses // how many there are; not one itself
)

var classNames = [NumClasses]string{
	NotIP: "not-ip", Protocol: "protocol", Segment: "tcp-segment", Repeat: "udp-repeat",
	Start: "tcp-start", DNS: "dns", Datagram: "udp", Naming: "naming", Fragment: "fragment", Tunnel: "tunnel", Rest: "rest",
}

// String returns the class as it stands in counts.
func (c Class) String() string {
	if c < NumClasses {
		return classNames[c]
	}
	return "class?"
}

// Passes reports whether frames of the class reach the rings.
func (c Class) Passes() bool { return c >= Start && c < NumClasses }

// startLen is what is kept of a frame of which only the headers count: Ethernet with two
// tags, the longest IPv4 header, and TCP's without its options take 102 bytes.
const startLen = 128

// keep returns how many bytes are kept of a frame of class c.
func (c Class) keep(snapLen uint32) uint32 {
	switch {
	case !c.Passes():
		return 0
	case c == Start || c == Datagram:
		return min(startLen, snapLen)
	}
	return snapLen
}

// Count is how many frames there were, and how many bytes in them.
type Count struct{ Frames, Bytes uint64 }

// Counts are the frames of each class.
type Counts [NumClasses]Count

// Passed returns the sum over the classes that pass.
func (c *Counts) Passed() Count { return c.sum(true) }

// Dropped returns the sum over the classes that do not.
func (c *Counts) Dropped() Count { return c.sum(false) }

func (c *Counts) sum(passes bool) (s Count) {
	for class, n := range c {
		if Class(class).Passes() == passes {
			s.Frames += n.Frames
			s.Bytes += n.Bytes
		}
	}
	return s
}

// Add adds n.
func (c *Counts) Add(n *Counts) {
	for i := range c {
		c[i].Frames += n[i].Frames
		c[i].Bytes += n[i].Bytes
	}
}
