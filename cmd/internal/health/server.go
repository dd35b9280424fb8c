package health

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where the process can be asked, and who may.
type Config struct {
	// Listen is HOST:PORT. Off loopback, Cert, Key and TokenFile have to be set.
	Listen    string
	Cert, Key string // PEM files; with them TLS 1.2 and up is spoken, and nothing else
	TokenFile string // its first line is the token without which there are no metrics (RFC 6750); empty for none

	Metrics http.Handler
	// Alive and Ready say what is wrong, nil for nothing. They are safe for concurrent use.
	Alive, Ready func() error
	Log          *slog.Logger // nil for none
}

// Validate returns an error that names the field with a value that cannot be.
func (c *Config) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen %q: want HOST:PORT, such as 127.0.0.1:9464", c.Listen)
	}
	if (c.Cert == "") != (c.Key == "") {
		return errors.New("cert and key: one without the other")
	}
	if !isLoopback(host) && (c.Cert == "" || c.TokenFile == "") {
		return fmt.Errorf("listen %s: reachable from outside this host: set cert, key and token_file, or listen on 127.0.0.1", c.Listen)
	}
	return nil
}

// isLoopback says whether only this host can reach the address. A name could be any address tomorrow.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// Bounds on who asks: a scrape takes milliseconds.
const (
	requestTimeout  = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	maxHeaderBytes  = 16 << 10
	maxConnections  = 64
	maxTokenFile    = 4096
	leastToken      = 16 // characters; less can be guessed
	shutdownTimeout = time.Second
)

// Server answers GET on three paths: /metrics, for who has the token; /healthz, 200 while the
// process is alive; and /readyz, 200 while it does its work. The last two say why not only to
// who has the token, if there is one.
type Server struct {
	cfg     Config
	log     *slog.Logger
	addr    net.Addr
	http    *http.Server
	serving sync.WaitGroup

	token atomic.Pointer[[sha256.Size]byte] // of the token; nil when none is asked for
	cert  atomic.Pointer[tls.Certificate]
}

// NewServer listens, and answers until Close.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, err
	}
	s.addr = l.Addr()
	l = &bounded{Listener: l, room: make(chan struct{}, maxConnections)}
	if cfg.Cert != "" {
		l = tls.NewListener(l, &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
		})
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.guarded(cfg.Metrics))
	mux.Handle("GET /healthz", s.probe(cfg.Alive))
	mux.Handle("GET /readyz", s.probe(cfg.Ready))
	s.http = &http.Server{
		Handler: mux, MaxHeaderBytes: maxHeaderBytes, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // whoever scans us writes no log
	}
	s.serving.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("metrics and health cannot be asked any more", "listen", cfg.Listen, "error", err)
		}
	})
	return s, nil
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Reload reads certificate and token again. On an error those before stay.
func (s *Server) Reload() error {
	if s == nil {
		return nil
	}
	var cert *tls.Certificate
	if s.cfg.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cfg.Cert, s.cfg.Key)
		if err != nil {
			return fmt.Errorf("metrics certificate %s: %w", s.cfg.Cert, err)
		}
		cert = &pair
	}
	if s.cfg.TokenFile != "" {
		token, err := readToken(s.cfg.TokenFile)
		if err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(token))
		s.token.Store(&sum)
	}
	s.cert.Store(cert)
	return nil
}

// readToken returns the first line of a file.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("metrics token: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return "", fmt.Errorf("metrics token: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); len(line) < leastToken {
		return "", fmt.Errorf("metrics token %s: its first line has %d characters, want at least %d", path, len(line), leastToken)
	}
	return line, nil
}

// Close ends what is under way, and waits for it.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	s.serving.Wait()
	return err
}

// known says whether a request brings the token, if one is asked for.
func (s *Server) known(r *http.Request) bool {
	want := s.token.Load()
	if want == nil {
		return true
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], want[:]) == 1 && ok
}

// guarded answers only those who bring the token.
func (s *Server) guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.known(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="portolan"`)
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) probe(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := check()
		switch {
		case err == nil:
			_, _ = io.WriteString(w, "ok\n")
		case s.known(r):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	})
}

// bounded accepts no more connections than there is room for.
type bounded struct {
	net.Listener
	room chan struct{}
}

// Accept waits for room, and then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	b.room <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		return nil, err
	}
	return &held{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

// held is a connection that gives its room back once.
type held struct {
	net.Conn
	leave func()
}

// Close closes the connection and makes room.
func (h *held) Close() error {
	h.leave()
	return h.Conn.Close()
}
