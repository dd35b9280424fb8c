package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/health"
)

// newLog returns a logger, and its least level, which can change.
func (p *program) newLog(cfg *config.Config) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level})), level
}

// reloader reads the configuration again and puts into force what can change while the sensor runs. Whatever
// else has changed stays as it was: devices, files and servers are open already, and hypotheses, windows
// and thresholds go with what is remembered of clients, so that a hit has one meaning from its first
// revision to its last. One goroutine at a time may use it.
type reloader struct {
	cfg   config.Config // in force
	load  func() (config.Config, error)
	level *slog.LevelVar
	line  *pipeline
	log   *slog.Logger
}

// reloadable lists the keys that take effect at once.
func reloadable() []string {
	return []string{"log_level", "allow", "limit.burst", "limit.per_minute", "limit.every"}
}

// reload reads the configuration; on an error all stays as it was.
func (r *reloader) reload(server *health.Server) error {
	next, err := r.load()
	if err == nil {
		err = r.line.bus.SetLimit(bus.Limit{Burst: next.Limit.Burst, PerMinute: float64(next.Limit.PerMinute), Every: next.Limit.Every})
	}
	if err == nil {
		err = server.Reload() // certificates and tokens are replaced without a change of their paths
	}
	if err != nil {
		var file *config.FileError
		if errors.As(err, &file) && file.Hint != "" {
			err = fmt.Errorf("%w (%s)", err, file.Hint)
		}
		return err
	}
	var taken, stays []string
	for _, key := range r.cfg.Changed(&next) {
		if slices.Contains(reloadable(), key) {
			taken = append(taken, key)
		} else {
			stays = append(stays, key)
		}
	}
	r.level.Set(next.LogLevel)
	r.line.allow.replace(next.Allow)
	r.cfg.LogLevel, r.cfg.Allow, r.cfg.Limit = next.LogLevel, next.Allow, next.Limit
	changed := "nothing"
	if len(taken) > 0 {
		changed = strings.Join(taken, ",")
	}
	attrs := []any{"file", next.File(), "changed", changed}
	if len(stays) > 0 {
		attrs = append(attrs, "stays until a restart", strings.Join(stays, ","))
	}
	r.log.Info("configuration read again", attrs...)
	return nil
}
