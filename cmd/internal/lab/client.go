package lab

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"portolan/sensor/event"
)

// client is one host on the clients' side. One goroutine uses it, on a thread inside the
// clients' namespace: net's dialer makes its socket on the calling thread when it is given a literal
// address and no second one to race against.
type client struct {
	Host
	lab *Lab
	rng *rand.Rand
}

// pause waits from lo to hi, or until ctx ends.
func (c *client) pause(ctx context.Context, lo, hi time.Duration) {
	wait(ctx, lo+time.Duration(c.rng.Int64N(int64(hi-lo))))
}

// pick returns one of set at random.
func pick[T any](c *client, set []T) T { return set[c.rng.IntN(len(set))] }

// ednsSize is the response size that clients with EDNS take (RFC 6891), in bytes.
const ednsSize = 1232

// lookup asks the DNS server and returns the answer section: over UDP, and over TCP when the
// answer was truncated. Every other client speaks EDNS.
func (c *client) lookup(ctx context.Context, name string, typ uint16) ([]dns.RR, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	if c.Addr.As4()[3]%2 == 0 {
		q.SetEdns0(ednsSize, false)
	}
	r, err := c.exchange(ctx, event.UDP, q)
	if err == nil && r.Truncated {
		r, err = c.exchange(ctx, event.TCP, q)
	}
	if err == nil && r.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("answered %s", dns.RcodeToString[r.Rcode])
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s %s: %w", name, dns.TypeToString[typ], err)
	}
	return r.Answer, nil
}

func (c *client) exchange(ctx context.Context, proto event.Proto, q *dns.Msg) (*dns.Msg, error) {
	at := netip.AddrPortFrom(netip.MustParseAddr(dnsServer), 53)
	s, err := c.dial(ctx, proto, at, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	d := &dns.Conn{Conn: s, UDPSize: ednsSize}
	if err := d.WriteMsg(q); err != nil {
		return nil, err
	}
	r, err := d.ReadMsg()
	if err != nil {
		return nil, err
	}
	if r.Id != q.Id {
		return nil, fmt.Errorf("the answer's id is %d, want %d", r.Id, q.Id)
	}
	c.lab.count(Traffic{Lookups: 1})
	return r, nil
}

// addresses looks up the A records of name, whichever name owns them in the end.
func (c *client) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	rrs, err := c.lookup(ctx, name, dns.TypeA)
	if err != nil {
		return nil, err
	}
	set := onlyA(rrs)
	if len(set) == 0 {
		return nil, fmt.Errorf("look up %s A: no address", name)
	}
	return set, nil
}

func onlyA(rrs []dns.RR) (set []netip.Addr) {
	for _, rr := range rrs {
		if a, ok := rr.(*dns.A); ok {
			set = append(set, netip.AddrFrom4([4]byte(a.A.To4())))
		}
	}
	return set
}

// dial connects from the client's own address and a port that the kernel picks. It calls before, unless
// nil, when the socket is there but neither bound nor connected.
func (c *client) dial(ctx context.Context, proto event.Proto, to netip.AddrPort, before func()) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	d.SetMultipathTCP(false)
	from := netip.AddrPortFrom(c.Addr, 0)
	if proto == event.TCP {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	} else {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	if before != nil {
		d.Control = func(string, string, syscall.RawConn) error { before(); return nil }
	}
	s, err := d.DialContext(ctx, proto.String()+"4", to.String())
	if err != nil {
		return nil, err
	}
	return s, s.SetDeadline(time.Now().Add(patience))
}

// fetch opens a connection to a service of the lab, sends a request and reads the whole response.
func (c *client) fetch(ctx context.Context, proto event.Proto, to netip.AddrPort) error {
	c.lab.count(Traffic{Connections: 1})
	s, err := c.dial(ctx, proto, to, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	return talk(s, proto)
}

// request is what clients send. It stands for whatever the application says; no part of the sensor reads it.
var request = "HELLO " + strings.Repeat(".", 42)

// talk sends a request and reads the response: over TCP all of it, over UDP one datagram.
func talk(s net.Conn, proto event.Proto) error {
	if _, err := io.WriteString(s, request); err != nil {
		return err
	}
	b := make([]byte, 2048)
	if proto == event.UDP {
		_, err := s.Read(b)
		return err
	}
	_, err := io.CopyBuffer(io.Discard, s, b)
	return err
}
