package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

const deviceArea = "device"

// Device is an interface as it was found at one moment.
type Device struct {
	Name    string
	link    Link
	adapter Adapter
	missing error // why adapter is empty; nil when it is not
}

// Device looks an interface up. The error says that there is none.
func (h *Host) Device(name string) (*Device, error) {
	l, err := h.Kernel.Link(name)
	if err != nil {
		return nil, err
	}
	d := &Device{Name: name, link: l}
	d.adapter, d.missing = h.Kernel.Adapter(name)
	return d, nil
}

// ExamineDevice returns the findings on an interface that stay true while nobody changes it.
func (h *Host) ExamineDevice(d *Device) []Finding {
	all := []Finding{d.state(), d.address(), d.promiscuous(), d.mtu()}
	if d.missing != nil {
		all = append(all, unknown(deviceArea, "adapter", d.missing))
	} else {
		all = append(all, d.offloads(), d.ringSize(), d.channels(), d.pause())
	}
	return append(all, d.xdp(), h.readers(d))
}

func (d *Device) state() Finding {
	f := Finding{Area: deviceArea, Check: "link", Status: OK, Evidence: d.Name + " is up"}
	if d.adapter.Driver != "" {
		f.Evidence += ", driver " + d.adapter.Driver
	}
	if d.adapter.Speed > 0 {
		f.Evidence += fmt.Sprintf(", %d Mbit/s", d.adapter.Speed)
	}
	switch {
	case !d.link.Up:
		f.Status, f.Evidence = Bad, d.Name+" is down"
		f.Consequence = "nothing can be captured"
		f.Remedy = "sudo ip link set " + d.Name + " up"
	case !d.link.Carrier:
		f.Status, f.Evidence = Bad, d.Name+" is up, without carrier"
		f.Consequence = "nothing arrives: no cable, or the switch's port is off"
		f.Advice, f.Remedy = "check the cable and the switch's port", "ip -br link show "+d.Name
	}
	return f
}

func (d *Device) address() Finding {
	var all []string
	for _, a := range d.link.Addresses {
		if !a.Addr().Is6() || !a.Addr().IsLinkLocalUnicast() {
			all = append(all, a.String())
		}
	}
	f := Finding{Area: deviceArea, Check: "address", Status: OK, Evidence: "no address: carries copies only"}
	switch {
	case d.link.Loopback:
		f.Evidence = "loopback: this host's own traffic"
	case len(all) > 0:
		f.Status, f.Evidence = Warn, "has "+list(all)+": not a pure mirror port"
		f.Consequence = "this host's own traffic is judged with the mirrored, and XDP is refused"
		f.Remedy = "sudo ip addr flush dev " + d.Name
	case len(d.link.Addresses) > 0:
		f.Evidence = "link-local only: IPv6 still sends from here"
	}
	return f
}

func (d *Device) promiscuous() Finding {
	f := Finding{Area: deviceArea, Check: "promiscuous", Status: OK, Evidence: "on"}
	if !d.link.Promisc {
		f.Evidence = "off now; portolan run switches it on while it captures"
	}
	return f
}

// The least MTU that lets a mirrored frame of an ordinary network through, and one that was wrapped on its
// way here.
const (
	plainMTU   = 1500
	wrappedMTU = 1600
)

func (d *Device) mtu() Finding {
	f := Finding{Area: deviceArea, Check: "mtu", Status: OK, Evidence: fmt.Sprintf("%d bytes", d.link.MTU)}
	switch {
	case d.link.MTU < plainMTU:
		f.Status = Warn
		f.Consequence = "full frames of an ordinary network are longer and never arrive"
		f.Remedy = "sudo ip link set " + d.Name + " mtu 9216"
	case d.link.MTU < wrappedMTU:
		f.Evidence += ", enough for frames that are not wrapped (VXLAN and ERSPAN add about 50)"
	}
	return f
}

func on(b *bool) bool { return b != nil && *b }

// offloads is about frames that are not those of the wire.
func (d *Device) offloads() Finding {
	a := &d.adapter
	var switches []string
	for _, s := range []struct {
		name string
		is   *bool
	}{{"gro", a.GRO}, {"lro", a.LRO}, {"gso", a.GSO}, {"tso", a.TSO}, {"rxvlan", a.RxVLAN}} {
		if s.is != nil {
			switches = append(switches, s.name+" "+map[bool]string{true: "on", false: "off"}[*s.is])
		}
	}
	f := Finding{Area: deviceArea, Check: "offloads", Status: OK, Evidence: list(switches)}
	var off string
	if on(a.GRO) {
		off += " gro off"
	}
	if on(a.LRO) {
		off += " lro off"
	}
	if off != "" {
		f.Status = Warn
		f.Consequence = "segments are merged before they are seen: counts and lengths are not the wire's, and DNS over TCP gets the time of the last piece"
		f.Remedy = "sudo ethtool -K " + d.Name + off
	}
	return f
}

