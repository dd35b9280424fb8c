package hunt

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/correlate"
	"portolan/correlate/baseline"
	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// archiveOf returns a world as an archive: its lookups are the first source, its connections the second. Given
// is called before each event.
func archiveOf(world traffic.Config, given func()) Archive {
	source := 0
	return Archive{
		Read: func(ctx context.Context, to feed.Sink) error {
			g, err := traffic.New(world)
			if err != nil {
				return err
			}
			return g.Run(ctx, func(e traffic.Event) {
				given()
				if source = 0; e.Lookup != nil {
					to.Lookup(e.Lookup)
				} else {
					source = 1
					to.Connection(e.Connection)
				}
			})
		},
		At:      func() int { return source },
		Sources: []Source{{"dns", "generated"}, {"conn", "generated"}},
	}
}

// forget takes out of r what is the same but for where maps keep it.
func forget(r *Result) { r.Coverage = nil }

func testWorld() traffic.Config {
	world := traffic.DefaultConfig()
	world.Clients, world.Implants, world.Duration = 2, 1, 8*time.Hour
	world.Interval = [2]time.Duration{5 * time.Minute, 20 * time.Minute}
	world.Families = []string{"A1", "P1"}
	return world
}

func testConfig() Config {
	cfg := Config{Correlate: correlate.DefaultConfig(), Cores: 1, Key: "test"}
	cfg.Correlate.Seed, cfg.Correlate.MemoryBytes = 7, 32<<20
	return cfg
}

func mustRun(t *testing.T, cfg Config, world traffic.Config) *Result {
	t.Helper()
	r, err := Run(context.Background(), cfg, archiveOf(world, func() {}))
	if err != nil {
		t.Fatal(err)
	}
	forget(r)
	return r
}

