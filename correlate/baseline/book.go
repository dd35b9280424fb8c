package baseline

import (
	"cmp"
	"maps"
	"slices"

	"portolan/sensor/event"
)

// Ordinarily is how many clients make a port or a destination ordinary in their zone.
const Ordinarily = 3

// Bounds on what one client, and few clients, can do to a zone.
const (
	perEpoch      = 16 // distinct ports, or destinations, of one client that count in an epoch
	perGeneration = 64 // the same in a generation
	enough        = Ordinarily
	negligible    = .05
)

// owner is a client.
type owner struct {
	zone   event.Zone // without observation point
	client uint64
}

// hash orders clients by chance, the same way everywhere.
func (o *owner) hash() uint64 { return mix(o.client ^ mix(uint64(o.zone.Kind)<<32|uint64(o.zone.ID))) }

// batch holds the trials of one epoch: the outcome does not depend on their order. Of more clients
// than there is room for it keeps those whose hash begins with so many zero bits.
type batch struct {
	zeros   uint
	clients map[owner]*picks
}

func newBatch() batch { return batch{clients: map[owner]*picks{}} }

// picks are up to perEpoch keys (ports or addresses) of one client: those that rank lowest.
type picks struct {
	n    int
	keys [perEpoch]uint32
}

func (b *batch) keeps(o *owner) bool { return b.zeros == 0 || o.hash()>>(64-b.zeros) == 0 }

func (b *batch) enter(o owner, key uint32, bound int) {
	if !b.keeps(&o) {
		return
	}
	p := b.clients[o]
	if p == nil {
		p = &picks{}
		b.clients[o] = p
		for len(b.clients) > bound {
			b.zeros++
			maps.DeleteFunc(b.clients, func(o owner, _ *picks) bool { return !b.keeps(&o) })
		}
	}
	p.add(o.client, key)
}

func (p *picks) add(client uint64, key uint32) {
	if slices.Contains(p.keys[:p.n], key) {
		return
	}
	if p.n < perEpoch {
		p.keys[p.n] = key
		p.n++
		return
	}
	rank := func(k uint32) uint64 { return mix(client + uint64(k)) } // a bijection of k: no two rank alike
	last := 0
	for i, k := range p.keys {
		if rank(k) > rank(p.keys[last]) {
			last = i
		}
	}
	if rank(key) < rank(p.keys[last]) {
		p.keys[last] = key
	}
}

// book counts, for each zone, how many clients used each key.
type book struct {
	bound, maxZones int // keys of a zone, zones
	zones           map[event.Zone]*zone
	lost            uint64

	// A client's key counts once in one to two generations, so that it never weighs more than a few
	// clients, however often it comes back.
	length     int64    // of a generation, in epochs
	generation int64    // number of the newest
	seen       [2]bloom // pairs of client and key: of the newest generation, and of the one before
	spent      []uint8  // pairs counted in the newest generation, by hash of the client
}

// zone is what was counted in one zone. Counts are faded to Model.at.
type zone struct {
	trials  float64 // pairs of client and key
	dropped float64 // what the heaviest key that was dropped for lack of room weighed
	entries []entry // in rising order of keys
}

// entry is one key. The summary is a space-saving one: a new key inherits the weight of what made
// room for keys before, so that whoever has more than 1/bound of the trials stays.
type entry struct {
	key       uint32
	count     float64
	inherited float64
	n         uint8          // of clients
	clients   [enough]uint32 // hashes of clients that used it, the lowest, in rising order
}

const (
	filterBits  = 1 << 21 // 1 % of 200,000 pairs are passed over as seen
	filterProbe = 4
	spentSlots  = 1 << 16
)

// bloom is a set of pairs with errors to one side: it may hold what was never put in.
type bloom []byte

// put reports whether h was in the set, and puts it in.
func (b bloom) put(h uint64) (had bool) {
	had = true
	for range filterProbe {
		at := h % filterBits
		had = had && b[at/8]>>(at%8)&1 != 0
		b[at/8] |= 1 << (at % 8)
		h = mix(h + 1)
	}
	return had
}

func (b bloom) has(h uint64) bool {
	for range filterProbe {
		if at := h % filterBits; b[at/8]>>(at%8)&1 == 0 {
			return false
		}
		h = mix(h + 1)
	}
	return true
}

func newBook(bound, zones int, length int64) book {
	return book{
		bound: bound, maxZones: zones, zones: map[event.Zone]*zone{}, length: length,
		seen: [2]bloom{make(bloom, filterBits/8), make(bloom, filterBits/8)}, spent: make([]uint8, spentSlots),
	}
}

// turn moves on to the generation of an epoch.
func (b *book) turn(epoch int64) {
	g := epoch / b.length
	switch {
	case g <= b.generation:
		return
	case g == b.generation+1:
		b.seen[0], b.seen[1] = b.seen[1], b.seen[0]
	default:
		clear(b.seen[1])
	}
	clear(b.seen[0])
	clear(b.spent)
	b.generation = g
}

// used is one client's use of a key.
type used struct {
	owner
	key uint32
}

