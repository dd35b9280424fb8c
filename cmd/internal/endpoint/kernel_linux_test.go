package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// untilKilled is how long an actor waits that is to be there until the test is over, in ms.
const untilKilled = "100000"

func sumOf(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestProcessNamed: a process that connects and ends at once, before anybody could look at /proc,
// is named with all that there is to know; also when it has hidden its arguments, or removed itself.
func TestProcessNamed(t *testing.T) {
	s := newStage(t)
	to := s.listen(t, own4)
	port := strconv.Itoa(int(to.Port()))
	w := watchKernel(t)
	sleeps, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		args   []string
		hashed bool
		login  uint32
	}{
		{"at once", []string{"tcp", own4, port}, true, 0},
		{"hidden", []string{"-s", "tcp", own4, port}, true, 0},
		{"removed", []string{"-r", "tcp", own4, port}, false, 0},
		{"logged in", []string{"-l", "4242", "tcp", own4, port}, true, 4242},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exe := actor(t, "implant")
			sum := sumOf(t, exe)
			pid := s.run(t, nil, append([]string{exe}, tt.args...)...)
			r := w.await(t, attribute.Connect, exe, 1, nil)[0]
			p := r.Process
			if p.PID != pid || p.Name != "implant" || !slices.Equal(p.Args, append([]string{exe}, tt.args...)) || !p.HasUID || p.UID != 0 || p.User != "root" {
				t.Errorf("process %+v, want pid %d", p, pid)
			}
			if tt.hashed && p.SHA256 != sum || p.SHA256 != "" && p.SHA256 != sum {
				t.Errorf("hash %q, want %s", p.SHA256, sum)
			}
			if p.HasLoginUID != (tt.login != 0) || p.LoginUID != tt.login {
				t.Errorf("login uid %d (%v), want %d", p.LoginUID, p.HasLoginUID, tt.login)
			}
			me, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			if p.Parent.PID != uint32(os.Getpid()) || p.Parent.Executable != me || p.Parent.Name != strings.TrimSpace(string(sleeps)) {
				t.Errorf("parent %+v, want %d, %s", p.Parent, os.Getpid(), me)
			}
			if p.NetNS != s.netNS || p.Cgroup == "" {
				t.Errorf("network namespace %d, cgroup %q, want %d", p.NetNS, p.Cgroup, s.netNS)
			}
			if p.Start == 0 || p.Start > r.Time || p.Parent.Start == 0 || p.Parent.Start > p.Start {
				t.Errorf("parent began at %d, process at %d, connect at %d", p.Parent.Start, p.Start, r.Time)
			}
			if r.Local.Addr() != netip.MustParseAddr(own4) || r.Local.Port() == 0 || r.Remote != to || r.Proto != event.TCP || r.Result != attribute.Connected {
				t.Errorf("%s %v → %v, %s", r.Proto, r.Local, r.Remote, r.Result)
			}
			t.Logf("from the start of the process to its connect: %v", r.Time.Sub(p.Start))
		})
	}
}

// TestHashComesLater: a record does not wait for the hash of its executable for longer than it may, and is told
// again, under another name, with it.
func TestHashComesLater(t *testing.T) {
	s := newStage(t)
	cfg := testConfig()
	cfg.HashWait, cfg.HashRate = 0, 1<<20 // a first file keeps the second waiting
	w := watch(t, cfg, (*Agent).RunKernel)
	first, second := actor(t, "first"), actor(t, "second")
	s.start(t, nil, first, "-w", untilKilled, "udp", silent4, "7")
	w.await(t, attribute.Connect, first, 1, nil)
	s.start(t, nil, second, "-w", untilKilled, "udp", silent4, "7")
	later := w.await(t, attribute.Connect, second, 1, func(r attribute.Record) bool { return r.Process.SHA256 != "" })[0]
	all := w.of(attribute.Connect, second)
	if len(all) != 2 || all[0].Process.SHA256 != "" || all[0].ID == later.ID || all[0].Local != later.Local || later.Process.SHA256 != sumOf(t, second) {
		t.Errorf("%+v, want one record twice, the second time with a hash", all)
	}
}

// TestUser: the user is the one that the process runs as.
func TestUser(t *testing.T) {
	s := newStage(t)
	w := watchKernel(t)
	exe := actor(t, "other")
	for dir := filepath.Dir(exe); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}, exe, "udp", own4, "9")
	if p := w.await(t, attribute.Connect, exe, 1, nil)[0].Process; p.UID != 54321 || p.User != "" {
		t.Errorf("user %d %q, want 54321 without a name", p.UID, p.User)
	}
}

