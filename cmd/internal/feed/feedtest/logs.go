package feedtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"portolan/sensor/event"
)

// Logs is a sink that writes down what it gets as other programs would have logged it.
type Logs struct {
	events event.Batch
}

// Lookup takes a lookup.
func (l *Logs) Lookup(x *event.Lookup) { l.events.Lookup(x) }

// Connection takes a connection.
func (l *Logs) Connection(x *event.Connection) { l.events.Connection(x) }

// connections returns the connections in the order in which they end, as logs hold them: each lasts
// from no time to five minutes.
func (l *Logs) connections() []event.Connection {
	all := slices.Clone(l.events.Connections())
	ends := func(c event.Connection) event.Time {
		return c.Time + event.Time(c.Src.Port()%6)*event.Time(time.Minute)
	}
	slices.SortStableFunc(all, func(a, b event.Connection) int { return cmp.Compare(ends(a), ends(b)) })
	return all
}

var typeNames = map[event.Type]string{
	event.A: "A", event.AAAA: "AAAA", event.CNAME: "CNAME", event.TXT: "TXT", event.SRV: "SRV", event.NAPTR: "NAPTR",
	event.SVCB: "SVCB", event.HTTPS: "HTTPS", event.URI: "URI",
}

func seconds(t event.Time) string { return fmt.Sprintf("%d.%06d", t/1e9, t%1e9/1e3) }

// rtt is how long the resolver took, in what is written here.
const rtt = event.Time(500 * time.Microsecond)

// zeekAnswers returns the vectors of answers and TTLs as Zeek makes them.
func zeekAnswers(l *event.Lookup) (answers []string, ttls []string) {
	for i := range l.Records {
		r := &l.Records[i]
		var text string
		switch r.Type {
		case event.A, event.AAAA:
			text = r.Addr.String()
		case event.TXT:
			text = fmt.Sprintf("TXT %d %s", len(r.Text), r.Text)
		case event.CNAME, event.SRV:
			text = string(r.Target)
		default:
			continue
		}
		answers = append(answers, text)
		ttls = append(ttls, fmt.Sprintf("%d.000000", r.TTL))
	}
	return answers, ttls
}

func zeekEscape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c >= 0x7f || c == ',' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func vector(all []string) string {
	if len(all) == 0 {
		return "-"
	}
	escaped := make([]string, len(all))
	for i, s := range all {
		escaped[i] = zeekEscape(s)
	}
	return strings.Join(escaped, ",")
}

const zeekHead = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t%s\n#open\t2026-01-01-00-00-00\n" +
	"#fields\t%s\n#types\t%s\n"

func zeekHeader(path string, fields []string) string {
	return fmt.Sprintf(zeekHead, path, strings.Join(fields, "\t"), strings.Repeat("string\t", len(fields)-1)+"string")
}

// ZeekTSV returns dns.log and conn.log in Zeek's own columns.
func (l *Logs) ZeekTSV() (dns, conn string) {
	var d, c strings.Builder
	d.WriteString(zeekHeader("dns", strings.Fields(`ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto trans_id rtt query qclass
		qclass_name qtype qtype_name rcode rcode_name AA TC RD RA Z answers TTLs rejected`)))
	for _, x := range l.events.Lookups() {
		answers, ttls := zeekAnswers(&x)
		fmt.Fprintf(&d, "%s\tC%x\t%s\t%d\t%s\t%d\t%s\t%d\t%s\t%s\t1\tC_INTERNET\t%d\t%s\t%d\t-\tF\tF\tT\tT\t0\t%s\t%s\tF\n",
			seconds(x.Time-rtt), x.Time, x.Client.Addr(), x.Client.Port(), x.Resolver.Addr(), x.Resolver.Port(), x.Proto, x.ID,
			seconds(rtt), x.Name, x.Type, typeNames[x.Type], x.RCode, vector(answers), vector(ttls))
	}
	d.WriteString("#close\t2026-01-01-01-00-00\n")
	c.WriteString(zeekHeader("conn", strings.Fields(`ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration
		orig_bytes resp_bytes conn_state local_orig local_resp missed_bytes history orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes tunnel_parents`)))
	for _, x := range l.connections() {
		state, history := "SF", "ShADadFf"
		if x.Start == event.SYNACK {
			state, history = "SHR", "hadf"
		} else if x.Proto == event.UDP {
			history = "Dd"
		}
		fmt.Fprintf(&c, "%s\tC%x\t%s\t%d\t%s\t%d\t%s\t-\t1.5\t10\t20\t%s\t-\t-\t0\t%s\t3\t90\t3\t90\t(empty)\n",
			seconds(x.Time), x.Time, x.Src.Addr(), x.Src.Port(), x.Dst.Addr(), x.Dst.Port(), x.Proto, state, history)
	}
	return d.String(), c.String()
}

type object map[string]any

func line(b *strings.Builder, o object) {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and numbers can be marshaled
	}
	b.Write(text)
	b.WriteByte('\n')
}

