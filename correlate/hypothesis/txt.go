package hypothesis

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
)

// maxTXT bounds the text that can be an address: the longest form is an IPv4 address
// with a port, "255.255.255.255:65535".
const maxTXT = 21

// DecodeTXT reads a TXT record as an IPv4 address in any of the ways that dead drops
// write one, with or without a port behind it. It calls found for each reading: the text
// "12345678" is both hex and base64. It does not allocate.
func DecodeTXT(text []byte, found func(Via, uint32)) {
	text = trim(text)
	if len(text) < 6 || len(text) > maxTXT {
		return
	}
	if x, ok := dotted(text); ok {
		found(ViaTXTPlain, x)
		return
	}
	var b [16]byte
	if len(text) == 8 || len(text) == 12 {
		if _, err := hex.Decode(b[:], text); err == nil {
			found(ViaTXTHex, binary.BigEndian.Uint32(b[:]))
		}
	}
	for len(text) > 0 && text[len(text)-1] == '=' {
		text = text[:len(text)-1]
	}
	if n := base64.RawStdEncoding.DecodedLen(len(text)); n != 4 && n != 6 {
		return
	}
	for _, enc := range [...]*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if n, err := enc.Decode(b[:], text); err == nil && (n == 4 || n == 6) {
			found(ViaTXTBase64, binary.BigEndian.Uint32(b[:]))
			return
		}
	}
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '"') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '"') {
		b = b[:len(b)-1]
	}
	return b
}

// dotted reads a.b.c.d or a.b.c.d:port.
func dotted(b []byte) (x uint32, ok bool) {
	for i, c := range b {
		if c == ':' {
			if i == len(b)-1 {
				return 0, false
			}
			for _, c := range b[i+1:] {
				if c < '0' || c > '9' {
					return 0, false
				}
			}
			b = b[:i]
			break
		}
		if c != '.' && (c < '0' || c > '9') {
			return 0, false
		}
	}
	a, err := netip.ParseAddr(string(b)) // at most 21 bytes: stays on the stack
	if err != nil || !a.Is4() {
		return 0, false
	}
	a4 := a.As4()
	return binary.BigEndian.Uint32(a4[:]), true
}
