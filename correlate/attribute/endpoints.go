package attribute

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"portolan/sensor/event"
)

// claim says that a host has an address for a while.
type claim struct {
	host        uint32
	from, until event.Time
}

// host is what is known of one.
type host struct {
	id, name  string
	heard     event.Time // time of the newest record that it made of itself
	blind     bool       // that record says that its source sees no connections
	known     bool       // there is one
	addresses []netip.Addr
	samples   []sample // sorted, at most maxSamples
}

// sample is how far the host's clock is ahead of the sensor's, and whatever delays a record, as one hit tells.
type sample struct {
	hit  [16]byte
	skew time.Duration
}

const (
	maxSamples = 31
	// skewSamples is how many make a skew that is gone by.
	skewSamples = 3

	// A host's word on its addresses holds from one interval before it to two after it.
	defaultInterval = 10 * time.Minute
	longestInterval = time.Hour

	// What a host and an address take in memory, about.
	hostCost    = 512
	addressCost = 192
	claimCost   = 24

	maxHostAddresses = maxItems
)

// endpoints is what hosts said of themselves.
type endpoints struct {
	list   []host // by number
	byID   map[string]uint32
	claims map[netip.Addr][]claim // sorted by host and from, apart
	bytes  int64
	most   int64
	lost   uint64 // hosts and addresses for which there was no memory
}

func newEndpoints(bytes int64) *endpoints {
	return &endpoints{byID: map[string]uint32{}, claims: map[netip.Addr][]claim{}, most: bytes}
}

// number returns the host's, and gives it one; false when there is no memory for another.
func (h *endpoints) number(id, name string) (uint32, bool) {
	if n, ok := h.byID[id]; ok {
		return n, true
	}
	if h.bytes+hostCost > h.most {
		h.lost++
		return 0, false
	}
	h.bytes += hostCost
	n := uint32(len(h.list))
	id = strings.Clone(id)
	h.list = append(h.list, host{id: id, name: strings.Clone(brief(name))})
	h.byID[id] = n
	return n, true
}

// hear takes a host's word on itself.
func (h *endpoints) hear(n uint32, r *Record) {
	x, a := &h.list[n], r.About
	if r.Time >= x.heard {
		x.heard, x.known = r.Time, true
		x.name = strings.Clone(brief(r.Host))
		x.blind = len(a.Sees) > 0 && !slices.Contains(a.Sees, Connect.String())
	}
	interval := time.Duration(a.Interval)
	if interval <= 0 {
		interval = defaultInterval
	}
	interval = min(interval, longestInterval)
	for _, addr := range a.Addresses[:min(len(a.Addresses), maxHostAddresses)] {
		if addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() && addr.Is6() {
			continue // says nothing of who it is on the network
		}
		h.claim(addr, claim{n, r.Time.Add(-interval), r.Time.Add(2 * interval)})
	}
}

// claim adds to what is claimed of an address. What overlaps becomes one.
func (h *endpoints) claim(a netip.Addr, c claim) {
	list, known := h.claims[a]
	x := &h.list[c.host]
	mine := slices.Contains(x.addresses, a)
	cost := int64(claimCost)
	if !known {
		cost += addressCost
	}
	i := 0
	for i < len(list) && (list[i].host < c.host || list[i].host == c.host && list[i].until < c.from) {
		i++
	}
	j := i
	for ; j < len(list) && list[j].host == c.host && list[j].from <= c.until; j++ {
		c.from, c.until = min(c.from, list[j].from), max(c.until, list[j].until)
	}
	if i == j && h.bytes+cost > h.most {
		h.lost++
		return
	}
	h.bytes += cost - int64(j-i)*claimCost
	h.claims[a] = slices.Replace(list, i, j, c)
	if !mine {
		x.addresses = append(x.addresses, a)
	}
}

// holders returns who has an address at t, by their own word, in the order of their ids.
func (h *endpoints) holders(a netip.Addr, t event.Time) (list []uint32) {
	for _, c := range h.claims[a] {
		if c.from <= t && t <= c.until {
			list = append(list, c.host)
		}
	}
	slices.SortFunc(list, func(x, y uint32) int { return strings.Compare(h.list[x].id, h.list[y].id) })
	return slices.Compact(list)
}

// holds reports whether a host has an address at t, by its own word.
func (h *endpoints) holds(n uint32, a netip.Addr, t event.Time) bool {
	for _, c := range h.claims[a] {
		if c.host == n && c.from <= t && t <= c.until {
			return true
		}
	}
	return false
}

// holdsIn reports whether a host has an address in a prefix at t.
func (h *endpoints) holdsIn(n uint32, p netip.Prefix, t event.Time) bool {
	for _, a := range h.list[n].addresses {
		if p.Contains(a) && h.holds(n, a, t) {
			return true
		}
	}
	return false
}

// learn takes a sample, and reports whether the host's skew may be another now.
func (x *host) learn(s sample) bool {
	i, found := slices.BinarySearchFunc(x.samples, s, func(a, b sample) int {
		return cmp.Or(slices.Compare(a.hit[:], b.hit[:]), cmp.Compare(a.skew, b.skew))
	})
	if found || i == maxSamples {
		return false
	}
	x.samples = slices.Insert(x.samples, i, s)
	// Those of hits with the smallest ids stay, which are no others whatever the order was in which they came.
	x.samples = x.samples[:min(len(x.samples), maxSamples)]
	return true
}

// skew returns the median of the samples; false when they are too few.
func (x *host) skew() (time.Duration, bool) {
	if len(x.samples) < skewSamples {
		return 0, false
	}
	var all [maxSamples]time.Duration
	list := all[:0]
	for _, s := range x.samples {
		list = append(list, s.skew)
	}
	slices.Sort(list)
	return list[(len(list)-1)/2], true
}

// prune forgets what was claimed until a time.
func (h *endpoints) prune(until event.Time) {
	for a, list := range h.claims {
		n := len(list)
		if list = slices.DeleteFunc(list, func(c claim) bool { return c.until < until }); len(list) == n {
			continue
		}
		h.bytes -= int64(n-len(list)) * claimCost
		if h.claims[a] = list; len(list) == 0 {
			delete(h.claims, a)
			h.bytes -= addressCost
		}
	}
	for i := range h.list {
		x := &h.list[i]
		x.addresses = slices.DeleteFunc(x.addresses, func(a netip.Addr) bool {
			return !slices.ContainsFunc(h.claims[a], func(c claim) bool { return c.host == uint32(i) })
		})
	}
}
