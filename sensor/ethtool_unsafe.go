//go:build linux

package sensor

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value in linux/ethtool.h.
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is struct ifreq in linux/if.h with a pointer in its union.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// rxVLAN is ETH_FLAG_RXVLAN in linux/ethtool.h: the adapter takes VLAN tags off.
const rxVLAN = 1 << 8

// ethtool makes a request of the form that its first word, the command, names; v points to all of it.
func ethtool(fd int, device string, v unsafe.Pointer) error {
	var r ethtoolRequest
	if len(device) >= len(r.name) {
		return unix.ENODEV
	}
	copy(r.name[:], device)
	r.data = v
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
	runtime.KeepAlive(v)
	if errno != 0 {
		return errno
	}
	return nil
}

// keepTags has the adapter of a device in the network namespace of the calling thread leave
// VLAN tags in the frames, until restore is called. After a crash it goes on leaving them in.
func keepTags(device string) (restore func(), err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the adapter's VLAN offload: %w", err)
	}
	v := ethtoolValue{cmd: unix.ETHTOOL_GFLAGS}
	err = ethtool(fd, device, unsafe.Pointer(&v))
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && v.data&rxVLAN == 0 {
		unix.Close(fd)
		return func() {}, nil
	}
	if err == nil {
		v.cmd, v.data = unix.ETHTOOL_SFLAGS, v.data&^rxVLAN
		err = ethtool(fd, device, unsafe.Pointer(&v))
	}
	if err == nil {
		v.cmd = unix.ETHTOOL_GFLAGS
		if err = ethtool(fd, device, unsafe.Pointer(&v)); err == nil && v.data&rxVLAN != 0 {
			err = errors.New("it stays on")
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("turn the adapter's VLAN offload off: %w", err)
	}
	return func() {
		defer unix.Close(fd)
		v := ethtoolValue{cmd: unix.ETHTOOL_GFLAGS}
		if ethtool(fd, device, unsafe.Pointer(&v)) == nil {
			v.cmd, v.data = unix.ETHTOOL_SFLAGS, v.data|rxVLAN
			_ = ethtool(fd, device, unsafe.Pointer(&v)) // the interface may be gone
		}
	}, nil
}
