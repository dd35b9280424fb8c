package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"portolan/cmd/internal/bus"
	"portolan/cmd/internal/config"
	"portolan/cmd/internal/sandbox"
	"portolan/sensor"
)

// rights are what a process may do, and gives up step by step: it opens devices with all that it was started
// with, goes on as whom the configuration names, and then reaches only the files and networks that
// its work needs.
type rights struct {
	cfg     *config.Config
	mode    string           // config.SandboxOff where it gives up nothing
	account *sandbox.Account // to become; nil to stay who it is

	dropped  bool
	left     sandbox.Capabilities
	confined sandbox.Confinement
	why      error // nothing is confined
}

// hold checks what concerns users and the state directory, which it makes when there is none. Nothing is
// given up by a program that shares its process.
func (p *program) hold(cfg *config.Config) (*rights, error) {
	r := &rights{cfg: cfg, mode: cfg.Sandbox}
	if !p.alone {
		r.mode = config.SandboxOff
		r.why = errors.New("the process is not ours alone")
	}
	uid := os.Geteuid()
	if cfg.User != "" {
		a, err := sandbox.Lookup(cfg.User)
		if err != nil {
			return nil, withHint(err, "useradd --system --no-create-home --shell /usr/sbin/nologin "+cfg.User)
		}
		if uid != 0 && uid != a.UID {
			return nil, withHint(fmt.Errorf("user %q: only root can become another user", cfg.User), "start it with sudo, or leave user out")
		}
		if r.mode == config.SandboxOff {
			return nil, withHint(fmt.Errorf("user %q: with the sandbox off nothing is given up", cfg.User), "leave user out, or set sandbox to auto")
		}
		r.account = &a
	}
	return r, p.prepareStateDir(cfg.StateDir, r.account)
}

