package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxInFlight = 256                    // messages sent and not yet acknowledged
	retryPause  = 250 * time.Millisecond // after the server refused one
)

// Envelope is an encoded message on its way.
type Envelope struct {
	ID      string // Nats-Msg-Id: the stream keeps the first of several with one id
	Subject string
	Header  nats.Header // without Nats-Msg-Id
	Data    []byte      // not to be changed any more
}

// Envelope returns the message encoded, with the headers that go with it.
func (m *Message) Envelope() (Envelope, error) {
	b, err := m.Encode()
	if err != nil {
		return Envelope{}, err
	}
	return Envelope{ID: m.Event.ID, Subject: m.Subject(), Header: m.header(), Data: b}, nil
}

// header returns the message's headers: the content's type and schema, and CloudEvents
// attributes in the binary mode of its NATS protocol binding, version 1.0.
func (m *Message) header() nats.Header {
	t := "portolan.v1.hit"
	if m.Portolan.State == stateEnriched {
		t = "portolan.v1.enriched"
	}
	return nats.Header{
		"Content-Type":    {"application/json"},
		"Portolan-Schema": {m.Portolan.Schema},
		"ce-specversion":  {"1.0"},
		"ce-id":           {m.Event.ID},
		"ce-source":       {"/portolan/sensor/" + SensorToken(m.Observer.Name)},
		"ce-type":         {t},
		"ce-time":         {m.Timestamp.UTC().Format(time.RFC3339Nano)},
		"ce-subject":      {m.Portolan.HitID},
	}
}

// msg returns e as NATS sends it.
func (e *Envelope) msg() *nats.Msg {
	header := make(nats.Header, len(e.Header)+1)
	maps.Copy(header, e.Header)
	header.Set(jetstream.MsgIDHeader, e.ID)
	return &nats.Msg{Subject: e.Subject, Header: header, Data: e.Data}
}

// PublishStats counts what became of messages.
type PublishStats struct {
	Accepted   uint64 `json:"accepted"`   // taken by Publish, PublishCoverage and Send
	Stored     uint64 `json:"stored"`     // acknowledged by a stream
	Duplicates uint64 `json:"duplicates"` // of Stored: the stream had them already
	Retried    uint64 `json:"retried"`    // sent again
	Lost       uint64 `json:"lost"`       // did not fit the queue, or were refused for good
	Pending    uint64 `json:"pending"`    // queued or not yet acknowledged
}

// ErrQueueFull says that a message was lost because too many wait for the server.
var ErrQueueFull = errors.New("queue full")

// errClosed says that the bus was closed.
var errClosed = errors.New("closed")

// publisher sends messages in a goroutine of its own, so that nothing else waits for NATS.
// What the server does not acknowledge is sent again; the id lets a stream recognise it.
type publisher struct {
	b       *Bus
	queue   chan *nats.Msg
	slots   chan struct{} // one for each message in flight
	again   chan struct{} // retry is no longer empty
	room    chan struct{} // a message left the queue
	cancel  context.CancelFunc
	done    chan struct{} // closed when the goroutine has ended
	started bool

	mu      sync.Mutex
	closed  bool
	stats   PublishStats
	last    error         // why a message was refused or sent again, newest
	retry   []*nats.Msg   // to be sent again, at most maxInFlight
	resume  time.Time     // nothing is sent before
	settled chan struct{} // closed and renewed when nothing is pending
}

func newPublisher(b *Bus) *publisher {
	return &publisher{
		b:       b,
		queue:   make(chan *nats.Msg, b.cfg.Queue),
		slots:   make(chan struct{}, maxInFlight),
		again:   make(chan struct{}, 1),
		room:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		settled: make(chan struct{}),
	}
}

func (p *publisher) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.started = cancel, true
	go func() {
		defer close(p.done)
		p.run(ctx)
	}()
}

// stop ends the goroutine and waits for it; what is pending counts as lost.
func (p *publisher) stop() {
	p.mu.Lock()
	p.closed = true
	p.stats.Lost += p.stats.Pending
	p.stats.Pending = 0
	p.mu.Unlock()
	if p.started {
		p.cancel()
		<-p.done
	}
}

// Publish queues a hit for the stream and returns at once. The error says that the message
// cannot be encoded or is lost because the queue is full; it is counted then. m may be
// changed afterwards.
func (b *Bus) Publish(m *Message) error {
	e, err := m.Envelope()
	if err != nil {
		return err
	}
	return b.Send(e)
}

// Send queues an encoded message for the stream that takes its subject, and returns at once.
func (b *Bus) Send(e Envelope) error {
	if err := b.pub.put(e.msg()); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID, err)
	}
	return nil
}

func (p *publisher) put(m *nats.Msg) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.queueLocked(m)
	if err != nil {
		p.stats.Lost++
	}
	return err
}

func (p *publisher) queueLocked(m *nats.Msg) error {
	if p.closed {
		return errClosed
	}
	select {
	case p.queue <- m:
		p.stats.Accepted++
		p.stats.Pending++
		return nil
	default:
		return ErrQueueFull
	}
}

