package attribute

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"portolan/sensor/event"
)

// Schema names the form of an encoded record. Minor versions only add.
const Schema = "portolan.endpoint/1.0"

// MaxRecord bounds an encoded record in bytes.
const MaxRecord = 16 << 10

const (
	ecsVersion = "8.17.0"

	// Bounds of texts, in bytes as encoded. What does not fit is cut off.
	maxPath  = 1024
	maxName  = 256 // also of the name of a question: 255 octets (RFC 1035, section 2.3.4)
	maxQuery = 1024
	maxWord  = 128
	maxWords = 16
	maxArg   = 4096

	maxID = 64 // of the id of a record and of a host
)

// Validate returns an error that names the first field of r without which nobody could use it,
// or that cannot be.
func (r *Record) Validate() error {
	switch {
	case !isToken(r.ID, true):
		return fmt.Errorf("id %q: want 1 to %d of 0-9, A-Z, a-z and ._:-", brief(r.ID), maxID)
	case !isToken(r.HostID, false):
		return fmt.Errorf("host id %q: want 1 to %d of 0-9, A-Z, a-z, - and _", brief(r.HostID), maxID)
	case r.Source == "":
		return errors.New("source: want the name of what saw it")
	case r.Time <= 0:
		return fmt.Errorf("time %d: want ns after 1970", r.Time)
	case r.Process.Start < 0 || r.Process.Parent.Start < 0:
		return errors.New("process start: want ns after 1970, or 0")
	case !r.Result.known():
		return fmt.Errorf("result %q is none", brief(string(r.Result)))
	case r.Process.SHA256 != "" && !isHex(r.Process.SHA256, 64):
		return fmt.Errorf("hash %q: want 64 lower-case hex digits", brief(r.Process.SHA256))
	}
	switch r.Kind {
	case Connect:
		if r.Proto != event.TCP && r.Proto != event.UDP {
			return fmt.Errorf("transport %d: want tcp or udp", uint8(r.Proto))
		}
		if r.CommunityID == "" && (!r.Remote.Addr().IsValid() || r.Remote.Port() == 0) {
			return errors.New("connect without the address and port it went to")
		}
	case Lookup:
		if r.Query == "" {
			return errors.New("lookup without a question")
		}
	case Host:
		if r.About == nil {
			return errors.New("host record that says nothing of the host")
		}
		if r.About.Interval < 0 || r.About.Boot < 0 {
			return errors.New("host record with a negative time")
		}
	default:
		return fmt.Errorf("kind %d is none", uint8(r.Kind))
	}
	return nil
}

// MaxAhead is how far ahead of the receiver's clock an endpoint's may be, and MaxAge how old a record may be.
const (
	MaxAhead = 15 * time.Minute
	MaxAge   = 31 * 24 * time.Hour
)

// Plausible returns an error when r tells of the future, or of what no hit is kept for any more;
// now is the time when r was received.
func (r *Record) Plausible(now event.Time) error {
	switch {
	case r.Time > now.Add(MaxAhead):
		return fmt.Errorf("time %s is in the future", timeText(r.Time))
	case r.Time < now.Add(-MaxAge):
		return fmt.Errorf("time %s is too long ago", timeText(r.Time))
	case r.Process.Start > now.Add(MaxAhead):
		return fmt.Errorf("process start %s is in the future", timeText(r.Process.Start))
	}
	return nil
}

func timeText(t event.Time) string { return string(appendTime(nil, t)) }

func (r Result) known() bool {
	switch r {
	case "", Connected, InProgress, Refused, TimedOut, Failed, Sent:
		return true
	}
	return false
}

// outcome is ECS event.outcome.
func (r Result) outcome() string {
	switch r {
	case Connected, Sent:
		return "success"
	case Refused, TimedOut, Failed:
		return "failure"
	}
	return "unknown"
}

func isToken(s string, dots bool) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', c == '-', c == '_':
		case dots && (c == '.' || c == ':'):
		default:
			return false
		}
	}
	return true
}

// isHex reports whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == n
}

// brief returns the start of a text that a stranger wrote.
func brief(s string) string { return s[:min(len(s), maxID)] }

