// Package enrich joins hits with what endpoints saw, and publishes revisions of the hits that say
// which process it was.
//
// # Any number of enrichers
//
// Each reads all hits and all records, and keeps no state but how far it has read the records, in a
// durable consumer of its own. What they find does not depend on the order in which they read
// (package attribute), and the number of a revision follows from what was found: so they publish the same
// revisions under the same ids, of which the stream keeps one. Two enrichers stand in for each
// other without knowing of each other; one takes more records than a server stores.
//
// # What is read again
//
// An enricher that starts reads the whole stream of hits, with the revisions that were published, and
// what hosts said of themselves. Records of a hit that were read before, by this process or an earlier
// one, it asks the stream for again, by the host's subject. Records are acknowledged only after all
// revisions that follow from them are stored, so that one that is killed leaves nothing out.
package enrich

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Config says how an enricher works.
type Config struct {
	Name    string // of its consumer, one for each process; see bus.ValidateSensor
	Join    attribute.Config
	Timeout time.Duration // for each request to the server, above 0
	Log     *slog.Logger  // nil for none
}

// DefaultConfig returns the settings that suit most; Name is left to the caller.
func DefaultConfig() Config {
	return Config{Join: attribute.DefaultConfig(), Timeout: 5 * time.Second}
}

// Validate returns an error that names the first field with a value that cannot be.
func (c Config) Validate() error {
	if err := bus.ValidateSensor(c.Name); err != nil {
		return fmt.Errorf("enricher: %w", err)
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("timeout %v: want above 0", c.Timeout)
	}
	return c.Join.Validate()
}

const (
	batchRecords = 4096                   // records joined between two looks at the server
	queueRecords = 2 * batchRecords       // read and not joined
	queueHits    = 256                    // likewise
	maxUnacked   = 65536                  // records that the server sends before it waits
	ackWait      = 2 * time.Minute        // for a server that is slow to store what is found
	idleConsumer = 7 * 24 * time.Hour     // after which the server forgets an enricher that does not come back
	tickEvery    = 100 * time.Millisecond // how exact waiting is
	retryPause   = 250 * time.Millisecond
)

// Enricher is made by New.
type Enricher struct {
	cfg       Config
	log       *slog.Logger
	bus       *bus.Bus
	js        jetstream.JetStream
	hits      jetstream.Stream
	endpoints jetstream.Stream

	// Of Run's goroutine.
	joiner    *attribute.Joiner
	found     []attribute.Finding
	record    attribute.Record
	stored    *refs                       // where the newest revision of ours stands
	sent      map[[16]byte]*bus.Message   // published, and not read back yet
	unsettled map[[16]byte]*attribute.Hit // while hits are read for the first time
	order     [][16]byte                  // of those
	wanted    map[string]event.Time       // hosts whose records are to be read again, and from when

	mu     sync.Mutex
	counts bus.EnrichCounts
}