// direct runs the world through one correlator, as replay does.
func direct(t *testing.T, cfg correlate.Config, world traffic.Config) correlate.Stats {
	t.Helper()
	var err error
	if cfg.Baseline, err = baseline.NewModel(baseline.DefaultModelConfig()); err != nil {
		t.Fatal(err)
	}
	c, err := correlate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g, err := traffic.New(world)
	if err != nil {
		t.Fatal(err)
	}
	next := event.Time(math.MinInt64)
	tick := func(now event.Time) {
		if now >= next {
			next = now.Add(time.Second)
			c.Advance(nil, now)
		}
	}
	err = g.Run(context.Background(), func(e traffic.Event) {
		if e.Lookup != nil {
			tick(e.Lookup.Time)
			c.ObserveLookup(nil, e.Lookup)
		} else {
			tick(e.Connection.Time)
			c.ObserveConnection(nil, e.Connection)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Flush(nil)
	return c.Stats()
}

// What a hunt over pieces of an archive finds is what one run over the whole finds, and the sums agree.
func TestHuntFindsWhatASensorFinds(t *testing.T) {
	world, cfg := testWorld(), testConfig()
	r := mustRun(t, cfg, world)
	want := direct(t, cfg.Correlate, world)
	if r.Found != want.Final || r.Found[correlate.Alert] < 10 {
		t.Errorf("found %v, want %v and some alerts", r.Found, want.Final)
	}
	if r.Stats.Lookups != want.Lookups || r.Stats.Connections != want.Connections || r.Stats.Explained != want.Explained {
		t.Errorf("%d lookups, %d connections, %d explained; want %d, %d, %d", r.Stats.Lookups, r.Stats.Connections, r.Stats.Explained,
			want.Lookups, want.Connections, want.Explained)
	}
	var sum Bin
	for n, b := range r.Bins {
		if at := event.Time(n * int64(r.Width)); at < world.Start || at >= world.Start.Add(world.Duration) {
			t.Errorf("an hour at %v", at.UTC())
		}
		sum.Lookups += b.Lookups
		sum.Connections += b.Connections
		sum.Settled += b.Settled
		sum.Explained += b.Explained
		for l := range b.Hits {
			sum.Hits[l] += b.Hits[l]
			sum.Decoys[l] += b.Decoys[l]
		}
	}
	if sum.Lookups != want.Lookups || sum.Connections != want.Connections || sum.Settled != want.Connections || sum.Explained != want.Explained ||
		sum.Hits != want.Final {
		t.Errorf("the hours add up to %+v, want %+v", sum, want)
	}
	if r.Sources[0].Lookups != want.Lookups || r.Sources[1].Connections != want.Connections {
		t.Errorf("sources %+v", r.Sources)
	}
	if n := len(r.Hits); n == 0 || uint64(n) != r.Found[correlate.Lead]+r.Found[correlate.Watch]+r.Found[correlate.Alert] {
		t.Errorf("%d hits of %v", n, r.Found)
	}
	if r.Warm != world.Start.Add(24*time.Hour) && r.Warm.Sub(world.Start.Add(24*time.Hour)) > time.Minute {
		t.Errorf("warm at %v", r.Warm.UTC())
	}
}

// A world without implants gives no alert.
func TestBenignArchive(t *testing.T) {
	world, cfg := testWorld(), testConfig()
	world.Clients, world.Implants, world.Families = 10, 0, nil
	if r := mustRun(t, cfg, world); r.Found[correlate.Alert] > 0 || r.Stats.Lookups == 0 {
		t.Errorf("found %v", r.Found)
	}
}

// Neither the number of cores nor being broken off at any moment, again and again, changes the result.
func TestCoresAndInterruptions(t *testing.T) {
	world, cfg := testWorld(), testConfig()
	want := mustRun(t, cfg, world)
	for _, cores := range []int{3} {
		cfg.Cores = cores
		if got := mustRun(t, cfg, world); !reflect.DeepEqual(got, want) {
			t.Errorf("%d cores: found %v, one core %v", cores, got.Found, want.Found)
		}
	}
	r := rand.New(rand.NewPCG(3, 3))
	events := int64(want.Stats.Lookups + want.Stats.Connections)
	for round := range 2 {
		cfg.Cores = 1 + round%2
		cfg.Checkpoint = filepath.Join(t.TempDir(), "place")
		stopped := errors.New("stopped")
		broken := 0
		var got *Result
		for got == nil {
			ctx, cancel := context.WithCancelCause(context.Background())
			var left atomic.Int64
			left.Store(1 + r.Int64N(2*events)) // what was read before is read again, and counts
			var err error
			got, err = Run(ctx, cfg, archiveOf(world, func() {
				if left.Add(-1) == 0 {
					cancel(stopped)
				}
			}))
			cancel(nil)
			if err != nil && !errors.Is(err, stopped) {
				t.Fatal(err)
			}
			if err != nil {
				broken++
			}
		}
		if broken > 0 && !got.Resumed {
			t.Errorf("round %d: broken off %d times, and begun again", round, broken)
		}
		forget(got)
		if got.Resumed = false; !reflect.DeepEqual(got, want) {
			t.Errorf("round %d, broken off %d times: found %v, want %v", round, broken, got.Found, want.Found)
		}
	}
}

// Of what lies before Since only the time Learn is read, and nothing of it is a hit; after Until nothing is.
func TestSinceUntil(t *testing.T) {
	world, cfg := testWorld(), testConfig()
	all := mustRun(t, cfg, world)
	cfg.Since, cfg.Until, cfg.Learn = world.Start.Add(5*time.Hour), world.Start.Add(7*time.Hour), 48*time.Hour
	r := mustRun(t, cfg, world)
	want := [correlate.Alert + 1]uint64{}
	for _, h := range all.Hits {
		if h.Connection.Time >= cfg.Since && h.Connection.Time < cfg.Until {
			want[h.Level]++
		}
	}
	if r.Found != want || want[correlate.Alert] == 0 {
		t.Errorf("found %v, want %v as in the whole archive", r.Found, want)
	}
	if r.Begin < cfg.Since || r.End >= cfg.Until || r.Stats.Lookups >= r.All.Lookups {
		t.Errorf("from %v to %v, %d of %d lookups", r.Begin.UTC(), r.End.UTC(), r.Stats.Lookups, r.All.Lookups)
	}
	cfg.Learn = 0
	if r := mustRun(t, cfg, world); r.Stats.Lookups != r.All.Lookups && r.All.Lookups-r.Stats.Lookups > 10 {
		t.Errorf("%d lookups were only learned from", r.All.Lookups-r.Stats.Lookups)
	}
}

func TestCheckpointOfAnotherHunt(t *testing.T) {
	world, cfg := testWorld(), testConfig()
	cfg.Checkpoint = filepath.Join(t.TempDir(), "place")
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	from := archiveOf(world, func() {
		if n++; n == 5000 {
			cancel()
		}
	})
	if _, err := Run(ctx, cfg, from); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	cfg.Key = "another"
	if _, err := Run(context.Background(), cfg, from); !errors.Is(err, ErrOther) {
		t.Errorf("%v, want ErrOther", err)
	}
}

func TestBinsWiden(t *testing.T) {
	tl := newTally(make([]Source, 2))
	for i := range int64(3 * maxBins) {
		b := tl.bin(event.Time(i * int64(time.Hour)))
		b.Lookups++
		b.Sources[1]++
	}
	if len(tl.Bins) > maxBins || tl.Width != 4*time.Hour {
		t.Errorf("%d bins of %v", len(tl.Bins), tl.Width)
	}
	sum := uint64(0)
	for _, b := range tl.Bins {
		if sum += b.Lookups; b.Lookups != b.Sources[1] {
			t.Fatalf("%+v", b)
		}
	}
	if sum != 3*maxBins {
		t.Errorf("%d lookups, want %d", sum, 3*maxBins)
	}
}
