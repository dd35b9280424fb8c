package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a process gave up it cannot get back, so that each test gives it up in a process of its own: this
// one again, with childEnv set.
const childEnv = "PORTOLAN_SANDBOX_CHILD"

func TestMain(m *testing.M) {
	children := map[string]func() error{
		"threads": confinedThreads, "files": confinedFiles, "network": confinedNetwork, "drop": dropped, "user": otherUser,
	}
	if child := children[os.Getenv(childEnv)]; child != nil {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runChild runs a child and returns what it wrote to its standard output.
func runChild(t *testing.T, name string, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, childEnv+"="+name)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, &stderr)
	}
	return stdout.String()
}

// needLandlock skips where the kernel has none.
func needLandlock(t *testing.T) {
	t.Helper()
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno != 0 {
		skip(t, "the kernel has no landlock: "+errno.Error())
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("PORTOLAN_LIVE") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// threads is how many threads are there before anything is given up.
const threads = 24

// onThreads calls f on threads of its own, which are there before and wait for do, and returns
// the first error of any.
func onThreads(do func() error, f func() error) error {
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	failed := make([]error, threads)
	for i := range threads {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends here
			ready.Done()
			<-begin
			failed[i] = f()
		})
	}
	ready.Wait()
	err := do()
	close(begin)
	done.Wait()
	return errors.Join(err, errors.Join(failed...))
}

// statusOf returns a field of /proc/self/task/*/status of every thread.
func statusOf(field string) (values []string, err error) {
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, field+":"); ok {
				values = append(values, strings.TrimSpace(value))
			}
		}
	}
	return values, nil
}

func allAre(field, want string) error {
	values, err := statusOf(field)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(values, func(v string) bool { return v != want }); i >= 0 || len(values) < threads {
		return fmt.Errorf("%s of %d threads is %q, want %q for all", field, len(values), values, want)
	}
	return nil
}

// TestEveryThread: threads that were there before are as confined as those that come later.
func TestEveryThread(t *testing.T) {
	needLandlock(t)
	runChild(t, "threads")
}

func confinedThreads() error {
	forbidden := func() error {
		f, err := os.Open("/etc/passwd")
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("open /etc/passwd: %w, want it denied", err)
		}
		return nil
	}
	again := make(chan struct{})
	var held sync.WaitGroup
	err := onThreads(func() error {
		for range threads { // threads to look at, for as long as the child lives
			held.Go(func() {
				runtime.LockOSThread()
				<-again
			})
		}
		_, err := Confine(Config{Read: []string{"/proc"}})
		return err
	}, forbidden)
	err = errors.Join(err, allAre("NoNewPrivs", "1"))
	err = errors.Join(err, onThreads(func() error { return nil }, forbidden)) // new ones
	close(again)
	held.Wait()
	return err
}

// TestFiles: what is named can be used, in the way that was said, and nothing else.
func TestFiles(t *testing.T) {
	needLandlock(t)
	dir := t.TempDir()
	for _, name := range []string{"state/a", "state/b", "conf", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"state/a/old", "conf/portolan.yaml", "other/file", "other/secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runChild(t, "files", "DIR="+dir)
}

func confinedFiles() error {
	dir := os.Getenv("DIR")
	at := func(name string) string { return filepath.Join(dir, name) }
	_, err := Confine(Config{
		ReadWrite: []string{at("state")},
		Read:      []string{at("conf"), at("other/file"), at("missing")},
	})
	if err != nil {
		return err
	}
	read := func(name string) error { _, err := os.ReadFile(at(name)); return err }
	write := func(name string) error { return os.WriteFile(at(name), []byte("y"), 0o600) }
	for _, c := range []struct {
		what   string
		err    error
		denied bool
	}{
		{"write into the state", write("state/a/new"), false},
		{"replace in the state", write("state/a/old"), false},
		{"move within the state", os.Rename(at("state/a/new"), at("state/b/new")), false},
		{"remove from the state", os.Remove(at("state/b/new")), false},
		{"make a directory in the state", os.Mkdir(at("state/c"), 0o700), false},
		{"link in the state", os.Symlink("/etc", at("state/link")), true},
		{"read the configuration", read("conf/portolan.yaml"), false},
		{"write the configuration", write("conf/portolan.yaml"), true},
		{"read a file", read("other/file"), false},
		{"read its neighbour", read("other/secret"), true},
		{"write elsewhere", write("other/new"), true},
		{"take the configuration away", os.Rename(at("conf/portolan.yaml"), at("state/a/portolan.yaml")), true},
		{"read the system", func() error { _, err := os.ReadDir("/etc"); return err }(), true},
		{"start a program", exec.Command("/bin/true").Run(), true},
	} {
		denied := errors.Is(c.err, os.ErrPermission) || errors.Is(c.err, syscall.EXDEV)
		if denied != c.denied || !denied && c.err != nil {
			err = errors.Join(err, fmt.Errorf("%s: want it denied: %v; got: %w", c.what, c.denied, c.err))
		}
	}
	return err
}

// TestNetwork: connections go to the ports that were named, and nothing new listens.
func TestNetwork(t *testing.T) {
	needLandlock(t)
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	}
	var got Confinement
	if err := json.Unmarshal([]byte(runChild(t, "network", "ALLOWED="+ports[0], "FORBIDDEN="+ports[1])), &got); err != nil {
		t.Fatal(err)
	}
	if got.ABI < abiTCP {
		skip(t, "landlock holds no TCP here: "+got.String())
	}
}

