package site

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"portolan/cmd/internal/bus"
)

// Auth is how those who connect prove who they are, besides their certificate.
type Auth string

// The ways.
const (
	// NKeys: the server's configuration lists every user's public key with its permissions.
	NKeys Auth = "nkey"
	// JWT: users carry their permissions, signed by the site's account key, in a credentials file; one
	// more user needs no change at the server.
	JWT Auth = "jwt"
)

// Config says what a set is for.
type Config struct {
	Site string // name of the site, see bus.ValidateSensor
	Auth Auth

	Sensors, Workers, Enrichers, Endpoints, Subscribers []string // names of those who connect

	Listen    string   // HOST:PORT of the server
	Hosts     []string // names and addresses under which the server is reached; the first goes into URLs
	ServerDir string   // where the server's files will lie on its host
	ClientDir string   // where those of the others will lie on theirs
	StoreDir  string   // where the server keeps its streams

	CertificateAge time.Duration // of all but the authority's, from 1 day to 10 years
}

// DefaultConfig returns what suits most; Site, Hosts and names are left to the caller.
func DefaultConfig() Config {
	return Config{
		Auth:           NKeys,
		Listen:         "0.0.0.0:4222",
		ServerDir:      "/etc/nats",
		ClientDir:      "/etc/portolan",
		StoreDir:       "/var/lib/nats",
		CertificateAge: 825 * 24 * time.Hour,
	}
}

// Validate returns an error that names the first field with a value that cannot be.
func (c Config) Validate() error {
	if err := bus.ValidateSensor(c.Site); err != nil {
		return fmt.Errorf("site: %w", err)
	}
	if c.Auth != NKeys && c.Auth != JWT {
		return fmt.Errorf("auth %q: want %s or %s", c.Auth, NKeys, JWT)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen %q: want HOST:PORT", c.Listen)
	}
	if len(c.Hosts) == 0 {
		return errors.New("hosts: want at least one name or address under which the server is reached")
	}
	for _, h := range c.Hosts {
		if net.ParseIP(h) == nil && (h == "" || strings.ContainsAny(h, " :/\\\"'\t\n")) {
			return fmt.Errorf("host %q: want a name or an address, without port", h)
		}
	}
	for _, d := range []string{c.ServerDir, c.ClientDir, c.StoreDir} {
		if d == "" || strings.ContainsAny(d, "\"\n\r") {
			return fmt.Errorf("directory %q: want a path", d)
		}
	}
	if c.CertificateAge < 24*time.Hour || c.CertificateAge > authorityAge {
		return fmt.Errorf("certificate age %v: want 24h to %v", c.CertificateAge, authorityAge)
	}
	seen := map[string]Role{}
	for _, u := range c.users() {
		if err := bus.ValidateSensor(u.name); err != nil {
			return fmt.Errorf("%s: %w", u.role, err)
		}
		if other, ok := seen[u.name]; ok {
			// One inbox each, and one file name each.
			return fmt.Errorf("%s %q: the name is taken by another %s", u.role, u.name, other)
		}
		if u.name == bus.DefaultConfig().Name {
			return fmt.Errorf("%s %q: every subscriber answers to that name", u.role, u.name)
		}
		seen[u.name] = u.role
	}
	return nil
}

// user is somebody who connects.
type user struct {
	role Role
	name string
}

// dir is the user's directory in the set.
func (u user) dir() string {
	if u.role == Administrator {
		return string(u.role)
	}
	return string(u.role) + "-" + u.name
}

// adminName is the administrator's.
const adminName = "admin"

func (c Config) users() []user {
	list := []user{{Administrator, adminName}}
	for _, g := range []struct {
		role  Role
		names []string
	}{{Sensor, c.Sensors}, {Worker, c.Workers}, {Enricher, c.Enrichers}, {Endpoint, c.Endpoints}, {Subscriber, c.Subscribers}} {
		for _, n := range g.names {
			list = append(list, user{g.role, n})
		}
	}
	return list
}

// url returns where clients connect to.
func (c Config) url() string {
	_, port, _ := net.SplitHostPort(c.Listen)
	if n, err := strconv.Atoi(port); err != nil || n <= 0 {
		port = "4222"
	}
	return "tls://" + net.JoinHostPort(c.Hosts[0], port)
}

