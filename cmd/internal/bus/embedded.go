package bus

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"
)

const (
	fullUser   = "portolan" // may do all
	readerUser = "reader"   // whoever gives no password: may read hits

	serverReady = 30 * time.Second // a long store takes its time to read

	// storeBytes bounds the embedded server's store: the streams' own bounds and room for consumers.
	storeBytes = 4 << 30

	// A hit is written at once and survives this process; every syncInterval it also survives the host.
	syncInterval = 2 * time.Second
)

// embedded is a nats-server in this process.
type embedded struct {
	*server.Server
	lock     *os.File
	password string // of fullUser; empty when nobody can come from outside
}

func (c Config) validateEmbedded() error {
	if c.StateDir == "" {
		return errors.New("state directory: the embedded server needs one")
	}
	if c.Creds != "" || c.NKey != "" {
		return errors.New("credentials and nkey: the embedded server asks for neither, and no URL names another")
	}
	if c.Listen == "" {
		if c.CA != "" || c.Cert != "" {
			return errors.New("certificates: neither listen nor a server url is set that they could serve")
		}
		return nil
	}
	if c.CA != "" && c.Cert == "" {
		return errors.New("client certificates: to ask for them the embedded server needs its own, and its key")
	}
	host, _, err := listenAddress(c.Listen)
	if err != nil {
		return err
	}
	if !isLoopback(host) && c.ListenPassword == "" && (c.CA == "" || c.Cert == "") {
		return fmt.Errorf("listen %s: reachable from outside this host: set a password, or CA, certificate and key, "+
			"or listen on 127.0.0.1", c.Listen)
	}
	return nil
}

// listenAddress splits HOST:PORT; port 0 is any free one.
func listenAddress(s string) (host string, port int, err error) {
	host, digits, err := net.SplitHostPort(s)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(digits, 10, 16)
		port = int(n)
	}
	if err != nil {
		return "", 0, fmt.Errorf("listen %q: want HOST:PORT, such as 127.0.0.1:4222", s)
	}
	return host, port, nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// startEmbedded locks the state directory and starts the server in it.