// TestResults: how attempts to connect end, of both IP versions.
func TestResults(t *testing.T) {
	s := newStage(t)
	w := watchKernel(t)
	open4, open6 := s.listen(t, own4), s.listen(t, own6)
	closed := strconv.Itoa(int(open4.Port())%60000 + 1000)
	for _, tt := range []struct {
		name   string
		args   []string
		result attribute.Result
		errno  uint16
	}{
		{"connected", []string{"tcp", own4, strconv.Itoa(int(open4.Port()))}, attribute.Connected, 0},
		{"connected6", []string{"tcp", own6, strconv.Itoa(int(open6.Port()))}, attribute.Connected, 0},
		{"mapped", []string{"tcp", "::ffff:" + own4, strconv.Itoa(int(open4.Port()))}, attribute.Connected, 0},
		{"refused", []string{"tcp", own4, closed}, attribute.Refused, uint16(unix.ECONNREFUSED)},
		{"refused6", []string{"tcp", own6, closed}, attribute.Refused, uint16(unix.ECONNREFUSED)},
		{"nonblocking", []string{"-n", "tcp", own4, strconv.Itoa(int(open4.Port()))}, attribute.Connected, 0},
		{"nonblocking6", []string{"-n", "tcp", own6, strconv.Itoa(int(open6.Port()))}, attribute.Connected, 0},
		{"nobody waits", []string{"-n", "tcp", silent4, "443"}, attribute.InProgress, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exe := actor(t, "r-"+tt.name)
			pid := s.run(t, nil, append([]string{exe}, tt.args...)...)
			r := w.await(t, attribute.Connect, exe, 1, nil)[0]
			if r.Result != tt.result || r.Errno != tt.errno || r.Process.PID != pid {
				t.Errorf("%s, error %d, of %d; want %s, %d, of %d", r.Result, r.Errno, r.Process.PID, tt.result, tt.errno, pid)
			}
			if want, _ := netip.ParseAddr(tt.args[len(tt.args)-2]); r.Remote.Addr() != want.Unmap() || r.Local.Port() == 0 || r.Local.Addr().Is4() != want.Unmap().Is4() {
				t.Errorf("%v → %v, want → %v", r.Local, r.Remote, want)
			}
		})
	}
}

// TestFiltered: a connect that nothing answers is told of at once, and once more when the kernel
// gives up, as of the same process; the SYN that a timer repeats is no connect.
func TestFiltered(t *testing.T) {
	s := newStage(t)
	w := watchKernel(t)
	exe := actor(t, "filtered")
	began := time.Now()
	pid := s.run(t, nil, exe, "tcp", silent4, "443")
	took := time.Since(began)
	w.await(t, attribute.Connect, exe, 2, nil)
	w.stop()
	all := w.of(attribute.Connect, exe)
	if len(all) != 2 || all[0].Result != attribute.InProgress || all[1].Result != attribute.TimedOut || all[1].Errno != uint16(unix.ETIMEDOUT) {
		t.Fatalf("after %v: %+v", took, all)
	}
	a, b := all[0], all[1]
	if a.ID == b.ID || a.Local != b.Local || a.Remote != b.Remote || a.Time != b.Time || a.Process.PID != pid || b.Process.PID != pid {
		t.Errorf("%+v and %+v are of one connect by %d", a, b, pid)
	}
}

// TestDatagrams: the first datagram between a socket and an address is told of, those that follow are not,
// with the address that routing gave the socket; questions are read.
func TestDatagrams(t *testing.T) {
	s := newStage(t)
	w := watchKernel(t)
	for _, tt := range []struct {
		kind, addr, own string
	}{
		{"udp", silent4, own4}, {"udp", silent6, own6}, {"connected", silent4, own4}, {"connected", silent6, own6},
	} {
		exe := actor(t, "datagrams")
		pid := s.run(t, nil, exe, tt.kind, tt.addr, "5001", "5002", "5001")
		w.await(t, attribute.Connect, exe, 2, nil)
		last := actor(t, "last") // when that is there, all before is
		s.run(t, nil, last, "udp", tt.addr, "1")
		w.await(t, attribute.Connect, last, 1, nil)
		all := w.of(attribute.Connect, exe)
		if len(all) != 2 {
			t.Fatalf("%s to %s: %d records, want one for each of two ports", tt.kind, tt.addr, len(all))
		}
		for i, r := range all {
			want := netip.AddrPortFrom(netip.MustParseAddr(tt.addr), uint16(5001+i))
			if r.Proto != event.UDP || r.Result != attribute.Sent || r.Remote != want || r.Local.Addr().String() != tt.own ||
				r.Local.Port() == 0 || r.Process.PID != pid {
				t.Errorf("%s: %s %v → %v, %s, of %d; want %s → %v of %d", tt.kind, r.Proto, r.Local, r.Remote, r.Result, r.Process.PID, tt.own, want, pid)
			}
		}
	}
}

