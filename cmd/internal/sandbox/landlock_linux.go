package sandbox

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

const (
	accessRead      = landlock.AccessFSSet(ll.AccessFSReadFile)
	accessReadDir   = accessRead | ll.AccessFSReadDir
	accessReadWrite = accessReadDir | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSMakeDir |
		ll.AccessFSRemoveFile | ll.AccessFSRemoveDir
)

// Confine gives up every file, directory and TCP port but those that c names, and the right to gain
// privileges by starting a program (no_new_privs). Nothing can be executed any more. Descriptors that
// are open are not affected.
//
// Where there is no landlock the error wraps ErrUnsupported, and no_new_privs is in force alone.
//
// Scopes of landlock, for signals and abstract sockets, are left out: before ABI 8 each thread gets a
// domain of its own, and those of one process could not signal each other, as the runtime does.
func Confine(c Config) (Confinement, error) {
	if err := onAll("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return Confinement{}, err
	}
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < abiFiles {
		return Confinement{}, ErrUnsupported
	}
	var rules []landlock.Rule
	for _, dir := range c.ReadWrite {
		rule := landlock.PathAccess(accessReadWrite, dir)
		if abi >= 2 { // before, nothing can be moved from one directory to another anyway
			rule = rule.WithRefer()
		}
		rules = append(rules, rule)
	}
	for _, path := range c.Read {
		info, err := os.Stat(path)
		switch {
		case err != nil && !os.IsNotExist(err) && !os.IsPermission(err):
			return Confinement{}, fmt.Errorf("confine: %w", err)
		case err != nil: // what is not there, or cannot be reached, needs no rule
		case info.IsDir():
			rules = append(rules, landlock.PathAccess(accessReadDir, path).IgnoreIfMissing())
		case info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) == 0:
			rules = append(rules, landlock.PathAccess(accessRead, path).IgnoreIfMissing())
		}
	}
	for _, port := range c.Connect {
		rules = append(rules, landlock.ConnectTCP(port))
	}
	handled := landlock.V5.BestEffort() // files, TCP, and the controls of devices
	if err := handled.Restrict(rules...); err != nil {
		return Confinement{}, fmt.Errorf("confine: %w", err)
	}
	return Confinement{ABI: abi}, nil
}
