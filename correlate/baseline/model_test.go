package baseline

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"portolan/sensor/event"
)

const start = event.Time(29_000_000 * int64(Epoch))

func at(epochs float64) event.Time { return start.Add(time.Duration(epochs * float64(Epoch))) }

func newModel(t testing.TB, change func(*ModelConfig)) *Model {
	t.Helper()
	cfg := DefaultModelConfig()
	if change != nil {
		change(&cfg)
	}
	m, err := NewModel(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// host returns the hash of the client numbered n.
func host(n int) uint64 {
	return ClientHash(event.Zone{}, [16]byte{10: 0xff, 11: 0xff, 12: 10, 14: byte(n >> 8), 15: byte(n)})
}

// enterPorts has n clients from number first on use a port.
func enterPorts(m *Model, t event.Time, port uint16, first, n int) {
	for i := range n {
		m.Port(event.Zone{}, t, port, host(first+i))
	}
}

// trial is one of a port and one of a destination.
type trial struct {
	zone   event.Zone
	time   event.Time
	port   uint16
	y      uint32
	client uint64
}

// randomTrials returns trials of many clients, a few of them loud, in one epoch.
func randomTrials(rng *rand.Rand, epoch float64, n int) []trial {
	all := make([]trial, n)
	for i := range all {
		x := &all[i]
		x.zone = event.Zone{Point: uint16(rng.IntN(3)), Kind: event.VLAN, ID: uint32(rng.IntN(3))}
		x.time = at(epoch + rng.Float64())
		x.port = uint16(20000 + rng.ExpFloat64()*50)
		x.y = 0xC6336400 + uint32(rng.ExpFloat64()*200)
		x.client = host(int(rng.ExpFloat64() * 40))
	}
	return all
}

func enter(m *Model, all []trial) {
	for i := range all {
		x := &all[i]
		m.Port(x.zone, x.time, x.port, x.client)
		m.Destination(x.zone, x.time, x.y, x.client)
	}
}

func TestModelConfigNamesTheField(t *testing.T) {
	for _, tt := range []struct {
		change func(*ModelConfig)
		want   string
	}{
		{func(c *ModelConfig) { c.Ports = 15 }, "baseline: Ports 15 is not from 16 to 65536"},
		{func(c *ModelConfig) { c.Destinations = 1<<20 + 1 }, "baseline: Destinations 1048577 is not from 16 to 1048576"},
		{func(c *ModelConfig) { c.Zones = 0 }, "baseline: Zones 0 is not from 1 to 65536"},
		{func(c *ModelConfig) { c.Clients = 0 }, "baseline: Clients 0 is not from 16 to 1048576"},
		{func(c *ModelConfig) { c.HalfLife = 90 * time.Second * 11 }, "baseline: HalfLife 16m30s is not from 10m to 2160h in whole minutes"},
	} {
		cfg := DefaultModelConfig()
		tt.change(&cfg)
		if _, err := NewModel(cfg); err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
}

func TestUnknownZoneHasThePrior(t *testing.T) {
	m := newModel(t, nil)
	for _, rotated := range []bool{false, true} {
		if rotated {
			m.Rotate(start)
		}
		q, n := m.PortChance(event.Zone{}, start, 27603)
		if q != Port(27603) || n != 0 {
			t.Errorf("rotated %v: port chance %v of %v trials, want %v of 0", rotated, q, n, Port(27603))
		}
		if q := m.DestinationChance(event.Zone{}, start, 0xC6336417); q != Floor {
			t.Errorf("rotated %v: destination chance %v, want %v", rotated, q, Floor)
		}
	}
}

// What is said adds up to no more than 1, whatever was entered.
func TestModelIsAProbability(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	m := newModel(t, func(c *ModelConfig) { c.Ports = 64 }) // so few that some are dropped
	m.Rotate(start)
	for e := range 30 {
		enter(m, randomTrials(rng, float64(e), 500))
		m.Rotate(at(float64(e + 1)))
	}
	zone := event.Zone{Kind: event.VLAN, ID: 1}
	sum, learned := 0.0, 0
	for p := range 1 << 16 {
		q, _ := m.PortChance(zone, at(31), uint16(p))
		if (q == 0) != Ordinary(uint16(p)) {
			t.Fatalf("port %d has chance %v", p, q)
		}
		if q > 10*Port(uint16(p)) {
			learned++
		}
		sum += q
	}
	if sum > 1+1e-9 || sum < .95 {
		t.Errorf("the chances of all ports add up to %v", sum)
	}
	if learned == 0 {
		t.Error("no port became more ordinary than the prior has it")
	}
	s := m.views.Load()[2].destinations[zone]
	sum = s.rest
	for _, q := range s.of {
		sum += q
	}
	if sum > 1+1e-9 || len(s.of) == 0 {
		t.Errorf("the chances of all destinations, %d of them learned, add up to %v", len(s.of), sum)
	}
}

// A trial changes nothing that is said for its own epoch or the next.
func TestModelIsPrequential(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	m := newModel(t, nil)
	said := func(x *trial, t event.Time) [2]float64 {
		q, _ := m.PortChance(x.zone, t, x.port)
		return [2]float64{q, m.DestinationChance(x.zone, t, x.y)}
	}
	m.Rotate(at(0))
	type claim struct {
		trial
		time event.Time
		said [2]float64
	}
	var claims []claim
	moved := 0
	for e := range 20 {
		all := randomTrials(rng, float64(e), 200)
		// As the trials come in: before any of this epoch, and for the next one as soon as it can be asked about.
		var now []claim
		for i := range all {
			now = append(now, claim{all[i], all[i].time, said(&all[i], all[i].time)})
		}
		enter(m, all)
		for _, c := range append(now, claims...) {
			if got := said(&c.trial, c.time); got != c.said {
				t.Fatalf("epoch %d: said %v of %+v, and %v after trials of its epoch were entered", e, c.said, c.trial, got)
			}
		}
		m.Rotate(at(float64(e + 1)))
		for _, c := range now {
			got := said(&c.trial, c.time)
			if got != c.said {
				t.Fatalf("epoch %d: said %v of %+v, and %v after the epoch was counted", e, c.said, c.trial, got)
			}
			next := c.time.Add(Epoch)
			claims = append(claims, claim{c.trial, next, said(&c.trial, next)})
			if said(&c.trial, next.Add(Epoch)) != got {
				moved++
			}
		}
		claims = claims[max(0, len(claims)-200):]
	}
	if moved == 0 {
		t.Error("nothing was ever learned")
	}
}

// One that was settled late does not change what was said, and is not lost.
func TestLateTrialsCountLater(t *testing.T) {
	m := newModel(t, nil)
	m.Rotate(at(10))
	enterPorts(m, at(3), 27603, 0, 20)
	m.Rotate(at(11))
	if q, _ := m.PortChance(event.Zone{}, at(11), 27603); q != Port(27603) {
		t.Errorf("chance %v in the epoch after they came, want the prior", q)
	}
	if q, n := m.PortChance(event.Zone{}, at(12), 27603); q < .5 || math.Abs(n-20) > .1 {
		t.Errorf("chance %v of %v trials later, want most of 20", q, n)
	}
	if s := m.Stats(); s.Late != 20 || s.Lost != 0 {
		t.Errorf("counted %d late and %d lost, want 20 and 0", s.Late, s.Lost)
	}
}

func TestOldTrialsHaveThePrior(t *testing.T) {
	m := newModel(t, nil)
	m.Rotate(at(0))
	enterPorts(m, at(0), 27603, 0, 20)
	m.Rotate(at(9))
	if q, _ := m.PortChance(event.Zone{}, at(9), 27603); q < .5 {
		t.Errorf("chance %v, want more than half", q)
	}
	if q, n := m.PortChance(event.Zone{}, at(1), 27603); q != Port(27603) || n != 0 {
		t.Errorf("a trial of the epoch that was counted has chance %v of %v trials, want the prior", q, n)
	}
}

// The order within an epoch makes no difference, bounds or no bounds.
func TestOrderMakesNoDifference(t *testing.T) {
	for _, clients := range []int{16, 8192} {
		rng := rand.New(rand.NewPCG(3, 3))
		change := func(c *ModelConfig) { c.Clients, c.Ports, c.Destinations = clients, 32, 32 }
		a, b := newModel(t, change), newModel(t, change)
		a.Rotate(at(0))
		b.Rotate(at(0))
		for e := range 12 {
			all := randomTrials(rng, float64(e), 3000)
			enter(a, all)
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			enter(b, all)
			enter(b, all[:100]) // and once more
			a.Rotate(at(float64(e + 1)))
			b.Rotate(at(float64(e + 1)))
		}
		if !reflect.DeepEqual(a.Export(), b.Export()) {
			t.Errorf("with room for %d clients the order of trials changes what is counted", clients)
		}
		if len(a.Export().Ports.Zones) != 3 {
			t.Errorf("counted in %d zones, want 3: the observation point must not matter", len(a.Export().Ports.Zones))
		}
	}
}

func TestFewClientsMakeNothingOrdinary(t *testing.T) {
	m := newModel(t, nil)
	m.Rotate(at(0))
	for e := range 200 { // over several generations
		enterPorts(m, at(float64(e)), 27603, 0, 2)
		enterPorts(m, at(float64(e)), 27604, 0, 3)
		for i := range 2 {
			m.Destination(event.Zone{}, at(float64(e)), 0xC6336417, host(i))
		}
		for i := range 3 {
			m.Destination(event.Zone{}, at(float64(e)), 0xC6336418, host(i))
		}
		m.Rotate(at(float64(e + 1)))
	}
	if q, _ := m.PortChance(event.Zone{}, at(202), 27603); q > Port(27603) {
		t.Errorf("two clients made a port ordinary: %v", q)
	}
	if q, _ := m.PortChance(event.Zone{}, at(202), 27604); q < 1e-2 {
		t.Errorf("three clients did not make a port ordinary: %v", q)
	}
	if q := m.DestinationChance(event.Zone{}, at(202), 0xC6336417); q > Floor {
		t.Errorf("two clients made a destination ordinary: %v", q)
	}
	if q := m.DestinationChance(event.Zone{}, at(202), 0xC6336418); q < 1e-2 {
		t.Errorf("three clients did not make a destination ordinary: %v", q)
	}
}

// A client that comes back each minute weighs about as much as one that came once.
func TestClientsCountAlike(t *testing.T) {
	m := newModel(t, func(c *ModelConfig) { c.HalfLife = time.Hour })
	m.Rotate(at(0))
	for e := range 600 {
		enterPorts(m, at(float64(e)), 27603, 0, 3)
		m.Rotate(at(float64(e + 1)))
		if _, n := m.PortChance(event.Zone{}, at(float64(e+2)), 27603); n > 3*3.5 {
			t.Fatalf("after %d minutes three clients weigh as much as %v", e, n)
		}
	}
	if _, n := m.PortChance(event.Zone{}, at(601), 27603); n < 3 {
		t.Errorf("three clients that never stopped weigh %v, want at least 3", n)
	}
}

// One host that sprays ports neither drowns the zone nor costs memory.
func TestFloodOfOneClient(t *testing.T) {
	m := newModel(t, nil)
	m.Rotate(at(0))
	enterPorts(m, at(0), 27603, 0, 50)
	for p := range 1 << 16 {
		m.Port(event.Zone{}, at(0), uint16(p), host(1000))
		m.Destination(event.Zone{}, at(0), uint32(p)<<8, host(1000))
	}
	held := 0
	for _, b := range m.open {
		for _, p := range b.ports.clients {
			held += p.n
		}
	}
	if held != 50+perEpoch {
		t.Errorf("%d trials are held, want 50 and %d", held, perEpoch)
	}
	for e := 1; e <= 30; e++ {
		for p := range 1000 {
			m.Port(event.Zone{}, at(float64(e)), uint16(e*1000+p), host(1000))
		}
		m.Rotate(at(float64(e + 1)))
	}
	if q, n := m.PortChance(event.Zone{}, at(32), 27603); q < .3 || n > 50+perGeneration {
		t.Errorf("the others' port has chance %v of %v trials", q, n)
	}
}

// Memory stays within the configuration, and the heavy stay although most come and go.
func TestModelIsBounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	m := newModel(t, func(c *ModelConfig) { c.Ports, c.Destinations, c.Zones, c.Clients = 64, 64, 4, 256 })
	m.Rotate(at(0))
	for e := range 40 {
		for range 4000 {
			z := event.Zone{Kind: event.VNI, ID: uint32(rng.IntN(4))}
			c := host(rng.IntN(4000))
			y := rng.Uint32()
			if rng.IntN(10) == 0 {
				y = 0xC6336417
			}
			m.Destination(z, at(float64(e)), y, c)
			m.Port(z, at(float64(e)), uint16(y), c)
		}
		for i := range 20 {
			m.Destination(event.Zone{Kind: event.VLAN, ID: uint32(i)}, at(float64(e)), 1, host(i))
		}
		for _, b := range m.open {
			if len(b.ports.clients) > 256 || len(b.destinations.clients) > 256 {
				t.Fatalf("%d and %d clients are held", len(b.ports.clients), len(b.destinations.clients))
			}
		}
		m.Rotate(at(float64(e + 1)))
		for _, b := range []*book{&m.ports, &m.destinations} {
			if len(b.zones) > 4 {
				t.Fatalf("%d zones are held", len(b.zones))
			}
			for _, z := range b.zones {
				if len(z.entries) > 64 {
					t.Fatalf("%d keys are held", len(z.entries))
				}
			}
		}
	}
	if m.Stats().Lost == 0 {
		t.Error("trials of zones without room were not counted as lost")
	}
	kept := 0
	for _, z := range m.destinations.zones {
		if slices.ContainsFunc(z.entries, func(e entry) bool { return e.key == 0xC6336417 && e.n == enough }) {
			kept++
		}
	}
	if kept == 0 {
		t.Error("a destination with a tenth of the trials was dropped everywhere")
	}
}

// A sample of the clients says about the same as all of them.
func TestSampleIsScaled(t *testing.T) {
	m := newModel(t, func(c *ModelConfig) { c.Clients = 256 })
	m.Rotate(at(0))
	enterPorts(m, at(0), 27603, 0, 4000)
	enterPorts(m, at(0), 27604, 4000, 4000)
	m.Rotate(at(1))
	a, n := m.PortChance(event.Zone{}, at(2), 27603)
	b, _ := m.PortChance(event.Zone{}, at(2), 27604)
	if math.Abs(a-.5) > .15 || math.Abs(b-.5) > .15 || n < 4000 || n > 16000 {
		t.Errorf("chances %v and %v of %v trials, want halves of about 8000", a, b, n)
	}
}

func TestTrialsOfTooManyEpochsAreLost(t *testing.T) {
	m := newModel(t, nil)
	m.Rotate(at(0))
	for e := range maxOpen + 3 {
		enterPorts(m, at(float64(e)), 27603, e, 1)
	}
	if s := m.Stats(); s.Lost != 3 {
		t.Errorf("%d trials are lost, want 3", s.Lost)
	}
}

func TestTrialsFade(t *testing.T) {
	m := newModel(t, func(c *ModelConfig) { c.HalfLife = time.Hour })
	m.Rotate(at(0))
	enterPorts(m, at(0), 27603, 0, 64)
	m.Rotate(at(1))
	_, before := m.PortChance(event.Zone{}, at(2), 27603)
	m.Rotate(at(61))
	_, after := m.PortChance(event.Zone{}, at(62), 27603)
	if math.Abs(after/before-.5) > 1e-9 {
		t.Errorf("an hour makes %v of %v, want half", after, before)
	}
	m.Rotate(at(1 + 60*20))
	if s := m.Stats(); s.Zones != 0 || s.Ports != 0 {
		t.Errorf("after 20 half-lives %d zones and %d ports are remembered", s.Zones, s.Ports)
	}
	if q, n := m.PortChance(event.Zone{}, at(3+60*20), 27603); q != Port(27603) || n != 0 {
		t.Errorf("chance %v of %v trials, want the prior", q, n)
	}
}

// Rotating often or seldom comes to the same counts.
func TestRotationsAddUp(t *testing.T) {
	a, b := newModel(t, nil), newModel(t, nil)
	for _, m := range []*Model{a, b} {
		m.Rotate(at(0))
		for e := range maxOpen {
			enterPorts(m, at(float64(e)), 27603, e*10, 10)
			if m == a {
				m.Rotate(at(float64(e + 1)))
				m.Rotate(at(float64(e) + .5)) // backwards
			}
		}
		m.Rotate(at(maxOpen))
	}
	for e := maxOpen - 1; e <= maxOpen+1; e++ {
		p, n := a.PortChance(event.Zone{}, at(float64(e)), 27603)
		q, o := b.PortChance(event.Zone{}, at(float64(e)), 27603)
		if n == 0 || math.Abs(p/q-1) > 1e-9 || math.Abs(n/o-1) > 1e-9 {
			t.Errorf("epoch %d: %v of %v trials rotating often, %v of %v seldom", e, p, n, q, o)
		}
	}
}

// learned returns a model with some traffic between two epochs.
func learned(t testing.TB, seed uint64, from, to int, change func(*ModelConfig)) *Model {
	rng := rand.New(rand.NewPCG(seed, 5))
	m := newModel(t, change)
	m.Rotate(at(float64(from)))
	for e := from; e < to; e++ {
		enter(m, randomTrials(rng, float64(e), 300))
		m.Rotate(at(float64(e + 1)))
	}
	return m
}

func TestStateSurvivesJSON(t *testing.T) {
	m := learned(t, 1, 0, 20, nil)
	text, err := json.Marshal(m.Export())
	if err != nil {
		t.Fatal(err)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	again := newModel(t, nil)
	if err := again.Import(s); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Export(), m.Export()) {
		t.Error("what was imported is not what was exported")
	}
	for _, x := range randomTrials(rand.New(rand.NewPCG(9, 9)), 21, 100) {
		p, n := m.PortChance(x.zone, x.time, x.port)
		q, o := again.PortChance(x.zone, x.time, x.port)
		if p != q || n != o || m.DestinationChance(x.zone, x.time, x.y) != again.DestinationChance(x.zone, x.time, x.y) {
			t.Fatalf("after a restart %+v has chance %v of %v trials, before %v of %v", x, q, o, p, n)
		}
	}
	// Going on is the same for both, and known pairs are not counted again.
	next := randomTrials(rand.New(rand.NewPCG(8, 8)), 21, 300)
	for _, m := range []*Model{m, again} {
		m.Rotate(at(21))
		enter(m, next)
		m.Rotate(at(22))
	}
	if !reflect.DeepEqual(again.Export(), m.Export()) {
		t.Error("a model that was restarted goes another way")
	}
}

func TestMergeIsCommutative(t *testing.T) {
	small := func(c *ModelConfig) { c.Ports, c.Destinations = 32, 32 }
	for _, change := range []func(*ModelConfig){nil, small} {
		a, b := learned(t, 1, 0, 20, change).Export(), learned(t, 2, 700, 720, change).Export() // another generation
		one, two := newModel(t, change), newModel(t, change)
		for _, s := range []State{a, b} {
			if err := one.Import(s); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range []State{b, a} {
			if err := two.Import(s); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(one.Export(), two.Export()) {
			t.Error("the order of states changes their sum")
		}
		if err := (&State{Version: StateVersion}).validate(); err == nil {
			t.Error("a state without filters passes")
		}
		sum := one.Export()
		if err := sum.validate(); err != nil {
			t.Errorf("the sum is no state: %v", err)
		}
		want := a.Ports.Zones[0].Trials*math.Exp2(-700./1440) + b.Ports.Zones[0].Trials
		if got := sum.Ports.Zones[0].Trials; math.Abs(got/want-1) > 1e-9 {
			t.Errorf("%v trials together, want %v", got, want)
		}
	}
}

// A port that one client used at each of three sites is one that three clients used.
func TestMergeJoinsClients(t *testing.T) {
	sum := newModel(t, nil)
	for i := range 3 {
		m := newModel(t, nil)
		m.Rotate(at(0))
		enterPorts(m, at(0), 27603, i, 1)
		m.Rotate(at(1))
		if err := sum.Import(m.Export()); err != nil {
			t.Fatal(err)
		}
	}
	if q, _ := sum.PortChance(event.Zone{}, at(2), 27603); q < .1 {
		t.Errorf("chance %v, want 3 of 19", q)
	}
}

func TestImportIntoARunningModel(t *testing.T) {
	m := newModel(t, nil)
	m.Rotate(at(100))
	before, _ := m.PortChance(event.Zone{Kind: event.VLAN, ID: 1}, at(101), 20000)
	if err := m.Import(learned(t, 1, 5000, 5020, nil).Export()); err != nil { // its clock is ahead
		t.Fatal(err)
	}
	if after, _ := m.PortChance(event.Zone{Kind: event.VLAN, ID: 1}, at(101), 20000); after != before {
		t.Errorf("importing changed what is said now: %v, was %v", after, before)
	}
	m.Rotate(at(101))
	if q, _ := m.PortChance(event.Zone{Kind: event.VLAN, ID: 1}, at(102), 20000); q < 10*before {
		t.Errorf("chance %v two epochs later, was %v", q, before)
	}
	if got := m.Export().Epoch; got != epochOf(at(101)) {
		t.Errorf("the model's time is %d, want %d", got, epochOf(at(101)))
	}
}

func TestImportRefusesWhatNoExportWrote(t *testing.T) {
	good := learned(t, 1, 0, 5, nil).Export()
	want := newModel(t, nil).Export()
	for _, tt := range []struct {
		name   string
		change func(*State)
	}{
		{"newer version", func(s *State) { s.Version++ }},
		{"another half-life", func(s *State) { s.HalfLife++ }},
		{"epoch beyond time", func(s *State) { s.Epoch = math.MaxInt64 }},
		{"short filter", func(s *State) { s.Ports.Seen[1] = s.Ports.Seen[1][1:] }},
		{"generation from nowhere", func(s *State) { s.Destinations.Generation = math.MaxInt64 }},
		{"zone twice", func(s *State) { s.Ports.Zones = append(s.Ports.Zones[:1:1], s.Ports.Zones...) }},
		{"keys out of order", func(s *State) { k := slices.Clone(s.Ports.Zones[0].Keys); slices.Reverse(k); s.Ports.Zones[0].Keys = k }},
		{"negative count", func(s *State) { s.Ports.Zones[0].Keys[0].Count = -1 }},
		{"no number", func(s *State) { s.Ports.Zones[0].Trials = math.NaN() }},
		{"infinite", func(s *State) { s.Ports.Zones[0].Trials = math.Inf(1) }},
		{"more than all", func(s *State) { s.Ports.Zones[0].Keys[0].Count += 1e6 }},
		{"four clients", func(s *State) { s.Ports.Zones[0].Keys[0].Clients = []uint32{1, 2, 3, 4} }},
	} {
		text, err := json.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		var s State
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		tt.change(&s)
		m := newModel(t, nil)
		if err := m.Import(s); err == nil {
			t.Errorf("%s: taken without an error", tt.name)
		}
		if !reflect.DeepEqual(m.Export(), want) {
			t.Errorf("%s: refused, but the model has changed", tt.name)
		}
	}
}

// Readers, writers, rotation and export at once; the race detector looks on.
func TestModelConcurrently(t *testing.T) {
	m := newModel(t, func(c *ModelConfig) { c.Clients = 64 })
	m.Rotate(at(0))
	var writers, others sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 6))
			for e := range 20 {
				enter(m, randomTrials(rng, float64(e), 200))
			}
		})
		others.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for e := range 20 {
				for _, x := range randomTrials(rng, float64(e), 200) {
					if q, _ := m.PortChance(x.zone, x.time, x.port); !(q > 0 && q <= 1) {
						t.Errorf("chance %v", q)
					}
					if q := m.DestinationChance(x.zone, x.time, x.y); !(q > 0 && q <= 1) {
						t.Errorf("chance %v", q)
					}
				}
			}
		})
	}
	others.Go(func() {
		for e := range 20 {
			m.Rotate(at(float64(e)))
			m.Stats()
		}
	})
	others.Go(func() {
		for range 5 {
			s := m.Export()
			if err := s.validate(); err != nil {
				t.Error(err)
			}
		}
	})
	writers.Wait()
	others.Wait()
	m.Rotate(at(21))
	if m.Stats().Zones != 3 {
		t.Errorf("%d zones were counted, want 3", m.Stats().Zones)
	}
}

