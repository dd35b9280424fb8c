package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

// patience bounds each step of a conversation inside the lab, where nothing takes longer than some ms; it
// is long because the machine may be busy with something else.
const patience = 10 * time.Second

// servers is all that listens in the servers' namespace.
type servers struct {
	dns     []*dns.Server
	closers []io.Closer
	wg      sync.WaitGroup // one for each goroutine

	mu    sync.Mutex
	done  bool
	conns map[net.Conn]bool // accepted and still open
}

// startServers opens every socket on the calling thread, and so in its namespace, and starts
// serving. On error nothing stays open.
func startServers(p *plan) (_ *servers, err error) {
	s := &servers{conns: make(map[net.Conn]bool)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.startDNS(p.zone); err != nil {
		return nil, err
	}
	for _, port := range p.tcp {
		if err := s.startTCP(port); err != nil {
			return nil, err
		}
	}
	for _, port := range p.udp {
		if err := s.startUDP(port); err != nil {
			return nil, err
		}
	}
	for _, at := range p.silent {
		// Bound so that no ICMP error answers the datagrams; they stay in the socket's buffer.
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, c)
	}
	return s, nil
}

func listenTCP(at netip.AddrPort) (net.Listener, error) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	return plain.Listen(context.Background(), "tcp4", at.String())
}

func (s *servers) startDNS(z *zone) error {
	at := netip.AddrPortFrom(netip.MustParseAddr(dnsServer), 53)
	u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, u)
	t, err := listenTCP(at)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, t)
	for _, d := range []*dns.Server{{PacketConn: u, Handler: z}, {Listener: t, Handler: z}} {
		started := make(chan struct{})
		ended := make(chan error, 1)
		d.NotifyStartedFunc = func() { close(started) }
		s.wg.Go(func() { ended <- d.ActivateAndServe() })
		select {
		case <-started:
			s.dns = append(s.dns, d)
		case err := <-ended:
			return fmt.Errorf("serve DNS: %w", err)
		}
	}
	return nil
}

func (s *servers) startTCP(port uint16) error {
	l, err := listenTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed; a client that misses the service reports it
			}
			s.serve(c)
		}
	})
	return nil
}

// serve answers one request with one response in a goroutine of its own.
func (s *servers) serve(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		c.Close()
		return
	}
	s.conns[c] = true
	s.wg.Go(func() {
		defer func() {
			c.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, c)
		}()
		respond(c)
	})
}

// respond takes a request of one segment and sends 1 KiB. Errors are the client's to report.
func respond(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 2048)); err != nil {
		return
	}
	if _, err := c.Write(make([]byte, 1024)); err != nil {
		return
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c) // until the client has closed
}

// startUDP sends every datagram back, from the address it was sent to.
func (s *servers) startUDP(port uint16) error {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), port)))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, c)
	p := ipv4.NewPacketConn(c)
	if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return fmt.Errorf("ask for destinations on UDP port %d: %w", port, err)
	}
	s.wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, cm, from, err := p.ReadFrom(b)
			if err != nil {
				return // closed
			}
			if cm != nil {
				_, _ = p.WriteTo(b[:n], &ipv4.ControlMessage{Src: cm.Dst}, from)
			}
		}
	})
	return nil
}

// close closes every socket and waits for every goroutine.
func (s *servers) close() {
	for _, d := range s.dns {
		_ = d.Shutdown() // also waits for the answers it is writing
	}
	s.mu.Lock()
	s.done = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	for _, c := range s.closers {
		c.Close()
	}
	s.wg.Wait()
}
