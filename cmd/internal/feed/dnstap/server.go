package dnstap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// ServerConfig says where a Server listens and what it takes.
type ServerConfig struct {
	Address string // unix:PATH or tcp:HOST:PORT
	// Tolerance is how far a DNS server's clock may differ from that of the mirror. Lookups are taken to be
	// so much earlier, and those that are then still to come are refused: the clock of one server must not
	// make all else late.
	Tolerance time.Duration
	Logger    *slog.Logger
}

// The bounds of a Server.
const (
	maxWriters   = 64                     // connections at once
	replyWithin  = 10 * time.Second       // for an answer to a writer that does not read
	aheadAtMost  = 500 * time.Millisecond // a lookup's time, after Tolerance was taken off, and ours
	acceptBackOf = 100 * time.Millisecond // after a failure to accept
)

// Stats counts what a Server has got.
type Stats struct {
	Writers  int64  // connections at present
	Messages uint64 // of all kinds
	Lookups  uint64
	Refused  uint64 // that could not be used, those ahead of time and those without a client among them
	NoClient uint64
	Ahead    uint64
	Broken   uint64 // connections that ended in the middle or were no dnstap
}

// Server takes dnstap messages of DNS servers that connect to it.
type Server struct {
	cfg      ServerConfig
	listener net.Listener
	writers  atomic.Int64

	messages, lookups, refused, noClient, ahead, broken atomic.Uint64
}

// Listen opens the address. A socket of the file system that is left of a process that is gone is
// replaced; its permissions let owner and group write.
func Listen(cfg ServerConfig) (*Server, error) {
	network, address, ok := strings.Cut(cfg.Address, ":")
	if !ok || network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("dnstap %q: want unix:PATH or tcp:HOST:PORT", cfg.Address)
	}
	if network == "unix" {
		if c, err := net.Dial(network, address); err == nil {
			c.Close()
			return nil, fmt.Errorf("dnstap %s: another process listens there", cfg.Address)
		}
		if info, err := os.Lstat(address); err == nil && info.Mode().Type() == os.ModeSocket {
			if err := os.Remove(address); err != nil {
				return nil, fmt.Errorf("dnstap %s: %w", cfg.Address, err)
			}
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("dnstap %s: %w", cfg.Address, err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o660); err != nil {
			l.Close()
			return nil, fmt.Errorf("dnstap %s: %w", cfg.Address, err)
		}
	}
	return &Server{cfg: cfg, listener: l}, nil
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{
		Writers: s.writers.Load(), Messages: s.messages.Load(), Lookups: s.lookups.Load(), Refused: s.refused.Load(),
		NoClient: s.noClient.Load(), Ahead: s.ahead.Load(), Broken: s.broken.Load(),
	}
}

// Run serves until ctx ends, and closes the server. Batches come from one goroutine at a time.
func (s *Server) Run(ctx context.Context, to event.BatchSink) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	defer context.AfterFunc(ctx, func() { s.listener.Close() })()
	out := &shared{to: to}
	for {
		c, err := s.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("dnstap %s: %w", s.cfg.Address, err)
		case err != nil: // out of descriptors, a writer that went away again
			time.Sleep(acceptBackOf)
			continue
		}
		if s.writers.Add(1) > maxWriters {
			s.writers.Add(-1)
			s.broken.Add(1)
			c.Close()
			continue
		}
		serving.Go(func() {
			defer s.writers.Add(-1)
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			s.serve(ctx, c, out)
		})
	}
}

// shared lets one goroutine at a time hand batches on.
type shared struct {
	mu sync.Mutex
	to event.BatchSink
}

func (s *shared) hand(b *event.Batch) {
	if b.Len() > 0 {
		s.mu.Lock()
		s.to.Batch(b)
		s.mu.Unlock()
		b.Reset()
	}
}

// serve reads one writer's stream.
func (s *Server) serve(ctx context.Context, c net.Conn, out *shared) {
	in := bufio.NewReaderSize(c, 64<<10)
	frames := NewFrames(in, deadlined{c})
	parser := New()
	sink := intake{server: s}
	for {
		if in.Buffered() == 0 { // what comes next may be long in coming
			out.hand(&sink.batch)
		}
		b, err := frames.Next()
		if err != nil && !feed.Skips(err) {
			out.hand(&sink.batch)
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.broken.Add(1)
				s.cfg.Logger.Warn("dnstap stream broken", "from", c.RemoteAddr(), "error", err)
			}
			return
		}
		s.messages.Add(1)
		if err == nil {
			err = parser.Line(b, &sink)
		}
		if err != nil {
			s.refused.Add(1)
			if errors.Is(err, errClient) {
				s.noClient.Add(1)
			}
		}
		if sink.batch.Full() {
			out.hand(&sink.batch)
		}
	}
}

// deadlined is a writer whose other end has to read.
type deadlined struct{ net.Conn }

// Write writes.
func (d deadlined) Write(b []byte) (int, error) {
	if err := d.SetWriteDeadline(time.Now().Add(replyWithin)); err != nil {
		return 0, err
	}
	return d.Conn.Write(b)
}

// intake is the sink of one writer's messages.
type intake struct {
	server *Server
	batch  event.Batch
}

// Lookup takes a lookup, unless it is still to come.
func (i *intake) Lookup(l *event.Lookup) {
	l.Time -= event.Time(i.server.cfg.Tolerance)
	if l.Time > event.TimeOf(time.Now().Add(aheadAtMost)) {
		i.server.ahead.Add(1)
		i.server.refused.Add(1)
		return
	}
	i.server.lookups.Add(1)
	i.batch.Lookup(l)
}

// Connection never comes.
func (*intake) Connection(*event.Connection) {}

// Record never comes.
func (*intake) Record(*attribute.Record) {}
