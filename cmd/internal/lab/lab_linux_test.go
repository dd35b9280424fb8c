package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// deadline bounds what a test waits for; nothing comes near it unless it is broken.
const deadline = 30 * time.Second

// inSpace runs fn in a network namespace made for the test, which plays the caller's. It skips
// the test where that cannot be done. fn reports by t.Errorf and its error: it must not end its goroutine.
func inSpace(t *testing.T, fn func() error) {
	t.Helper()
	if err := Check(); err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	s, err := newSpace(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.do(fn); err != nil {
		t.Fatal(err)
	}
}

func short() Config {
	cfg := DefaultConfig()
	cfg.Duration = 2 * time.Second
	return cfg
}

// traces is what a lab could leave behind.
type traces struct {
	links   []string // in the calling thread's namespace
	open    int      // sockets and namespaces among the process's descriptors
	threads []string // namespaces that its threads are in
	process string   // namespace of its first thread
}

func (a traces) equal(b traces) bool {
	return slices.Equal(a.links, b.links) && a.open == b.open && a.process == b.process && slices.Equal(a.threads, b.threads)
}

func findTraces() (f traces, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return f, err
	}
	for _, l := range links {
		f.links = append(f.links, l.Attrs().Name)
	}
	descriptors, _ := filepath.Glob("/proc/self/fd/*")
	for _, d := range descriptors {
		if to, err := os.Readlink(d); err == nil && (strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "net:")) {
			f.open++
		}
	}
	threads, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, th := range threads {
		if ns, err := os.Readlink(th); err == nil && !slices.Contains(f.threads, ns) {
			f.threads = append(f.threads, ns)
		}
	}
	slices.Sort(f.threads)
	f.process, err = os.Readlink("/proc/self/ns/net")
	return f, err
}

// leavesNothing runs fn and then waits until no trace is left that was not there before: the runtime
// and the kernel end threads and namespaces in their own time.
func leavesNothing(t *testing.T, fn func() error) error {
	var before traces
	var err error
	if !eventually(func() bool { // until the threads of Check have ended too
		before, err = findTraces()
		return err != nil || len(before.threads) == 2
	}) || err != nil {
		return fmt.Errorf("want threads at home and in the test's namespace alone: %+v (%s)", before, fmt.Sprint(err))
	}
	if err := fn(); err != nil {
		return err
	}
	var after traces
	if !eventually(func() bool {
		after, err = findTraces()
		return err == nil && after.equal(before)
	}) {
		t.Errorf("before: %+v\nafter:  %+v (%v)", before, after, err)
	}
	return nil
}

// eventually reports whether ok came true before the deadline.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

func TestCloseLeavesNothing(t *testing.T) {
	inSpace(t, func() error {
		return leavesNothing(t, func() error {
			cfg := short()
			cfg.Duration = time.Second
			l, err := Start(t.Context(), cfg)
			if err != nil {
				return err
			}
			defer l.Close()
			if f, err := findTraces(); err != nil || !slices.Contains(f.links, l.MirrorDevice()) {
				t.Errorf("links %v (%v), want %s among them", f.links, err, l.MirrorDevice())
			}
			if err := l.Run(t.Context()); err != nil {
				return err
			}
			if err := l.Close(); err != nil {
				return err
			}
			// The mirror does not wait for the kernel to get round to the namespaces.
			if _, err := netlink.LinkByName(l.MirrorDevice()); !errors.As(err, new(netlink.LinkNotFoundError)) {
				t.Errorf("find %s after close: %v, want it gone", l.MirrorDevice(), err)
			}
			if err := l.Run(t.Context()); !errors.Is(err, errClosed) {
				t.Errorf("run after close: %v, want %v", err, errClosed)
			}
			return l.Close()
		})
	})
}

func TestCancelEndsRunAndLeavesNothing(t *testing.T) {
	inSpace(t, func() error {
		return leavesNothing(t, func() error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cfg := short()
			cfg.Duration = time.Hour
			cfg.Contacts = 64
			l, err := Start(ctx, cfg)
			if err != nil {
				return err
			}
			defer l.Close()
			go func() {
				eventually(func() bool { return l.Traffic().Connections > 20 })
				cancel()
			}()
			if err := l.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("run: %v, want %v", err, context.Canceled)
			}
			return l.Close()
		})
	})
}

func TestCloseEndsRun(t *testing.T) {
	inSpace(t, func() error {
		return leavesNothing(t, func() error {
			cfg := short()
			cfg.Duration = time.Hour
			l, err := Start(t.Context(), cfg)
			if err != nil {
				return err
			}
			closed := make(chan error, 1)
			go func() {
				eventually(func() bool { return l.Traffic().Connections > 20 })
				closed <- l.Close()
			}()
			if err := l.Run(t.Context()); !errors.Is(err, errClosed) {
				t.Errorf("run: %v, want %v", err, errClosed)
			}
			return <-closed
		})
	})
}

