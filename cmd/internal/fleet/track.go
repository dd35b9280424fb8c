package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
	"portolan/sensor/event"
)

const (
	// flushEvery bounds how long hits are published before their position is remembered.
	flushEvery = 200 * time.Millisecond
	// What a consumer asks the server for: messages, or a sign of life this often.
	pullExpiry    = 10 * time.Second
	pullHeartbeat = 2 * time.Second
	queueMessages = 64 // read and not yet correlated
	// resumePause is how long a broken consumer rests.
	resumePause = 250 * time.Millisecond
	// sourceSilence is for how long, by the stream's clock, a sensor may send nothing before the
	// others no longer wait for it.
	sourceSilence = 10 * time.Second
	// maxSources bounds the sensors told apart in one partition.
	maxSources = 1024
)

// track is the work on one partition: a correlator fed from the stream. All but done and at
// belongs to its goroutine.
type track struct {
	w      *Worker
	n      int
	from   position // hits that follow from the stream up to there are stored
	cancel context.CancelFunc
	done   sync.WaitGroup
	at     atomic.Pointer[position]

	correlator  *correlate.Correlator
	decoder     decoder
	hits        []correlate.Hit
	read        position // the last message that was correlated
	unflushed   bool     // hits were published after the last flush
	flushed     time.Time
	sources     map[string]*source
	first, last event.Time // packet time
	advanced    event.Time
	lost        uint64 // batches
	otherCount  bool   // a publisher reckons with another number of partitions, and it was said
}

// source is what is known of one sensor.
type source struct {
	epoch   uint64
	next    [numKinds]uint64 // sequence, 0 before the first
	missing [numKinds]runs   // sequences passed over
	reached event.Time
	seen    time.Time // by the stream's clock
	ended   bool
}

// startTrack begins to work on partition n behind a position.
func (w *Worker) startTrack(n int, from position) *track {
	ctx, cancel := context.WithCancel(context.Background())
	t := &track{w: w, n: n, from: from, cancel: cancel, read: from, sources: map[string]*source{}}
	t.at.Store(&from)
	t.done.Go(func() { t.run(ctx) })
	return t
}

// position returns how far the work has come.
func (t *track) position() position { return *t.at.Load() }

// stop ends the work and returns how far it came.
func (t *track) stop() position {
	t.cancel()
	t.done.Wait()
	return t.position()
}

// run reads the stream until ctx ends, however often the consumer breaks.
func (t *track) run(ctx context.Context) {
	c, err := correlate.New(t.w.cfg.perPartition())
	if err != nil {
		t.w.log.Error("partition cannot be worked on", "partition", t.n, "error", err) // Validate has seen the same configuration
		return
	}
	t.correlator = c
	t.advanced, t.first, t.last = math.MinInt64, math.MaxInt64, math.MinInt64
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects:    []string{filter(t.n)},
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		MaxResetAttempts:  1, // run tries again, and watches its context
		InactiveThreshold: time.Minute,
	}
	if t.from.Sequence > 0 {
		since := t.from.Time.Add(-t.w.cfg.Lookback)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	last := uint64(0)
	for {
		err := t.consume(ctx, cfg, &last)
		t.flush(context.WithoutCancel(ctx))
		if ctx.Err() != nil {
			return
		}
		t.w.log.Info("partition read again", "partition", t.n, "after", last, "error", err)
		if last > 0 {
			cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverByStartSequencePolicy, last+1, nil
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(resumePause):
		}
	}
}

// consume reads with one consumer; last is the sequence of the last message.
func (t *track) consume(ctx context.Context, cfg jetstream.OrderedConsumerConfig, last *uint64) error {
	ctx, cancel := context.WithCancel(ctx) // also ends the reader
	defer cancel()
	asking, enough := context.WithTimeout(ctx, t.w.cfg.Timeout)
	defer enough()
	consumer, err := t.w.js.OrderedConsumer(asking, bus.ObservationsStream, cfg)
	if err != nil {
		return err
	}
	// The client library notices a consumer that is gone only within one long call of Next, so a
	// goroutine of its own makes those.
	messages, err := consumer.Messages(jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return err
	}
	queue, broken := make(chan jetstream.Msg, queueMessages), make(chan error, 1)
	var reading sync.WaitGroup
	defer func() {
		cancel()
		messages.Stop()
		reading.Wait()
	}()
	reading.Go(func() { broken <- read(ctx, messages, queue) })
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return err
		case <-tick.C:
			if err := t.flush(ctx); err != nil {
				return err
			}
		case m := <-queue:
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if meta.Sequence.Stream <= *last {
				continue
			}
			*last = meta.Sequence.Stream
			if err := t.take(ctx, m.Subject(), m.Data(), position{meta.Sequence.Stream, meta.Timestamp}); err != nil {
				return err
			}
		}
	}
}

