package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/archive"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// holdRecords says whether any of the paths is a folder, or holds what another program has recorded: then all
// of them are read as one archive. What standard input begins with stays there to be read.
func (p *program) holdRecords(paths []string) bool {
	for _, path := range paths {
		if path == archive.Stdin {
			in := bufio.NewReaderSize(p.stdin, 64<<10)
			p.stdin = in
			_, _ = in.Peek(1)
			head, _ := in.Peek(in.Buffered()) // no more than there is: a capture may come in slowly
			if isRecords(bytes.NewReader(head)) {
				return true
			}
			continue
		}
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			return true
		}
		if err != nil || !info.Mode().IsRegular() {
			continue // reading will say what is wrong
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		records := isRecords(f)
		f.Close()
		if records {
			return true
		}
	}
	return false
}

func isRecords(r io.Reader) bool {
	name := archive.Recognise(r)
	return name != "" && name != archive.Capture
}

// hostAddresses adds a flag for what audit records leave out: where a host's connections come from.
// What it returns is whole once the flags are parsed.
func (o *options) hostAddresses() *feed.Origin {
	origin := &feed.Origin{Addrs: map[string]netip.Addr{}}
	o.value("host-address", func(text string) error {
		node, address, named := strings.Cut(text, "=")
		if !named {
			node, address = "", text
		}
		addr, err := netip.ParseAddr(address)
		addr = addr.Unmap()
		switch {
		case err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast():
			return fmt.Errorf("%q is not the address of a host, such as 10.0.0.7 or web-1=10.0.0.7", text)
		case named && node == "":
			return fmt.Errorf("%q names no host before =", text)
		case named && origin.Addrs[node].IsValid() && origin.Addrs[node] != addr, !named && origin.Addr.IsValid() && origin.Addr != addr:
			return fmt.Errorf("%q is a second address of one host, whose connections come from one", text)
		case named:
			origin.Addrs[node] = addr
		default:
			origin.HostID, origin.Addr = "host", addr // records are not handed on: the id goes nowhere
		}
		return nil
	})
	o.describe("host-address", "ADDR", "where connects of auditd and laurel come from, which do not say so: ADDR of the host that wrote lines without node, "+
		"NODE=ADDR of others; may be repeated", "")
	return origin
}

// openArchive opens records, and captures beside them, as one traffic.
func (p *program) openArchive(cfg *config.Config, origin *feed.Origin, paths []string) (*archive.Archive, *recordMeter, error) {
	m := &recordMeter{to: p.stderr, start: time.Now()}
	c := archive.DefaultConfig()
	c.Origin, c.Decode, c.Stdin, c.Progress = *origin, cfg.Capture.Decode, p.stdin, m.show
	a, err := archive.Open(paths, c)
	switch {
	case errors.Is(err, archive.ErrNothing), errors.Is(err, archive.ErrFormat):
		err = withHint(err, "captures are read, and what Zeek, Suricata, dnstap, dnsmasq, PowerDNS and endpoint tools write; plain or compressed")
	case err == nil:
		m.files = a.Files()
	}
	return a, m, err
}

// eventsOnly is a feed.Sink of which endpoints' records go nowhere: they are for joining, not for detecting.
type eventsOnly struct{ event.Sink }

// Record passes a record over.
func (eventsOnly) Record(*attribute.Record) {}

// replayRecords reads an archive and gives out its hits.
func (p *program) replayRecords(ctx context.Context, r *replayer, origin *feed.Origin, paths []string, progress bool) error {
	a, m, err := p.openArchive(r.cfg, origin, paths)
	if err != nil {
		return err
	}
	m.on, r.out.before = progress, m.clear
	r.device, r.untold = archiveName(paths), append([]string{}, a.Limits().Texts()...)
	report, err := a.Run(ctx, eventsOnly{r})
	m.clear()
	r.summary.archive = &report
	r.summary.names = []string{r.device}
	r.untold = untoldBy(&report)
	for i := range report.Sources {
		s := &report.Sources[i]
		if s.Incomplete != "" {
			fmt.Fprintf(p.stderr, "portolan: %s ends early: %s; what came before counts\n", s.Path, s.Incomplete)
		}
		for _, x := range s.Refused {
			fmt.Fprintf(p.stderr, "portolan: %s: %s refused: %s; the first is %d: %s\n", s.Path,
				count(x.Count, "line", "lines"), x.Why, x.Line, x.Excerpt)
		}
	}
	return errors.Join(err, r.settle())
}

