package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/sensor/event"
)

const (
	maxInFlight = 256                    // batches sent and not yet acknowledged
	retryPause  = 250 * time.Millisecond // after the server refused one
	reachedStep = event.Time(time.Second)
)

// Publisher sends what a sensor decoded to the workers. Its methods are safe for concurrent use;
// none of them waits for the server, except Close and Drain.
type Publisher struct {
	cfg      PublisherConfig
	log      *slog.Logger
	js       jetstream.JetStream
	epoch    uint64
	subjects [numKinds][]string

	cancel  context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{} // there may be something to send

	sinksMu sync.Mutex
	sinks   []*Sink
	reached atomic.Int64 // as last published

	mu       sync.Mutex
	closed   bool
	queue    []*nats.Msg // in the order of sending
	pending  int         // bytes queued or in flight
	batches  int         // the same in batches
	settled  chan struct{}
	flying   map[*nats.Msg]bool // sent; whoever ends one takes it out, as the client library may tell of an end twice
	sequence [numKinds][]uint64
	resume   time.Time // nothing is sent before
	stats    PublisherStats
	last     error       // why a batch was refused, newest
	spare    []*nats.Msg // messages whose bytes can be used again
}

// PublisherStats counts what became of observations.
type PublisherStats struct {
	Observations uint64 // taken
	Batches      uint64 // made of them
	Bytes        uint64 // in those
	Stored       uint64 // batches acknowledged by the stream
	Retried      uint64 // batches sent again
	Lost         uint64 // batches that did not fit the queue, or were pending when it closed
	Pending      uint64 // batches queued or in flight
}

// NewPublisher returns a Publisher that uses b's connection; b has to outlive it.
func NewPublisher(b *bus.Bus, cfg PublisherConfig) (*Publisher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("observations: %w", err)
	}
	p := &Publisher{
		cfg:     cfg,
		log:     logger(cfg.Log),
		epoch:   uint64(time.Now().UnixNano()),
		wake:    make(chan struct{}, 1),
		settled: make(chan struct{}),
		flying:  make(map[*nats.Msg]bool),
	}
	p.reached.Store(math.MinInt64)
	for kind := range numKinds {
		p.sequence[kind] = make([]uint64, cfg.Partitions)
		for i := range cfg.Partitions {
			p.subjects[kind] = append(p.subjects[kind], subject(kind, cfg.Sensor, i))
		}
	}
	var err error
	p.js, err = b.NewJetStream(
		jetstream.WithPublishAsyncMaxPending(maxInFlight),
		jetstream.WithPublishAsyncTimeout(cfg.Timeout),
		jetstream.WithPublishAsyncAckHandler(p.acked),
		jetstream.WithPublishAsyncErrHandler(p.refused),
	)
	if err != nil {
		return nil, fmt.Errorf("observations: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.running.Go(func() { p.send(ctx) })
	p.running.Go(func() { p.tick(ctx) })
	return p, nil
}

// NewSink returns a sink for one ring. Sinks work side by side.
func (p *Publisher) NewSink() *Sink {
	s := &Sink{p: p}
	for kind := range numKinds {
		s.batches[kind] = make([]batch, p.cfg.Partitions)
	}
	p.sinksMu.Lock()
	defer p.sinksMu.Unlock()
	p.sinks = append(p.sinks, s)
	return s
}

// Reached tells the workers that all events up to t have been handed to the sinks, so that they
// can settle what came before. It does so once for each second of packet time.
func (p *Publisher) Reached(t event.Time) {
	before := p.reached.Load()
	if before != math.MinInt64 && t < event.Time(before)+reachedStep || !p.reached.CompareAndSwap(before, int64(t)) {
		return
	}
	p.flush()
	for i := range p.cfg.Partitions {
		p.give(kindConn, i, p.newMsg(), header{reached: t})
	}
}

// Drain sends what the sinks hold, and waits until the server has stored everything or ctx ends.
func (p *Publisher) Drain(ctx context.Context) error {
	p.flush()
	for {
		p.mu.Lock()
		n, last, settled := p.batches, p.last, p.settled
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			if last == nil {
				last = context.Cause(ctx)
			}
			return fmt.Errorf("%d batches of observations not acknowledged: %w", n, last)
		}
	}
}

// Close sends the rest, tells the workers that nothing more will come, and ends the goroutines.
// The error says what was not stored when ctx ended. The sinks must not be used any more.
func (p *Publisher) Close(ctx context.Context) error {
	p.flush()
	for i := range p.cfg.Partitions {
		p.give(kindConn, i, p.newMsg(), header{end: true})
	}
	err := p.Drain(ctx)
	p.mu.Lock()
	p.closed = true
	p.stats.Lost += uint64(p.batches)
	p.batches, p.pending, p.queue = 0, 0, nil
	p.mu.Unlock()
	p.cancel()
	p.running.Wait()
	return err
}

// Stats returns the counts since NewPublisher.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Pending = uint64(p.batches)
	return s
}

// Sink batches the observations of one ring. It is an event.Sink.
type Sink struct {
	p *Publisher

	mu      sync.Mutex // the ring's goroutine against the one that flushes
	batches [numKinds][]batch
}

// batch is one that is being filled; msg is nil when it is empty.
type batch struct {
	msg *nats.Msg
	header
}

// Lookup adds a lookup to the batch of its partition.
func (s *Sink) Lookup(l *event.Lookup) {
	z := s.p.zone(l.Zone)
	i := Partition(z, l.Client.Addr(), s.p.cfg.Partitions)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.open(kindDNS, i, l.Time)
	b.msg.Data = appendLookup(b.msg.Data, b.base, z, l)
	s.added(kindDNS, i, b)
}

