//go:build linux && cgo

package sensor

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/google/gopacket/afpacket"
	"golang.org/x/sys/unix"

	"portolan/bpffilter"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// What waiting for a ring can run into.
var (
	errLinkDown = errors.New("link down")
	errGone     = errors.New("interface gone")
)

// pollMillis bounds a wait, and by that how long a cancelled goroutine goes on.
const pollMillis = 100

// handle is a packet socket with its ring. The library makes and closes them, and sets the socket's
// options; the ring is read in place. After openHandles one goroutine owns it, and closes it:
// it would read unmapped memory if another did.
type handle struct {
	tp   *afpacket.TPacket
	fd   int
	ring blocks
	poll [1]unix.PollFd

	link      decode.LinkType
	point     uint16
	on        event.Time // when the filter came into force
	filtered  bool       // all frames that came before that are through
	lastStats kernelStats
}

// kernelStats are the library's counts: 32 bits that wrap.
type kernelStats struct{ packets, drops, freezes uint32 }

// openHandles opens the rings on an interface. No frame reaches a ring that the filter
// would drop, nor two rings, but for those stamped earlier than handle.on.
func openHandles(cfg *Config, l link) (handles []*handle, p *prefilter, err error) {
	kind, err := l.linkType()
	if err != nil {
		return nil, nil, err
	}
	assemble := bpffilter.Assemble
	if cfg.Prefilter == PrefilterOff {
		assemble = bpffilter.PassAll
	}
	filter, err := assemble(filterOptions(cfg, l, kind))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			closeHandles(handles)
			handles = nil
		}
	}()
	byClient := !cfg.HashFanOut
	if handles, err = openGroup(cfg, l, kind, byClient); errors.Is(err, errFanOut) {
		byClient = false // an old kernel
		handles, err = openGroup(cfg, l, kind, byClient)
	}
	if err != nil {
		return nil, nil, err
	}
	for i, h := range handles {
		if err := h.tp.InitSocketStats(); err != nil {
			return handles, nil, fmt.Errorf("ring %d: reset counters: %w", i, err)
		}
		h.on = event.TimeOf(time.Now())
		if err := h.tp.SetBPF(filter); err != nil {
			return handles, nil, fmt.Errorf("ring %d: attach filter: %w", i, err)
		}
	}
	if p, err = engage(cfg, l, kind, handles); err != nil {
		return handles, nil, err
	}
	switch {
	case cfg.Rings == 1:
	case byClient:
		p.inForce.FanOut = "client"
	default:
		p.inForce.FanOut = "flow"
	}
	return handles, p, nil
}

// openGroup opens all rings with a filter that drops everything: a member of a fan-out
// group gets all frames until it joins, and a socket without a filter those of the whole line.
func openGroup(cfg *Config, l link, kind decode.LinkType, byClient bool) (handles []*handle, err error) {
	defer func() {
		if err != nil {
			closeHandles(handles)
			handles = nil
		}
	}()
	for i := range cfg.Rings {
		h, err := openHandle(cfg, l)
		if err != nil {
			return handles, fmt.Errorf("ring %d: %w", i, err)
		}
		h.link, h.point = kind, cfg.Point
		handles = append(handles, h)
	}
	if cfg.Rings == 1 {
		return handles, nil
	}
	if !byClient {
		// Fragments hash by addresses alone, the first like the others: they meet in one ring
		// without the kernel's defragmentation, which would hide their times.
		return handles, joinFanout(handles, afpacket.FanoutHash)
	}
	if err := joinFanout(handles, afpacket.FanoutCBPF); err != nil {
		return handles, fmt.Errorf("%w: %w", errFanOut, err)
	}
	return handles, steer(handles[0], bpffilter.FanOutOptions{RawIP: kind == decode.Raw, TunnelPorts: cfg.Decode.VXLANPorts})
}

func closeHandles(handles []*handle) {
	for _, h := range handles {
		h.close()
	}
}

