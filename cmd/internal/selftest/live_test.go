package selftest

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"portolan/cmd/internal/lab"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

const patience = 20 * time.Second

// wire returns a pair of devices in a network of their own.
func wire(t *testing.T) *lab.Wire {
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

func correlator(t *testing.T) *correlate.Correlator {
	t.Helper()
	c, err := correlate.New(config())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func capture() sensor.Config {
	c := sensor.DefaultConfig()
	c.Rings, c.Blocks = 2, 8
	return c
}

// inject injects a probe into the far end of a wire, on which a sensor captures, and reports whether it came
// out before stop.
func inject(t *testing.T, w *lab.Wire, prefilter sensor.Prefilter, until func(s *sensor.Sensor) bool) bool {
	t.Helper()
	cfg := capture()
	cfg.Device, cfg.Prefilter = lab.WireDevice, prefilter
	var s *sensor.Sensor
	if err := w.Do(func() (err error) { s, err = sensor.Open(cfg); return err }); err != nil {
		t.Fatal(err)
	}
	p := NewProbe()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var found atomic.Bool
	sink := &catcher{probe: p, correlator: correlator(t), found: func(error) { found.Store(true) }}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(int) event.BatchSink { return sink }) }()
	if err := w.Do(func() error { return p.Inject(lab.WireDevice) }); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !found.Load() && !until(s) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel(nil)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return found.Load()
}

// TestInject: what is injected comes out of the rings of a sensor as a hit, with each filter, and no frame
// leaves the device.
func TestInject(t *testing.T) {
	for _, prefilter := range []sensor.Prefilter{sensor.PrefilterOff, sensor.PrefilterSocket, sensor.PrefilterEBPF} {
		w := wire(t)
		if !inject(t, w, prefilter, func(*sensor.Sensor) bool { return false }) {
			t.Errorf("prefilter %s: no hit", prefilter)
		}
		n, err := w.Counts()
		if err != nil {
			t.Fatal(err)
		}
		if n.Arrived != 0 {
			t.Errorf("prefilter %s: %d frames crossed the wire", prefilter, n.Arrived)
		}
	}
}

// TestInjectIntoWhatDrops: a program in front of the device that drops everything keeps the probe from coming
// out.
func TestInjectIntoWhatDrops(t *testing.T) {
	w := wire(t)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var l link.Link
	if err := w.Do(func() (err error) {
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: index(t, lab.WireDevice), Flags: link.XDPGenericMode})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	end := time.Now().Add(2 * time.Second)
	if inject(t, w, sensor.PrefilterSocket, func(*sensor.Sensor) bool { return time.Now().After(end) }) {
		t.Error("a hit came out of a device that drops everything")
	}
}

// TestLoopback: the same without any privilege over the device.
func TestLoopback(t *testing.T) {
	w := wire(t)
	run := func(c Correlator, patience time.Duration) error {
		return w.Do(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return NewProbe().Loopback(ctx, capture(), c)
		})
	}
	if err := run(correlator(t), patience); err != nil {
		t.Error(err)
	}
	if err := run(broken{correlator(t), Hypothesis}, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a correlator that finds nothing: %v", err)
	}
}

func index(t *testing.T, device string) int {
	t.Helper()
	i, err := net.InterfaceByName(device)
	if err != nil {
		t.Error(err)
		return 0
	}
	return i.Index
}
