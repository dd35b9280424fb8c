package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	seenMessages = 8192                   // messages remembered in order to drop those that come twice
	coreBuffer   = 4096                   // messages that a core subscription holds for a slow handler
	resumePause  = 500 * time.Millisecond // before a broken subscription begins again

	forgetConsumer = 5 * time.Minute // after which the server drops one that nobody reads with
)

// Filter says what a subscriber wants. The zero value wants every hit published from now on.
// At most one of All, Last and Sequence may be set.
type Filter struct {
	Levels []string   // such as "alert"; empty for all. A revision that changes the level goes out under the new one
	Sensor string     // empty for all
	Client netip.Addr // invalid for all

	All      bool          // also everything stored
	Last     time.Duration // also what was stored within this time
	Sequence uint64        // from this sequence of the stream on

	Core  bool   // take messages as they pass instead of from the stream: nothing that was missed comes later
	Ready func() // called once, when everything published from then on will arrive; may be nil
}

// Validate returns an error that names the first field with a value that cannot be.
func (f Filter) Validate() error {
	for _, l := range f.Levels {
		if l != "alert" && l != "watch" && l != "lead" {
			return fmt.Errorf("level %q: want alert, watch or lead", l)
		}
	}
	if f.Sensor != "" {
		if err := ValidateSensor(f.Sensor); err != nil {
			return err
		}
	}
	n := 0
	for _, set := range []bool{f.All, f.Last != 0, f.Sequence != 0} {
		if set {
			n++
		}
	}
	if n > 1 {
		return errors.New("all, last and sequence: want one of them")
	}
	if f.Last < 0 {
		return fmt.Errorf("last %v: want 0 or above", f.Last)
	}
	if f.Core && n > 0 {
		return errors.New("core: such a subscription has no past")
	}
	return nil
}

func (f Filter) past() bool { return f.All || f.Last > 0 || f.Sequence > 0 }

// subjects returns those that the filter matches.
func (f Filter) subjects() []string {
	levels := []string{"*"}
	if len(f.Levels) > 0 {
		levels = append([]string{"none"}, f.Levels...) // none: what a retraction may be published as
	}
	var list []string
	for _, kind := range []string{"hit", "enriched"} {
		for _, l := range levels {
			list = append(list, f.subject(kind, l))
		}
	}
	return list
}

func (f Filter) subject(kind, level string) string {
	sensor, client := "*", "*"
	if f.Sensor != "" {
		sensor = f.Sensor
	}
	if f.Client.IsValid() {
		client = HostToken(f.Client)
	}
	return subjectRoot + "." + kind + "." + level + "." + sensor + "." + client
}

// Meta is what NATS says of a message.
type Meta struct {
	Subject  string
	Sequence uint64    // in the stream; 0 when it came by a core subscription
	Time     time.Time // when the stream stored it; zero when it came by a core subscription
	Received time.Time // by this process
	Unstored bool      // an alert published while no stream took it (UnstoredHeader); read from the stream it comes again once stored
}