func openHandle(cfg *Config, l link) (*handle, error) {
	tp, err := afpacket.NewTPacket(
		afpacket.OptInterface(cfg.Device),
		afpacket.TPacketVersion3,
		afpacket.OptBlockSize(cfg.BlockSize),
		afpacket.OptNumBlocks(cfg.Blocks),
		afpacket.OptBlockTimeout(cfg.BlockTimeout),
		afpacket.OptPollTimeout(0), // we wait ourselves
	)
	if err != nil {
		return nil, err
	}
	h := &handle{tp: tp}
	if err := h.prepare(cfg, l); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *handle) prepare(cfg *Config, l link) (err error) {
	if err := h.tp.SetBPF(bpffilter.DropAll()); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if h.fd, h.ring.mem, err = internals(h.tp); err != nil {
		return err
	}
	if len(h.ring.mem) != cfg.BlockSize*cfg.Blocks {
		return fmt.Errorf("the ring has %d bytes instead of %d", len(h.ring.mem), cfg.BlockSize*cfg.Blocks)
	}
	h.ring.size = cfg.BlockSize
	h.poll[0] = unix.PollFd{Fd: int32(h.fd), Events: unix.POLLIN}
	if cfg.Promiscuous {
		m := unix.PacketMreq{Ifindex: int32(l.index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(h.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			return fmt.Errorf("set promiscuous: %w", err)
		}
	}
	return nil
}

// internals returns what the library keeps to itself: its descriptor and its ring. The
// descriptor is checked to be that of a packet socket.
func internals(tp *afpacket.TPacket) (fd int, ring []byte, err error) {
	v := reflect.ValueOf(tp).Elem()
	f, r := v.FieldByName("fd"), v.FieldByName("ring")
	if !f.IsValid() || f.Kind() != reflect.Int || !r.IsValid() || r.Type() != reflect.TypeFor[[]byte]() {
		return 0, nil, errors.New("this version of gopacket/afpacket keeps its descriptor or its ring elsewhere")
	}
	fd = int(f.Int())
	if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_PACKET {
		return 0, nil, fmt.Errorf("descriptor %d is not that of a packet socket", fd)
	}
	return fd, r.Bytes(), nil
}

// errFanOut: the kernel does not share frames out by a program.
var errFanOut = errors.New("fan-out by program")

// joinFanout shares the frames out among the rings, in a way that is the same for both
// directions of a flow.
func joinFanout(handles []*handle, how afpacket.FanoutType) error {
	if err := handles[0].tp.SetFanout(how|unix.PACKET_FANOUT_FLAG_UNIQUEID, 0); err != nil {
		return fmt.Errorf("ring 0: make fan-out group: %w", err)
	}
	id, err := unix.GetsockoptInt(handles[0].fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return fmt.Errorf("ring 0: read fan-out group: %w", err)
	}
	for i, h := range handles[1:] {
		if err := h.tp.SetFanout(how, uint16(id)); err != nil {
			return fmt.Errorf("ring %d: join fan-out group: %w", i+1, err)
		}
	}
	return nil
}

// steer gives the group of h its program, with a seed of its own. Until it has one, all goes
// to its first ring.
func steer(h *handle, o bpffilter.FanOutOptions) error {
	var seed [4]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	o.Seed = binary.NativeEndian.Uint32(seed[:])
	program, err := bpffilter.FanOut(o)
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		code[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	err = unix.SetsockoptSockFprog(h.fd, unix.SOL_PACKET, unix.PACKET_FANOUT_DATA, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	if err != nil {
		return fmt.Errorf("%w: %w", errFanOut, err)
	}
	return nil
}

// frame fills in f with the next frame of the block, but for its number. f.Data holds until
// the block is left. It returns false for a frame that came before the filter.
func (h *handle) frame(f *decode.Frame) (ok bool) {
	h.ring.next(f)
	f.Link, f.Point = h.link, h.point
	// The ring holds frames in the order they were let in: the first that the filter let in
	// is the end of those that came before it.
	h.filtered = h.filtered || f.Time >= h.on
	return h.filtered
}

// wait waits for a block, at most pollMillis. It returns errLinkDown once for each time
// the link goes down, and errGone when the interface is no more and the ring is empty.
func (h *handle) wait() error {
	n, err := unix.Poll(h.poll[:], pollMillis)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("poll: %w", err)
	case n == 0:
		h.filtered = true // nothing is left of what came before the filter
		return h.bound()
	case h.poll[0].Revents&^unix.POLLIN == 0:
		return nil
	}
	// Until the error has been read, no poll would wait.
	code, err := unix.GetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch errno := unix.Errno(code); {
	case err != nil:
		return fmt.Errorf("read socket error: %w", err)
	case errno == 0:
		return nil
	case errno == unix.ENETDOWN:
		return errLinkDown // or gone: the next calls will find out
	default:
		return fmt.Errorf("poll: %w", errno)
	}
}

// bound returns errGone when the interface has been removed: the kernel forgets its index then.
func (h *handle) bound() error {
	a, err := unix.Getsockname(h.fd)
	if err != nil {
		return fmt.Errorf("read socket address: %w", err)
	}
	if a, ok := a.(*unix.SockaddrLinklayer); ok && a.Ifindex <= 0 {
		return errGone
	}
	return nil
}

// count adds to n what the kernel counted since the last call. Its counters have 32 bits
// and include the dropped frames in the received.
func (h *handle) count(n *RingStats) error {
	_, s, err := h.tp.SocketStats()
	if err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	now := kernelStats{uint32(s.Packets()), uint32(s.Drops()), uint32(s.QueueFreezes())}
	drops := now.drops - h.lastStats.drops
	n.Received += uint64(now.packets - h.lastStats.packets - drops)
	n.Dropped += uint64(drops)
	n.Frozen += uint64(now.freezes - h.lastStats.freezes)
	h.lastStats = now
	return nil
}

func (h *handle) close() { h.tp.Close() }
