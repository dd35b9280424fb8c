// Package endpoint says which process, user and container of this host makes which connection: from
// eBPF programs of our own, or from the kernel's audit system where those cannot run.
package endpoint

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"portolan/cmd/internal/endpoint/kernel"
	"portolan/correlate/attribute"
)

// Config says who speaks, and how much effort a record is worth. The zero value is not valid;
// start from DefaultConfig.
type Config struct {
	HostID  string // one subject token, 1 to 64 of [0-9A-Za-z_-]
	Host    string // its name, for people
	Version string // of Portolan

	Kernel    kernel.Config
	Hold      time.Duration // a connect waits so long for its result, before it is told of without; 0 to 10 s
	Interval  time.Duration // between two Host records; 1 s to 1 h
	HashSize  int64         // bytes of the largest executable that is hashed; 0 for none
	HashRate  int64         // bytes a second that are hashed; at least 1 MiB
	HashWait  time.Duration // a record waits so long for its executable's hash, before it is told of without; 0 to 10 s
	AuditRule bool          // add the audit rules that the auditd source needs, and remove them at the end

	Log *slog.Logger // changes of state; nil for none
}

// DefaultConfig returns the configuration of a host that is named by its machine id.
func DefaultConfig() Config {
	id, _ := MachineID() // Validate says that it is missing
	name, _ := os.Hostname()
	return Config{
		HostID: id, Host: name, Kernel: kernel.DefaultConfig(),
		Hold: 250 * time.Millisecond, Interval: time.Minute,
		HashSize: 128 << 20, HashRate: 64 << 20, HashWait: 250 * time.Millisecond,
	}
}

// Validate reports the first field whose value is out of range.
func (c Config) Validate() error {
	bad := func(field string, value any, want string) error {
		return fmt.Errorf("%s %v: want %s", field, value, want)
	}
	switch {
	case !isToken(c.HostID):
		return bad("HostID", fmt.Sprintf("%q", c.HostID), "1 to 64 letters, digits, hyphens and underscores")
	case c.Hold < 0 || c.Hold > 10*time.Second:
		return bad("Hold", c.Hold, "0 to 10s")
	case c.Interval < time.Second || c.Interval > time.Hour:
		return bad("Interval", c.Interval, "1s to 1h")
	case c.HashSize < 0:
		return bad("HashSize", c.HashSize, "0 or more bytes")
	case c.HashRate < 1<<20:
		return bad("HashRate", c.HashRate, "1048576 bytes a second or more")
	case c.HashWait < 0 || c.HashWait > 10*time.Second:
		return bad("HashWait", c.HashWait, "0 to 10s")
	}
	return c.Kernel.Validate()
}

func isToken(s string) bool {
	const most = 64
	return s != "" && len(s) <= most && strings.IndexFunc(s, func(c rune) bool {
		return !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_')
	}) < 0
}

// MachineID returns this host's id (machine-id(5)).
func MachineID() (string, error) {
	for _, name := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		b, err := os.ReadFile(name)
		if id := strings.TrimSpace(string(b)); err == nil && isToken(id) {
			return id, nil
		}
	}
	return "", errNoMachineID
}

var errNoMachineID = errors.New("/etc/machine-id holds no id")

// Emit takes a record, which is valid during the call only. An error means that the record is lost. One
// goroutine at a time calls it.
type Emit func(*attribute.Record) error

// Stats counts what an agent did. All counts are since its start.
type Stats struct {
	Records uint64 // handed on, Host records and those that Emit could not take among them
	Lost    uint64 // by the kernel, or because Emit could not take them
	Refused uint64 // messages that could not be used
}

// ErrNoKernel says that eBPF programs cannot be used here.
var ErrNoKernel = errors.New("eBPF cannot be used here")
