package doctor

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// System is the kernel that this program runs on.
type System struct{}

// Link asks rtnetlink.
func (System) Link(device string) (l Link, err error) {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return l, fmt.Errorf("list interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return l, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return l, fmt.Errorf("list interfaces: %w", err)
		}
		name := ""
		// struct ifinfomsg in linux/rtnetlink.h: family, padding, type, index, flags, change
		flags := binary.NativeEndian.Uint32(m.Data[8:])
		found := Link{
			Index:    int(int32(binary.NativeEndian.Uint32(m.Data[4:]))),
			Up:       flags&unix.IFF_UP != 0,
			Carrier:  flags&unix.IFF_LOWER_UP != 0,
			Loopback: flags&unix.IFF_LOOPBACK != 0,
			Promisc:  flags&unix.IFF_PROMISC != 0,
		}
		for _, a := range attributes {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case unix.IFLA_IFNAME:
				name = strings.TrimRight(string(a.Value), "\x00")
			case unix.IFLA_MTU:
				if len(a.Value) == 4 {
					found.MTU = int(binary.NativeEndian.Uint32(a.Value))
				}
			case unix.IFLA_PROMISCUITY:
				found.Promisc = found.Promisc || len(a.Value) == 4 && binary.NativeEndian.Uint32(a.Value) > 0
			case unix.IFLA_XDP:
				found.XDP = xdpProgram(a.Value)
			}
		}
		if name == device {
			found.Addresses, err = addresses(found.Index)
			return found, err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return l, fmt.Errorf("no interface %s; there are %s", device, strings.Join(names, ", "))
}

// xdpProgram returns the number of the program in an IFLA_XDP, 0 for none.
func xdpProgram(b []byte) uint32 {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.IFLA_XDP_PROG_ID && n >= unix.SizeofRtAttr+4 {
			return binary.NativeEndian.Uint32(b[unix.SizeofRtAttr:])
		}
		b = b[min((n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
	return 0
}

func addresses(index int) ([]netip.Prefix, error) {
	i := net.Interface{Index: index}
	list, err := i.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var all []netip.Prefix
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// Adapter asks the driver, as ethtool does.
func (System) Adapter(device string) (a Adapter, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return a, fmt.Errorf("ask the driver of %s: %w", device, err)
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, device)
	if err != nil {
		return a, fmt.Errorf("ask the driver of %s: %w", device, err)
	}
	a.Driver = unix.ByteSliceToString(info.Driver[:])
	e := ethtool{fd, device}
	flag := func(command uint32, mask uint32) *bool {
		v := []uint32{command, 0} // struct ethtool_value
		if e.ask(v) != nil {
			return nil
		}
		is := v[1]&mask != 0
		return &is
	}
	const all, flagLRO, flagRxVLAN = 1<<32 - 1, 1 << 15, 1 << 8 // ETH_FLAG_ in linux/ethtool.h
	a.GRO, a.GSO, a.TSO = flag(unix.ETHTOOL_GGRO, all), flag(unix.ETHTOOL_GGSO, all), flag(unix.ETHTOOL_GTSO, all)
	a.LRO, a.RxVLAN = flag(unix.ETHTOOL_GFLAGS, flagLRO), flag(unix.ETHTOOL_GFLAGS, flagRxVLAN)

	// struct ethtool_ringparam: cmd, four maxima, four values, each rx first
	if v := []uint32{unix.ETHTOOL_GRINGPARAM, 8: 0}; e.ask(v) == nil {
		a.Ring = &Ring{Rx: v[5], Max: v[1]}
	}
	// struct ethtool_channels: cmd, maxima of rx, tx, other and combined, then their values
	if v := []uint32{unix.ETHTOOL_GCHANNELS, 8: 0}; e.ask(v) == nil {
		a.Channels = &Channels{Rx: v[5] + v[8], Max: v[1] + v[4]}
	}
	// struct ethtool_pauseparam: cmd, autoneg, rx, tx
	if v := []uint32{unix.ETHTOOL_GPAUSEPARAM, 3: 0}; e.ask(v) == nil {
		a.Pause = &Pause{Rx: v[2] != 0, Tx: v[3] != 0}
	}
	// struct ethtool_cmd: the low half of the speed at byte 12, the high half at 28; all ones when unknown
	if v := []uint32{unix.ETHTOOL_GSET, 10: 0}; e.ask(v) == nil {
		b := binary.NativeEndian.AppendUint32(nil, v[3])
		c := binary.NativeEndian.AppendUint32(nil, v[7])
		speed := uint32(binary.NativeEndian.Uint16(b)) | uint32(binary.NativeEndian.Uint16(c))<<16
		if speed != 1<<32-1 && speed != 1<<16-1 {
			a.Speed = int(speed)
		}
	}
	return a, nil
}

// Clock asks adjtimex(2).
func (System) Clock() (Clock, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return Clock{}, fmt.Errorf("ask how the clock is kept: %w", err)
	}
	unit := time.Microsecond
	if t.Status&unix.STA_NANO != 0 {
		unit = time.Nanosecond
	}
	return Clock{
		Synchronised: state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0,
		Error:        time.Duration(t.Maxerror) * time.Microsecond,
		Offset:       time.Duration(t.Offset) * unit,
	}, nil
}

// Free asks statfs(2).
func (System) Free(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("ask for free disk at %s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}
