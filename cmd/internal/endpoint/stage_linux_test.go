package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portolan/correlate/attribute"
)

// deadline bounds what a test waits for; nothing comes near it unless it is broken.
const deadline = 30 * time.Second

// Of the stage: its own addresses, where what nobody listens to is refused, and neighbours that never answer.
const (
	own4, own6       = "10.9.0.1", "2001:db8:9::1"
	silent4, silent6 = "10.9.0.99", "2001:db8:9::99"
)

// need skips a test for a reason, which is a failure where everything has to run.
func need(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("PORTOLAN_LIVE") == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// stage is a network namespace without a way out.
type stage struct {
	netNS uint64
	do    chan func()
}

// newStage makes a namespace, on a thread that ends with it.
func newStage(t testing.TB) *stage {
	t.Helper()
	if os.Geteuid() != 0 {
		need(t, fmt.Errorf("eBPF programs and network namespaces need root"))
	}
	s := &stage{do: make(chan func())}
	made := make(chan error)
	var ended sync.WaitGroup
	var play func()
	play = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The process's first thread cannot end: keep it busy, and give it back as it was.
			var other sync.WaitGroup
			other.Go(play)
			other.Wait()
			runtime.UnlockOSThread()
			return
		}
		made <- s.build()
		for fn := range s.do {
			fn()
		} // still locked: the thread ends with the goroutine
	}
	ended.Go(play)
	t.Cleanup(func() { close(s.do); ended.Wait() })
	if err := <-made; err != nil {
		need(t, fmt.Errorf("build a network namespace: %w", err))
	}
	return s
}

func (s *stage) build() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	s.netNS, _ = spaceOf("/proc/thread-self")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	near := netlink.NewVeth(netlink.NewLinkAttrs())
	near.Name, near.PeerName = "near", "far"
	if err := netlink.LinkAdd(near); err != nil {
		return err
	}
	for _, name := range []string{"near", "far"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	for _, a := range []string{own4 + "/24", own6 + "/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(near, addr); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	near2, err := netlink.LinkByName("near")
	if err != nil {
		return err
	}
	for _, a := range []string{silent4, silent6} {
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: near2.Attrs().Index, IP: net.ParseIP(a), State: netlink.NUD_PERMANENT,
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 99}})
		if err != nil {
			return fmt.Errorf("neighbour %s: %w", a, err)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/tcp_syn_retries", []byte("1"), 0)
}

// in runs fn in the namespace.
func (s *stage) in(fn func()) {
	done := make(chan struct{})
	s.do <- func() { defer close(done); fn() }
	<-done
}

// listen accepts TCP connections at the stage's own addresses until the test ends.
func (s *stage) listen(t testing.TB, addr string) netip.AddrPort {
	t.Helper()
	var l net.Listener
	var err error
	s.in(func() { l, err = net.Listen("tcp", net.JoinHostPort(addr, "0")) })
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// compiled is the program of testdata/act.c.
var compiled = sync.OnceValues(func() (program []byte, err error) {
	dir, err := os.MkdirTemp("", "portolan-act-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "act")
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", path, "testdata/act.c").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile testdata/act.c: %w\n%s", err, out)
	}
	return os.ReadFile(path)
})

// actor is a program of its own that does what its arguments say (testdata/act.c).
func actor(t testing.TB, name string) string {
	t.Helper()
	program, err := compiled()
	need(t, err)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts a program in the namespace, and returns its pid and what ends it.
func (s *stage) start(t testing.TB, attr *syscall.SysProcAttr, args ...string) (pid uint32, end func() error) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = attr
	var out strings.Builder
	cmd.Stderr = &out
	var err error
	s.in(func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	end = sync.OnceValue(func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%q: %w: %s", args, err, out.String())
		}
		return nil
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = end()
	})
	return uint32(cmd.Process.Pid), end
}

// run is start for a program that ends by itself, and waits for that.
func (s *stage) run(t testing.TB, attr *syscall.SysProcAttr, args ...string) uint32 {
	t.Helper()
	pid, end := s.start(t, attr, args...)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	return pid
}

// watched is an agent at work, and what it has said so far.
type watched struct {
	agent *Agent
	stop  func()

	mu      sync.Mutex
	records []attribute.Record
}

// watch starts an agent on a source and waits until it sees.
func watch(t testing.TB, cfg Config, run func(a *Agent, ctx context.Context, ready func()) error) *watched {
	t.Helper()
	w := &watched{}
	a, err := New(cfg, func(r *attribute.Record) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.records = append(w.records, *r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.agent = a
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(a, ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		stop()
		need(t, err)
	}
	w.stop = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func testConfig() Config {
	c := DefaultConfig()
	c.HostID = "tester"
	c.HashWait = 10 * time.Second // so that the first record has it
	return c
}

func watchKernel(t testing.TB) *watched {
	t.Helper()
	return watch(t, testConfig(), (*Agent).RunKernel)
}

// of returns the records of a kind of the processes that a program made.
func (w *watched) of(kind attribute.Kind, exe string) []attribute.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.records), func(r attribute.Record) bool {
		return r.Kind != kind || kind != attribute.Host && r.Process.Executable != exe
	})
}

// await waits for n records of a program that hold what is wanted.
func (w *watched) await(t testing.TB, kind attribute.Kind, exe string, n int, want func(attribute.Record) bool) []attribute.Record {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
		found := slices.DeleteFunc(w.of(kind, exe), func(r attribute.Record) bool { return want != nil && !want(r) })
		if len(found) >= n {
			return found
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d records came; of %s there are %+v", len(found), n, exe, w.of(kind, exe))
		}
	}
}
