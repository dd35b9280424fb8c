package endpoint

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// host knows the addresses that are configured here, in this network namespace and in those of
// other processes.
type host struct {
	release     string // of the kernel
	sees, blind []string
	spaces      map[uint64][]netip.Addr // by inode of the namespace
	own         uint64
	next        time.Time // of the next scan
	again       time.Time // no look at a namespace before
}

const (
	maxSpaces = 1024
	// learnEvery bounds how often an address that is not known leads to a look at its namespace: one
	// that a process made up is never found.
	learnEvery  = 100 * time.Millisecond
	maxNetFile  = 4 << 20 // of a list of addresses
	nameSpaceOf = "ns/net"
)

func newHost() *host {
	h := &host{spaces: map[uint64][]netip.Addr{}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.release = unix.ByteSliceToString(name.Release[:])
	}
	h.own, _ = spaceOf("/proc/thread-self")
	return h
}

// spaceOf returns the network namespace of a process or thread with a /proc directory.
func spaceOf(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, nameSpaceOf), &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

func (h *host) due(now time.Time) bool { return !now.Before(h.next) }

// scan finds all network namespaces with a process and their addresses. Processes of others can
// be looked at with CAP_SYS_PTRACE alone.
func (h *host) scan(now time.Time, interval time.Duration) error {
	h.next = now.Add(interval)
	clear(h.spaces)
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok && !unset(addr.Unmap()) {
				h.spaces[h.own] = append(h.spaces[h.own], addr.Unmap())
			}
		}
	}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, d := range dirs {
		if len(h.spaces) >= maxSpaces {
			break
		}
		if _, err := strconv.ParseUint(d.Name(), 10, 32); err != nil {
			continue
		}
		dir := filepath.Join("/proc", d.Name())
		if space, err := spaceOf(dir); err == nil {
			if _, known := h.spaces[space]; !known {
				h.spaces[space] = addressesOf(dir)
			}
		}
	}
	return nil
}

// learn looks at the network namespace of a process that used an address, unless that is known; for an
// unset address unless the namespace is known. It reports whether there is more to tell of the host.
func (h *host) learn(addr netip.Addr, space uint64, pid uint32, now time.Time) bool {
	old, known := h.spaces[space]
	if addr = addr.WithZone(""); unset(addr) && (known || space == 0) || h.has(addr) || now.Before(h.again) {
		return false
	}
	h.again = now.Add(learnEvery)
	dir := "/proc/" + strconv.FormatUint(uint64(pid), 10)
	if space == h.own {
		dir = "/proc/thread-self"
	} else if s, err := spaceOf(dir); err != nil || s != space {
		if dir = threadIn(dir, space); dir == "" {
			return false
		}
	}
	if !known && len(h.spaces) >= maxSpaces {
		return false
	}
	h.spaces[space] = addressesOf(dir)
	return !slices.Equal(old, h.spaces[space])
}

// threadIn returns the /proc directory of a thread in a namespace, "" if there is none.
func threadIn(process string, space uint64) string {
	threads, _ := filepath.Glob(process + "/task/*")
	for _, t := range threads {
		if s, err := spaceOf(t); err == nil && s == space {
			return t
		}
	}
	return ""
}

func (h *host) has(addr netip.Addr) bool {
	for _, set := range h.spaces {
		if slices.Contains(set, addr) {
			return true
		}
	}
	return false
}

// all returns the addresses of all namespaces, in order, each once.
func (h *host) all() []netip.Addr {
	set := map[netip.Addr]bool{}
	for _, s := range h.spaces {
		for _, a := range s {
			set[a] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

// addressesOf returns the addresses in the network namespace of a process, without a visit to it.
func addressesOf(dir string) []netip.Addr {
	v4, _ := readBounded(filepath.Join(dir, "net/fib_trie"), maxNetFile)
	v6, _ := readBounded(filepath.Join(dir, "net/if_inet6"), maxNetFile)
	return parseIfInet6(parseFibTrie([]netip.Addr{}, v4), v6)
}

// parseFibTrie appends the addresses of /proc/net/fib_trie: leaves that are a local host.
func parseFibTrie(to []netip.Addr, b []byte) []netip.Addr {
	var leaf netip.Addr
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if text, ok := strings.CutPrefix(line, "|-- "); ok {
			leaf, _ = netip.ParseAddr(text)
		} else if line == "/32 host LOCAL" && !unset(leaf) && !slices.Contains(to, leaf) {
			to = append(to, leaf)
		}
	}
	return to
}

// parseIfInet6 appends the addresses of /proc/net/if_inet6.
func parseIfInet6(to []netip.Addr, b []byte) []netip.Addr {
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		text, _, _ := strings.Cut(s.Text(), " ")
		var raw [16]byte
		if n, err := hex.Decode(raw[:], []byte(text[:min(len(text), 32)])); err != nil || n != len(raw) {
			continue
		}
		if a := netip.AddrFrom16(raw); !unset(a) && !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return to
}
