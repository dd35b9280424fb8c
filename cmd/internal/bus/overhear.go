package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Bounds of what waits for a slow handler of Overhear.
const (
	overheardMessages = 65536
	overheardBytes    = 64 << 20
)

// Overhear calls handle for each message that others publish under a subject, one at a time, as they
// pass, until ctx ends, which is no error, or the bus is closed. Data is nil when nothing came for quiet.
// Dropped is how many messages were lost so far, as handle was too slow. Ready is called once,
// when everything published from then on arrives.
func (b *Bus) Overhear(ctx context.Context, subject string, quiet time.Duration, ready func(), handle func(data []byte, dropped int)) error {
	failed := func(err error) error { return fmt.Errorf("subscribe to %s at %s: %w", subject, b.at, err) }
	ctx, deny := context.WithCancelCause(ctx)
	defer deny(nil)
	defer b.denied.watch(subject, deny)()
	sub, err := b.conn.SubscribeSync(subject)
	if err != nil {
		return failed(err)
	}
	defer sub.Unsubscribe()
	if err := sub.SetPendingLimits(overheardMessages, overheardBytes); err != nil {
		return failed(err)
	}
	flush, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	err = b.conn.FlushWithContext(flush)
	if err == nil {
		ready()
	}
	for err == nil && ctx.Err() == nil {
		var m *nats.Msg
		m, err = sub.NextMsg(quiet)
		dropped, _ := sub.Dropped() // an error comes from NextMsg, too
		switch {
		case err == nil:
			handle(m.Data, dropped)
		case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrSlowConsumer): // the latter once, and what waits is handed on
			handle(nil, dropped)
			err = nil
		}
	}
	if d := (*DeniedError)(nil); errors.As(context.Cause(ctx), &d) {
		return failed(d)
	}
	if ctx.Err() != nil {
		return nil
	}
	return failed(err)
}
