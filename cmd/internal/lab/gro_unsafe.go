//go:build linux

package lab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// switchGRO turns generic receive offload of a device on or off.
func switchGRO(name string, on bool) error {
	const setGRO = 0x2c // ETHTOOL_SGRO in linux/ethtool.h
	// struct ethtool_value
	value := struct{ cmd, data uint32 }{cmd: setGRO}
	if on {
		value.data = 1
	}
	// struct ifreq in linux/if.h, with ifr_data
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = unsafe.Pointer(&value)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("switch GRO of %s: %w", name, errno)
	}
	return nil
}
