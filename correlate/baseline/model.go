package baseline

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"portolan/sensor/event"
)

// Epoch is the grain of a Model's time. A trial is judged by what was settled at least one
// whole epoch before its own.
const Epoch = 60 * time.Second

// ModelConfig bounds a Model.
type ModelConfig struct {
	Ports        int           // ports remembered for each zone, from 16 to 65536
	Destinations int           // destinations remembered for each zone, from 16 to 1048576
	Zones        int           // zones remembered, from 1 to 65536
	Clients      int           // clients whose trials of one epoch are held, from 16 to 1048576; of more, a sample
	HalfLife     time.Duration // after which a trial counts half, from 10 m to 90 d, in whole epochs
}

// DefaultModelConfig returns bounds for a site of ten thousand clients. At most, a zone then takes
// 0.5 MiB, the trials of an open epoch (there are two as a rule) 2 MiB, and filters 1.2 MiB.
func DefaultModelConfig() ModelConfig {
	return ModelConfig{Ports: 1024, Destinations: 4096, Zones: 64, Clients: 8192, HalfLife: 24 * time.Hour}
}

// Validate returns an error that names the first field out of range and its value.
func (c ModelConfig) Validate() error {
	for _, f := range []struct {
		name          string
		n, low, limit int
	}{
		{"Ports", c.Ports, 16, 1 << 16},
		{"Destinations", c.Destinations, 16, 1 << 20},
		{"Zones", c.Zones, 1, 1 << 16},
		{"Clients", c.Clients, 16, 1 << 20},
	} {
		if f.n < f.low || f.n > f.limit {
			return fmt.Errorf("baseline: %s %d is not from %d to %d", f.name, f.n, f.low, f.limit)
		}
	}
	if c.HalfLife < 10*time.Minute || c.HalfLife > 90*24*time.Hour || c.HalfLife%Epoch != 0 {
		return fmt.Errorf("baseline: HalfLife %v is not from 10m to 2160h in whole minutes", c.HalfLife)
	}
	return nil
}

// strength is how many trials the prior weighs as much as.
const strength = 16

// Model learns what is ordinary in each zone: which ports, and which destinations that no
// lookup explains, several clients use. It counts clients, not connections: whatever one client
// does, by itself it makes nothing ordinary. Old trials fade by half-life.
//
// It is prequential. What it says for a trial in epoch e was made from trials of epochs up to
// e-2 and never changes, so a trial does not testify to itself, and in which order the trials of
// an epoch are entered makes no difference. Time is packet time; there is no clock and no chance.
//
// All methods may be called concurrently. Readers take no lock.
type Model struct {
	cfg   ModelConfig
	views atomic.Pointer[views]

	enter      sync.Mutex // protects what follows
	open       map[int64]*batches
	closed     int64 // first epoch that is not counted yet
	late, lost uint64

	rotate       sync.Mutex // protects what follows; taken before enter
	rotated      bool       // packets have set the time, not a State
	at           int64      // epoch to which counts have faded
	ports        book
	destinations book
}

// batches are the trials of one epoch.
type batches struct{ ports, destinations batch }

// maxOpen bounds the epochs that are held before they are counted: the two in which the clock and the
// settled time lie, and some for rings that ran ahead.
const maxOpen = 8

// views are what readers see: the newest last. Places not filled yet are nil.
type views [3]*view

// view is what is said for trials of one epoch.
type view struct {
	epoch               int64
	ports, destinations map[event.Zone]*shares
}

// NewModel returns a Model that has seen nothing. The error names the field of cfg that is out of range.
func NewModel(cfg ModelConfig) (*Model, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Model{cfg: cfg, open: map[int64]*batches{}, closed: math.MinInt64, at: math.MinInt64}
	generation := generationOf(cfg.HalfLife)
	m.ports = newBook(cfg.Ports, cfg.Zones, generation)
	m.destinations = newBook(cfg.Destinations, cfg.Zones, generation)
	m.views.Store(&views{})
	return m, nil
}

// generationOf returns how many epochs a generation of a book lasts.
func generationOf(halfLife time.Duration) int64 { return max(int64(halfLife/Epoch)/2, 1) }

// epochOf returns the number of the epoch that t lies in.
func epochOf(t event.Time) int64 {
	e := int64(t) / int64(Epoch)
	if int64(t)%int64(Epoch) < 0 {
		e-- // the integer quotient rounds towards zero
	}
	return e
}

// ClientHash returns a number for a client of a zone that stays the same over restarts, as Port and
// Destination want it. The observation point does not enter.
func ClientHash(z event.Zone, addr [16]byte) uint64 {
	h := mix(uint64(z.Kind)<<32 | uint64(z.ID))
	for i := 0; i < 16; i += 8 {
		w := uint64(0)
		for _, b := range addr[i : i+8] {
			w = w<<8 | uint64(b)
		}
		h = mix(h ^ w)
	}
	return h
}

// mix spreads x over 64 bits (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Port enters a settled trial of a port, at time t, by the client that ClientHash names. The
// observation point of z does not matter. Ordinary ports are no trials and are passed over.
func (m *Model) Port(z event.Zone, t event.Time, port uint16, client uint64) {
	if Ordinary(port) {
		return
	}
	z.Point = 0
	m.enter.Lock()
	defer m.enter.Unlock()
	if b := m.batchLocked(t); b != nil {
		b.ports.enter(owner{z, client}, uint32(port), m.cfg.Clients)
	}
}

