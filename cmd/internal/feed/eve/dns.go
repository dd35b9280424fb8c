package eve

import (
	"bytes"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/field"
	"portolan/cmd/internal/feed/jsonline"
	"portolan/sensor/event"
)

// answer is what matters of a dns object, whatever its version.
type answer struct {
	version                    []byte
	kind, id, rcode, flags, op []byte
	name, rrtype               jsonline.Value // of the question; with version 1, of the one record
	ttl, rdata                 jsonline.Value // version 1
	queries, answers, grouped  jsonline.Value
}

func answerOf(dns jsonline.Value) (a answer, err error) {
	o := dns.Members()
	for key, v, ok := o.Next(); ok; key, v, ok = o.Next() {
		switch string(key) {
		case "version":
			a.version = v.Plain()
		case "type":
			a.kind = v.Plain()
		case "id":
			a.id = v.Plain()
		case "rcode":
			a.rcode = v.Plain()
		case "flags":
			a.flags = v.Plain()
		case "opcode":
			a.op = v.Plain()
		case "rrname":
			a.name = v
		case "rrtype":
			a.rrtype = v
		case "ttl":
			a.ttl = v
		case "rdata":
			a.rdata = v
		case "queries":
			a.queries = v
		case "answers":
			a.answers = v
		case "grouped":
			a.grouped = v
		}
	}
	if o.Bad() {
		return a, errDNS
	}
	return a, nil
}

// dns makes a lookup of a dns event.
func (p *Parser) dns(e *envelope, to feed.Sink) error {
	a, err := answerOf(e.dns)
	if err != nil {
		return err
	}
	if k := string(a.kind); k != "answer" && k != "response" {
		return nil
	}
	p.lookups = true
	l := event.Lookup{Proto: transport(e.proto), Zone: e.zone()}
	var ok bool
	if l.Time, ok = field.Stamp(e.stamp); !ok {
		return errTime
	}
	src, dst, err := e.ends()
	if err != nil {
		return err
	}
	// Events stand in the direction of the flow, or of the packet: the version does not tell.
	switch {
	case dst.Port() == dnsPort:
		l.Client, l.Resolver = src, dst
	case src.Port() == dnsPort:
		l.Client, l.Resolver = dst, src
	default:
		return nil
	}
	if n, ok := field.Uint(a.id, 65535); ok {
		l.ID = uint16(n)
	}
	if flags, ok := hexFlags(a.flags); ok {
		if flags&0x7800 != 0 {
			return nil // another opcode than that of a query
		}
		l.Truncated, l.RCode = flags&0x0200 != 0, uint8(flags&15)
	}
	if a.op != nil && string(a.op) != "0" {
		return nil
	}
	if n, ok := field.RCode(a.rcode); ok {
		l.RCode = n
	}
	if a.queries != nil {
		queries := a.queries.Elements()
		q, _ := queries.Next()
		a.name, a.rrtype = q.Get("rrname"), q.Get("rrtype")
	}
	if a.version == nil || string(a.version) == "1" {
		p.part(&l, &a, to)
		return nil
	}
	p.Flush(to)
	if l.Type = field.Type(a.rrtype.Plain()); l.Type == event.AXFR || l.Type == event.IXFR {
		return nil
	}
	l.Records, p.text = p.lookup.Records[:0], p.text[:0]
	l.Name = p.name(a.name)
	p.lookup = l
	if a.answers != nil {
		p.detailed(a.answers)
	} else if a.grouped != nil {
		p.grouped(a.grouped)
	}
	to.Lookup(&p.lookup)
	return nil
}

// part takes one record of a lookup that version 1 spreads over several events, which follow each
// other and have one time.
func (p *Parser) part(l *event.Lookup, a *answer, to feed.Sink) {
	w := &p.lookup
	if !p.waiting || w.Time != l.Time || w.ID != l.ID || w.Client != l.Client || w.Resolver != l.Resolver {
		p.Flush(to)
		p.text = p.text[:0]
		l.Records = w.Records[:0]
		p.lookup, p.waiting = *l, true
		w.Name = p.name(a.name)
	}
	if a.rdata != nil {
		p.record(a.name, field.Type(a.rrtype.Plain()), a.ttl, a.rdata)
	}
}

// name appends a name to the text of the lookup and returns it.
func (p *Parser) name(v jsonline.Value) []byte {
	b := v.Text(&p.text)
	from := len(p.text)
	p.text = field.Name(p.text, b)
	if len(p.text) == from && v != nil {
		p.text = append(p.text, '.')
	}
	return p.text[from:len(p.text):len(p.text)]
}

// detailed takes the records of an array of objects.
func (p *Parser) detailed(answers jsonline.Value) {
	each := answers.Elements()
	for r, ok := each.Next(); ok; r, ok = each.Next() {
		var name, rrtype, ttl, rdata, srv jsonline.Value
		o := r.Members()
		for key, v, ok := o.Next(); ok; key, v, ok = o.Next() {
			switch string(key) {
			case "rrname":
				name = v
			case "rrtype":
				rrtype = v
			case "ttl":
				ttl = v
			case "rdata":
				rdata = v
			case "srv":
				srv = v
			}
		}
		t := field.Type(rrtype.Plain())
		if t == event.SRV && srv != nil {
			rdata = srv
		}
		p.record(name, t, ttl, rdata)
	}
}

// grouped takes the values that an object holds by their type; it tells neither owners nor TTLs.
func (p *Parser) grouped(g jsonline.Value) {
	p.limits |= feed.NoTTL
	o := g.Members()
	for key, values, ok := o.Next(); ok; key, values, ok = o.Next() {
		t := field.Type(key)
		each := values.Elements()
		for v, ok := each.Next(); ok; v, ok = each.Next() {
			p.record(nil, t, nil, v)
		}
	}
}

// record adds a record to the lookup, if events carry its type.
func (p *Parser) record(owner jsonline.Value, t event.Type, ttl, rdata jsonline.Value) {
	r := event.Record{Type: t, Owner: p.lookup.Name}
	if n, ok := field.Uint(ttl.Plain(), 1<<32-1); ok {
		r.TTL = uint32(n)
	}
	switch t {
	case event.A, event.AAAA:
		var ok bool
		if r.Addr, ok = field.Addr(rdata.Plain()); !ok || r.Addr.Is4() != (t == event.A) {
			return
		}
	case event.TXT:
		r.Text = rdata.Text(&p.text)
	case event.CNAME:
		r.Target = p.name(rdata)
	case event.SRV:
		port, ok := field.Port(rdata.Get("port").Plain())
		if !ok {
			p.limits |= feed.NoServices
			return
		}
		r.Port, r.Target = port, p.name(rdata.Get("name"))
	case event.SVCB, event.HTTPS, event.NAPTR, event.URI:
		p.limits |= feed.NoServices
		return
	default:
		return
	}
	if owner != nil && !sameName(owner.Plain(), r.Owner) {
		r.Owner = p.name(owner)
	}
	// What was cut from p.text before it grew stays where it is; TXT data without escapes lies in the line.
	if p.waiting && t == event.TXT {
		r.Text = bytes.Clone(r.Text)
	}
	p.lookup.Records = append(p.lookup.Records, r)
}

// sameName reports whether b is a name as events hold it already.
func sameName(b, name []byte) bool { return len(b) > 0 && bytes.Equal(b, name) }
