package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/fleet"
)

// openObservations returns a publisher of what is decoded, nil when it is not wanted.
func openObservations(cfg *config.Config, b *bus.Bus, log *slog.Logger) (*fleet.Publisher, error) {
	if !cfg.Observations.Publish {
		return nil, nil
	}
	c := fleet.DefaultPublisherConfig()
	c.Sensor, c.Log = cfg.Sensor, log
	c.Partitions, c.Zone, c.Untag = cfg.Observations.Partitions, uint16(cfg.Observations.FleetZone), cfg.Observations.Untag
	return fleet.NewPublisher(b, c)
}

// observationsTimeout is how long the server may take for the last observations.
const observationsTimeout = 2 * time.Second

// closeObservations sends the rest. What is lost was lost to the workers, so it is said.
func (l *pipeline) closeObservations() error {
	if l.observations == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), observationsTimeout)
	defer cancel()
	err := l.observations.Close(ctx)
	if s := l.observations.Stats(); err == nil && s.Lost > 0 {
		err = fmt.Errorf("%s of observations lost: the server was away too long", count(s.Lost, "batch", "batches"))
	}
	return err
}
