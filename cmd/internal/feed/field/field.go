// Package field reads the values that records are made of from bytes, without allocating:
// addresses, numbers, times, names. What it refuses is not guessed at.
package field

import (
	"net/netip"

	"portolan/sensor/event"
)

// longestAddr is the length of the longest text of an address, IPv4 within IPv6.
const longestAddr = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

// Addr reads an IPv4 or IPv6 address. One with a zone is none that a packet holds.
func Addr(b []byte) (netip.Addr, bool) {
	if a, ok := addr4(b); ok {
		return a, true
	}
	if len(b) < 2 || len(b) > longestAddr {
		return netip.Addr{}, false
	}
	for _, c := range b {
		if !isHex(c) && c != ':' && c != '.' {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(string(b))
	return a, err == nil && a.Is6()
}

// addr4 reads four decimal octets; without leading zeros, as some programs read those as octal.
func addr4(b []byte) (netip.Addr, bool) {
	if len(b) < 7 || len(b) > 15 {
		return netip.Addr{}, false
	}
	var a [4]byte
	n, digits, v := 0, 0, uint(0)
	for _, c := range b {
		if d := c - '0'; d <= 9 {
			if digits > 0 && v == 0 {
				return netip.Addr{}, false
			}
			if v = v*10 + uint(d); v > 255 {
				return netip.Addr{}, false
			}
			digits++
			continue
		}
		if c != '.' || digits == 0 || n == 3 {
			return netip.Addr{}, false
		}
		a[n] = byte(v)
		n, digits, v = n+1, 0, 0
	}
	if n != 3 || digits == 0 {
		return netip.Addr{}, false
	}
	a[3] = byte(v)
	return netip.AddrFrom4(a), true
}

func isHex(c byte) bool {
	return c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// Uint reads a decimal number of at most most.
func Uint(b []byte, most uint64) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	v := uint64(0)
	for _, c := range b {
		d := c - '0'
		if d > 9 {
			return 0, false
		}
		v = v*10 + uint64(d)
	}
	return v, v <= most
}

// Port reads a port.
func Port(b []byte) (uint16, bool) {
	v, ok := Uint(b, 65535)
	return uint16(v), ok
}

// MAC reads an Ethernet address of six octets with colons.
func MAC(b []byte) (m event.MAC, ok bool) {
	if len(b) != 17 {
		return m, false
	}
	for i := range m {
		hi, lo := b[3*i], b[3*i+1]
		if !isHex(hi) || !isHex(lo) || i < 5 && b[3*i+2] != ':' {
			return event.MAC{}, false
		}
		m[i] = nibble(hi)<<4 | nibble(lo)
	}
	return m, true
}

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// Name appends a domain name as events hold it: in lower case, without the last dot, "." for
// the root. It takes any bytes; what is not printable stays as it is.
func Name(dst, b []byte) []byte {
	if n := len(b); n > 1 && b[n-1] == '.' && b[n-2] != '\\' {
		b = b[:n-1]
	}
	for _, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// Type returns the number of a record type by its name, as far as events know it; 0 for others.
func Type(b []byte) event.Type {
	switch string(b) {
	case "A":
		return event.A
	case "AAAA":
		return event.AAAA
	case "CNAME":
		return event.CNAME
	case "TXT":
		return event.TXT
	case "SRV":
		return event.SRV
	case "NAPTR":
		return event.NAPTR
	case "SVCB":
		return event.SVCB
	case "HTTPS":
		return event.HTTPS
	case "URI":
		return event.URI
	case "AXFR":
		return event.AXFR
	case "IXFR":
		return event.IXFR
	}
	return 0
}

// rcodes are the names of response codes by their number (RFC 6895, section 2.3).
var rcodes = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE"}

// RCode returns the number of a response code by its name.
func RCode(b []byte) (uint8, bool) {
	for i, name := range rcodes {
		if string(b) == name {
			return uint8(i), true
		}
	}
	return 0, false
}
