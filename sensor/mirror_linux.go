//go:build linux && cgo

package sensor

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkMirrorPort returns an error that wraps ErrNotMirrorPort and says why, if anything on
// this host besides the sensor uses the interface: it has an address, other than the
// link-local one that IPv6 gives it, or belongs to or carries another interface.
func checkMirrorPort(l link) error {
	if l.flags&unix.IFF_LOOPBACK != 0 {
		return fmt.Errorf("%w: it is the loopback interface", ErrNotMirrorPort)
	}
	messages, err := rtnetlink(unix.RTM_GETADDR)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for i := range messages {
		// struct ifaddrmsg in linux/if_addr.h: family, prefix length, flags, scope, index
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg ||
			binary.NativeEndian.Uint32(m.Data[4:]) != uint32(l.index) {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		var has netip.Addr
		for _, a := range attributes {
			addr, ok := netip.AddrFromSlice(a.Value)
			if ok && (a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !has.IsValid()) {
				has = addr
			}
		}
		if !has.IsValid() || has.Is6() && has.IsLinkLocalUnicast() {
			continue
		}
		return fmt.Errorf("%w: it has the address %s/%d, which would be cut off", ErrNotMirrorPort, has, m.Data[1])
	}
	return checkStack(l)
}

// checkStack looks for interfaces above and below.
func checkStack(l link) error {
	messages, err := rtnetlink(unix.RTM_GETLINK)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		index := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
		var name, kind string
		lower, master := 0, 0
		foreign := false // lower is an index in another network namespace
		for _, a := range attributes {
			switch {
			case a.Attr.Type == unix.IFLA_IFNAME:
				name = strings.TrimRight(string(a.Value), "\x00")
			case a.Attr.Type == unix.IFLA_LINK && len(a.Value) == 4:
				lower = int(binary.NativeEndian.Uint32(a.Value))
			case a.Attr.Type == unix.IFLA_MASTER && len(a.Value) == 4:
				master = int(binary.NativeEndian.Uint32(a.Value))
			case a.Attr.Type == unix.IFLA_LINK_NETNSID:
				foreign = true
			case a.Attr.Type == unix.IFLA_LINKINFO:
				kind = linkKind(a.Value)
			}
		}
		switch {
		case index == l.index && master != 0:
			return fmt.Errorf("%w: it belongs to a bridge, a bond or the like", ErrNotMirrorPort)
		case index != l.index && lower == l.index && !foreign && kind != "veth": // a veth names its other end
			return fmt.Errorf("%w: %s is built upon it", ErrNotMirrorPort, name)
		}
	}
	return nil
}
