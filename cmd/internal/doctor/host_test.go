package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"
)

// fakeKernel answers what a test put in.
type fakeKernel struct {
	link    Link
	adapter Adapter
	missing error // of the adapter
	clock   Clock
	free    uint64
}

func (k *fakeKernel) Link(device string) (Link, error) {
	if device != "eth1" {
		return Link{}, fmt.Errorf("no interface %s", device)
	}
	return k.link, nil
}

func (k *fakeKernel) Adapter(string) (Adapter, error) { return k.adapter, k.missing }
func (k *fakeKernel) Clock() (Clock, error)           { return k.clock, nil }
func (k *fakeKernel) Free(string) (uint64, error)     { return k.free, nil }

func is(v bool) *bool { return &v }

// well is a host on which there is nothing to mend, and its kernel.
func well() (*Host, *fakeKernel) {
	k := &fakeKernel{
		link: Link{Index: 3, Up: true, Carrier: true, MTU: 9216},
		adapter: Adapter{
			Driver: "ixgbe", Speed: 10000, GRO: is(false), LRO: is(false), GSO: is(true), TSO: is(true), RxVLAN: is(true),
			Ring: &Ring{4096, 4096}, Channels: &Channels{8, 8}, Pause: &Pause{},
		},
		clock: Clock{Synchronised: true, Error: time.Millisecond},
		free:  100 << 30,
	}
	now := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o644} }
	files := fstest.MapFS{
		"proc/sys/kernel/osrelease":       file("6.12.9-amd64\n"),
		"proc/self/status":                file("Name:\tportolan\nCapEff:\t000000c000003000\n"),
		"proc/meminfo":                    file("MemTotal: 16000000 kB\nMemAvailable:   12000000 kB\n"),
		"proc/thread-self/net/packet":     file("sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"),
		"var/lib/portolan/baseline.state": {Data: []byte("x"), Mode: 0o600, ModTime: now.Add(-time.Hour)},
		"var/lib/portolan/spool":          {Data: make([]byte, 4096), Mode: 0o600},
		"var/lib/portolan":                {Mode: 0o700 | 1<<31},
	}
	return &Host{Files: files, Kernel: k, Self: "/usr/local/bin/portolan"}, k
}