// Subscribe calls handle for each hit that f wants, one at a time, until ctx ends, which is
// no error, or the bus is closed. A message that comes twice is handed on once; what is no
// message is logged. It reads the stream, and takes alerts as they pass while no stream stores them, so that nothing is missed while there is no
// connection; where the server allows no such reading, and f asks for nothing from the
// past, it takes messages as they pass.
func (b *Bus) Subscribe(ctx context.Context, f Filter, handle func(*Message, Meta)) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	s := &subscription{b: b, f: f, name: HitsStream, subjects: f.subjects(), handle: handle, seen: newMemory(seenMessages)}
	s.take = s.hit
	run := s.stream
	if f.Core {
		run = s.core
	}
	err := run(ctx)
	if !f.Core && !f.past() && !s.began && ctx.Err() == nil && noStream(err) {
		b.log.Warn("nats stream cannot be read: what passes while the connection is down will be missed",
			"server", b.at, "error", err)
		err = s.core(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("subscribe at %s: %w", b.at, err)
}

// FollowCoverage calls handle for each coverage record of a sensor, or of all, that is stored from
// now on, one at a time and in order, until ctx ends, which is no error, or the bus is closed.
func (b *Bus) FollowCoverage(ctx context.Context, sensor string, handle func(*CoverageRecord)) error {
	subject := subjectRoot + ".cover.*"
	if sensor != "" {
		subject = CoverSubject(sensor)
	}
	s := &subscription{b: b, name: OpsStream, subjects: []string{subject}}
	s.take = func(data []byte, meta Meta) {
		r := new(CoverageRecord)
		if err := json.Unmarshal(data, r); err != nil {
			b.log.Warn("nats message is no coverage record", "subject", meta.Subject, "sequence", meta.Sequence, "error", err)
			return
		}
		handle(r)
	}
	err := s.stream(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("read coverage at %s: %w", b.at, err)
}

// noStream reports whether err says that there is no stream for us.
func noStream(err error) bool {
	return errors.As(err, new(*DeniedError)) || errors.Is(err, jetstream.ErrStreamNotFound) || noJetStream(err)
}

// subscription is one call of Subscribe or FollowCoverage.
type subscription struct {
	b        *Bus
	f        Filter
	name     string // of the stream
	subjects []string
	take     func(data []byte, meta Meta)
	handle   func(*Message, Meta) // of hits
	began    bool
	created  time.Time // of the stream, when it was looked at last

	mu   sync.Mutex // the stream's goroutine against that of unstored alerts
	seen *memory
}

// ready tells the caller, once.
func (s *subscription) ready() {
	if !s.began && s.f.Ready != nil {
		s.f.Ready()
	}
	s.began = true
}

// hit is the take of hits.
func (s *subscription) hit(data []byte, meta Meta) {
	m, err := Decode(data)
	if err != nil {
		s.b.log.Warn("nats message is no hit", "subject", meta.Subject, "sequence", meta.Sequence, "error", err)
		return
	}
	id := MessageID(m.Portolan.HitID, m.Portolan.Revision)
	if meta.Unstored && !s.f.Core {
		id += " unstored"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen.add(id) {
		s.handle(m, meta)
	}
}

// overhear takes alerts that no stream stored, as they pass, until ctx ends. Where that is not
// allowed they come when a stream has them.
func (s *subscription) overhear(ctx context.Context) {
	ch := make(chan *nats.Msg, coreBuffer)
	sub, err := s.b.conn.ChanSubscribe(s.f.subject("hit", "alert"), ch)
	if err != nil {
		return // the connection is closed
	}
	defer sub.Unsubscribe()
	for {
		select {
		case m := <-ch:
			if m.Header.Get(UnstoredHeader) != "" {
				s.take(m.Data, Meta{Subject: m.Subject, Received: time.Now(), Unstored: true})
			}
		case <-ctx.Done():
			return
		}
	}
}

// stream reads from the stream. A consumer lasts as long as the connection; after that, or when
// the server lost it, another one starts behind the last message.
func (s *subscription) stream(ctx context.Context) error {
	cfg, err := s.start(ctx)
	for busy(err) && s.rest(ctx, err) {
		cfg, err = s.start(ctx)
	}
	if err != nil {
		return err
	}
	if s.handle != nil && (len(s.f.Levels) == 0 || slices.Contains(s.f.Levels, "alert")) {
		overhearing, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { s.overhear(overhearing) })
		defer wg.Wait()
		defer cancel()
	}
	for {
		last, err := s.consume(ctx, cfg)
		if last > 0 {
			cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverByStartSequencePolicy, last+1, nil
		}
		if s.b.conn.IsClosed() || !s.began && !busy(err) || errors.As(err, new(*DeniedError)) {
			return err
		}
		for known := false; !known; known = err == nil || errors.As(err, new(*DeniedError)) || s.b.conn.IsClosed() {
			if !s.rest(ctx, err) {
				return ctx.Err()
			}
			var made bool
			if made, err = s.anew(ctx); made {
				cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverAllPolicy, 0, nil
			}
		}
	}
}

// anew reports whether the stream was made anew since it was looked at last: then it counts from 1
// again, and all that is in it is new.
func (s *subscription) anew(ctx context.Context) (bool, error) {
	info, err := s.b.streamInfo(ctx, s.name)
	if err != nil {
		return false, err
	}
	before := s.created
	s.created = info.Created
	return !before.IsZero() && !before.Equal(info.Created), nil
}

// rest waits before another attempt, and reports whether ctx lasts.
func (s *subscription) rest(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	s.b.log.Info("nats subscription begins again", "server", s.b.at, "error", err)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(resumePause):
		return true
	}
}

// busy reports whether err says that a cluster has no leader right now, which passes.
func busy(err error) bool {
	api := (*jetstream.APIError)(nil)
	return errors.As(err, &api) && api.ErrorCode == codeNoLeader
}

// start returns where to begin. From now on is written as a sequence, which also holds when
// the connection breaks before the first message.
func (s *subscription) start(ctx context.Context) (jetstream.ConsumerConfig, error) {
	cfg := jetstream.ConsumerConfig{
		FilterSubjects:    s.subjects,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       s.f.Sequence,
		AckPolicy:         jetstream.AckNonePolicy, // consume notices what is lost on the way
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: forgetConsumer,
	}
	info, err := s.b.streamInfo(ctx, s.name)
	if err == nil {
		s.created = info.Created
	}
	switch {
	case s.f.All:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverAllPolicy, 0
	case s.f.Last > 0:
		t := time.Now().Add(-s.f.Last)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &t
	case s.f.Sequence == 0:
		if err != nil {
			return cfg, jetStreamError(err)
		}
		cfg.OptStartSeq = info.State.LastSeq + 1
	}
	return cfg, nil
}

// errMissed says that the server sent something that did not arrive.
var errMissed = errors.New("messages were lost on the way")

// consume reads with one consumer and returns the sequence of the last message, 0 without one.
func (s *subscription) consume(ctx context.Context, cfg jetstream.ConsumerConfig) (last uint64, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	broken := s.b.conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer s.b.conn.RemoveStatusListener(broken)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-broken:
			end(nats.ErrConnectionClosed)
		case <-ctx.Done():
		}
	})
	defer wg.Wait()
	defer end(nil)

	var consumer jetstream.Consumer
	err = s.b.request(ctx, s.b.API("CONSUMER.CREATE."+s.name), func(ctx context.Context) (err error) {
		consumer, err = s.b.js.CreateConsumer(ctx, s.name, cfg)
		return err
	})
	if err != nil {
		return 0, jetStreamError(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return 0, err
	}
	defer messages.Stop()
	s.ready()

	defer s.b.denied.watch(s.b.API("CONSUMER.MSG.NEXT."+s.name), end)()
	for next := uint64(1); ; next++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return last, err
		}
		received := time.Now()
		meta, err := m.Metadata()
		if err != nil {
			return last, err
		}
		if meta.Sequence.Consumer != next {
			return last, errMissed
		}
		last = meta.Sequence.Stream
		s.take(m.Data(), Meta{Subject: m.Subject(), Sequence: last, Time: meta.Timestamp, Received: received})
	}
}