// New returns an Enricher that reads and publishes through b, which has to outlive Run.
func New(b *bus.Bus, cfg Config) (*Enricher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	js, err := b.NewJetStream(jetstream.WithDefaultTimeout(cfg.Timeout))
	if err != nil {
		return nil, fmt.Errorf("enricher: %w", err)
	}
	j, err := attribute.New(cfg.Join)
	if err != nil {
		return nil, fmt.Errorf("enricher: %w", err)
	}
	e := &Enricher{
		cfg: cfg, log: cfg.Log, bus: b, js: js, joiner: j, stored: newRefs(), sent: map[[16]byte]*bus.Message{}, wanted: map[string]event.Time{},
		counts: bus.EnrichCounts{Refused: map[string]uint64{}, Examples: map[string]string{}, Revised: map[string]uint64{}},
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	return e, nil
}

// Run works until ctx ends, which is no error.
func (e *Enricher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := e.run(ctx, cancel)
	if cause := context.Cause(ctx); errors.Is(cause, errEnded) {
		return cause
	} else if ctx.Err() != nil {
		return nil
	}
	return err
}

// errEnded says that a reader ended before its time.
var errEnded = errors.New("enricher")

func (e *Enricher) run(ctx context.Context, end context.CancelCauseFunc) (err error) {
	if e.hits, err = e.stream(ctx, bus.HitsStream); err != nil {
		return err
	}
	if e.endpoints, err = e.stream(ctx, bus.EndpointStream); err != nil {
		return err
	}
	last := e.hits.CachedInfo().State.LastSeq
	var readers sync.WaitGroup
	defer readers.Wait()
	defer end(nil)
	hits := make(chan hit, queueHits)
	readers.Go(func() {
		err := e.bus.Subscribe(ctx, bus.Filter{All: true}, func(m *bus.Message, meta bus.Meta) {
			select {
			case hits <- hit{m, meta.Sequence}:
			case <-ctx.Done():
			}
		})
		if err != nil {
			end(fmt.Errorf("%w: %w", errEnded, err))
		}
	})
	if err := e.begin(ctx, hits, last); err != nil {
		return err
	}
	records := make(chan jetstream.Msg, queueRecords)
	readers.Go(func() { e.read(ctx, records) })
	again := make(chan jetstream.Msg, queueRecords)
	return e.work(ctx, hits, records, again, func() {
		subjects, from := e.wantedNow()
		readers.Go(func() { e.recall(ctx, subjects, from, again) })
	})
}

// stream looks a stream up.
func (e *Enricher) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	s, err := e.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return s, nil
}

// hit is a message as it stands in the stream.
type hit struct {
	m        *bus.Message
	sequence uint64
}