func TestFailedStartLeavesNothing(t *testing.T) {
	inSpace(t, func() error {
		return leavesNothing(t, func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := Start(ctx, short()); !errors.Is(err, context.Canceled) {
				t.Errorf("start: %v, want %v", err, context.Canceled)
			}
			twice := planOf(1).clientAddrs()
			twice = append(twice, twice[0])
			if _, err := buildNetwork(twice, false); !errors.Is(err, unix.EEXIST) {
				t.Errorf("build a network with one address twice: %v, want %v", err, unix.EEXIST)
			}
			p := planOf(1)
			n, err := buildNetwork(p.clientAddrs(), false)
			if err != nil {
				return err
			}
			p.tcp = append(p.tcp, p.tcp[0])
			if err := n.server.do(func() error {
				_, err := startServers(p)
				return err
			}); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("listen on one port twice: %v, want %v", err, unix.EADDRINUSE)
			}
			return n.close()
		})
	})
}

// A killed process takes its namespaces and the mirror along.
func TestKillLeavesNothing(t *testing.T) {
	if os.Getenv(childKey) == "start" {
		l, err := Start(t.Context(), short())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		fmt.Printf("mirror %s\n", l.MirrorDevice())
		_ = l.Run(t.Context())
		select {} // until killed
	}
	inSpace(t, func() error {
		return leavesNothing(t, func() error {
			// The child is forked by this thread and so begins in its namespace.
			child := child(t.Name(), "start")
			out, err := child.StdoutPipe()
			if err != nil {
				return err
			}
			if err := child.Start(); err != nil {
				return err
			}
			name := ""
			for s := bufio.NewScanner(out); name == "" && s.Scan(); {
				name, _ = strings.CutPrefix(s.Text(), "mirror ")
			}
			if _, err := netlink.LinkByName(name); err != nil {
				t.Errorf("while the child lives: find %q: %v", name, err)
			}
			if err := child.Process.Kill(); err != nil {
				return err
			}
			_ = child.Wait() // killed, as it should be
			return nil
		})
	})
}

const childKey = "PORTOLAN_LAB_CHILD"

// child returns a command that runs one test of this binary with childKey set to what.
func child(test, what string) *exec.Cmd {
	c := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.timeout="+deadline.String())
	c.Env = append(os.Environ(), childKey+"="+what)
	c.Stderr = os.Stderr
	return c
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	if os.Getenv(childKey) == "check" {
		fmt.Printf("check: %v\n", Check())
		return
	}
	inSpace(t, func() error {
		// Without these two in this thread's bounding set, a program it starts has them no more.
		for _, c := range []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN} {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return err
			}
		}
		out, err := child(t.Name(), "check").Output()
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(string(out), "\n")
		if !strings.HasPrefix(line, "check: the lab needs root") || !strings.HasSuffix(line, unix.EPERM.Error()) {
			t.Errorf("%q, want what the lab needs and why", line)
		}
		return nil
	})
}

// What a thread does in another namespace stays on that thread, wherever the caller ran.
func TestFreshThreadsDoNotReturn(t *testing.T) {
	inSpace(t, func() error { return nil })
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	for range 20 {
		s, err := newSpace(func() error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		err = s.do(func() error {
			here, err := netns.Get()
			if err != nil {
				return err
			}
			defer here.Close()
			if here.Equal(home) {
				return errors.New("still at home")
			}
			return nil
		})
		if err := errors.Join(err, s.close()); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 * runtime.GOMAXPROCS(0) {
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			here, err := netns.Get()
			if err == nil && !here.Equal(home) {
				err = errors.New("a thread came back from elsewhere")
			}
			here.Close()
			done <- err
		}()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestBeImplant is the process of an implant, for TestImplantProcesses.
func TestBeImplant(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("LAB_IMPLANT"))
	if err != nil {
		t.Skip("started by TestImplantProcesses alone")
	}
	if err := RunImplant(t.Context(), processes(), n, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0) // before package testing says anything
}

func processes() Config {
	cfg := short()
	cfg.Contacts = 2
	cfg.Rivals = true
	return cfg
}

// TestImplantProcesses: implants that are processes of their own do what those within the lab do, and
// the lab knows of it; with rivals, the last contact of each is not alone.
func TestImplantProcesses(t *testing.T) {
	inSpace(t, func() error {
		cfg := processes()
		started := map[uint32]string{}
		var mu sync.Mutex
		var commands []*exec.Cmd
		cfg.Program = func(ctx context.Context, n int, family string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestBeImplant$")
			cmd.Env = append(os.Environ(), fmt.Sprint("LAB_IMPLANT=", n))
			mu.Lock()
			defer mu.Unlock()
			commands = append(commands, cmd)
			return cmd
		}
		l, err := Start(t.Context(), cfg)
		if err != nil {
			return err
		}
		defer l.Close()
		if err := l.Run(t.Context()); err != nil {
			return err
		}
		for _, cmd := range commands {
			started[uint32(cmd.Process.Pid)] = ""
		}
		alone, rivals := 0, 0
		for _, k := range l.Truth() {
			family, known := started[k.PID]
			if !known || family != "" && family != k.Family {
				t.Errorf("a contact of %s by process %d, which is another's (%q)", k.Family, k.PID, family)
			}
			started[k.PID] = k.Family
			if k.Rival {
				rivals++
			} else {
				alone++
			}
		}
		if n := len(families()); len(started) != n || alone != n || rivals != n {
			t.Errorf("%d processes made %d contacts alone and %d with a rival, want %d of each", len(started), alone, rivals, n)
		}
		return l.Close()
	})
}