// read hands on messages until ctx ends, they are stopped, or the consumer is gone.
func read(ctx context.Context, messages jetstream.MessagesContext, to chan<- jetstream.Msg) error {
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take correlates one message and publishes the hits, unless they were published before.
func (t *track) take(ctx context.Context, subject string, data []byte, p position) error {
	again := p.Sequence <= t.from.Sequence
	t.hits = t.hits[:0]
	h, err := t.decoder.decode(data, t)
	if err != nil {
		t.w.counts.damaged.Add(1)
		t.w.log.Warn("nats message is no whole batch of observations", "subject", subject, "sequence", p.Sequence, "error", err)
	}
	t.w.counts.observations.Add(uint64(h.count))
	if again {
		t.w.counts.again.Add(uint64(h.count))
	}
	if h.epoch != 0 {
		t.account(subject, &h, p.Time)
		t.advance(&h, p.Time)
	}
	if again {
		return nil
	}
	if err := t.publish(ctx); err != nil {
		return err
	}
	t.read = p
	if !t.unflushed {
		t.at.Store(&p)
	} else if time.Since(t.flushed) >= flushEvery {
		return t.flush(ctx)
	}
	return nil
}

// Lookup correlates a lookup.
func (t *track) Lookup(l *event.Lookup) {
	t.passed(l.Time)
	t.hits = t.correlator.ObserveLookup(t.hits, l)
}

// Connection correlates a connection.
func (t *track) Connection(x *event.Connection) {
	t.passed(x.Time)
	t.hits = t.correlator.ObserveConnection(t.hits, x)
}

func (t *track) passed(now event.Time) { t.first, t.last = min(t.first, now), max(t.last, now) }

// account notices what a sensor's publisher lost.
func (t *track) account(subject string, h *header, stored time.Time) {
	kind, sensor, ok := parseSubject(subject)
	if !ok {
		return
	}
	s := t.sources[sensor]
	if s == nil {
		if len(t.sources) >= maxSources {
			return
		}
		s = &source{reached: math.MinInt64}
		t.sources[sensor] = s
	}
	if h.epoch < s.epoch {
		return // sent before its publisher began anew
	}
	if h.epoch > s.epoch {
		*s = source{epoch: h.epoch, reached: s.reached}
	}
	s.seen, s.ended = stored, h.end
	switch {
	case s.next[kind] == 0:
		s.next[kind] = h.sequence + 1
	case h.sequence >= s.next[kind]:
		t.miss(h.sequence - s.next[kind])
		s.missing[kind].add(s.next[kind], h.sequence)
		s.next[kind] = h.sequence + 1
	case s.missing[kind].remove(h.sequence): // sent again, and so late
		t.miss(^uint64(0))
	}
	if h.reached > s.reached {
		s.reached = h.reached
	}
	if int(h.partitions) != t.w.cfg.Partitions && !t.otherCount {
		t.otherCount = true
		t.w.log.Error("a sensor reckons with another number of partitions: its observations meet no others",
			"sensor", sensor, "partitions", h.partitions, "want", t.w.cfg.Partitions)
	}
}

// miss counts n more batches as lost; ^0 is one less.
func (t *track) miss(n uint64) {
	t.lost += n
	t.w.counts.lost.Add(n)
}

// runs are sequences that did not come yet, as half-open intervals, ascending.
type runs [][2]uint64

// maxRuns bounds runs. What is forgotten stays lost when it comes after all.
const maxRuns = 64

// add enters what lies from first up to, and without, end; it is above all that is there.
func (r *runs) add(first, end uint64) {
	if first == end {
		return
	}
	if len(*r) >= maxRuns {
		*r = append((*r)[:0], (*r)[1:]...)
	}
	*r = append(*r, [2]uint64{first, end})
}

// remove takes a sequence out, and reports whether it was there: else it came before.
func (r *runs) remove(sequence uint64) bool {
	for i, x := range *r {
		if sequence < x[0] || sequence >= x[1] {
			continue
		}
		*r = slices.Delete(*r, i, i+1)
		if sequence+1 < x[1] {
			*r = slices.Insert(*r, i, [2]uint64{sequence + 1, x[1]})
		}
		if x[0] < sequence {
			*r = slices.Insert(*r, i, [2]uint64{x[0], sequence})
		}
		return true
	}
	return false
}

// parseSubject takes apart what subject makes.
func parseSubject(s string) (kind int, sensor string, ok bool) {
	tokens := strings.Split(s, ".")
	if len(tokens) != 6 {
		return 0, "", false
	}
	kind = slices.Index(kindNames[:], tokens[3])
	return kind, tokens[4], kind >= 0
}

// advance settles what every sensor has delivered. All that it goes by stands in the stream, so
// that a worker which reads it again comes to the same.
func (t *track) advance(h *header, stored time.Time) {
	if h.reached == 0 && !h.end {
		return
	}
	reached, waiting := event.Time(math.MaxInt64), false
	for _, s := range t.sources {
		if !s.ended && stored.Sub(s.seen) < sourceSilence {
			waiting = true
			reached = min(reached, s.reached)
		}
	}
	if !waiting {
		t.hits = t.correlator.Flush(t.hits)
		return
	}
	if reached > t.advanced {
		t.advanced = reached
		t.hits = t.correlator.Advance(t.hits, reached)
	}
}

// publish hands the hits to the bus and waits for room there.
func (t *track) publish(ctx context.Context) error {
	if len(t.hits) == 0 {
		return nil
	}
	c := t.context()
	if !t.unflushed {
		t.unflushed, t.flushed = true, time.Now()
	}
	for i := range t.hits {
		t.expectFalse(&c, t.hits[i].Level)
		m := bus.NewMessage(&t.hits[i], c)
		err := t.w.bus.Publish(m)
		if errors.Is(err, bus.ErrQueueFull) {
			err = t.w.bus.PublishWait(ctx, m) // a worker has time: the stream keeps what it has yet to read
		}
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			t.w.log.Error("hit not published", "hit", m.Portolan.HitID, "error", err)
			continue
		}
		t.w.counts.hits.Add(1)
	}
	return nil
}

