package site

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/fleet"
)

// StreamOptions says how streams are made.
type StreamOptions struct {
	Replicas int      // servers of a cluster that each hold a copy: 1, 3 or 5
	Leaves   []string // JetStream domains of leaf nodes whose streams flow into these
	Timeout  time.Duration
}

// Validate returns an error that names the first field with a value that cannot be.
func (o StreamOptions) Validate() error {
	if o.Replicas != 1 && o.Replicas != 3 && o.Replicas != 5 {
		return fmt.Errorf("replicas %d: want 1, 3 or 5", o.Replicas)
	}
	for _, l := range o.Leaves {
		if err := bus.ValidateSensor(l); err != nil {
			return fmt.Errorf("leaf: %w", err)
		}
	}
	if o.Timeout <= 0 {
		return fmt.Errorf("timeout %v: want above 0", o.Timeout)
	}
	return nil
}

// MakeStreams makes the streams of Portolan and the bucket of its workers, and returns the names of
// those that were missing. What exists stays as it is.
func MakeStreams(ctx context.Context, b *bus.Bus, o StreamOptions) (made []string, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(b.Conn(), jetstream.WithDefaultTimeout(o.Timeout))
	if err != nil {
		return nil, err
	}
	for _, c := range bus.Streams(true) {
		c.Replicas = o.Replicas
		for _, leaf := range o.Leaves {
			c.Sources = append(c.Sources, &jetstream.StreamSource{Name: c.Name, Domain: leaf})
		}
		_, err := js.Stream(ctx, c.Name)
		if err == nil {
			continue
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = js.CreateStream(ctx, c)
		}
		if err != nil {
			return made, fmt.Errorf("make stream %s: %w", c.Name, err)
		}
		made = append(made, c.Name)
	}
	c := fleet.BucketConfig()
	c.Replicas = o.Replicas
	_, err = js.KeyValue(ctx, c.Bucket)
	if err == nil {
		return made, nil
	}
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		_, err = js.CreateKeyValue(ctx, c)
	}
	if err != nil {
		return made, fmt.Errorf("make bucket %s: %w", c.Bucket, err)
	}
	return append(made, c.Bucket), nil
}
