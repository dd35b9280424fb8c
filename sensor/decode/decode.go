package decode

import (
	"net/netip"
	"slices"

	"portolan/sensor/event"
)

// Decoder turns frames into events. It keeps what one frame cannot tell, all of it bounded
// by Config. One goroutine at a time may use it.
type Decoder struct {
	// Of the frame at hand.
	sink    event.Sink
	now     event.Time
	number  uint64
	place         // of the packet that was reached
	cut     bool  // not all of the frame was captured
	headers int   // taken off by descend, at most maxHeaders
	hops    uint8 // TTL or hop limit of the IP packet read last

	keys      keys
	starts    starts
	flows     flows
	fragments assemblies
	streams   assemblies

	special    portSet // a datagram between other ports is no tunnel's and names no host
	vxlanPorts []uint16

	// A datagram put together, perhaps with others inside; where the addresses of that packet are kept
	// when they lay in the bytes that it took the place of; and a DNS message put together.
	datagram []byte
	addrs    [32]byte
	message  []byte

	dns    scanner
	conn   event.Connection
	lookup event.Lookup
	naming event.Naming
	called [maxName]byte // the name in naming

	counters Counters
	touched  uint64 // what DecodeAll reads to have it in the cache; without meaning
}

// New returns a Decoder with empty tables. Its hashes are seeded anew each time, so that
// nobody can aim frames at one bucket of a table.
func New(cfg Config) (*Decoder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Decoder{
		keys:       newKeys(),
		special:    specialPorts(cfg.VXLANPorts),
		vxlanPorts: slices.Clone(cfg.VXLANPorts),
		datagram:   make([]byte, maxMessage),
		message:    make([]byte, 2+maxMessage),
	}
	c := &d.counters
	d.starts = newStarts(cfg.Starts, &c.StartsEvicted, &c.Copies)
	d.flows = newFlows(cfg.Flows, &c.FlowsEvicted)
	d.fragments = newAssemblies(cfg.Fragments, cfg.FragmentBytes, fragmentWindow, &c.FragmentsEvicted, &c.FragmentsEvicted)
	d.streams = newAssemblies(cfg.Streams, cfg.StreamBytes, streamWindow, &c.StreamsEvicted, &c.StreamsCut)
	d.dns = newScanner()
	return d, nil
}

// maxMessage is the length of the longest datagram and of the longest DNS message.
const maxMessage = 65535

// Decode hands the events that f gives to the sink, at most one connection and any number
// of lookups, and says what became of f. What it hands over holds until the sink returns.
// It accepts any bytes at all, with times in any order.
func (d *Decoder) Decode(f *Frame, sink event.Sink) Reason {
	d.now, d.number = f.Time, f.Number
	d.cut = f.Len > len(f.Data)
	d.sink, d.headers = sink, 0
	d.place = place{zone: event.Zone{Point: f.Point}, zoneKey: uint64(f.Point)}
	if f.HasVLAN {
		d.tag(f.VLAN)
	}
	if f.Link == Ethernet {
		return d.ethernet(f.Data)
	}
	return d.link(f.Link, f.Data)
}

// Counters returns the counts so far.
func (d *Decoder) Counters() Counters { return d.counters }

// short is the reason of a frame that ends too early: cut by the capture length, or else
// what the header says is not true.
func (d *Decoder) short(bad Reason) Reason {
	if d.cut {
		return Truncated
	}
	return bad
}

// connection hands a connection to the sink: from source to destination, or reversed when
// the packet at hand is the answer to what opened it.
func (d *Decoder) connection(proto event.Proto, start event.Start, e endpoints) {
	d.counters.Connections++
	c := &d.conn
	c.Time, c.Zone, c.Frame, c.Proto, c.Start = d.now, d.zone, d.number, proto, start
	c.Src, c.Dst = e.addrPorts()
	c.Hops = d.hops
	from := d.from
	if start == event.SYNACK {
		c.Src, c.Dst, from, c.Hops = c.Dst, c.Src, d.to, 0
	}
	from.put(&c.MAC)
	d.sink.Connection(c)
}

// addrPorts returns source and destination.
func (e endpoints) addrPorts() (src, dst netip.AddrPort) {
	if len(e.addrs) == 2*4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(e.addrs)), e.src),
			netip.AddrPortFrom(netip.AddrFrom4([4]byte(e.addrs[4:])), e.dst)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(e.addrs)), e.src),
		netip.AddrPortFrom(netip.AddrFrom16([16]byte(e.addrs[16:])), e.dst)
}
