package process

import (
	"bytes"
	"html"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/jsonline"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

const eventTag = "<Event>" // as Sysmon for Linux begins its message to syslog

// Sysmon's events of interest.
const (
	networkConnect = "3"
	dnsEvent       = "22" // Windows only, so far; shippers mix both
)

// sysmonData knows the names of an event's data.
func sysmonData(name []byte) slot {
	switch string(name) {
	case "UtcTime":
		return whenSeen
	case "ProcessId":
		return pid
	case "Image":
		return executable
	case "User":
		return user
	case "Protocol":
		return protocol
	case "Initiated":
		return direction
	case "SourceIp":
		return localIP
	case "SourcePort":
		return localPort
	case "DestinationIp":
		return remoteIP
	case "DestinationPort":
		return remotePort
	case "QueryName":
		return query
	}
	return skip
}

// sysmonSlot knows the fields of an event in JSON: flat, as NXLog and others write it; the XML
// turned into objects, with the data as an object or an array; and what Winlogbeat ships.
func sysmonSlot(path []byte) slot {
	switch string(path) {
	case "winlog", "winlog.event_data", "Event", "Event.System", "Event.EventData", "Event.System.TimeCreated", "EventData":
		return inside
	case "winlog.event_id", "Event.System.EventID", "EventID":
		return what
	case "winlog.computer_name", "Event.System.Computer", "Hostname", "Computer":
		return host
	case "Event.System.TimeCreated.SystemTime", "Event.System.TimeCreated.@SystemTime", "TimeCreated",
		"@timestamp":
		return when
	case "Event.EventData.Data":
		return answers // an array of names and texts, taken apart by sysmonJSON
	}
	for _, prefix := range []string{"winlog.event_data.", "Event.EventData.", "EventData."} {
		if rest, ok := bytes.CutPrefix(path, []byte(prefix)); ok {
			return sysmonData(rest)
		}
	}
	return sysmonData(path)
}

// sysmonJSON makes a record of an event in JSON.
func (p *Parser) sysmonJSON(to feed.Sink) error {
	f := &p.fields
	if f.v[answers].kind == '[' {
		a := jsonline.Value(f.v[answers].b).Elements()
		for e, ok := a.Next(); ok; e, ok = a.Next() {
			if err := f.datum(e); err != nil {
				return err
			}
		}
	}
	return p.sysmon(to)
}

// datum takes {"@Name":"Image","#text":"/usr/bin/curl"}, or the same without the marks.
func (f *fields) datum(v jsonline.Value) error {
	var name []byte
	var text jsonline.Value
	o := v.Members()
	for key, m, ok := o.Next(); ok; key, m, ok = o.Next() {
		switch string(key) {
		case "@Name", "Name":
			name = m.Plain()
		case "#text", "text", "Value", "content":
			text = m
		}
	}
	if s := sysmonData(name); s != skip && !text.IsNull() {
		return f.set(s, text)
	}
	return nil
}

// sysmonXML takes the facts of an event as Sysmon for Linux writes it to syslog. It reports
// false for events of no interest.
func (f *fields) sysmonXML(line []byte) (relevant bool, err error) {
	i := bytes.Index(line, []byte(eventTag))
	if i < 0 {
		return false, errSyntax
	}
	line = line[i:]
	end := bytes.LastIndex(line, []byte("</Event>"))
	if end < 0 {
		return false, errSyntax // syslog cut it
	}
	system, data, ok := bytes.Cut(line[:end], []byte("<EventData>"))
	if !ok {
		return false, errSyntax
	}
	id := between(system, "<EventID>", "</EventID>")
	if string(id) != networkConnect && string(id) != dnsEvent {
		return false, nil
	}
	f.v[what] = value{id, '"'}
	f.v[host] = value{between(system, "<Computer>", "</Computer>"), '"'}
	f.v[when] = value{between(system, `SystemTime="`, `"`), '"'}
	for {
		i := bytes.Index(data, []byte(`<Data Name="`))
		if i < 0 {
			return true, nil
		}
		name, rest, ok := bytes.Cut(data[i+len(`<Data Name="`):], []byte(`"`))
		if !ok {
			return false, errSyntax
		}
		data = rest
		if bytes.HasPrefix(data, []byte("/>")) {
			continue
		}
		text, rest, ok := bytes.Cut(data, []byte("</Data>"))
		if !ok || !bytes.HasPrefix(text, []byte(">")) {
			return false, errSyntax
		}
		data = rest
		s := sysmonData(name)
		if s == skip {
			continue
		}
		if f.v[s].kind != 0 {
			return false, duplicate(s)
		}
		if text = text[1:]; bytes.IndexByte(text, '&') >= 0 {
			text = []byte(html.UnescapeString(string(text)))
		}
		f.v[s] = value{text, '"'}
	}
}

func between(b []byte, before, after string) []byte {
	_, b, ok := bytes.Cut(b, []byte(before))
	if !ok {
		return nil
	}
	b, _, _ = bytes.Cut(b, []byte(after))
	return b
}

// sysmon makes a record of event 3, a connection, or 22, a question. The time is that of the
// header: UtcTime is reckoned from the boot, and lags behind on hosts that slept.
func (p *Parser) sysmon(to feed.Sink) error {
	f := &p.fields
	at := f.stamp(when)
	if at == 0 {
		at = f.stamp(whenSeen)
	}
	switch string(f.text(what)) {
	case networkConnect:
		if b := f.text(direction); string(b) == "false" || string(b) == "False" {
			return nil // somebody connected to this host
		}
		r, addr, err := p.begin(Sysmon, attribute.Connect, at)
		if err != nil {
			return err
		}
		if err := f.sockets(r); err != nil {
			return err
		}
		if r.Proto = f.transport(); r.Proto == 0 {
			return unreadable(protocol)
		}
		if r.Proto == event.UDP {
			r.Result = attribute.Sent
		}
		p.hand(r, addr, to)
		return nil
	case dnsEvent:
		r, _, err := p.begin(Sysmon, attribute.Lookup, at)
		if err != nil {
			return err
		}
		return p.asked(r, to)
	}
	return nil
}