// count enters the trials of an epoch; counts have faded to it.
func (b *book) count(epoch int64, trials *batch) {
	b.turn(epoch)
	all := make([]used, 0, len(trials.clients))
	for o, p := range trials.clients {
		for _, k := range p.keys[:p.n] {
			all = append(all, used{o, k})
		}
	}
	slices.SortFunc(all, func(x, y used) int {
		return cmp.Or(compareZones(x.zone, y.zone), cmp.Compare(x.client, y.client), cmp.Compare(x.key, y.key))
	})
	all = slices.DeleteFunc(all, func(u used) bool { return !b.admit(&u) })
	slices.SortFunc(all, func(x, y used) int {
		return cmp.Or(compareZones(x.zone, y.zone), cmp.Compare(x.key, y.key), cmp.Compare(x.client, y.client))
	})
	weight := float64(uint64(1) << trials.zeros)
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].zone == all[0].zone {
			n++
		}
		z := b.zones[all[0].zone]
		switch {
		case z == nil && len(b.zones) == b.maxZones:
			b.lost += uint64(n)
		case z == nil:
			z = &zone{}
			b.zones[all[0].zone] = z
			fallthrough
		default:
			z.add(all[:n], weight)
			z.trim(b.bound)
		}
		all = all[n:]
	}
}

// admit reports whether a client's use of a key counts, and remembers it.
func (b *book) admit(u *used) bool {
	client := u.hash()
	h := mix(client ^ mix(uint64(u.key)+1))
	spent := &b.spent[client%spentSlots]
	if *spent >= perGeneration || b.seen[1].has(h) || b.seen[0].put(h) {
		return false
	}
	*spent++
	return true
}

func compareZones(x, y event.Zone) int {
	return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.ID, y.ID))
}

// add counts uses of keys in one zone, sorted by key, each of a client's once.
func (z *zone) add(all []used, weight float64) {
	fresh := make([]entry, 0, len(all))
	for i := range all {
		u := &all[i]
		if len(fresh) == 0 || fresh[len(fresh)-1].key != u.key {
			fresh = append(fresh, entry{key: u.key})
		}
		e := &fresh[len(fresh)-1]
		e.count += weight
		e.meet(uint32(u.client >> 32))
	}
	z.trials += float64(len(all)) * weight
	z.merge(fresh, func(e *entry) { e.count, e.inherited = e.count+z.dropped, e.inherited+z.dropped }, nil)
}

// merge adds entries in rising order of keys. Arrives is called on what only they have, misses on what
// they have not.
func (z *zone) merge(other []entry, arrives, misses func(*entry)) {
	mine := z.entries
	all := make([]entry, 0, len(mine)+len(other))
	for len(mine) > 0 || len(other) > 0 {
		switch {
		case len(other) == 0 || len(mine) > 0 && mine[0].key < other[0].key:
			all = append(all, mine[0])
			if mine = mine[1:]; misses != nil {
				misses(&all[len(all)-1])
			}
		case len(mine) == 0 || other[0].key < mine[0].key:
			all = append(all, other[0])
			if other = other[1:]; arrives != nil {
				arrives(&all[len(all)-1])
			}
		default:
			e := mine[0]
			e.count += other[0].count
			e.inherited += other[0].inherited
			for _, c := range other[0].clients[:other[0].n] {
				e.meet(c)
			}
			all = append(all, e)
			mine, other = mine[1:], other[1:]
		}
	}
	z.entries = all
}

// meet notes that a client used the key.
func (e *entry) meet(client uint32) {
	at, known := slices.BinarySearch(e.clients[:e.n], client)
	if known || at == enough {
		return
	}
	e.n = min(e.n+1, enough)
	copy(e.clients[at+1:e.n], e.clients[at:])
	e.clients[at] = client
}

// trim drops the lightest entries over the bound.
func (z *zone) trim(bound int) {
	if len(z.entries) <= bound {
		return
	}
	slices.SortFunc(z.entries, func(x, y entry) int { return cmp.Or(cmp.Compare(y.count, x.count), cmp.Compare(x.key, y.key)) })
	z.dropped = max(z.dropped, z.entries[bound].count)
	z.entries = slices.Clone(z.entries[:bound])
	slices.SortFunc(z.entries, func(x, y entry) int { return cmp.Compare(x.key, y.key) })
}

// fade multiplies all counts, and forgets what is left of nothing.
func (b *book) fade(by float64) {
	for at, z := range b.zones {
		z.trials *= by
		z.dropped *= by
		for i := range z.entries {
			z.entries[i].count *= by
			z.entries[i].inherited *= by
		}
		z.entries = slices.DeleteFunc(z.entries, func(e entry) bool { return e.count < negligible })
		if z.trials < negligible {
			delete(b.zones, at)
		}
	}
}

// shares is what readers see of one zone; it never changes.
type shares struct {
	trials float64
	of     map[uint32]float64 // share of the keys that enough clients used
	rest   float64            // share of all others together
}

func (b *book) shares() map[event.Zone]*shares {
	all := make(map[event.Zone]*shares, len(b.zones))
	for at, z := range b.zones {
		s := &shares{trials: z.trials, of: map[uint32]float64{}, rest: 1}
		for i := range z.entries {
			if e := &z.entries[i]; e.n == enough {
				q := (e.count - e.inherited) / (z.trials + strength)
				s.of[e.key] = q
				s.rest -= q
			}
		}
		s.rest = max(s.rest, 0) // what is below 0 is rounding
		all[at] = s
	}
	return all
}

// sortedEpochs returns the epochs in rising order.
func sortedEpochs(m map[int64]*batches) []int64 { return slices.Sorted(maps.Keys(m)) }