// Write writes a set into dir, which must not exist: it appears whole or not at all. Files with
// secrets have mode 0600; nothing is printed.
func Write(dir string, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("%s: %w, and nothing is ever overwritten", dir, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := c.files(time.Now())
	if err != nil {
		return err
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(parent, ".portolan-nats-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch) // gone already when all went well
	for _, f := range files {
		name := filepath.Join(scratch, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.data, f.mode); err != nil {
			return err
		}
	}
	return os.Rename(scratch, dir)
}

// file is one of a set; name has slashes and is relative.
type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// files returns the set.
func (c Config) files(now time.Time) ([]file, error) {
	ca, root, err := newAuthority(c.Site, now)
	if err != nil {
		return nil, err
	}
	server, err := ca.issue("nats-server "+c.Site, c.serverNames(), c.CertificateAge)
	if err != nil {
		return nil, err
	}
	keys, err := newKeys(c, now)
	if err != nil {
		return nil, err
	}
	list := []file{
		{"README.md", []byte(c.readme(now)), 0o644},
		{"authority/ca.pem", root.cert, 0o644},
		{"authority/ca.key", root.key, 0o600},
		{"server/nats-server.conf", keys.conf, 0o600},
		{"server/ca.pem", root.cert, 0o644},
		{"server/cert.pem", server.cert, 0o644},
		{"server/key.pem", server.key, 0o600},
	}
	list = append(list, keys.signing...)
	for _, u := range c.users() {
		p, err := ca.issue(u.name, nil, c.CertificateAge)
		if err != nil {
			return nil, err
		}
		list = append(list,
			file{path.Join(u.dir(), "portolan.yaml"), c.clientConfig(u), 0o644},
			file{path.Join(u.dir(), c.secretName()), keys.users[u.name], 0o600},
			file{path.Join(u.dir(), "ca.pem"), root.cert, 0o644},
			file{path.Join(u.dir(), "cert.pem"), p.cert, 0o644},
			file{path.Join(u.dir(), "key.pem"), p.key, 0o600},
		)
	}
	return list, nil
}

// serverNames returns what the server's certificate is for: also the host itself, for the
// administrator there.
func (c Config) serverNames() []string {
	names := slices.Clone(c.Hosts)
	for _, n := range []string{"localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// secretName is the name of the file in which a user proves who it is.
func (c Config) secretName() string {
	if c.Auth == JWT {
		return "nats.creds"
	}
	return "nats.nk"
}

// clientConfig returns the part of a user's configuration that concerns NATS.
func (c Config) clientConfig(u user) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s %s of site %s\n", u.role, u.name, c.Site)
	if u.role != Subscriber {
		fmt.Fprintf(&b, "sensor: %s\n", u.name)
	}
	setting := "nkey"
	if c.Auth == JWT {
		setting = "creds"
	}
	fmt.Fprintf(&b, "nats:\n  url: %q\n", c.url())
	for _, f := range []struct{ key, name string }{{setting, c.secretName()}, {"ca", "ca.pem"}, {"cert", "cert.pem"}, {"key", "key.pem"}} {
		fmt.Fprintf(&b, "  %s: %q\n", f.key, path.Join(c.ClientDir, f.name))
	}
	return b.Bytes()
}

// permissionsPlace says where permissions stand.
func (c Config) permissionsPlace() string {
	if c.Auth == JWT {
		return "its signed credentials"
	}
	return "the server's configuration"
}

func (c Config) readme(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# NATS for Portolan at %s

Made on %s. Certificates run out on %s, the authority on %s.

| directory | goes to | as |
|---|---|---|
| server/ | the host of nats-server | %s, readable for its user only |
`, c.Site, now.UTC().Format(time.DateOnly), now.Add(c.CertificateAge).UTC().Format(time.DateOnly),
		now.Add(authorityAge).UTC().Format(time.DateOnly), c.ServerDir)
	for _, u := range c.users() {
		where := fmt.Sprintf("the host of %s %s", u.role, u.name)
		if u.role == Administrator {
			where = "nowhere: keep it with the operator"
		}
		fmt.Fprintf(&b, "| %s/ | %s | %s, readable for its user only |\n", u.dir(), where, c.ClientDir)
	}
	b.WriteString("| authority/ | nowhere: keep it offline; whoever has ca.key can make certificates of this site | |\n")
	if c.Auth == JWT {
		b.WriteString("| signing/ | nowhere: keep it offline; whoever has account.nk can make users of this site | |\n")
	}
	fmt.Fprintf(&b, `
Start the server (nats-server 2.11 or later), once make the streams, then start the others:

    nats-server -c %[1]s
    portolan nats streams --config administrator/portolan.yaml
    portolan run -i eth1 --config %[2]s
    portolan watch --config %[2]s

The administrator's portolan.yaml names files in %[3]s; on the operator's host pass --nkey or --creds, --ca, --cert and
--key with the paths in administrator/ instead. Every file with a secret has mode 0600. Copy directories with a tool that
keeps modes, such as scp -p, and delete this set from hosts that are done with it.

What each role may do stands in %[4]s. A sensor, worker or endpoint can speak under its own name
only, so it has to run with "sensor:" as in its portolan.yaml. A subscriber that is not Portolan needs the inbox prefix
_INBOX.NAME, such as nats --inbox-prefix _INBOX.NAME.
`, path.Join(c.ServerDir, "nats-server.conf"), path.Join(c.ClientDir, "portolan.yaml"), c.ClientDir,
		c.permissionsPlace())
	return b.String()
}
