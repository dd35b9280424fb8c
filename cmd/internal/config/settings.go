package config

import (
	"net/url"
	"strings"
)

// Setting is one key that can be set.
type Setting struct {
	Key  string // as in the file, groups joined with a dot: "nats.url"
	Flag string // name of the flag, without dashes; "" when there is none
	Arg  string // what stands for the value in help: "URL"
	Help string // what it does, in the words of help
	None string // what an empty value means, for help; "" when it is never empty

	field func(*Config) value
	shown func(string) string // takes secrets out; nil when there can be none
}

// Env returns the name of the environment variable that sets the key.
func (s *Setting) Env() string {
	return "PORTOLAN_" + strings.ToUpper(strings.ReplaceAll(s.Key, ".", "_"))
}

// Check says whether text can be this setting's value.
func (s *Setting) Check(text string) error {
	scratch := Default()
	return s.field(&scratch).Set(text)
}

// Show returns the value that c holds as text, with secrets taken out.
func (s *Setting) Show(c *Config) string {
	text := s.field(c).String()
	if s.shown != nil {
		text = s.shown(text)
	}
	return text
}

// Settings returns all keys in the order in which they are shown.
func Settings() []Setting {
	return []Setting{
		{Key: "sensor", Flag: "sensor", Arg: "NAME", Help: "name of this sensor in messages and subjects",
			field: func(c *Config) value { return (*word)(&c.Sensor) }},
		{Key: "device", Flag: "i", Arg: "DEVICE", Help: "network device to capture on; several with commas", None: "none",
			field: func(c *Config) value { return (*list)(&c.Device) }},
		{Key: "rings", Flag: "rings", Arg: "N", Help: "capture rings on each device, one goroutine each",
			field: func(c *Config) value { return &count{&c.Capture.Rings, 1, 64} }},
		{Key: "cpus", Flag: "cpus", Arg: "LIST", Help: "CPUs that the rings' goroutines are pinned to, in turn, such as 2,3", None: "any",
			field: func(c *Config) value { return (*numbers)(&c.Capture.CPUs) }},
		{Key: "block_timeout", Flag: "block-timeout", Arg: "TIME",
			Help:  "longest time that the kernel holds frames back to fill a block, in whole milliseconds",
			field: func(c *Config) value { return &duration{&c.Capture.BlockTimeout, 1e6, 1e9} }},
		{Key: "ignore_outgoing", Flag: "ignore-outgoing", Arg: "BOOL", Help: "leave out what this host itself sends through the device",
			field: func(c *Config) value { return (*boolean)(&c.Capture.IgnoreOutgoing) }},
		{Key: "prefilter", Flag: "prefilter", Arg: "NAME",
			Help:  "what drops in the kernel the frames that mean nothing: auto, off, socket, ebpf or xdp",
			field: func(c *Config) value { return (*prefilter)(&c.Capture.Prefilter) }},
		{Key: "mirror_port", Flag: "mirror-port", Arg: "DEVICE", None: "none",
			Help:  "device that carries copies of frames and nothing that this host needs: xdp may drop them; several with commas",
			field: func(c *Config) value { return (*list)(&c.MirrorPorts) }},
		{Key: "vxlan_ports", Flag: "vxlan-ports", Arg: "PORTS", None: "none",
			Help:  "UDP ports that VXLAN packets go to; with commas",
			field: func(c *Config) value { return (*ports)(&c.Capture.Decode.VXLANPorts) }},
		{Key: "dnstap.listen", Flag: "dnstap", Arg: "unix:PATH|tcp:HOST:PORT", None: "nowhere",
			Help:  "where DNS servers tell by dnstap what they answer, over TLS and HTTPS, too",
			field: func(c *Config) value { return (*word)(&c.Dnstap.Listen) }},
		{Key: "dnstap.tolerance", Flag: "dnstap-tolerance", Arg: "TIME",
			Help:  "how far the clocks of those may differ from this host's: their lookups count as so much earlier",
			field: func(c *Config) value { return &duration{&c.Dnstap.Tolerance, 0, 60e9} }},
		{Key: "nats.url", Flag: "nats", Arg: "URL", Help: "NATS server, such as nats://hub:4222 or tls://hub:4222", None: "one inside the process",
			field: func(c *Config) value { return (*word)(&c.NATS.URL) }, shown: redactURLs},
		{Key: "nats.creds", Flag: "creds", Arg: "FILE", Help: "NATS credentials file", None: "none",
			field: func(c *Config) value { return (*word)(&c.NATS.Creds) }},
		{Key: "nats.nkey", Flag: "nkey", Arg: "FILE", Help: "file with the NKey seed for NATS", None: "none",
			field: func(c *Config) value { return (*word)(&c.NATS.NKey) }, shown: redactSeed},
		{Key: "nats.ca", Flag: "ca", Arg: "FILE", Help: "PEM certificates that the NATS server's chain must end in", None: "the system's",
			field: func(c *Config) value { return (*word)(&c.NATS.CA) }},
		{Key: "nats.cert", Flag: "cert", Arg: "FILE", Help: "PEM certificate of this client, for mutual TLS with NATS", None: "none",
			field: func(c *Config) value { return (*word)(&c.NATS.Cert) }},
		{Key: "nats.key", Flag: "key", Arg: "FILE", Help: "PEM key that belongs to --cert", None: "none",
			field: func(c *Config) value { return (*word)(&c.NATS.Key) }},
		{Key: "nats.domain", Flag: "domain", Arg: "NAME", None: "the server's own",
			Help:  "JetStream domain that has the streams, where the server is a leaf node without them",
			field: func(c *Config) value { return (*word)(&c.NATS.Domain) }},
		{Key: "nats.listen", Flag: "listen", Arg: "HOST:PORT", None: "inside the process only",
			Help:  "where the NATS server inside the process listens for subscribers, who may read hits",
			field: func(c *Config) value { return (*word)(&c.NATS.Listen) }},
		{Key: "nats.listen_password", None: "none",
			Help:  "lets user portolan do everything there, from other hosts too",
			field: func(c *Config) value { return (*word)(&c.NATS.ListenPassword) }, shown: hide},
		{Key: "state_dir", Flag: "state-dir", Arg: "DIR", Help: "where the spool, the embedded NATS server's streams and what was learned are kept",
			field: func(c *Config) value { return (*word)(&c.StateDir) }},
		{Key: "spool", Flag: "spool", Arg: "SIZE", Help: "bytes of disk for what waits for NATS, such as 2GiB; a third of them for messages",
			field: func(c *Config) value { return &size{&c.Spool, 1 << 20, 1 << 40} }},
		{Key: "metrics.listen", Flag: "metrics", Arg: "HOST:PORT", None: "nowhere",
			Help:  "where metrics (/metrics) and health (/healthz, /readyz) can be asked for, such as 127.0.0.1:9464",
			field: func(c *Config) value { return (*word)(&c.Metrics.Listen) }},
		{Key: "metrics.cert", None: "none", Help: "PEM certificate to answer there with, over TLS; asked for off loopback",
			field: func(c *Config) value { return (*word)(&c.Metrics.Cert) }},
		{Key: "metrics.key", None: "none", Help: "PEM key that belongs to metrics.cert",
			field: func(c *Config) value { return (*word)(&c.Metrics.Key) }},
		{Key: "metrics.token_file", None: "none",
			Help:  "file whose first line is the token that whoever asks for metrics has to bring; asked for off loopback",
			field: func(c *Config) value { return (*word)(&c.Metrics.TokenFile) }},
		{Key: "user", Flag: "user", Arg: "NAME", None: "none",
			Help:  "user to become once the devices are open, when root starts it; the state directory is that user's",
			field: func(c *Config) value { return (*word)(&c.User) }},
		{Key: "sandbox", Flag: "sandbox", Arg: "MODE",
			Help: "whether to give up, once all is open, what is not needed any more: auto, as far as the kernel can; " +
				"required, or end; off",
			field: func(c *Config) value { return &choice{&c.Sandbox, []string{SandboxAuto, SandboxRequired, SandboxOff}} }},
		{Key: "log_level", Flag: "log-level", Arg: "LEVEL", Help: "least level of what is logged: debug, info, warn or error",
			field: func(c *Config) value { return (*logLevel)(&c.LogLevel) }},
		{Key: "limit.burst", Help: "hits of one client and hypothesis published one by one, at once; 0 for no limit",
			field: func(c *Config) value { return &count{&c.Limit.Burst, 0, 1_000_000} }},
		{Key: "limit.per_minute", Help: "the same, beyond those",
			field: func(c *Config) value { return &count{&c.Limit.PerMinute, 1, 1_000_000} }},
		{Key: "limit.every", Help: "time between two summaries of what was not published one by one",
			field: func(c *Config) value { return &duration{&c.Limit.Every, 1e9, 3600e9} }},
		{Key: "observations.publish", Flag: "observations", Arg: "BOOL",
			Help:  "also publish what was decoded, for portolan correlate",
			field: func(c *Config) value { return (*boolean)(&c.Observations.Publish) }},
		{Key: "observations.partitions", Flag: "partitions", Arg: "N", Help: "into how many parts the fleet shares out its clients",
			field: func(c *Config) value { return &count{&c.Observations.Partitions, 1, 256} }},
		{Key: "observations.zone", Flag: "fleet-zone", Arg: "N",
			Help:  "number of the address space seen here; taps with one number see the same hosts",
			field: func(c *Config) value { return &count{&c.Observations.FleetZone, 0, 65535} }},
		{Key: "observations.untag",
			Help:  "leave VLAN and tunnel ids out of observations: taps see the same hosts with different ones",
			field: func(c *Config) value { return (*boolean)(&c.Observations.Untag) }},
		{Key: "attribution.expected", Flag: "enriched", Arg: "BOOL",
			Help:  "an enricher runs: hits say that the process behind them is pending until it tells",
			field: func(c *Config) value { return (*boolean)(&c.Attribution.Expected) }},
		{Key: "attribution.wait", Flag: "wait", Arg: "TIME", Help: "after which a hit without an endpoint's record is told to have none",
			field: func(c *Config) value { return &duration{&c.Attribution.Join.Wait, 1e9, 3600e9} }},
		{Key: "attribution.nat", Flag: "nat", Arg: "INSIDE=OUTSIDE", None: "none",
			Help: "addresses that the mirror sees in place of the hosts' own: prefixes of one size for static NAT, or many behind one; " +
				"several with commas, each perhaps with @FROM/UNTIL",
			field: func(c *Config) value { return (*mappings)(&c.Attribution.Join.NAT) }},
		{Key: "attribution.memory", Flag: "record-memory", Arg: "SIZE", Help: "bytes for endpoint records whose hits may still come",
			field: func(c *Config) value { return &size{&c.Attribution.Join.RecordBytes, 1 << 20, 1 << 40} }},
		{Key: "alert", Flag: "alert", Arg: "E", Help: "e-value from which a hit is an alert",
			field: func(c *Config) value { return &number{&c.Correlate.Alert, 10} }},
		{Key: "watch", Flag: "watch", Arg: "E", Help: "e-value from which a hit is worth a watch",
			field: func(c *Config) value { return &number{&c.Correlate.Watch, 10} }},
		{Key: "address_window", Flag: "address-window", Arg: "TIME",
			Help:  "how long an answer explains a calculated destination; its TTL if that is longer",
			field: func(c *Config) value { return &duration{&c.Correlate.AddressWindow, 1e9, 24 * 3600e9} }},
		{Key: "port_window", Flag: "port-window", Arg: "TIME",
			Help:  "how long an answer explains a calculated port; its TTL if that is longer",
			field: func(c *Config) value { return &duration{&c.Correlate.PortWindow, 1e9, 24 * 3600e9} }},
		{Key: "max_ttl", Flag: "max-ttl", Arg: "TIME", Help: "longest TTL that stretches those windows",
			field: func(c *Config) value { return &duration{&c.Correlate.MaxTTL, 0, 7 * 24 * 3600e9} }},
		{Key: "hold", Flag: "hold", Arg: "TIME", Help: "how long an event may be late before what it belongs to is final",
			field: func(c *Config) value { return &duration{&c.Correlate.Hold, 1e6, 60e9} }},
		{Key: "memory", Flag: "memory", Arg: "SIZE", Help: "bytes for the table of clients, such as 256MiB",
			field: func(c *Config) value { return &size{&c.Correlate.MemoryBytes, 1 << 20, 1 << 40} }},
		{Key: "answers_per_client", Flag: "answers-per-client", Arg: "N", Help: "answers remembered for each client",
			field: func(c *Config) value { return &count{&c.Correlate.AnswersPerClient, 4, 1024} }},
		{Key: "pending_per_client", Flag: "pending-per-client", Arg: "N", Help: "connections of each client that wait for late answers",
			field: func(c *Config) value { return &count{&c.Correlate.PendingPerClient, 4, 1024} }},
		{Key: "volume_threshold", Flag: "volume-threshold", Arg: "N",
			Help:  "connections that one hypothesis must have predicted for a client before the next is an alert",
			field: func(c *Config) value { return &count{&c.Correlate.VolumeThreshold, 1, 100} }},
		{Key: "ephemeral_port_range", Flag: "ephemeral-port-range", Arg: "FROM-TO",
			Help:  "ports that formulas are tried on (AN0729's EphemeralPortRange)",
			field: func(c *Config) value { return (*portRange)(&c.Correlate.EphemeralPortRange) }},
		{Key: "resolver_whitelist", Flag: "resolver-whitelist", Arg: "PREFIXES", None: "none",
			Help: "resolvers whose answers explain connections but are never calculated with (AN0729's ResolverWhitelist); " +
				"addresses or prefixes, with commas",
			field: func(c *Config) value { return (*prefixes)(&c.Correlate.ResolverWhitelist) }},
		{Key: "selftest", Flag: "selftest", Arg: "TIME",
			Help:  "time between two pairs that the sensor has to find, the first when it starts; 0 for none",
			field: func(c *Config) value { return &duration{&c.SelfTest, 0, 7 * 24 * 3600e9} }},
		{Key: "hypotheses", Flag: "hypothesis", Arg: "ID=KIND:EXPR", None: "none",
			Help: "calculation to look for besides the known ones, such as acme=port:a*b + c + 7 or acme=address:rol(x,16); " +
				"several with semicolons",
			field: func(c *Config) value { return (*customs)(&c.Correlate.Hypotheses) }},
		{Key: "allow", None: "none",
			Help: "hits that are counted and not published: rules with until and reason, and any of client, destination, port, " +
				"proto, name, hypothesis",
			field: func(c *Config) value { return (*allows)(&c.Allow) }},
	}
}

// Find returns the setting with the key, or nil.
func Find(key string) *Setting {
	all := Settings()
	for i := range all {
		if all[i].Key == key {
			return &all[i]
		}
	}
	return nil
}

// redactURLs takes passwords and tokens out of a list of URLs with commas.
func redactURLs(text string) string {
	urls := strings.Split(text, ",")
	for i, s := range urls {
		u, err := url.Parse(strings.TrimSpace(s))
		switch {
		case err != nil && strings.Contains(s, "@"):
			urls[i] = "(hidden)"
		case err == nil && u.User != nil:
			u.User = url.User("hidden")
			urls[i] = u.String()
		}
	}
	return strings.Join(urls, ",")
}

// hide hides any text.
func hide(text string) string {
	if text == "" {
		return ""
	}
	return "(hidden)"
}

// redactSeed hides a seed that stands where the path of its file belongs.
func redactSeed(text string) string {
	if len(text) >= 50 && strings.HasPrefix(text, "S") && !strings.ContainsAny(text, "/.") {
		return "(hidden)"
	}
	return text
}
