package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/dnstap"
	"portolan/cmd/internal/feed/feedtest"
	"portolan/sensor/event"
)

const (
	serverAddr = "10.0.0.53"
	clientAddr = "10.0.0.7"
	patience   = 30 * time.Second
)

// need skips the test when what it needs is missing, and fails it then with PORTOLAN_LIVE=1.
func need(t *testing.T, programName string) string {
	t.Helper()
	give := t.Skipf
	if os.Getenv("PORTOLAN_LIVE") == "1" {
		give = t.Fatalf
	}
	path, err := exec.LookPath(programName)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + programName)
	}
	if err != nil {
		give("%v", err)
	}
	if os.Getuid() != 0 {
		give("making a network namespace needs root")
	}
	return path
}

// island puts the test's thread, and the processes that it starts, into a network namespace with nothing but
// a loopback device that has the addresses of all who take part.
func island(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	was, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	made, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(was); err != nil {
			t.Errorf("leave the namespace: %v", err)
			return // the thread ends with the test's goroutine
		}
		made.Close()
		was.Close()
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{serverAddr, clientAddr, "45.156.87.243", "45.153.34.245", "203.0.113.10"} {
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(32, 32)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}

// capture records the frames of the loopback device until stop, which returns them as a capture file, and as one without DNS.
func capture(t *testing.T) (stop func() (whole, withoutDNS []byte)) {
	t.Helper()
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: lo.Index}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}))
	if err != nil {
		t.Fatal(err)
	}
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	head = append(head, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	whole, rest := bytes.Clone(head), bytes.Clone(head)
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		frame, control := make([]byte, 1<<17), make([]byte, 512)
		for {
			n, cn, _, _, err := unix.Recvmsg(fd, frame, control, 0)
			if err != nil {
				select {
				case <-done: // nothing came for a while after the end
					return
				default:
					continue
				}
			}
			messages, err := unix.ParseSocketControlMessage(control[:cn])
			if err != nil || len(messages) == 0 || n < 38 {
				continue
			}
			record := bytes.Clone(messages[0].Data[:16]) // seconds and nanoseconds of 64 bits each
			b := binary.LittleEndian.AppendUint32(nil, uint32(binary.LittleEndian.Uint64(record)))
			b = binary.LittleEndian.AppendUint32(b, uint32(binary.LittleEndian.Uint64(record[8:])))
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
			b = append(binary.LittleEndian.AppendUint32(b, uint32(n)), frame[:n]...)
			whole = append(whole, b...)
			if src := binary.BigEndian.Uint16(frame[34:]); src != 53 {
				rest = append(rest, b...)
			}
		}
	})
	return func() ([]byte, []byte) {
		close(done)
		reading.Wait()
		unix.Close(fd)
		return whole, rest
	}
}

// start runs a server until stop or the end of the test.
func start(t *testing.T, path string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil && t.Failed() {
			t.Logf("%s: %v\n%s", path, err, &out)
		}
	})
	t.Cleanup(stop)
	ask(t, "udp", "ready.example.", dns.TypeA)
	return stop
}

// ask asks the server until it answers.
func ask(t *testing.T, network, name string, qtype uint16) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	local := net.Addr(&net.UDPAddr{IP: net.ParseIP(clientAddr)})
	if network == "tcp" {
		local = &net.TCPAddr{IP: net.ParseIP(clientAddr)}
	}
	c := &dns.Client{Net: network, Dialer: &net.Dialer{LocalAddr: local, Timeout: time.Second}, Timeout: time.Second}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, _, err := c.Exchange(q, serverAddr+":53")
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("ask for %s: %v", name, err)
		}
	}
}

// connect begins a connection that is refused.
func connect(address string) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddr)}, Timeout: time.Second}
	if c, err := d.Dial("tcp", address); err == nil {
		c.Close()
	}
}

// visit is what the client does: browsing, and an implant that swaps the halves of two answers.
func visit(t *testing.T) {
	t.Helper()
	ask(t, "udp", "www.example.", dns.TypeA)
	connect("203.0.113.10:443")
	ask(t, "udp", "six.example.", dns.TypeAAAA)
	ask(t, "udp", "nowhere.example.", dns.TypeA)
	ask(t, "udp", "c2.example.", dns.TypeA)
	connect("45.156.87.243:14737")
	ask(t, "tcp", "c3.example.", dns.TypeA)
	connect("45.153.34.245:1935")
	ask(t, "udp", "last.example.", dns.TypeA)
}

