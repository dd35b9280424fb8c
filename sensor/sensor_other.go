//go:build !linux || !cgo

package sensor

import (
	"context"
	"fmt"

	"portolan/sensor/event"
)

// Sensor captures live on Linux. Here there is none.
type Sensor struct{}

// Open returns ErrUnsupported.
func Open(cfg Config) (*Sensor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("open %s: %w", cfg.Device, ErrUnsupported)
}

// Run returns ErrUnsupported.
func (s *Sensor) Run(context.Context, func(ring int) event.BatchSink) error { return ErrUnsupported }

// Stats returns no counts.
func (s *Sensor) Stats() Stats { return Stats{} }

// InForce returns nothing.
func (s *Sensor) InForce() InForce { return InForce{} }

// Close does nothing.
func (s *Sensor) Close() error { return nil }

// Turns returns 0.
func (s *Sensor) Turns(int) uint64 { return 0 }