// core takes messages as they pass.
func (s *subscription) core(ctx context.Context) error {
	ctx, deny := context.WithCancelCause(ctx)
	defer deny(nil)
	defer s.b.denied.watch(subjectRoot, deny)()
	ch := make(chan *nats.Msg, coreBuffer)
	for _, subject := range s.subjects {
		sub, err := s.b.conn.ChanSubscribe(subject, ch)
		if err != nil {
			return err
		}
		defer sub.Unsubscribe()
	}
	flush, cancel := context.WithTimeout(ctx, s.b.cfg.Timeout)
	defer cancel()
	if err := s.b.conn.FlushWithContext(flush); err != nil {
		if d := (*DeniedError)(nil); errors.As(context.Cause(ctx), &d) {
			return d // came while the answer was waited for
		}
		return err
	}
	closed := s.b.conn.StatusChanged(nats.CLOSED)
	defer s.b.conn.RemoveStatusListener(closed)
	s.ready()
	for {
		select {
		case m := <-ch:
			s.take(m.Data, Meta{Subject: m.Subject, Received: time.Now(), Unstored: m.Header.Get(UnstoredHeader) != ""})
		case <-closed:
			return nats.ErrConnectionClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// memory remembers the last n strings it was given.
type memory struct {
	set  map[string]struct{}
	ring []string
	next int
}

func newMemory(n int) *memory {
	return &memory{set: make(map[string]struct{}, n), ring: make([]string, n)}
}

// add reports whether s is new.
func (m *memory) add(s string) bool {
	if _, ok := m.set[s]; ok {
		return false
	}
	delete(m.set, m.ring[m.next])
	m.set[s] = struct{}{}
	m.ring[m.next] = s
	m.next = (m.next + 1) % len(m.ring)
	return true
}
