package coverage

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"portolan/sensor/event"
)

// Traffic is what a Tally counted of all clients together.
type Traffic struct {
	Asked     uint64 // TCP connections and UDP flows to port 53
	SYN       uint64 // connections that began with a SYN
	SYNACK    uint64 // connections of which the SYN was not seen
	Datagrams uint64 // UDP flows
	DoT       uint64 // connections to TCP port 853 (RFC 7858)
	DoQ       uint64 // flows to UDP port 853 (RFC 9250)
	DoH       uint64 // connections and flows to port 443 of an address known to serve DNS over HTTPS (RFC 8484)
}

// Hidden returns how many connections carry DNS that nobody can look into.
func (t *Traffic) Hidden() uint64 { return t.DoT + t.DoQ + t.DoH }

// Zone is what was counted in one zone.
type Zone struct {
	Zone    event.Zone
	Lookups uint64
	Traffic
}

// The bounds of a Tally: of clients it remembers at most two generations, some 7 MB.
const (
	generation  = 1 << 15
	maxZones    = 256
	maxLearned  = 4096 // addresses of DNS over HTTPS that names led to
	manyServers = 8    // a client that asks so many servers resolves for others, or by itself
	manyFlips   = 4    // times that a client's Ethernet address went to another and back
	examples    = 8
)

// hiddenFor is how long a client that resolved where nobody can look is held to go on doing so.
const hiddenFor = event.Time(time.Hour)

// Tally tells from events which clients resolve where the sensor cannot see, which resolve for others, and which are
// perhaps several hosts. It is an event.Sink and an event.BatchSink; all methods may be called from any goroutine.
type Tally struct {
	mu       sync.Mutex
	sum      Traffic
	zones    map[event.Zone]*Zone
	zone     *Zone // of the last event
	now, old map[clientKey]*client
	servers  map[netip.Addr]struct{} // of DNS over HTTPS
	learned  int
	latest   event.Time
	events   uint64

	view   View // as of viewed
	viewed struct {
		events uint64
		at     event.Time
	}
}

// viewEvery is how long a View is kept while there are not many more events: it means to look at every client.
const viewEvery = event.Time(10 * time.Second)

type clientKey struct {
	addr netip.Addr
	zone event.Zone
}

// client is what is remembered of one client.
type client struct {
	lookups, connections uint32
	hidden               [len(hiddenNames)]uint32
	servers              uint64     // a bit for each DNS server asked, by a hash of six bits
	hiddenAt             event.Time // newest of what hidden counts
	mac, before          event.MAC
	flips                uint8
	paths                paths
}

// The ways to resolve out of sight.
const (
	dot = iota
	doq
	doh
)

var hiddenNames = [...]string{dot: "DNS over TLS", doq: "DNS over QUIC", doh: "DNS over HTTPS"}

// NewTally returns a Tally that has seen nothing.
func NewTally() *Tally {
	t := &Tally{zones: map[event.Zone]*Zone{}, now: map[clientKey]*client{}, servers: map[netip.Addr]struct{}{}}
	for _, a := range dohAddresses {
		t.servers[netip.MustParseAddr(a)] = struct{}{}
	}
	return t
}

// Batch takes the events of a batch.
func (t *Tally) Batch(b *event.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range b.Len() {
		if l, c := b.At(i); l != nil {
			t.lookup(l)
		} else {
			t.connection(c)
		}
	}
}

// Lookup takes a lookup.
func (t *Tally) Lookup(l *event.Lookup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lookup(l)
}

// Connection takes a connection.
func (t *Tally) Connection(c *event.Connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.connection(c)
}

func (t *Tally) lookup(l *event.Lookup) {
	t.latest = max(t.latest, l.Time)
	t.events++
	t.in(l.Zone).Lookups++
	c := t.client(clientKey{l.Client.Addr(), l.Zone})
	c.lookups++
	c.servers |= serverBit(l.Resolver.Addr())
	if _, ok := dohNames[string(l.Name)]; ok {
		for i := range l.Records {
			if a := l.Records[i].Addr; a.IsValid() && t.learned < maxLearned {
				if _, known := t.servers[a]; !known {
					t.servers[a] = struct{}{}
					t.learned++
				}
			}
		}
	}
}

