package attribute

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"portolan/sensor/event"
)

// How long what a frame said of a host holds without being said again.
const (
	holds     = 4 * event.Time(time.Hour)   // that a host holds an address, without a lease
	isCalled  = 24 * event.Time(time.Hour)  // that it has a name
	before    = 5 * event.Time(time.Minute) // how much earlier it was true, at least
	alongside = event.Time(time.Minute)     // two hosts that take turns within it contest an address
)

// maxHolders bounds the holders that are remembered of one address, the newest count.
const maxHolders = 4

// HostsConfig bounds what is remembered.
type HostsConfig struct {
	Addresses int // from 1; about 400 bytes each when all have names
}

// DefaultHostsConfig returns bounds for a site of some ten thousand hosts.
func DefaultHostsConfig() HostsConfig { return HostsConfig{Addresses: 1 << 16} }

// Validate names the field that cannot be.
func (c HostsConfig) Validate() error {
	if c.Addresses < 1 {
		return fmt.Errorf("addresses %d: want at least 1", c.Addresses)
	}
	return nil
}

// Hosts remembers what frames said of hosts by themselves: who held an address when, and what it
// was called. Its methods are safe for concurrent use.
type Hosts struct {
	cfg HostsConfig

	mu      sync.Mutex
	places  map[hostKey]*hostPlace
	called  map[cardKey]HostName // what cards called themselves when they asked for a lease
	evicted uint64
}

type hostKey struct {
	zone event.Zone
	addr netip.Addr
}

type cardKey struct {
	zone event.Zone
	mac  event.MAC
}

// hostPlace is one address of a zone.
type hostPlace struct {
	holders []holder                // in the order of since
	names   [event.NumVias]HostName // that were said of the address itself; without a text when not
	latest  event.Time              // of all that was said
}

// holder is a host that held an address.
type holder struct {
	mac         event.MAC
	via         event.Via
	since, last event.Time
	lease       event.Time // when the lease ends, 0 without one
	ended       event.Time // when it was given back, 0 when it was not
}

// until returns the moment after which nothing says that the holder still is one.
func (h *holder) until() event.Time {
	if h.ended != 0 {
		return h.ended
	}
	return max(h.last+holds, h.lease)
}

// HostName is a name, and when and how it was last said.
type HostName struct {
	Text string
	Via  event.Via
	Seen event.Time
}

// HostHolder says who held an address at some moment, as far as frames told.
type HostHolder struct {
	MAC         event.MAC // zero when only names are known
	Via         event.Via // of MAC
	Since, Last event.Time
	Lease       event.Time // when the lease ends, 0 without one
	Contested   bool       // another card claimed the address at about the same time
	Names       []HostName // newest first
}

// NewHosts returns an empty Hosts.
func NewHosts(cfg HostsConfig) (*Hosts, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	return &Hosts{cfg: cfg, places: map[hostKey]*hostPlace{}, called: map[cardKey]HostName{}}, nil
}

// Observe takes note of a naming, and keeps nothing of it.
func (s *Hosts) Observe(n *event.Naming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leased := n.Via == event.DHCP || n.Via == event.DHCPv6
	if leased && len(n.Name) > 0 && n.MAC != (event.MAC{}) {
		k := cardKey{n.Zone, n.MAC}
		if have, ok := s.called[k]; !ok || have.Text != string(n.Name) || n.Time > have.Seen {
			s.evicted += makeRoom(s.called, s.cfg.Addresses, k, func(v HostName) event.Time { return v.Seen })
			s.called[k] = HostName{Text: have.keep(n.Name), Via: n.Via, Seen: n.Time}
		}
	}
	if !n.Addr.IsValid() {
		return
	}
	k := hostKey{n.Zone, n.Addr}
	p := s.places[k]
	if p == nil {
		s.evicted += makeRoom(s.places, s.cfg.Addresses, k, func(p *hostPlace) event.Time { return p.latest })
		p = &hostPlace{latest: n.Time}
		s.places[k] = p
	}
	p.latest = max(p.latest, n.Time)
	if n.MAC != (event.MAC{}) {
		p.held(n)
	}
	if !leased && len(n.Name) > 0 {
		if name := &p.names[n.Via]; n.Ended {
			*name = HostName{}
		} else if n.Time >= name.Seen {
			*name = HostName{Text: name.keep(n.Name), Via: n.Via, Seen: n.Time}
		}
	}
}

