// Package example is a subscriber to copy: it imports nats.go and nothing of Portolan. It reads
// hits from the stream, keeps the highest revision of each, and proves that it missed none.
package example

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Hit is as much of a message as this subscriber needs. Members that a minor version of the
// schema adds are passed over.
type Hit struct {
	Message string `json:"message"`
	Source  struct {
		IP string `json:"ip"`
	} `json:"source"`
	Observer struct {
		Name string `json:"name"`
	} `json:"observer"`
	Portolan struct {
		Schema   string `json:"schema"`
		ID       string `json:"hit_id"`
		Revision uint32 `json:"revision"`
		State    string `json:"state"`
		Level    string `json:"level"`
		Sequence uint64 `json:"sequence"`
	} `json:"portolan"`
}

// Coverage is as much of a coverage record as concerns delivery.
type Coverage struct {
	Sensor   string `json:"sensor"`
	Delivery *struct {
		Sequence uint64 `json:"sequence"` // the last one given out
		Missing  []Gap  `json:"missing"`  // what will not come, and why
	} `json:"delivery"`
}

// Gap is a range of sequences, both ends included.
type Gap struct {
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	Reason string `json:"reason,omitempty"` // "lost", or why nothing is lost with it, such as "duplicate"
}

// Follow reads hits and coverage records from their beginning, or from where an earlier call with
// the same name stopped, until ctx ends. It calls handle once for each revision that is above
// those seen before. A message is acknowledged after that, so that it comes again when this
// process dies in between: hence the ledger, which a real program would keep on disk. What was on
// its way when an earlier call ended comes again 30 s after it was sent, behind what came meanwhile.
func Follow(ctx context.Context, nc *nats.Conn, name string, l *Ledger, handle func(*Hit) error) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	// Both streams at once: a gap in the sequence may be named by a coverage record.
	hits, err := messages(ctx, js, "PORTOLAN_HITS", name)
	if err != nil {
		return err
	}
	defer hits.Stop()
	ops, err := messages(ctx, js, "PORTOLAN_OPS", name)
	if err != nil {
		return err
	}
	defer ops.Stop()
	failed := make(chan error, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { failed <- each(ctx, hits, func(b []byte) error { return l.hit(b, handle) }) }()
	go func() { failed <- each(ctx, ops, l.coverage) }()
	err = <-failed
	cancel()
	return errors.Join(err, <-failed)
}

// messages opens a durable consumer, which remembers at the server what was acknowledged.
func messages(ctx context.Context, js jetstream.JetStream, stream, name string) (jetstream.MessagesContext, error) {
	c, err := js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return nil, fmt.Errorf("consumer %s of %s: %w", name, stream, err)
	}
	return c.Messages()
}

// each calls take for every message and acknowledges it.
func each(ctx context.Context, in jetstream.MessagesContext, take func([]byte) error) error {
	for {
		m, err := in.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := take(m.Data()); err != nil {
			return err
		}
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

// hit takes one message of the stream of hits.
func (l *Ledger) hit(b []byte, handle func(*Hit) error) error {
	h := new(Hit)
	if err := json.Unmarshal(b, h); err != nil {
		return fmt.Errorf("hit: %w", err)
	}
	if !strings.HasPrefix(h.Portolan.Schema, "portolan.hit/1.") {
		return nil // another major version: not for this program
	}
	if l.Came(h.Observer.Name, h.Portolan.Sequence, h.Portolan.ID, h.Portolan.Revision) {
		return handle(h)
	}
	return nil
}

// coverage takes one message of the stream of coverage records.
func (l *Ledger) coverage(b []byte) error {
	var c Coverage
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("coverage: %w", err)
	}
	if c.Delivery != nil {
		l.Promised(c.Sensor, c.Delivery.Sequence, c.Delivery.Missing)
	}
	return nil
}

// missingOf returns the numbers from next to last that are not in ahead, as ranges.
func missingOf(next, last uint64, ahead map[uint64]bool) (list []Gap) {
	known := make([]uint64, 0, len(ahead))
	for n := range ahead {
		known = append(known, n)
	}
	slices.Sort(known)
	for _, n := range append(known, last+1) {
		if n > next && next <= last {
			list = append(list, Gap{First: next, Last: min(n-1, last)})
		}
		next = max(next, n+1)
	}
	return list
}
