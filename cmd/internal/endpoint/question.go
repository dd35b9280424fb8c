package endpoint

import "encoding/binary"

// question returns the name that a DNS message asks for (RFC 1035, section 4.1), written as the
// sensor writes names: lower case, no last dot, and what is no plain byte of a label after a
// backslash. It reports false for answers and for what is no question.
func question(b []byte) (string, bool) {
	const header, most = 12, 255
	if len(b) < header {
		return "", false
	}
	const response, opcode = 0x8000, 0x7800
	if flags := binary.BigEndian.Uint16(b[2:]); flags&(response|opcode) != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return "", false
	}
	name := make([]byte, 0, most)
	at := header
	for {
		if at >= len(b) {
			return "", false
		}
		n := int(b[at])
		at++
		if n == 0 {
			break
		}
		if n >= 0x40 || at+n > len(b) || at+n-header > most { // no compression: there is nothing before to point to
			return "", false
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		for _, c := range b[at : at+n] {
			name = appendLabelByte(name, c)
		}
		at += n
	}
	const typeAndClass = 4
	if at+typeAndClass > len(b) {
		return "", false
	}
	if len(name) == 0 {
		name = append(name, '.')
	}
	return string(name), true
}

func appendLabelByte(to []byte, c byte) []byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return append(to, c+'a'-'A')
	case c == '.' || c == '\\':
		return append(to, '\\', c)
	case c > ' ' && c <= '~':
		return append(to, c)
	}
	return append(to, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
}
