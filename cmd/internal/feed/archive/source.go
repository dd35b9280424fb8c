package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor"
	"portolan/sensor/event"
)

// source is one file. Once it is started, its goroutine owns all but what is said to be read by others.
type source struct {
	path   string
	format *format
	index  int
	begin  event.Time // of the first events; valid when any
	any    bool
	cfg    *Config
	pipe   *plain   // of what cannot be opened a second time, else nil
	file   *os.File // under pipe; may be nil

	foreign  bool       // its times are not the packets'
	shift    event.Time // what lookups are earlier by, and connections later
	modified event.Time // when the file was last written

	report SourceReport
	bytes  atomic.Int64 // read of the file as it is; read by the merging goroutine

	out   chan *run
	free  chan *run
	done  <-chan struct{}
	run   *run
	sent  uint64
	clock clock
	doubt run    // events whose times leap
	lines uint64 // line number of the event at hand, for what is refused
	text  []byte // the line at hand
	first refused
}

// refused is the first of the lines whose events are held back.
type refused struct {
	line uint64
	text string
}

// runsAhead is how many runs a file is read ahead, one being filled.
const runsAhead = 3

// errGone ends reading when nobody wants more.
var errGone = errors.New("stopped")

// read reads the file until its end, ctx's, or done, and closes out.
func (s *source) read(ctx context.Context) {
	defer close(s.out)
	s.run = s.take()
	err := s.open(ctx)
	if errors.Is(err, errGone) {
		return
	}
	if err != nil {
		s.report.Incomplete = err.Error()
	}
	s.settle(true)
	s.send()
}

// take returns an empty run.
func (s *source) take() *run {
	select {
	case r := <-s.free:
		r.reset()
		return r
	default:
		return &run{}
	}
}

// send hands the run on and begins another. It reports false when nobody wants more.
func (s *source) send() bool {
	r := s.run
	r.sort()
	r.source, r.number, r.reached = s.index, s.sent, s.clock.reached
	s.sent++
	select {
	case s.out <- r:
		s.run = s.take()
		return true
	case <-s.done:
		return false
	}
}

// forget lets go of what a file that was read to its end held: there may be many.
func (s *source) forget() { s.free, s.run, s.doubt, s.text = nil, nil, run{}, nil }

