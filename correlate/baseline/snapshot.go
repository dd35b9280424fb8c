package baseline

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"slices"

	"portolan/sensor/event"
)

// A snapshot is all of a Model, the trials of open epochs and what readers see included, so that one restored
// says of every later trial what the first would have said. A State is what is worth keeping longer.

// ErrSnapshot says that a snapshot is of another ModelConfig, or is none.
var ErrSnapshot = errors.New("not a snapshot of this baseline")

type (
	modelState struct {
		Config              ModelConfig
		Views               []viewState
		Open                map[int64][2]batchState
		Closed, At          int64
		Late, Lost          uint64
		Rotated             bool
		Ports, Destinations BookState
		BookLost            [2]uint64
	}
	viewState struct {
		Epoch               int64
		Ports, Destinations map[event.Zone]sharesState
	}
	sharesState struct {
		Trials, Rest float64
		Of           map[uint32]float64
	}
	batchState struct {
		Zeros uint
		Picks []pickState
	}
	pickState struct {
		Zone   event.Zone
		Client uint64
		Keys   []uint32
	}
)

// Snapshot writes the whole Model to w. No other method may be called meanwhile.
func (m *Model) Snapshot(w io.Writer) error {
	x := modelState{
		Config: m.cfg, Open: map[int64][2]batchState{}, Closed: m.closed, At: m.at, Late: m.late, Lost: m.lost, Rotated: m.rotated,
		Ports: m.ports.export(), Destinations: m.destinations.export(), BookLost: [2]uint64{m.ports.lost, m.destinations.lost},
	}
	for _, v := range m.views.Load() {
		if v != nil {
			x.Views = append(x.Views, viewState{v.epoch, saveShares(v.ports), saveShares(v.destinations)})
		}
	}
	for e, b := range m.open {
		x.Open[e] = [2]batchState{b.ports.save(), b.destinations.save()}
	}
	if err := gob.NewEncoder(w).Encode(&x); err != nil {
		return fmt.Errorf("snapshot baseline: %w", err)
	}
	return nil
}

// Restore returns the Model that Snapshot wrote, whose cfg has to be the same.
func Restore(cfg ModelConfig, r io.Reader) (*Model, error) {
	m, err := NewModel(cfg)
	if err != nil {
		return nil, err
	}
	var x modelState
	if err := gob.NewDecoder(r).Decode(&x); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	epoch := x.At
	if len(x.Ports.Zones)+len(x.Destinations.Zones) == 0 {
		epoch = max(epoch, 0) // nothing was counted: the time is not set
	}
	s := State{Version: StateVersion, Epoch: epoch, Ports: x.Ports, Destinations: x.Destinations}
	if err := s.validate(); err != nil || x.Config != cfg || len(x.Views) > len(views{}) {
		return nil, errors.Join(ErrSnapshot, err)
	}
	m.closed, m.at, m.late, m.lost, m.rotated = x.Closed, x.At, x.Late, x.Lost, x.Rotated
	m.ports.restore(&x.Ports, x.BookLost[0])
	m.destinations.restore(&x.Destinations, x.BookLost[1])
	var now views
	for i, v := range x.Views {
		now[len(now)-len(x.Views)+i] = &view{v.Epoch, loadShares(v.Ports), loadShares(v.Destinations)}
	}
	m.views.Store(&now)
	for e, b := range x.Open {
		m.open[e] = &batches{b[0].load(), b[1].load()}
	}
	return m, nil
}

// restore makes an empty book what export wrote.
func (b *book) restore(s *BookState, lost uint64) {
	b.lost, b.generation = lost, s.Generation
	copy(b.seen[0], s.Seen[0])
	copy(b.seen[1], s.Seen[1])
	copy(b.spent, s.Spent)
	for i := range s.Zones {
		zs := &s.Zones[i]
		z := &zone{trials: zs.Trials, dropped: zs.Dropped, entries: make([]entry, len(zs.Keys))}
		for j, k := range zs.Keys {
			z.entries[j] = entry{key: k.Key, count: k.Count, inherited: k.Inherited, n: uint8(len(k.Clients))}
			copy(z.entries[j].clients[:], k.Clients)
		}
		b.zones[event.Zone{Kind: zs.Kind, ID: zs.ID}] = z
	}
}

func saveShares(all map[event.Zone]*shares) map[event.Zone]sharesState {
	x := map[event.Zone]sharesState{}
	for z, s := range all {
		x[z] = sharesState{s.trials, s.rest, s.of}
	}
	return x
}

func loadShares(x map[event.Zone]sharesState) map[event.Zone]*shares {
	all := map[event.Zone]*shares{}
	for z, s := range x {
		all[z] = &shares{trials: s.Trials, rest: s.Rest, of: s.Of}
	}
	return all
}

func (b *batch) save() batchState {
	x := batchState{Zeros: b.zeros}
	for o, p := range b.clients {
		x.Picks = append(x.Picks, pickState{o.zone, o.client, slices.Clone(p.keys[:p.n])})
	}
	return x
}

func (x *batchState) load() batch {
	b := newBatch()
	b.zeros = x.Zeros
	for _, k := range x.Picks {
		p := &picks{n: min(len(k.Keys), perEpoch)}
		copy(p.keys[:], k.Keys)
		b.clients[owner{k.Zone, k.Client}] = p
	}
	return b
}
