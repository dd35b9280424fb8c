//go:build linux && cgo

package sensor

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// blocks reads a TPACKET_V3 ring, in place. The library that made the ring could, but takes a
// lock for each frame, allocates for each VLAN tag, and keeps a block until the next is
// asked for. It mirrors, from linux/if_packet.h,
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

// enter begins the next block and returns how many frames it holds, each of which can then be
// read with next; 0 when the kernel has not handed it over yet. It hands no empty block over.
func (b *blocks) enter() int {
	h := b.head()
	if atomic.LoadUint32(&h.Block_status)&unix.TP_STATUS_USER == 0 {
		return 0
	}
	b.frame = b.block + int(h.Offset_to_first_pkt)
	return int(h.Num_pkts)
}

// next fills in what the ring says of the next frame of the block. f.Data is the ring's own
// memory: it holds until leave.
func (b *blocks) next(f *decode.Frame) {
	h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&b.mem[b.frame]))
	at := b.frame + int(h.Mac)
	f.Data = b.mem[at : at+int(h.Snaplen) : at+int(h.Snaplen)]
	f.Len = int(h.Len)
	f.Time = event.Time(h.Sec)*1e9 + event.Time(h.Nsec)
	f.VLAN, f.HasVLAN = uint16(h.Hv1.Vlan_tci), h.Status&unix.TP_STATUS_VLAN_VALID != 0
	b.frame += int(h.Next_offset)
}

// leave gives the block back to the kernel and goes on to the one after it.
func (b *blocks) leave() {
	atomic.StoreUint32(&b.head().Block_status, unix.TP_STATUS_KERNEL)
	b.block = (b.block + b.size) % len(b.mem)
}
