package dnsmasq

import (
	"errors"
	"strings"
	"testing"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/feedtest"
)

const written = 1_767_225_600e9 // 2026-01-01T00:00:00Z

func TestForms(t *testing.T) {
	const ends = "lookup     client=192.0.2.7:4000"
	for _, tt := range []struct {
		name, in, want string
		coarse         bool
	}{
		{"its own log; a chain, and another query in between", `Dec 31 23:59:01 dnsmasq[7]: started, version 2.90
Dec 31 23:59:02 dnsmasq[7]: 1 192.0.2.7/4000 query[AAAA] WWW.example from 192.0.2.7
Dec 31 23:59:02 dnsmasq[7]: 1 192.0.2.7/4000 forwarded www.example to 192.0.2.53
Dec 31 23:59:02 dnsmasq[7]: 2 192.0.2.8/4001 query[A] b.example from 192.0.2.8
Dec 31 23:59:03 dnsmasq[7]: 1 192.0.2.7/4000 reply www.example is <CNAME>
Dec 31 23:59:03 dnsmasq[7]: 1 192.0.2.7/4000 reply web.example is 2001:db8::1
Dec 31 23:59:03 dnsmasq[7]: 1 192.0.2.7/4000 reply web.example is 2001:db8::2
Dec 31 23:59:03 dnsmasq[7]: 2 192.0.2.8/4001 reply b.example is NXDOMAIN
`, "-57s     " + ends + " type=28 name=www.example owner=web.example aaaa=2001:db8::1 aaaa=2001:db8::2\n" +
			"-57s     lookup     client=192.0.2.8:4001 rcode=3 name=b.example\n", true},
		{"syslog with RFC 3339", "2025-12-31T23:59:02.250000+00:00 host dnsmasq[7]: 1 192.0.2.7/4000 cached a.example is 192.0.2.1\n",
			"-57.75s  " + ends + " type=0 name=a.example a=192.0.2.1\n", false},
		{"syslog of a day that is yet to come, so of the year before", "Jan  3 00:00:00 host dnsmasq[7]: 1 192.0.2.7/4000 config a.example is 192.0.2.1\n",
			"-8712h0m0s " + ends + " type=0 name=a.example a=192.0.2.1\n", true},
		{"others", "Dec 31 23:59:01 host sshd[1]: reply a is 192.0.2.1\nDec 31 23:59:01 dnsmasq-dhcp[7]: DHCPACK(eth0) 192.0.2.7 02:00:00:00:00:07 pc\n", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, log := New(written), &feedtest.Log{Base: written}
			for line := range strings.Lines(tt.in) {
				if err := p.Line([]byte(strings.TrimSuffix(line, "\n")), log); err != nil {
					t.Error(err)
				}
			}
			p.Flush(log)
			if log.String() != tt.want {
				t.Errorf("got\n%swant\n%s", log, tt.want)
			}
			if got := p.Limits()&feed.NoSubSecond != 0; got != tt.coarse {
				t.Errorf("whole seconds: %v, want %v", got, tt.coarse)
			}
			if Recognise([]byte(tt.in)) != (tt.want != "") {
				t.Error("recognised wrongly")
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for in, want := range map[string]error{
		"Dec 31 23:59:01 dnsmasq[7]: query[A] a.example from 192.0.2.7":      errSerial,
		"dnsmasq[7]: 1 192.0.2.7/4000 reply a.example is 192.0.2.1":          errTime,
		"Foo 31 23:59:01 dnsmasq[7]: 1 192.0.2.7/4000 reply a is 192.0.2.1":  errTime,
		"Dec 32 23:59:01 dnsmasq[7]: 1 192.0.2.7/4000 cached a is 192.0.2.1": errTime,
	} {
		if err := New(written).Line([]byte(in), &feedtest.Log{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}
