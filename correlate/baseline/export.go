package baseline

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"portolan/sensor/event"
)

// StateVersion is the version of State that Export writes.
const StateVersion = 1

// State is what a Model has counted, to be kept over a restart or to be merged with that of
// others. It shares nothing with the Model.
type State struct {
	Version      int       `json:"version"`
	HalfLife     int64     `json:"half_life_s"` // seconds
	Epoch        int64     `json:"epoch"`       // to which counts have faded: minutes since the Unix epoch
	Ports        BookState `json:"ports"`
	Destinations BookState `json:"destinations"`
}

// BookState is what was counted of ports or of destinations.
type BookState struct {
	Generation int64       `json:"generation"`
	Seen       [2][]byte   `json:"seen"`  // Bloom filters of clients' uses that were counted
	Spent      []byte      `json:"spent"` // how many, by hash of the client
	Zones      []ZoneState `json:"zones"`
}

// ZoneState is what was counted in one zone.
type ZoneState struct {
	Kind    event.TagKind `json:"kind"`
	ID      uint32        `json:"id"`
	Trials  float64       `json:"trials"`
	Dropped float64       `json:"dropped,omitempty"`
	Keys    []KeyState    `json:"keys"`
}

// KeyState is a port, or a destination in host order.
type KeyState struct {
	Key       uint32   `json:"key"`
	Count     float64  `json:"count"`
	Inherited float64  `json:"inherited,omitempty"` // part of Count that other keys left behind
	Clients   []uint32 `json:"clients"`             // hashes of up to three clients, in rising order
}

// Export returns what was counted. Trials of epochs that are still open are left out. The
// same counts give the same State.
func (m *Model) Export() State {
	m.rotate.Lock()
	defer m.rotate.Unlock()
	s := State{Version: StateVersion, HalfLife: int64(m.cfg.HalfLife / time.Second), Epoch: m.at}
	if m.at == math.MinInt64 {
		s.Epoch = 0 // nothing was counted
	}
	s.Ports, s.Destinations = m.ports.export(), m.destinations.export()
	return s
}

func (b *book) export() BookState {
	s := BookState{
		Generation: b.generation, Seen: [2][]byte{slices.Clone(b.seen[0]), slices.Clone(b.seen[1])}, Spent: slices.Clone(b.spent),
		Zones: []ZoneState{},
	}
	for _, at := range slices.SortedFunc(maps.Keys(b.zones), compareZones) {
		z := b.zones[at]
		zs := ZoneState{Kind: at.Kind, ID: at.ID, Trials: z.trials, Dropped: z.dropped, Keys: make([]KeyState, len(z.entries))}
		for i := range z.entries {
			e := &z.entries[i]
			zs.Keys[i] = KeyState{e.key, e.count, e.inherited, slices.Clone(e.clients[:e.n])}
		}
		s.Zones = append(s.Zones, zs)
	}
	return s
}

// Time returns the time to which s was counted. One in the future comes from a clock that was wrong.
func (s *State) Time() event.Time { return event.Time(s.Epoch * int64(Epoch)) }

// NotAfter makes s, when its time lies after t, one of time t, so that it fades from then on, and
// returns how far ahead it was: some clock was wrong.
func (s *State) NotAfter(t event.Time) (ahead time.Duration) {
	epoch := epochOf(t)
	if s.Epoch <= epoch {
		return 0
	}
	ahead = s.Time().Sub(t)
	s.Epoch = epoch
	generation := max(epoch, 0) / generationOf(time.Duration(s.HalfLife)*time.Second)
	s.Ports.Generation, s.Destinations.Generation = generation, generation
	return ahead
}

// Import adds what s counted to the Model, faded to the later of the two times; once the Model
// was rotated, its own time stands. In which order two states are imported makes no difference. What
// was counted up to a time in the future does not fade until then; see NotAfter. An error says what is wrong
// with s, and leaves the Model as it was.
func (m *Model) Import(s State) error {
	if err := s.validate(); err != nil {
		return err
	}
	if want := int64(m.cfg.HalfLife / time.Second); s.HalfLife != want {
		return fmt.Errorf("import baseline: it fades by half in %d s, not in %d s", s.HalfLife, want)
	}
	m.rotate.Lock()
	defer m.rotate.Unlock()
	if len(s.Ports.Zones)+len(s.Destinations.Zones) == 0 {
		return nil
	}
	if m.at == math.MinInt64 || !m.rotated && s.Epoch > m.at {
		m.fade(s.Epoch)
	}
	by := m.fading(max(m.at-s.Epoch, 0))
	m.ports.add(&s.Ports, by, !m.rotated)
	m.destinations.add(&s.Destinations, by, !m.rotated)
	if !m.rotated {
		m.views.Store(&views{2: m.view(m.at + 1)})
	}
	return nil
}

