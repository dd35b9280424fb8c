package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stored says what a stream holds now and how long it keeps it.
type Stored struct {
	Stream   string        `json:"stream"`
	Messages uint64        `json:"messages"`
	Bytes    uint64        `json:"bytes"`
	First    time.Time     `json:"first"` // when the oldest message was stored; zero without one
	Last     time.Time     `json:"last"`
	MaxAge   time.Duration `json:"max_age_ns"` // 0 for ever
	MaxBytes int64         `json:"max_bytes"`  // -1 without a bound
}

// Stored returns what a stream holds, such as HitsStream.
func (b *Bus) Stored(ctx context.Context, stream string) (Stored, error) {
	info, err := b.streamInfo(ctx, stream)
	if err != nil {
		return Stored{}, fmt.Errorf("look at stream %s at %s: %w", stream, b.at, jetStreamError(err))
	}
	s := &info.State
	return Stored{stream, s.Msgs, s.Bytes, s.FirstTime, s.LastTime, info.Config.MaxAge, info.Config.MaxBytes}, nil
}

// Records calls handle for each coverage record, of one sensor or of all, that was stored from a time on up to now, in
// the order in which they were stored. A record can be stored long after its interval, when it waited in a spool.
func (b *Bus) Records(ctx context.Context, since time.Time, sensor string, handle func(*CoverageRecord)) error {
	subject := subjectRoot + ".cover.*"
	if sensor != "" {
		subject = CoverSubject(sensor)
	}
	return b.stored(ctx, OpsStream, []string{subject}, since, func(data []byte, meta Meta) {
		r := new(CoverageRecord)
		if err := json.Unmarshal(data, r); err != nil {
			b.log.Warn("nats message is no coverage record", "subject", meta.Subject, "sequence", meta.Sequence, "error", err)
			return
		}
		handle(r)
	})
}

// Hits calls handle for each revision of a hit that f wants and that was stored from a time on up to now, in the order in which
// they were stored. What f says of the past does not count.
func (b *Bus) Hits(ctx context.Context, since time.Time, f Filter, handle func(*Message)) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("read hits: %w", err)
	}
	return b.stored(ctx, HitsStream, f.subjects(), since, func(data []byte, meta Meta) {
		m, err := Decode(data)
		if err != nil {
			b.log.Warn("nats message is no hit", "subject", meta.Subject, "sequence", meta.Sequence, "error", err)
			return
		}
		handle(m)
	})
}

// stored reads what a stream holds from a time on, and ends with what is the last message when it begins.
func (b *Bus) stored(ctx context.Context, stream string, subjects []string, since time.Time, take func([]byte, Meta)) error {
	if err := b.readStored(ctx, stream, subjects, since, take); err != nil {
		return fmt.Errorf("read stream %s at %s: %w", stream, b.at, err)
	}
	return nil
}

func (b *Bus) readStored(ctx context.Context, stream string, subjects []string, since time.Time, take func([]byte, Meta)) error {
	var consumer jetstream.Consumer
	err := b.request(ctx, b.API("CONSUMER.CREATE."+stream), func(ctx context.Context) (err error) {
		consumer, err = b.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
			AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: forgetConsumer,
		})
		return err
	})
	if err != nil {
		return jetStreamError(err)
	}
	left := consumer.CachedInfo().NumPending
	if left == 0 {
		return nil
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer b.denied.watch(b.API("CONSUMER.MSG.NEXT."+stream), end)()
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for next := uint64(1); next <= left; next++ {
		waiting, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
		m, err := messages.Next(jetstream.NextContext(waiting))
		cancel()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != next {
			return errMissed
		}
		take(m.Data(), Meta{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp, Received: time.Now()})
		if meta.NumPending == 0 {
			return nil // what was there before may have expired meanwhile
		}
	}
	return nil
}
