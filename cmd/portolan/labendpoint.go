package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/endpoint"
	"portolan/cmd/internal/enrich"
	"portolan/cmd/internal/lab"
	"portolan/correlate/attribute"
)

// labUser is the user that the first implant runs as; those after it follow.
const labUser = 61001

// labImplant is the nth implant of a lab, whose process this is, as a user of its own.
func (p *program) labImplant(ctx context.Context, l lab.Config, n int) error {
	user := labUser + n
	err := syscall.Setgroups(nil)
	if err == nil {
		err = syscall.Setgid(user)
	}
	if err == nil {
		err = syscall.Setuid(user)
	}
	if err != nil {
		return fmt.Errorf("become user %d: %w", user, err)
	}
	return lab.RunImplant(ctx, l, n, p.stdout)
}

// labPrograms returns what to run for an implant: this program, under the name of the implant's family,
// so that there is something to be named.
func labPrograms(dir string, l lab.Config) (func(context.Context, int, string) *exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	programs := filepath.Join(dir, "programs")
	first := filepath.Join(programs, "portolan")
	if err := os.Mkdir(programs, 0o755); err != nil {
		return nil, err
	}
	if err := copyProgram(first, self); err != nil {
		return nil, err
	}
	families := lab.Families()
	for _, family := range families {
		if err := os.Link(first, filepath.Join(programs, family)); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, n int, family string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(programs, family), "lab", "--implant", strconv.Itoa(n),
			"--duration", l.Duration.String(), "--contacts", strconv.Itoa(l.Contacts), "--clients", strconv.Itoa(l.Clients))
		cmd.Args[0] = "portolan" // what it is, whatever it is called
		cmd.Env = []string{"PORTOLAN_CONFIG=" + os.DevNull}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}, nil
}

