package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/spool"
)

const (
	maxInFlight = 1024 // messages sent and not yet acknowledged

	// After the server refused, one message at a time is tried, with pauses that grow. The longest is
	// what a cluster that has a new leader may be left waiting.
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second

	// What the server does not take because of the message itself is put off; others go on.
	firstDelay   = 5 * time.Second
	longestDelay = 5 * time.Minute

	// sequencesAhead is how many sequences a process that is killed leaves unused, at most. A burst of so many
	// hits within one write to the disk waits for it.
	sequencesAhead = 1024

	freshAlert   = time.Minute // an alert younger than that also goes to who listens, when no stream takes it
	unstoredOnce = 64          // such alerts in one go

	mendStreamsEvery = 10 * time.Second
)

// publisher takes messages from the spool and sends them, in a goroutine of its own, so that
// nothing else waits for NATS. An acknowledgement takes a message out of the spool; without
// one it is sent again, and the id lets the stream recognise it.
type publisher struct {
	b       *Bus
	spool   *spool.Spool
	durable bool // the spool has a file
	limit   *limiter
	wake    chan struct{} // the goroutine has to look again
	beat    chan *nats.Msg
	cancel  context.CancelFunc
	done    chan struct{} // closed when the goroutine has ended
	started bool
	turns   atomic.Uint64 // how often the goroutine looked for something to do

	mu       sync.Mutex
	stats    PublishStats // Stored, Duplicates, Retried, Unstored
	flying   map[*nats.Msg]*spool.Item
	trouble  *trouble        // nil while the server takes messages
	complain map[string]bool // reasons for which a message was put off; said once
	last     error           // why a message was refused, newest
	settled  chan struct{}   // closed and renewed when a message ends

	told   time.Time // the goroutine's: when the newest unstored alert was put
	mended time.Time // the goroutine's: when streams were looked at
}

// trouble is a time in which no message is taken.
type trouble struct {
	what  string // the same text is logged once
	since time.Time
	pause time.Duration
	until time.Time // the next attempt
	away  bool      // connected, but no stream takes messages
}

// openSpool opens the spool that the configuration wants, or one in memory.
func openSpool(cfg *Config, p *publisher) (err error) {
	c := spool.Config{Memory: spoolMemory, Queue: cfg.Queue, Log: p.b.log}
	if p.durable = cfg.spools(); p.durable {
		c.Path, c.Bytes, c.Ahead = cfg.spoolPath(), cfg.Spool, sequencesAhead
	}
	if p.b.server != nil {
		c.Keep = 2 * syncInterval // a host that loses power must not lose what the spool had on disk
	}
	p.spool, err = spool.Open(c)
	return err
}

func newPublisher(b *Bus) (*publisher, error) {
	p := &publisher{
		b:        b,
		limit:    newLimiter(b.cfg.Limit),
		wake:     make(chan struct{}, 1),
		beat:     make(chan *nats.Msg, 1),
		done:     make(chan struct{}),
		flying:   make(map[*nats.Msg]*spool.Item),
		complain: make(map[string]bool),
		settled:  make(chan struct{}),
	}
	return p, openSpool(&b.cfg, p)
}

func (p *publisher) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.started = cancel, true
	go func() {
		defer close(p.done)
		p.run(ctx)
	}()
}

// stop ends the goroutine, waits for it, and closes the spool. It returns how many messages
// are lost with it.
func (p *publisher) stop() (lost uint64, err error) {
	if p.started {
		p.cancel()
		<-p.done
	}
	if p.spool == nil {
		return 0, nil
	}
	return p.spool.Close()
}

// Flush waits until every message handed over so far, and those handed over meanwhile, is
// stored or lost. The error says how many are neither when ctx ends, and why.
func (b *Bus) Flush(ctx context.Context) error { return b.pub.flush(ctx, func() bool { return false }) }