func (t *Tally) connection(x *event.Connection) {
	t.latest = max(t.latest, x.Time)
	t.events++
	zone, c := t.in(x.Zone), t.client(clientKey{x.Src.Addr(), x.Zone})
	c.connections++
	switch x.Start {
	case event.SYN:
		zone.SYN++
		t.sum.SYN++
	case event.SYNACK:
		zone.SYNACK++
		t.sum.SYNACK++
	default:
		zone.Datagrams++
		t.sum.Datagrams++
	}
	if x.Start == event.SYN && x.Proto == event.TCP {
		c.paths.add(x.Hops)
	}
	if x.Start != event.SYNACK && x.MAC != c.mac { // the way back may go through another router
		if x.MAC == c.before && c.flips < manyFlips {
			c.flips++
		}
		c.before, c.mac = c.mac, x.MAC
	}
	switch x.Dst.Port() {
	case 53:
		zone.Asked++
		t.sum.Asked++
		c.servers |= serverBit(x.Dst.Addr())
	case 853:
		if x.Proto == event.TCP {
			zone.DoT++
			t.sum.DoT++
			c.hide(dot, x.Time)
		} else {
			zone.DoQ++
			t.sum.DoQ++
			c.hide(doq, x.Time)
		}
	case 443:
		if _, ok := t.servers[x.Dst.Addr()]; ok {
			zone.DoH++
			t.sum.DoH++
			c.hide(doh, x.Time)
		}
	}
}

func (c *client) hide(how int, at event.Time) {
	c.hidden[how]++
	c.hiddenAt = max(c.hiddenAt, at)
}

// serverBit returns one of 64 bits for a server's address. Two servers share one now and then: the number of
// bits is at most that of the servers.
func serverBit(a netip.Addr) uint64 {
	b := a.As16()
	h := (binary.LittleEndian.Uint64(b[:8])*31 + binary.LittleEndian.Uint64(b[8:])) * 0x9e3779b97f4a7c15
	h = (h ^ h>>29) * 0xbf58476d1ce4e5b9 // nothing is gained by choosing addresses that collide
	return 1 << (h >> 58)
}

// in returns the counts of a zone; of those beyond maxZones together.
func (t *Tally) in(z event.Zone) *Zone {
	if t.zone != nil && t.zone.Zone == z {
		return t.zone
	}
	zone := t.zones[z]
	if zone == nil {
		zone = &Zone{Zone: z}
		if len(t.zones) < maxZones {
			t.zones[z] = zone
		}
	}
	t.zone = zone
	return zone
}

// client returns what is known of a client. One that was not seen while generation others were is forgotten.
func (t *Tally) client(k clientKey) *client {
	if c := t.now[k]; c != nil {
		return c
	}
	c := t.old[k]
	if c == nil {
		c = &client{}
	} else {
		delete(t.old, k)
	}
	if len(t.now) == generation {
		t.old, t.now = t.now, make(map[clientKey]*client, generation)
	}
	t.now[k] = c
	return c
}

// ClientView is what is known of one client.
type ClientView struct {
	Addr        netip.Addr
	Zone        event.Zone
	Connections uint64
	Lookups     uint64
	Hidden      []string // how it resolves out of sight, such as "DNS over TLS"
	Servers     int      // DNS servers that it asked, at least so many
	Alternates  bool     // it sends from two Ethernet addresses by turns
	NAT         string   // why several hosts are suspected behind it, "" when they are not
}

// Resolver reports whether the client asks so many servers that it resolves by itself, or for others.
func (c *ClientView) Resolver() bool { return c.Servers >= manyServers }

// Elsewhere reports whether the client resolves where the sensor cannot see, by one way or another.
func (c *ClientView) Elsewhere() bool { return len(c.Hidden) > 0 }

// Why returns what makes it hard to judge the client, "" when nothing does.
func (c *ClientView) Why() string {
	var why []string
	if c.Elsewhere() {
		why = append(why, strings.Join(c.Hidden, ", "))
	}
	if c.Resolver() {
		why = append(why, fmt.Sprintf("asks %d DNS servers or more, as a resolver does", c.Servers))
	}
	if c.Alternates {
		why = append(why, "sends from two Ethernet addresses by turns")
	}
	if c.NAT != "" {
		why = append(why, c.NAT)
	}
	return strings.Join(why, "; ")
}

func (c *client) view(k clientKey, now event.Time) ClientView {
	v := ClientView{
		Addr: k.addr, Zone: k.zone, Connections: uint64(c.connections), Lookups: uint64(c.lookups),
		Servers: bits.OnesCount64(c.servers), Alternates: c.flips >= manyFlips, NAT: c.paths.several(),
	}
	if now-c.hiddenAt <= hiddenFor {
		for how, n := range c.hidden {
			if n > 0 {
				v.Hidden = append(v.Hidden, hiddenNames[how])
			}
		}
	}
	return v
}