func TestReadersDoNotAllocate(t *testing.T) {
	m := learned(t, 1, 0, 20, nil)
	z := event.Zone{Kind: event.VLAN, ID: 1}
	if n := testing.AllocsPerRun(100, func() {
		m.PortChance(z, at(21), 20010)
		m.DestinationChance(z, at(21), 0xC6336410)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPortChance(b *testing.B) {
	m := learned(b, 1, 0, 20, nil)
	z := event.Zone{Kind: event.VLAN, ID: 1}
	b.ReportAllocs()
	port := uint16(20000)
	for b.Loop() {
		m.PortChance(z, at(21), port)
		port++
	}
}

func BenchmarkDestinationChance(b *testing.B) {
	m := learned(b, 1, 0, 20, nil)
	z := event.Zone{Kind: event.VLAN, ID: 1}
	b.ReportAllocs()
	y := uint32(0xC6336400)
	for b.Loop() {
		m.DestinationChance(z, at(21), y)
		y++
	}
}

// One client that sprays ports: what an entry costs when its places are full.
func BenchmarkEnterFlood(b *testing.B) {
	m := learned(b, 1, 0, 20, nil)
	z := event.Zone{Kind: event.VLAN, ID: 1}
	b.ReportAllocs()
	port := uint16(20000)
	for b.Loop() {
		m.Port(z, at(21), port, 1)
		port++
	}
}

func BenchmarkRotate(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	m := newModel(b, nil)
	m.Rotate(at(0))
	all := randomTrials(rng, 0, 20000)
	b.ReportAllocs()
	e := 0.
	for b.Loop() {
		for i := range all {
			all[i].time = at(e)
			all[i].client = host(rng.IntN(60000))
		}
		enter(m, all)
		e++
		m.Rotate(at(e))
	}
}
