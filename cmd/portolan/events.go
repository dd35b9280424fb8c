package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/feed"
	"portolan/sensor"
	"portolan/sensor/event"
)

func eventsCommand() *command {
	return &command{
		name:  "events",
		brief: "prints what the decoder makes of capture files, one JSON event a line",
		usage: []string{"portolan events [--story] [--host-address ADDR] FILE..."},
		about: `Prints each lookup and each connection of capture files as a line of JSON, in the order of
the frames, and for each file a last line with k=file, whose reasons add up to the frames.
Files are pcap or pcapng, plain or in gzip or zstd; - stands for standard input. Records of
Zeek, Suricata, dnstap, dnsmasq, PowerDNS and endpoint tools are printed alike, in the order of time.`,
		example: []string{"portolan events testdata/pcap/half-swap.pcap | head -3"},
		declare: func(o *options) action {
			story := false
			o.bool(&story, "story", "print the text that testdata/story uses, for one file")
			origin := o.hostAddresses()
			return func(ctx context.Context, p *program, args []string) error {
				if err := captureArgs("events", args); err != nil {
					return err
				}
				if !story {
					return p.events(ctx, origin, args)
				}
				if len(args) > 1 {
					return usagef("events: --story takes one file, got %d", len(args))
				}
				return p.story(ctx, args[0])
			}
		},
	}
}

// events prints the events of each file. A file that cannot be read does not keep the
// next ones from being read.
func (p *program) events(ctx context.Context, origin *feed.Origin, paths []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &lineWriter{Writer: bufio.NewWriterSize(p.stdout, 1<<16), failed: cancel}
	cfg := config.Default()
	var failed error
	for _, path := range paths {
		if p.holdRecords([]string{path}) {
			err := p.recordEvents(ctx, path, &cfg, origin, out)
			if ferr := out.Flush(); ferr != nil {
				return fmt.Errorf("write events: %w", ferr)
			}
			if err != nil {
				return err
			}
			continue
		}
		w := newEventWriter(out, captureName(path))
		stats, err := p.readCapture(ctx, path, sensor.DefaultReplayConfig(), w)
		if stats.Frames > 0 || err == nil {
			w.file(&stats)
		}
		if ferr := out.Flush(); ferr != nil {
			return fmt.Errorf("write events: %w", ferr)
		}
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			p.report(err)
			failed = silent{err}
		}
	}
	return failed
}

// story prints the events of one file as the start of a story.
func (p *program) story(ctx context.Context, path string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &lineWriter{Writer: bufio.NewWriterSize(p.stdout, 1<<16), failed: cancel}
	w := &storyWriter{to: out, name: captureName(path)}
	stats, err := p.readCapture(ctx, path, sensor.DefaultReplayConfig(), w)
	if w.begun {
		out.line([]byte("-- hits --\n"))
	}
	err = errors.Join(err, out.Flush())
	if err == nil && !w.begun {
		return fmt.Errorf("read %s: no event in %d frames", captureName(path), stats.Frames)
	}
	return err
}

// lineWriter writes whole lines, and says at once when that no longer works, so that
// reading can stop.
type lineWriter struct {
	*bufio.Writer
	failed context.CancelCauseFunc
}

func (w *lineWriter) line(b []byte) {
	if _, err := w.Write(b); err != nil {
		w.failed(fmt.Errorf("write output: %w", err))
	}
}

// storyWriter is an event.Sink that writes the text form, with times since the first event.
type storyWriter struct {
	to    *lineWriter
	name  string
	base  event.Time
	begun bool
	buf   []byte
}

func (w *storyWriter) begin(t event.Time) {
	if w.begun {
		return
	}
	w.begun, w.base = true, t
	w.to.line(fmt.Appendf(nil, "%s, from %s on.\n\n-- events --\n", w.name, t.UTC().Format("2006-01-02T15:04:05.999999999Z")))
}

// Lookup writes a lookup as one line.
func (w *storyWriter) Lookup(l *event.Lookup) {
	w.begin(l.Time)
	w.buf = append(l.AppendText(w.buf[:0], w.base), '\n')
	w.to.line(w.buf)
}

// Connection writes a connection as one line.
func (w *storyWriter) Connection(c *event.Connection) {
	w.begin(c.Time)
	w.buf = append(c.AppendText(w.buf[:0], w.base), '\n')
	w.to.line(w.buf)
}