// validate returns an error for a State that no Export wrote.
func (s *State) validate() error {
	if s.Version != StateVersion {
		return fmt.Errorf("import baseline: version %d is not %d", s.Version, StateVersion)
	}
	const last = math.MaxInt64 / int64(Epoch)
	if s.Epoch < -last || s.Epoch > last {
		return fmt.Errorf("import baseline: epoch %d is out of range", s.Epoch)
	}
	for name, b := range map[string]*BookState{"ports": &s.Ports, "destinations": &s.Destinations} {
		if err := b.validate(s.Epoch); err != nil {
			return fmt.Errorf("import baseline: %s: %w", name, err)
		}
	}
	return nil
}

func (b *BookState) validate(epoch int64) error {
	if b.Generation < 0 || b.Generation > max(epoch, 0) {
		return fmt.Errorf("generation %d is out of range", b.Generation)
	}
	if len(b.Seen[0]) != filterBits/8 || len(b.Seen[1]) != filterBits/8 || len(b.Spent) != spentSlots {
		return fmt.Errorf("filters of %d, %d and %d bytes, not %d, %[4]d and %d",
			len(b.Seen[0]), len(b.Seen[1]), len(b.Spent), filterBits/8, spentSlots)
	}
	for i := range b.Zones {
		z := &b.Zones[i]
		at := event.Zone{Kind: z.Kind, ID: z.ID}
		if i > 0 && compareZones(event.Zone{Kind: b.Zones[i-1].Kind, ID: b.Zones[i-1].ID}, at) >= 0 {
			return fmt.Errorf("zone %v is out of order", at)
		}
		sum := 0.0
		for j := range z.Keys {
			k := &z.Keys[j]
			if j > 0 && z.Keys[j-1].Key >= k.Key {
				return fmt.Errorf("zone %v: key %d is out of order", at, k.Key)
			}
			if !(k.Inherited >= 0 && k.Count >= k.Inherited) || len(k.Clients) > enough ||
				!slices.IsSorted(k.Clients) || len(slices.Compact(slices.Clone(k.Clients))) != len(k.Clients) {
				return fmt.Errorf("zone %v: key %d cannot be counted so", at, k.Key)
			}
			sum += k.Count - k.Inherited
		}
		if !(z.Dropped >= 0 && z.Trials >= 0) || math.IsInf(z.Trials+z.Dropped, 0) || sum > z.Trials*(1+1e-6)+1e-6 {
			return fmt.Errorf("zone %v: its keys have %g of %g trials", at, sum, z.Trials)
		}
	}
	return nil
}

// add adds what s counted, times by. It may move on to a newer generation when turns is set.
func (b *book) add(s *BookState, by float64, turns bool) {
	for i := range s.Zones {
		zs := &s.Zones[i]
		at := event.Zone{Kind: zs.Kind, ID: zs.ID}
		z := b.zones[at]
		if z == nil {
			if len(b.zones) == b.maxZones {
				b.lost++
				continue
			}
			z = &zone{}
			b.zones[at] = z
		}
		other := make([]entry, len(zs.Keys))
		for j := range zs.Keys {
			k := &zs.Keys[j]
			other[j] = entry{key: k.Key, count: k.Count * by, inherited: k.Inherited * by, n: uint8(len(k.Clients))}
			copy(other[j].clients[:], k.Clients)
		}
		// A key that only one side has may be among those that the other dropped.
		mine, theirs := z.dropped, zs.Dropped*by
		inherit := func(w float64) func(*entry) {
			return func(e *entry) { e.count, e.inherited = e.count+w, e.inherited+w }
		}
		z.merge(other, inherit(mine), inherit(theirs))
		z.trials += zs.Trials * by
		z.dropped = mine + theirs
		z.trim(b.bound)
	}
	if turns {
		b.turn(s.Generation * b.length)
	}
	b.addFilters(s)
}

// addFilters joins what of the filters is about the same generations.
func (b *book) addFilters(s *BookState) {
	theirs := map[int64][]byte{s.Generation: s.Seen[0], s.Generation - 1: s.Seen[1]}
	spent := map[int64][]byte{s.Generation: s.Spent}
	for i, seen := range b.seen {
		for j, x := range theirs[b.generation-int64(i)] {
			seen[j] |= x
		}
	}
	for j, n := range spent[b.generation] {
		b.spent[j] = max(b.spent[j], n)
	}
}