func keeping() Keeping {
	return Keeping{Dir: "/var/lib/portolan", Spool: 512 << 20, Now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
}

// examine returns all findings on a host and its device.
func examine(t *testing.T, h *Host) *Report {
	t.Helper()
	r := &Report{Device: "eth1"}
	r.Add(h.Examine()...)
	r.Add(h.ExamineState(keeping())...)
	d, err := h.Device("eth1")
	if err != nil {
		t.Fatal(err)
	}
	r.Add(h.ExamineDevice(d)...)
	return r
}

// TestWell: a host without fault has no finding but OK, and nothing to mend.
func TestWell(t *testing.T) {
	h, _ := well()
	r := examine(t, h)
	for _, f := range r.Findings {
		if f.Status != OK || f.Consequence != "" || f.Remedy != "" || f.Advice != "" || f.Evidence == "" {
			t.Errorf("%+v", f)
		}
	}
	if r.Status != OK || len(r.Findings) < 15 {
		t.Errorf("status %s of %d findings", r.Status, len(r.Findings))
	}
}

// TestFaults: each fault is found by its check and no other, with what it means and what mends it.
func TestFaults(t *testing.T) {
	file := func(h *Host, name, text string) {
		h.Files.(fstest.MapFS)[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	for _, tt := range []struct {
		about  string
		harm   func(h *Host, k *fakeKernel)
		check  string
		status Status
		says   string // in the evidence
		remedy string
	}{
		{"an old kernel", func(h *Host, _ *fakeKernel) { file(h, "proc/sys/kernel/osrelease", "3.10.0-1160.el7\n") }, "kernel", Warn, "3.10.0", ""},
		{"no privilege", func(h *Host, _ *fakeKernel) { file(h, "proc/self/status", "CapEff:\t0000000000000000\n") }, "capabilities", Bad,
			"held: none; not held: cap_net_raw for capturing", "sudo setcap cap_net_raw+ep /usr/local/bin/portolan"},
		{"little memory", func(h *Host, _ *fakeKernel) { file(h, "proc/meminfo", "MemAvailable: 300000 kB\n") }, "memory", Warn, "293 MiB", ""},
		{"a clock on its own", func(_ *Host, k *fakeKernel) { k.clock.Synchronised = false }, "clock", Warn, "not synchronised", "sudo timedatectl set-ntp true"},
		{"a clock far off", func(_ *Host, k *fakeKernel) { k.clock.Error = 16 * time.Second }, "clock", Warn, "16s", "sudo timedatectl set-ntp true"},
		{"down", func(_ *Host, k *fakeKernel) { k.link.Up = false }, "link", Bad, "down", "sudo ip link set eth1 up"},
		{"no cable", func(_ *Host, k *fakeKernel) { k.link.Carrier = false }, "link", Bad, "without carrier", "ip -br link show eth1"},
		{"an address", func(_ *Host, k *fakeKernel) { k.link.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")} }, "address", Warn,
			"192.0.2.7/24", "sudo ip addr flush dev eth1"},
		{"GRO", func(_ *Host, k *fakeKernel) { k.adapter.GRO = is(true) }, "offloads", Warn, "gro on", "sudo ethtool -K eth1 gro off"},
		{"LRO", func(_ *Host, k *fakeKernel) { k.adapter.GRO, k.adapter.LRO = is(true), is(true) }, "offloads", Warn, "lro on", "sudo ethtool -K eth1 gro off lro off"},
		{"tiny rings", func(_ *Host, k *fakeKernel) { k.adapter.Ring.Rx = 256 }, "ring-size", Warn, "rx 256 of at most 4096", "sudo ethtool -G eth1 rx 4096"},
		{"pause frames", func(_ *Host, k *fakeKernel) { k.adapter.Pause.Tx = true }, "pause", Warn, "tx true", "sudo ethtool -A eth1 autoneg off rx off tx off"},
		{"a small MTU", func(_ *Host, k *fakeKernel) { k.link.MTU = 1280 }, "mtu", Warn, "1280", "sudo ip link set eth1 mtu 9216"},
		{"another's XDP program", func(_ *Host, k *fakeKernel) { k.link.XDP = 42 }, "xdp", Warn, "program 42", "sudo ip link set dev eth1 xdp off"},
		{"another reader", func(h *Host, _ *fakeKernel) {
			file(h, "proc/thread-self/net/packet", "sk RefCnt Type Proto Iface R Rmem User Inode\n"+
				"ffff8881 3 3 0003 3 1 0 0 4711\nffff8882 3 3 0003 9 1 0 0 4712\nffff8883 3 3 0003 3 1 0 0 4713\n")
			file(h, "proc/77/comm", "suricata\n")
			h.Files.(fstest.MapFS)["proc/77/fd/5"] = &fstest.MapFile{Data: []byte("socket:[4711]"), Mode: 0o777 | 1<<27}
			file(h, "proc/78/comm", "portolan\n")
			h.Files.(fstest.MapFS)["proc/78/fd/9"] = &fstest.MapFile{Data: []byte("socket:[4713]"), Mode: 0o777 | 1<<27}
		}, "readers", Warn, "suricata 77 (1)", "sudo ss -0p"},
		{"an open state directory", func(h *Host, _ *fakeKernel) { h.Files.(fstest.MapFS)["var/lib/portolan"].Mode = 0o755 | 1<<31 }, "directory", Warn,
			"mode 0755", "sudo chmod 700 /var/lib/portolan"},
		{"a full disk", func(_ *Host, k *fakeKernel) { k.free = 100 << 20 }, "disk", Warn, "100 MiB free", ""},
		{"a full spool", func(h *Host, _ *fakeKernel) {
			h.Files.(fstest.MapFS)["var/lib/portolan/spool"].Data = make([]byte, 160<<20)
		}, "spool", Warn, "160 MiB", ""},
		{"damage", func(h *Host, _ *fakeKernel) { file(h, "var/lib/portolan/baseline.state.damaged", "x") }, "damaged", Warn, "baseline.state.damaged",
			"sudo mv /var/lib/portolan/baseline.state.damaged /var/tmp/"},
		{"nothing learned", func(h *Host, _ *fakeKernel) { delete(h.Files.(fstest.MapFS), "var/lib/portolan/baseline.state") }, "baseline", Warn, "nothing was learned", ""},
		{"learned long ago", func(h *Host, _ *fakeKernel) {
			h.Files.(fstest.MapFS)["var/lib/portolan/baseline.state"].ModTime = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
		}, "baseline", Warn, "1425h", ""},
	} {
		h, k := well()
		tt.harm(h, k)
		r := examine(t, h)
		for _, f := range r.Findings {
			switch {
			case f.Check != tt.check && f.Status != OK:
				t.Errorf("%s: %s is %s: %s", tt.about, f.Check, f.Status, f.Evidence)
			case f.Check == tt.check && (f.Status != tt.status || !strings.Contains(f.Evidence, tt.says) || f.Remedy != tt.remedy ||
				f.Consequence == "" || f.Remedy+f.Advice == ""):
				t.Errorf("%s: %+v", tt.about, f)
			}
		}
		if r.Status != tt.status {
			t.Errorf("%s: the report is %s", tt.about, r.Status)
		}
	}
}

// TestUntold: a driver that tells nothing, and files that cannot be read, are unknown and no fault.
func TestUntold(t *testing.T) {
	h, k := well()
	k.missing = errors.ErrUnsupported
	h.Files = fstest.MapFS{}
	r := examine(t, h)
	if r.Status != OK {
		t.Errorf("the report is %s:\n%s", r.Status, r.Text())
	}
	for _, check := range []string{"kernel", "capabilities", "memory", "adapter", "readers"} {
		if f := r.Find(check); f == nil || f.Status != Unknown || f.Evidence == "" {
			t.Errorf("%s: %+v", check, f)
		}
	}
}

// TestNoDevice names a device that is not there.
func TestNoDevice(t *testing.T) {
	h, _ := well()
	_, err := h.Device("eth9")
	if err == nil {
		t.Fatal("there is no eth9")
	}
	if f := NoDevice("eth9", err); f.Status != Bad || !strings.Contains(f.Evidence, "eth9") || f.Remedy == "" {
		t.Errorf("%+v", f)
	}
}

// TestText: a report keeps to its width but for commands, and has every finding.
func TestText(t *testing.T) {
	h, k := well()
	k.link.Carrier, k.adapter.GRO, k.adapter.Ring.Rx = false, is(true), 64
	r := examine(t, h)
	text := r.Text()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > columns && !strings.Contains(line, "$ ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, f := range r.Findings {
		if !strings.Contains(text, "  "+f.Check+"  ") || f.Remedy != "" && !strings.Contains(text, "$ "+f.Remedy+"\n") {
			t.Errorf("%+v is not in:\n%s", f, text)
		}
	}
}

// TestQuote: paths are pasted as they are.
func TestQuote(t *testing.T) {
	for path, want := range map[string]string{"/usr/bin/portolan": "/usr/bin/portolan", "/opt/my tools/p": "'/opt/my tools/p'", "it's": `'it'\''s'`} {
		if got := quote(path); got != want {
			t.Errorf("quote(%q) = %s, want %s", path, got, want)
		}
	}
}
