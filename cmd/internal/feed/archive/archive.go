// Package archive reads what other programs have recorded, and captures, as one traffic in the
// order of time: files and folders, compressed, rotated, out of order within bounds.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// Config says how an archive is read. Take DefaultConfig and change what must differ.
type Config struct {
	// Disorder is how far an event may lie before the newest of its file and still be put in order;
	// at most 24 hours. Logs that are written when a connection ends need as much as connections last.
	Disorder time.Duration
	// Memory bounds the events that are held back for that, in bytes, from 1 MiB up. Beyond it
	// the oldest are handed on early.
	Memory int64
	// Tolerance is how far the clocks of sources may differ, up to a minute. When there are sources of
	// two kinds, lookups from another clock than the packets' (dnstap, dnsmasq, PowerDNS) are taken to
	// be so much earlier, and connections from one (auditd, endpoint tools) so much later, so that no
	// lookup comes after a connection that it led to; and what two kinds of source tell alike within
	// this time is one event.
	Tolerance time.Duration
	// Origin says whose endpoint records without a host are, and which address a host's connections
	// come from when its records do not say so, as auditd's never do.
	Origin feed.Origin
	// Decode bounds what the decoder of each capture file remembers.
	Decode decode.Config
	// Stdin is what the path Stdin stands for.
	Stdin io.Reader
	// Progress, when set, is called now and then by Run, about twice a second, and at its end.
	Progress func(Progress)
}

// DefaultConfig returns bounds that suit a day of a site with some thousand hosts.
func DefaultConfig() Config {
	return Config{Disorder: 15 * time.Minute, Memory: 512 << 20, Tolerance: 100 * time.Millisecond, Decode: decode.DefaultConfig()}
}

// Validate returns an error that names a field out of bounds, and its value.
func (c *Config) Validate() error {
	if c.Disorder < 0 || c.Disorder > 24*time.Hour {
		return fmt.Errorf("archive: Disorder is %v, want 0 to 24h", c.Disorder)
	}
	if c.Tolerance < 0 || c.Tolerance > time.Minute {
		return fmt.Errorf("archive: Tolerance is %v, want 0 to 1m", c.Tolerance)
	}
	if c.Memory < 1<<20 {
		return fmt.Errorf("archive: Memory is %d, want at least 1048576", c.Memory)
	}
	return c.Decode.Validate()
}

// Progress says how far Run has come.
type Progress struct {
	Bytes, Of   int64 // of the files as they are, compressed or not
	Files, Open int   // files read to their end, and at present
	Events      uint64
	Time        event.Time // of the newest event handed on; 0 before the first
}

// Archive is a set of recognised files. It holds no file open until Run.
type Archive struct {
	cfg     Config
	sources []*source
	unknown []SourceReport
	size    int64
	twins   *twins // nil when the sources are of one kind
	at      int    // source of the event that is handed on
}

// Stdin is the path that stands for standard input.
const Stdin = "-"

// ErrNothing means that none of the paths leads to a file of a format that is known.
var ErrNothing = errors.New("no records")

// Open looks at every file that paths lead to, recognises its content, and finds out when it
// begins. Files in folders that it does not know are passed over, and said in the report; one that
// is named by itself is an error, and so are paths that do not exist.
func Open(paths []string, cfg Config) (*Archive, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Archive{cfg: cfg}
	for _, path := range paths {
		if path == Stdin {
			if err := a.add(path, true); err != nil {
				return nil, err
			}
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			if err := a.add(path, true); err != nil {
				return nil, err
			}
			continue
		}
		err = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				a.unknown = append(a.unknown, SourceReport{Path: path, Incomplete: err.Error()})
				return nil
			case strings.HasPrefix(d.Name(), ".") && d.IsDir() && path != "." && len(d.Name()) > 2:
				return fs.SkipDir
			case d.IsDir():
				return nil
			}
			if target, err := os.Stat(path); err != nil || !target.Mode().IsRegular() {
				return nil // a socket, a link to nowhere, a link to a folder
			}
			return a.add(path, false)
		})
		if err != nil {
			return nil, err
		}
	}
	if len(a.sources) == 0 {
		return nil, fmt.Errorf("%w in %s", ErrNothing, strings.Join(paths, ", "))
	}
	// Files of one time stay in the order of their paths, so that the same archive is always read alike.
	slices.SortStableFunc(a.sources, func(x, y *source) int {
		switch {
		case x.begin < y.begin:
			return -1
		case x.begin > y.begin:
			return 1
		}
		return strings.Compare(x.path, y.path)
	})
	a.twins = newTwins(a.sources, cfg.Tolerance)
	for i, s := range a.sources {
		s.index = i
		s.foreign = s.report.Limits&feed.ForeignClock != 0
		if s.foreign && a.twins != nil {
			s.shift = event.Time(cfg.Tolerance)
		}
	}
	return a, nil
}