// View is what is known of the clients of one or several Tallies.
type View struct {
	Zones      []Zone
	Clients    uint64 // remembered
	Answered   uint64 // of those, got an answer that was seen
	Elsewhere  uint64 // resolve where the sensor cannot see
	Only       uint64 // of those, got no answer that was seen
	Resolvers  uint64 // ask many servers
	Alternates uint64 // send from two Ethernet addresses by turns
	NAT        uint64 // are suspected to be several hosts each
	Examples   []ClientView
}

// View returns what is known of all clients, with the busiest of those that are hard to judge as examples. It may be
// some seconds old; nothing in it may be changed.
func (t *Tally) View() View {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.events >= 2*t.viewed.events || t.latest-t.viewed.at >= viewEvery {
		t.view = t.look()
		t.viewed.events, t.viewed.at = max(t.events, 1), t.latest
	}
	return t.view
}

// look makes a View.
func (t *Tally) look() (v View) {
	for _, z := range t.zones {
		v.Zones = append(v.Zones, *z)
	}
	for _, m := range []map[clientKey]*client{t.now, t.old} {
		for k, c := range m {
			x := c.view(k, t.latest)
			v.Clients++
			if x.Lookups > 0 {
				v.Answered++
			}
			if x.Elsewhere() {
				v.Elsewhere++
				if x.Lookups == 0 {
					v.Only++
				}
			}
			if x.Resolver() {
				v.Resolvers++
			}
			if x.Alternates {
				v.Alternates++
			}
			if x.NAT != "" {
				v.NAT++
			}
			if x.Elsewhere() || x.Resolver() || x.Alternates || x.NAT != "" {
				v.Examples = append(v.Examples, x)
			}
		}
	}
	v.tidy()
	return v
}

// Add adds what another Tally knows.
func (v *View) Add(o *View) {
	v.Zones, v.Examples = slices.Clone(v.Zones), slices.Clone(v.Examples)
	for _, z := range o.Zones {
		i := slices.IndexFunc(v.Zones, func(x Zone) bool { return x.Zone == z.Zone })
		if i < 0 {
			v.Zones = append(v.Zones, z)
			continue
		}
		to := &v.Zones[i]
		to.Lookups += z.Lookups
		to.Traffic = to.Plus(&z.Traffic)
	}
	v.Clients += o.Clients
	v.Answered += o.Answered
	v.Elsewhere += o.Elsewhere
	v.Only += o.Only
	v.Resolvers += o.Resolvers
	v.Alternates += o.Alternates
	v.NAT += o.NAT
	v.Examples = append(v.Examples, o.Examples...)
	v.tidy()
}

// tidy puts zones and examples in order and keeps the busiest of the latter.
func (v *View) tidy() {
	slices.SortFunc(v.Zones, func(a, b Zone) int {
		return cmp.Or(cmp.Compare(a.Zone.Point, b.Zone.Point), cmp.Compare(a.Zone.Kind, b.Zone.Kind), cmp.Compare(a.Zone.ID, b.Zone.ID))
	})
	slices.SortFunc(v.Examples, func(a, b ClientView) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), a.Addr.Compare(b.Addr), cmp.Compare(a.Zone.ID, b.Zone.ID))
	})
	v.Examples = v.Examples[:min(len(v.Examples), examples)]
}

// Plus returns the sums of both.
func (t Traffic) Plus(o *Traffic) Traffic {
	return Traffic{
		t.Asked + o.Asked, t.SYN + o.SYN, t.SYNACK + o.SYNACK, t.Datagrams + o.Datagrams,
		t.DoT + o.DoT, t.DoQ + o.DoQ, t.DoH + o.DoH,
	}
}

// Traffic returns the sums over all clients.
func (t *Tally) Traffic() Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum
}

// Client returns what is known of one client; ok is false when nothing is.
func (t *Tally) Client(zone event.Zone, addr netip.Addr) (v ClientView, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := clientKey{addr, zone}
	c := t.now[k]
	if c == nil {
		c = t.old[k]
	}
	if c == nil {
		return ClientView{Addr: addr, Zone: zone}, false
	}
	return c.view(k, t.latest), true
}
