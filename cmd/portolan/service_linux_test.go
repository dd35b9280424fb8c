//go:build cgo

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portolan/cmd/internal/lab"
	"portolan/cmd/internal/natstest"
)

// sensorProcess is "portolan run" in a process of its own, as a service manager starts it.
type sensorProcess struct {
	*exec.Cmd
	stderr  output
	address string // of its metrics
	told    *notified
	ended   chan error
}

// notified is the manager's end of a notification socket.
type notified struct {
	mu   sync.Mutex
	text string
}

func (n *notified) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		n.mu.Lock()
		text := n.text
		n.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the manager was not told %q, but:\n%s", want, text)
		}
	}
}

func (n *notified) count(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Count(n.text, what)
}

// needLive skips where there is neither root nor a network to make.
func needLive(t *testing.T, programs ...string) {
	t.Helper()
	err := lab.Check()
	for _, name := range programs {
		if _, e := exec.LookPath(name); err == nil {
			err = e
		}
	}
	if err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// startSensor starts "portolan run" on lo behind a command line such as setpriv's.
func startSensor(t *testing.T, wrap []string, env []string, args ...string) *sensorProcess {
	t.Helper()
	dir := openDir(t)
	bin := filepath.Join(dir, "portolan")
	copyForOthers(t, bin)
	socket := filepath.Join(dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	p := &sensorProcess{told: &notified{}, address: fmt.Sprintf("127.0.0.1:%d", natstest.Port(t)), ended: make(chan error, 1)}
	var listening sync.WaitGroup
	listening.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := manager.Read(b)
			if err != nil {
				return
			}
			p.told.mu.Lock()
			p.told.text += string(b[:n]) + "\n"
			p.told.mu.Unlock()
		}
	})
	line := slices.Concat(wrap, []string{bin, "run", "-i", "lo", "--sensor", "tester", "--metrics", p.address}, args)
	p.Cmd = exec.Command(line[0], line[1:]...)
	p.Env = append(os.Environ(), append([]string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=400000"}, env...)...)
	p.Stdout, p.Cmd.Stderr = io.Discard, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.Wait() }()
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			<-p.ended
		}
		manager.Close()
		listening.Wait()
		if t.Failed() {
			t.Logf("portolan run wrote:\n%s", &p.stderr)
		}
	})
	return p
}

// stop ends the sensor as a service manager does, and returns how long that took.
func (p *sensorProcess) stop(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("the sensor ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the sensor does not end")
	}
	return time.Since(began)
}

// listeners returns the addresses on which the process listens for TCP, as /proc/net says it: in hex.
func listeners(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	inodes := map[string]bool{}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	const listening = "0A"
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == listening && inodes[f[9]] {
				addresses = append(addresses, f[1])
			}
		}
	}
	return addresses
}