// add looks at one file.
func (a *Archive) add(path string, named bool) error {
	s, err := look(path, &a.cfg)
	if err == nil {
		a.sources = append(a.sources, s)
		a.size += s.report.size
		return nil
	}
	if named {
		return fmt.Errorf("read %s: %w", path, err)
	}
	a.unknown = append(a.unknown, SourceReport{Path: path, Incomplete: err.Error()})
	return nil
}

// ErrFormat means that a file is of no format that is known.
var ErrFormat = errors.New("neither a capture nor records of a known format")

// look recognises a file and finds out when it begins.
func look(path string, cfg *Config) (*source, error) {
	s := &source{path: path, cfg: cfg, report: SourceReport{Path: path}, modified: event.TimeOf(time.Now())}
	in, file, regular := cfg.Stdin, (*os.File)(nil), false
	if path != Stdin {
		var err error
		if file, err = os.Open(path); err != nil {
			return nil, err
		}
		in = file
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
			regular, s.report.size, s.modified = true, info.Size(), event.TimeOf(info.ModTime())
		}
	}
	p, err := s.recognise(in, regular)
	if err == nil && !regular {
		s.pipe, s.file = p, file // what was read of it cannot be read again
		return s, nil
	}
	if p != nil {
		p.close()
	}
	if file != nil {
		file.Close()
	}
	s.bytes.Store(0)
	return s, err
}

// recognise finds out the format of what in holds, and when that begins. It returns what is
// to be closed, on errors, too.
func (s *source) recognise(in io.Reader, regular bool) (*plain, error) {
	p, err := decompress(&counted{r: in, n: &s.bytes})
	if err != nil {
		return nil, err
	}
	head, err := p.head()
	if err != nil {
		return p, err
	}
	if s.format = recognise(head); s.format == nil {
		return p, ErrFormat
	}
	s.report.Format = s.format.name
	b := beginning{at: math.MaxInt64}
	if s.format.parser != nil {
		b.lines(head, s.format, &s.cfg.Origin, s.modified)
		s.report.Limits = b.limits
	} else if regular {
		b.capture(s.path, s.cfg)
	}
	s.begin, s.any = b.at, b.events > 0
	return p, nil
}

// Files returns how many files there are to read.
func (a *Archive) Files() int { return len(a.sources) }

// Limits returns what the sources together cannot tell, as far as their beginnings show.
func (a *Archive) Limits() feed.Limits {
	all := make([]SourceReport, 0, len(a.sources))
	for _, s := range a.sources {
		all = append(all, s.report)
	}
	return limitsOf(all)
}

// Report says what became of an archive.
type Report struct {
	Sources []SourceReport // in the order in which they begin; those not recognised last
	Limits  feed.Limits    // what none of the sources that gave such events could tell

	Lookups, Connections, Records uint64
	Late                          uint64     // handed on out of order: further from their place than Config.Disorder
	Early                         uint64     // handed on before their wait was over, as Config.Memory was used up
	Twins                         uint64     // told by two kinds of source; handed on again only where the second time is more exact
	First, Last                   event.Time // of the events handed on; 0 when there was none
}

// Run hands all events to a sink in the order of their times. It returns when all are handed
// on, or with ctx's cause. What a file holds that cannot be used is in the report, and no error.
// It may be called once.
func (a *Archive) Run(ctx context.Context, to feed.Sink) (Report, error) {
	m := merge{Archive: a, ctx: ctx, to: to, done: make(chan struct{}), emitted: math.MinInt64, shown: time.Now()}
	var reading sync.WaitGroup
	m.reading = &reading
	m.all()
	close(m.done)
	reading.Wait()
	m.show(true)
	for _, s := range a.sources {
		m.report.Sources = append(m.report.Sources, s.report)
	}
	m.report.Sources = append(m.report.Sources, a.unknown...)
	m.report.Limits = limitsOf(m.report.Sources)
	return m.report, context.Cause(ctx)
}

// limitsOf returns what the sources together cannot tell.
func limitsOf(all []SourceReport) feed.Limits {
	const lacks = feed.NoLookups | feed.NoConns
	missing, other := lacks, feed.Limits(0)
	for i := range all {
		r := &all[i]
		if r.Format == "" {
			continue
		}
		missing &= r.Limits
		other |= r.Limits &^ lacks
	}
	return missing | other
}

// merge is one Run.
type merge struct {
	*Archive
	ctx     context.Context
	to      feed.Sink
	done    chan struct{}
	reading *sync.WaitGroup

	open    []*opened
	started int // of sources
	ended   int
	heap    heap
	held    int64 // bytes of the runs in heap
	emitted event.Time
	report  Report
	shown   time.Time
}

// opened is a file that is being read.
type opened struct {
	*source
	reached event.Time
}

