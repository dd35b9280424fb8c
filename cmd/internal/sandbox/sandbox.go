// Package sandbox takes from a process what it has opened its devices with and needs no longer:
// capabilities, the superuser's identity, and access to files and networks. What it takes is gone from
// every thread, for good, and from every program that the process could start.
package sandbox

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// ErrUnsupported says that the kernel, or this system, has nothing to confine a process with.
var ErrUnsupported = errors.New("landlock is not there: it needs Linux 5.13, and landlock among the kernel's security modules")

// Config says what a confined process may still reach.
type Config struct {
	ReadWrite []string // directories, with all below; they have to exist
	Read      []string // files, and directories with all below; those that do not exist are left out
	Connect   []uint16 // TCP ports of other hosts; listening sockets that are open stay open, new ones cannot be had
}

// Confinement says what is in force.
type Confinement struct {
	ABI int // of landlock; 0: nothing is in force
}

// The ABIs of landlock from which on it holds more.
const (
	abiFiles = 1
	abiTCP   = 4
)

// String returns what is in force in a few words.
func (c Confinement) String() string {
	switch {
	case c.ABI >= abiTCP:
		return fmt.Sprintf("landlock (files, tcp; ABI %d)", c.ABI)
	case c.ABI >= abiFiles:
		return fmt.Sprintf("landlock (files; no tcp before Linux 6.7; ABI %d)", c.ABI)
	}
	return "none"
}

// Capability is the number of one of the kernel's capabilities.
type Capability uint8

// Those that capturing can need (linux/capability.h).
const (
	NetAdmin Capability = 12
	NetRaw   Capability = 13
	Perfmon  Capability = 38
	BPF      Capability = 39
)

// String returns the kernel's name of those that Portolan knows, else the number.
func (c Capability) String() string {
	switch c {
	case NetAdmin:
		return "CAP_NET_ADMIN"
	case NetRaw:
		return "CAP_NET_RAW"
	case Perfmon:
		return "CAP_PERFMON"
	case BPF:
		return "CAP_BPF"
	}
	return "capability " + strconv.Itoa(int(c))
}

// Capabilities is a set of them, a bit each.
type Capabilities uint64

// Set returns a set of some.
func Set(all ...Capability) (s Capabilities) {
	for _, c := range all {
		s |= 1 << c
	}
	return s
}

// Has says whether c is in the set.
func (s Capabilities) Has(c Capability) bool { return s>>c&1 != 0 }

// String returns the names with commas, "none" for the empty set.
func (s Capabilities) String() string {
	var names []string
	for c := range Capability(64) {
		if s.Has(c) {
			names = append(names, c.String())
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ",")
}

// Account is a user of this host.
type Account struct {
	Name     string
	UID, GID int
}

// Lookup returns the account of that name or number.
func Lookup(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return Account{}, fmt.Errorf("user %q: there is none of that name", name)
		}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return Account{}, fmt.Errorf("user %q: %w", name, err)
	}
	return Account{u.Username, uid, gid}, nil
}