// begin reads what hosts said of themselves, and the hits up to a sequence, and joins nothing before.
func (e *Enricher) begin(ctx context.Context, hits <-chan hit, last uint64) error {
	now := event.TimeOf(time.Now())
	e.joiner.Advance(nil, now)
	err := e.history(ctx, []string{bus.EndpointSubject(attribute.Host, "*")}, nil, func(m jetstream.Msg) {
		if r, at, _, err := e.take(m); err == nil {
			e.joiner.ObserveRecord(nil, r, at.Sequence.Stream, event.TimeOf(at.Timestamp))
		}
	})
	if err != nil {
		return fmt.Errorf("read records of hosts: %w", err)
	}
	e.unsettled = map[[16]byte]*attribute.Hit{}
	for at := uint64(0); at < last; {
		select {
		case h := <-hits:
			at = h.sequence
			e.collect(h)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, id := range e.order {
		e.found = e.joiner.ObserveHit(e.found, e.unsettled[id], now)
	}
	e.unsettled, e.order = nil, nil
	return e.settle(ctx)
}

// collect keeps the newest revision of a hit, and what was published of it.
func (e *Enricher) collect(h hit) {
	id, sensor, step, ok := e.name(h)
	if !ok {
		return
	}
	x := e.unsettled[id]
	if x == nil {
		x = &attribute.Hit{ID: id}
		e.unsettled[id] = x
		e.order = append(e.order, id)
	}
	if step > 0 {
		x.Told, x.ToldRevision = max(x.Told, step), max(x.ToldRevision, sensor)
		return
	}
	if sensor > x.Revision {
		told, revision := x.Told, x.ToldRevision
		*x = joined(h.m, id, sensor, h.sequence)
		x.Told, x.ToldRevision = told, revision
	}
}

// name returns what a message names, and remembers where a revision of ours stands.
func (e *Enricher) name(h hit) (id [16]byte, sensor, step uint32, ok bool) {
	parsed, err := correlate.ParseID(h.m.Portolan.HitID)
	if err != nil || h.sequence == 0 {
		return id, 0, 0, false // bus.Decode has seen to the first; the second comes again when it is stored
	}
	id = parsed
	sensor, step = bus.SplitRevision(h.m.Portolan.Revision)
	if step > 0 {
		e.stored.put(id, h.m.Portolan.Revision, h.sequence)
		if s := e.sent[id]; s != nil && s.Portolan.Revision <= h.m.Portolan.Revision {
			delete(e.sent, id)
		}
	}
	return id, sensor, step, true
}

// joined returns what a hit is joined by.
func joined(m *bus.Message, id [16]byte, sensor uint32, sequence uint64) attribute.Hit {
	h := attribute.Hit{
		ID: id, Ref: sequence, Revision: sensor, Time: event.TimeOf(m.Timestamp), Proto: event.TCP,
		Src: netipPort(m.Source.IP, m.Source.Port), Dst: netipPort(m.Destination.IP, m.Destination.Port),
		CommunityID: m.Network.CommunityID, Name: m.Portolan.Lookup.Name, LookupTime: event.TimeOf(m.Portolan.Lookup.Time),
	}
	if x := m.Portolan.Attribution.Host; x != nil && !x.Contested && len(x.Names) > 0 {
		h.Host = x.Names[0].Name
	}
	if m.Network.Transport == event.UDP.String() {
		h.Proto = event.UDP
	}
	return h
}

// work joins until ctx ends. Recall begins to read records that are wanted again, and sends nil at the end.
func (e *Enricher) work(ctx context.Context, hits <-chan hit, records, again <-chan jetstream.Msg, recall func()) error {
	recalling := false
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		var last jetstream.Msg
		select {
		case <-ctx.Done():
			return nil
		case h := <-hits:
			e.advance(time.Now())
			e.observe(h)
		case m := <-records:
			last = e.batch(m, records)
		case m := <-again:
			recalling = e.remember(m)
		case now := <-tick.C:
			e.advance(now)
			if !recalling && len(e.wanted) > 0 {
				recalling = true
				recall()
			}
		}
		if err := e.settle(ctx); err != nil {
			return err
		}
		if last != nil {
			if err := last.Ack(); err != nil { // all up to it
				e.log.Warn("records not acknowledged: they come again", "error", err)
			}
		}
	}
}

func (e *Enricher) advance(now time.Time) {
	e.found = e.joiner.Advance(e.found, event.TimeOf(now))
	s := e.joiner.Stats()
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.counts
	c.Foreign, c.Hits, c.Hosts, c.Evicted, c.Homeless, c.Crowded = s.Foreign, s.Hits, s.Hosts, s.HitsEvicted, s.Homeless, s.Crowded
}

// observe takes a hit as it comes.
func (e *Enricher) observe(h hit) {
	id, sensor, step, ok := e.name(h)
	if !ok {
		return
	}
	if step > 0 {
		e.joiner.Told(id, sensor, step)
		return
	}
	x := joined(h.m, id, sensor, h.sequence)
	e.found = e.joiner.ObserveHit(e.found, &x, event.TimeOf(time.Now()))
}

// batch joins a record and those that have been read meanwhile, and returns the last one.
func (e *Enricher) batch(m jetstream.Msg, records <-chan jetstream.Msg) jetstream.Msg {
	now := time.Now()
	e.advance(now)
	pending, n := uint64(0), uint64(1)
	for ; ; n++ {
		r, at, why, err := e.take(m)
		if err != nil {
			e.refuse(m.Subject(), why, err)
		} else {
			e.found = e.joiner.ObserveRecord(e.found, r, at.Sequence.Stream, event.TimeOf(now))
			pending = at.NumPending
		}
		if n < batchRecords {
			select {
			case m = <-records:
				continue
			default:
			}
		}
		break
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Records += n
	e.counts.Behind = pending + uint64(len(records))
	return m
}

// remember joins a record that was read again; nil says that there are no more.
func (e *Enricher) remember(m jetstream.Msg) bool {
	if m == nil {
		return false
	}
	if r, at, _, err := e.take(m); err == nil {
		e.found = e.joiner.Recall(e.found, r, at.Sequence.Stream, event.TimeOf(time.Now()))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Recalled++
	return true
}

// Counts returns what was done so far. It may be called while Run runs.
func (e *Enricher) Counts() bus.EnrichCounts {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.counts
	c.Refused, c.Examples, c.Revised = clone(c.Refused), clone(c.Examples), clone(c.Revised)
	return c
}