func (m *merge) all() {
	for {
		m.openDue()
		if len(m.open) == 0 && m.started == len(m.sources) {
			break
		}
		o := slices.MinFunc(m.open, func(a, b *opened) int {
			if a.reached != b.reached {
				if a.reached < b.reached {
					return -1
				}
				return 1
			}
			return a.index - b.index
		})
		var r *run
		var ok bool
		select {
		case r, ok = <-o.out:
		case <-m.ctx.Done():
			return
		}
		if !ok {
			m.open = slices.DeleteFunc(m.open, func(x *opened) bool { return x == o })
			m.ended++
			o.forget()
		} else {
			o.reached = max(o.reached, r.reached)
			if len(r.order) > 0 {
				m.held += int64(r.size)
				m.heap.push(r)
			}
		}
		m.hand(m.settled())
		for m.held > m.cfg.Memory && len(m.heap) > 0 {
			m.early()
		}
		m.show(false)
		if m.ctx.Err() != nil {
			return
		}
	}
	m.hand(math.MaxInt64)
}

// openDue starts reading the files that begin before what the others have reached.
func (m *merge) openDue() {
	for m.started < len(m.sources) {
		next := m.sources[m.started]
		for _, o := range m.open {
			if next.any && o.reached < next.begin {
				return
			}
		}
		m.started++
		next.out, next.free, next.done = make(chan *run, runsAhead-1), make(chan *run, runsAhead), m.done
		m.open = append(m.open, &opened{next, next.begin})
		m.reading.Go(func() { next.read(m.ctx) })
	}
}

// settled returns the time before which nothing is expected any more.
func (m *merge) settled() event.Time {
	t := event.Time(math.MaxInt64)
	for _, o := range m.open {
		t = min(t, o.reached)
	}
	if m.started < len(m.sources) {
		t = min(t, m.sources[m.started].begin)
	}
	if t == math.MaxInt64 {
		return t
	}
	return t.Add(-m.cfg.Disorder)
}

// hand hands on the events before a time.
func (m *merge) hand(until event.Time) {
	for len(m.heap) > 0 {
		r := m.heap[0]
		end := until
		if len(m.heap) > 1 {
			end = min(end, m.heap.second())
		}
		first := true // the first run's next event is the least of all, whatever second says of its equals
		for r.next < len(r.order) && (r.order[r.next].at < end || first && r.order[r.next].at < until) {
			first = false
			m.emit(r)
		}
		if first {
			return
		}
		m.release(r)
	}
}

// early hands on the oldest run's events although their wait is not over.
func (m *merge) early() {
	r := m.heap[0]
	for n := 0; r.next < len(r.order) && n < 256; n++ {
		if len(m.heap) > 1 && n > 0 && r.order[r.next].at >= m.heap.second() {
			break
		}
		m.emit(r)
		m.report.Early++
	}
	m.release(r)
}

// release restores the heap after events of r, its first, were handed on.
func (m *merge) release(r *run) {
	m.heap.fix()
	if r.next == len(r.order) {
		m.held -= int64(r.size)
		select {
		case m.sources[r.source].free <- r:
		default:
		}
	}
}

// emit hands on the next event of r.
func (m *merge) emit(r *run) {
	e := r.order[r.next]
	r.next++
	m.at = r.source
	if m.emitted == math.MinInt64 {
		m.report.First = e.at
	}
	if e.at < m.emitted {
		m.report.Late++
		m.report.First = min(m.report.First, e.at)
	} else {
		m.emitted, m.report.Last = e.at, e.at
	}
	if e.i < 0 {
		m.report.Records++
		m.to.Record(&r.records[^e.i])
		return
	}
	from := m.sources[r.source]
	if l, c := r.events.At(int(e.i)); l != nil {
		if m.twins != nil && m.twin(m.twins.lookup(l, from.format, !from.foreign)) {
			return
		}
		m.report.Lookups++
		m.to.Lookup(l)
	} else {
		if m.twins != nil && m.twin(m.twins.connection(c, from.format, !from.foreign)) {
			return
		}
		m.report.Connections++
		m.to.Connection(c)
	}
}

// twin counts an event that was told before, and reports whether it is dropped.
func (m *merge) twin(told, as bool) bool {
	if told {
		m.report.Twins++
	}
	return as
}

// progressInterval is the least time between two reports of progress.
const progressInterval = 500 * time.Millisecond

func (m *merge) show(last bool) {
	if m.cfg.Progress == nil || !last && time.Since(m.shown) < progressInterval {
		return
	}
	m.shown = time.Now()
	p := Progress{Of: m.size, Files: m.ended, Open: len(m.open), Events: m.report.Lookups + m.report.Connections + m.report.Records}
	for _, s := range m.sources[:m.started] {
		p.Bytes += s.bytes.Load()
	}
	if m.emitted != math.MinInt64 {
		p.Time = m.emitted
	}
	m.cfg.Progress(p)
}
