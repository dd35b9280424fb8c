package natstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// A server is killed and comes back on its port.
func TestServer(t *testing.T) {
	s := Start(t, "hub", "")
	for range 3 {
		nc, err := nats.Connect(s.URL, nats.Timeout(patience), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.FlushTimeout(patience); err != nil {
			t.Error(err)
		}
		s.Signal(syscall.SIGSTOP)
		if err := nc.FlushTimeout(50 * time.Millisecond); err == nil {
			t.Error("a server that stands still answers")
		}
		s.Kill()
		nc.Close()
		if c, err := net.Dial("tcp", s.URL[len("nats://"):]); err == nil {
			c.Close()
			t.Error("something listens where the server was")
		}
		s.Start()
	}
}

// A reserved port is nobody else's, and free for who asks for it by number, again and again.
func TestPort(t *testing.T) {
	port := Port(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for range 3 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		peer.Close() // first, so that this side is left in TIME_WAIT
		c.Close()
		l.Close()
	}
	// One that takes any port from a range in which there is no other gets none.
	only := func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port)
		}); e != nil {
			return e
		}
		return err
	}
	any := net.ListenConfig{Control: only}
	l, err := any.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("a range of ports for one socket needs Linux 6.3")
	}
	if err == nil {
		l.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a listener on any port: %v, want %v", err, unix.EADDRINUSE)
	}
}
