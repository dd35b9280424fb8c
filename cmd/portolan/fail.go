package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"portolan/cmd/internal/config"
)

// usageError is a mistake in what was typed; the exit status is 2.
type usageError struct {
	text, hint string
	quiet      bool // the message has been written
}

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// hinted is an error with a remedy that only its maker knows.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// statusError ends a command that has said all there is to say with an exit status of its own.
type statusError int

// Error returns a text for nobody.
func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func withHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

// silent ends a command with exit status 1 after it has said all there is to say.
type silent struct{ error }

// report writes an error on one line, a hint on the next when there is a remedy, and
// returns the exit status.
func (p *program) report(err error) int {
	var usage *usageError
	if errors.As(err, &usage) {
		if !usage.quiet {
			fmt.Fprintf(p.stderr, "portolan: %v\n", err)
			p.hint(usage.hint)
		}
		return exitUsage
	}
	var done silent
	if errors.As(err, &done) {
		return exitFailed
	}
	var status statusError
	if errors.As(err, &status) {
		return int(status)
	}
	if errors.Is(err, syscall.EPIPE) {
		return exitFailed // whoever read our output has left, as head does
	}
	if errors.Is(err, context.Canceled) { // what was under way, no matter where it was cut short, has no fault
		fmt.Fprintln(p.stderr, "portolan: interrupted")
		return exitFailed
	}
	fmt.Fprintf(p.stderr, "portolan: %v\n", err)
	var file *config.FileError
	if errors.As(err, &file) {
		fmt.Fprint(p.stderr, file.Excerpt)
		p.hint(file.Hint)
		return exitFailed
	}
	p.hint(hintFor(err))
	return exitFailed
}

func (p *program) hint(text string) {
	if text != "" {
		fmt.Fprintf(p.stderr, "portolan: hint: %s\n", text)
	}
}

// hintFor returns a remedy for an error, or "".
func hintFor(err error) string {
	var h *hinted
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.Is(err, fs.ErrNotExist):
		return "check the path"
	case errors.Is(err, fs.ErrPermission):
		return "the user who runs this may not read it; try sudo, or change its permissions"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full; --state-dir puts the streams elsewhere"
	}
	return ""
}
