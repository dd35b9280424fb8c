package audit

import "bytes"

// separator stands between what the kernel wrote and what auditd added to make it readable
// (log_format = ENRICHED).
const separator = 0x1d

// field is one key=value of a record; both alias the line.
type field struct {
	key, value []byte
	quoted     bool
}

// next returns the first field of b, and what follows. Words without = are passed over. It
// returns a field without a key at the end.
func next(b []byte) (field, []byte) {
	for {
		for len(b) > 0 && (b[0] == ' ' || b[0] == separator) {
			b = b[1:]
		}
		i := 0
		for i < len(b) && b[i] != '=' && b[i] != ' ' && b[i] != separator {
			i++
		}
		if i == len(b) {
			return field{}, nil
		}
		if b[i] != '=' {
			b = b[i:]
			continue
		}
		key := b[:i]
		b = b[i+1:]
		if len(b) > 0 && (b[0] == '"' || b[0] == '\'') {
			if end := bytes.IndexByte(b[1:], b[0]); end >= 0 {
				return field{key, b[1 : 1+end], true}, b[end+2:]
			}
			return field{key, b[1:], true}, nil
		}
		// rsyslog writes the separator as #035. No bare value holds a #.
		end := 0
		for end < len(b) && b[end] != ' ' && b[end] != separator && b[end] != '#' {
			end++
		}
		return field{key, b[:end], false}, b[end:]
	}
}

// text appends a string's value to dst: what stands in quotes, or is in hexadecimal as it held
// a space, a quote or a control character.
func (f field) text(dst []byte) []byte {
	switch {
	case f.quoted:
		return append(dst, f.value...)
	case len(f.value) > 0 && f.value[0] == '(': // (null), (none)
		return dst
	}
	return unhex(dst, f.value)
}

// number returns a value's leading digits in the base 10 or 16, at most 2^64−1.
func number(b []byte, base uint64) (n uint64, ok bool) {
	for i, c := range b {
		d := uint64(hexDigit(c))
		if d >= base {
			return n, i > 0
		}
		if n > (1<<64-1-d)/base {
			return 0, false
		}
		n = n*base + d
	}
	return n, len(b) > 0
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// unhex appends to dst the bytes that b writes in hexadecimal, up to the first that are not.
func unhex(dst, b []byte) []byte {
	for ; len(b) >= 2; b = b[2:] {
		hi, lo := hexDigit(b[0]), hexDigit(b[1])
		if hi > 15 || lo > 15 {
			break
		}
		dst = append(dst, hi<<4|lo)
	}
	return dst
}
