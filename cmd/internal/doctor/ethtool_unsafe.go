//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolRequest is struct ifreq in linux/if.h with a pointer in its union.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ethtool asks about devices in the network namespace of the thread that opened fd.
type ethtool struct {
	fd     int
	device string
}

// ask hands a structure of linux/ethtool.h, as its words, to the driver, which fills it in.
func (e ethtool) ask(words []uint32) error {
	var r ethtoolRequest
	if len(e.device) >= len(r.name) {
		return unix.ENODEV
	}
	copy(r.name[:], e.device)
	r.data = unsafe.Pointer(&words[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(words)
	switch errno {
	case 0:
		return nil
	case unix.EOPNOTSUPP:
		return fmt.Errorf("%w by the driver", errors.ErrUnsupported)
	}
	return errno
}