func (d *Device) ringSize() Finding {
	r := d.adapter.Ring
	if r == nil || r.Max == 0 {
		return Finding{Area: deviceArea, Check: "ring-size", Status: Unknown, Evidence: "the driver does not tell"}
	}
	f := Finding{Area: deviceArea, Check: "ring-size", Status: OK, Evidence: fmt.Sprintf("rx %d of at most %d frames", r.Rx, r.Max)}
	if r.Rx < r.Max {
		f.Status = Warn
		f.Consequence = "bursts overrun the adapter before the kernel sees them; what is lost there may be the lookup"
		f.Remedy = fmt.Sprintf("sudo ethtool -G %s rx %d", d.Name, r.Max)
	}
	return f
}

func (d *Device) channels() Finding {
	c := d.adapter.Channels
	if c == nil || c.Max == 0 {
		return Finding{Area: deviceArea, Check: "queues", Status: Unknown, Evidence: "the driver does not tell"}
	}
	return Finding{Area: deviceArea, Check: "queues", Status: OK,
		Evidence: fmt.Sprintf("%d of at most %d; the sensor's rings are shared out by client, whatever the adapter hashes", c.Rx, c.Max)}
}

func (d *Device) pause() Finding {
	p := d.adapter.Pause
	if p == nil {
		return Finding{Area: deviceArea, Check: "pause", Status: Unknown, Evidence: "the driver does not tell"}
	}
	f := Finding{Area: deviceArea, Check: "pause", Status: OK, Evidence: "off"}
	if p.Tx || p.Rx {
		f.Status, f.Evidence = Warn, fmt.Sprintf("rx %v, tx %v", p.Rx, p.Tx)
		f.Consequence = "a busy adapter makes the switch wait: it drops mirrored frames there, where nobody counts them here"
		f.Remedy = "sudo ethtool -A " + d.Name + " autoneg off rx off tx off"
	}
	return f
}

func (d *Device) xdp() Finding {
	f := Finding{Area: deviceArea, Check: "xdp", Status: OK, Evidence: "no program attached"}
	if d.link.XDP != 0 {
		f.Status, f.Evidence = Warn, fmt.Sprintf("program %d is attached (bpftool prog show id %d)", d.link.XDP, d.link.XDP)
		f.Consequence = "it decides what arrives, before any ring; unless it is the sensor's own, what it drops is not counted"
		f.Remedy = "sudo ip link set dev " + d.Name + " xdp off"
	}
	return f
}

// readers finds who else reads frames of the device: each has its copy made by the same CPU.
func (h *Host) readers(d *Device) Finding {
	const check = "readers"
	text, err := h.read("proc/thread-self/net/packet")
	if err != nil {
		return unknown(deviceArea, check, err)
	}
	owners := h.sockets()
	others := map[string]int{}
	self := 0
	for line := range strings.Lines(text) {
		// sk RefCnt Type Proto Iface R Rmem User Inode
		fields := strings.Fields(line)
		if len(fields) < 9 {
			continue
		}
		index, err := strconv.Atoi(fields[4])
		if err != nil || index != 0 && index != d.link.Index || fields[5] != "1" {
			continue // the heading, another device, or not running
		}
		who := owners[fields[8]]
		if who == "" {
			who = "a process that may not be looked into"
		}
		if strings.HasPrefix(who, "portolan ") {
			self++
			continue
		}
		others[who]++
	}
	f := Finding{Area: deviceArea, Check: check, Status: OK, Evidence: "nobody else reads its frames"}
	if self > 0 {
		f.Evidence = fmt.Sprintf("nobody else reads its frames; %d rings of portolan run", self)
	}
	if len(others) > 0 {
		var names []string
		for who, n := range others {
			names = append(names, fmt.Sprintf("%s (%d)", who, n))
		}
		slices.Sort(names)
		f.Status, f.Evidence = Warn, "also read by "+list(names)
		f.Consequence = "each reader copies every frame it wants on the CPU that takes them in: fewer frames a second without loss"
		f.Remedy = "sudo ss -0p"
	}
	return f
}

// sockets returns the name and number of the process that holds a socket, by the socket's inode, as far
// as processes may be looked into.
func (h *Host) sockets() map[string]string {
	owners := map[string]string{}
	processes, err := fs.ReadDir(h.Files, "proc")
	if err != nil {
		return owners
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		files, err := fs.ReadDir(h.Files, "proc/"+p.Name()+"/fd")
		if err != nil {
			continue // gone, or not ours
		}
		for _, fd := range files {
			to, err := fs.ReadLink(h.Files, "proc/"+p.Name()+"/fd/"+fd.Name())
			inode, isSocket := strings.CutPrefix(to, "socket:[")
			if err != nil || !isSocket {
				continue
			}
			name, err := h.read("proc/" + p.Name() + "/comm")
			if err != nil {
				name = "process"
			}
			owners[strings.TrimSuffix(inode, "]")] = name + " " + p.Name()
		}
	}
	return owners
}

// NoDevice is the finding on an interface that cannot be looked up.
func NoDevice(name string, err error) Finding {
	f := Finding{Area: deviceArea, Check: "link", Status: Bad, Evidence: err.Error(), Consequence: "nothing can be captured on " + name,
		Remedy: "ip -br link"}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		f.Status = Unknown
	}
	return f
}
