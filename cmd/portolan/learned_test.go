package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"portolan/cmd/internal/config"
	"portolan/correlate/baseline"
	"portolan/sensor/event"
)

// What one run learned, the next one knows; a damaged file is put aside.
func TestBaselineSurvivesARestart(t *testing.T) {
	cfg := &config.Config{StateDir: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	open := func() (*baseline.Model, *learned) {
		m, err := baseline.NewModel(baseline.DefaultModelConfig())
		if err != nil {
			t.Fatal(err)
		}
		l, err := openLearned(cfg, m, log)
		if err != nil {
			t.Fatal(err)
		}
		return m, l
	}
	const port = 27015
	now := event.TimeOf(time.Now())
	m, l := open()
	for n := range uint64(50) {
		m.Port(event.Zone{}, now, port, n*0x9E3779B97F4A7C15)
	}
	later := now.Add(10 * time.Minute)
	m.Rotate(later)
	want, _ := m.PortChance(event.Zone{}, later, port)
	if want <= 10*baseline.Port(port) {
		t.Fatalf("chance %v after 50 clients used the port, %v by the prior", want, baseline.Port(port))
	}
	l.save()

	m, _ = open()
	next := later.Add(2 * baseline.Epoch) // what may hold a trial does not judge it
	if got, _ := m.PortChance(event.Zone{}, next, port); got < want*.9 {
		t.Errorf("chance %v after a restart, %v before", got, want)
	}

	path := filepath.Join(cfg.StateDir, "baseline.state")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	m, _ = open()
	if got, _ := m.PortChance(event.Zone{}, next, port); got != baseline.Port(port) {
		t.Errorf("chance %v from a damaged file", got)
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error(err)
	}
}