// flush is Flush that also ends when giveUp says so.
func (p *publisher) flush(ctx context.Context, giveUp func() bool) error {
	look := time.NewTicker(50 * time.Millisecond) // messages also leave by being lost
	defer look.Stop()
	for {
		p.mu.Lock()
		last, settled := p.last, p.settled
		p.mu.Unlock()
		pending := p.spool.Stats().Pending
		if pending == 0 {
			return nil
		}
		err := context.Cause(ctx)
		if err == nil && giveUp() {
			err = errors.New("the server does not take them now")
		}
		if err != nil {
			if last != nil {
				err = last
			}
			return fmt.Errorf("nats %s: %d messages not acknowledged: %w", p.b.at, pending, err)
		}
		select {
		case <-settled:
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// stuck reports whether nothing will be taken before the next attempt.
func (p *publisher) stuck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trouble != nil || !p.b.connected.Load()
}

// run sends until ctx ends.
func (p *publisher) run(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		p.turns.Add(1)
		select {
		case <-ctx.Done():
			return
		case m := <-p.beat:
			_ = p.b.conn.PublishMsg(m) // lost when there is no connection, as it says
		case now := <-second.C:
			p.tick(ctx, now)
		default:
		}
		wait := p.gate(time.Now())
		if wait == 0 {
			it, due := p.spool.Next()
			if it != nil {
				p.send(it)
				continue
			}
			wait = time.Hour
			if !due.IsZero() {
				wait = max(time.Until(due), time.Millisecond)
			}
		}
		p.unstored(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-p.spool.Ready():
		case <-p.wake:
		case <-timer.C:
		case m := <-p.beat:
			_ = p.b.conn.PublishMsg(m)
		case now := <-second.C:
			p.tick(ctx, now)
		}
		timer.Stop()
	}
}

// tick is called each second, about.
func (p *publisher) tick(ctx context.Context, now time.Time) {
	p.summarize(now)
	switch {
	case !p.b.connected.Load():
		p.b.unconnected()
	case p.b.unchecked.Load() && now.Sub(p.mended) > mendStreamsEvery:
		p.mended = now
		if err := p.b.checkStreams(ctx); err != nil {
			p.b.log.Error("nats stream is not for hits: they may be lost there", "error", err)
		}
	}
}

// gate returns how long to wait before the next message may be sent, 0 for not at all.
func (p *publisher) gate(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch t := p.trouble; {
	case !p.b.connected.Load(), len(p.flying) >= maxInFlight, t != nil && len(p.flying) > 0:
		return time.Hour // somebody will wake us
	case t != nil && now.Before(t.until):
		return t.until.Sub(now)
	}
	return 0
}

// send gives a message to the client library, which never waits for more than the socket.
func (p *publisher) send(it *spool.Item) {
	m := msg(it.Message)
	p.mu.Lock()
	p.flying[m] = it
	if it.Attempts > 0 {
		p.stats.Retried++
	}
	p.mu.Unlock()
	// What nobody takes we send again ourselves, after a look at what is wrong.
	if _, err := p.b.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0)); err != nil {
		p.refused(p.b.js, m, err)
	}
}

// land returns the item of a message that ended, nil when it had before.
func (p *publisher) landLocked(m *nats.Msg) *spool.Item {
	it := p.flying[m]
	delete(p.flying, m)
	return it
}

func (p *publisher) settleLocked() {
	close(p.settled)
	p.settled = make(chan struct{})
	signal(p.wake)
}

// acked takes an acknowledgement.
func (p *publisher) acked(_ jetstream.JetStream, m *nats.Msg, a *jetstream.PubAck) {
	p.mu.Lock()
	it := p.landLocked(m)
	if it == nil {
		p.mu.Unlock()
		return
	}
	p.stats.Stored++
	if a.Duplicate {
		p.stats.Duplicates++
	}
	over := p.trouble
	p.trouble = nil
	if it.Attempts > 0 || over != nil {
		clear(p.complain) // what was put off is taken now: say it again when that ends
	}
	p.mu.Unlock()
	p.spool.Done(it, a.Duplicate)
	p.mu.Lock()
	p.settleLocked()
	p.mu.Unlock()
	if over != nil {
		p.b.log.Info("nats takes messages again", "server", p.b.at, "stream", a.Stream,
			"after", time.Since(over.since).Round(time.Millisecond), "waiting", p.spool.Stats().Pending)
		p.spool.Unpark()
	}
}

