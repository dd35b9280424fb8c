package endpoint

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// TestAudit: the kernel's audit records name the process of a connect, blocking or not, without its
// address and port, and rules go as they came.
func TestAudit(t *testing.T) {
	if os.Getenv("PORTOLAN_LIVE") != "1" { // where packages are tested one by one
		t.Skip("it changes the kernel's audit system: set PORTOLAN_LIVE=1")
	}
	s := newStage(t)
	to := s.listen(t, own4)
	cfg := testConfig()
	cfg.AuditRule = true
	w := watch(t, cfg, (*Agent).RunAudit)
	for _, tt := range []struct {
		name   string
		flags  []string
		result attribute.Result
		errno  unix.Errno
	}{
		{"waits", nil, attribute.Connected, 0},
		{"nonblocking", []string{"-n"}, attribute.InProgress, unix.EINPROGRESS}, // although it succeeds
		{"hidden", []string{"-s"}, attribute.Connected, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			exe := actor(t, "a-"+tt.name)
			args := slices.Concat([]string{exe}, tt.flags, []string{"tcp", own4, strconv.Itoa(int(to.Port()))})
			pid := s.run(t, nil, args...)
			r := w.await(t, attribute.Connect, exe, 1, nil)[0]
			if r.Source != "auditd" || r.Local.IsValid() || r.Remote != to || r.Proto != event.TCP || r.Result != tt.result || r.Errno != uint16(tt.errno) {
				t.Errorf("%s: %s %v → %v, %s, error %d", r.Source, r.Proto, r.Local, r.Remote, r.Result, r.Errno)
			}
			if p := r.Process; p.PID != pid || p.Name != "a-"+tt.name || !slices.Equal(p.Args, args) || p.User != "root" || p.Parent.PID != uint32(os.Getpid()) {
				t.Errorf("process %+v, want %d, %q", p, pid, args)
			}
		})
	}
	t.Run("lives", func(t *testing.T) {
		exe := actor(t, "lives")
		pid, _ := s.start(t, nil, exe, "-w", untilKilled, "tcp", own4, strconv.Itoa(int(to.Port())))
		p := w.await(t, attribute.Connect, exe, 1, nil)[0].Process
		if p.PID != pid || p.Start == 0 || p.NetNS != s.netNS || p.SHA256 != sumOf(t, exe) || p.Parent.Start == 0 {
			t.Errorf("process %+v, want what /proc tells of it", p)
		}
	})
	for _, h := range w.of(attribute.Host, "") {
		if len(h.About.Blind) == 0 || !strings.Contains(h.About.Blind[0], "port") {
			t.Errorf("a Host record does not say what audit records leave out: %+v", h.About)
		}
	}
	w.stop()
	r, err := addRules() // all are added again: none was left
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range auditRules() {
		n += len(c.encode())
	}
	if len(r.added) != n {
		t.Errorf("%d of %d rules were still there", n-len(r.added), n)
	}
	if err := r.remove(); err != nil {
		t.Error(err)
	}
}

// auditLines is a connect as auditd writes it, with a serial number and a port.
func auditLines(serial, port int) string {
	const when = 1_700_000_000
	return fmt.Sprintf(`type=SYSCALL msg=audit(%d.000:%d): arch=c000003e syscall=42 success=yes exit=0 a0=3 a1=1 a2=10 a3=0 items=0 ppid=1 pid=4000000 auid=0 uid=0 comm="x" exe="/x"
type=SOCKADDR msg=audit(%d.000:%d): saddr=0200%04X0A0900010000000000000000
type=EOE msg=audit(%d.000:%d): 
`, when, serial, when, serial, port, when, serial)
}

// TestAuditFile: a log is followed from its end, over a rotation and after it was emptied, and a line
// that is written in pieces is one.
func TestAuditFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	write(auditLines(1, 1001)) // before the agent is there
	w := watch(t, testConfig(), func(a *Agent, ctx context.Context, ready func()) error { return a.RunFile(ctx, name, ready) })
	came := func(port int) {
		t.Helper()
		w.await(t, attribute.Connect, "/x", 1, func(r attribute.Record) bool { return int(r.Remote.Port()) == port })
	}
	write(auditLines(2, 1002))
	came(1002)

	whole := auditLines(3, 1003)
	write(whole[:100])
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	old, err := os.OpenFile(name+".1", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.WriteString(whole[100:]); err != nil {
		t.Fatal(err)
	}
	old.Close()
	came(1003) // still read to its end
	write(auditLines(4, 1004))
	came(1004)

	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * pollEvery) // emptied and filled between two looks could not be told from appended
	write(auditLines(5, 1005))
	came(1005)
	w.stop()
	var ports []uint16
	for _, r := range w.of(attribute.Connect, "/x") {
		if r.Remote.Addr() != netip.MustParseAddr(own4) {
			t.Errorf("to %v", r.Remote)
		}
		ports = append(ports, r.Remote.Port())
	}
	if !slices.Equal(ports, []uint16{1002, 1003, 1004, 1005}) {
		t.Errorf("connects to ports %d", ports)
	}
}

// TestTail: lines of any length and in any pieces come out whole, and those that are too long do not.
func TestTail(t *testing.T) {
	long := strings.Repeat("x", maxLine+1)
	text := "one\n\n" + long + "\ntwo\nthree"
	for _, size := range []int{1, 2, 7, 64 << 10, len(text)} {
		var tl lines
		var got []string
		for b := []byte(text); len(b) > 0; b = b[min(size, len(b)):] {
			tl.take(b[:min(size, len(b))], func(line []byte) { got = append(got, string(line)) })
		}
		want := []string{"one", "", "two"}
		if size == len(text) {
			want = []string{"one", "", long, "two"} // a line that came in one piece costs nothing to keep
		}
		if !slices.Equal(got, want) || string(tl.rest) != "three" {
			t.Errorf("pieces of %d bytes: %.80q and %.20q", size, got, tl.rest)
		}
	}
}