// addresses are the names that servers of these tests know.
var addresses = []struct{ name, kind, value string }{
	{"ready", "A", "192.0.2.1"}, {"last", "A", "192.0.2.2"}, {"www", "A", "203.0.113.10"}, {"six", "AAAA", "2001:db8::10"},
	{"c2", "A", "87.243.45.156"}, {"c3", "A", "34.245.45.153"},
}

// texts is a feed.Sink that writes down lookups but the first, of starting; without what coarse logs lack.
type texts struct {
	finder
	coarse  bool
	lookups []string
}

func (s *texts) Lookup(l *event.Lookup) {
	if string(l.Name) == "ready.example" || s.coarse && len(l.Records) == 0 {
		return
	}
	text := fmt.Sprintf("%s %s", l.Client, l.Name)
	if !s.coarse {
		text += fmt.Sprintf(" %s %s id=%d type=%d rcode=%d", l.Resolver, l.Proto, l.ID, l.Type, l.RCode)
	}
	for _, r := range l.Records {
		if text += fmt.Sprintf(" %s %s", r.Owner, r.Addr); !s.coarse {
			text += fmt.Sprintf(" ttl=%d", r.TTL)
		}
	}
	s.lookups = append(s.lookups, text)
}

func (s *texts) Connection(*event.Connection) {}

