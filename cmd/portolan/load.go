package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
	"portolan/sensor"
)

// loadConfig says what portolan lab --load measures.
type loadConfig struct {
	mix     lab.Mix
	seconds int     // of each trial
	rounds  int     // of which the median counts
	senders int     // CPUs that send
	rate    float64 // frames a second; 0 looks for the highest without loss

	prefilters []sensor.Prefilter // nil: those that make a difference to the mix
}

// setPrefilters reads a list with commas.
func (c *loadConfig) setPrefilters(text string) error {
	c.prefilters = nil
	for name := range strings.SplitSeq(text, ",") {
		f := sensor.Prefilter(strings.TrimSpace(name))
		if !slices.Contains(sensor.Prefilters(), f) {
			return fmt.Errorf("%q is no prefilter; there are %v", name, sensor.Prefilters())
		}
		c.prefilters = append(c.prefilters, f)
	}
	return nil
}

// compared returns the prefilters to measure.
func (c *loadConfig) compared() []sensor.Prefilter {
	switch {
	case c.prefilters != nil:
		return c.prefilters
	case c.mix == lab.MixBulk:
		return []sensor.Prefilter{sensor.PrefilterOff, sensor.PrefilterSocket, sensor.PrefilterEBPF, sensor.PrefilterXDP}
	}
	return []sensor.Prefilter{sensor.PrefilterSocket} // all frames pass every one
}

func defaultLoad() loadConfig {
	return loadConfig{mix: lab.MixSYN, seconds: 1, rounds: 3, senders: max(1, runtime.NumCPU()/2)}
}

func (c *loadConfig) validate() error {
	switch {
	case c.seconds < 1 || c.seconds > 3600:
		return usagef("lab: --seconds is %d, want 1 to 3600", c.seconds)
	case c.rounds < 1 || c.rounds > 99:
		return usagef("lab: --rounds is %d, want 1 to 99", c.rounds)
	case c.senders < 1 || c.senders > runtime.NumCPU():
		return usagef("lab: --senders is %d, want 1 to the %d CPUs there are", c.senders, runtime.NumCPU())
	case c.rate < 0:
		return usagef("lab: --rate is %g frames a second, want more than 0", c.rate)
	}
	return nil
}

// What makes a trial one without loss.
const (
	// backlogAllowed is how long the rest may take when the senders have stopped: a ring holds so
	// much that a rate which cannot be sustained loses nothing in a short trial.
	backlogAllowed = 25 * time.Millisecond
	// drainTimeout is how long a stage may take for what is in its rings.
	drainTimeout = 30 * time.Second

	searchSteps = 10   // trials of one search
	searchGap   = 0.02 // between the highest rate without loss and the lowest with it that ends a search
)

// trial is what became of the frames of one rate.
type trial struct {
	Rate    float64       `json:"frames_per_second"` // offered
	CPU     float64       `json:"cpu_ns_per_frame"`  // of this process without the senders', on each frame offered
	Backlog time.Duration `json:"backlog_ns"`        // how long what waited in the rings took when sending had ended
	Lost    lostFrames    `json:"lost"`
	Offered uint64        `json:"offered"`
	Gap     time.Duration `json:"longest_gap_ns"`      // between two reads of a ring, since the stage was opened
	Pause   time.Duration `json:"longest_gc_pause_ns"` // during the trial
}

// lostFrames is where frames, or their events, were lost.
type lostFrames struct {
	Veth       uint64 `json:"veth"`
	Ring       uint64 `json:"ring"`
	Decoder    uint64 `json:"decoder"` // told only when nothing was lost before it
	Correlator uint64 `json:"correlator"`
}

func (l lostFrames) total() uint64 { return l.Veth + l.Ring + l.Decoder + l.Correlator }

func (t *trial) clean() bool { return t.Lost.total() == 0 && t.Backlog <= backlogAllowed }

// load measures every stage on one wire.
func (p *program) load(ctx context.Context, cfg *config.Config, l loadConfig, asJSON bool) (err error) {
	var cpus []int
	for i := range l.senders {
		cpus = append(cpus, runtime.NumCPU()-1-i)
	}
	wire, err := lab.NewWire(l.mix, cpus)
	if err != nil {
		return withHint(err, "it needs root, network namespaces, veth and XDP with live frames (Linux 5.18)")
	}
	defer func() { err = errors.Join(err, wire.Close()) }()
	say := func(format string, args ...any) { fmt.Fprintf(p.stderr, "lab: "+format+"\n", args...) }
	say("%s: %v", string(l.mix), l.mix)

	stages := loadStages(l.compared())
	found := make([][]searched, len(stages))
	for round := range l.rounds {
		for i, s := range stages {
			one, err := l.measure(ctx, s, wire, cfg)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			say("round %d of %d: %s: %s", round+1, l.rounds, s.name, one)
			found[i] = append(found[i], one)
		}
	}
	out := loadOutcome{Mix: l.mix, Contents: l.mix.String(), Senders: l.senders, CPUs: runtime.NumCPU(), Rounds: l.rounds, Seconds: l.seconds}
	for i, s := range stages {
		out.add(s.name, found[i])
	}
	if asJSON {
		return out.writeJSON(p.stdout)
	}
	return out.write(p.stdout)
}

// searched is what a search came to.
type searched struct {
	best  trial  // with the highest rate without loss; of rate 0 when there was none
	worse *trial // the lowest rate with loss; nil when the senders were the limit
}

