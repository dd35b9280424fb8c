//go:build linux

package sensor

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lossNames are the names under which drivers count frames for which the adapter or its queues had no room, and which
// they do not all add to the standard counters. A # stands for a number.
var lossNames = map[string][]string{
	"bnx2x":      {"rx_brb_discard", "rx_discards"},
	"bnxt_en":    {"rx_total_discard_pkts"},
	"e1000":      {"rx_missed_errors"},
	"e1000e":     {"rx_missed_errors"},
	"ena":        {"rx_drops", "rx_overruns"},
	"hv_netvsc":  {"rx_no_memory"},
	"i40e":       {"port.rx_dropped"},
	"ice":        {"rx_dropped.nic"},
	"igb":        {"rx_missed_errors", "rx_queue_#_drops"},
	"igc":        {"rx_missed_errors", "rx_queue_#_drops"},
	"ixgbe":      {"rx_missed_errors", "rx_no_dma_resources"},
	"mlx5_core":  {"rx_out_of_buffer", "rx_discards_phy"},
	"qede":       {"no_buff_discards"},
	"r8169":      {"rx_missed"},
	"sfc":        {"port_rx_nodesc_drops"},
	"tg3":        {"rx_discards"},
	"veth":       {"rx_queue_#_drops"},
	"virtio_net": {"rx#_drops", "rx_queue_#_drops"},
	"vmxnet3":    {"drv dropped rx total", "pkts rx OOB"},
}

// Of linux/ethtool.h.
const (
	ethSSStats   = 1  // ETH_SS_STATS: the strings that name statistics
	ethStringLen = 32 // ETH_GSTRING_LEN
)

// driverCounters are the counters of an adapter that tell of frames lost. The zero value reads 0.
type driverCounters struct {
	device, driver string
	names          []string // of those that tell of loss
	places         []int    // where these are
	all            int      // how many counters there are
}

// findDriverCounters looks up which counters the driver of a device has, in the network namespace of the calling thread.
// It takes no privilege. What cannot be asked reads 0.
func findDriverCounters(device string) (c driverCounters) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return c
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, device)
	if err != nil {
		return c
	}
	driver := string(bytes.TrimRight(info.Driver[:], "\x00"))
	wanted := lossNames[driver]
	const most = 1 << 16 // counters; an adapter has some for each of its queues
	n := int(info.N_stats)
	if len(wanted) == 0 || n == 0 || n > most {
		return c
	}
	// struct ethtool_gstrings in linux/ethtool.h: cmd, string_set, len, data
	b := make([]byte, 12+n*ethStringLen)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(b[4:], ethSSStats)
	binary.NativeEndian.PutUint32(b[8:], uint32(n))
	if ethtool(fd, device, unsafe.Pointer(&b[0])) != nil {
		return c
	}
	c = driverCounters{device: device, driver: driver, all: n}
	for i := range n {
		name, _, _ := bytes.Cut(b[12+i*ethStringLen:][:ethStringLen], []byte{0})
		for _, w := range wanted {
			if namesCounter(w, string(name)) {
				c.names, c.places = append(c.names, string(name)), append(c.places, i)
			}
		}
	}
	return c
}

// namesCounter reports whether a name is what a pattern says, where # stands for a number.
func namesCounter(pattern, name string) bool {
	before, after, numbered := strings.Cut(pattern, "#")
	if !numbered {
		return name == pattern
	}
	rest, ok := strings.CutPrefix(name, before)
	number, ok2 := strings.CutSuffix(rest, after)
	return ok && ok2 && number != "" && strings.Trim(number, "0123456789") == ""
}

// read returns the sum of the counters now, and before when they cannot be read.
func (c *driverCounters) read(before uint64) (sum uint64) {
	if len(c.places) == 0 {
		return before
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return before
	}
	defer unix.Close(fd)
	// struct ethtool_stats in linux/ethtool.h: cmd, n_stats, data. The kernel fills in as many as there are now: another
	// number of queues may have made them more, for which there has to be room.
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, c.device)
	if err != nil || int(info.N_stats) != c.all {
		return before
	}
	b := make([]byte, 8+8*c.all)
	binary.NativeEndian.PutUint32(b, unix.ETHTOOL_GSTATS)
	binary.NativeEndian.PutUint32(b[4:], uint32(c.all))
	if ethtool(fd, c.device, unsafe.Pointer(&b[0])) != nil {
		return before
	}
	for _, i := range c.places {
		sum += binary.NativeEndian.Uint64(b[8+8*i:])
	}
	return sum
}

// counter names what i.Lost comes from.
func (i Interface) counter(c *driverCounters) string {
	var names []string
	if i.Driver > i.standard() {
		names = append(names, strings.Join(c.names, "+")+" of "+c.driver)
	} else {
		names = append(names, "rx_dropped+rx_missed_errors")
	}
	if i.Queue > 0 {
		names = append(names, "the queueing discipline's drops")
	}
	return strings.Join(names, ", ")
}
