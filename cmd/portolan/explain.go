package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
)

func explainCommand() *command {
	return &command{
		name:  "explain",
		brief: "tells the arithmetic and the evidence of a hit, step by step",
		usage: []string{"portolan explain [--file FILE] [--json] [HIT]", "portolan explain [--file FILE] --all"},
		about: `Prints the time line, the arithmetic with its alternatives, how the evidence adds up, and what
was not visible. HIT is an id or its first 8 or more digits; it can be left out when there is
one hit only. Hits come from a file of JSON lines as replay --json and watch --json print
them, or from the stream of a NATS server.`,
		example: []string{"portolan replay --json testdata/pcap/xor-known.pcap.zst 2>/dev/null | portolan explain --file -"},
		declare: func(o *options) action {
			var x explainOptions
			o.string(&x.file, "file", "FILE", "JSON lines to look in, - for standard input")
			o.bool(&x.all, "all", "explain every hit")
			o.bool(&x.json, "json", "print the hit's message as JSON")
			o.fallback = map[string]string{"nats.url": localServer}
			o.settings("nats.url", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 1 {
					return usagef("explain: one hit at a time; --all explains every one")
				}
				if len(args) == 1 {
					x.id = strings.ToLower(args[0])
					if err := checkPrefix(x.id); err != nil {
						return err
					}
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				return p.explain(ctx, &cfg, &x)
			}
		},
	}
}

type explainOptions struct {
	file      string
	id        string // hit id or its beginning; "" for the only one
	all, json bool
}

const (
	idDigits    = 32
	leastDigits = 8
)

func checkPrefix(id string) error {
	if len(id) < leastDigits || len(id) > idDigits || strings.Trim(id, "0123456789abcdef") != "" {
		return usagef("explain: %q is not a hit id: %d hex digits, or at least the first %d", printable(id), idDigits, leastDigits)
	}
	return nil
}

// hitList collects hits, the highest revision of each, in the order in which they came.
type hitList struct {
	hits  map[string]*bus.Message
	order []string
}

func (l *hitList) add(m *bus.Message) {
	id := m.Portolan.HitID
	if l.hits == nil {
		l.hits = map[string]*bus.Message{}
	}
	last, known := l.hits[id]
	if !known {
		l.order = append(l.order, id)
	}
	if !known || m.Portolan.Revision > last.Portolan.Revision {
		l.hits[id] = m
	}
}

func (p *program) explain(ctx context.Context, cfg *config.Config, o *explainOptions) error {
	var list hitList
	keep := func(m *bus.Message) {
		if strings.HasPrefix(m.Portolan.HitID, o.id) {
			list.add(m)
		}
	}
	var err error
	from := "the stream"
	if o.file != "" {
		from = o.file
		err = p.readHits(o.file, keep)
	} else {
		err = p.readStream(ctx, cfg, keep)
	}
	if err != nil {
		return err
	}
	switch {
	case len(list.order) == 0 && o.id != "":
		return withHint(fmt.Errorf("no hit %s in %s", o.id, from), "its id stands in the last line of the hit")
	case len(list.order) == 0:
		return fmt.Errorf("no hit in %s", from)
	case len(list.order) > 1 && !o.all:
		e := &usageError{text: fmt.Sprintf("explain: %d hits in %s", len(list.order), from), hint: "name one, or say --all: "}
		if o.id != "" {
			e.text = fmt.Sprintf("explain: %d hits begin with %s", len(list.order), o.id)
		}
		short := slices.Clone(list.order[:min(len(list.order), 4)])
		e.hint += strings.Join(short, ", ")
		if len(list.order) > len(short) {
			e.hint += ", …"
		}
		return e
	}
	out := bufio.NewWriter(p.stdout)
	for i, id := range list.order {
		m := list.hits[id]
		if o.json {
			b, err := m.Encode()
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s\n", b)
			continue
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		writeExplanation(out, m)
	}
	return out.Flush()
}

// readHits reads JSON lines. A line that is no hit is an error with its number.
func (p *program) readHits(path string, keep func(*bus.Message)) error {
	r := p.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	d := json.NewDecoder(bufio.NewReader(r))
	for n := 1; ; n++ {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var m *bus.Message
		if err == nil {
			m, err = bus.Decode(raw)
		}
		if err != nil {
			err = fmt.Errorf("read hits from %s: object %d: %w", path, n, err)
			return withHint(err, "hits are JSON lines as portolan replay --json prints them")
		}
		keep(m)
	}
}

// streamQuiet is how long a stream may say nothing before it counts as read to its end.
const streamQuiet = time.Second

// readStream reads what the stream holds.
func (p *program) readStream(ctx context.Context, cfg *config.Config, keep func(*bus.Message)) error {
	b, err := p.openReader(ctx, cfg)
	if err != nil {
		return err
	}
	reading, done := context.WithCancel(ctx)
	defer done()
	quiet := time.AfterFunc(time.Hour, done)
	defer quiet.Stop()
	filter := bus.Filter{All: true, Ready: func() { quiet.Reset(streamQuiet) }}
	err = b.Subscribe(reading, filter, func(m *bus.Message, _ bus.Meta) {
		quiet.Reset(streamQuiet)
		keep(m)
	})
	return errors.Join(err, ctx.Err(), b.Close())
}
