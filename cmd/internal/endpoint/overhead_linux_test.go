package endpoint

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOverhead prints what watching costs at 10,000 connects a second: the share of a CPU that the agent
// takes, and what a connect takes longer, beside auditd with an equivalent rule, and nobody who watches.
// The three take turns, and medians count.
func TestOverhead(t *testing.T) {
	if os.Getenv("PORTOLAN_SOAK") != "1" {
		t.Skip("takes a minute and the whole machine; PORTOLAN_SOAK=1 runs it")
	}
	const rate, rounds, seconds = 10_000, 5, 3
	s := newStage(t)
	to := s.sink(t)
	portolan := filepath.Join(t.TempDir(), "portolan")
	if out, err := exec.Command("go", "build", "-o", portolan, "portolan/cmd/portolan").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	type mode struct {
		name  string
		start func(t *testing.T) (pids []int, stop func() string)
	}
	modes := []mode{
		{"nobody", func(*testing.T) ([]int, func() string) { return nil, func() string { return "" } }},
		{"portolan endpoint", func(t *testing.T) ([]int, func() string) { return startAgent(t, portolan) }},
		{"auditd", startAuditd},
	}
	type outcome struct{ connect, p99, cpu []float64 }
	results := make([]outcome, len(modes))
	notes := make([]string, len(modes))
	for range rounds {
		for i, m := range modes {
			pids, stop := m.start(t)
			time.Sleep(500 * time.Millisecond)
			before := cpuOf(t, pids)
			began := time.Now()
			all := s.connects(t, to, rate, seconds*rate)
			took := time.Since(began)
			cpu := cpuOf(t, pids) - before
			notes[i] = stop()
			slices.Sort(all)
			r := &results[i]
			r.connect = append(r.connect, all[len(all)/2].Seconds()*1e6)
			r.p99 = append(r.p99, all[len(all)*99/100].Seconds()*1e6)
			r.cpu = append(r.cpu, 100*cpu.Seconds()/took.Seconds())
			if got := float64(len(all)) / took.Seconds(); got < rate*9/10 {
				notes[i] += fmt.Sprintf(" (only %.0f connects a second)", got)
			}
		}
	}
	t.Logf("%d connects a second, %d s, median of %d rounds, %d CPUs", rate, seconds, rounds, runtime.NumCPU())
	base := median(results[0].connect)
	for i, m := range modes {
		r := results[i]
		t.Logf("%-18s connect %6.1f µs (%+5.1f)  p99 %7.1f µs  CPU %5.1f %%  %s", m.name, median(r.connect), median(r.connect)-base,
			median(r.p99), median(r.cpu), notes[i])
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// sink accepts connections on a thread of its own.
func (s *stage) sink(t *testing.T) netip.AddrPort {
	t.Helper()
	fd := -1
	var err error
	var port int
	s.in(func() {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 0, 1}}); err != nil {
			return
		}
		if err = unix.Listen(fd, 4096); err != nil {
			return
		}
		var at unix.Sockaddr
		if at, err = unix.Getsockname(fd); err == nil {
			port = at.(*unix.SockaddrInet4).Port
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	var stop atomic.Bool
	ended.Go(func() {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for !stop.Load() {
			if n, _ := unix.Poll(poll, 100); n == 1 {
				if c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC); err == nil {
					unix.Close(c)
				}
			}
		}
	})
	t.Cleanup(func() { stop.Store(true); ended.Wait(); unix.Close(fd) })
	return netip.AddrPortFrom(netip.MustParseAddr(own4), uint16(port))
}

// connects connects n times at a rate, and returns how long each connect took.
func (s *stage) connects(t *testing.T, to netip.AddrPort, rate, n int) (all []time.Duration) {
	t.Helper()
	var err error
	s.in(func() {
		at := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
		began := time.Now()
		for i := range n {
			if ahead := time.Duration(i)*time.Second/time.Duration(rate) - time.Since(began); ahead > 0 {
				ts := unix.NsecToTimespec(int64(ahead))
				_ = unix.Nanosleep(&ts, nil) // a little early or late makes no difference
			}
			var fd int
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return
			}
			// With RST at the end no port has to wait before it is used again.
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			start := time.Now()
			err = unix.Connect(fd, at)
			all = append(all, time.Since(start))
			unix.Close(fd)
			if err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// cpuOf returns the CPU time that processes have taken.
func cpuOf(t *testing.T, pids []int) (sum time.Duration) {
	t.Helper()
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		for _, f := range fields[14-3 : 16-3] { // proc(5): utime, stime
			n, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

func startAgent(t *testing.T, portolan string) ([]int, func() string) {
	cmd := exec.Command(portolan, "endpoint", "--json", "--source", "ebpf", "--host-id", "tester")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	return []int{cmd.Process.Pid}, func() string {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, said.String())
		}
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return strings.TrimPrefix(lines[len(lines)-1], "portolan: ")
	}
}

// startAuditd starts auditd, with a log in a directory of the test's and a rule for connects.
func startAuditd(t *testing.T) ([]int, func() string) {
	for _, name := range []string{"auditd", "auditctl"} {
		if _, err := exec.LookPath(name); err != nil {
			need(t, err)
		}
	}
	dir := t.TempDir()
	conf := "log_file = " + dir + "/audit.log\nlog_format = RAW\nlog_group = root\nflush = INCREMENTAL_ASYNC\nfreq = 50\n" +
		"max_log_file = 50\nnum_logs = 2\nmax_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = IGNORE\n" +
		"admin_space_left = 50\nadmin_space_left_action = IGNORE\ndisk_full_action = IGNORE\ndisk_error_action = IGNORE\n"
	if err := os.WriteFile(dir+"/auditd.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	ctl := func(args ...string) string {
		out, err := exec.Command("auditctl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("auditctl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	cmd := exec.Command("auditd", "-n", "-c", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	ctl("-b", "8192")
	rule := []string{"always,exit", "-F", "arch=b64", "-S", "connect,execve,execveat", "-k", "portolan-test"}
	ctl(append([]string{"-a"}, rule...)...)
	ctl("--reset-lost")
	pids := []int{cmd.Process.Pid}
	if out, err := exec.Command("pidof", "kauditd").Output(); err == nil {
		for _, f := range strings.Fields(string(out)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids, func() string {
		ctl(append([]string{"-d"}, rule...)...)
		lost := ""
		for line := range strings.SplitSeq(ctl("-s"), "\n") {
			if strings.HasPrefix(line, "lost ") {
				lost = line
			}
		}
		ctl("-e", "0")
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		return fmt.Sprintf("%s, of %d processes", lost, len(pids))
	}
}
