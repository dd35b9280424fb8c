package endpoint

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portolan/correlate/attribute"
)

func TestContainerID(t *testing.T) {
	id := strings.Repeat("0a1b2c3d", 8)
	for _, tt := range []struct{ about, path, want string }{
		{"Docker with systemd", "/system.slice/docker-" + id + ".scope", id},
		{"Docker with cgroupfs", "/docker/" + id, id},
		{"containerd in Kubernetes", "/kubepods.slice/kubepods-pod0.slice/cri-containerd-" + id + ".scope", id},
		{"containerd without systemd", "/kubepods/pod0/k8s.io:cri-containerd:" + id, id},
		{"Podman, and what it runs within", "/machine.slice/libpod-" + id + ".scope/container/app", id},
		{"a container in a container: the inner one", "/docker/" + strings.Repeat("f", 64) + "/docker/" + id, id},
		{"a service", "/system.slice/cron.service", ""},
		{"the root", "/", ""},
		{"one digit more", "/docker/" + id + "0", ""},
		{"capitals", "/docker/" + strings.ToUpper(id), ""},
		{"none", "", ""},
	} {
		if got := containerID(tt.path); got != tt.want {
			t.Errorf("%s: containerID(%q) = %q, want %q", tt.about, tt.path, got, tt.want)
		}
	}
}

// FuzzQuestion: what is read as a question is one for miekg/dns as well, with the same name.
func FuzzQuestion(f *testing.F) {
	for _, name := range []string{"www.example.com.", ".", `a\.b.\000\255.Example.`, strings.Repeat("a.", 127)} {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := question(b)
		if !ok {
			return
		}
		// What follows the question is of no interest: cut it off, and say so in the header.
		b = slices.Clone(b)
		at := 12
		for b[at] != 0 {
			at += 1 + int(b[at])
		}
		b = append(b[:6:6], append(make([]byte, 6), b[12:at+5]...)...)
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatalf("%q is taken from what is no message: %v", got, err)
		}
		if len(m.Question) != 1 || m.Response {
			t.Fatalf("%q is taken from %v", got, &m)
		}
		want := strings.ToLower(m.Question[0].Name)
		if want != "." {
			want = strings.TrimSuffix(want, ".")
		}
		if unescape(got) != unescape(want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

// unescape takes out backslashes: which plain characters get one is a matter of taste.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b.WriteByte(s[i])
		case i+3 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
		default:
			i++
			b.WriteByte(s[i])
		}
	}
	return strings.ToLower(b.String())
}

func TestAddressFiles(t *testing.T) {
	const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.9.0.0/24 2 0 2
        |-- 10.9.0.0
           /24 link UNICAST
        |-- 10.9.0.1
           /32 host LOCAL
        |-- 10.9.0.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
        |-- 10.9.0.1
           /32 host LOCAL
`
	const inet6 = `00000000000000000000000000000001 01 80 10 80       lo
20010db8000900000000000000000001 02 40 00 80     near
fe8000000000000000c000effed3777b 02 40 20 80     near
no address
`
	got := parseIfInet6(parseFibTrie(nil, []byte(trie)), []byte(inet6))
	want := []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("2001:db8:9::1"), netip.MustParseAddr("fe80::c0:ef:fed3:777b")}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestClock: small differences between the readings of two clocks move nothing.
func TestClock(t *testing.T) {
	var c clock
	if err := c.adjust(time.Now()); err != nil {
		t.Fatal(err)
	}
	boot := c.boot
	if off := time.Since(boot.UTC()); off < 0 {
		t.Errorf("the kernel started %v from now", -off)
	}
	c.boot += 1000
	if err := c.adjust(time.Now().Add(clockEvery)); err != nil || c.boot != boot+1000 {
		t.Errorf("a difference of 1 µs moved the clock by %v (%v)", c.boot.Sub(boot), err)
	}
	c.boot += 1e9
	if err := c.adjust(time.Now().Add(3 * clockEvery)); err != nil || c.boot.Sub(boot) > clockOff {
		t.Errorf("a clock that was set by 1 s is off by %v (%v)", c.boot.Sub(boot), err)
	}
}

// TestUntaken: records that nobody could take are counted as lost, and the host says so.
func TestUntaken(t *testing.T) {
	var lost []uint64
	a, err := New(testConfig(), func(r *attribute.Record) error {
		if r.Kind == attribute.Host {
			lost = append(lost, r.About.Lost)
			return nil
		}
		return errors.New("no room")
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.NewReader(auditLines(1, 1001) + auditLines(2, 1002))
	if err := a.RunLines(t.Context(), lines, func() {}); err != nil {
		t.Fatal(err)
	}
	a.giveHost(time.Now(), sourceLines)
	if s := a.Stats(); s.Lost != 2 || s.Records != 4 || !slices.Equal(lost, []uint64{0, 2}) {
		t.Errorf("%+v, and Host records say %d, want 2 lost in the second", s, lost)
	}
}
