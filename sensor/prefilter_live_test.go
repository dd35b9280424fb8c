//go:build linux && cgo

package sensor

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	xdplink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"portolan/bpffilter"
)

// datagram is a UDP datagram from port to port 443, or the other way.
func datagram(port uint16, back bool) []byte {
	b := append([]byte(nil), synFrame(0)[:34]...)
	b[23] = 17
	binary.BigEndian.PutUint16(b[16:], 20+8+32)
	src, dst := port, uint16(443)
	if back {
		src, dst = dst, src
		copy(b[26:], []byte{198, 51, 100, 23, 10, 0, 0, 7})
	}
	b = binary.BigEndian.AppendUint16(b, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = append(b, 0, 8+32, 0, 0)
	return append(b, make([]byte, 32)...)
}

// needEBPF skips a test where eBPF programs cannot be loaded.
func needEBPF(t *testing.T) {
	t.Helper()
	p, err := bpffilter.LoadXDP(bpffilter.Options{SnapLen: 1, Flows: 1})
	if err != nil {
		skip(t, "%v", err)
	}
	p.Close()
}

// TestLivePrefilters sends the same frames through each prefilter: the events are the same,
// and what reaches the rings is less and less.
func TestLivePrefilters(t *testing.T) {
	needEBPF(t)
	const flows, each = 50, 20
	for _, tt := range []struct {
		prefilter Prefilter
		mirror    bool
		rings     int
		want      InForce
		frames    uint64 // that reach the rings; 0 when the prefilter says how many
	}{
		{PrefilterOff, true, 2, InForce{Prefilter: PrefilterOff, FanOut: "client"}, 4*flows*each + 2},
		{PrefilterSocket, true, 1, InForce{Prefilter: PrefilterSocket}, 3*flows*each + 2},
		{PrefilterEBPF, false, 4, InForce{Prefilter: PrefilterEBPF, FanOut: "client"}, 0},
		{PrefilterXDP, true, 2, InForce{Prefilter: PrefilterXDP, Native: true, FanOut: "client"}, 0},
		{PrefilterAuto, true, 1, InForce{Prefilter: PrefilterXDP, Native: true}, 0},
		{PrefilterAuto, false, 1, InForce{Prefilter: PrefilterEBPF, Why: "no xdp: not a mirror port: it was not declared one"}, 0},
	} {
		t.Run(string(tt.prefilter), func(t *testing.T) {
			w := newWire(t)
			cfg := w.config()
			cfg.Prefilter, cfg.MirrorPort, cfg.Rings, cfg.Blocks = tt.prefilter, tt.mirror, tt.rings, 128
			s := w.open(cfg)
			if got := s.InForce(); got != tt.want {
				t.Fatalf("in force is %+v, want %+v", got, tt.want)
			}
			rec := w.start(s)
			rounds, begun := uint64(0), time.Time{}
			round := func() {
				rounds, begun = rounds+1, time.Now()
				segment := with(synFrame(1), 47, 0x10)
				for i := range uint16(flows) {
					for range each {
						w.send(datagram(40000+i, false), datagram(40000+i, true), segment)
						w.send(tagged(datagram(40000+i, false), 0x8100, 12)) // the kernel takes the tag off
					}
				}
				w.send(synFrame(1), answerFrame())
			}
			// Each flow in and out of the VLAN, the SYN, and the response as a datagram.
			until(t, "all events", func() bool {
				if time.Since(begun) > 2*time.Second { // at first, and when a machine under load lost some
					round()
				}
				rec.mu.Lock()
				defer rec.mu.Unlock()
				return len(rec.connections) == 2*flows+2 && len(rec.lookups) > 0
			})
			counts := tt.want.Prefilter == PrefilterXDP || tt.want.Prefilter == PrefilterEBPF
			sum := func() (n Stats, received, lost uint64) {
				n, lost = s.Stats(), w.lost()
				for _, r := range n.Rings {
					received, lost = received+r.Received, lost+r.Dropped
				}
				return n, received, lost
			}
			until(t, "all frames to be counted", func() bool {
				n, received, lost := sum()
				if counts {
					return n.Prefilter.Passed().Frames+n.Prefilter.Dropped().Frames+w.lost() >= rounds*(4*flows*each+2)
				}
				return received+lost >= rounds*tt.frames
			})
			s.Close()
			n, received, lost := sum()
			switch k := n.Prefilter; {
			case counts:
				// One of each flow, and on a slow machine one more each 5 s.
				if got := k[bpffilter.Datagram].Frames; got < 2*flows || got > flows*each {
					t.Errorf("%d datagrams passed, want one of each of %d flows", got, 2*flows)
				}
				if got, want := k.Passed().Frames+k.Dropped().Frames, rounds*(4*flows*each+2)-w.lost(); got != want {
					t.Errorf("the prefilter counts %+v: %d frames, want %d", k, got, want)
				}
				if received > k.Passed().Frames || received+lost < k.Passed().Frames {
					t.Errorf("%d frames reached the rings and %d were lost, but %d passed", received, lost, k.Passed().Frames)
				}
			default:
				if k != (bpffilter.Counts{}) {
					t.Errorf("without a program of its own the prefilter counts %+v", k)
				}
				if want := rounds * tt.frames; received > want || received+lost < want {
					t.Errorf("%d frames reached the rings and %d were lost, want %d in all", received, lost, want)
				}
			}
			if n.Interface.Lost() > 0 {
				t.Errorf("the interface counts %+v: what the filter drops is no loss", n.Interface)
			}
			if p, err := xdplink.AttachXDP(xdplink.XDPOptions{Program: pass(t), Interface: index(t, "mirror")}); err != nil {
				t.Errorf("after Close something is left on the interface: %v", err)
			} else {
				p.Close()
			}
		})
	}
}

func index(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

// pass is an XDP program of someone else.
func pass(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestLiveMirrorPort: XDP drops frames only where nobody needs them, and displaces nobody.
func TestLiveMirrorPort(t *testing.T) {
	needEBPF(t)
	address := func(text string) func(t *testing.T) {
		return func(t *testing.T) {
			l, err := netlink.LinkByName("mirror")
			if err != nil {
				t.Fatal(err)
			}
			a, err := netlink.ParseAddr(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T)
		mirror  bool
		tells   string
	}{
		{"not declared", func(*testing.T) {}, false, "not a mirror port: it was not declared one"},
		{"with an address", address("192.0.2.9/24"), true, "not a mirror port: it has the address 192.0.2.9/24, which would be cut off"},
		{"with an interface upon it", func(t *testing.T) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = "upper", index(t, "mirror")
			if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
				skip(t, "no macvlan interface can be made: %v", err)
			}
		}, true, "not a mirror port: upper is built upon it"},
		{"in a bridge", func(t *testing.T) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "bridge"
			b := &netlink.Bridge{LinkAttrs: attrs}
			if err := netlink.LinkAdd(b); err != nil {
				skip(t, "no bridge can be made: %v", err)
			}
			l, err := netlink.LinkByName("mirror")
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetMaster(l, b); err != nil {
				t.Fatal(err)
			}
		}, true, "not a mirror port: it belongs to a bridge, a bond or the like"},
		{"with a program of someone else", func(t *testing.T) {
			x, err := xdplink.AttachXDP(xdplink.XDPOptions{Program: pass(t), Interface: index(t, "mirror")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { x.Close() })
		}, true, "device or resource busy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			tt.prepare(t)
			cfg := w.config()
			cfg.Prefilter, cfg.MirrorPort = PrefilterXDP, tt.mirror
			s, err := Open(cfg)
			if err == nil {
				s.Close()
			}
			if want := "open mirror: prefilter xdp: "; err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), tt.tells) {
				t.Errorf("asked for: %v, want %q with %q", err, want, tt.tells)
			}
			cfg.Prefilter = PrefilterAuto
			s = w.open(cfg)
			if got := s.InForce(); got.Prefilter != PrefilterEBPF || !strings.Contains(got.Why, tt.tells) {
				t.Errorf("left alone: %+v", got)
			}
			rec := w.start(s)
			w.send(synFrame(1))
			until(t, "a connection", func() bool { return len(rec.all()) == 1 })
		})
	}
}

