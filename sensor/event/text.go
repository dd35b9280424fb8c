package event

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// maxLine bounds one line of text; a TXT record holds at most 65535 bytes, each of
// which quoting may make four of.
const maxLine = 1 << 19

// ReadText reads events from r, one a line, and hands them to sink in the order they stand in:
//
//	0s     lookup     client=10.0.0.7 name=cdn.example a=198.51.100.23 ttl=60
//	180ms  connection src=10.0.0.7:49152 dst=198.51.100.23:10198 proto=tcp
//
// The first word is the time since 1970 as a Go duration. A lookup also takes
// resolver=, zone=, id=, type=, rcode=, proto=, and any number of a=, aaaa=, hint=, txt=, cname=, srv=, svcb=, https=
// naptr= and uri=, each using the ttl= and owner= last seen before it (srv, svcb and https as
// target:port); values with spaces or quotes are Go strings. Empty lines and lines that
// start with # are passed over. The error names the line.
func ReadText(r io.Reader, to Sink) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := readLine(line, to); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}

func readLine(line string, to Sink) error {
	word, rest := cutWord(line)
	d, err := time.ParseDuration(word)
	if err != nil {
		return fmt.Errorf("time %q is not a duration such as 180ms", word)
	}
	kind, rest := cutWord(rest)
	switch kind {
	case "lookup":
		l := Lookup{Time: Time(d), Proto: UDP, Type: A}
		if err := fields(rest, lookupField(&l)); err != nil {
			return err
		}
		if !l.Client.IsValid() {
			return fmt.Errorf("a lookup needs client=")
		}
		to.Lookup(&l)
	case "connection":
		c := Connection{Time: Time(d), Proto: TCP}
		if err := fields(rest, connectionField(&c)); err != nil {
			return err
		}
		if !c.Src.IsValid() || !c.Dst.IsValid() {
			return fmt.Errorf("a connection needs src= and dst=")
		}
		if c.Proto == UDP {
			c.Start = Datagram
		}
		to.Connection(&c)
	default:
		return fmt.Errorf("event %q is neither lookup nor connection", kind)
	}
	return nil
}

func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}

// fields calls set for each key=value of s, with the value unquoted.
func fields(s string, set func(key, value string) error) error {
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", s)
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			q, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return fmt.Errorf("%s=: the quoted value does not end", key)
			}
			value, _ = strconv.Unquote(q)
			s = strings.TrimLeft(rest[len(q):], " \t")
		} else {
			value, s = cutWord(rest)
		}
		if err := set(key, value); err != nil {
			return fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	return nil
}

func lookupField(l *Lookup) func(key, value string) error {
	var ttl uint32
	var owner []byte
	add := func(r Record) {
		r.TTL = ttl
		if r.Owner = owner; owner == nil {
			r.Owner = l.Name
		}
		l.Records = append(l.Records, r)
	}
	address := func(t Type, s string, want4 bool) error {
		a, err := netip.ParseAddr(s)
		if err == nil && t != Hint && a.Is4() != want4 {
			err = fmt.Errorf("wrong address family")
		}
		add(Record{Type: t, Addr: a})
		return err
	}
	service := func(t Type, s string) error {
		target, port, err := splitPort(s)
		add(Record{Type: t, Target: []byte(target), Port: port})
		return err
	}
	return func(key, v string) (err error) {
		switch key {
		case "client":
			l.Client, err = parseEndpoint(v)
		case "resolver":
			l.Resolver, err = parseEndpoint(v)
		case "zone":
			l.Zone, err = ParseZone(v)
		case "proto":
			l.Proto, err = parseProto(v)
		case "name":
			l.Name = canonical(v)
		case "owner":
			owner = canonical(v)
		case "id":
			l.ID, err = parse16(v)
		case "type":
			var t uint16
			t, err = parse16(v)
			l.Type = Type(t)
		case "rcode":
			var n uint64
			n, err = strconv.ParseUint(v, 10, 4)
			l.RCode = uint8(n)
		case "ttl":
			var n uint64
			n, err = strconv.ParseUint(v, 10, 32)
			ttl = uint32(n)
		case "a":
			err = address(A, v, true)
		case "aaaa":
			err = address(AAAA, v, false)
		case "hint":
			err = address(Hint, v, false)
		case "txt":
			add(Record{Type: TXT, Text: []byte(v)})
		case "naptr":
			add(Record{Type: NAPTR, Text: []byte(v)})
		case "uri":
			add(Record{Type: URI, Text: []byte(v)})
		case "cname":
			add(Record{Type: CNAME, Target: canonical(v)})
		case "srv":
			err = service(SRV, v)
		case "svcb":
			err = service(SVCB, v)
		case "https":
			err = service(HTTPS, v)
		default:
			err = fmt.Errorf("a lookup has no such field")
		}
		return err
	}
}

