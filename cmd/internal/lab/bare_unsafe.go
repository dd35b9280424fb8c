//go:build linux

package lab

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// takeBlock returns how many frames the block of a TPACKET_V3 ring holds and gives it back to the kernel; 0 when
// the kernel has it still. A block begins with a struct tpacket_block_desc of linux/if_packet.h.
func takeBlock(block []byte) uint32 {
	head := (*unix.TpacketHdrV1)(unsafe.Pointer(&(*unix.TpacketBlockDesc)(unsafe.Pointer(&block[0])).Hdr))
	if atomic.LoadUint32(&head.Block_status)&unix.TP_STATUS_USER == 0 {
		return 0
	}
	n := head.Num_pkts
	atomic.StoreUint32(&head.Block_status, unix.TP_STATUS_KERNEL)
	return n
}

// attach puts a classic BPF filter on a socket; the two kinds of instruction are one in memory.
func attach(fd int, filter []bpf.RawInstruction) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0])),
	})
}
