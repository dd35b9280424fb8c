package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/spool"
)

// UnstoredHeader marks a message that was published although no stream took it, so that
// whoever listens at the moment learns of an alert at once. The same message, with the same
// id and revision, comes again without the mark when a stream has it.
const UnstoredHeader = "Portolan-Unstored"

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
	h := make(nats.Header, 8)
	for _, f := range m.header() {
		h[f.Key] = []string{f.Value}
	}
	return Envelope{ID: m.Event.ID, Subject: m.Subject(), Header: h, Data: b}, nil
}

// header returns the message's headers: the content's type and schema, and CloudEvents
// attributes in the binary mode of its NATS protocol binding, version 1.0.
func (m *Message) header() []spool.Field {
	t := "portolan.v1.hit"
	if m.enriched() {
		t = "portolan.v1.enriched"
	}
	return []spool.Field{
		{Key: "Content-Type", Value: "application/json"},
		{Key: "Portolan-Schema", Value: m.Portolan.Schema},
		{Key: "ce-specversion", Value: "1.0"},
		{Key: "ce-id", Value: m.Event.ID},
		{Key: "ce-source", Value: "/portolan/sensor/" + SensorToken(m.Observer.Name)},
		{Key: "ce-type", Value: t},
		{Key: "ce-time", Value: m.Timestamp.UTC().Format(time.RFC3339Nano)},
		{Key: "ce-subject", Value: m.Portolan.HitID},
	}
}

// spooled returns the message as the spool keeps it.
func (m *Message) spooled() (*spool.Message, error) {
	b, err := m.Encode()
	if err != nil {
		return nil, err
	}
	return &spool.Message{
		Class: classOf(m.Portolan.Level), Sequence: m.Portolan.Sequence,
		ID: m.Event.ID, Subject: m.Subject(), Header: m.header(), Data: b,
	}, nil
}

// classOf returns how a level fares when the spool is full. A retraction is worth as much as
// what it may take back.
func classOf(level string) spool.Class {
	switch level {
	case "lead":
		return spool.Lead
	case "watch":
		return spool.Watch
	}
	return spool.Alert
}

// msg returns what the spool keeps as NATS sends it.
func msg(m *spool.Message) *nats.Msg {
	header := make(nats.Header, len(m.Header)+1)
	values := make([]string, len(m.Header)+1) // one allocation for all values
	for i, f := range m.Header {
		values[i] = f.Value
		header[f.Key] = values[i : i+1 : i+1]
	}
	values[len(m.Header)] = m.ID
	header[jetstream.MsgIDHeader] = values[len(m.Header):]
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}

// PublishStats counts what became of messages since Open, but for Pending and Spooled, which are now.
// Recovered + Accepted = Stored + LostSpool + Spoilt + Pending, once what was handed over
// has reached the disk.
type PublishStats struct {
	Accepted   uint64 `json:"accepted"`           // safe on disk; without a spool, queued
	Recovered  uint64 `json:"recovered"`          // found in the spool of an earlier process
	Stored     uint64 `json:"stored"`             // acknowledged by a stream
	Duplicates uint64 `json:"duplicates"`         // of Stored: the stream had them already
	Retried    uint64 `json:"retried"`            // sent again
	Unstored   uint64 `json:"unstored"`           // alerts also published to who listens, while no stream took them
	Suppressed uint64 `json:"suppressed"`         // over the limit for one client and hypothesis; a summary tells of them
	Lost       uint64 `json:"lost"`               // the sum of the next three, and what was refused for good
	LostQueue  uint64 `json:"lost_queue"`         // found no room in memory
	LostSpool  uint64 `json:"lost_spool"`         // made room for others in the spool
	Spoilt     uint64 `json:"spoilt"`             // could not be read back from the spool
	Pending    uint64 `json:"pending"`            // not yet acknowledged
	Sequence   uint64 `json:"sequence,omitempty"` // the last one given out
}

// ErrQueueFull says that a message was lost because too many wait.
var ErrQueueFull = spool.ErrFull

// errClosed says that the bus was closed.
var errClosed = spool.ErrClosed

// Publish hands a hit over and returns at once; it waits neither for the disk nor for the
// server. The hit gets the next sequence, in m too, unless it is an enriched one or there is no spool.
// The error says that the message cannot be encoded, or is lost because the queue is full; it
// is counted then. Of hits over Config.Limit a summary goes out instead. m may be
// changed afterwards.
func (b *Bus) Publish(m *Message) error {
	if !b.pub.limit.allow(m, time.Now()) {
		return nil
	}
	return b.pub.put(m, false)
}

// PublishWait is Publish for those who have time, such as a replay: it waits for room until
// ctx ends, and knows no limit. The message is not sent and not counted then.
func (b *Bus) PublishWait(ctx context.Context, m *Message) error {
	for {
		err := b.pub.put(m, true)
		if !errors.Is(err, ErrQueueFull) {
			return err
		}
		select {
		case <-b.pub.spool.Room():
		case <-ctx.Done():
			return fmt.Errorf("publish %s: %w", m.Event.ID, context.Cause(ctx))
		}
	}
}

