package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Drop gives up all capabilities but those in keep, on every thread, and becomes another user when as is not nil,
// which takes the superuser. It returns what is left: of keep, those that the process had. Programs that it
// might start get none of them.
//
// All is done by raw calls on all threads: the kernel keeps credentials by thread, and what the C
// library and the runtime do about it covers users and groups, not capabilities.
func Drop(keep Capabilities, as *Account) (left Capabilities, err error) {
	have, err := permitted()
	if err != nil {
		return 0, err
	}
	left = have & keep
	// The bounding set needs CAP_SETPCAP. Without, no_new_privs keeps files from giving capabilities.
	if have.Has(unix.CAP_SETPCAP) {
		for c := Capability(0); inBoundingSet(c); c++ {
			if keep.Has(c) {
				continue
			}
			if err := onAll("drop from the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil {
				return 0, err
			}
		}
	}
	if err := onAll("clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return 0, err // an old kernel has none of them
	}
	if as != nil {
		if err := become(as); err != nil {
			return 0, err
		}
	}
	// A filter of system calls may forbid to change what need not change.
	if err := setCapabilities(left); err != nil && !(errors.Is(err, unix.EPERM) && left == have) {
		return 0, err
	}
	return left, nil
}

// become changes user and groups and keeps what is permitted.
func become(as *Account) error {
	if as.UID == os.Getuid() && as.UID == os.Geteuid() && as.GID == os.Getegid() {
		return nil
	}
	steps := []struct {
		what          string
		call, a, b, c uintptr
	}{
		{"keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0},
		{"leave groups", unix.SYS_SETGROUPS, 0, 0, 0},
		{"change group", unix.SYS_SETRESGID, uintptr(as.GID), uintptr(as.GID), uintptr(as.GID)},
		{"change user", unix.SYS_SETRESUID, uintptr(as.UID), uintptr(as.UID), uintptr(as.UID)},
	}
	for _, s := range steps {
		if err := onAll(s.what, s.call, s.a, s.b, s.c); err != nil {
			return fmt.Errorf("become user %s: %w", as.Name, err)
		}
	}
	return nil
}

// permitted returns what the process may have in force.
func permitted() (Capabilities, error) {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return Capabilities(data[0].Permitted) | Capabilities(data[1].Permitted)<<32, nil
}

// inBoundingSet also says which capabilities the kernel knows: the first that it does not know is an error.
func inBoundingSet(c Capability) bool {
	_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
	return err == nil
}

// onAll makes a system call on all threads.
func onAll(what string, call, a, b, c uintptr) error {
	if _, _, errno := psx.Syscall6(call, a, b, c, 0, 0, 0); errno != 0 { // prctl looks at all of them
		return fmt.Errorf("%s: %w", what, errno)
	}
	return nil
}
