package zeek

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
		if err := p.Line([]byte(strings.TrimSuffix(line, "\n")), log); err != nil {
			refused = append(refused, err.Error())
		}
	}
	p.Flush(log)
	return log.String(), p, refused
}

const (
	dnsHead = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tdns\n" +
		"#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\ttrans_id\trtt\tquery\tqtype\trcode\tTC\tanswers\tTTLs\trejected\n"
	connHead = "#separator \\x20\n#set_separator ;\n#path conn\n#unset_field none\n#fields ts id.orig_h id.orig_p id.resp_h id.resp_p proto conn_state history orig_l2_addr\n"
	ends     = "client=10.0.0.7:40001 resolver=10.0.0.53:53"
)

func TestForms(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"answers, names among them", dnsHead +
			"1767225601.250000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\tudp\t9\t0.250000\tWWW.example\t1\t0\tF\tweb.example,192.0.2.1,2001:db8::1\t60.000000,30.000000,5.000000\tF\n",
			"1.5s     lookup     " + ends + " id=9 name=www.example ttl=30 a=192.0.2.1 ttl=5 aaaa=2001:db8::1\n"},
		{"texts, with what Zeek escapes", dnsHead +
			"1767225601.250000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\ttcp\t9\t0.250000\tt.example\t16\t0\tT\tTXT 3 a\\x2cb TXT 2 \\x09c,TXT 9 192.0.2.1\t1.0,2.0\tF\n",
			"1.5s     lookup     " + ends + " proto=tcp id=9 type=16 name=t.example ttl=1 txt=\"a,b\\tc\" ttl=2 txt=192.0.2.1 (truncated)\n"},
		{"no round trip known; no such name", dnsHead +
			"1767225601.500000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\tudp\t9\t-\t(empty)\t1\t3\tF\t-\t-\tF\n",
			"1.5s     lookup     " + ends + " id=9 rcode=3 name=.\n"},
		{"no response, multicast, a transfer", dnsHead +
			"1767225601.500000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\tudp\t9\t-\ta\t1\t-\tF\t-\t-\tF\n" +
			"1767225601.500000\tC1\t10.0.0.7\t5353\t224.0.0.251\t5353\tudp\t0\t-\ta\t1\t0\tF\t10.0.0.7\t1.0\tF\n" +
			"1767225601.500000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\ttcp\t9\t0.1\ta\t252\t0\tF\t10.0.0.7\t1.0\tF\n", ""},
		{"connections, with other separators, and what is none", connHead +
			"1767225601.0 10.0.0.7 50000 192.0.2.1 443 tcp SF ShADadFf 02:00:00:00:00:07\n" +
			"1767225602.0 10.0.0.7 50001 192.0.2.1 443 tcp SHR hCadf none\n" +
			"1767225603.0 10.0.0.7 50002 192.0.2.1 443 tcp OTH DdA none\n" +
			"1767225604.0 10.0.0.7 50003 192.0.2.1 443 tcp S0 none none\n" +
			"1767225605.0 10.0.0.7 50004 192.0.2.1 443 tcp OTH none none\n" +
			"1767225606.0 10.0.0.7 8 192.0.2.1 0 icmp OTH none none\n" +
			"1767225607.0 10.0.0.7 5 192.0.2.1 6 udp SF Dd none\n",
			"1s       connection src=10.0.0.7:50000 dst=192.0.2.1:443 proto=tcp\n2s       connection src=10.0.0.7:50001 dst=192.0.2.1:443 proto=tcp start=synack\n" +
				"4s       connection src=10.0.0.7:50003 dst=192.0.2.1:443 proto=tcp\n7s       connection src=10.0.0.7:5 dst=192.0.2.1:6 proto=udp\n"},
		{"another log, then this one in the same file", "#separator \\x09\n#path\thttp\n#fields\tts\thost\n1767225601.0\tx\n" + dnsHead +
			"1767225601.250000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\tudp\t9\t0.25\ta.example\t1\t0\tF\t192.0.2.1\t-\tF\n#close\t2026-01-01-01-00-00\n",
			"1.5s     lookup     " + ends + " id=9 name=a.example a=192.0.2.1\n"},
		{"JSON, streamed and not", `{"_path":"dns","_write_ts":"2026-01-01T00:00:02.000000Z","ts":"2026-01-01T00:00:01.250000Z","uid":"C1","id.orig_h":"10.0.0.7","id.orig_p":40001,"id.resp_h":"10.0.0.53",` +
			`"id.resp_p":53,"proto":"udp","trans_id":9,"rtt":0.25000000000000017,"query":"a.example","qtype":1,"rcode":0,"TC":false,"answers":["192.0.2.1"],"TTLs":[3.0]}
{"ts":1767225601.0,"uid":"C2","id.orig_h":"10.0.0.7","id.orig_p":50000,"id.resp_h":"192.0.2.1","id.resp_p":443,"proto":"tcp","conn_state":"S0","history":"S"}
{"ts":1767225601.25,"uid":"C1","id.orig_h":"10.0.0.7","id.orig_p":40001,"id.resp_h":"10.0.0.53","id.resp_p":53,"proto":"udp","trans_id":9,"rtt":1.5e-05,"query":"b.example","qtype":1,"rcode":0,"answers":["TXT 4 \\xffa\\\\b"],"TTLs":[3.0]}
{"_path":"ssl","ts":1767225601.0,"uid":"C3"}`,
			"1.5s     lookup     " + ends + " id=9 name=a.example ttl=3 a=192.0.2.1\n1s       connection src=10.0.0.7:50000 dst=192.0.2.1:443 proto=tcp\n" +
				"1.250015s lookup     " + ends + " id=9 name=b.example ttl=3 txt=\"\\xffa\\\\b\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, refused := parse(t, tt.in)
			if got != tt.want || len(refused) > 0 {
				t.Errorf("got\n%swant\n%srefused %v", got, tt.want, refused)
			}
			if !Recognise([]byte(tt.in)) {
				t.Error("not recognised")
			}
		})
	}
}

func TestRefused(t *testing.T) {
	const line = "1767225601.250000\tC1\t10.0.0.7\t40001\t10.0.0.53\t53\tudp\t9\t0.25\ta.example\t1\t0\tF\t192.0.2.1\t1.0\tF"
	for in, want := range map[string]error{
		line: errHeader, dnsHead + line + "\tmore": errColumns, "#separator \\x09\\x09\n": errSeparator, `{"ts":`: errJSON,
		dnsHead + strings.Replace(line, "1767225601", "-1767225601", 1): errTime,
		dnsHead + strings.Replace(line, "10.0.0.7", "10.0.0.256", 1):    errAddress,
		dnsHead + strings.Replace(line, "40001", "65536", 1):            errPort,
		dnsHead + strings.Replace(line, "0.25\t", "soon\t", 1):          errRTT,
	} {
		if _, _, got := parse(t, in); len(got) != 1 || got[0] != want.Error() {
			t.Errorf("%s\nis refused with %v, want %v", in, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	_, p, _ := parse(t, connHead+"1767225601.0 10.0.0.7 50000 192.0.2.1 443 tcp SF S none\n")
	if got, want := p.Limits(), feed.NoLookups|feed.NoVLAN; got != want {
		t.Errorf("limits are %s, want %s", got, want)
	}
}
