package lab

import (
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Wire is a veth pair in a network namespace of its own, with senders on one end. Its methods
// are for one goroutine at a time.
type Wire struct {
	space   *space
	mix     Mix
	cpus    []int
	senders []*sender
	sending bool
	before  Traversed // counted before Send
}

// Ends of a wire.
const (
	// NearDevice is where the senders are.
	NearDevice = "near"
	// WireDevice is the far end, on which a sensor captures.
	WireDevice = "mirror"
)

// NewWire makes a wire that carries a mix, with a sender on each of the given CPUs. The caller closes it.
func NewWire(m Mix, cpus []int) (w *Wire, err error) {
	w = &Wire{mix: m, cpus: cpus}
	defer func() {
		if err != nil {
			err = both(err, w.Close())
		}
	}()
	if w.space, err = newSpace(w.connect); err == nil {
		err = w.equip()
	}
	if err != nil {
		return w, fmt.Errorf("build a wire: %w", err)
	}
	return w, nil
}

// connect makes the pair, in the wire's namespace.
func (w *Wire) connect() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	v := netlink.NewVeth(netlink.NewLinkAttrs())
	v.Name, v.PeerName = NearDevice, WireDevice
	// Each sender sends on the queue of its CPU.
	queues := runtime.NumCPU()
	v.NumTxQueues, v.NumRxQueues = queues, queues
	v.PeerNumTxQueues, v.PeerNumRxQueues = uint32(queues), uint32(queues)
	if err := h.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth pair (kernel option VETH): %w", err)
	}
	for _, name := range []string{NearDevice, WireDevice} {
		if err := quiet(h, name); err != nil {
			return err
		}
	}
	// Redirected frames need a far end that polls, as one does that could merge segments.
	return switchGRO(WireDevice, true)
}

// equip makes the senders.
func (w *Wire) equip() error {
	near := 0
	err := w.Do(func() (err error) {
		near, err = interfaceIndex(NearDevice)
		return err
	})
	if err != nil {
		return err
	}
	for _, cpu := range w.cpus {
		s, err := newSender(w.mix, w.space, near, cpu)
		if err != nil {
			return err
		}
		w.senders = append(w.senders, s)
	}
	return nil
}

// Replace ends Send, takes the pair away and makes another of the same names.
func (w *Wire) Replace() error {
	err := w.Stop()
	for _, s := range w.senders {
		err = both(err, s.close())
	}
	w.senders = nil
	if err != nil {
		return err
	}
	err = w.Do(func() error {
		near, err := netlink.LinkByName(NearDevice)
		if err != nil {
			return fmt.Errorf("find %s: %w", NearDevice, err)
		}
		if err := netlink.LinkDel(near); err != nil {
			return fmt.Errorf("remove %s: %w", NearDevice, err)
		}
		return w.connect()
	})
	if err != nil {
		return err
	}
	return w.equip()
}

// SetClients has the frames come from, and go to, other hosts: those of a block from 0, which is where they begin, to 63.
func (w *Wire) SetClients(block int) error {
	for _, s := range w.senders {
		if err := s.clients.Put(uint32(0), uint32(block&63)<<16); err != nil {
			return fmt.Errorf("change the clients: %w", err)
		}
	}
	return nil
}

// Do runs fn on a thread of its own in the wire's namespace. Sockets opened in fn stay there.
func (w *Wire) Do(fn func() error) error { return w.space.do(fn) }

// Send lets the senders send that many frames a second together, or as many as they can for 0, until Stop.
func (w *Wire) Send(rate float64) error {
	if err := w.Stop(); err != nil {
		return err
	}
	before, err := w.counts()
	if err != nil {
		return err
	}
	w.before, w.sending = before, true
	for _, s := range w.senders {
		if err := s.start(rate / float64(len(w.senders))); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends what Send began, if it did.
func (w *Wire) Stop() (err error) {
	if !w.sending {
		return nil
	}
	w.sending = false
	for _, s := range w.senders {
		err = both(err, s.stop())
	}
	return err
}

// Counts returns what became of the frames since Send.
func (w *Wire) Counts() (Traversed, error) {
	n, err := w.counts()
	if err != nil {
		return n, err
	}
	n.Arrived -= w.before.Arrived
	n.Rejected -= w.before.Rejected
	for _, s := range w.senders {
		sent, err := s.sent()
		if err != nil {
			return n, err
		}
		n.CPU += time.Duration(s.used.Load())
		n.Offered.Frames += sent.Frames
		n.Offered.Connections += sent.Connections
		n.Offered.Lookups += sent.Lookups
	}
	return n, nil
}

// counts returns what the far end counted so far.
func (w *Wire) counts() (n Traversed, err error) {
	err = w.Do(func() error {
		far, err := netlink.LinkByName(WireDevice)
		if err != nil {
			return fmt.Errorf("find %s: %w", WireDevice, err)
		}
		c := far.Attrs().Statistics
		n.Arrived, n.Rejected = c.RxPackets, c.RxDropped
		return nil
	})
	return n, err
}

// SetUp sets the far end up or down.
func (w *Wire) SetUp(up bool) error {
	return w.Do(func() error {
		far, err := netlink.LinkByName(WireDevice)
		if err != nil {
			return fmt.Errorf("find %s: %w", WireDevice, err)
		}
		if up {
			return netlink.LinkSetUp(far)
		}
		return netlink.LinkSetDown(far)
	})
}

// Close takes the wire down.
func (w *Wire) Close() error {
	err := w.Stop()
	for _, s := range w.senders {
		err = both(err, s.close())
	}
	return both(err, w.space.close())
}

// interfaceIndex returns the index of a device in the calling thread's namespace.
func interfaceIndex(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	return l.Attrs().Index, nil
}

// ProcessCPU returns the CPU time that this process has taken, the senders' included.
func ProcessCPU() (time.Duration, error) {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return time.Duration(used.Nano()), nil
}