// Append appends r to b as one ECS document (Elastic Common Schema, version ecsVersion) in JSON
// without a newline, of MaxRecord bytes at most: what is too long is cut, arguments first. The
// error is that of Validate. testdata/endpoint holds the JSON Schema.
func (r *Record) Append(b []byte) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return b, fmt.Errorf("encode endpoint record: %w", err)
	}
	w := writer{b: b, start: len(b)}
	w.open("")
	w.time("@timestamp", r.Time)
	w.open("ecs")
	w.text("version", ecsVersion, maxWord)
	w.close()
	r.event(&w)
	w.open("host")
	w.text("id", r.HostID, maxWord)
	w.text("name", r.Host, maxName)
	if a := r.About; a != nil {
		if a.Kernel != "" {
			w.open("os")
			w.text("kernel", a.Kernel, maxName)
			w.close()
		}
		w.addrs("ip", a.Addresses)
	}
	w.close()
	r.endpoint(&w)
	r.sockets(&w)
	r.process(&w)
	w.close()
	return w.b, nil
}

// event writes ECS event.*.
func (r *Record) event(w *writer) {
	w.open("event")
	w.text("kind", "event", maxWord)
	switch r.Kind {
	case Host:
		w.words("category", []string{"host"})
		w.words("type", []string{"info"})
	case Lookup:
		w.words("category", []string{"network"})
		w.words("type", []string{"protocol"})
	default:
		w.words("category", []string{"network"})
		w.words("type", []string{"connection", "start"})
		w.text("outcome", r.Result.outcome(), maxWord)
	}
	w.text("module", "portolan", maxWord)
	w.text("dataset", "portolan.endpoint", maxWord)
	w.text("action", r.Kind.String(), maxWord)
	w.text("id", r.ID, maxWord)
	w.close()
}

// endpoint writes what ECS has no place for.
func (r *Record) endpoint(w *writer) {
	w.open("portolan")
	w.text("schema", Schema, maxWord)
	w.open("endpoint")
	w.text("kind", r.Kind.String(), maxWord)
	w.text("source", r.Source, maxWord)
	w.text("result", string(r.Result), maxWord)
	w.uint("errno", uint64(r.Errno))
	p := &r.Process
	if p.HasLoginUID {
		w.name("login_uid")
		w.b = strconv.AppendUint(w.b, uint64(p.LoginUID), 10)
	}
	w.text("cgroup", p.Cgroup, maxPath)
	w.uint("netns", p.NetNS)
	if a := r.About; a != nil {
		w.time("boot", a.Boot)
		w.uint("interval_ns", uint64(a.Interval))
		w.text("agent", a.Agent, maxWord)
		w.words("sees", a.Sees)
		w.words("blind", a.Blind)
		w.uint("lost", a.Lost)
		w.uint("refused", a.Refused)
	}
	w.close()
	w.close()
}

// sockets writes ECS source.*, destination.*, network.* and dns.*.
func (r *Record) sockets(w *writer) {
	w.socket("source", r.Local)
	w.socket("destination", r.Remote)
	if r.Kind != Host && (r.Proto != 0 || r.CommunityID != "") {
		w.open("network")
		if r.Proto != 0 {
			w.text("transport", r.Proto.String(), maxWord)
		}
		w.text("community_id", r.CommunityID, maxWord)
		w.close()
	}
	if r.Query != "" {
		w.open("dns")
		w.open("question")
		w.text("name", r.Query, maxQuery)
		w.close()
		w.close()
	}
}

