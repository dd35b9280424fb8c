package health

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWatch: a part that stands still is named once its patience is over, one that is idle is not.
func TestWatch(t *testing.T) {
	ring, publisher, idle := uint64(7), uint64(0), true
	start := time.Unix(1000, 0)
	w := NewWatch(10*time.Second, start,
		Part{Name: "ring", Count: func() uint64 { return ring }},
		Part{Name: "publisher", Count: func() uint64 { return publisher }, Idle: func() bool { return idle }},
	)
	for _, step := range []struct {
		after int // seconds
		do    func()
		stuck []string
		begun bool
	}{
		{1, func() {}, nil, false},
		{2, func() { ring++ }, nil, true},
		{12, func() {}, nil, true},
		{13, func() {}, []string{"ring"}, true},
		{14, func() { idle = false }, []string{"ring"}, true},
		{25, func() { ring++ }, []string{"publisher"}, true},
		{26, func() { publisher++ }, nil, true},
	} {
		step.do()
		stuck := w.Look(start.Add(time.Duration(step.after) * time.Second))
		if !slices.Equal(stuck, step.stuck) || w.Begun() != step.begun {
			t.Errorf("after %d s: stuck %q, begun %v; want %q, %v", step.after, stuck, w.Begun(), step.stuck, step.begun)
		}
	}
}

// TestNotifier: what systemd is told, a datagram each.
func TestNotifier(t *testing.T) {
	if n, err := NewNotifier(func(string) string { return "" }); n != nil || err != nil {
		t.Fatalf("without a manager: %v, %v", n, err)
	} else {
		n.Ready() // to nobody
		n.Close()
	}
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000"}
	n, err := NewNotifier(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if got := n.WatchdogEvery(); got != 15*time.Second {
		t.Errorf("the watchdog is told each %v, want half of 30s", got)
	}
	b := make([]byte, 4096)
	for _, c := range []struct {
		do   func()
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Watchdog, "WATCHDOG=1"},
		{n.Stopping, "STOPPING=1"},
		{n.Reloading, "RELOADING=1\nMONOTONIC_USEC="},
		{func() { n.Status("a\nREADY=1  b") }, "STATUS=a READY=1 b"},
	} {
		c.do()
		k, err := manager.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:k]), c.want) {
			t.Errorf("told %q, %v; want %q", b[:k], err, c.want)
		}
	}
	env["WATCHDOG_PID"] = "1"
	other, err := NewNotifier(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if got := other.WatchdogEvery(); got != 0 {
		t.Errorf("the watchdog of another process is told each %v", got)
	}
}

// TestValidate: off loopback there is no listener without TLS and a token.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Listen: "127.0.0.1:9464"}, ""},
		{Config{Listen: "[::1]:0"}, ""},
		{Config{Listen: "localhost:9464"}, ""},
		{Config{Listen: "9464"}, "want HOST:PORT"},
		{Config{Listen: ":9464"}, "reachable from outside"},
		{Config{Listen: "0.0.0.0:9464", Cert: "c", Key: "k"}, "reachable from outside"},
		{Config{Listen: "192.0.2.1:9464", TokenFile: "t"}, "reachable from outside"},
		{Config{Listen: "metrics.example:9464"}, "reachable from outside"},
		{Config{Listen: "192.0.2.1:9464", Cert: "c", Key: "k", TokenFile: "t"}, ""},
		{Config{Listen: "127.0.0.1:9464", Cert: "c"}, "one without the other"},
	} {
		err := c.cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

// certificate writes a certificate of its own for 127.0.0.1, and returns it in a pool.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	return pool
}

// TestServer: metrics and reasons for who has the token; the state for everybody; a new certificate and a
// new token without a restart.
func TestServer(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	token := filepath.Join(dir, "token")
	write := func(text string) {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("short\n")
	failing := errors.New("ring 0 stands still")
	cfg := Config{
		Listen: "127.0.0.1:0", Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), TokenFile: token,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "portolan_up 1\n") }),
		Alive:   func() error { return nil }, Ready: func() error { return failing },
	}
	if _, err := NewServer(cfg); err == nil || !strings.Contains(err.Error(), "want at least 16") {
		t.Fatalf("a short token: %v", err)
	}
	write("0123456789abcdef\n")
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	get := func(path, token string) (int, string) {
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
		r, err := http.NewRequest(http.MethodGet, "https://"+s.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	check := func(path, token string, status int, body string) {
		t.Helper()
		if gotStatus, gotBody := get(path, token); gotStatus != status || !strings.Contains(gotBody, body) {
			t.Errorf("%s with token %q: %d %q; want %d %q", path, token, gotStatus, gotBody, status, body)
		}
	}
	check("/metrics", "", http.StatusUnauthorized, "token")
	check("/metrics", "0123456789abcdeF", http.StatusUnauthorized, "token")
	check("/metrics", "0123456789abcdef", http.StatusOK, "portolan_up 1")
	check("/healthz", "", http.StatusOK, "ok")
	check("/readyz", "0123456789abcdef", http.StatusServiceUnavailable, failing.Error())
	if _, body := get("/readyz", ""); strings.Contains(body, "ring") {
		t.Errorf("/readyz tells everybody %q", body)
	}
	check("/debug/pprof/", "0123456789abcdef", http.StatusNotFound, "")

	pool = certificate(t, dir)
	write("fedcba9876543210\n")
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	check("/metrics", "0123456789abcdef", http.StatusUnauthorized, "token")
	check("/metrics", "fedcba9876543210", http.StatusOK, "portolan_up 1")
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil {
		t.Error("a token that is gone was read")
	}
	check("/metrics", "fedcba9876543210", http.StatusOK, "portolan_up 1")
}
