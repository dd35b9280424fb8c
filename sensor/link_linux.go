package sensor

import (
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"portolan/sensor/decode"
)

// link is a network interface as rtnetlink describes it, in the network namespace of the
// calling thread. The files in /sys/class/net tell of the namespace that mounted them.
type link struct {
	name     string
	index    int
	hardware uint16 // ARPHRD_ number
	flags    uint32 // IFF_ bits
	mtu      int
	kind     string // such as "veth" or "ifb"; "" for hardware
	counts   Interface
}

// findLink returns the interface of that name, or ErrNoInterface with those there are.
func findLink(name string) (link, error) {
	return selectLink(func(l *link) bool { return l.name == name })
}

// linkAt returns the interface with an index, whatever it is called now.
func linkAt(index int) (link, error) {
	return selectLink(func(l *link) bool { return l.index == index })
}

func selectLink(wanted func(*link) bool) (link, error) {
	messages, err := rtnetlink(unix.RTM_GETLINK)
	if err != nil {
		return link{}, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return link{}, fmt.Errorf("list interfaces: %w", err)
		}
		// struct ifinfomsg in linux/rtnetlink.h: family, padding, type, index, flags, change
		l := link{
			hardware: binary.NativeEndian.Uint16(m.Data[2:]),
			index:    int(int32(binary.NativeEndian.Uint32(m.Data[4:]))),
			flags:    binary.NativeEndian.Uint32(m.Data[8:]),
		}
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				l.name = strings.TrimRight(string(a.Value), "\x00")
			case unix.IFLA_MTU:
				if len(a.Value) >= 4 {
					l.mtu = int(binary.NativeEndian.Uint32(a.Value))
				}
			case unix.IFLA_LINKINFO:
				l.kind = linkKind(a.Value)
			case unix.IFLA_STATS64:
				l.counts = interfaceCounts(a.Value)
			}
		}
		if wanted(&l) {
			return l, nil
		}
		names = append(names, l.name)
	}
	return link{}, fmt.Errorf("%w; there are %s", ErrNoInterface, strings.Join(names, ", "))
}

// rtnetlink returns the answer to a dump of all families.
func rtnetlink(request int) ([]syscall.NetlinkMessage, error) {
	rib, err := syscall.NetlinkRIB(request, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	return syscall.ParseNetlinkMessage(rib)
}

// interfaceCounts reads a struct rtnl_link_stats64 in linux/if_link.h.
func interfaceCounts(b []byte) Interface {
	count := func(i int) uint64 {
		if len(b) < 8*(i+1) {
			return 0
		}
		return binary.NativeEndian.Uint64(b[8*i:])
	}
	return Interface{Errors: count(4), Dropped: count(6), Missed: count(15), Overrun: max(count(11), count(14))}
}

// linkType says how the interface's frames begin in a packet socket.
func (l link) linkType() (decode.LinkType, error) {
	switch l.hardware {
	case unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK:
		return decode.Ethernet, nil
	case unix.ARPHRD_NONE, unix.ARPHRD_RAWIP: // tun, WireGuard; modems
		return decode.Raw, nil
	}
	return 0, fmt.Errorf("%w (hardware type %d)", ErrLinkType, l.hardware)
}

// since returns how far i has come since an earlier count. Counters that went back were
// those of an interface that has been replaced.
func (i Interface) since(last Interface) Interface {
	grown := func(now, before uint64) uint64 {
		if now < before {
			return now
		}
		return now - before
	}
	return Interface{
		grown(i.Dropped, last.Dropped), grown(i.Missed, last.Missed), grown(i.Overrun, last.Overrun), grown(i.Errors, last.Errors),
		grown(i.Driver, last.Driver), grown(i.Queue, last.Queue),
	}
}

// linkKind reads IFLA_INFO_KIND among the attributes of an IFLA_LINKINFO.
func linkKind(b []byte) (kind string) {
	attributes(b, func(k uint16, value []byte) {
		if k == unix.IFLA_INFO_KIND {
			kind = strings.TrimRight(string(value), "\x00")
		}
	})
	return kind
}
