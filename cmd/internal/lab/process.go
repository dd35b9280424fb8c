package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"portolan/sensor/event"
)

// said is what an implant's process tells the lab, one JSON object a line.
type said struct {
	Traffic Traffic
	Contact *Contact
}

// RunImplant is the nth implant, in the network namespace that this process is in, for
// Config.Duration. It tells w what it did, for the lab that started the process and has the same
// configuration.
func RunImplant(ctx context.Context, cfg Config, n int, w io.Writer) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("lab configuration: %w", err)
	}
	p := newPlan(cfg)
	if n < 0 || n >= len(p.implants) {
		return fmt.Errorf("implant %d: want 0 to %d", n, len(p.implants)-1)
	}
	var broken error
	out := json.NewEncoder(w)
	l := &Lab{cfg: cfg, plan: p, tell: func(s said) {
		if err := out.Encode(&s); err != nil && broken == nil {
			broken = fmt.Errorf("tell the lab: %w", err)
		}
	}}
	err := p.implants[n].run(ctx, l.client(len(p.benign)+n), cfg.Duration)
	return both(err, broken)
}

// process runs the nth implant as a process of its own, from a thread in the clients' namespace, and
// takes over what it tells.
func (l *Lab) process(ctx context.Context, c *client, n int) error {
	cmd := l.cfg.Program(ctx, n, c.Role)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	var complaint strings.Builder
	cmd.Stdout, cmd.Stderr = in, &complaint
	err = cmd.Start()
	in.Close()
	if err != nil {
		return fmt.Errorf("start a process: %w", err)
	}
	if err = l.listen(ctx, c, uint32(cmd.Process.Pid), out); err != nil {
		_ = cmd.Process.Kill() // nobody listens to it any more
	}
	if e := cmd.Wait(); e != nil && ctx.Err() == nil {
		err = both(err, fmt.Errorf("%w: %s", e, strings.TrimSpace(complaint.String())))
	}
	return err
}

// listen takes over what an implant's process tells, to its end.
func (l *Lab) listen(ctx context.Context, c *client, pid uint32, from io.Reader) error {
	contacts := 0
	for d := json.NewDecoder(from); ; {
		var s said
		if err := d.Decode(&s); errors.Is(err, io.EOF) || err != nil && ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what a process told: %w", err)
		}
		l.count(s.Traffic)
		if s.Contact == nil {
			continue
		}
		contacts++
		s.Contact.PID = pid
		s.Contact.Rival = l.cfg.Rivals && contacts == l.cfg.Contacts
		if s.Contact.Rival {
			if err := l.rival(ctx, c, s.Contact); err != nil {
				return err
			}
		}
		l.report(*s.Contact)
	}
}

// rival connects from a benign host to where an implant just did.
func (l *Lab) rival(ctx context.Context, c *client, k *Contact) error {
	other := *c
	other.Host = l.plan.hosts[int(k.Source.Addr().As4()[3])%len(l.plan.benign)]
	s, err := other.dial(ctx, k.Proto, k.Destination, nil)
	if err != nil {
		return fmt.Errorf("connect to %v as well: %w", k.Destination, err)
	}
	defer s.Close()
	l.count(Traffic{Connections: 1})
	if _, err := io.WriteString(s, request); err != nil || k.Proto == event.UDP {
		return err
	}
	_, err = io.Copy(io.Discard, s)
	return err
}
