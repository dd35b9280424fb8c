//go:build linux

package lab

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testRun mirrors the part of union bpf_attr in linux/bpf.h that BPF_PROG_TEST_RUN uses.
type testRun struct {
	fd, retval                    uint32
	dataSizeIn, dataSizeOut       uint32
	dataIn, dataOut               unsafe.Pointer
	repeat, duration              uint32
	contextSizeIn, contextSizeOut uint32
	contextIn, contextOut         unsafe.Pointer
	flags, cpu, batchSize         uint32
	_                             uint32
}

// liveBatch is how many frames go out together: as many as the receiver takes at a time.
const liveBatch = 64

// runLive runs an XDP program on live frames until a signal comes (unix.EINTR) or it has run
// about four billion times. The library would go on after a signal.
func runLive(program int, frame []byte) error {
	attr := testRun{
		fd: uint32(program), dataIn: unsafe.Pointer(&frame[0]), dataSizeIn: uint32(len(frame)),
		repeat: 1<<32 - 1, flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, batchSize: liveBatch,
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(frame)
	if errno != 0 {
		return errno
	}
	return nil
}
