package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Between two attempts to reconnect.
const (
	reconnectWait   = 500 * time.Millisecond
	reconnectJitter = 250 * time.Millisecond
)

// pingInterval: a connection on which two pings stay unanswered is given up.
const pingInterval = 10 * time.Second

// connect makes the first connection; the client library makes the later ones.
func (b *Bus) connect(ctx context.Context) error {
	timeout := b.cfg.Timeout
	if t, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(t))
	}
	if err := ctx.Err(); err != nil || timeout <= 0 {
		return fmt.Errorf("connect to %s: %w", b.at, context.Cause(ctx))
	}
	options := []nats.Option{
		nats.Name(b.cfg.Name),
		nats.CustomInboxPrefix(b.denied.inbox),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.IgnoreAuthErrorAbort(), // credentials may be mended while we wait
		nats.ReconnectBufSize(-1),   // messages wait in the publisher, which counts them
		nats.ErrorHandler(b.asyncError),
		nats.DisconnectErrHandler(b.disconnected),
		nats.ReconnectHandler(b.reconnected),
		nats.ConnectHandler(b.reconnected), // comes late when the server was away at the start
		nats.PingInterval(pingInterval),
		nats.FlusherTimeout(b.cfg.Timeout), // a server that stands still holds up no more than the publisher
	}
	where := b.cfg.URL
	if b.server != nil {
		options = append(options, nats.InProcessServer(b.server))
		options = append(options, b.server.login()...)
	} else {
		more, err := b.authentication()
		if err != nil {
			return err
		}
		b.dial = &dialer{Dialer: net.Dialer{Timeout: timeout}}
		options = append(options, more...)
		options = append(options, nats.SetCustomDialer(b.dial))
	}
	conn, err := nats.Connect(where, options...)
	if err != nil && b.cfg.Patient && b.server == nil {
		b.refusal = b.connectError(err).Error()
		b.log.Warn("nats cannot be reached yet: hits wait in the spool", "error", b.refusal)
		conn, err = nats.Connect(where, append(options, nats.RetryOnFailedConnect(true))...)
	}
	if err != nil {
		return b.connectError(err)
	}
	b.conn = conn
	b.connected.Store(conn.IsConnected())
	return nil
}

// reconnected is called by the client library.
func (b *Bus) reconnected(c *nats.Conn) {
	if b.connected.Swap(true) {
		return // the first connection, which connect has seen
	}
	p := b.attached.Load()
	if p == nil {
		return
	}
	b.log.Info("nats connected again", "server", c.ConnectedUrlRedacted())
	b.denied.forget()
	p.reconnected()
}

// authentication returns the options for credentials and TLS. The files are read now, so
// that the error names the one that is wrong.
func (b *Bus) authentication() ([]nats.Option, error) {
	var options []nats.Option
	if f := b.cfg.Creds; f != "" {
		if err := readable(f); err != nil {
			return nil, fmt.Errorf("nats credentials: %w", err)
		}
		options = append(options, nats.UserCredentials(f))
	}
	if f := b.cfg.NKey; f != "" {
		if err := readable(f); err != nil {
			return nil, fmt.Errorf("nats nkey seed: %w", err)
		}
		o, err := nats.NkeyOptionFromSeed(f)
		if err != nil {
			return nil, fmt.Errorf("nats nkey seed %s: the file holds no user seed (SU…)", f)
		}
		options = append(options, o)
	}
	if b.cfg.CA == "" && b.cfg.Cert == "" {
		return options, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if f := b.cfg.CA; f != "" {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("nats CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("nats CA %s: the file holds no PEM certificate", f)
		}
	}
	if b.cfg.Cert != "" {
		pair, err := tls.LoadX509KeyPair(b.cfg.Cert, b.cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("nats certificate %s: %w", b.cfg.Cert, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return append(options, nats.Secure(t)), nil
}

func readable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return f.Close()
}

// dialer remembers why it could not reach a server: the client library says only that there
// was none.
type dialer struct {
	net.Dialer
	mu   sync.Mutex
	last error
}

// Dial connects as net.Dialer does.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.Dialer.Dial(network, address)
	if err != nil {
		d.mu.Lock()
		d.last = err
		d.mu.Unlock()
	}
	return c, err
}

func (d *dialer) lastError() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// connectError says on one line, without secrets, why there is no connection.
func (b *Bus) connectError(err error) error {
	var (
		unknownCA *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		path      *fs.PathError
		op        *net.OpError
	)
	why := err
	switch {
	case errors.Is(err, nats.ErrNoServers) && b.dial.lastError() != nil:
		why = b.dial.lastError()
		if errors.As(why, &op) {
			why = op.Err // the address stands in the line already
		}
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("connect to %s: wrong or missing credentials: %w", b.at, err)
	case errors.Is(err, nats.ErrNkeysNotSupported):
		return fmt.Errorf("connect to %s: the server knows no NKeys: %w", b.at, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("connect to %s: tls: the server offers none: %w", b.at, err)
	case errors.Is(err, nats.ErrSecureConnRequired):
		return fmt.Errorf("connect to %s: tls: the server requires it: %w", b.at, err)
	case errors.As(err, &unknownCA), errors.As(err, &record), errors.As(err, &alert):
		return fmt.Errorf("connect to %s: tls: %w", b.at, err)
	case errors.As(err, &path):
		return fmt.Errorf("connect to %s: %w", b.at, path)
	}
	return fmt.Errorf("connect to %s: %w", b.at, why)
}

func (b *Bus) disconnected(_ *nats.Conn, err error) {
	b.connected.Store(false)
	if err != nil {
		b.log.Warn("nats connection lost", "server", b.at, "error", err)
	}
}

// unconnected says why the connection does not come back, once for each reason. It may take as
// long as an attempt to connect.
func (b *Bus) unconnected() {
	err := b.conn.LastError()
	if dial := b.dial.lastError(); err == nil && dial != nil {
		err = nats.ErrNoServers // connectError knows the rest
	}
	if err == nil || b.connected.Load() {
		return
	}
	if why := b.connectError(err).Error(); b.pub.news(why) {
		b.log.Warn("nats cannot be reached: hits wait", "error", why)
	}
}

// deniedSubject finds the subject in what a server says when it denies an operation.
var deniedSubject = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// asyncError takes what the server says outside any exchange.
func (b *Bus) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if m := deniedSubject.FindStringSubmatch(err.Error()); m != nil {
		e := &DeniedError{Operation: "subscribe", Subject: m[2]}
		if strings.EqualFold(m[1], "publish") {
			e.Operation = "publish"
		}
		// The client library tidies up its consumers when allowed to; the server does it anyway.
		if b.denied.note(e) && !strings.HasPrefix(e.Subject, "$JS.API.CONSUMER.DELETE.") {
			b.log.Warn("nats permission denied", "server", b.at, "operation", e.Operation, "subject", e.Subject)
		}
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Warn("nats", "server", b.at, "subject", subject, "error", err)
}
