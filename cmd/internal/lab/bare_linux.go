package lab

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// BareRing is the yardstick: a packet ring whose reader counts the frames of each block, looks at none, and
// gives the block back. Nothing that reads this kind of ring can be faster.
type BareRing struct {
	fd   int
	mem  []byte
	size int // of a block in bytes

	frames atomic.Uint64
	stop   atomic.Bool
	done   chan error
}

// OpenBareRing opens a ring on a device in the calling thread's namespace, behind a filter if there is
// one, and starts to read it. The caller closes it.
func OpenBareRing(device string, blockSize, blocks int, blockTimeout time.Duration, filter []bpf.RawInstruction) (*BareRing, error) {
	r := &BareRing{size: blockSize, done: make(chan error, 1)}
	if err := r.open(device, blocks, blockTimeout, filter); err != nil {
		return nil, both(fmt.Errorf("open a bare ring on %s: %w", device, err), r.release())
	}
	go func() { r.done <- r.read() }()
	return r, nil
}

func (r *BareRing) open(device string, blocks int, blockTimeout time.Duration, filter []bpf.RawInstruction) (err error) {
	if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("set version: %w", err)
	}
	const frame = 2048 // the kernel wants a number that fits, and makes no use of it
	err = unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
		Block_size: uint32(r.size), Block_nr: uint32(blocks),
		Frame_size: frame, Frame_nr: uint32(r.size / frame * blocks),
		Retire_blk_tov: uint32(blockTimeout / time.Millisecond),
	})
	if err != nil {
		return fmt.Errorf("make a ring: %w", err)
	}
	if r.mem, err = unix.Mmap(r.fd, 0, r.size*blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map a ring: %w", err)
	}
	if len(filter) > 0 {
		if err := attach(r.fd, filter); err != nil {
			return fmt.Errorf("attach filter: %w", err)
		}
	}
	i, err := interfaceIndex(device)
	if err != nil {
		return err
	}
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network order
	return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i})
}

func (r *BareRing) read() error {
	poll := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
	for at := 0; !r.stop.Load(); {
		if n := takeBlock(r.mem[at : at+r.size]); n > 0 {
			r.frames.Add(uint64(n))
			at = (at + r.size) % len(r.mem)
			continue
		}
		if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
	}
	return nil
}

// Frames returns how many frames were counted.
func (r *BareRing) Frames() uint64 { return r.frames.Load() }

// Dropped returns how many frames found no room since the last call.
func (r *BareRing) Dropped() (uint64, error) {
	s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read counters: %w", err)
	}
	return uint64(s.Drops), nil
}

// Close ends the reader and closes the ring.
func (r *BareRing) Close() error {
	r.stop.Store(true)
	return both(<-r.done, r.release())
}

func (r *BareRing) release() (err error) {
	if r.mem != nil {
		err = unix.Munmap(r.mem)
	}
	if r.fd > 0 {
		err = both(err, unix.Close(r.fd))
	}
	return err
}