func connectionField(c *Connection) func(key, value string) error {
	return func(key, v string) (err error) {
		switch key {
		case "src":
			c.Src, err = netip.ParseAddrPort(v)
		case "dst":
			c.Dst, err = netip.ParseAddrPort(v)
		case "zone":
			c.Zone, err = ParseZone(v)
		case "proto":
			c.Proto, err = parseProto(v)
		case "start":
			if v != "synack" {
				return fmt.Errorf("only synack needs saying")
			}
			c.Start = SYNACK
		default:
			err = fmt.Errorf("a connection has no such field")
		}
		return err
	}
}

// parseEndpoint reads an address with or without a port.
func parseEndpoint(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	return netip.ParseAddrPort(s)
}

func parseProto(s string) (Proto, error) {
	switch s {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	}
	return 0, fmt.Errorf("the transport is tcp or udp")
}

func parse16(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// splitPort reads target or target:port.
func splitPort(s string) (target string, port uint16, err error) {
	target, digits, ok := strings.Cut(s, ":")
	if ok {
		port, err = parse16(digits)
	}
	return string(canonical(target)), port, err
}

// canonical returns a name in lower case without its last dot, "." for the root.
func canonical(name string) []byte {
	b := []byte(strings.ToLower(name))
	if len(b) > 1 && b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	return b
}

// AppendText appends the lookup as a line that ReadText reads, without the newline;
// base is subtracted from its time.
func (l *Lookup) AppendText(dst []byte, base Time) []byte {
	dst = fmt.Appendf(dst, "%-8s lookup     client=%s", l.Time.Sub(base), endpoint(l.Client))
	if l.Resolver.IsValid() {
		dst = fmt.Appendf(dst, " resolver=%s", endpoint(l.Resolver))
	}
	if l.Zone != (Zone{}) {
		dst = fmt.Appendf(dst, " zone=%s", l.Zone)
	}
	if l.Proto == TCP {
		dst = append(dst, " proto=tcp"...)
	}
	if l.ID != 0 {
		dst = fmt.Appendf(dst, " id=%d", l.ID)
	}
	if l.Type != A {
		dst = fmt.Appendf(dst, " type=%d", l.Type)
	}
	if l.RCode != 0 {
		dst = fmt.Appendf(dst, " rcode=%d", l.RCode)
	}
	if len(l.Name) > 0 {
		dst = fmt.Appendf(dst, " name=%s", quote(l.Name))
	}
	ttl, owner := uint32(0), l.Name
	for i := range l.Records {
		r := &l.Records[i]
		if r.TTL != ttl {
			ttl = r.TTL
			dst = fmt.Appendf(dst, " ttl=%d", ttl)
		}
		if !bytes.Equal(r.Owner, owner) {
			owner = r.Owner
			dst = fmt.Appendf(dst, " owner=%s", quote(owner))
		}
		dst = r.appendText(dst)
	}
	return dst
}

func (r *Record) appendText(dst []byte) []byte {
	switch r.Type {
	case A:
		return fmt.Appendf(dst, " a=%s", r.Addr)
	case AAAA:
		return fmt.Appendf(dst, " aaaa=%s", r.Addr)
	case Hint:
		return fmt.Appendf(dst, " hint=%s", r.Addr)
	case TXT:
		return fmt.Appendf(dst, " txt=%s", quote(r.Text))
	case NAPTR:
		return fmt.Appendf(dst, " naptr=%s", quote(r.Text))
	case URI:
		return fmt.Appendf(dst, " uri=%s", quote(r.Text))
	case CNAME:
		return fmt.Appendf(dst, " cname=%s", quote(r.Target))
	}
	kind := map[Type]string{SRV: "srv", SVCB: "svcb", HTTPS: "https"}[r.Type]
	if kind == "" {
		return dst
	}
	if r.Port == 0 {
		return fmt.Appendf(dst, " %s=%s", kind, quote(r.Target))
	}
	return fmt.Appendf(dst, " %s=%s", kind, quote(fmt.Appendf(nil, "%s:%d", r.Target, r.Port)))
}

// AppendText appends the connection as a line that ReadText reads, without the newline;
// base is subtracted from its time.
func (c *Connection) AppendText(dst []byte, base Time) []byte {
	dst = fmt.Appendf(dst, "%-8s connection src=%s dst=%s proto=%s", c.Time.Sub(base), c.Src, c.Dst, c.Proto)
	if c.Start == SYNACK {
		dst = append(dst, " start=synack"...)
	}
	if c.Zone != (Zone{}) {
		dst = fmt.Appendf(dst, " zone=%s", c.Zone)
	}
	return dst
}

func endpoint(ap netip.AddrPort) string {
	if ap.Port() == 0 {
		return ap.Addr().String()
	}
	return ap.String()
}

// quote returns b as it stands when ReadText can take it so, else as a Go string.
func quote(b []byte) string {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return strconv.Quote(string(b))
		}
	}
	if len(b) == 0 {
		return `""`
	}
	return string(b)
}
