package main

import (
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// site is something that benign clients use.
type site struct {
	name  string
	addrs []string
	port  uint16
}

func sites() []site {
	return []site{
		{"www.example.com", []string{"192.0.2.80", "192.0.2.81"}, 443},
		{"cdn.example.net", []string{"203.0.113.14", "203.0.113.15", "203.0.113.16"}, 443},
		{"img.example.net", []string{"203.0.113.77"}, 443},
		{"api.example.org", []string{"198.51.100.7"}, 443},
		{"updates.example.org", []string{"198.51.100.61"}, 80},
		{"mail.example.com", []string{"192.0.2.25"}, 993},
		{"git.example.org", []string{"198.51.100.140"}, 22},
		{"intranet.example.com", []string{"192.0.2.200"}, 8443},
	}
}

// browse lets the client look sites up and use what it was given, from t on.
func (c *client) browse(t time.Time, visits int) {
	all := sites()
	for range visits {
		v := all[c.number(0, len(all)-1)]
		t = t.Add(c.between(100*time.Millisecond, 4*time.Second))
		if v.port == 443 {
			c.ask(t.Add(30*time.Microsecond), v.name, dns.TypeAAAA, aaaa(300, "2001:db8::1"+v.addrs[0][len(v.addrs[0])-1:]))
		}
		answered := c.ask(t, v.name, dns.TypeA, a(300, v.addrs...)...)
		first := v.addrs[c.number(0, len(v.addrs)-1)]
		end := c.connect(answered.Add(c.between(time.Millisecond, 60*time.Millisecond)), addrPort(first, v.port), 120, 300)
		if c.number(0, 2) == 0 { // the answer is still in the client's cache
			c.connect(end.Add(c.between(time.Second, 20*time.Second)), addrPort(first, v.port), 90, 200)
		}
	}
}

// services lets the client do what is unusual and innocent: a port out of SRV and HTTPS
// records, time by UDP, a name that does not exist, an address that stands in a
// configuration file.
func (c *client) services(t time.Time) {
	srv := &dns.SRV{
		Hdr:    dns.RR_Header{Rrtype: dns.TypeSRV, Ttl: 600},
		Weight: 5, Port: 15222, Target: "chat.example.com.",
	}
	t = c.ask(t, "_xmpp-client._tcp.example.com", dns.TypeSRV, srv)
	t = c.ask(t.Add(time.Millisecond), "chat.example.com", dns.TypeA, a(600, "192.0.2.52")...)
	c.connect(t.Add(3*time.Millisecond), addrPort("192.0.2.52", 15222), 150, 220)

	https := &dns.HTTPS{SVCB: dns.SVCB{
		Hdr: dns.RR_Header{Rrtype: dns.TypeHTTPS, Ttl: 120}, Priority: 1, Target: ".",
		Value: []dns.SVCBKeyValue{
			&dns.SVCBPort{Port: 9443},
			&dns.SVCBIPv4Hint{Hint: []net.IP{net.ParseIP("203.0.113.90").To4()}},
		},
	}}
	t = c.ask(t.Add(2*time.Second), "shop.example.net", dns.TypeHTTPS, https)
	c.connect(t.Add(2*time.Millisecond), addrPort("203.0.113.90", 9443), 200, 250)

	t = c.ask(t.Add(time.Second), "time.example.org", dns.TypeA, a(3600, "198.51.100.123")...)
	c.udp(t.Add(5*time.Millisecond), addrPort("198.51.100.123", 123), c.payload(48), c.payload(48))
	t = c.ask(t.Add(time.Second), "wpad.example.com", dns.TypeA)
	c.connect(t.Add(4*time.Second), addrPort("203.0.113.250", 443), 100, 100)
}

func addrPort(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// office is the benign part of every scene: three clients.
func office(s *scene) {
	for i, n := range []byte{7, 8, 9} {
		c := s.host(n)
		t := started().Add(time.Duration(i) * 700 * time.Millisecond)
		c.browse(t, 6)
		c.services(t.Add(3 * time.Second))
	}
}

func benignOnly(s *scene) {
	office(s)
	for n := byte(10); n < 12; n++ {
		s.host(n).browse(started().Add(time.Duration(n)*time.Second), 3)
	}
}