func confinedNetwork() error {
	allowed, err := strconv.ParseUint(os.Getenv("ALLOWED"), 10, 16)
	if err != nil {
		return err
	}
	c, err := Confine(Config{Connect: []uint16{uint16(allowed)}})
	if err != nil {
		return err
	}
	if c.ABI >= abiTCP {
		dial := func(port string) error {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				conn.Close()
			}
			return err
		}
		if e := dial(os.Getenv("ALLOWED")); e != nil {
			err = errors.Join(err, e)
		}
		if e := dial(os.Getenv("FORBIDDEN")); !errors.Is(e, os.ErrPermission) {
			err = errors.Join(err, fmt.Errorf("a connection to another port: %w, want it denied", e))
		}
		fd, e := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if e == nil {
			e = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		}
		if !errors.Is(e, os.ErrPermission) {
			err = errors.Join(err, fmt.Errorf("a new listener: %w, want it denied", e))
		}
	}
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(c))
}

// TestDrop: of the superuser's capabilities one is left, on every thread, and nothing brings another back.
func TestDrop(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "only root has capabilities to drop")
	}
	runChild(t, "drop")
}

func dropped() error {
	one := fmt.Sprintf("%016x", uint64(Set(NetRaw)))
	hold := make(chan struct{})
	var held sync.WaitGroup
	for range threads {
		held.Go(func() {
			runtime.LockOSThread()
			<-hold
		})
	}
	err := onThreads(func() error {
		left, err := Drop(Set(NetRaw, BPF)&^Set(BPF), nil)
		if err == nil && left != Set(NetRaw) {
			err = fmt.Errorf("%v are left, want CAP_NET_RAW", left)
		}
		return err
	}, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return fmt.Errorf("a packet socket: %w", err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
		if err := unix.Sethostname([]byte("x")); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set the host's name: %w, want EPERM", err)
		}
		return nil
	})
	for field, want := range map[string]string{"CapEff": one, "CapPrm": one, "CapBnd": one, "CapAmb": fmt.Sprintf("%016x", 0), "CapInh": fmt.Sprintf("%016x", 0)} {
		err = errors.Join(err, allAre(field, want))
	}
	close(hold)
	held.Wait()
	return err
}

// TestUser: the capability outlives the superuser, on every thread.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "only root can become another user")
	}
	if _, err := Lookup("nobody"); err != nil {
		skip(t, err.Error())
	}
	runChild(t, "user")
}

func otherUser() error {
	nobody, err := Lookup("nobody")
	if err != nil {
		return err
	}
	hold := make(chan struct{})
	var held sync.WaitGroup
	for range threads {
		held.Go(func() {
			runtime.LockOSThread()
			<-hold
		})
	}
	err = onThreads(func() error {
		_, err := Drop(Set(NetRaw), &nobody)
		return err
	}, func() error {
		if os.Geteuid() != nobody.UID || os.Getegid() != nobody.GID {
			return fmt.Errorf("user %d, group %d; want %d and %d", os.Geteuid(), os.Getegid(), nobody.UID, nobody.GID)
		}
		if err := unix.Setuid(0); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("become root again: %w, want EPERM", err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return fmt.Errorf("a packet socket: %w", err)
		}
		return unix.Close(fd)
	})
	err = errors.Join(err, allAre("CapEff", fmt.Sprintf("%016x", uint64(Set(NetRaw)))), allAre("Groups", ""))
	id := strconv.Itoa(nobody.UID)
	err = errors.Join(err, allAre("Uid", strings.Join([]string{id, id, id, id}, "\t")))
	close(hold)
	held.Wait()
	return err
}

// TestLookup: an account that does not exist is said to be none.
func TestLookup(t *testing.T) {
	if _, err := Lookup("no-such-user"); err == nil || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("Lookup of a missing user: %v", err)
	}
	a, err := Lookup("0")
	if err != nil || a.UID != 0 {
		t.Errorf("Lookup(0) = %+v, %v; want the superuser", a, err)
	}
}
