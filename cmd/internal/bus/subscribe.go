package bus

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	seenMessages = 8192                   // messages remembered in order to drop those that come twice
	coreBuffer   = 4096                   // messages that a core subscription holds for a slow handler
	resumePause  = 500 * time.Millisecond // before a broken subscription begins again
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
	sensor, client := "*", "*"
	if f.Sensor != "" {
		sensor = f.Sensor
	}
	if f.Client.IsValid() {
		client = HostToken(f.Client)
	}
	var list []string
	for _, kind := range []string{"hit", "enriched"} {
		for _, l := range levels {
			list = append(list, subjectRoot+"."+kind+"."+l+"."+sensor+"."+client)
		}
	}
	return list
}

// Meta is what NATS says of a message.
type Meta struct {
	Subject  string
	Sequence uint64    // in the stream; 0 when it came by a core subscription
	Time     time.Time // when the stream stored it; zero when it came by a core subscription
	Received time.Time // by this process
	Unstored bool      // published while no stream took it (UnstoredHeader); it is handed on once all the same
}

// Subscribe calls handle for each hit that f wants, one at a time, until ctx ends, which is
// no error, or the bus is closed. A message that comes twice is handed on once; what is no
// message is logged. It reads the stream, so that nothing is missed while there is no
// connection; where the server allows no such reading, and f asks for nothing from the
// past, it takes messages as they pass.
func (b *Bus) Subscribe(ctx context.Context, f Filter, handle func(*Message, Meta)) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	s := &subscription{b: b, f: f, handle: handle, seen: newMemory(seenMessages)}
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

// noStream reports whether err says that there is no stream for us.
func noStream(err error) bool {
	return errors.As(err, new(*DeniedError)) || errors.Is(err, jetstream.ErrStreamNotFound) || noJetStream(err)
}

// subscription is one call of Subscribe; its goroutine alone touches it.
type subscription struct {
	b      *Bus
	f      Filter
	handle func(*Message, Meta)
	seen   *memory
	began  bool
}

// ready tells the caller, once.
func (s *subscription) ready() {
	if !s.began && s.f.Ready != nil {
		s.f.Ready()
	}
	s.began = true
}

func (s *subscription) take(data []byte, meta Meta) {
	m, err := Decode(data)
	if err != nil {
		s.b.log.Warn("nats message is no hit", "subject", meta.Subject, "sequence", meta.Sequence, "error", err)
		return
	}
	if s.seen.add(MessageID(m.Portolan.HitID, m.Portolan.Revision)) {
		s.handle(m, meta)
	}
}

// stream reads from the stream. The consumer keeps its place by itself while the connection
// lasts; after that, or when the server lost it, another one starts behind the last message.
func (s *subscription) stream(ctx context.Context) error {
	cfg, err := s.start(ctx)
	for busy(err) && s.rest(ctx, err) {
		cfg, err = s.start(ctx)
	}
	if err != nil {
		return err
	}
	for {
		last, err := s.consume(ctx, cfg)
		if last > 0 {
			cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverByStartSequencePolicy, last+1, nil
		}
		if s.b.conn.IsClosed() || !s.began && !busy(err) || errors.As(err, new(*DeniedError)) {
			return err
		}
		if !s.rest(ctx, err) {
			return ctx.Err()
		}
	}
}

// rest waits before another attempt, and reports whether ctx lasts.
func (s *subscription) rest(ctx context.Context, err error) bool {
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
func (s *subscription) start(ctx context.Context) (jetstream.OrderedConsumerConfig, error) {
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects:   s.f.subjects(),
		DeliverPolicy:    jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:      s.f.Sequence,
		MaxResetAttempts: 1, // stream tries again, and watches its context
	}
	switch {
	case s.f.All:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverAllPolicy, 0
	case s.f.Last > 0:
		t := time.Now().Add(-s.f.Last)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &t
	case s.f.Sequence == 0:
		info, err := s.b.streamInfo(ctx, HitsStream)
		if err != nil {
			return cfg, jetStreamError(err)
		}
		cfg.OptStartSeq = info.State.LastSeq + 1
	}
	return cfg, nil
}

// consume reads with one consumer and returns the sequence of the last message, 0 without one.
func (s *subscription) consume(ctx context.Context, cfg jetstream.OrderedConsumerConfig) (last uint64, err error) {
	var consumer jetstream.Consumer
	err = s.b.request(ctx, s.b.api("CONSUMER.CREATE."+HitsStream), func(ctx context.Context) (err error) {
		consumer, err = s.b.js.OrderedConsumer(ctx, HitsStream, cfg)
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

	ctx, deny := context.WithCancelCause(ctx)
	defer deny(nil)
	defer s.b.denied.watch(s.b.api("CONSUMER.MSG.NEXT."+HitsStream), deny)()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if d := (*DeniedError)(nil); errors.As(context.Cause(ctx), &d) {
				err = d
			}
			return last, err
		}
		received := time.Now()
		meta, err := m.Metadata()
		if err != nil {
			return last, err
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
	for _, subject := range s.f.subjects() {
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
