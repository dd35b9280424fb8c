// Command portolan watches a mirror port for connections whose port or destination was
// calculated from DNS answers (ATT&CK T1568.003, analytic AN0729) and reports them over NATS.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() { os.Exit(mainStatus()) }

// mainStatus runs the program on this process' arguments and returns its exit status.
// SIGINT and SIGTERM end the context once; a second one kills.
func mainStatus() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	p := &program{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		environ: os.Environ(),
		alone:   true,
	}
	return p.run(ctx, os.Args[1:])
}

// program is what a command may touch of the world outside.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string // NAME=value
	alone          bool     // the process does nothing else: what it gives up, nobody misses
}

// getenv returns an environment variable, "" when it is not set.
func (p *program) getenv(name string) string {
	for _, kv := range p.environ {
		if text, ok := strings.CutPrefix(kv, name+"="); ok {
			return text
		}
	}
	return ""
}

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// run does what the arguments say, reports an error on stderr, and returns the exit status.
func (p *program) run(ctx context.Context, args []string) int {
	err := p.dispatch(ctx, args)
	if err == nil {
		return exitDone
	}
	return p.report(err)
}

// dispatch finds the command that the first argument names, and runs it on the rest.
func (p *program) dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.Join(&usageError{quiet: true}, writeOverview(p.stderr))
	}
	switch args[0] {
	case "-h", "-help", "--help":
		return writeOverview(p.stdout)
	case "-version", "--version":
		args = []string{"version"}
	}
	c, err := findCommand(args[0])
	if err != nil {
		return err
	}
	return c.run(ctx, p, args[1:])
}