// prepareStateDir makes the state directory, or checks that nobody but whoever uses it can read or
// change what is in it.
func (p *program) prepareStateDir(dir string, account *sandbox.Account) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if account != nil {
		uid, gid = account.UID, account.GID
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil && account != nil {
			err = os.Chown(dir, uid, gid)
		}
		if err != nil {
			return withHint(fmt.Errorf("state directory: %w", err), "--state-dir names one that this user may write to")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		target, err := filepath.EvalSymlinks(dir)
		if err != nil {
			target = "the directory itself"
		}
		return withHint(fmt.Errorf("state directory %s: it is a symbolic link, which could come to point elsewhere", dir), "--state-dir "+target)
	case !mode.IsDir():
		return fmt.Errorf("state directory %s: it is not a directory", dir)
	case mode.Perm()&0o077 != 0:
		return withHint(fmt.Errorf("state directory %s: mode %04o lets others read or change what was found", dir, mode.Perm()), "chmod 700 "+dir)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != uid {
		return withHint(fmt.Errorf("state directory %s: it belongs to user %d, and user %d is to use it", dir, st.Uid, uid),
			fmt.Sprintf("chown -R %d:%d %s", uid, gid, dir))
	}
	return nil
}

// drop gives up all capabilities but those that it takes to open the devices again, and becomes the user that
// the configuration names.
func (r *rights) drop(sensors []*sensor.Sensor) error {
	if r.mode == config.SandboxOff {
		return nil
	}
	keep := sandbox.Set()
	for _, s := range sensors {
		keep |= sandbox.Set(sandbox.NetRaw)
		switch s.InForce().Prefilter {
		case sensor.PrefilterXDP:
			keep |= sandbox.Set(sandbox.BPF, sandbox.NetAdmin, sandbox.Perfmon)
		case sensor.PrefilterEBPF:
			keep |= sandbox.Set(sandbox.BPF)
		}
	}
	left, err := sandbox.Drop(keep, r.account)
	if err != nil {
		return withHint(fmt.Errorf("give up privileges: %w", err), "--sandbox off keeps them")
	}
	r.dropped, r.left = true, left
	return nil
}

// confine gives up files and networks that are not needed any more.
func (r *rights) confine() error {
	if r.mode == config.SandboxOff {
		return nil
	}
	c, err := sandbox.Confine(reachable(r.cfg))
	if err != nil && (r.mode == config.SandboxRequired || !errors.Is(err, sandbox.ErrUnsupported)) {
		return withHint(err, "--sandbox auto goes on without, --sandbox off does not try")
	}
	r.confined, r.why = c, err
	return nil
}

// String says what is in force, and why no more.
func (r *rights) String() string {
	if r.mode == config.SandboxOff {
		if r.why != nil {
			return fmt.Sprintf("all kept: %v", r.why)
		}
		return "all kept: the sandbox is off"
	}
	parts := []string{"capabilities " + r.left.String()}
	if r.account != nil {
		parts = append(parts, "user "+r.account.Name)
	}
	parts = append(parts, "no_new_privs", r.confined.String())
	if r.why != nil {
		parts = append(parts, r.why.Error())
	}
	return strings.Join(parts, ", ")
}

// LogValue is String.
func (r *rights) LogValue() slog.Value { return slog.StringValue(r.String()) }

// reachable returns what a sensor that is open still needs: its state; what it may be told to read
// again, with the directories that such files lie in, as they are replaced by renaming; where the kernel
// tells about devices; and NATS with what it takes to find and trust a server.
func reachable(cfg *config.Config) sandbox.Config {
	c := sandbox.Config{
		ReadWrite: []string{cfg.StateDir},
		Read: []string{
			"/proc",                          // counters, and what Go's runtime and metrics look at; foreign processes stay closed
			"/sys/class/net", "/sys/devices", // counters of network cards: the one links into the other
			"/sys/kernel/btf", "/sys/kernel/mm", // for eBPF programs; huge pages
			"/usr/share/zoneinfo", "/etc/localtime", // time zones
			filepath.Dir(config.DefaultFile), "/dev/null", // which programs of the C library may open
		},
	}
	if path, ok := strings.CutPrefix(cfg.Dnstap.Listen, "unix:"); ok {
		c.ReadWrite = append(c.ReadWrite, filepath.Dir(path)) // the socket is taken away in the end
	}
	for _, file := range []string{
		cfg.File(), cfg.NATS.Creds, cfg.NATS.NKey, cfg.NATS.CA, cfg.NATS.Cert, cfg.NATS.Key,
		cfg.Metrics.Cert, cfg.Metrics.Key, cfg.Metrics.TokenFile,
	} {
		if file == "" {
			continue
		}
		if dir := filepath.Dir(file); dir != "/" {
			c.Read = append(c.Read, dir)
		} else {
			c.Read = append(c.Read, file)
		}
	}
	if cfg.NATS.URL == "" {
		return c
	}
	// The certificates that the system trusts, wherever distributions keep them.
	c.Read = append(c.Read, "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
		"/usr/share/pki", "/var/lib/ca-certificates")
	hosts, ports := bus.Endpoints(cfg.NATS.URL)
	c.Connect = ports
	for _, host := range hosts {
		if _, err := netip.ParseAddr(host); err != nil {
			c.Read = append(c.Read, resolving()...)
			c.Connect = append(c.Connect, 53) // an answer that is too long for UDP
			break
		}
	}
	return c
}

// resolving returns what it takes to resolve a name. Files in /etc are replaced when the network changes, and a
// rule holds for a file, not for its name: with the directory, a new file can be read too. The superuser
// could then read what is secret there, so for it the names in use now have to do.
func resolving() []string {
	run := []string{"/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd"}
	if os.Geteuid() != 0 {
		return append(run, "/etc", "/lib", "/usr/lib", "/lib64") // the C library's resolver loads modules
	}
	return append(run, "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
		"/etc/ld.so.cache", "/lib", "/usr/lib", "/lib64")
}
