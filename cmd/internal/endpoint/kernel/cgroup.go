//go:build linux

package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// rootInode is that of the root of the whole host's hierarchy; a cgroup namespace shows another.
const rootInode = 1

var errNoRoot = errors.New("the root of the unified cgroup hierarchy is not in sight; run it in the host's cgroup namespace")

// openRoot opens the root of the unified cgroup hierarchy: where it is mounted, else by a mount
// of its own that nobody sees, which takes CAP_SYS_ADMIN.
func openRoot() (*os.File, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look for the cgroup hierarchy: %w", err)
	}
	defer mounts.Close()
	for s := bufio.NewScanner(mounts); s.Scan(); {
		// proc(5): ID parent device root mountpoint options … - type source superoptions
		before, after, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		if f, err := os.Open(fields[4]); err == nil {
			if isRoot(int(f.Fd())) {
				return f, nil
			}
			f.Close()
		}
	}
	return mountRoot()
}

func mountRoot() (*os.File, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRoot, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRoot, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRoot, err)
	}
	f := os.NewFile(uintptr(fd), "cgroup2")
	if !isRoot(fd) {
		f.Close()
		return nil, errNoRoot
	}
	return f, nil
}

func isRoot(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Ino == rootInode
}