// TestLiveService: a sensor with CAP_NET_RAW alone, as another user, says that it works only when it
// does, tells what it counts, reads its configuration again, listens on loopback only, and has given
// up what it does not need on every thread.
func TestLiveService(t *testing.T) {
	needLive(t, "setpriv")
	dir := openDir(t)
	const nobody = 65534
	state, conf := filepath.Join(dir, "state"), filepath.Join(dir, "portolan.yaml")
	for _, err := range []error{
		os.Mkdir(state, 0o700), os.Chown(state, nobody, nobody), os.WriteFile(conf, []byte("log_level: info\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	alone := []string{
		"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all,+net_raw", "--ambient-caps", "-all,+net_raw",
		"--bounding-set", "-all,+net_raw",
	}
	p := startSensor(t, alone, []string{"PORTOLAN_CONFIG=" + conf},
		"--listen", fmt.Sprintf("127.0.0.1:%d", natstest.Port(t)), "--state-dir", state, "--sandbox", "required")
	p.told.await(t, "READY=1")
	waitReady(t, p.address)
	p.told.await(t, "STATUS=coverage: ")
	p.told.await(t, "WATCHDOG=1")
	p.stderr.await(t, `rights="capabilities CAP_NET_RAW, no_new_privs, landlock (files`)

	want := fmt.Sprintf("%016x", 1<<13)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.Process.Pid))
	if err != nil || len(threads) < 4 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for _, line := range []string{"CapEff:\t" + want, "CapPrm:\t" + want, "CapBnd:\t" + want, "NoNewPrivs:\t1", "Uid:\t65534"} {
			if !strings.Contains(string(text), line) {
				t.Errorf("%s: no %q", path, line)
			}
		}
	}

	own := listeners(t, p.Process.Pid)
	if len(own) != 2 { // NATS and metrics
		t.Errorf("listens on %v, want two addresses", own)
	}
	for _, a := range own {
		if !strings.HasPrefix(a, "0100007F:") {
			t.Errorf("listens on %s, which is not loopback", a)
		}
	}

	names, text := scraped(t, "http://"+p.address+"/metrics")
	known := labelsOf(t)
	for name := range names {
		if strings.HasPrefix(name, "portolan_") && known[name] == nil {
			t.Errorf("%s is not described", name)
		}
	}
	for name := range known {
		if !names[name] && !strings.HasPrefix(name, "portolan_worker_") && !strings.HasPrefix(name, "portolan_observations_") &&
			name != "portolan_last_frame_timestamp_seconds" { // there may have been no frame
			t.Errorf("%s is described, and was not told", name)
		}
	}
	for _, line := range []string{`portolan_frames_total{device="lo",ring="0"}`, `portolan_nats_connected 1`, `portolan_coverage{verdict="partial"}`} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s in:\n%s", line, text)
		}
	}

	for _, step := range []struct{ text, says string }{
		{"log_level: debug\nrings: 1\n", `changed=log_level "stays until a restart"=rings`},
		{"log_level: loud\n", `configuration not read again: what holds stays`},
		{"log_level: info\n", `changed=log_level`},
	} {
		ready := p.told.count("READY=1")
		if err := os.WriteFile(conf, []byte(step.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.stderr.await(t, step.says)
		for end := time.Now().Add(patience); p.told.count("READY=1") == ready; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no READY=1 after the reload")
			}
		}
	}
	if p.told.count("RELOADING=1\nMONOTONIC_USEC=") != 3 {
		t.Errorf("the manager was not told of three reloads:\n%s", p.told.text)
	}
	p.stop(t)
	p.told.await(t, "STOPPING=1")
}

// openDir returns a directory that other users can enter, unlike those of t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "portolan-service-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyForOthers puts this test's program where other users can run it: by the name of portolan it is that.
func copyForOthers(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, from); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLiveDefaultsListenOnLoopback: without a word about addresses the sensor listens on loopback only.
func TestLiveDefaultsListenOnLoopback(t *testing.T) {
	needLive(t, "unshare", "sh")
	p := startSensor(t, []string{"unshare", "--net", "sh", "-c", `ip link set lo up; exec "$@"`, "sh"}, []string{"PORTOLAN_CONFIG=/dev/null"},
		"--state-dir", filepath.Join(t.TempDir(), "state"))
	p.told.await(t, "READY=1")
	own := listeners(t, p.Process.Pid)
	if len(own) != 2 {
		t.Errorf("listens on %v, want NATS and the metrics that were asked for", own)
	}
	for _, a := range own {
		if !strings.HasPrefix(a, "0100007F:") {
			t.Errorf("listens on %s, which is not loopback", a)
		}
	}
	p.stop(t)
}