func (s searched) String() string {
	text := fmt.Sprintf("%.0f frames/s without loss", s.best.Rate)
	if s.worse != nil {
		text += ", " + s.worse.why()
	}
	return text
}

// measure opens a stage, finds the highest rate at which it loses nothing, and closes it.
func (l *loadConfig) measure(ctx context.Context, s loadStage, wire *lab.Wire, cfg *config.Config) (found searched, err error) {
	run, err := s.open(ctx, wire, cfg)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, run.close()) }()
	runtime.GC()
	try := func(rate float64) (trial, error) { return l.try(ctx, run, wire, rate) }
	if l.rate > 0 {
		found.best, err = try(l.rate)
		if err == nil && !found.best.clean() {
			found.worse = &found.best
		}
		return found, err
	}
	return search(try)
}

// search finds the highest rate at which a trial is clean. try is given 0 for all that the senders can do.
func search(try func(rate float64) (trial, error)) (found searched, err error) {
	twice := func(rate float64) (trial, error) {
		t, err := try(rate)
		if err != nil || t.clean() {
			return t, err
		}
		return try(rate) // something else may have had the CPU
	}
	t, err := twice(0)
	if err != nil || t.clean() {
		found.best = t
		return found, err
	}
	// A ring that overflows takes frames at about the highest rate that it can take.
	found.worse = &t
	next := min(0.98, 1-float64(t.Lost.total())/float64(t.Offered)) * t.Rate
	for range searchSteps {
		t, err := twice(next)
		if err != nil {
			return found, err
		}
		if t.clean() {
			found.best = t
		} else {
			found.worse = &t
		}
		low, high := found.best.Rate, found.worse.Rate
		switch {
		case low == 0:
			next = 0.7 * high
		case high-low <= searchGap*high:
			return found, nil
		default:
			next = (low + high) / 2
		}
	}
	return found, nil
}

// try offers frames at a rate for some seconds and waits until the stage has taken what it could.
func (l *loadConfig) try(ctx context.Context, run loadRun, wire *lab.Wire, rate float64) (t trial, err error) {
	before, err := run.counts()
	if err != nil {
		return t, err
	}
	cpu, err := lab.ProcessCPU()
	if err != nil {
		return t, err
	}
	if err := wire.Send(rate); err != nil {
		return t, err
	}
	start := time.Now()
	wait(ctx, time.Duration(l.seconds)*time.Second)
	if err := wire.Stop(); err != nil {
		return t, err
	}
	stopped := time.Now()
	after, last, err := drainStage(ctx, run)
	if err != nil {
		return t, err
	}
	t.Backlog = max(0, last.Sub(stopped))
	used, err := lab.ProcessCPU()
	if err != nil {
		return t, err
	}
	sent, err := wire.Counts()
	if err != nil {
		return t, err
	}
	t.Offered = sent.Offered.Frames
	t.Rate = float64(t.Offered) / stopped.Sub(start).Seconds()
	if t.Offered > 0 {
		t.CPU = float64(used-cpu-sent.CPU) / float64(t.Offered)
	}
	t.Gap, t.Pause = after.gap, pauseSince(start)
	t.Lost.Veth = less(t.Offered, sent.Arrived) + sent.Rejected
	t.Lost.Ring = after.dropped - before.dropped
	t.Lost.Correlator = after.refused - before.refused
	if _, decodes := run.(*sensorRun); decodes && t.Lost.Veth+t.Lost.Ring == 0 {
		t.Lost.Decoder = less(sent.Offered.Connections, after.connections-before.connections) +
			less(sent.Offered.Lookups, after.lookups-before.lookups)
	}
	return t, nil
}

// less returns how much smaller got is than want, 0 when it is not.
func less(want, got uint64) uint64 { return want - min(want, got) }

// drainStage waits until a stage takes no more frames, and returns its counts and when it took the last.
func drainStage(ctx context.Context, run loadRun) (n loadCounts, last time.Time, err error) {
	const (
		look  = time.Millisecond
		quiet = 50 * time.Millisecond // longer than the kernel holds a block
	)
	last = time.Now()
	deadline := last.Add(drainTimeout)
	was := ^uint64(0)
	for {
		if n, err = run.counts(); err != nil {
			return n, last, err
		}
		now := time.Now()
		if n.frames != was {
			was, last = n.frames, now
		}
		switch {
		case ctx.Err() != nil:
			return n, last, context.Cause(ctx)
		case n.settled && now.Sub(last) > quiet:
			return n, last, nil
		case now.After(deadline):
			return n, last, fmt.Errorf("frames still come %v after the last was sent", drainTimeout)
		}
		wait(ctx, look)
	}
}

// pauseSince returns the longest time for which the garbage collector stopped everything since start.
func pauseSince(start time.Time) (longest time.Duration) {
	var s debug.GCStats
	debug.ReadGCStats(&s)
	for i, end := range s.PauseEnd {
		if end.After(start) {
			longest = max(longest, s.Pause[i])
		}
	}
	return longest
}

// medianSearch returns the one with the median rate.
func medianSearch(all []searched) searched {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b searched) int {
		switch {
		case a.best.Rate < b.best.Rate:
			return -1
		case a.best.Rate > b.best.Rate:
			return 1
		}
		return 0
	})
	return all[len(all)/2]
}