// keep returns name as text, without a copy when it is the one at hand.
func (n *HostName) keep(name []byte) string {
	if n.Text == string(name) {
		return n.Text
	}
	return string(name)
}

// held takes note of who holds the address.
func (p *hostPlace) held(n *event.Naming) {
	var h *holder
	for i := range p.holders {
		if x := &p.holders[i]; x.mac == n.MAC && x.ended == 0 && n.Time <= x.until() && n.Time >= x.since-before {
			h = x
		}
	}
	switch {
	case h != nil:
		h.since, h.last = min(h.since, n.Time), max(h.last, n.Time)
	case n.Ended:
		return // given back by whom we never saw hold it
	default:
		at := len(p.holders)
		for at > 0 && p.holders[at-1].since > n.Time {
			at--
		}
		p.holders = slices.Insert(p.holders, at, holder{mac: n.MAC, via: n.Via, since: n.Time, last: n.Time})
		h = &p.holders[at]
		if len(p.holders) > maxHolders {
			if p.holders = append(p.holders[:0], p.holders[1:]...); at == 0 {
				return
			}
			h = &p.holders[at-1]
		}
	}
	if n.Lease != 0 {
		h.lease, h.via = max(h.lease, n.Time.Add(time.Duration(n.Lease)*time.Second)), n.Via
	}
	if n.Ended {
		h.ended = n.Time
	}
}

// makeRoom removes an entry when m is full and k is not in it: the oldest of some.
func makeRoom[K comparable, V any](m map[K]V, limit int, k K, at func(V) event.Time) (evicted uint64) {
	if _, ok := m[k]; ok || len(m) < limit {
		return 0
	}
	const looked = 8
	var oldest K
	var when event.Time
	n := 0
	for k, v := range m { // which begins at random
		if t := at(v); n == 0 || t < when {
			oldest, when = k, t
		}
		if n++; n == looked {
			break
		}
	}
	delete(m, oldest)
	return 1
}

// At says who held an address at some moment. It is not ok when nothing is known.
func (s *Hosts) At(zone event.Zone, addr netip.Addr, t event.Time) (h HostHolder, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.places[hostKey{zone, addr.Unmap().WithZone("")}]
	if p == nil {
		return HostHolder{}, false
	}
	first := event.Time(0) // before it the address was somebody else's
	for i := range p.holders {
		x := &p.holders[i]
		if t < x.since-before || t > x.until() {
			continue
		}
		if i > 0 && t < x.since && h.MAC != (event.MAC{}) {
			continue // there was one before it
		}
		if h.MAC != (event.MAC{}) && h.Last > x.since-alongside {
			h.Contested = true
		}
		h = HostHolder{MAC: x.mac, Via: x.via, Since: x.since, Last: x.last, Lease: x.lease, Contested: h.Contested}
		if i > 0 {
			first = x.since
		}
	}
	for _, n := range p.names {
		if n.Text != "" && n.Seen >= first && near(n.Seen, t) {
			h.Names = append(h.Names, n)
		}
	}
	if n, ok := s.called[cardKey{zone, h.MAC}]; ok && near(n.Seen, t) {
		h.Names = append(h.Names, n)
	}
	slices.SortFunc(h.Names, func(a, b HostName) int { return int(max(-1, min(1, b.Seen-a.Seen))) })
	return h, h.MAC != (event.MAC{}) || len(h.Names) > 0
}

// near reports whether what was said at one moment may be taken as true at another.
func near(said, t event.Time) bool { return said-t < before && t-said < isCalled }

// Evicted returns how many entries made room for others before their time.
func (s *Hosts) Evicted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evicted
}
