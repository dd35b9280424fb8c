package eve

import (
	"strings"
	"testing"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/feedtest"
)

const base = 1_767_225_600e9 // 2026-01-01T00:00:00Z

func parse(t *testing.T, lines string) (string, *Parser, []string) {
	t.Helper()
	p, log := New(), &feedtest.Log{Base: base}
	var refused []string
	for line := range strings.Lines(lines) {
		if err := p.Line([]byte(line), log); err != nil {
			refused = append(refused, err.Error())
		}
	}
	p.Flush(log)
	return log.String(), p, refused
}

// Each documented form of a response, and what is no response.
func TestForms(t *testing.T) {
	const head = `{"timestamp":"2026-01-01T00:00:01.500000+0000","flow_id":7,"event_type":"dns","src_ip":"10.0.0.7","src_port":40001,` +
		`"dest_ip":"10.0.0.53","dest_port":53,"proto":"UDP",`
	const reverse = `{"timestamp":"2026-01-01T01:00:01.500000+0100","event_type":"dns","src_ip":"10.0.0.53","src_port":53,` +
		`"dest_ip":"10.0.0.7","dest_port":40001,"proto":"TCP","vlan":[12,300],`
	const ends = "client=10.0.0.7:40001 resolver=10.0.0.53:53"
	for _, tt := range []struct{ name, in, want string }{
		{"version 1, an event for each record", head + `"dns":{"type":"answer","id":9,"rcode":"NOERROR","rrname":"www.example","rrtype":"CNAME","ttl":60,"rdata":"Web.example"}}
` + head + `"dns":{"type":"answer","id":9,"rcode":"NOERROR","rrname":"web.example","rrtype":"A","ttl":30,"rdata":"192.0.2.1"}}
` + head + `"dns":{"type":"answer","id":10,"rcode":"NXDOMAIN","rrname":"no.example"}}`,
			"1.5s     lookup     " + ends + " id=9 type=0 name=www.example ttl=60 cname=web.example ttl=30 owner=web.example a=192.0.2.1\n" +
				"1.5s     lookup     " + ends + " id=10 type=0 rcode=3 name=no.example\n"},
		{"version 2, detailed", head + `"dns":{"version":2,"type":"answer","id":9,"flags":"8380","qr":true,"rrname":"WWW.example","rrtype":"A","rcode":"NOERROR",` +
			`"answers":[{"rrname":"www.example","rrtype":"A","ttl":30,"rdata":"192.0.2.1"},{"rrname":"www.example","rrtype":"MX","ttl":30,"rdata":"m"}],"grouped":{"A":["192.0.2.1"]}}}`,
			"1.5s     lookup     " + ends + " id=9 name=www.example ttl=30 a=192.0.2.1 (truncated)\n"},
		{"version 2, grouped", head + `"dns":{"version":2,"type":"answer","id":9,"rrname":"t.example","rrtype":"TXT","rcode":"NOERROR","grouped":{"TXT":["a \"b\""],"AAAA":["2001:db8::1"]}}}`,
			"1.5s     lookup     " + ends + " id=9 type=16 name=t.example txt=\"a \\\"b\\\"\" aaaa=2001:db8::1\n"},
		{"version 3, packet's direction, VLANs", reverse + `"dns":{"version":3,"type":"response","tx_id":1,"id":9,"flags":"8180","opcode":0,"rcode":"NOERROR",` +
			`"queries":[{"rrname":"_s._tcp.example","rrtype":"SRV"}],"answers":[{"rrname":"_s._tcp.example","rrtype":"SRV","ttl":5,"srv":{"priority":1,"weight":2,"port":5061,"name":"sip.example"}}]}}`,
			"1.5s     lookup     " + ends + " zone=0/vlan12 proto=tcp id=9 type=33 name=_s._tcp.example ttl=5 srv=sip.example:5061\n"},
		{"a query, an update, a transfer, multicast, another type", head + `"dns":{"type":"query","id":9,"rrname":"a"}}
` + head + `"dns":{"version":2,"type":"answer","flags":"a800","rrname":"a","rrtype":"SOA"}}
` + head + `"dns":{"version":2,"type":"answer","rrname":"a","rrtype":"AXFR"}}
` + strings.ReplaceAll(head, `:53,`, `:5353,`) + `"dns":{"version":2,"type":"answer","rrname":"a","rrtype":"A"}}
{"timestamp":"x","event_type":"netflow","src_ip":"10.0.0.7"}
`, ""},
		{"flows", `{"timestamp":"2026-01-01T00:05:00.000000+0000","event_type":"flow","src_ip":"10.0.0.7","src_port":50000,"dest_ip":"192.0.2.1","dest_port":443,"proto":"TCP",` +
			`"flow":{"start":"2026-01-01T00:00:02.250000+0000"},"tcp":{"tcp_flags":"1b","tcp_flags_ts":"1b","tcp_flags_tc":"1b"}}
{"timestamp":"2026-01-01T00:05:00.000000+0000","event_type":"flow","src_ip":"10.0.0.7","src_port":50001,"dest_ip":"192.0.2.1","dest_port":443,"proto":"TCP",` +
			`"flow":{"start":"2026-01-01T00:00:03.000000+0000"},"tcp":{"tcp_flags_ts":"10","tcp_flags_tc":"12"}}
{"timestamp":"2026-01-01T00:05:00.000000+0000","event_type":"flow","src_ip":"10.0.0.7","src_port":50002,"dest_ip":"192.0.2.1","dest_port":443,"proto":"TCP",` +
			`"flow":{"start":"2026-01-01T00:00:03.000000+0000"},"tcp":{"tcp_flags_ts":"18","tcp_flags_tc":"18"}}
{"timestamp":"2026-01-01T00:05:00.000000+0000","event_type":"flow","src_ip":"10.0.0.7","dest_ip":"192.0.2.1","proto":"ICMP","flow":{"start":"2026-01-01T00:00:03.000000+0000"}}
{"timestamp":"2026-01-01T00:05:00.000000+0000","event_type":"flow","src_ip":"10.0.0.7","src_port":5,"dest_ip":"192.0.2.1","dest_port":6,"proto":"UDP","flow":{"start":"2026-01-01T00:00:04.000000+0000"}}`,
			"2.25s    connection src=10.0.0.7:50000 dst=192.0.2.1:443 proto=tcp\n3s       connection src=10.0.0.7:50001 dst=192.0.2.1:443 proto=tcp start=synack\n" +
				"4s       connection src=10.0.0.7:5 dst=192.0.2.1:6 proto=udp\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, refused := parse(t, tt.in)
			if got != tt.want || len(refused) > 0 {
				t.Errorf("got\n%swant\n%srefused %v", got, tt.want, refused)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	const head = `{"timestamp":"2026-01-01T00:00:01.5+0000","event_type":"dns","src_ip":"10.0.0.7","src_port":40001,"dest_ip":"10.0.0.53","dest_port":53,"proto":"UDP"`
	for in, want := range map[string]error{
		head: errJSON, head + `}`: errDNS, `{"a":1}`: errNotEvent,
		strings.Replace(head, "2026", "then", 1) + `,"dns":{"type":"answer"}}`:       errTime,
		strings.Replace(head, "10.0.0.7", "10.0.0", 1) + `,"dns":{"type":"answer"}}`: errEnds,
	} {
		if _, _, got := parse(t, in); len(got) != 1 || got[0] != want.Error() {
			t.Errorf("%s\nis refused with %v, want %v", in, got, want)
		}
	}
}

// What the log cannot tell depends on how it was written.
func TestLimits(t *testing.T) {
	_, p, _ := parse(t, `{"timestamp":"2026-01-01T00:00:01Z","event_type":"dns","src_ip":"10.0.0.7","src_port":1,"dest_ip":"10.0.0.53","dest_port":53,"proto":"UDP",`+
		`"dns":{"version":2,"type":"answer","rrname":"a","rrtype":"A","grouped":{"A":["192.0.2.1"],"HTTPS":["1 ."]}}}`)
	if got, want := p.Limits(), feed.NoConns|feed.NoTTL|feed.NoServices; got != want {
		t.Errorf("limits are %s, want %s", got, want)
	}
}
