package health

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells the service manager of systemd what the process does: sd_notify(3), over the socket
// in $NOTIFY_SOCKET. A nil Notifier tells nobody. Its methods are safe for concurrent use. What
// cannot be delivered is lost: there is nobody else to tell.
type Notifier struct {
	conn  *net.UnixConn
	every time.Duration
}

// NewNotifier returns a Notifier for what the environment says, nil when no manager asked to be
// told. The socket is opened once, so that it can be used when the file system no longer can.
func NewNotifier(getenv func(string) string) (*Notifier, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "@") { // vsock, for machines
		return nil, fmt.Errorf("NOTIFY_SOCKET %q: neither a path nor an abstract socket", path)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	n := &Notifier{conn: conn}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if pid := getenv("WATCHDOG_PID"); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(usec) * time.Microsecond / 2
	}
	return n, nil
}

// WatchdogEvery returns the time after which Watchdog is to be called again, half of what the
// manager waits for; 0 when it does not.
func (n *Notifier) WatchdogEvery() time.Duration {
	if n == nil {
		return 0
	}
	return n.every
}

// Ready says that the process does its work, or does again after a reload.
func (n *Notifier) Ready() { n.send("READY=1") }

// Watchdog says that the process makes progress.
func (n *Notifier) Watchdog() { n.send("WATCHDOG=1") }

// Stopping says that the process is about to end.
func (n *Notifier) Stopping() { n.send("STOPPING=1") }

// Reloading says that the process reads its configuration again; Ready says that it has.
func (n *Notifier) Reloading() {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return
	}
	n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(t.Nano()/1000, 10))
}

// Status says in one line how the process fares.
func (n *Notifier) Status(text string) {
	n.send("STATUS=" + strings.Join(strings.Fields(text), " ")) // a line of its own could say anything
}

// Close closes the socket.
func (n *Notifier) Close() {
	if n != nil {
		n.conn.Close()
	}
}

func (n *Notifier) send(text string) {
	if n == nil {
		return
	}
	// The manager may be slow: nothing of ours waits for it for long.
	_ = n.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = n.conn.Write([]byte(text))
}
