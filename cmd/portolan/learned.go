package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/state"
	"portolan/correlate"
	"portolan/correlate/baseline"
	"portolan/sensor/event"
)

// newCorrelator returns a correlator, and the baseline that it learns.
func newCorrelator(cfg *config.Config) (*correlate.Correlator, *baseline.Model, error) {
	m, err := baseline.NewModel(baseline.DefaultModelConfig())
	if err != nil {
		return nil, nil, err
	}
	c := cfg.Correlate
	c.Baseline, c.Alloc = m, hugePages
	correlator, err := correlate.New(c)
	return correlator, m, err
}

// learned keeps a baseline in the state directory. One goroutine at a time may use it.
type learned struct {
	model *baseline.Model
	store *state.Store
	log   *slog.Logger
}

// clockSlack is how far a state may be ahead without anybody being told.
const clockSlack = 10 * time.Minute

// baselinePath returns where the state directory has the baseline.
func baselinePath(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "baseline.state") }

// openLearned reads into the baseline what an earlier run learned. A damaged file is put
// aside and said; one of a newer version is an error, and stays as it is.
func openLearned(cfg *config.Config, m *baseline.Model, log *slog.Logger) (*learned, error) {
	path := baselinePath(cfg)
	store, err := state.New(state.Config{Path: path, Logger: log})
	if err != nil {
		return nil, err
	}
	var s baseline.State
	found, err := store.Load(&s)
	if err != nil {
		var newer *state.NewerError
		if errors.As(err, &newer) {
			return nil, withHint(err, "use the newer portolan, or move the file away to learn afresh")
		}
		return nil, fmt.Errorf("baseline: %w", err)
	}
	if found {
		if ahead := s.NotAfter(event.TimeOf(time.Now())); ahead > clockSlack {
			log.Warn("what was learned is from the future: a clock was wrong; it fades from now on", "path", path, "ahead", ahead.Round(time.Minute))
		}
		if err := m.Import(s); err != nil {
			return nil, withHint(fmt.Errorf("%s: %w", path, err), "move the file away to learn afresh")
		}
	}
	return &learned{model: m, store: store, log: log}, nil
}

// save writes what was learned; what goes wrong is logged, and tried again the next time.
func (l *learned) save() {
	if err := l.store.Save(l.model.Export()); err != nil {
		l.log.Warn("baseline not saved", "error", err)
	}
}