func copyProgram(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// labEndpoint is an agent on the lab's host, and an enricher.
type labEndpoint struct {
	agent *endpoint.Agent
	bus   *bus.Bus // the enricher's connection
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu     sync.Mutex
	failed error
}

// startLabEndpoint returns once the agent sees every connection.
func startLabEndpoint(ctx context.Context, source string, to *bus.Bus, password string, log *slog.Logger) (_ *labEndpoint, err error) {
	c := endpoint.DefaultConfig()
	c.HostID, c.Host, c.Version, c.Log, c.AuditRule = "lab", "lab", thisBuild().Version, log, true
	e := &labEndpoint{}
	ctx, e.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	e.agent, err = endpoint.New(c, to.PublishEndpoint)
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	seeing := sync.OnceFunc(func() { close(ready) })
	run := e.agent.RunKernel
	if source == sourceAuditd {
		run = e.agent.RunAudit
	}
	e.ended.Go(func() { e.fail(run(ctx, seeing)); seeing() })

	b := bus.DefaultConfig()
	at, err := url.Parse(to.URL())
	if err != nil {
		return nil, err
	}
	at.User = url.UserPassword("portolan", password) // whoever comes without may only read hits
	b.URL, b.Name, b.Spool, b.Limit, b.Log = at.String(), "enrich-lab", 0, bus.Limit{}, log
	if e.bus, err = bus.Open(ctx, b); err != nil {
		return nil, err
	}
	n := enrich.DefaultConfig()
	n.Name, n.Log = b.Name, log
	enricher, err := enrich.New(e.bus, n)
	if err != nil {
		return nil, err
	}
	e.ended.Go(func() { e.fail(enricher.Run(ctx)) })
	select {
	case <-ready:
	case <-ctx.Done():
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e, errors.Join(e.failed, context.Cause(ctx))
}

func (e *labEndpoint) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed == nil && err != nil && !errors.Is(err, context.Canceled) {
		e.failed = err
		e.stop()
	}
}

// close ends both, and returns what failed meanwhile.
func (e *labEndpoint) close() error {
	e.stop()
	e.ended.Wait()
	var err error
	if e.bus != nil {
		err = e.bus.Close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.failed, err)
}

// attributionTimeout is how long the last answers may take.
const attributionTimeout = 20 * time.Second

// hearProcesses waits until a process was named, or could not be, for each contact of an implant, and returns all messages.
func (l *listener) hearProcesses(ctx context.Context, truth []lab.Contact) ([]heardHit, error) {
	ctx, cancel := context.WithTimeout(ctx, attributionTimeout)
	defer cancel()
	for {
		l.mu.Lock()
		hits := l.hits
		l.mu.Unlock()
		named := map[flow]bool{}
		for i := range hits {
			if h := &hits[i]; h.named() {
				named[flowOf(h)] = true
			}
		}
		missing := 0
		for i := range truth {
			if !named[truthFlow(&truth[i])] {
				missing++
			}
		}
		if missing == 0 {
			return hits, nil
		}
		select {
		case <-l.heard:
		case <-ctx.Done():
			return hits, nil // what is missing is for the outcome to tell
		}
	}
}

// named reports whether a message says which process, or processes, it was.
func (h *heardHit) named() bool {
	s := h.Portolan.Attribution.Status
	return s == string(attribute.Matched) || s == string(attribute.Ambiguous)
}

// implantNamed says how the processes of one implant were named.
type implantNamed struct {
	Contacts  int            `json:"contacts"`
	Methods   map[string]int `json:"methods"` // how often each was how; "ambiguous" and "unmatched" among them
	Wrong     []string       `json:"wrong"`   // what was not as the implant knows it
	InTime    int            `json:"within_2s"`
	Latency   latency        `json:"wire_to_process"`
	Processes []string       `json:"processes"` // as named, each once
}

// namedWithin is how long after its connection a process should be named. A machine that has other work may take
// longer, which is told and makes no lab fail.
const namedWithin = 2 * time.Second

// judgeProcesses compares what was said of an implant's contacts with what they were. The source
// decides what can be said: audit records hold no port, so a rival for the same destination
// makes a contact ambiguous.
func judgeProcesses(source string, h lab.Host, user uint32, truth []lab.Contact, flows map[flow]*heardFlow) *implantNamed {
	r := &implantNamed{Methods: map[string]int{}, Wrong: []string{}, Processes: []string{}}
	var took []time.Duration
	for i := range truth {
		k := &truth[i]
		if k.Source.Addr() != h.Addr {
			continue
		}
		r.Contacts++
		f := flows[truthFlow(k)]
		if f == nil {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%v: no hit", k.Destination))
			continue
		}
		said := f.last.Portolan.Attribution
		want := string(attribute.ByTuple)
		if source == sourceAuditd {
			if want = string(attribute.ByDestination); k.Rival {
				want = string(attribute.Ambiguous)
			}
		}
		got := said.Method
		if said.Status != string(attribute.Matched) {
			got = said.Status
		}
		r.Methods[got]++
		if got != want {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%v: %s (%s), want %s", k.Destination, got, printable(said.Reason), want))
			continue
		}
		if took = append(took, f.named); f.named <= namedWithin {
			r.InTime++
		}
		if got == string(attribute.Ambiguous) {
			if !hasPID(said.Candidates, k.PID) {
				r.Wrong = append(r.Wrong, fmt.Sprintf("%v: process %d is no candidate", k.Destination, k.PID))
			}
			continue
		}
		p := said.Process
		if p == nil || p.PID != k.PID || filepath.Base(p.Executable) != h.Role || p.UID == nil || *p.UID != user {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%v: %s, want %s, process %d of user %d", k.Destination, processText(p), h.Role, k.PID, user))
			continue
		}
		if text := processText(p); len(r.Processes) == 0 || r.Processes[len(r.Processes)-1] != text {
			r.Processes = append(r.Processes, text)
		}
	}
	r.Latency = latencyOf(took)
	return r
}

func hasPID(list []bus.Process, pid uint32) bool {
	for i := range list {
		if list[i].PID == pid {
			return true
		}
	}
	return false
}

// processText names a process for people.
func processText(p *bus.Process) string {
	if p == nil {
		return "no process"
	}
	user := "?"
	if p.UID != nil {
		user = strconv.FormatUint(uint64(*p.UID), 10)
	}
	return fmt.Sprintf("%s, process %d of user %s", filepath.Base(printable(p.Executable)), p.PID, user)
}

// writeProcesses writes how the processes were named.
func (o *labOutcome) writeProcesses(b *strings.Builder) {
	rows := [][]string{{"implant", "process", "right", "in 2 s", "how", "wire to process, median and longest"}}
	for i := range o.Implants {
		p := o.Implants[i].Process
		var how []string
		for _, method := range slices.Sorted(maps.Keys(p.Methods)) {
			how = append(how, fmt.Sprintf("%d %s", p.Methods[method], method))
		}
		rows = append(rows, []string{
			o.Implants[i].Family, cmp.Or(strings.Join(p.Processes, "; "), "-"), fmt.Sprintf("%d of %d", p.Contacts-len(p.Wrong), p.Contacts), strconv.Itoa(p.InTime),
			strings.Join(how, ", "), lagText(p.Latency.Median) + ", " + lagText(p.Latency.Max),
		})
	}
	b.WriteByte('\n')
	writeTable(b, rows)
	for i := range o.Implants {
		for _, text := range o.Implants[i].Process.Wrong {
			fmt.Fprintf(b, "    %s: %s\n", o.Implants[i].Family, text)
		}
	}
}