// Destination enters a settled trial of a destination that no lookup explains, y in host order,
// at time t, by the client that ClientHash names. The observation point of z does not matter.
func (m *Model) Destination(z event.Zone, t event.Time, y uint32, client uint64) {
	z.Point = 0
	m.enter.Lock()
	defer m.enter.Unlock()
	if b := m.batchLocked(t); b != nil {
		b.destinations.enter(owner{z, client}, y, m.cfg.Clients)
	}
}

// batchLocked returns what holds the trials of the epoch of t. A trial that comes after its epoch was
// counted goes to the first epoch that was not.
func (m *Model) batchLocked(t event.Time) *batches {
	e := epochOf(t)
	if e < m.closed {
		m.late++
		e = m.closed
	}
	b := m.open[e]
	if b == nil {
		if len(m.open) == maxOpen {
			m.lost++
			return nil
		}
		b = &batches{newBatch(), newBatch()}
		m.open[e] = b
	}
	return b
}

// Rotate says that every trial before the given time was entered. Once that passes the end of an
// epoch, its trials are counted, and what was counted before fades. Calls may repeat; time that runs
// backwards is passed over. Call it at least each 60 s of packet time, so that readers
// always find what belongs to their epoch.
func (m *Model) Rotate(settled event.Time) {
	end := epochOf(settled)
	m.rotate.Lock()
	defer m.rotate.Unlock()
	m.enter.Lock()
	closed := m.closed
	if m.rotated && end <= closed {
		m.enter.Unlock()
		return
	}
	m.closed = end
	done := map[int64]*batches{}
	for e, b := range m.open {
		if e < end {
			done[e] = b
			delete(m.open, e)
		}
	}
	m.enter.Unlock()
	m.rotated = true

	now := *m.views.Load()
	for e := max(closed+2, end-1); e <= end+1; e++ {
		for _, earlier := range sortedEpochs(done) {
			if earlier <= e-2 {
				m.count(earlier, done[earlier])
				delete(done, earlier)
			}
		}
		m.fade(e - 1)
		now = views{now[1], now[2], m.view(e)}
	}
	m.views.Store(&now)
}

// count enters the trials of one epoch.
func (m *Model) count(epoch int64, b *batches) {
	m.fade(epoch)
	m.ports.count(epoch, &b.ports)
	m.destinations.count(epoch, &b.destinations)
}

// fade brings all counts to the given epoch.
func (m *Model) fade(epoch int64) {
	if m.at == math.MinInt64 {
		m.at = epoch
	}
	if epoch <= m.at {
		return
	}
	by := m.fading(epoch - m.at)
	m.ports.fade(by)
	m.destinations.fade(by)
	m.at = epoch
}

// fading returns what is left of a count after so many epochs.
func (m *Model) fading(epochs int64) float64 {
	return math.Exp2(-float64(epochs) * float64(Epoch) / float64(m.cfg.HalfLife))
}

// view makes what is said for trials of an epoch from the counts as they stand.
func (m *Model) view(epoch int64) *view {
	return &view{epoch: epoch, ports: m.ports.shares(), destinations: m.destinations.shares()}
}

// at returns the view for trials at time t, nil when there is none: nothing is known yet, or the
// trial is so old that what there is may hold it.
func (v *views) at(t event.Time) *view {
	e := epochOf(t)
	for i := len(v) - 1; i >= 0 && v[i] != nil; i-- {
		if v[i].epoch <= e {
			return v[i]
		}
	}
	return nil
}

// PortChance returns the probability that a trial of a port in zone z at time t, of those whose port is
// not ordinary, has this port, and how many trials (faded, each client's once) say so; what
// they leave open is shared out as Port says. It is 0 for an ordinary port; all others add up to at most 1.
func (m *Model) PortChance(z event.Zone, t event.Time, port uint16) (q, n float64) {
	prior := Port(port)
	v := m.views.Load().at(t)
	if v == nil || prior == 0 {
		return prior, 0
	}
	z.Point = 0
	s := v.ports[z]
	if s == nil {
		return prior, 0
	}
	return s.of[uint32(port)] + s.rest*prior, s.trials
}

// DestinationChance returns the probability that a destination no lookup explains, in zone z at time t,
// is y, in host order; what the trials leave open is spread evenly over all of IPv4. Only a destination
// that three clients or more contacted (a sinkhole, a captive portal, a server that software
// carries with it) has more than that.
func (m *Model) DestinationChance(z event.Zone, t event.Time, y uint32) float64 {
	v := m.views.Load().at(t)
	if v == nil {
		return Floor
	}
	z.Point = 0
	s := v.destinations[z]
	if s == nil {
		return Floor
	}
	return s.of[y] + s.rest*Floor
}

// ModelStats counts what a Model holds and what did not fit.
type ModelStats struct {
	Zones, Ports, Destinations int
	Late                       uint64 // trials that came after their epoch was counted, and were counted later
	Lost                       uint64 // trials of too many open epochs, or of too many zones
}

// Stats returns the counts so far.
func (m *Model) Stats() (s ModelStats) {
	m.rotate.Lock()
	defer m.rotate.Unlock()
	m.enter.Lock()
	s.Late, s.Lost = m.late, m.lost
	m.enter.Unlock()
	zones := map[event.Zone]struct{}{}
	for z, p := range m.ports.zones {
		zones[z] = struct{}{}
		s.Ports += len(p.entries)
	}
	for z, p := range m.destinations.zones {
		zones[z] = struct{}{}
		s.Destinations += len(p.entries)
	}
	s.Zones = len(zones)
	s.Lost += m.ports.lost + m.destinations.lost
	return s
}