func (s *source) open(ctx context.Context) error {
	if s.pipe != nil {
		defer s.pipe.close()
		if s.file != nil {
			defer context.AfterFunc(ctx, func() { s.file.Close() })() // ends a Read that waits
			defer s.file.Close()
		}
		if s.format.parser == nil {
			return s.capture(ctx, s.pipe)
		}
		return s.parse(s.pipe)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := &counted{r: f, n: &s.bytes}
	if s.format.parser == nil {
		return s.capture(ctx, in)
	}
	p, err := decompress(in)
	if err != nil {
		return err
	}
	defer p.close()
	return s.parse(p)
}

// parse reads a file of lines or messages.
func (s *source) parse(in *plain) error {
	parser := s.format.parser(&s.cfg.Origin, s.modified)
	from := s.format.split(in.Reader)
	for {
		line, err := from.Next()
		s.lines, s.text = s.lines+1, line
		switch {
		case err == nil:
			err = parser.Line(line, s)
		case feed.Skips(err):
		default:
			s.lines--
			parser.Flush(s)
			s.report.Lines = s.lines
			if limited, ok := parser.(feed.Limited); ok {
				s.report.Limits = limited.Limits()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errTruncated
			}
			return fmt.Errorf("after %d: %w", s.lines, err)
		}
		if err != nil {
			s.report.refuse(err.Error(), 1, s.lines, line)
		}
		if (s.run.full() || s.lines%linesPerRun == 0) && !s.send() {
			return errGone
		}
	}
}

// linesPerRun bounds the lines of a run, so that one that holds few events is handed on, too.
const linesPerRun = 16384

// capture reads a capture file.
func (s *source) capture(ctx context.Context, in io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stats, err := sensor.Replay(ctx, in, sensor.ReplayConfig{Decode: s.cfg.Decode, Cores: 1}, &captured{s, cancel})
	if errors.Is(context.Cause(ctx), errGone) {
		return errGone
	}
	s.report.Capture = &stats
	s.report.Lines = stats.Frames
	if stats.Incomplete != "" && err == nil {
		err = errors.New(stats.Incomplete)
	}
	return err
}

// captured is the sink of a capture file.
type captured struct {
	*source
	stop context.CancelCauseFunc
}

// Lookup takes a lookup.
func (c *captured) Lookup(l *event.Lookup) {
	c.lines = l.Frame
	c.source.Lookup(l)
	c.handOn()
}

// Connection takes a connection.
func (c *captured) Connection(x *event.Connection) {
	c.lines = x.Frame
	c.source.Connection(x)
	c.handOn()
}

func (c *captured) handOn() {
	if c.run.full() && !c.send() {
		c.stop(errGone)
	}
}

// Lookup takes a lookup of the line at hand.
func (s *source) Lookup(l *event.Lookup) {
	s.report.Lookups++
	l.Time -= s.shift
	if s.admit(l.Time) {
		s.run.Lookup(l)
	} else {
		s.doubt.Lookup(l)
	}
}

// Connection takes a connection of the line at hand.
func (s *source) Connection(c *event.Connection) {
	s.report.Connections++
	c.Time += s.shift
	if s.admit(c.Time) {
		s.run.Connection(c)
	} else {
		s.doubt.Connection(c)
	}
}

// Record takes an endpoint's record of the line at hand.
func (s *source) Record(r *attribute.Record) {
	s.report.Records++
	if s.admit(r.Time) {
		s.run.Record(r)
	} else {
		s.doubt.Record(r)
	}
}

// admit reports whether an event of time t is handed on now; else it is held back.
func (s *source) admit(t event.Time) bool {
	switch s.clock.take(t) {
	case doubt:
		if len(s.doubt.order) == 0 {
			s.first = refused{s.lines, excerpt(s.text)}
		}
		return false
	case believe:
		s.report.Leaps++
		s.settle(true)
	case refute:
		s.settle(false)
	}
	return true
}

// settle hands on the events that were held back, or counts them as refused.
func (s *source) settle(right bool) {
	d := &s.doubt
	if right {
		for _, e := range d.order {
			if e.i < 0 {
				s.run.Record(&d.records[^e.i])
			} else if l, c := d.events.At(int(e.i)); l != nil {
				s.run.Lookup(l)
			} else {
				s.run.Connection(c)
			}
		}
	} else if n := len(d.order); n > 0 {
		s.report.refuse(reasonLeap, uint64(n), s.first.line, []byte(s.first.text))
		for _, e := range d.order {
			if e.i < 0 {
				s.report.Records--
			} else if l, _ := d.events.At(int(e.i)); l != nil {
				s.report.Lookups--
			} else {
				s.report.Connections--
			}
		}
	}
	d.reset()
}

// reasonLeap is why an event is refused whose time nothing else in its file confirms.
const reasonLeap = "a time far ahead of the lines around it"

// counted counts what is read.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

// Read reads.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// SourceReport says what became of one file.
type SourceReport struct {
	Path        string
	Format      string // "capture", "zeek", …; "" when it was not recognised
	Limits      feed.Limits
	Lines       uint64 // lines, messages or frames
	Lookups     uint64
	Connections uint64
	Records     uint64        // of endpoints
	Refused     []Refusal     // what could not be used, the first kinds first
	Leaps       uint64        // times that the clock leapt ahead by more than an hour
	Incomplete  string        // why reading ended early; what came before counts
	Capture     *sensor.Stats // of a capture file
	size        int64
}

// Refusal is one reason why lines could not be used.
type Refusal struct {
	Why     string
	Count   uint64
	Line    uint64 // number of the first such line, or message
	Excerpt string // the beginning of that line
}

// The bounds of what is remembered of refused lines.
const (
	maxReasons   = 32
	excerptBytes = 120
)

// reasonOther stands for all reasons beyond maxReasons.
const reasonOther = "other reasons"

// refuse counts n lines that could not be used, of which line is the first.
func (r *SourceReport) refuse(why string, n, line uint64, text []byte) {
	is := func(x Refusal) bool { return x.Why == why }
	i := slices.IndexFunc(r.Refused, is)
	if i < 0 && len(r.Refused) >= maxReasons {
		why = reasonOther
		i = slices.IndexFunc(r.Refused, is)
	}
	if i < 0 {
		r.Refused = append(r.Refused, Refusal{Why: why, Line: line, Excerpt: excerpt(text)})
		i = len(r.Refused) - 1
	}
	r.Refused[i].Count += n
}

// RefusedLines returns how many lines could not be used.
func (r *SourceReport) RefusedLines() (n uint64) {
	for i := range r.Refused {
		n += r.Refused[i].Count
	}
	return n
}

// excerpt returns the beginning of a line as printable text.
func excerpt(b []byte) string {
	cut := len(b) > excerptBytes
	out := make([]byte, 0, excerptBytes+4)
	for _, c := range b[:min(len(b), excerptBytes)] {
		if c < ' ' || c >= 0x7f {
			c = '.'
		}
		out = append(out, c)
	}
	if cut {
		out = append(out, "..."...)
	}
	return string(out)
}