func startEmbedded(cfg Config, log *slog.Logger) (*embedded, error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	lock, err := lockDir(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	e := &embedded{lock: lock}
	if err := e.start(cfg, log); err != nil {
		e.stop()
		return nil, fmt.Errorf("embedded nats server in %s: %w", cfg.StateDir, err)
	}
	return e, nil
}

func (e *embedded) start(cfg Config, log *slog.Logger) error {
	opts := &server.Options{
		ServerName:             cfg.Name,
		DontListen:             cfg.Listen == "",
		JetStream:              true,
		StoreDir:               filepath.Join(cfg.StateDir, "nats"),
		JetStreamMaxMemory:     64 << 20,
		JetStreamMaxStore:      storeBytes,
		SyncInterval:           syncInterval,
		NoSigs:                 true, // signals belong to main
		DisableJetStreamBanner: true,
	}
	if cfg.Listen != "" {
		if err := e.listen(opts, cfg, log); err != nil {
			return err
		}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	bridge := &serverLog{log: log}
	srv.SetLoggerV2(bridge, false, false, false)
	e.Server = srv
	srv.Start()
	for end := time.Now().Add(serverReady); !srv.ReadyForConnections(50 * time.Millisecond); {
		if why := bridge.fatal.Load(); why != nil {
			return errors.New(*why)
		}
		if time.Now().After(end) {
			return fmt.Errorf("not ready after %v", serverReady)
		}
	}
	if why := bridge.fatal.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// listen opens the server to other processes: they may read, and do all with the password.
func (e *embedded) listen(opts *server.Options, cfg Config, log *slog.Logger) error {
	host, port, err := listenAddress(cfg.Listen)
	if err != nil {
		return err
	}
	if opts.Host, opts.Port = host, port; port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if e.password = cfg.ListenPassword; e.password == "" {
		e.password = rand.Text()
	}
	opts.Users = []*server.User{
		{Username: fullUser, Password: e.password},
		{Username: readerUser, Password: rand.Text(), Permissions: readerPermissions()},
	}
	opts.NoAuthUser = readerUser
	if cfg.Cert == "" {
		if !isLoopback(host) {
			log.Warn("nats: passwords and hits cross the network in clear: set certificate and key", "listen", cfg.Listen)
		}
		return nil
	}
	t := &server.TLSConfigOpts{CertFile: cfg.Cert, KeyFile: cfg.Key, CaFile: cfg.CA, Verify: cfg.CA != ""}
	if opts.TLSConfig, err = server.GenTLSConfig(t); err != nil {
		return err
	}
	opts.TLS, opts.TLSVerify, opts.TLSTimeout = true, cfg.CA != "", cfg.Timeout.Seconds()
	return nil
}

// readerPermissions are those of the subscriber in deploy/nats, with any inbox.
func readerPermissions() *server.Permissions {
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"$JS.API.INFO",
			"$JS.API.STREAM.INFO." + HitsStream,
			"$JS.API.STREAM.INFO." + OpsStream,
			"$JS.API.CONSUMER.CREATE." + HitsStream + ".>",
			"$JS.API.CONSUMER.CREATE." + OpsStream + ".>",
			"$JS.API.CONSUMER.INFO." + HitsStream + ".*",
			"$JS.API.CONSUMER.INFO." + OpsStream + ".*",
			"$JS.API.CONSUMER.MSG.NEXT." + HitsStream + ".*",
			"$JS.API.CONSUMER.MSG.NEXT." + OpsStream + ".*",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{
			subjectRoot + ".hit.>", subjectRoot + ".enriched.>", subjectRoot + ".cover.>", subjectRoot + ".stat.>",
			"_INBOX.>",
		}},
	}
}

// login returns what the in-process connection says of itself.
func (e *embedded) login() []nats.Option {
	if e.password == "" {
		return nil
	}
	return []nats.Option{nats.UserInfo(fullUser, e.password)}
}

// String returns the URL that other processes connect to, or "in-process".
func (e *embedded) String() string {
	if e.password == "" {
		return "in-process"
	}
	return e.ClientURL()
}

// stop shuts the server down, waits until its files are closed, and unlocks the directory.
func (e *embedded) stop() {
	if e.Server != nil {
		e.Shutdown()
		e.WaitForShutdown()
	}
	e.lock.Close() // which also unlocks
}

// lockDir makes sure that one process at a time uses dir. The kernel drops the lock with
// the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s: lock: %w", dir, err)
		}
		b := make([]byte, 20)
		n, _ := f.Read(b)
		if pid := strings.TrimSpace(string(b[:n])); pid != "" {
			return nil, fmt.Errorf("state directory %s: %w by process %s", dir, ErrInUse, pid)
		}
		return nil, fmt.Errorf("state directory %s: %w by another process", dir, ErrInUse)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return f, nil
}

// ErrInUse says that another process has the state directory.
var ErrInUse = errors.New("in use")

// serverLog hands the server's log lines to slog. Its notices tell of an ordinary start and
// end, which concern nobody here.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string] // why the server did not start
}

func (l *serverLog) Noticef(f string, v ...any) { l.log.Debug("nats-server: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Warnf(f string, v ...any) {
	// The password is made for each run and never leaves the process, or is the operator's own
	// choice; in neither case is there a file that holds it.
	if text := fmt.Sprintf(f, v...); !strings.HasPrefix(text, "Plaintext passwords detected") {
		l.log.Warn("nats-server: " + text)
	}
}
func (l *serverLog) Errorf(f string, v ...any) { l.log.Error("nats-server: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Debugf(f string, v ...any) {}
func (l *serverLog) Tracef(f string, v ...any) {}

// Fatalf only remembers: what called for the server says it.
func (l *serverLog) Fatalf(f string, v ...any) {
	s := fmt.Sprintf(f, v...)
	l.fatal.CompareAndSwap(nil, &s)
}
