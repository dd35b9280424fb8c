package zeek

import (
	"bytes"
	"encoding/hex"
)

// columns reads Zeek's own form: lines whose values stand between separators, in the order that
// the last #fields line before them gave. A file may hold several headers, as logs are rotated
// and joined again.
type columns struct {
	separator byte // between columns
	set       byte // between the elements of a vector
	unset     []byte
	empty     []byte
	path      log
	fields    []column // what stands in each column
	count     int      // columns of a line, less one
	wide      bool     // the separator is not one byte
	begun     bool     // there was a #fields line
}

// maxColumns bounds the columns of a log; Zeek's widest has some 30.
const maxColumns = 1024

// header reads a line that begins with #.
func (c *columns) header(line []byte) error {
	if value, ok := bytes.CutPrefix(line, []byte("#separator ")); ok {
		*c = columns{separator: '\t', set: ',', unset: []byte("-"), empty: []byte("(empty)")}
		b := unescape(nil, value)
		if c.wide = len(b) != 1; c.wide {
			return errSeparator
		}
		c.separator = b[0]
		return nil
	}
	if c.separator == 0 {
		c.separator, c.set, c.unset, c.empty = '\t', ',', []byte("-"), []byte("(empty)")
	}
	name, value, _ := bytes.Cut(line[1:], []byte{c.separator})
	switch string(name) {
	case "set_separator":
		if b := unescape(nil, value); len(b) == 1 {
			c.set = b[0]
		}
	case "unset_field":
		c.unset = bytes.Clone(value)
	case "empty_field":
		c.empty = bytes.Clone(value)
	case "path":
		c.path = logOf(value)
	case "fields":
		c.begun = true
		c.fields = c.fields[:0]
		wanted := 0
		for name := range bytes.SplitSeq(value, []byte{c.separator}) {
			if len(c.fields) == maxColumns {
				return errColumns
			}
			x := columnOf(name)
			c.fields = append(c.fields, x)
			if x != none {
				wanted = len(c.fields)
			}
		}
		c.count = len(c.fields) - 1
		c.fields = c.fields[:wanted]
	}
	return nil
}

// entry reads the values of a line that is no header.
func (c *columns) entry(line []byte, value *[numColumns][]byte) (log, error) {
	switch {
	case c.wide:
		return unknown, errSeparator
	case !c.begun:
		return unknown, errHeader
	case c.path != dns && c.path != conn:
		return other, nil
	case bytes.Count(line, []byte{c.separator}) != c.count:
		return unknown, errColumns
	}
	*value = [numColumns][]byte{}
	for _, x := range c.fields {
		v := line
		if i := bytes.IndexByte(line, c.separator); i >= 0 {
			v, line = line[:i], line[i+1:]
		}
		if x != none && !bytes.Equal(v, c.unset) {
			value[x] = v
		}
	}
	return c.path, nil
}

// split appends the elements of a vector to dst, still escaped.
func (c *columns) split(dst [][]byte, v []byte) [][]byte {
	if len(v) == 0 || bytes.Equal(v, c.empty) {
		return dst
	}
	for {
		i := bytes.IndexByte(v, c.set)
		if i < 0 {
			return append(dst, v)
		}
		dst = append(dst, v[:i])
		v = v[i+1:]
	}
}

// unescape appends what Zeek has written as \xHH, or as \\ for one backslash.
func unescape(dst, b []byte) []byte {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(dst, b[:i]...)
		b = b[i:]
		var c [1]byte
		if len(b) >= 4 && b[1] == 'x' {
			if _, err := hex.Decode(c[:], b[2:4]); err == nil {
				dst, b = append(dst, c[0]), b[4:]
				continue
			}
		}
		dst, b = append(dst, '\\'), b[1:]
		if len(b) > 0 && b[0] == '\\' {
			b = b[1:]
		}
	}
}
