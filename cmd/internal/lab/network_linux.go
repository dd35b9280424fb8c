package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// mirrorPrefix begins the name of every mirror's far end.
const mirrorPrefix = "portolan-"

// mirrorNear is the other end's name, in the router.
const mirrorNear = "mirror"

// network is the three namespaces and the mirror's far end.
type network struct {
	clients, router, server *space
	mirror                  string          // device in the caller's namespace
	caller                  *netlink.Handle // its socket stays in that namespace
	background              *sender         // nil unless it was asked for
}

// space is a network namespace without a name.
type space struct {
	fd netns.NsHandle
}

// fresh runs fn on a thread that serves nothing else before or after, so that fn may move it to another
// namespace. The sockets that fn's goroutine makes belong to that namespace for good.
func fresh(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the process's first thread, and /proc/self speaks of it: keep
			// it busy until another has done the work, and give it back as it was.
			done <- fresh(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn() // still locked: the thread ends with the goroutine
	}()
	return <-done
}

// newSpace makes a namespace with its loopback device up and no IPv6, and calls setup in it.
func newSpace(setup func() error) (*space, error) {
	s := &space{fd: netns.None()}
	err := fresh(func() (err error) {
		if s.fd, err = netns.New(); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		// Neighbour discovery would only add noise: nothing here speaks IPv6.
		for _, conf := range []string{"all", "default"} {
			if err := disableIPv6(conf); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return setup()
	})
	if err != nil {
		return nil, both(err, s.close())
	}
	return s, nil
}

// do runs fn on a thread of its own inside the namespace. fn must not call runtime.Goexit.
func (s *space) do(fn func() error) error {
	return fresh(func() error {
		if err := netns.Set(s.fd); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return fn()
	})
}

func (s *space) close() error {
	if s == nil || !s.fd.IsOpen() {
		return nil
	}
	return s.fd.Close()
}

// buildNetwork makes the namespaces, the links between them and the mirror, whose far end goes to
// the calling thread's namespace. A loaded one can carry background traffic.
func buildNetwork(clients []netip.Addr, loaded bool) (_ *network, err error) {
	n := new(network)
	defer func() {
		if err != nil {
			err = both(err, n.close())
		}
	}()
	runtime.LockOSThread() // one namespace for the next lines, whatever the caller's goroutine is
	defer runtime.UnlockOSThread()
	caller, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open the caller's network namespace: %w", err)
	}
	defer caller.Close()
	if n.caller, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}

	if n.router, err = newSpace(func() error { return nil }); err != nil {
		return nil, err
	}
	if n.clients, err = newSpace(func() error { return setupClients(n.router, clients) }); err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	if n.server, err = newSpace(func() error { return setupServers(n.router) }); err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	if err = n.router.do(setupRouter); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}

	suffix := make([]byte, 3) // the whole name has to fit in 15 bytes
	if _, err = rand.Read(suffix); err != nil {
		return nil, fmt.Errorf("name the mirror: %w", err)
	}
	n.mirror = mirrorPrefix + hex.EncodeToString(suffix)
	err = n.router.do(func() error { return setupMirror("lan", n.mirror, caller) })
	if err == nil {
		err = quiet(n.caller, n.mirror)
	}
	if err == nil && loaded {
		err = n.load()
	}
	if err != nil {
		return nil, fmt.Errorf("mirror %s: %w", n.mirror, err)
	}
	return n, nil
}

// load makes a sender of frames that the mirror carries besides the lab's own.
func (n *network) load() error {
	if err := switchGRO(n.mirror, true); err != nil { // or it would not take redirected frames
		return err
	}
	return n.router.do(func() error {
		near, err := interfaceIndex(mirrorNear)
		if err != nil {
			return err
		}
		n.background, err = newSender(MixBulk, n.router, near, runtime.NumCPU()-1)
		if err == nil {
			n.background.meek = true
		}
		return err
	})
}

// send sends that many frames a second through the mirror until stop is called.
func (n *network) send(rate float64) (stop func() error, err error) {
	if err := n.background.start(rate); err != nil {
		return nil, err
	}
	return n.background.stop, nil
}

// close removes the mirror at once, and lets go of the namespaces, which the kernel then takes
// down with the links in them.
func (n *network) close() error {
	var err error
	if n.caller != nil {
		// It may not have been made yet, or be gone already.
		if l, e := n.caller.LinkByName(n.mirror); e == nil {
			err = n.caller.LinkDel(l)
		}
		n.caller.Close()
	}
	if n.background != nil {
		err = both(err, n.background.close())
	}
	for _, s := range []*space{n.clients, n.router, n.server} {
		err = both(err, s.close())
	}
	return err
}

// setupClients runs in the clients' namespace.
func setupClients(router *space, clients []netip.Addr) error {
	if err := link("lan", "lan", router.fd); err != nil {
		return err
	}
	for _, a := range clients {
		if err := address("lan", netip.PrefixFrom(a, lanPrefix.Bits())); err != nil {
			return err
		}
	}
	return up("lan", route{dst: everywhere, via: lanRouter})
}

// setupServers runs in the servers' namespace. Every destination is local there ("AnyIP"). The
// kernel looks into the local table alone when it checks a socket's own address, and into it first when it
// routes; so the ways back to the clients have to stand in that same table.
func setupServers(router *space) error {
	if err := link("wan", "wan", router.fd); err != nil {
		return err
	}
	if err := address("wan", netip.PrefixFrom(wanServers, wanPrefix.Bits())); err != nil {
		return err
	}
	if err := up("wan",
		route{dst: wanPrefix, table: unix.RT_TABLE_LOCAL},
		route{dst: lanPrefix, via: wanRouter, table: unix.RT_TABLE_LOCAL},
	); err != nil {
		return err
	}
	return up("lo", route{dst: everywhere, table: unix.RT_TABLE_LOCAL, local: true})
}

