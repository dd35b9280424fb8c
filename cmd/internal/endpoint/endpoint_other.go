//go:build !linux

package endpoint

import (
	"context"
	"errors"
	"io"
)

// AuditLost and AuditCommands are for Linux.
const (
	AuditLost     = "everything"
	AuditCommands = "none"
)

// Agent watches a Linux host; elsewhere there is none.
type Agent struct{}

var errLinux = errors.New("connects are watched on Linux alone")

// New returns an error.
func New(Config, Emit) (*Agent, error) { return nil, errLinux }

// Stats returns nothing.
func (*Agent) Stats() Stats { return Stats{} }

// RunKernel returns an error.
func (*Agent) RunKernel(context.Context, func()) error { return errLinux }

// RunAudit returns an error.
func (*Agent) RunAudit(context.Context, func()) error { return errLinux }

// RunFile returns an error.
func (*Agent) RunFile(context.Context, string, func()) error { return errLinux }

// RunLines returns an error.
func (*Agent) RunLines(context.Context, io.Reader, func()) error { return errLinux }