// lookupsOf returns the lookups of files as sorted texts.
func lookupsOf(t *testing.T, coarse bool, paths ...string) []string {
	t.Helper()
	a, err := Open(paths, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	s := &texts{coarse: coarse}
	r, err := a.Run(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Sources {
		if len(x.Refused) > 0 || x.Incomplete != "" {
			t.Errorf("%+v", x)
		}
	}
	slices.Sort(s.lookups)
	return s.lookups
}

// agree checks that records hold the lookups of the packets beside them, and give the same hits in their place, and beside them.
func agree(t *testing.T, coarse bool, records string, whole, withoutDNS []byte) {
	t.Helper()
	packets := write(t, t.TempDir(), "whole.pcap", whole)
	rest := write(t, t.TempDir(), "rest.pcap", withoutDNS)
	want, got := lookupsOf(t, coarse, packets), lookupsOf(t, coarse, records)
	if len(want) < 5 || !slices.Equal(got, want) {
		t.Errorf("lookups of records:\n%s\nof packets:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	_, found := hunt(t, packets)
	if len(found) != 2 {
		t.Errorf("the packets give %d hits, want 2", len(found))
	}
	if _, none := hunt(t, rest); len(none) != 0 {
		t.Errorf("without any lookup there are %d hits", len(none))
	}
	if _, mixed := hunt(t, rest, records); !maps.Equal(mixed, found) {
		t.Errorf("connections of packets and lookups of records give %v, packets alone %v", mixed, found)
	}
	var logs feedtest.Logs
	traffic(t, rest, &logs)
	_, conn := logs.ZeekTSV()
	if _, zeek := hunt(t, write(t, t.TempDir(), "conn.log", []byte(conn)), records); !maps.Equal(zeek, found) {
		t.Errorf("connections of Zeek and lookups of records give %v, packets alone %v", zeek, found)
	}
	r, both := hunt(t, packets, records)
	if !maps.Equal(both, found) || r.Twins == 0 {
		t.Errorf("packets and records together give %v, packets alone %v; %d told twice", both, found, r.Twins)
	}
}

// BIND writes dnstap to a file.
func TestBIND(t *testing.T) {
	named := need(t, "named")
	island(t)
	dir := t.TempDir()
	zone := "$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 60\n@ IN NS ns\nns IN A " + serverAddr + "\n"
	for _, a := range addresses {
		zone += fmt.Sprintf("%s IN %s %s\n", a.name, a.kind, a.value)
	}
	write(t, dir, "example.zone", []byte(zone))
	log := filepath.Join(dir, "named.dnstap")
	conf := write(t, dir, "named.conf", fmt.Appendf(nil, `options { directory %q; pid-file none; session-keyfile none; lock-file none;
	listen-on port 53 { %s; }; listen-on-v6 { none; }; recursion no; dnssec-validation no; empty-zones-enable no; allow-query { any; };
	dnstap { all; }; dnstap-output file %q; dnstap-identity none; dnstap-version none; };
controls { };
zone "example" { type primary; file "example.zone"; };
`, dir, serverAddr, log))
	end := capture(t)
	stop := start(t, named, "-g", "-n", "1", "-c", conf)
	visit(t)
	stop() // which writes the rest of the file
	whole, rest := end()
	agree(t, false, log, whole, rest)
}

// written is an event.BatchSink that keeps lookups as events.
type written struct {
	mu     sync.Mutex
	events event.Batch
}

func (w *written) Batch(b *event.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b.Each(&w.events)
}

func (w *written) has(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.events.Lookups() {
		if string(l.Name) == name {
			return true
		}
	}
	return false
}

// Unbound writes dnstap to a socket, live.
func TestUnbound(t *testing.T) {
	unbound := need(t, "unbound")
	island(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "dnstap.sock")
	const tolerance = 100 * time.Millisecond
	server, err := dnstap.Listen(dnstap.ServerConfig{Address: "unix:" + socket, Tolerance: tolerance, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	var got written
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Run(ctx, &got); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	defer serving.Wait()
	defer cancel()

	data := ""
	for _, a := range addresses {
		data += fmt.Sprintf("  local-data: \"%s.example. 60 IN %s %s\"\n", a.name, a.kind, a.value)
	}
	conf := write(t, dir, "unbound.conf", fmt.Appendf(nil, `server:
  directory: %q
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  interface: %s
  do-ip6: no
  access-control: 0.0.0.0/0 allow
  module-config: "iterator"
  local-zone: "example." static
%sremote-control:
  control-enable: no
dnstap:
  dnstap-enable: yes
  dnstap-bidirectional: yes
  dnstap-socket-path: %q
  dnstap-log-client-response-messages: yes
`, dir, serverAddr, data, socket))
	end := capture(t)
	stop := start(t, unbound, "-d", "-c", conf)
	visit(t)
	for limit := time.Now().Add(patience); !got.has("last.example"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("nothing came of the last lookup: %+v", server.Stats())
		}
	}
	if n := server.Stats(); n.Refused != 0 || n.Broken != 0 {
		t.Errorf("%+v", n)
	}
	stop()
	whole, rest := end()

	want := lookupsOf(t, false, write(t, dir, "whole.pcap", whole))
	s := &texts{}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, l := range got.events.Lookups() {
		s.Lookup(&l)
	}
	slices.Sort(s.lookups)
	if len(want) < 5 || !slices.Equal(s.lookups, want) {
		t.Errorf("lookups by dnstap:\n%s\nof packets:\n%s", strings.Join(s.lookups, "\n"), strings.Join(want, "\n"))
	}

	// What a live sensor does: the mirror's events as they come, and the lookups of the DNS server.
	_, found := hunt(t, filepath.Join(dir, "whole.pcap"))
	for name, packets := range map[string]string{
		"lookups that the mirror does not show": write(t, dir, "rest.pcap", rest), "both": filepath.Join(dir, "whole.pcap"),
	} {
		f := newFinder(t)
		for _, l := range got.events.Lookups() {
			f.Lookup(&l)
		}
		traffic(t, packets, f)
		if ids := f.end(); len(found) != 2 || !maps.Equal(ids, found) {
			t.Errorf("%s: found %v, packets alone give %v", name, ids, found)
		}
	}
}

// dnsmasq logs lines of text, with times in whole seconds.
func TestDnsmasq(t *testing.T) {
	path := need(t, "dnsmasq")
	island(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "dnsmasq.log")
	conf := fmt.Sprintf("no-resolv\nno-hosts\nbind-interfaces\nlisten-address=%s\nlocal=/example/\nlog-queries=extra\nlog-facility=%s\nuser=root\npid-file=\n",
		serverAddr, log)
	for _, a := range addresses {
		conf += fmt.Sprintf("host-record=%s.example,%s\n", a.name, a.value)
	}
	end := capture(t)
	stop := start(t, path, "-k", "-C", write(t, dir, "dnsmasq.conf", []byte(conf)))
	visit(t)
	stop()
	whole, rest := end()
	agree(t, true, log, whole, rest)
}

// connections is a feed.Sink that keeps the connections of the client, each as a text without its port.
type connections struct {
	finder
	all []string
}

func (s *connections) Lookup(*event.Lookup) {}

func (s *connections) Connection(c *event.Connection) {
	if c.Proto == event.TCP && c.Src.Addr().String() == clientAddr {
		s.all = append(s.all, fmt.Sprintf("%s > %s", c.Src.Addr(), c.Dst))
	}
}

// connectionsOf returns the TCP connections of a file as sorted texts.
func connectionsOf(t *testing.T, cfg Config, path string) []string {
	t.Helper()
	a, err := Open([]string{path}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &connections{}
	if _, err := a.Run(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.all)
	return s.all
}

// auditd's connects, which know neither their address nor their port, and dnsmasq's lookups give the
// hits of the packets beside them, though the times of one are in milliseconds and those of the other
// in seconds. A hit's id holds no source port: so it is the same.
func TestAuditd(t *testing.T) {
	feedtest.NeedAudit(t)
	resolver := need(t, "dnsmasq")
	island(t)
	dir := t.TempDir()
	queries := filepath.Join(dir, "dnsmasq.log")
	conf := fmt.Sprintf("no-resolv\nno-hosts\nbind-interfaces\nlisten-address=%s\nlocal=/example/\nlog-queries=extra\nlog-facility=%s\nuser=root\npid-file=\n",
		serverAddr, queries)
	for _, a := range addresses {
		conf += fmt.Sprintf("host-record=%s.example,%s\n", a.name, a.value)
	}
	etc := t.TempDir()
	audit := filepath.Join(etc, "audit.log")
	feedtest.StartAuditd(t, etc, audit, "always,exit", "-F", "arch=b64", "-S", "connect", "-F", fmt.Sprintf("pid=%d", os.Getpid()), "-k", "portolan-test")
	end := capture(t)
	stop := start(t, resolver, "-k", "-C", write(t, dir, "dnsmasq.conf", []byte(conf)))
	visit(t)
	connect("203.0.113.10:444") // the last, that is waited for
	stop()
	whole, _ := end()
	packets := write(t, dir, "whole.pcap", whole)

	cfg := DefaultConfig()
	want := connectionsOf(t, cfg, packets)
	if len(want) < 4 {
		t.Fatalf("the packets hold the connections %v", want)
	}
	cfg.Origin = feed.Origin{HostID: "host", Addr: netip.MustParseAddr(clientAddr)}
	var got []string
	feedtest.Wait(t, "auditd's log to hold the last connect", func() bool {
		if text, err := os.ReadFile(audit); err != nil || !bytes.Contains(text, []byte("saddr=020001BCCB00710A")) {
			return false
		}
		got = connectionsOf(t, cfg, audit)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("connects of auditd:\n%s\nof packets:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	_, found := hunt(t, packets)
	if len(found) != 2 {
		t.Errorf("the packets give %d hits, want 2", len(found))
	}
	for name, paths := range map[string][]string{
		"connects of auditd and lookups of dnsmasq": {audit, queries},
		"connects of auditd and lookups of packets": {audit, write(t, dir, "dns.pcap", onlyDNS(whole))},
		"all together": {audit, queries, packets},
	} {
		r, mixed := huntAs(t, cfg, paths...)
		if !maps.Equal(mixed, found) {
			t.Errorf("%s give %v, packets alone %v", name, mixed, found)
		}
		if len(paths) == 3 && r.Twins < uint64(len(want)+4) { // four answers with addresses besides
			t.Errorf("%s: %d events were told twice, and there are %d connections", name, r.Twins, len(want))
		}
	}
	if _, none := huntAs(t, cfg, audit); len(none) != 0 {
		t.Errorf("without any lookup there are %d hits", len(none))
	}
}

// onlyDNS returns a capture file, as capture makes it, with what port 53 sends and gets.
func onlyDNS(whole []byte) []byte {
	const fileHead, recordHead = 24, 16
	rest := bytes.Clone(whole[:fileHead])
	for b := whole[fileHead:]; len(b) > 0; {
		n := recordHead + int(binary.LittleEndian.Uint32(b[8:]))
		if frame := b[recordHead:n]; binary.BigEndian.Uint16(frame[34:]) == 53 || binary.BigEndian.Uint16(frame[36:]) == 53 {
			rest = append(rest, b[:n]...)
		}
		b = b[n:]
	}
	return rest
}