// TestLiveStopWhileServerAway: told to end while the server is away, a sensor ends in time, and what it found
// arrives with the next one.
func TestLiveStopWhileServerAway(t *testing.T) {
	needLive(t)
	srv := natstest.Start(t, "hub", "")
	state := filepath.Join(t.TempDir(), "state")
	start := func() *sensorProcess {
		p := startSensor(t, nil, []string{"PORTOLAN_CONFIG=/dev/null"}, "--nats", srv.URL, "--state-dir", state, "--json")
		p.told.await(t, "READY=1")
		return p
	}
	p := start()
	waitMetric(t, p.address, "portolan_nats_connected", func(v float64) bool { return v == 1 })
	srv.Kill()
	waitMetric(t, p.address, "portolan_nats_connected", func(v float64) bool { return v == 0 })
	const wanted = 5
	socket := packetSocket(t, "lo") // to nobody's address: the host itself takes none of it
	for i := range uint32(wanted) {
		answer, start := pairFrames(t, addrOf(0x0A010000+i), i)
		write(t, socket, answer)
		write(t, socket, start)
	}
	waitMetric(t, p.address, `portolan_hits_total{level="alert"}`, func(v float64) bool { return v >= wanted })
	made := waitMetric(t, p.address, "portolan_messages_pending", func(v float64) bool { return v >= wanted })
	if took := p.stop(t); took > 5*time.Second && os.Getenv("PORTOLAN_SOAK") == "1" {
		t.Errorf("the sensor took %v to end, want at most 5s", took)
	} else {
		t.Logf("ended after %v with %v messages in the spool", took, made)
	}
	srv.Start()
	p = start()
	recovered := waitMetric(t, p.address, `portolan_messages_total{outcome="recovered"}`, func(v float64) bool { return v >= made })
	waitMetric(t, p.address, `portolan_messages_total{outcome="stored"}`, func(v float64) bool { return v >= recovered })
	for _, place := range []string{"queue", "spool", "disk"} {
		waitMetric(t, p.address, `portolan_messages_lost_total{place="`+place+`"}`, func(v float64) bool { return v == 0 })
	}
	p.stop(t)
}

// waitMetric waits until a metric has a value, and returns it.
func waitMetric(t *testing.T, address, name string, ok func(float64) bool) float64 {
	t.Helper()
	last := "nothing"
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
			if text, found := strings.CutPrefix(s.Text(), name+" "); found {
				last = text
				if v, err := strconv.ParseFloat(text, 64); err == nil && ok(v) {
					return v
				}
			}
		}
	}
	t.Fatalf("%s is %s", name, last)
	return 0
}

// TestStateDirectory: one that others could read or change is refused, with what mends it.
func TestStateDirectory(t *testing.T) {
	dir := t.TempDir()
	closed, open, link := filepath.Join(dir, "closed"), filepath.Join(dir, "open"), filepath.Join(dir, "link")
	for _, err := range []error{os.Mkdir(closed, 0o700), os.Mkdir(open, 0o755), os.Symlink(closed, link), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p := &program{}
	for _, name := range []string{"closed", "new/below"} {
		if err := p.prepareStateDir(filepath.Join(dir, name), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "new", "below")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a directory that was missing was made with %v, %v", info, err)
	}
	refused := map[string][2]string{
		open:                       {"mode 0755", "chmod 700 " + open},
		link:                       {"symbolic link", "--state-dir " + closed},
		filepath.Join(dir, "file"): {"not a directory", ""},
	}
	for _, path := range slices.Sorted(maps.Keys(refused)) {
		want := refused[path]
		err := p.prepareStateDir(path, nil)
		if err == nil || !strings.Contains(err.Error(), want[0]) || want[1] != "" && hintFor(err) != want[1] {
			t.Errorf("%s: %v, hint %q; want %q", path, err, hintFor(err), want)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(closed, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := p.prepareStateDir(closed, nil); err == nil || hintFor(err) != fmt.Sprintf("chown -R 0:0 %s", closed) {
		t.Errorf("the directory of another user: %v", err)
	}
}

// packetSocket returns a socket that sends frames through a device.
func packetSocket(t *testing.T, device string) int {
	t.Helper()
	l, err := net.InterfaceByName(device)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Index}); err != nil {
		t.Fatal(err)
	}
	return fd
}
