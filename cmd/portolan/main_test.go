package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"portolan/cmd/internal/natstest"

	"portolan/cmd/internal/lab"
)

func TestMain(m *testing.M) {
	natstest.Main()
	testscript.Main(m, map[string]func(){
		"portolan": func() { os.Exit(mainStatus()) },
	})
}

// TestScripts runs the commands as people do, through main.
func TestScripts(t *testing.T) { runScripts(t, "script") }

// TestLiveScripts runs what captures on interfaces.
func TestLiveScripts(t *testing.T) {
	if err := lab.Check(); err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	runScripts(t, "live")
}

// TestAuditScripts runs where packages are tested one by one: the audit system is the kernel's alone, and a test
// of another package that ends it would end it for all.
func TestAuditScripts(t *testing.T) {
	if os.Getenv("PORTOLAN_LIVE") != "1" {
		t.Skip("it changes the kernel's audit system: set PORTOLAN_LIVE=1")
	}
	if err := lab.Check(); err != nil {
		t.Fatal(err)
	}
	runScripts(t, "audit")
}

func runScripts(t *testing.T, dir string) {
	pcap, err := filepath.Abs(filepath.Join("..", "..", "testdata", "pcap"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", dir),
		Setup: func(e *testscript.Env) error {
			none := filepath.Join(e.WorkDir, "none.yaml")
			e.Setenv("PCAP", pcap)
			e.Setenv("PORTOLAN_CONFIG", none) // whatever this machine has in /etc
			e.Setenv("PORTOLAN_SENSOR", "tester")
			e.Setenv("PORTOLAN_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("FREE_PORT", strconv.Itoa(natstest.Port(e.T().(testing.TB))))
			return os.WriteFile(none, nil, 0o600)
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  scriptStatus,
			"nats":    scriptNATS,
			"head":    scriptHead,
			"waitfor": scriptWaitFor,
		},
	})
}

// scriptStatus is "status N command…": the command has to end with exit status N.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command [args...]")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// scriptHead is "head N from to": the first N bytes of a file as another.
func scriptHead(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: head N from to")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b[:n], 0o600))
}

// patience is how long a script waits for what has to happen.
const patience = 60 * time.Second

// scriptWaitFor is "waitfor command…": the command is run until it ends well.
func scriptWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: waitfor command [args...]")
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v after %v", err, patience)
		}
	}
}

// scriptNATS is "nats": a server with JetStream, for whoever has the password. It sets
// NATS_URL, with the password, and NATS_WRONG, with another.
func scriptNATS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: nats")
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: ts.MkAbs("nats"), NoSigs: true, NoLog: true,
		Username: "tester", Password: "right",
	})
	ts.Check(err)
	s.Start()
	ts.Defer(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		ts.Fatalf("nats server not ready")
	}
	addr := s.Addr().String()
	ts.Setenv("NATS_URL", "nats://tester:right@"+addr)
	ts.Setenv("NATS_WRONG", "nats://tester:wrong@"+addr)
}