// Connection adds a connection to the batch of its partition.
func (s *Sink) Connection(x *event.Connection) {
	z := s.p.zone(x.Zone)
	i := Partition(z, x.Src.Addr(), s.p.cfg.Partitions)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.open(kindConn, i, x.Time)
	b.msg.Data = appendConnection(b.msg.Data, b.base, z, x)
	s.added(kindConn, i, b)
}

func (s *Sink) open(kind, partition int, t event.Time) *batch {
	b := &s.batches[kind][partition]
	if b.msg == nil {
		*b = batch{msg: s.p.newMsg(), header: header{base: t}}
	}
	return b
}

func (s *Sink) added(kind, partition int, b *batch) {
	b.count++
	if len(b.msg.Data) >= s.p.cfg.BatchBytes {
		s.p.give(kind, partition, b.msg, b.header)
		b.msg = nil
	}
}

func (s *Sink) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind := range s.batches {
		for i := range s.batches[kind] {
			if b := &s.batches[kind][i]; b.msg != nil {
				s.p.give(kind, i, b.msg, b.header)
				b.msg = nil
			}
		}
	}
}

// zone returns z as the whole fleet names it.
func (p *Publisher) zone(z event.Zone) event.Zone {
	if p.cfg.Untag {
		return event.Zone{Point: p.cfg.Zone}
	}
	z.Point = p.cfg.Zone
	return z
}

func (p *Publisher) flush() {
	p.sinksMu.Lock()
	sinks := p.sinks
	p.sinksMu.Unlock()
	for _, s := range sinks {
		s.flush()
	}
}

// tick flushes in time.
func (p *Publisher) tick(ctx context.Context) {
	t := time.NewTicker(p.cfg.BatchDelay)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			p.flush()
		}
	}
}

// newMsg returns a message with room for a header.
func (p *Publisher) newMsg() *nats.Msg {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.spare); n > 0 {
		m := p.spare[n-1]
		p.spare = p.spare[:n-1]
		m.Data = m.Data[:headerLen]
		return m
	}
	return &nats.Msg{Data: make([]byte, headerLen, headerLen+1024)}
}

// give puts a batch into the queue. One that does not fit takes its number along, so that the
// workers notice the gap.
func (p *Publisher) give(kind, partition int, m *nats.Msg, h header) {
	m.Subject = p.subjects[kind][partition]
	h.epoch, h.partitions = p.epoch, uint16(p.cfg.Partitions)
	p.mu.Lock()
	p.sequence[kind][partition]++
	h.sequence = p.sequence[kind][partition]
	h.put(m.Data)
	p.stats.Observations += uint64(h.count)
	p.stats.Batches++
	p.stats.Bytes += uint64(len(m.Data))
	lost := p.closed || p.pending+len(m.Data) > p.cfg.QueueBytes
	if lost {
		p.stats.Lost++
		p.keepLocked(m)
	} else {
		p.queue = append(p.queue, m)
		p.pending += len(m.Data)
		p.batches++
	}
	p.mu.Unlock()
	wake(p.wake)
}

// maxSpare bounds the messages kept for use again, and spareBytes each of them.
const (
	maxSpare   = 512
	spareBytes = 64 << 10
)

func (p *Publisher) keepLocked(m *nats.Msg) {
	if len(p.spare) < maxSpare && cap(m.Data) <= spareBytes {
		m.Header, m.Reply, m.Subject = nil, "", ""
		p.spare = append(p.spare, m)
	}
}

// send sends what is queued until ctx ends.
func (p *Publisher) send(ctx context.Context) {
	for {
		m, wait := p.next()
		if m == nil {
			var timer <-chan time.Time
			if wait > 0 {
				timer = time.After(wait)
			}
			select {
			case <-ctx.Done():
				return
			case <-p.wake:
			case <-timer:
			}
			continue
		}
		if _, err := p.js.PublishMsgAsync(m); err != nil {
			p.refused(p.js, m, err)
		}
	}
}

// next returns the message to send, or how long to wait for one; 0 is until it is woken.
func (p *Publisher) next() (m *nats.Msg, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 || len(p.flying) >= maxInFlight {
		return nil, 0
	}
	if wait := time.Until(p.resume); wait > 0 {
		return nil, wait
	}
	m, p.queue[0] = p.queue[0], nil
	p.queue = p.queue[1:]
	p.flying[m] = true
	return m, 0
}

// landLocked ends the flight of a batch, and reports whether there is still something to do about it.
func (p *Publisher) landLocked(m *nats.Msg) bool {
	if !p.flying[m] {
		return false
	}
	delete(p.flying, m)
	wake(p.wake)
	return !p.closed // Close has counted what was pending
}

func (p *Publisher) acked(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.landLocked(m) {
		return
	}
	p.stats.Stored++
	p.pending -= len(m.Data)
	p.keepLocked(m)
	if p.batches--; p.batches == 0 {
		close(p.settled)
		p.settled = make(chan struct{})
	}
}

// refused takes a batch that was not stored; it is sent again, before all others.
func (p *Publisher) refused(_ jetstream.JetStream, m *nats.Msg, err error) {
	p.mu.Lock()
	if !p.landLocked(m) {
		p.mu.Unlock()
		return
	}
	first := p.last == nil || p.last.Error() != err.Error()
	p.last = err
	again := &nats.Msg{Subject: m.Subject, Data: m.Data} // the client library may still hold m
	p.queue = append([]*nats.Msg{again}, p.queue...)
	p.resume = time.Now().Add(retryPause)
	p.stats.Retried++
	p.mu.Unlock()
	wake(p.wake)
	if first {
		p.log.Warn("nats observations not stored", "subject", m.Subject, "error", err)
	}
}

// wake wakes whoever waits on ch, now or next; ch holds one element.
func wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
