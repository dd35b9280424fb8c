//go:build linux && cgo

package sensor

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blocks walks along a TPACKET_V3 ring in step with the library that reads it, to see the
// two things that the library gets wrong: whether a block may be looked at yet, and the
// VLAN tag, for which it allocates memory. It mirrors, from linux/if_packet.h,
//
//	struct tpacket_block_desc   at the start of each block (unix.TpacketBlockDesc)
//	struct tpacket_hdr_v1       in it                      (unix.TpacketHdrV1)
//	struct tpacket3_hdr         in front of each frame     (unix.Tpacket3Hdr)
type blocks struct {
	mem   []byte // the ring, shared with the kernel
	size  int    // of a block, in bytes
	block int    // offset in mem of the block that is being read, or is to be read next
	frame int    // offset in mem of the header of the frame to be read next
}

func (b *blocks) head() *unix.TpacketHdrV1 {
	desc := (*unix.TpacketBlockDesc)(unsafe.Pointer(&b.mem[b.block]))
	return (*unix.TpacketHdrV1)(unsafe.Pointer(&desc.Hdr))
}

func (b *blocks) header() *unix.Tpacket3Hdr {
	return (*unix.Tpacket3Hdr)(unsafe.Pointer(&b.mem[b.frame]))
}

// ready reports whether the kernel has handed the next block over.
func (b *blocks) ready() bool {
	return atomic.LoadUint32(&b.head().Block_status)&unix.TP_STATUS_USER != 0
}

// opened reports whether the kernel has begun to fill the next block, at any time. Before
// that, the library would look for the first frame in the wrong place, and keep to it.
func (b *blocks) opened() bool { return atomic.LoadUint32(&b.head().Offset_to_first_pkt) != 0 }

// begin enters the next block, which is ready, and returns how many frames it holds.
func (b *blocks) begin() int {
	h := b.head()
	b.frame = b.block + int(h.Offset_to_first_pkt)
	return int(h.Num_pkts)
}

// tag returns the VLAN tag that was taken off the next frame, and hides it from the library.
func (b *blocks) tag() (tci uint16, ok bool) {
	h := b.header()
	if h.Status&unix.TP_STATUS_VLAN_VALID == 0 {
		return 0, false
	}
	h.Status &^= unix.TP_STATUS_VLAN_VALID
	return uint16(h.Hv1.Vlan_tci), true
}

// passed goes on to the following frame and reports whether data was the one before.
func (b *blocks) passed(data []byte) bool {
	h := b.header()
	at := b.frame + int(h.Mac)
	b.frame += int(h.Next_offset)
	return len(data) == 0 || unsafe.SliceData(data) == &b.mem[at]
}

// end leaves the block.
func (b *blocks) end() { b.block = (b.block + b.size) % len(b.mem) }