// refused takes a message that was not stored. The client library may hold a lock of its own
// while it calls.
func (p *publisher) refused(_ jetstream.JetStream, m *nats.Msg, err error) {
	if denied := p.b.denied.published(m.Subject); denied != nil {
		err = denied
	}
	why := diagnose(err)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	it := p.landLocked(m)
	if it == nil {
		return
	}
	p.last = err
	switch {
	case why.message && !p.durable:
		p.spool.Lose(it) // who published has it still, and learns of it from Flush
		p.sayLocked(why, m, err)
	case why.message:
		delay := min(firstDelay<<min(it.Attempts, 16), longestDelay)
		p.spool.Return(it, now.Add(jitter(delay)))
		p.sayLocked(why, m, err)
	default:
		p.spool.Return(it, time.Time{})
		p.troubledLocked(why, err, now)
	}
	p.settleLocked()
}

// news reports whether why was not said since the last connection.
func (p *publisher) news(why string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.complain[why]
	if len(p.complain) < maxDenials {
		p.complain[why] = true
	}
	return !old
}

// sayLocked logs a reason to put messages off, once.
func (p *publisher) sayLocked(why diagnosis, m *nats.Msg, err error) {
	if !p.complain[why.text] {
		p.complain[why.text] = true
		p.b.log.Warn("nats: "+why.text, "server", p.b.at, "subject", m.Subject, "bytes", len(m.Data), "error", err)
	}
}

// troubledLocked begins or lengthens a time in which no message is taken.
func (p *publisher) troubledLocked(why diagnosis, err error, now time.Time) {
	t := p.trouble
	if t == nil {
		t = &trouble{since: now, until: now}
		p.trouble = t
	}
	if t.what != why.text {
		t.what, t.pause = why.text, 0
		if !why.quiet {
			p.b.log.Warn("nats: "+why.text, "server", p.b.at, "error", err)
		}
	}
	t.away = why.away
	if !now.Before(t.until) { // one of several that were in flight is enough to go by
		t.pause = min(max(2*t.pause, firstPause), longestPause)
		t.until = now.Add(jitter(t.pause))
	}
}

// jitter returns d or up to half of it less, so that many sensors do not come at once.
func jitter(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d)/2+1)) }

// reconnected is called when there is a connection again: what stood in the way may be gone.
func (p *publisher) reconnected() {
	p.mu.Lock()
	if p.trouble != nil {
		p.trouble.until, p.trouble.pause = time.Time{}, 0
	}
	clear(p.complain)
	p.mu.Unlock()
	p.spool.Unpark()
	signal(p.wake)
}

// diagnosis is what a refusal means.
type diagnosis struct {
	text    string // for people; one text, one state
	message bool   // it is about this message: others may be taken
	away    bool   // the server is there, but no stream takes messages
	quiet   bool   // said elsewhere
}

// Codes of the server's errors, beside those that the client library names.
const (
	codeTooBig      = 10054 // message size exceeds maximum allowed
	codeStoreFailed = 10077 // a limit of the stream, which discards new messages
	codeResources   = 10023 // insufficient resources
	codeSealed      = 10109
	codeNoLeader    = 10008 // JetStream system temporarily unavailable
)

