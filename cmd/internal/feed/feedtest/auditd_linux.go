package feedtest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// NeedAudit skips the test unless PORTOLAN_LIVE is 1, where packages are tested one by one: there is
// one audit system, and one program at a time can have it. Then it fails when auditd cannot run.
func NeedAudit(t *testing.T) {
	t.Helper()
	if os.Getenv("PORTOLAN_LIVE") != "1" {
		t.Skip("it changes the kernel's audit system: set PORTOLAN_LIVE=1")
	}
	if os.Getuid() != 0 {
		t.Fatal("PORTOLAN_LIVE=1, but only root may change the kernel's audit system")
	}
	for _, program := range []string{"auditd", "auditctl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("PORTOLAN_LIVE=1, but %v: the Debian package is auditd", err)
		}
	}
}

// StartAuditd runs auditd with a configuration and a log of its own, and auditing switched on, with a
// rule that auditctl takes, for the time of the test. It owns dir.
func StartAuditd(t *testing.T, dir, log string, rule ...string) {
	t.Helper()
	Wait(t, "no other audit daemon to run", func() bool { return status(t, "pid") == "0" && status(t, "enabled") == "0" })
	config := "log_file = " + log + "\nlog_group = root\nlog_format = ENRICHED\nflush = DATA\nmax_log_file = 64\nnum_logs = 2\n" +
		"max_log_file_action = IGNORE\nspace_left = 2\nspace_left_action = IGNORE\nadmin_space_left = 1\n" +
		"admin_space_left_action = IGNORE\ndisk_full_action = IGNORE\ndisk_error_action = IGNORE\nplugin_dir = " + dir + "\n"
	if err := os.WriteFile(filepath.Join(dir, "auditd.conf"), []byte(config), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	daemon := exec.CommandContext(ctx, "auditd", "-n", "-c", dir, "-s", "nochange")
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	daemon.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	daemon.Stdout, daemon.Stderr = &out, &out
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && t.Failed() {
			t.Logf("auditd: %v\n%s", err, &out)
		}
	})
	Wait(t, "auditd to begin", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("auditd: %v\n%s", err, &out)
		default:
		}
		return status(t, "pid") == strconv.Itoa(daemon.Process.Pid)
	})
	control(t, "-e", "1")
	t.Cleanup(func() { control(t, "-e", "0") })
	control(t, append([]string{"-a"}, rule...)...)
	t.Cleanup(func() { control(t, append([]string{"-d"}, rule...)...) })
}

// status returns a value of the kernel's audit system.
func status(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(control(t, "-s")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("auditctl -s says nothing of %s", name)
	return ""
}

func control(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("auditctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("auditctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Wait waits until what it waits for is there, half a minute at most.
func Wait(t *testing.T, what string, there func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}