// TestLivePrefilterWithoutCapabilities runs with CAP_NET_RAW alone, as the documents promise.
func TestLivePrefilterWithoutCapabilities(t *testing.T) {
	w := newWire(t)
	type outcome struct {
		force InForce
		err   error
	}
	open := func(prefilter Prefilter) outcome {
		result := make(chan outcome)
		go func() { // a thread of its own, which dies with its goroutine
			runtime.LockOSThread()
			var o outcome
			if o.err = netns.Set(w.ns); o.err == nil {
				h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var only [2]unix.CapUserData
				only[0] = unix.CapUserData{Effective: 1 << unix.CAP_NET_RAW, Permitted: 1 << unix.CAP_NET_RAW}
				o.err = unix.Capset(&h, &only[0])
			}
			if o.err == nil {
				cfg := w.config()
				cfg.Prefilter, cfg.MirrorPort, cfg.Rings = prefilter, true, 2
				var s *Sensor
				if s, o.err = Open(cfg); o.err == nil {
					o.force = s.InForce()
					s.Close()
				}
			}
			result <- o
		}()
		return <-result
	}
	if got := open(PrefilterAuto); got.err != nil || got.force.Prefilter != PrefilterSocket || got.force.FanOut != "client" ||
		!strings.Contains(got.force.Why, "it needs CAP_BPF") {
		t.Errorf("auto: %+v", got)
	}
	if got := open(PrefilterSocket); got.err != nil || got.force != (InForce{Prefilter: PrefilterSocket, FanOut: "client"}) {
		t.Errorf("socket: %+v", got)
	}
	for _, p := range []Prefilter{PrefilterEBPF, PrefilterXDP} {
		if got := open(p); !errors.Is(got.err, unix.EPERM) {
			t.Errorf("%s: %+v", p, got)
		}
	}
}