// flush waits until the hits are stored and remembers how far that is. When it cannot, the
// position stays, and whoever reads on publishes them once more under the same ids.
func (t *track) flush(ctx context.Context) error {
	if t.unflushed {
		ctx, cancel := context.WithTimeout(ctx, t.w.cfg.Timeout)
		defer cancel()
		if err := t.w.bus.Flush(ctx); err != nil {
			return err
		}
		t.unflushed = false
	}
	p := t.read
	t.at.Store(&p)
	return nil
}

// context returns what messages say of this partition. A worker sees no frames: what the sensors
// lost, and which directions they saw, stands in their own coverage records.
func (t *track) context() bus.Context {
	c := bus.Context{Sensor: t.w.cfg.Name, Version: t.w.cfg.Version, Created: time.Now(), Verdict: bus.Unknown}
	c.Loss.Unknown = []string{"nic", "ring", "decoder"}
	c.Loss.Queue = t.lost
	names := make([]string, 0, len(t.sources))
	for name := range t.sources {
		names = append(names, name)
	}
	slices.Sort(names)
	if n := len(names); n > 8 {
		names = append(names[:8], fmt.Sprintf("%d more", n-8))
	}
	c.Why = []string{"observed by " + strings.Join(names, ", ")}
	if t.lost > 0 {
		c.Verdict = bus.Partial
		c.Why = append(c.Why, fmt.Sprintf("%d batches of observations lost before they reached the stream", t.lost))
	}
	return c
}

// leastSpan is the shortest time over which a rate of trials is taken.
const leastSpan = time.Minute

// expectFalse writes into c how many hits of a level chance makes in a day among this partition's
// clients: what the decoys reached, with one more as if it came next, or the bound of package
// evidence (trials over threshold) where that is less.
func (t *track) expectFalse(c *bus.Context, level correlate.Level) {
	s := t.correlator.Stats()
	perDay := float64(24*time.Hour) / float64(max(t.last.Sub(t.first), leastSpan))
	c.Decoys = bus.Decoys{Watch: s.Decoys[correlate.Watch], Alert: s.Decoys[correlate.Alert]}
	threshold, reached := t.w.cfg.Correlate.Alert, c.Decoys.Alert
	switch level {
	case correlate.Alert:
	case correlate.Watch:
		threshold, reached = t.w.cfg.Correlate.Watch, reached+c.Decoys.Watch
	default:
		c.ExpectedFalsePerDay, c.ExpectedFalseBasis = 0, "" // a lead claims no calculation
		return
	}
	bound, measured := float64(s.PortTrials+s.AddressTrials)*perDay/threshold, float64(reached+1)*perDay
	if c.ExpectedFalsePerDay, c.ExpectedFalseBasis = bound, "bound"; measured < bound {
		c.ExpectedFalsePerDay, c.ExpectedFalseBasis = measured, "measured"
	}
}