// ZeekJSON returns the same as JSON. Streamed, it has _path and times as ISO 8601, as the
// json-streaming-logs package writes it.
func (l *Logs) ZeekJSON(streamed bool) (dns, conn string) {
	var d, c strings.Builder
	ts := func(t event.Time) any {
		if streamed {
			return t.UTC().Format("2006-01-02T15:04:05.000000Z")
		}
		return json.RawMessage(seconds(t))
	}
	put := func(b *strings.Builder, path string, o object) {
		if streamed {
			o["_path"], o["_write_ts"] = path, "2026-01-01T00:00:00.000000Z"
		}
		line(b, o)
	}
	for _, x := range l.events.Lookups() {
		o := object{
			"ts": ts(x.Time - rtt), "uid": fmt.Sprintf("C%x", x.Time), "id.orig_h": x.Client.Addr(), "id.orig_p": x.Client.Port(),
			"id.resp_h": x.Resolver.Addr(), "id.resp_p": x.Resolver.Port(), "proto": x.Proto.String(), "trans_id": x.ID,
			"rtt": 0.0005, "query": string(x.Name), "qtype": x.Type, "rcode": x.RCode, "AA": false, "TC": false, "rejected": false,
		}
		if answers, ttls := zeekAnswers(&x); len(answers) > 0 {
			o["answers"], o["TTLs"] = answers, json.RawMessage("["+strings.Join(ttls, ",")+"]")
		}
		put(&d, "dns", o)
	}
	for _, x := range l.connections() {
		o := object{
			"ts": ts(x.Time), "uid": fmt.Sprintf("C%x", x.Time), "id.orig_h": x.Src.Addr(), "id.orig_p": x.Src.Port(),
			"id.resp_h": x.Dst.Addr(), "id.resp_p": x.Dst.Port(), "proto": x.Proto.String(), "conn_state": "SF", "history": "Shd",
		}
		if x.Start == event.SYNACK {
			o["history"], o["conn_state"] = "hd", "SHR"
		}
		put(&c, "conn", o)
	}
	return d.String(), c.String()
}

// EVE returns one log of Suricata with dns events of a version, 1 to 3; grouped, with answers by
// their type, which version 2 and 3 can write.
func (l *Logs) EVE(version int, grouped bool) string {
	var b strings.Builder
	stamp := func(t event.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-0700") }
	for _, x := range l.events.Lookups() {
		event := func(dns object) {
			o := object{
				"timestamp": stamp(x.Time), "flow_id": 1, "event_type": "dns", "src_ip": x.Client.Addr(), "src_port": x.Client.Port(),
				"dest_ip": x.Resolver.Addr(), "dest_port": x.Resolver.Port(), "proto": strings.ToUpper(x.Proto.String()), "dns": dns,
			}
			if version == 3 { // in the direction of the packet
				o["src_ip"], o["dest_ip"], o["src_port"], o["dest_port"] = o["dest_ip"], o["src_ip"], o["dest_port"], o["src_port"]
			}
			if x.Zone.ID != 0 {
				o["vlan"] = []uint32{x.Zone.ID}
			}
			line(&b, o)
		}
		head := func() object {
			return object{"type": "answer", "id": x.ID, "rcode": "NOERROR", "rrname": string(x.Name), "rrtype": typeNames[x.Type]}
		}
		var answers []object
		groups := map[string][]any{}
		for i := range x.Records {
			r := &x.Records[i]
			name := typeNames[r.Type]
			o := object{"rrname": string(r.Owner), "rrtype": name, "ttl": r.TTL}
			switch {
			case r.Addr.IsValid() && name != "":
				o["rdata"] = r.Addr.String()
			case name == "TXT":
				o["rdata"] = string(r.Text)
			case name == "SRV":
				o["rdata"] = object{"priority": 1, "weight": 1, "port": r.Port, "name": string(r.Target)}
			case name == "CNAME":
				o["rdata"] = string(r.Target)
			default:
				continue
			}
			answers = append(answers, o)
			groups[name] = append(groups[name], o["rdata"])
		}
		switch version {
		case 1:
			if len(answers) == 0 {
				event(head())
			}
			for _, a := range answers {
				a["type"], a["id"], a["rcode"] = "answer", x.ID, "NOERROR"
				event(a)
			}
			continue
		case 2:
			o := head()
			o["version"], o["flags"], o["answers"] = 2, "8180", answers
			if grouped {
				delete(o, "answers")
				o["grouped"] = groups
			}
			event(o)
		case 3:
			o := object{
				"version": 3, "type": "response", "id": x.ID, "flags": "8180", "opcode": 0, "rcode": "NOERROR",
				"queries": []object{{"rrname": string(x.Name), "rrtype": typeNames[x.Type]}}, "answers": answers,
			}
			if grouped {
				delete(o, "answers")
				o["grouped"] = groups
			}
			event(o)
		}
	}
	for _, x := range l.connections() {
		o := object{
			"timestamp": stamp(x.Time + 300e9), "event_type": "flow", "src_ip": x.Src.Addr(), "src_port": x.Src.Port(), "dest_ip": x.Dst.Addr(),
			"dest_port": x.Dst.Port(), "proto": strings.ToUpper(x.Proto.String()),
			"flow": object{"pkts_toserver": 3, "start": stamp(x.Time), "end": stamp(x.Time + 300e9), "state": "closed"},
		}
		if x.Proto == event.TCP {
			o["tcp"] = object{"tcp_flags": "1b", "tcp_flags_ts": "1b", "tcp_flags_tc": "1b"}
			if x.Start == event.SYNACK {
				o["tcp"] = object{"tcp_flags": "12", "tcp_flags_ts": "00", "tcp_flags_tc": "12"}
			}
		}
		if x.Zone.ID != 0 {
			o["vlan"] = []uint32{x.Zone.ID}
		}
		line(&b, o)
	}
	return b.String()
}
