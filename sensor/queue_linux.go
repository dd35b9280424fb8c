package sensor

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// queueDrops returns how many frames the root queueing discipline of an interface dropped, in the network namespace of the
// calling thread; before when that cannot be asked. The kernel counts in 32 bits.
func queueDrops(index int, before uint64) uint64 {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return before
	}
	defer unix.Close(fd)
	// struct nlmsghdr, then struct tcmsg in linux/rtnetlink.h: family, padding, ifindex, handle, parent, info
	const header, tcmsg = unix.SizeofNlMsghdr, 20
	b := make([]byte, header+tcmsg)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETQDISC)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(b[header+4:], uint32(index))
	if unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return before
	}
	drops := uint64(0)
	answer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil || n < header {
			return before
		}
		for m := answer[:n]; len(m) >= header; {
			length, kind := int(binary.NativeEndian.Uint32(m)), binary.NativeEndian.Uint16(m[4:])
			if kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR || length < header || length > len(m) {
				return drops
			}
			if t := m[header:length]; len(t) >= tcmsg && int(binary.NativeEndian.Uint32(t[4:])) == index && binary.NativeEndian.Uint32(t[12:]) == tcRoot {
				drops += uint64(rootDrops(t[tcmsg:]))
			}
			m = m[min(len(m), (length+3)&^3):]
		}
	}
}

const (
	tcRoot       = 0xffffffff // TC_H_ROOT in linux/pkt_sched.h
	tcaStats2    = 7          // TCA_STATS2 in linux/rtnetlink.h
	tcStatsQueue = 3          // TCA_STATS_QUEUE in linux/gen_stats.h: struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
)

// rootDrops finds the drops among the attributes of a queueing discipline.
func rootDrops(b []byte) uint32 {
	drops := uint32(0)
	attributes(b, func(kind uint16, value []byte) {
		if kind != tcaStats2 {
			return
		}
		attributes(value, func(kind uint16, value []byte) {
			if kind == tcStatsQueue && len(value) >= 12 {
				drops = binary.NativeEndian.Uint32(value[8:])
			}
		})
	})
	return drops
}

// attributes calls do for each netlink attribute in b, up to one that contradicts itself.
func attributes(b []byte, do func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		do(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}
