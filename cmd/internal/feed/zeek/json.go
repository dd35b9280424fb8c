package zeek

import (
	"bytes"

	"portolan/cmd/internal/feed/jsonline"
)

// object reads the values of an entry in JSON. Which log it is from "_path" says, as the
// json-streaming-logs package writes it, and otherwise the columns that only one log has.
func (p *Parser) object(line []byte) (log, error) {
	p.value = [numColumns][]byte{}
	p.answers, p.ttls, p.escaped = p.answers[:0], p.ttls[:0], p.escaped[:0]
	from := unknown
	o := jsonline.Value(line).Members()
	for key, v, ok := o.Next(); ok; key, v, ok = o.Next() {
		switch x := columnOf(key); x {
		case none:
			if string(key) == "_path" {
				from = logOf(v.Plain())
			}
		case colAnswers:
			p.answers = p.elements(p.answers, v)
			p.value[x] = v
		case colTTLs:
			p.ttls = p.elements(p.ttls, v)
		default:
			p.value[x] = v.Text(&p.escaped)
		}
	}
	if o.Bad() {
		return unknown, errJSON
	}
	if from == unknown {
		from = p.guess()
	}
	return from, nil
}

// guess says which log an entry is from that does not say it.
func (p *Parser) guess() log {
	v := &p.value
	switch {
	case v[colOrigH] == nil:
		return other
	case v[colState] != nil || v[colHistory] != nil:
		return conn
	case v[colTransID] != nil && v[colProto] != nil || v[colRCode] != nil && v[colQuery] != nil:
		return dns
	}
	return other
}

// elements appends the elements of an array.
func (p *Parser) elements(dst [][]byte, v jsonline.Value) [][]byte {
	a := v.Elements()
	for e, ok := a.Next(); ok; e, ok = a.Next() {
		dst = append(dst, e.Text(&p.escaped))
	}
	return dst
}

// recogniseJSON reports whether a line is an entry of one of Zeek's logs.
func recogniseJSON(line []byte) bool {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		return false
	}
	o := jsonline.Value(line).Members()
	path, uid, ts := false, false, false
	for key, _, ok := o.Next(); ok; key, _, ok = o.Next() {
		switch string(key) {
		case "_path":
			path = true
		case "uid":
			uid = true
		case "ts":
			ts = true
		}
	}
	return ts && (path || uid) && !o.Bad()
}
