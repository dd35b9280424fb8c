package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/dnstap"
	"portolan/correlate"
	"portolan/sensor/event"
)

// openDnstap listens for DNS servers, if the configuration wants it, and lets the pipeline take
// in what they tell. The server is nil otherwise.
func (l *pipeline) openDnstap(log *slog.Logger) (*dnstap.Server, error) {
	c := l.cfg.Dnstap
	if c.Listen == "" {
		return nil, nil
	}
	s, err := dnstap.Listen(dnstap.ServerConfig{Address: c.Listen, Tolerance: c.Tolerance, Logger: log})
	if err != nil {
		return nil, withHint(err, "it takes unix:PATH in a folder that this user may write to, or tcp:HOST:PORT")
	}
	log.Info("listening for dnstap", "address", c.Listen)
	sink := &tapSink{line: l}
	if l.observations != nil {
		sink.observations = l.observations.NewSink()
	}
	l.told = (feed.NoVLAN | feed.ForeignClock).Texts()
	l.beside = func(ctx context.Context) error { return s.Run(ctx, sink) }
	return s, nil
}

// tapSink takes the lookups of DNS servers. Unlike a ring's they say nothing of how far the
// packets have come.
type tapSink struct {
	line         *pipeline
	observations event.Sink // nil unless they are published too
	hits         []correlate.Hit
}

// Batch correlates lookups.
func (s *tapSink) Batch(b *event.Batch) {
	s.hits = s.line.correlator.ObserveBatch(s.hits[:0], b)
	s.line.give(s.hits)
	if s.observations != nil {
		b.Each(s.observations)
	}
}

// tapText says what came by dnstap.
func tapText(s dnstap.Stats) string {
	text := fmt.Sprintf("dnstap: %s of %s", count(s.Lookups, "lookup", "lookups"), count(s.Messages, "message", "messages"))
	var refused []string
	if s.NoClient > 0 {
		refused = append(refused, fmt.Sprintf("%d without client", s.NoClient))
	}
	if s.Ahead > 0 {
		refused = append(refused, fmt.Sprintf("%d of a clock that is ahead", s.Ahead))
	}
	if n := s.Refused - s.NoClient - s.Ahead; n > 0 {
		refused = append(refused, fmt.Sprintf("%d broken", n))
	}
	if len(refused) > 0 {
		text += ", refused " + strings.Join(refused, ", ")
	}
	return text
}
