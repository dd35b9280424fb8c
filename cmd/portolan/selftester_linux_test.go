package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/lab"
	"portolan/cmd/internal/selftest"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// testWire is a pair of devices in a network of their own.
func testWire(t *testing.T) *lab.Wire {
	t.Helper()
	if err := lab.Check(); err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	w, err := lab.NewWire(lab.MixBulk, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestSelfTestAlarms: a live pipeline passes its self-test, unseen by subscribers and counts; it raises the
// alarm, in the log and in what is published, while a program in front of the device drops everything, and
// when a hypothesis does not fire.
func TestSelfTestAlarms(t *testing.T) {
	w := testWire(t)
	cfg := config.Default()
	cfg.Sensor, cfg.Device, cfg.StateDir = "tester", []string{lab.WireDevice}, t.TempDir()
	cfg.NATS.Listen = ""
	cfg.Correlate.MemoryBytes = 32 << 20
	cfg.Capture.Rings, cfg.Capture.Blocks = 2, 8
	var logged output
	log := slog.New(slog.NewTextHandler(&logged, nil))
	b, err := openBus(t.Context(), &cfg, log, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	line, err := newPipeline(&cfg, lab.WireDevice, b, func(m *bus.Message) { t.Errorf("published: %s", m.Message) })
	if err != nil {
		t.Fatal(err)
	}
	replay, err := replayHypotheses(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	tester, err := newSelfTester(line, replay, log)
	if err != nil {
		t.Fatal(err)
	}
	line.tester = tester
	var sensors []*sensor.Sensor
	if err := w.Do(func() (err error) { sensors, err = openSensors(&cfg, log); return err }); err != nil {
		t.Fatal(err)
	}
	defer closeSensors(sensors)
	watch := newMonitor(line, sensors, &logged, log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- line.run(ctx, sensors, func() {}) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	test := func() *bus.SelfTest {
		t.Helper()
		if err := w.Do(func() error { tester.test(ctx); return nil }); err != nil {
			t.Fatal(err)
		}
		return tester.result()
	}

	if r := test(); !r.OK || r.Path != pathDevice || r.Fired != r.Hypotheses || r.After <= 0 {
		t.Fatalf("a sensor that sees all: %+v\n%s", r, &logged)
	}
	s := watch.snapshot()
	if n := &s.counts; n.Decoder.Queries+n.Decoder.Responses+n.Decoder.SYN+n.Lookups+n.Connections+n.Settled != 0 || len(s.view.Zones) != 0 {
		t.Errorf("the self-test counts as traffic: %+v, zones %v", n.Decoder, s.view.Zones)
	}

	drop, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer drop.Close()
	var attached link.Link
	if err := w.Do(func() error {
		device, err := net.InterfaceByName(lab.WireDevice)
		if err != nil {
			return err
		}
		attached, err = link.AttachXDP(link.XDPOptions{Program: drop, Interface: device.Index, Flags: link.XDPGenericMode})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	patience := tester.patience
	tester.patience = 300 * time.Millisecond // for what never comes
	if r := test(); r.OK || !strings.Contains(r.Why, "no hit came out") {
		t.Errorf("behind a program that drops everything: %+v", r)
	}
	if !strings.Contains(logged.String(), "level=ERROR") {
		t.Errorf("no alarm:\n%s", &logged)
	}
	s = watch.snapshot()
	record := watch.makeRecord(time.Now(), &s)
	if record.SelfTest == nil || record.SelfTest.OK || !strings.Contains(strings.Join(record.Why, "\n"), "selftest.failed") {
		t.Errorf("the record says nothing: %+v, %q", record.SelfTest, record.Why)
	}
	if err := attached.Close(); err != nil {
		t.Fatal(err)
	}
	tester.patience = patience
	if r := test(); !r.OK {
		t.Errorf("after the program has gone: %+v", r)
	}

	tester.replay, err = testHypotheses(&cfg.Correlate, deaf{})
	if err != nil {
		t.Fatal(err)
	}
	if r := test(); r.OK || r.Fired != 0 || !strings.Contains(r.Why, "P1 mul-add") {
		t.Errorf("with a correlator that finds nothing: %+v", r)
	}
}

// deaf is a correlator that finds nothing.
type deaf struct{ selftest.Correlator }

func (deaf) ObserveLookup(dst []correlate.Hit, _ *event.Lookup) []correlate.Hit { return dst }

func (deaf) ObserveConnection(dst []correlate.Hit, _ *event.Connection) []correlate.Hit { return dst }

func (deaf) Flush(dst []correlate.Hit) []correlate.Hit { return dst }