// crashing is set in the process that TestLivePrefilterCrash kills.
const crashing = "PORTOLAN_TEST_CRASH"

// TestLivePrefilterCrash: an XDP filter goes with its process, however that ends.
func TestLivePrefilterCrash(t *testing.T) {
	if os.Getenv(crashing) != "" {
		cfg := (&wire{}).config()
		cfg.Prefilter, cfg.MirrorPort = PrefilterXDP, true
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("open:", s.InForce())
		select {}
	}
	needEBPF(t)
	newWire(t)
	c := exec.Command(os.Args[0], "-test.run=^TestLivePrefilterCrash$")
	c.Env = append(os.Environ(), crashing+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil { // in the namespace of this thread
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "open: XDP filter in the driver\n" {
		t.Errorf("the process says %q, %v", line, err)
	}
	attach := func() error {
		x, err := xdplink.AttachXDP(xdplink.XDPOptions{Program: pass(t), Interface: index(t, "mirror")})
		if err == nil {
			x.Close()
		}
		return err
	}
	if err := attach(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second program beside that of the process: %v", err)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	until(t, "the filter to go", func() bool { return attach() == nil })
}

// TestLivePrefilterReopens: an interface that comes back has its prefilter again.
func TestLivePrefilterReopens(t *testing.T) {
	needEBPF(t)
	w := newWire(t)
	cfg := w.config()
	cfg.Prefilter, cfg.MirrorPort = PrefilterXDP, true
	s := w.open(cfg)
	rec := w.start(s)
	w.send(datagram(1, false), datagram(1, true))
	until(t, "a connection", func() bool { return len(rec.all()) == 1 })
	l, err := netlink.LinkByName("mirror")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	w.connect()
	until(t, "the ring to be opened again", func() bool { return s.Stats().Rings[0].Reopens == 1 })
	w.send(datagram(2, false), datagram(2, true))
	until(t, "a connection over the new interface", func() bool { return len(rec.all()) == 2 })
	s.Close()
	n := s.Stats()
	if got := s.InForce().Prefilter; got != PrefilterXDP || n.Prefilter.Passed().Frames < n.Frames || n.Prefilter[bpffilter.Datagram].Frames < 2 {
		t.Errorf("in force is %s; %d frames, prefilter %+v", got, n.Frames, n.Prefilter)
	}
}