// PublishWait is Publish for those who have time, such as a replay: it waits for room in the
// queue until ctx ends. The message is not sent and not counted then.
func (b *Bus) PublishWait(ctx context.Context, m *Message) error {
	e, err := m.Envelope()
	if err != nil {
		return err
	}
	msg := e.msg()
	for {
		b.pub.mu.Lock()
		err := b.pub.queueLocked(msg)
		b.pub.mu.Unlock()
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrQueueFull) {
			select {
			case <-b.pub.room:
				continue
			case <-b.pub.done:
				err = errClosed
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		return fmt.Errorf("publish %s: %w", e.ID, err)
	}
}

// PublishStats returns the counts since Open.
func (b *Bus) PublishStats() PublishStats {
	b.pub.mu.Lock()
	defer b.pub.mu.Unlock()
	return b.pub.stats
}

// Flush waits until every message queued so far, and those queued meanwhile, is stored or
// lost. The error says how many are neither when ctx ends, and why.
func (b *Bus) Flush(ctx context.Context) error {
	p := b.pub
	for {
		p.mu.Lock()
		pending, last, settled := p.stats.Pending, p.last, p.settled
		p.mu.Unlock()
		if pending == 0 {
			return nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			if last == nil {
				last = context.Cause(ctx)
			}
			return fmt.Errorf("nats %s: %d messages not acknowledged: %w", b.at, pending, last)
		}
	}
}

// settleLocked counts the end of a message; p.mu is held.
func (p *publisher) settleLocked() {
	if p.closed {
		return // stop has counted what was pending
	}
	if p.stats.Pending--; p.stats.Pending == 0 {
		close(p.settled)
		p.settled = make(chan struct{})
	}
}

// run sends until ctx ends.
func (p *publisher) run(ctx context.Context) {
	for {
		m := p.next(ctx)
		if m == nil {
			return
		}
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if _, err := p.b.js.PublishMsgAsync(m); err != nil {
			p.refused(p.b.js, m, err)
		}
	}
}

// next returns the message to send, those to be sent again first, nil when ctx ended. While
// the connection is down every message is refused, and next waits retryPause after each.
func (p *publisher) next(ctx context.Context) *nats.Msg {
	for {
		p.mu.Lock()
		wait := time.Until(p.resume)
		var m *nats.Msg
		if len(p.retry) > 0 && wait <= 0 {
			m, p.retry = p.retry[0], p.retry[1:]
			p.stats.Retried++
		}
		waiting := len(p.retry) > 0
		p.mu.Unlock()
		if m != nil {
			return m
		}
		queue := p.queue
		var timer <-chan time.Time
		if wait > 0 {
			queue = nil // what was refused may be refused for the next one too
			timer = time.After(wait)
		} else if waiting {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.again:
		case <-timer:
		case m := <-queue:
			signal(p.room)
			return m
		}
	}
}

// acked takes an acknowledgement.
func (p *publisher) acked(_ jetstream.JetStream, _ *nats.Msg, a *jetstream.PubAck) {
	<-p.slots
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Stored++
	if a.Duplicate {
		p.stats.Duplicates++
	}
	p.settleLocked()
}

// refused takes a message that was not stored: it is sent again unless that cannot help.
// The client library may hold a lock of its own while it calls.
func (p *publisher) refused(_ jetstream.JetStream, m *nats.Msg, err error) {
	<-p.slots
	if denied := p.b.denied.published(m.Subject); denied != nil {
		err = denied
	}
	p.mu.Lock()
	first := p.last == nil || p.last.Error() != err.Error()
	p.last = err
	if final := forGood(err); final || p.closed {
		if !p.closed {
			p.stats.Lost++
		}
		p.settleLocked()
	} else {
		p.retry = append(p.retry, m)
		p.resume = time.Now().Add(retryPause)
	}
	p.mu.Unlock()
	signal(p.again)
	if first {
		p.b.log.Warn("nats message not stored", "server", p.b.at, "subject", m.Subject, "error", err)
	}
}

// signal wakes whoever waits on ch, now or next; ch holds one element.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// forGood reports whether sending a message again cannot help.
func forGood(err error) bool {
	if errors.As(err, new(*DeniedError)) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) {
		return true
	}
	api := (*jetstream.APIError)(nil)
	return errors.As(err, &api) && api.Code >= 400 && api.Code < 500
}

// PublishCoverage queues a coverage record for the stream, as Publish does a hit.
func (b *Bus) PublishCoverage(r *CoverageRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode coverage: %w", err)
	}
	id := fmt.Sprintf("cover.%s.%d", SensorToken(r.Sensor), r.Time.UnixNano())
	return b.Send(Envelope{
		ID:      id,
		Subject: CoverSubject(r.Sensor),
		Header:  nats.Header{"Content-Type": {"application/json"}, "Portolan-Schema": {r.Schema}},
		Data:    data,
	})
}

// PublishStat sends a heartbeat to whoever listens now; nothing keeps it. It is not sent
// while there is no connection.
func (b *Bus) PublishStat(s *Stat) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	err = b.conn.PublishMsg(&nats.Msg{
		Subject: StatSubject(s.Sensor),
		Header:  nats.Header{"Content-Type": {"application/json"}, "Portolan-Schema": {s.Schema}},
		Data:    data,
	})
	if err != nil {
		return fmt.Errorf("publish heartbeat: %w", err)
	}
	return nil
}
