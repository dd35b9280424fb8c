//go:build linux

package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setCapabilities makes s what is permitted and in force, and lets nothing be inherited, on every thread. The two
// structures are __user_cap_header_struct and two of __user_cap_data_struct in linux/capability.h; a
// pid of 0 is the thread that calls.
func setCapabilities(s Capabilities) error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Effective: uint32(s), Permitted: uint32(s)},
		{Effective: uint32(s >> 32), Permitted: uint32(s >> 32)},
	}
	var pin runtime.Pinner // C sees the addresses
	defer pin.Unpin()
	pin.Pin(header)
	pin.Pin(data)
	return onAll("set capabilities", unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
}