// put encodes a message once, with its sequence, and hands it to the spool.
func (p *publisher) put(m *Message, patient bool) error {
	build := func(next uint64) (*spool.Message, error) {
		if p.durable && !m.enriched() {
			m.Portolan.Sequence = next
			return m.spooled()
		}
		// The sequence, if there is one, is another sensor's.
		s, err := m.spooled()
		if err == nil {
			s.Sequence = 0
		}
		return s, err
	}
	put := p.spool.PutNext
	if patient {
		put = p.spool.PutRoom
	}
	err := put(build)
	if errors.Is(err, ErrQueueFull) || errors.Is(err, errClosed) {
		return fmt.Errorf("publish %s: %w", m.Event.ID, err)
	}
	return err
}

// Send hands over an encoded message for the stream that takes its subject, and returns at
// once. Hits, enriched hits and coverage records go through the spool; what else there is waits in memory.
func (b *Bus) Send(e Envelope) error {
	if err := b.pub.spool.Put(e.spooled()); err != nil {
		return fmt.Errorf("publish %s: %w", e.ID, err)
	}
	return nil
}

// spooled returns the message as the spool keeps it.
func (e *Envelope) spooled() *spool.Message {
	m := &spool.Message{ID: e.ID, Subject: e.Subject, Data: e.Data, Header: make([]spool.Field, 0, len(e.Header))}
	for k, v := range e.Header {
		for _, v := range v {
			m.Header = append(m.Header, spool.Field{Key: k, Value: v})
		}
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(e.Subject, subjectRoot+"."), ".")
	switch kind {
	case "hit", "enriched":
		level, _, _ := strings.Cut(rest, ".")
		m.Class = classOf(level)
	case "cover":
		m.Class = spool.Record
	default:
		m.Volatile = true
	}
	return m
}

// PublishStats returns the counts since Open.
func (b *Bus) PublishStats() PublishStats {
	p := b.pub
	st := p.spool.Stats()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Accepted, s.Recovered, s.Pending = st.Accepted, st.Recovered, st.Pending
	s.LostQueue, s.LostSpool, s.Spoilt, s.Lost = st.LostQueue, st.LostSpool, st.Spoilt, st.Lost()
	s.Suppressed = p.limit.suppressed.Load()
	if p.durable {
		s.Sequence = st.Sequence
	}
	return s
}

// SetLimit replaces the limit on hits of one client and hypothesis.
func (b *Bus) SetLimit(l Limit) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	b.pub.limit.set(l)
	return nil
}

// Condition is how publishing stands at a moment.
type Condition struct {
	Connected  bool
	Failing    bool   // the disk takes nothing
	SpoolBytes int64  // that waiting messages take on disk
	Turns      uint64 // how often the publisher looked for something to do: once a second at least, unless it hangs
}

// Condition returns how publishing stands now.
func (b *Bus) Condition() Condition {
	s := b.pub.spool.Stats()
	return Condition{Connected: b.connected.Load(), Failing: s.Failing, SpoolBytes: s.Bytes, Turns: b.pub.turns.Load()}
}

// Delivery is what a sensor says of the sequences of its messages, so that a subscriber can
// prove that it missed none: each sequence up to Sequence either came, or will come, or is named
// in the Missing of some coverage record. A sequence may come although it is named.
type Delivery struct {
	Sequence uint64            `json:"sequence"`           // the last one given out
	Missing  []spool.Gap       `json:"missing,omitempty"`  // that no record named before
	Unlisted uint64            `json:"unlisted,omitempty"` // ever missing and in no list: there were too many
	Lost     map[string]uint64 `json:"lost"`               // ever, by class
	Spoilt   uint64            `json:"spoilt"`             // ever: could not be read back
	Waiting  uint64            `json:"waiting"`            // in the spool, now
}

// maxMissing bounds how many gaps one record names.
const maxMissing = 256

// PublishCoverage hands a coverage record over, as Publish does a hit. It sets r.Delivery.
func (b *Bus) PublishCoverage(r *CoverageRecord) error {
	if b.pub.durable {
		st := b.pub.spool.Stats()
		d := &Delivery{Sequence: st.Sequence, Lost: st.EverLost, Spoilt: st.EverSpoilt, Waiting: st.Pending}
		d.Missing, d.Unlisted = b.pub.spool.TakeGaps(maxMissing)
		r.Delivery = d
	}
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
// while there is no connection, and an older one that still waits for the server is not sent either.
func (b *Bus) PublishStat(s *Stat) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	if !b.connected.Load() {
		return fmt.Errorf("publish heartbeat: %w", nats.ErrDisconnected)
	}
	b.pub.heartbeat(&nats.Msg{
		Subject: StatSubject(s.Sensor),
		Header:  nats.Header{"Content-Type": {"application/json"}, "Portolan-Schema": {s.Schema}},
		Data:    data,
	})
	return nil
}
