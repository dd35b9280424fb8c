package coverage

import (
	"fmt"
	"slices"
	"strings"
)

// What it takes to suspect several hosts behind one address.
const (
	pathsKept    = 4  // TTLs that are remembered of a client
	pathOften    = 4  // starts that make a TTL count
	pathTurns    = 4  // times that starts went back to a TTL that was there before
	pathsAlike   = 3  // distances, when all began with the same TTL: a router that spreads load makes two
	longestRoute = 32 // routers; who sends with less measures a route, or speaks to neighbours only
)

// paths are the TTLs that a client's SYNs came with. Systems begin with 64, 128 or 255, and each router on the way takes
// one off: a host has one of them for as long as its route holds. Hosts behind one that translates addresses come by
// turns with those of their systems. Datagrams say nothing: programs choose the TTL of theirs, as of mDNS and SSDP.
type paths struct {
	hops [pathsKept]uint8
	seen [pathsKept]uint8 // how many starts each had, up to 255
	last uint8
	back uint8 // times that starts went back to one
	next uint8 // place whose turn it is to be given away
}

// begun returns the TTL that a packet began with, and how many routers it passed.
func begun(hops uint8) (initial, distance int) {
	switch {
	case hops <= 64:
		initial = 64
	case hops <= 128:
		initial = 128
	default:
		initial = 255
	}
	return initial, initial - int(hops)
}

// add counts a start.
func (p *paths) add(hops uint8) {
	if _, distance := begun(hops); hops == 0 || distance > longestRoute {
		return
	}
	i := slices.Index(p.hops[:], hops)
	switch {
	case i < 0:
		if i = p.place(); i < 0 {
			return
		}
		p.hops[i], p.seen[i] = hops, 0
	case hops != p.last && p.back < pathTurns:
		p.back++
	}
	if p.seen[i] < 255 {
		p.seen[i]++
	}
	p.last = hops
}

// place returns a place for another TTL: that of one which does not count, by turns, so that two new ones do not drive
// each other out. It returns -1 when all count.
func (p *paths) place() int {
	for range pathsKept {
		i := int(p.next)
		p.next = (p.next + 1) % pathsKept
		if p.seen[i] < pathOften {
			return i
		}
	}
	return -1
}

// several says why there are several hosts, "" when they are not suspected: TTLs that came often each, and by turns, began
// differently, or are of pathsAlike distances.
func (p *paths) several() string {
	if p.back < pathTurns {
		return ""
	}
	var often []uint8
	systems := map[int]bool{}
	for i, n := range p.seen {
		if n >= pathOften {
			often = append(often, p.hops[i])
			initial, _ := begun(p.hops[i])
			systems[initial] = true
		}
	}
	if len(systems) < 2 && len(often) < pathsAlike {
		return ""
	}
	slices.Sort(often)
	text := make([]string, len(often))
	for i, hops := range often {
		initial, distance := begun(hops)
		text[i] = fmt.Sprintf("%d (%d less %d)", hops, initial, distance)
	}
	return "its SYNs come by turns with TTL " + strings.Join(text, ", ")
}
