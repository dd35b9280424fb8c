// Package config gathers what Portolan's commands can be told: by flag, by PORTOLAN_*
// environment variable, by a YAML file, or not at all. Each value remembers where it came
// from. The first of these that speaks wins.
package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"portolan/correlate"
	"portolan/correlate/attribute"
	"portolan/sensor"
)

// DefaultFile is read when it exists and neither --config nor PORTOLAN_CONFIG names
// another file.
const DefaultFile = "/etc/portolan/portolan.yaml"

// Config is the outcome of Load: everything the commands can be told.
type Config struct {
	Sensor string   // name of this sensor in messages and subjects: one subject token
	Device []string // network devices to capture on; empty: none was named
	// MirrorPorts are those of the devices that nothing else on this host uses.
	MirrorPorts []string
	Capture     sensor.Config // for each device; Device, Point, MirrorPort and Logger are left to the caller
	NATS        NATS
	Dnstap      Dnstap
	StateDir    string // the spool, the embedded server's streams, what was learned
	Spool       int64  // bytes of disk for what waits for NATS
	Limit       Limit
	Metrics     Metrics
	User        string     // to become once the devices are open; empty for none
	Sandbox     string     // SandboxAuto, SandboxRequired or SandboxOff
	LogLevel    slog.Level // least level of what is logged
	Correlate   correlate.Config
	SelfTest    time.Duration // between two self-tests of a live sensor; 0 for none

	Observations Observations
	Attribution  Attribution
	Allow        []AllowRule // hits that are counted and not published

	file   string            // that was read; "" for none
	origin map[string]string // by key; keys that are missing have their default
}

// Whether to give up what is not needed any more.
const (
	SandboxAuto     = "auto"     // as far as the kernel can
	SandboxRequired = "required" // or end
	SandboxOff      = "off"
)

// Metrics says where metrics and health can be asked for. Off loopback all fields have to be set.
type Metrics struct {
	Listen    string // HOST:PORT; empty: nowhere
	Cert, Key string // paths of PEM files
	TokenFile string // path of a file whose first line is the token
}

// Observations says whether and how what was decoded is published for portolan correlate.
type Observations struct {
	Publish    bool
	Partitions int  // into how many parts the fleet shares out its clients
	FleetZone  int  // number of the address space that this sensor sees, in the whole fleet; 16 bits
	Untag      bool // leave VLAN, VNI and ERSPAN out
}

// Dnstap says where DNS servers tell of the lookups that they answer.
type Dnstap struct {
	Listen    string        // unix:PATH or tcp:HOST:PORT; empty: nowhere
	Tolerance time.Duration // how far their clocks may differ from ours
}

// NATS says how to reach a server. An empty URL means the one inside the process.
type NATS struct {
	URL   string
	Creds string // path of a credentials file
	NKey  string // path of a file with an NKey seed
	CA    string // path of the PEM certificates that the server's chain must end in
	Cert  string // path of the client's PEM certificate
	Key   string // path of the client's PEM key

	Domain string // JetStream domain that has the streams, for a leaf node without them; empty for the server's own

	Listen         string // where the server inside the process listens; empty: it does not
	ListenPassword string // lets its user "portolan" do everything from there
}

// Limit bounds hits of one client and hypothesis that are published one by one; of the others summaries go out.
type Limit struct {
	Burst     int // at once; 0 for no limit
	PerMinute int // beyond that
	Every     time.Duration
}

// Default returns what holds when nobody said anything. Hostname, user and environment
// decide the sensor's name and the state directory.
func Default() Config {
	return Config{
		Sensor:    defaultSensor(),
		Capture:   sensor.DefaultConfig(),
		Dnstap:    Dnstap{Tolerance: 100 * time.Millisecond},
		NATS:      NATS{Listen: "127.0.0.1:4222"},
		StateDir:  defaultStateDir(os.Geteuid(), os.Getenv),
		Spool:     512 << 20,
		Sandbox:   SandboxAuto,
		Limit:     Limit{Burst: 100, PerMinute: 60, Every: time.Minute},
		Correlate: correlate.DefaultConfig(),
		SelfTest:  time.Hour,

		Observations: Observations{Partitions: 16},
		Attribution:  Attribution{Join: attribute.DefaultConfig()},
	}
}

// File returns the path of the file that was read, "" for none.
func (c *Config) File() string { return c.file }

// Origin says where the value of a key came from: "default", "FILE:LINE",
// "environment NAME" or "flag --NAME".
func (c *Config) Origin(key string) string {
	if o, ok := c.origin[key]; ok {
		return o
	}
	return "default"
}

// Changed returns the keys whose values differ between c and o, in the order in which they are shown.
func (c *Config) Changed(o *Config) (keys []string) {
	for _, s := range Settings() {
		if s.field(c).String() != s.field(o).String() {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

var sensorName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Validate checks what no value shows by itself. The error names the key.
func (c *Config) Validate() error {
	if !sensorName.MatchString(c.Sensor) {
		return fmt.Errorf("sensor: %q is not a name of 1 to 64 letters, digits, - and _", c.Sensor)
	}
	for _, name := range c.MirrorPorts {
		if len(c.Device) > 0 && !slices.Contains(c.Device, name) {
			return fmt.Errorf("mirror_port: %q is not a device to capture on", name)
		}
	}
	if (c.NATS.Cert == "") != (c.NATS.Key == "") {
		return fmt.Errorf("nats.cert and nats.key: one without the other")
	}
	if c.Metrics.Listen == "" && c.Metrics != (Metrics{}) {
		return fmt.Errorf("metrics.cert, metrics.key and metrics.token_file: metrics.listen is not set that they could serve")
	}
	if c.NATS.Creds != "" && c.NATS.NKey != "" {
		return fmt.Errorf("nats.creds and nats.nkey: only one of them can be used")
	}
	if c.Correlate.Watch > c.Correlate.Alert {
		return fmt.Errorf("watch: %g is above alert, %g", c.Correlate.Watch, c.Correlate.Alert)
	}
	return c.Correlate.Validate()
}

// defaultSensor returns the host's name up to its first dot, as a subject token.
func defaultSensor() string {
	name, err := os.Hostname()
	if err != nil {
		return "portolan"
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name, "-")
	if name == "" {
		return "portolan"
	}
	return name[:min(len(name), 64)]
}

// defaultStateDir follows systemd's StateDirectory=, then the usual places.
func defaultStateDir(euid int, getenv func(string) string) string {
	if dir, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if euid == 0 {
		return "/var/lib/portolan"
	}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "portolan")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "portolan")
	}
	return "portolan-data"
}
