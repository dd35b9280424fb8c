package correlate

import (
	"bytes"

	"portolan/sensor/event"
)

// ExplanationNames returns the names of what can explain a connection, in the order of
// Stats.ExplainedBy.
func ExplanationNames() []string { return explanationNames[:] }

// controls reports whether a flow to port can be a control channel that announces others:
// FTP, portmap, MS-RPC, RTSP, SIP.
func controls(p event.Proto, port uint16) bool {
	switch port {
	case 21, 111, 135, 554, 5060, 5061:
		return true
	}
	return false
}

// stun reports whether a datagram to port can be STUN or TURN, after which media or peers follow.
func stun(p event.Proto, port uint16) bool {
	return p == event.UDP && (port >= 3478 && port <= 3481 || port >= 19302 && port <= 19305)
}

// markOf returns the kind of record that connection x leaves behind, kindConn for none.
func markOf(x *pending) kind {
	switch {
	case controls(x.proto, x.dport):
		return kindControl
	case stun(x.proto, x.dport):
		return kindMedia
	}
	return kindConn
}

// service makes the address under which a port given by a service record is kept.
func service(port uint16) (a [16]byte) {
	a[14], a[15] = byte(port>>8), byte(port)
	return a
}

func servicePort(a *[16]byte) uint16 { return uint16(a[14])<<8 | uint16(a[15]) }

// servicePorts calls found for each port that record r of a lookup for name gives: SRV,
// SVCB and HTTPS (RFC 9460) say it outright; NAPTR (RFC 3403) and URI (RFC 7553) have it in a
// URI, a tracker's TXT record (BEP 34) after the transport.
func servicePorts(r *event.Record, found func(uint16)) {
	switch r.Type {
	case event.SRV, event.SVCB, event.HTTPS:
		if r.Port != 0 {
			found(r.Port)
		}
	case event.NAPTR:
		numbers(r.Text, []byte(":"), found)
	case event.URI:
		numbers(authority(r.Text), []byte(":"), found)
	case event.TXT:
		if bytes.HasPrefix(r.Text, []byte("BITTORRENT")) {
			numbers(r.Text, []byte("UDP:"), found)
			numbers(r.Text, []byte("TCP:"), found)
		}
	}
}

// authority returns the host and port of a URI that has them behind // (RFC 3986, section 3.2),
// and all of any other, such as sip:a@example:5070.
func authority(uri []byte) []byte {
	_, rest, ok := bytes.Cut(uri, []byte("//"))
	if !ok {
		return uri
	}
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	if user := bytes.LastIndexByte(rest, '@'); user >= 0 {
		rest = rest[user+1:]
	}
	if v6 := bytes.LastIndexByte(rest, ']'); v6 >= 0 {
		rest = rest[v6+1:]
	}
	return rest
}

// numbers calls found for each port number that follows mark in text.
func numbers(text, mark []byte, found func(uint16)) {
	for {
		i := bytes.Index(text, mark)
		if i < 0 {
			return
		}
		text = text[i+len(mark):]
		if p := leadingPort(text); p != 0 {
			found(p)
		}
	}
}

// leadingPort returns the port number that b begins with, 0 when there is none.
func leadingPort(b []byte) uint16 {
	n := 0
	for i := 0; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if n = n*10 + int(b[i]-'0'); n > 1<<16-1 {
			return 0
		}
	}
	return uint16(n)
}

// namedPort returns the port that an attribute leaf name such as _8443._https.example
// carries (RFC 9460, section 2.3), 0 for any other name.
func namedPort(name []byte) uint16 {
	if len(name) < 4 || name[0] != '_' {
		return 0
	}
	label, rest, ok := bytes.Cut(name[1:], []byte("."))
	if !ok || len(rest) == 0 || rest[0] != '_' {
		return 0
	}
	for _, c := range label {
		if c < '0' || c > '9' {
			return 0
		}
	}
	return leadingPort(label)
}