// archiveName returns what stands for an archive in hits: the base name of the first path, and how many there are besides.
func archiveName(paths []string) string {
	name := captureName(paths[0])
	if n := len(paths) - 1; n > 0 {
		name += fmt.Sprintf(" and %d more", n)
	}
	return name
}

// untoldBy says what could not be judged in an archive: what its sources cannot tell, and what of
// them could not be read.
func untoldBy(r *archive.Report) []string {
	gaps := append([]string{}, r.Limits.Texts()...)
	refused, incomplete := uint64(0), uint64(0)
	for i := range r.Sources {
		refused += r.Sources[i].RefusedLines()
		if r.Sources[i].Incomplete != "" && r.Sources[i].Format != "" {
			incomplete++
		}
	}
	if refused > 0 {
		gaps = append(gaps, count(refused, "line", "lines")+" refused")
	}
	if incomplete > 0 {
		gaps = append(gaps, count(incomplete, "file ends", "files end")+" early")
	}
	if r.Late > 0 {
		gaps = append(gaps, count(r.Late, "event", "events")+" too far out of order")
	}
	if r.Early > 0 {
		gaps = append(gaps, "memory too small to put all events in order")
	}
	return gaps
}

// archiveHead says what was read.
func archiveHead(r *archive.Report) string {
	lines, formats := uint64(0), map[string]uint64{}
	for i := range r.Sources {
		lines += r.Sources[i].Lines
		if f := r.Sources[i].Format; f != "" {
			formats[f]++
		}
	}
	var list []string
	for _, f := range slices.Sorted(maps.Keys(formats)) {
		list = append(list, fmt.Sprintf("%d %s", formats[f], f))
	}
	text := fmt.Sprintf("%s (%s), %s", count(uint64(len(r.Sources)), "file", "files"), strings.Join(list, ", "),
		count(lines, "record", "records"))
	if r.Lookups+r.Connections > 0 {
		text += fmt.Sprintf(", from %s UTC on for %s", r.First.UTC().Format("2006-01-02 15:04:05"), lagText(r.Last.Sub(r.First)))
	}
	return text
}

// recordEvents prints the events of an archive, and at the end of each of its files a line of what became of it.
func (p *program) recordEvents(ctx context.Context, path string, cfg *config.Config, origin *feed.Origin, out *lineWriter) error {
	a, _, err := p.openArchive(cfg, origin, []string{path})
	if err != nil {
		return err
	}
	w := newEventWriter(out, captureName(path))
	report, err := a.Run(ctx, eventsOnly{w})
	for i := range report.Sources {
		w.source(&report.Sources[i])
	}
	return err
}

// source writes what became of the lines of a file.
func (w *eventWriter) source(s *archive.SourceReport) {
	b := appendText(append(w.buf[:0], `{"k":"file","format":`...), s.Format)
	b = strconv.AppendUint(append(b, `,"lines":`...), s.Lines, 10)
	b = append(b, `,"refused":{`...)
	for i, r := range s.Refused {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(append(appendText(b, r.Why), ':'), r.Count, 10)
	}
	b = strconv.AppendUint(append(b, `},"lookups":`...), s.Lookups, 10)
	b = strconv.AppendUint(append(b, `,"conns":`...), s.Connections, 10)
	if s.Incomplete != "" {
		b = appendText(append(b, `,"incomplete":`...), s.Incomplete)
	}
	b = appendText(append(b, `,"file":`...), captureName(s.Path))
	w.buf = append(b, "}\n"...)
	w.to.line(w.buf)
}

// recordMeter shows on stderr how far the reading of an archive has come, on one line that it writes over.
type recordMeter struct {
	to    io.Writer
	start time.Time
	files int
	on    bool
	wrote bool
}

// show is an archive.Config.Progress.
func (m *recordMeter) show(n archive.Progress) {
	elapsed := time.Since(m.start)
	if !m.on || elapsed < 400*time.Millisecond && !m.wrote {
		return // short work needs no progress
	}
	m.wrote = true
	text := bytesText(n.Bytes)
	if n.Of > 0 {
		text += fmt.Sprintf(" of %s, %.0f %%", bytesText(n.Of), 100*float64(n.Bytes)/float64(n.Of))
	}
	fmt.Fprintf(m.to, "\r\x1b[K%s, %d of %s, %d events, %.0f events/s, at %s", text, n.Files, count(uint64(m.files), "file", "files"),
		n.Events, float64(n.Events)/elapsed.Seconds(), n.Time.UTC().Format("2006-01-02 15:04:05"))
}

// clear takes the line away before something else is written.
func (m *recordMeter) clear() {
	if m.wrote {
		fmt.Fprint(m.to, "\r\x1b[K")
		m.wrote = false
	}
}
