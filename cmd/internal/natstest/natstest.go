// Package natstest runs nats-servers for tests, in processes of their own that can be killed and
// stopped. The test binary is the server: its TestMain begins with Main.
package natstest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// patience is how long a server may take to start.
const patience = 60 * time.Second

// confVariable names the configuration file of a process that is a server.
const confVariable = "PORTOLAN_TEST_NATS_SERVER"

// Main is a nats-server, and does not return, in a process that Server started. Elsewhere it does nothing.
func Main() {
	conf := os.Getenv(confVariable)
	if conf == "" {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test's process, however that ends
		os.Exit(1)
	}()
	if err := serve(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(conf string) error {
	o, err := server.ProcessConfigFile(conf)
	if err != nil {
		return err
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return err
	}
	srv.ConfigureLogger()
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		return fmt.Errorf("not ready after %v", patience)
	}
	srv.WaitForShutdown()
	return nil
}

// Server is a nats-server in a process of its own. One goroutine at a time may use it.
type Server struct {
	URL string // without user and password; the same after every start

	t    testing.TB
	conf string
	port int
	cmd  *exec.Cmd
	life io.Closer // the process ends with it
}

// Start runs a nats-server with JetStream on a port of 127.0.0.1 that it keeps over restarts, until
// the test ends. More goes into its configuration; where that says nothing of jetstream, it is on.
func Start(t testing.TB, name, more string) *Server {
	t.Helper()
	s := New(t, name, more)
	s.Start()
	return s
}

// New is Start that leaves the start to the caller.
func New(t testing.TB, name, more string) *Server {
	t.Helper()
	s := &Server{t: t, conf: filepath.Join(t.TempDir(), "nats.conf"), port: Port(t)}
	s.URL = fmt.Sprintf("nats://127.0.0.1:%d", s.port)
	s.Configure(name, more)
	t.Cleanup(s.Kill)
	return s
}

// Configure changes what the next start finds in the configuration file.
func (s *Server) Configure(name, more string) {
	s.t.Helper()
	if !strings.Contains(more, "jetstream") {
		more += fmt.Sprintf("\njetstream { store_dir: %q }", filepath.Join(filepath.Dir(s.conf), "store"))
	}
	text := fmt.Sprintf("server_name: %q\nlisten: 127.0.0.1:%d\nlog_file: %q\n%s\n", name, s.port, s.log(), more)
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) log() string { return s.conf + ".log" }

// Start starts the server and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.Launch()
	s.Await()
}

// Launch starts the server and does not wait: servers of a cluster wait for each other.
func (s *Server) Launch() {
	s.t.Helper()
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), confVariable+"="+s.conf)
	s.cmd.Stderr = os.Stderr
	life, err := s.cmd.StdinPipe()
	if err == nil {
		s.life, err = life, s.cmd.Start()
	}
	if err != nil {
		s.cmd = nil
		s.t.Fatal(err)
	}
}

// Await waits until the server answers.
func (s *Server) Await() {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "nats://"))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
			if err == nil {
				return
			}
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(s.log())
			s.t.Fatalf("the server does not start: %v\n%s", err, log)
		}
	}
}

// Signal sends a signal, such as SIGCONT. After SIGSTOP it waits until every thread stands still.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(patience); sig == syscall.SIGSTOP && !s.stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("the server does not stop")
		}
	}
}

// stopped reports whether all threads are, by the field behind the name in their stat (proc(5)).
func (s *Server) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.cmd.Process.Pid))
	for _, name := range threads {
		stat, err := os.ReadFile(name)
		if err != nil {
			return false // it has just ended: look again
		}
		if _, state, ok := strings.Cut(string(stat), ") "); !ok || !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return len(threads) > 0
}

// Kill ends the server as a power cut would, unless it has ended, and waits for it.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // also one that stands still
	_ = s.cmd.Wait()
	_ = s.life.Close()
	s.cmd = nil
}

// Port returns a TCP port of 127.0.0.1 on which nothing listens, and which nobody else is given
// until the test ends: a server may come and go there. A socket holds it that is bound and does not
// listen. Linux lets another share the port when both set SO_REUSEADDR, as Go's listeners do, and
// passes it over when it picks a port for somebody itself.
func Port(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return at.(*unix.SockaddrInet4).Port
}
