package enrich

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// The reasons why a record is refused.
const (
	refusedDamaged     = "damaged"     // no record, or not as it has to be
	refusedForeign     = "foreign"     // published under the subject of another host or kind
	refusedImplausible = "implausible" // of the future, or of a time that no hit is kept from
)

// take reads a record, which is valid until the next one is taken, and refuses what cannot be one or
// speaks for another host. It counts nothing: some are read more than once.
func (e *Enricher) take(m jetstream.Msg) (r *attribute.Record, at *jetstream.MsgMetadata, why string, err error) {
	if at, err = m.Metadata(); err != nil {
		return nil, nil, refusedDamaged, err // no message of a stream
	}
	if why, err = check(m.Subject(), m.Data(), at.Timestamp, &e.record); err != nil {
		return nil, at, why, err
	}
	return &e.record, at, "", nil
}

// refuse counts a record that is refused, and shows the first of its kind.
func (e *Enricher) refuse(subject, why string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.counts.Refused[why]++; e.counts.Refused[why] == 1 {
		e.counts.Examples[why] = subject + ": " + err.Error()
		e.log.Warn("endpoint record refused; more of the kind are counted only", "subject", subject, "why", err)
	}
}

// check reads a record that a stream stored at a time under a subject, into r. Why names the kind of error.
func check(subject string, data []byte, stored time.Time, r *attribute.Record) (why string, err error) {
	if err := r.Parse(data); err != nil {
		return refusedDamaged, err
	}
	kind, host, ok := bus.SplitEndpointSubject(subject)
	if !ok || host != r.HostID || kind != r.Kind.String() {
		return refusedForeign, errors.New("the record is not of the host and kind that the subject names")
	}
	if err := r.Plausible(event.TimeOf(stored)); err != nil {
		return refusedImplausible, err
	}
	return "", nil
}

// read hands records on until ctx ends, however often the consumer breaks.
func (e *Enricher) read(ctx context.Context, to chan<- jetstream.Msg) {
	for {
		err := e.consume(ctx, to)
		if ctx.Err() != nil {
			return
		}
		e.log.Info("records are read again", "error", err)
		if !pause(ctx) {
			return
		}
	}
}

func (e *Enricher) consume(ctx context.Context, to chan<- jetstream.Msg) error {
	asking, enough := context.WithTimeout(ctx, e.cfg.Timeout)
	defer enough()
	c, err := e.endpoints.CreateOrUpdateConsumer(asking, jetstream.ConsumerConfig{
		Durable:           e.cfg.Name,
		Description:       "how far the enricher " + e.cfg.Name + " has joined records",
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckAllPolicy,
		AckWait:           ackWait,
		MaxAckPending:     maxUnacked,
		InactiveThreshold: idleConsumer,
	})
	if err != nil {
		return err
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(queueRecords))
	if err != nil {
		return err
	}
	defer messages.Stop()
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

const (
	historyBatch = 2048
	historyMost  = 1 << 20 // messages read for one host at most
	historyWait  = 2 * time.Second
	historyTries = 8
)

// history hands on what the stream of endpoint records holds now, under subjects and from a time on.
func (e *Enricher) history(ctx context.Context, subjects []string, from *time.Time, take func(jetstream.Msg)) error {
	cfg := jetstream.ConsumerConfig{
		FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
		InactiveThreshold: time.Minute,
	}
	if from != nil {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, from
	}
	asking, enough := context.WithTimeout(ctx, e.cfg.Timeout)
	defer enough()
	c, err := e.endpoints.CreateConsumer(asking, cfg)
	if err != nil {
		return err
	}
	left := min(c.CachedInfo().NumPending, historyMost)
	for idle := 0; left > 0; {
		batch, err := c.Fetch(int(min(left, historyBatch)), jetstream.FetchMaxWait(historyWait))
		if err != nil {
			return err
		}
		n := uint64(0)
		for m := range batch.Messages() {
			take(m)
			n++
		}
		if err := batch.Error(); err != nil && n == 0 {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n == 0 { // what was there has aged out meanwhile, or the server is slow
			if idle++; idle == historyTries {
				return nil
			}
			continue
		}
		left -= min(n, left)
	}
	return nil
}

// recallHosts bounds the hosts that are read with one consumer: to make one costs the server a look at all
// that lies behind its beginning.
const recallHosts = 256

// want notes which hosts' records the joiner asks for again.
func (e *Enricher) want() {
	for _, w := range e.joiner.Wants() {
		if at, ok := e.wanted[w.HostID]; !ok || w.From < at {
			e.wanted[w.HostID] = w.From
		}
	}
}

// wantedNow takes hosts whose records are to be read again off those that are noted, as subjects, and the
// time from which on.
func (e *Enricher) wantedNow() (subjects []string, from time.Time) {
	first := event.Time(1<<63 - 1)
	for host, at := range e.wanted {
		if len(subjects) >= 2*recallHosts {
			break
		}
		first = min(first, at)
		subjects = append(subjects, bus.EndpointSubject(attribute.Connect, host), bus.EndpointSubject(attribute.Lookup, host))
		delete(e.wanted, host)
	}
	// The stream's clock is the server's; a record is stored after it was made, but for clocks that
	// are ahead, and those that are by more than the window match nothing.
	return subjects, first.Add(-e.cfg.Join.Window).UTC()
}

// recall reads again what hosts said around hits that came after it, and hands it on; nil says that it is done.
func (e *Enricher) recall(ctx context.Context, subjects []string, from time.Time, to chan<- jetstream.Msg) {
	give := func(m jetstream.Msg) {
		select {
		case to <- m:
		case <-ctx.Done():
		}
	}
	if e.insist(ctx, "records of hosts", func() error { return e.history(ctx, subjects, &from, give) }) == nil {
		give(nil)
	}
}

// insist does something until it succeeds; the error is that of ctx.
func (e *Enricher) insist(ctx context.Context, what string, do func() error) error {
	for said := false; ; {
		err := do()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if !said {
			e.log.Warn("enricher waits for the server", "for", what, "error", err)
			said = true
		}
		if !pause(ctx) {
			return ctx.Err()
		}
	}
}

// pause waits a little, and reports whether ctx lasts.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retryPause):
		return true
	}
}

func netipPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Unmap(), port) }

// clone returns a copy of m, nil of an empty one.
func clone[V any](m map[string]V) map[string]V {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