// process writes ECS process.*, user.* and container.*; arguments last, because they take what
// room is left.
func (r *Record) process(w *writer) {
	p := &r.Process
	if p.HasUID || p.User != "" {
		w.open("user")
		if p.HasUID {
			w.name("id")
			w.b = append(strconv.AppendUint(append(w.b, '"'), uint64(p.UID), 10), '"')
		}
		w.text("name", p.User, maxName)
		w.close()
	}
	if p.ContainerID != "" || p.Container != "" {
		w.open("container")
		w.text("id", p.ContainerID, maxWord)
		w.text("name", p.Container, maxName)
		w.close()
	}
	if p.PID == 0 && p.Name == "" && p.Executable == "" {
		return
	}
	w.open("process")
	w.uint("pid", uint64(p.PID))
	w.time("start", p.Start)
	w.text("name", p.Name, maxName)
	w.text("executable", p.Executable, maxPath)
	w.text("working_directory", p.Dir, maxPath)
	if p.SHA256 != "" {
		w.open("hash")
		w.text("sha256", p.SHA256, maxWord)
		w.close()
	}
	if q := &p.Parent; *q != (Parent{}) {
		w.open("parent")
		w.uint("pid", uint64(q.PID))
		w.time("start", q.Start)
		w.text("name", q.Name, maxName)
		w.text("executable", q.Executable, maxPath)
		w.close()
	}
	w.args("args", p.Args)
	w.close()
}

// writer writes JSON objects. Members that are empty are left out.
type writer struct {
	b     []byte
	start int // of the document
}

// tail is what closing brackets need at most.
const tail = 16

func (w *writer) room() int { return MaxRecord - tail - (len(w.b) - w.start) }

func (w *writer) name(name string) {
	if c := w.b[len(w.b)-1]; c != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, name...)
	w.b = append(w.b, '"', ':')
}

func (w *writer) open(name string) {
	if name != "" {
		w.name(name)
	}
	w.b = append(w.b, '{')
}

func (w *writer) close() { w.b = append(w.b, '}') }

func (w *writer) text(name, s string, most int) {
	if s != "" {
		w.name(name)
		w.b = appendText(w.b, s, most)
	}
}

func (w *writer) uint(name string, v uint64) {
	if v != 0 {
		w.name(name)
		w.b = strconv.AppendUint(w.b, v, 10)
	}
}

func (w *writer) time(name string, t event.Time) {
	if t != 0 {
		w.name(name)
		w.b = append(appendTime(append(w.b, '"'), t), '"')
	}
}

// appendTime appends t as RFC 3339 has it, in UTC.
func appendTime(b []byte, t event.Time) []byte { return t.UTC().AppendFormat(b, time.RFC3339Nano) }

func (w *writer) words(name string, list []string) {
	if len(list) == 0 {
		return
	}
	w.name(name)
	w.b = append(w.b, '[')
	for i, s := range list[:min(len(list), maxWords)] {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = appendText(w.b, s, maxWord)
	}
	w.b = append(w.b, ']')
}

// hostReserve is what a host record needs besides its addresses, at most.
const hostReserve = 6 << 10

func (w *writer) addrs(name string, list []netip.Addr) {
	if len(list) == 0 {
		return
	}
	w.name(name)
	w.b = append(w.b, '[')
	first := true
	for _, a := range list {
		if w.room() < hostReserve+48 {
			break
		}
		if !a.IsValid() {
			continue
		}
		if !first {
			w.b = append(w.b, ',')
		}
		first = false
		w.b = append(a.Unmap().WithZone("").AppendTo(append(w.b, '"')), '"')
	}
	w.b = append(w.b, ']')
}

func (w *writer) args(name string, list []string) {
	if len(list) == 0 {
		return
	}
	w.name(name)
	w.b = append(w.b, '[')
	for i, s := range list {
		most := min(w.room()-4, maxArg)
		if most < 16 {
			break
		}
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = appendText(w.b, s, most)
	}
	w.b = append(w.b, ']')
}

func (w *writer) socket(name string, a netip.AddrPort) {
	if !a.Addr().IsValid() && a.Port() == 0 {
		return
	}
	w.open(name)
	if ip := a.Addr(); ip.IsValid() {
		w.name("ip")
		w.b = append(ip.Unmap().WithZone("").AppendTo(append(w.b, '"')), '"')
	}
	w.uint("port", uint64(a.Port()))
	w.close()
}

// appendText appends s in quotes, cut so that at most most bytes stand between them. Bytes that
// are no UTF-8 become U+FFFD.
func appendText(b []byte, s string, most int) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	start := len(b)
	for i := 0; i < len(s); {
		end := len(b)
		c := s[i]
		n := 1
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			var r rune
			r, n = utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
		}
		if len(b)-start > most {
			b = b[:end]
			break
		}
		i += n
	}
	return append(b, '"')
}
