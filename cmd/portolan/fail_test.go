package main

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

// Ctrl-C is nobody's fault: wherever it cut something short, no remedy is offered.
func TestInterruptHasNoHint(t *testing.T) {
	var stderr bytes.Buffer
	p := &program{stderr: &stderr}
	err := withHint(fmt.Errorf("stream PORTOLAN_OPS: %w", context.Canceled), "the server needs a directory")
	if got := p.report(err); got != exitFailed {
		t.Errorf("status %d, want %d", got, exitFailed)
	}
	if got, want := stderr.String(), "portolan: interrupted\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
