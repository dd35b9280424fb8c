package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"portolan/cmd/internal/lab"
	"portolan/cmd/internal/natstest"
)

// output is a writer that can be read while it is written to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns what was written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// await waits until the output holds text.
func (o *output) await(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(o.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q did not appear in:\n%s", text, o)
		}
	}
}

// TestRunStartsWatchesEnds: the sensor says what it sees, serves a subscriber that knows
// only its address, and ends cleanly with a summary when told to.
func TestRunStartsWatchesEnds(t *testing.T) {
	if err := lab.Check(); err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	none := t.TempDir() + "/none.yaml"
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", natstest.Port(t))
	var sensed, watched output
	start := func(stderr *output, args ...string) (stop func() int) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		p := &program{stdin: strings.NewReader(""), stdout: stderr, stderr: stderr, environ: []string{"PORTOLAN_CONFIG=" + none}}
		go func() { ended <- p.run(ctx, args) }()
		return func() int {
			cancel()
			return <-ended
		}
	}
	stopRun := start(&sensed, "run", "-i", "lo", "--listen", address, "--state-dir", t.TempDir()+"/state", "--sensor", "tester")
	sensed.await(t, "msg=capturing")
	stopWatch := start(&watched, "watch", "--nats", "nats://"+address)
	watched.await(t, "waiting for hits")
	sensed.await(t, "coverage: ")
	if status := stopWatch(); status != exitDone {
		t.Errorf("watch ended with status %d:\n%s", status, &watched)
	}
	if status := stopRun(); status != exitDone {
		t.Errorf("run ended with status %d:\n%s", status, &sensed)
	}
	for _, want := range []string{"lo: ", "connections", "coverage      "} {
		if !strings.Contains(sensed.String(), want) {
			t.Errorf("no %q in the summary:\n%s", want, &sensed)
		}
	}
}
