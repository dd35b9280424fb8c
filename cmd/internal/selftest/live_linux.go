package selftest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portolan/bpffilter"
	"portolan/correlate"
	"portolan/sensor"
	"portolan/sensor/event"
)

// ErrPrivilege says that frames can be handed to a device only with CAP_BPF and CAP_NET_ADMIN, and on Linux
// 5.18 or later.
var ErrPrivilege = errors.New("handing it frames takes CAP_BPF, CAP_NET_ADMIN and Linux 5.18")

// Inject hands the probe to whatever captures on a device, as if it had come from the line. Nothing leaves
// the device. The device is looked up in the network namespace of the calling thread. The error wraps
// ErrPrivilege where the kernel does not let it.
func (p *Probe) Inject(device string) error {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("self-test on %s: %w", device, err)
	}
	frames := p.Frames()
	err = bpffilter.Inject(i.Index, frames[:]...)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("self-test on %s: %w", device, ErrPrivilege)
	}
	return err
}

// loopback is the device that Loopback sends through.
const loopback = "lo"

// Device puts a device to the test: a sensor opens it as cfg says, the probe is injected there, and c
// correlates. ctx bounds how long it waits; then the error says that the probe did not come out.
func (p *Probe) Device(ctx context.Context, cfg sensor.Config, c Correlator) error {
	return p.through(ctx, cfg, c, func() error { return p.Inject(cfg.Device) })
}

// Loopback sends the probe through the loopback device of this host, from where a sensor of its own takes it:
// the kernel's filter, the rings, the fan-out and the decoder are those of cfg, and c correlates. It needs
// CAP_NET_RAW alone. The device of cfg is not put to the test. ctx bounds how long it waits, as for Device.
func (p *Probe) Loopback(ctx context.Context, cfg sensor.Config, c Correlator) error {
	cfg.Device, cfg.MirrorPort = loopback, false
	return p.through(ctx, cfg, c, p.send)
}

// fewBlocks is enough of a ring for a probe.
const fewBlocks = 8

func (p *Probe) through(ctx context.Context, cfg sensor.Config, c Correlator, put func() error) error {
	cfg.CPUs, cfg.Blocks = nil, fewBlocks
	s, err := sensor.Open(cfg)
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sink := &catcher{probe: p, correlator: c, found: cancel}
	var capturing sync.WaitGroup
	capturing.Go(func() {
		if err := s.Run(ctx, func(int) event.BatchSink { return sink }); err != nil {
			cancel(err)
		}
	})
	if err := put(); err != nil {
		cancel(err)
	}
	<-ctx.Done()
	capturing.Wait()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errFound):
		return nil
	case errors.Is(cause, context.DeadlineExceeded):
		return fmt.Errorf("self-test on %s: %d frames went in, and no hit came out: %w", cfg.Device, NumFrames, cause)
	default:
		return cause
	}
}

// send puts the frames on the loopback device. No stack takes them: they are for nobody's Ethernet address.
func (p *Probe) send() error {
	i, err := net.InterfaceByName(loopback)
	if err != nil {
		return fmt.Errorf("find %s: %w", loopback, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(fd)
	for _, f := range p.Frames() {
		if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: i.Index}); err != nil {
			return fmt.Errorf("send through %s: %w", loopback, err)
		}
	}
	return nil
}

// errFound ends what went well.
var errFound = errors.New("found")

// catcher correlates the probe's events, and none else, of all rings.
type catcher struct {
	probe      *Probe
	correlator Correlator
	found      context.CancelCauseFunc
	mu         sync.Mutex
	hits       []correlate.Hit
}

// Batch takes the events of a ring.
func (c *catcher) Batch(b *event.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range b.Len() {
		c.hits = c.hits[:0]
		if l, x := b.At(i); l != nil && markedLookup(l) {
			c.hits = c.correlator.ObserveLookup(c.hits, l)
		} else if x != nil && Marked(x) {
			c.hits = c.correlator.ObserveConnection(c.hits, x)
		}
		for h := range c.hits {
			if c.probe.Found(&c.hits[h]) {
				c.found(errFound)
			}
		}
	}
}

// Patience is how long a probe may take to come out: much longer than it takes a busy machine.
const Patience = 10 * time.Second
