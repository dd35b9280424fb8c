package correlate

import (
	"cmp"
	"slices"

	"portolan/sensor/event"
)

// ZoneStats counts the settled connections of a zone.
type ZoneStats struct {
	Zone        event.Zone
	Connections uint64
	Explained   uint64 // of those, to an address that a lookup gave
}

// maxZones bounds how many zones are told apart; those beyond it are not counted.
const maxZones = 256

// in returns the counts of a zone.
func (s *shard) in(z event.Zone) *ZoneStats {
	if s.zone != nil && s.zone.Zone == z {
		return s.zone
	}
	n := s.zones[z]
	if n == nil {
		n = &ZoneStats{Zone: z}
		if s.zones == nil {
			s.zones = map[event.Zone]*ZoneStats{}
		}
		if len(s.zones) < maxZones {
			s.zones[z] = n
		}
	}
	s.zone = n
	return n
}

// Zones returns the counts so far, by zone.
func (c *Correlator) Zones() []ZoneStats {
	sum := map[event.Zone]ZoneStats{}
	for _, s := range c.shards {
		s.mu.Lock()
		for z, n := range s.zones {
			x := sum[z]
			sum[z] = ZoneStats{z, x.Connections + n.Connections, x.Explained + n.Explained}
		}
		s.mu.Unlock()
	}
	all := make([]ZoneStats, 0, len(sum))
	for _, n := range sum {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b ZoneStats) int {
		return cmp.Or(cmp.Compare(a.Zone.Point, b.Zone.Point), cmp.Compare(a.Zone.Kind, b.Zone.Kind), cmp.Compare(a.Zone.ID, b.Zone.ID))
	})
	return all
}

// Survey counts the clients remembered that have made enough connections to tell, by the tenths of them that a lookup explains:
// the first place holds those below a tenth. It looks at every client, with one shard locked at a time.
func (c *Correlator) Survey() (tenths [10]uint64) {
	for _, s := range c.shards {
		s.mu.Lock()
		for n := range s.clients.next {
			if k := s.client(n); k.live && k.conns >= settledIn {
				tenths[min(9, 10*uint64(k.explained)/uint64(k.conns))]++
			}
		}
		s.mu.Unlock()
	}
	return tenths
}