// TestQuestions: who asked which name; one over loopback as well, which is no connection to tell of.
func TestQuestions(t *testing.T) {
	s := newStage(t)
	w := watchKernel(t)
	for _, tt := range []struct {
		addr     string
		connects int
	}{{silent4, 1}, {silent6, 1}, {"127.0.0.53", 0}} {
		exe := actor(t, "asks")
		pid := s.run(t, nil, exe, "dns", tt.addr, "53", "53")
		for _, r := range w.await(t, attribute.Lookup, exe, 2, nil) {
			if r.Query != "www.example.net" || r.Process.PID != pid || r.Remote != netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 53) || r.Local.Port() == 0 {
				t.Errorf("%q asked %v by %d, want %d", r.Query, r.Remote, r.Process.PID, pid)
			}
		}
		last := actor(t, "last")
		s.run(t, nil, last, "udp", silent4, "1")
		w.await(t, attribute.Connect, last, 1, nil)
		if n := len(w.of(attribute.Connect, exe)); n != tt.connects {
			t.Errorf("to %s: %d connects, want %d", tt.addr, n, tt.connects)
		}
	}
}

// TestContainer: a process in namespaces and a cgroup of its own is named as the host knows it.
func TestContainer(t *testing.T) {
	s := newStage(t)
	root := unifiedRoot(t)
	id := strings.Repeat("0123456789abcdef", 4)
	group := filepath.Join(root, "portolan-test-"+strconv.Itoa(os.Getpid()))
	dir := filepath.Join(group, "docker-"+id+".scope")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		need(t, err)
	}
	t.Cleanup(func() {
		for _, d := range []string{dir, group} {
			for end := time.Now().Add(deadline); os.Remove(d) != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%s is not empty", d)
					return
				}
			}
		}
	})
	fd, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	w := watchKernel(t)
	exe := actor(t, "contained")
	// A root directory of its own, and nothing in it but the program.
	jail := t.TempDir()
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(jail, "contained"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	pid, _ := s.start(t, &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Chroot: jail, UseCgroupFD: true, CgroupFD: int(fd.Fd()),
	}, "/contained", "-w", untilKilled, "udp", silent4, "443")
	r := w.await(t, attribute.Connect, "/contained", 1, nil)[0]
	p := r.Process
	if p.PID != pid || p.ContainerID != id || !strings.HasSuffix(p.Cgroup, "/docker-"+id+".scope") || p.NetNS != s.netNS {
		t.Errorf("%+v, want pid %d in container %s and namespace %d", p, pid, id, s.netNS)
	}
	if want := sumOf(t, exe); p.SHA256 != want {
		t.Errorf("hash %q, want %s", p.SHA256, want)
	}
	// The host has spoken for the address before.
	for _, h := range w.of(attribute.Host, "") {
		if h.Time > r.Time.Add(time.Minute) {
			break
		}
		if slices.Contains(h.About.Addresses, r.Local.Addr()) {
			return
		}
	}
	t.Errorf("no Host record has %s", r.Local.Addr())
}

// unifiedRoot returns where the unified cgroup hierarchy is mounted.
func unifiedRoot(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		need(t, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestPIDReused: two processes that had the same pid one after the other are told apart.
func TestPIDReused(t *testing.T) {
	s := newStage(t)
	w := watchKernel(t)
	starter := actor(t, "starter")
	first, second := actor(t, "first"), actor(t, "second")
	pid := s.run(t, nil, first, "udp", silent4, "7")
	s.run(t, nil, starter, "as", strconv.Itoa(int(pid)), second, "udp", silent4, "7")
	a := w.await(t, attribute.Connect, first, 1, nil)[0].Process
	b := w.await(t, attribute.Connect, second, 1, nil)[0].Process
	if a.PID != pid || b.PID != pid || a.Start >= b.Start || a.SHA256 != sumOf(t, first) || b.Args[0] != second || b.Parent.Executable != starter {
		t.Errorf("%+v and %+v, want both with pid %d", a, b, pid)
	}
}

// TestAddressesAppear: the host speaks for an address before a process that uses it is told of.
func TestAddressesAppear(t *testing.T) {
	w := watchKernel(t) // before the namespace is there
	s := newStage(t)
	exe := actor(t, "newcomer")
	s.start(t, nil, exe, "-w", untilKilled, "udp", silent4, "7")
	w.await(t, attribute.Connect, exe, 1, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	spoken := false
	for _, r := range w.records {
		if r.Kind == attribute.Host {
			spoken = slices.Contains(r.About.Addresses, netip.MustParseAddr(own4)) && slices.Contains(r.About.Addresses, netip.MustParseAddr(own6))
		} else if r.Process.Executable == exe {
			if !spoken {
				t.Error("the address was used before it was spoken for")
			}
			return
		}
	}
}

// TestOwnAddresses: what /proc shows of this namespace is what the system calls show.
func TestOwnAddresses(t *testing.T) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	got := addressesOf("/proc/thread-self")
	want := 0
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() {
			want++
			if addr, _ := netip.AddrFromSlice(n.IP); !slices.Contains(got, addr.Unmap()) {
				t.Errorf("%s is not in %v", addr, got)
			}
		}
	}
	if len(got) != want {
		t.Errorf("%d addresses in %v, want %d", len(got), got, want)
	}
}
