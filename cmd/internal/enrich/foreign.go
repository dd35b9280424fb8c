package enrich

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/process"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Foreign is a subject under which another program publishes what it saw, a line or several in a message.
type Foreign struct {
	Subject string // may have wildcards, but in its first token
	Format  process.Format
}

// ParseForeign reads SUBJECT=FORMAT.
func ParseForeign(text string) (Foreign, error) {
	subject, format, ok := strings.Cut(text, "=")
	if !ok {
		return Foreign{}, fmt.Errorf("%q: want SUBJECT=FORMAT, such as falco.events=falco", text)
	}
	f, err := process.ParseFormat(format)
	if err != nil {
		return Foreign{}, err
	}
	x := Foreign{subject, f}
	return x, x.Validate()
}

// Validate returns an error for a subject that is none, or that may be one of ours: what is imported would be
// imported again, as our records are ECS.
func (f Foreign) Validate() error {
	tokens := strings.Split(f.Subject, ".")
	for i, t := range tokens {
		if t == "" || strings.ContainsAny(t, " \t\r\n") || t == ">" && i < len(tokens)-1 {
			return fmt.Errorf("subject %q: want tokens parted by dots, each a word or *, or > at the end", f.Subject)
		}
	}
	switch first := tokens[0]; {
	case first == "*" || first == ">":
		return fmt.Errorf("subject %q: want a first token that is no wildcard", f.Subject)
	case first == "portolan" || first[0] == '$' || first[0] == '_':
		return fmt.Errorf("subject %q: want one of another program", f.Subject)
	}
	return nil
}

const (
	// importQuiet is after how long without a line an event of several lines is complete.
	importQuiet = 200 * time.Millisecond
	// importSays is how long an address that a line shows is its host's, and longer; see attribute.HostFacts.
	importSays = 10 * time.Minute
	// maxSaid bounds the addresses that were said lately.
	maxSaid = 1 << 16
	// maxReasons bounds the reasons that are told apart, and otherReason stands for the others.
	maxReasons  = 32
	otherReason = "other"
)

// Importer publishes what lines of other programs tell as records of the hosts that the lines name, and
// for each address of theirs from which a line shows a connection, that the host has it. The same line
// makes the same records with the same ids: of several importers the stream keeps one's.
//
// Whoever may publish under a foreign subject speaks for every host.
type Importer struct {
	bus  *bus.Bus
	list []Foreign
	log  *slog.Logger

	mu      sync.Mutex
	counts  bus.ImportCounts
	dropped []int // by subject
}

// NewImporter returns an Importer that reads and publishes through b, which has to outlive Run, and of which
// others should not wait until all is stored. A nil log is none.
func NewImporter(b *bus.Bus, list []Foreign, log *slog.Logger) (*Importer, error) {
	for _, f := range list {
		if err := f.Validate(); err != nil {
			return nil, fmt.Errorf("importer: %w", err)
		}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Importer{bus: b, list: list, log: log, counts: bus.ImportCounts{Refused: map[string]uint64{}}, dropped: make([]int, len(list))}, nil
}

// Run works until ctx ends, which is no error. Ready is called when all that is published from then on is read.
func (i *Importer) Run(ctx context.Context, ready func()) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	var reading, readying sync.WaitGroup
	readying.Add(len(i.list))
	errs := make([]error, len(i.list))
	for n, f := range i.list {
		reading.Go(func() {
			begun := sync.OnceFunc(readying.Done)
			defer begun()
			if errs[n] = i.follow(ctx, n, f, begun); errs[n] != nil {
				end()
			}
		})
	}
	readying.Wait()
	if ctx.Err() == nil {
		ready()
	}
	reading.Wait()
	return errors.Join(errs...)
}

// follow imports what is published under one subject.
func (i *Importer) follow(ctx context.Context, n int, f Foreign, ready func()) error {
	p := process.New(f.Format, feed.Origin{Now: func() event.Time { return event.TimeOf(time.Now()) }})
	to := &importSink{importer: i, ctx: ctx, said: map[said]event.Time{}}
	return i.bus.Overhear(ctx, f.Subject, importQuiet, ready, func(data []byte, dropped int) {
		i.mu.Lock()
		i.counts.Lost += uint64(dropped - i.dropped[n])
		i.dropped[n] = dropped
		i.mu.Unlock()
		if data == nil {
			p.Flush(to)
			return
		}
		for line := range bytes.Lines(data) {
			if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
				i.line(f.Subject, p.Line(line, to))
			}
		}
	})
}

// line counts a line, and shows the first of those that are refused for a reason.
func (i *Importer) line(subject string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counts.Lines++
	if err != nil {
		i.refuse(subject, err)
	}
}

func (i *Importer) refuse(subject string, err error) {
	why := err.Error()
	if _, known := i.counts.Refused[why]; !known {
		if len(i.counts.Refused) >= maxReasons {
			why = otherReason
		}
		if i.counts.Refused[why] == 0 {
			i.log.Warn("line of another program refused; more of the kind are counted only", "subject", subject, "why", err)
		}
	}
	i.counts.Refused[why]++
}

// Counts returns what was done so far. It may be called while Run runs.
func (i *Importer) Counts() bus.ImportCounts {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.counts
	c.Refused = clone(c.Refused)
	return c
}

// said is what is known of a host by its lines.
type said struct {
	host string
	addr netip.Addr
}

// importSink publishes what lines tell.
type importSink struct {
	importer *Importer
	ctx      context.Context // of Run: a Sink is given none
	said     map[said]event.Time
}

// Lookup is of no use here: a Record says who asked.
func (*importSink) Lookup(*event.Lookup) {}

// Connection is of no use here: a Record says who made it.
func (*importSink) Connection(*event.Connection) {}

// Record publishes a record, after what it tells of its host.
func (s *importSink) Record(r *attribute.Record) {
	a := r.Local.Addr().Unmap().WithZone("")
	if a.IsLoopback() || r.Remote.Addr().IsLoopback() {
		return
	}
	if r.Kind == attribute.Connect && a.IsValid() && !a.IsUnspecified() {
		s.say(r, a)
	}
	s.publish(r)
}

// say publishes that the host of a record has the address. Its time is rounded, so that several
// importers say the same.
func (s *importSink) say(r *attribute.Record, a netip.Addr) {
	at := r.Time - r.Time%event.Time(importSays)
	key := said{r.HostID, a}
	if s.said[key] == at || at == 0 {
		return
	}
	if len(s.said) >= maxSaid {
		clear(s.said) // to say it once more does no harm
	}
	s.said[key] = at
	h := attribute.Record{
		Kind: attribute.Host, HostID: r.HostID, Host: r.Host, Source: r.Source, Time: at, Local: netip.AddrPortFrom(a, 0),
		About: &attribute.HostFacts{Addresses: []netip.Addr{a}, Interval: int64(importSays)},
	}
	feed.SetID(&h, 0)
	h.Local = netip.AddrPort{}
	s.publish(&h)
}

func (s *importSink) publish(r *attribute.Record) {
	i := s.importer
	err := i.bus.PublishEndpointWait(s.ctx, r)
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case err == nil:
		i.counts.Records++
	case s.ctx.Err() != nil:
		i.counts.Lost++
	default:
		i.refuse(bus.EndpointSubject(r.Kind, r.HostID), err)
	}
}