// setupRouter runs in the router's namespace, once both links are there.
func setupRouter() error {
	if err := address("lan", netip.PrefixFrom(lanRouter, lanPrefix.Bits())); err != nil {
		return err
	}
	if err := address("wan", netip.PrefixFrom(wanRouter, wanPrefix.Bits())); err != nil {
		return err
	}
	if err := up("lan"); err != nil {
		return err
	}
	if err := up("wan", route{dst: everywhere, via: wanServers}); err != nil {
		return err
	}
	return sysctl("net/ipv4/ip_forward", "1")
}

// setupMirror runs in the router's namespace: it copies what enters and leaves port to a
// new link whose far end, called name, is in the namespace to.
func setupMirror(port, name string, to netns.NsHandle) error {
	const near = mirrorNear
	if err := link(near, name, to); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if err := quiet(h, near); err != nil {
		return err
	}
	from, err := h.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find %s: %w", port, err)
	}
	out, err := h.LinkByName(near)
	if err != nil {
		return fmt.Errorf("find %s: %w", near, err)
	}
	return mirror(h, from.Attrs().Index, out.Attrs().Index)
}

// mirror copies what enters and leaves the device from to the device out, by their indexes.
func mirror(h *netlink.Handle, from, out int) error {
	if err := h.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: from,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}); err != nil {
		return fmt.Errorf("add qdisc clsact (kernel option NET_SCH_INGRESS): %w", err)
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		attrs := netlink.FilterAttrs{LinkIndex: from, Parent: parent, Priority: 1, Protocol: unix.ETH_P_ALL}
		actions := func() []netlink.Action {
			m := netlink.NewMirredAction(out)
			m.Action = netlink.TC_ACT_PIPE
			m.MirredAction = netlink.TCA_EGRESS_MIRROR
			return []netlink.Action{m}
		}
		// Small kernels come with one of the two; both match every frame here.
		err := h.FilterAdd(&netlink.MatchAll{FilterAttrs: attrs, Actions: actions()})
		if err == nil {
			continue
		}
		if e := h.FilterAdd(&netlink.U32{FilterAttrs: attrs, Actions: actions()}); e != nil {
			return fmt.Errorf("add filter with action mirred (kernel options NET_ACT_MIRRED and NET_CLS_MATCHALL or NET_CLS_U32): "+
				"matchall: %w; u32: %w", err, e)
		}
	}
	return nil
}

// quiet sets a device up that has nothing to say and is not to be spoken to: no ARP, no IPv6.
// h and the calling thread are in the device's namespace.
func quiet(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := disableIPv6(name); err != nil {
		return err
	}
	if err := h.LinkSetARPOff(l); err != nil {
		return fmt.Errorf("switch ARP off on %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// link makes a veth pair: near here, far in the namespace to.
func link(near, far string, to netns.NsHandle) error {
	v := netlink.NewVeth(netlink.NewLinkAttrs())
	v.Name, v.PeerName, v.PeerNamespace = near, far, netlink.NsFd(to)
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("add veth pair %s and %s (kernel option VETH): %w", near, far, err)
	}
	return nil
}

func address(name string, p netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", p, name, err)
	}
	return nil
}

// route leads dst out of a device, by way of via if that is valid.
type route struct {
	dst   netip.Prefix
	via   netip.Addr
	table int  // 0 is the main table
	local bool // dst is this host
}

// up sets a device up and adds routes through it.
func up(name string, routes ...route) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, r := range routes {
		n := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.dst), Table: r.table, Scope: netlink.SCOPE_LINK}
		if r.via.IsValid() {
			n.Gw, n.Scope = r.via.AsSlice(), netlink.SCOPE_UNIVERSE
		}
		if r.local {
			n.Type, n.Scope = unix.RTN_LOCAL, netlink.SCOPE_HOST
		}
		if err := netlink.RouteAdd(n); err != nil {
			return fmt.Errorf("add route to %s through %s: %w", r.dst, name, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// disableIPv6 is for a device, or for "all" or "default"; a kernel without IPv6 has it done.
func disableIPv6(conf string) error {
	err := sysctl("net/ipv6/conf/"+conf+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sysctl writes a network setting of the calling thread's namespace.
func sysctl(name, value string) error {
	// Without O_CREATE, so that a setting that is not there is fs.ErrNotExist.
	f, err := os.OpenFile("/proc/sys/"+name, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	_, err = f.WriteString(value)
	if err = both(err, f.Close()); err != nil {
		return fmt.Errorf("set sysctl %s: %w", name, err)
	}
	return nil
}

// probe tries, in a namespace of its own, everything that may be missing.
func probe() error {
	s, err := newSpace(func() error {
		here, err := netns.Get()
		if err != nil {
			return fmt.Errorf("open a network namespace: %w", err)
		}
		defer here.Close()
		if err := link("lan", "lan-far", here); err != nil {
			return err
		}
		if err := setupMirror("lan", "mirror-far", here); err != nil {
			return err
		}
		return sysctl("net/ipv4/ip_forward", "1")
	})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("the lab needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN and a writable /proc/sys: %w", err)
	}
	if err != nil {
		return fmt.Errorf("the lab needs network namespaces, veth and tc mirroring: %w", err)
	}
	return s.close()
}