// diagnose says what to make of an error of publishing.
func diagnose(err error) diagnosis {
	api := (*jetstream.APIError)(nil)
	switch {
	case errors.As(err, new(*DeniedError)):
		return diagnosis{text: "permission to publish denied: hits wait for it", message: true}
	case errors.Is(err, nats.ErrMaxPayload):
		return diagnosis{text: "message is larger than the server's max_payload: it waits for a larger one", message: true}
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return diagnosis{text: "no stream takes hits: it is missing, without a leader, or JetStream is not enabled " +
			"for this account", away: true}
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout):
		return diagnosis{text: "server does not acknowledge: paused, overloaded, or without a quorum", away: true}
	case errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrReconnectBufExceeded):
		return diagnosis{text: "not connected", quiet: true}
	case errors.As(err, &api):
		return diagnoseAPI(api)
	}
	return diagnosis{text: "message not stored", away: true}
}

func diagnoseAPI(err *jetstream.APIError) diagnosis {
	switch err.ErrorCode {
	case codeTooBig:
		return diagnosis{text: "message is larger than the stream's max_msg_size: it waits for a larger one", message: true}
	case codeStoreFailed:
		return diagnosis{text: "stream is full and discards new hits: they wait for space there", away: true}
	case codeResources:
		return diagnosis{text: "server has no resources left for the stream, such as space on its disk", away: true}
	case codeSealed:
		return diagnosis{text: "stream is sealed and takes no hits", away: true}
	case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
		return diagnosis{text: "JetStream is not enabled on the server or for this account", away: true}
	}
	return diagnosis{text: "stream refuses hits: " + err.Description, away: true}
}

// unstored publishes fresh alerts to whoever listens while no stream takes them, and makes
// streams that are missing, as far as it may.
func (p *publisher) unstored(ctx context.Context) {
	p.mu.Lock()
	away := p.trouble != nil && p.trouble.away && p.b.connected.Load()
	p.mu.Unlock()
	if !away {
		return
	}
	now := time.Now()
	var alerts []*spool.Message
	told := p.told
	p.spool.Peek(spool.Alert, unstoredOnce, func(m *spool.Message, born time.Time) bool {
		if !born.After(p.told) || now.Sub(born) > freshAlert {
			return false
		}
		if born.After(told) {
			told = born
		}
		alerts = append(alerts, m)
		return true
	})
	p.told = told
	for i := len(alerts) - 1; i >= 0; i-- {
		if p.b.conn.PublishMsg(unstoredMsg(alerts[i])) == nil {
			p.mu.Lock()
			p.stats.Unstored++
			p.mu.Unlock()
		}
	}
	if !p.b.cfg.Reader && now.Sub(p.mended) > mendStreamsEvery {
		p.mended = now
		if p.b.mendStreams(ctx) {
			p.mu.Lock()
			if p.trouble != nil {
				p.trouble.until = time.Time{}
			}
			p.mu.Unlock()
			signal(p.wake)
		}
	}
}

// noStreamAtAll is no stream's name, so that a stream which takes the subject after all refuses
// the message: it must not be kept with the mark, nor in place of the one without.
const noStreamAtAll = "none: not to be stored"

func unstoredMsg(m *spool.Message) *nats.Msg {
	n := msg(m)
	n.Header = maps.Clone(n.Header)
	n.Header.Del(jetstream.MsgIDHeader)
	n.Header.Set(UnstoredHeader, "true")
	n.Header.Set(jetstream.ExpectedStreamHeader, noStreamAtAll)
	return n
}

// heartbeat queues a message to whoever listens in place of an older one.
func (p *publisher) heartbeat(m *nats.Msg) {
	for {
		select {
		case p.beat <- m:
			return
		default:
		}
		select {
		case <-p.beat:
		default:
		}
	}
}

// summarize publishes what the limiter has to say.
func (p *publisher) summarize(now time.Time) {
	for _, m := range p.limit.due(now) {
		if err := p.put(m, false); err != nil {
			p.b.log.Warn("nats: summary not published", "error", err)
		}
	}
}

// signal wakes whoever waits on ch, now or next; ch holds one element.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
