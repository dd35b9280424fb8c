package audit

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/feedtest"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// childEnv makes this test's program connect to the ports it names, and nothing else.
const childEnv = "PORTOLAN_AUDIT_CHILD"

func TestMain(m *testing.M) {
	if ports := os.Getenv(childEnv); ports != "" {
		if err := child(strings.Split(ports, ",")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child connects to an open port, blocking and not, to a closed one, by IPv6, and sends two
// datagrams; what fails as it should is no error.
func child(ports []string) error {
	var p [3]int
	for i := range p {
		var err error
		if p[i], err = strconv.Atoi(ports[i]); err != nil {
			return err
		}
	}
	open4, closed4, open6 := p[0], p[1], p[2]
	local := [4]byte{127, 0, 0, 1}
	for _, c := range []struct {
		family, kind int
		to           syscall.Sockaddr
		want         error
	}{
		{syscall.AF_INET, syscall.SOCK_STREAM, &syscall.SockaddrInet4{Addr: local, Port: open4}, nil},
		{syscall.AF_INET, syscall.SOCK_STREAM | syscall.SOCK_NONBLOCK, &syscall.SockaddrInet4{Addr: local, Port: open4}, syscall.EINPROGRESS},
		{syscall.AF_INET, syscall.SOCK_STREAM, &syscall.SockaddrInet4{Addr: local, Port: closed4}, syscall.ECONNREFUSED},
		{syscall.AF_INET6, syscall.SOCK_STREAM, &syscall.SockaddrInet6{Addr: netip.IPv6Loopback().As16(), Port: open6}, nil},
		{syscall.AF_INET, syscall.SOCK_DGRAM, &syscall.SockaddrInet4{Addr: local, Port: closed4}, nil},
	} {
		fd, err := syscall.Socket(c.family, c.kind, 0)
		if err != nil {
			return err
		}
		if err := syscall.Connect(fd, c.to); !errors.Is(err, c.want) {
			return fmt.Errorf("connect: %w instead of %w", err, c.want)
		}
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	for range 2 {
		if err := syscall.Sendto(fd, []byte("x"), 0, &syscall.SockaddrInet4{Addr: local, Port: open4}); err != nil {
			return err
		}
	}
	return nil
}

// TestDaemon: auditd itself, writing where this test reads, names the process of each connect.
// It changes the kernel's audit system for its time, which one program at a time can do: so it
// runs with PORTOLAN_LIVE=1 only, where packages are tested one by one.
func TestDaemon(t *testing.T) {
	feedtest.NeedAudit(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.log")
	feedtest.StartAuditd(t, dir, log, "always,exit", "-F", "arch=b64", "-S", "socket,connect,sendto,execve", "-F",
		"ppid="+strconv.Itoa(os.Getpid()), "-k", "portolan-test")

	open4, open6 := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0")
	closed := listen(t, "127.0.0.1:0")
	closed4 := closed.AddrPort()
	closed.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "an argument", strings.Repeat("long ", 100))
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d,%d,%d", childEnv, open4.AddrPort().Port(), closed4.Port(), open6.AddrPort().Port()))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the program that connects: %v\n%s", err, out)
	}
	type fact struct {
		proto  event.Proto
		remote netip.AddrPort
		result attribute.Result
	}
	want := map[fact]bool{
		{event.TCP, open4.AddrPort(), attribute.Connected}:  true,
		{event.TCP, open4.AddrPort(), attribute.InProgress}: true,
		{event.TCP, closed4, attribute.Refused}:             true,
		{event.TCP, open6.AddrPort(), attribute.Connected}:  true,
		{event.UDP, closed4, attribute.Connected}:           true,
		{event.UDP, open4.AddrPort(), attribute.Sent}:       true,
	}
	got := map[fact]bool{}
	feedtest.Wait(t, "auditd's log to hold every connect", func() bool {
		text, err := os.ReadFile(log)
		if err != nil {
			return false
		}
		clear(got)
		p := New(feed.Origin{HostID: "host-1"})
		sink := &records{}
		for line := range bytes.Lines(text) {
			if line, whole := bytes.CutSuffix(line, []byte("\n")); whole {
				if err := p.Line(line, sink); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
			}
		}
		p.Flush(sink)
		for _, r := range sink.all {
			x := &r.Process
			if int(x.PID) != cmd.Process.Pid || x.Executable != self || !x.HasUID || x.UID != 0 || int(x.Parent.PID) != os.Getpid() ||
				len(x.Args) != 3 || x.Args[1] != "an argument" || x.Args[2] != strings.Repeat("long ", 100) {
				t.Fatalf("a record of another process, or of less than all of it: %+v", r)
			}
			f := fact{r.Proto, r.Remote, r.Result}
			if !want[f] || got[f] {
				t.Fatalf("a record too many: %+v", r)
			}
			got[f] = true
		}
		return len(got) == len(want)
	})
}

// records keeps what a Sink is handed.
type records struct {
	nothing
	all []attribute.Record
}

func (s *records) Record(r *attribute.Record) { s.all = append(s.all, *r) }

// port is a listener's.
type port struct{ net.Listener }

func (p port) AddrPort() netip.AddrPort { return p.Addr().(*net.TCPAddr).AddrPort() }

func listen(t *testing.T, address string) port {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return port{l}
}
