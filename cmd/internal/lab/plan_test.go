package lab

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portolan/sensor/event"
)

func planOf(seed uint64) *plan {
	cfg := DefaultConfig()
	cfg.Seed = seed
	return newPlan(cfg)
}

func TestValidateNamesFieldAndValue(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the default configuration: %v", err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*Config)
		want  string
	}{
		{"too short", func(c *Config) { c.Duration = time.Millisecond }, "Duration 1ms"},
		{"too long", func(c *Config) { c.Duration = 2 * time.Hour }, "Duration 2h0m0s"},
		{"too few clients", func(c *Config) { c.Clients = 5 }, "Clients 5"},
		{"more clients than addresses", func(c *Config) { c.Clients = 65 }, "Clients 65"},
		{"no second answer", func(c *Config) { c.Contacts = 1 }, "Contacts 1"},
		{"too many contacts", func(c *Config) { c.Contacts = 65 }, "Contacts 65"},
	} {
		c := DefaultConfig()
		tt.spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that starts with %q", tt.name, err, tt.want)
		}
	}
}

func TestOneSeedOnePlan(t *testing.T) {
	a, b, other := planOf(7), planOf(7), planOf(8)
	if !reflect.DeepEqual(a.zone.sets, b.zone.sets) || !slices.Equal(a.tcp, b.tcp) || !slices.Equal(a.udp, b.udp) {
		t.Error("seed 7 gave two plans")
	}
	if reflect.DeepEqual(a.zone.sets, other.zone.sets) {
		t.Error("seeds 7 and 8 gave the same names and answers")
	}
}

// everyA returns each A record of a zone, and how many owners it has.
func everyA(z *zone) map[netip.Addr]int {
	all := make(map[netip.Addr]int)
	for _, turn := range z.sets {
		for _, set := range turn.sets {
			for _, a := range onlyA(set) {
				all[a]++
			}
		}
	}
	return all
}

// Whichever record an implant takes, its contact is what the lab promises: else the caller would
// count a hit that nobody could have made as missed.
func TestContactsAreWhatTheirFamilySays(t *testing.T) {
	for seed := range uint64(100) {
		p := planOf(seed)
		answers := everyA(p.zone)
		for _, i := range p.implants {
			rng := rand.New(rand.NewPCG(seed, 1))
			seen := make(map[netip.Addr]bool)
			for n := range i.contacts {
				typ := dns.TypeA
				if i.text {
					typ = dns.TypeTXT
				}
				rrs, rcode := p.zone.answer(dns.Fqdn(i.name), typ)
				if rcode != dns.RcodeSuccess {
					t.Fatalf("seed %d: %s: %s", seed, i.name, dns.RcodeToString[rcode])
				}
				for range 3 * len(rrs) { // the implant draws which record it takes
					k := Contact{Proto: event.TCP}
					if err := i.calculate(&k, rrs, n, rng); err != nil {
						t.Fatalf("seed %d: %s: %v", seed, i.family.name, err)
					}
					checkContact(t, p, i, k, answers)
					seen[k.Destination.Addr()] = true
				}
			}
			if len(seen) < i.contacts {
				t.Errorf("seed %d: %s: %d contacts reach %d addresses", seed, i.family.name, i.contacts, len(seen))
			}
		}
		if t.Failed() {
			return
		}
	}
}

func checkContact(t *testing.T, p *plan, i *implant, k Contact, answers map[netip.Addr]int) {
	t.Helper()
	to := k.Destination
	if !public(to.Addr()) {
		t.Errorf("%s: %s is not public", i.family.name, to)
	}
	if i.hypothesis == "P1" {
		if to.Addr() != k.Answer || to.Port() < 1024 {
			t.Errorf("mul-add: answer %s leads to %s, want the answer itself and a port that stands out", k.Answer, to)
		}
	} else if answers[to.Addr()] > 0 {
		t.Errorf("%s: %s is an answer", i.family.name, to)
	}
	if k.Proto == event.UDP {
		if !slices.Contains(p.silent, to) {
			t.Errorf("%s: nobody takes datagrams at %s", i.family.name, to)
		}
	} else if !slices.Contains(p.tcp, to.Port()) {
		t.Errorf("%s: nobody listens on TCP port %d", i.family.name, to.Port())
	}
}

func TestInnocentUnusualPortsAreNotCalculated(t *testing.T) {
	p := planOf(1)
	for name, port := range map[string]uint16{
		"api.build.example": apiPort, "gateway.branch.example": adminPort, "xmpp.chat.example": chatPort,
		"eu-1.play.example": playPort, "tracker.swarm.example": trackerPort, "time.example": 123,
	} {
		rrs, _ := p.zone.answer(dns.Fqdn(name), dns.TypeA)
		if len(rrs) == 0 {
			t.Errorf("%s has no address", name)
		}
		for _, a := range onlyA(rrs) {
			if calculated(a, port) {
				t.Errorf("%s: a formula gives port %d from %s", name, port, a)
			}
		}
	}
}

func TestEveryRoleIsPlayed(t *testing.T) {
	roles := make(map[string]bool)
	addrs := make(map[netip.Addr]bool)
	for _, h := range planOf(1).hosts {
		roles[h.Role] = true
		addrs[h.Addr] = true
	}
	want := []string{"administrator", "browser", "chat", "developer", "half-swap", "monitor", "mul-add", "nymaim",
		"peer", "player", "reverse", "timekeeper", "txt-xor", "xor-known"}
	if got := slices.Sorted(maps.Keys(roles)); !slices.Equal(got, want) {
		t.Errorf("roles = %v, want %v", got, want)
	}
	if len(addrs) != len(want) {
		t.Errorf("%d addresses for %d hosts", len(addrs), len(want))
	}
}

func TestZoneTakesTurnsAndFollowsAliases(t *testing.T) {
	p := &planner{zone: newZone()}
	one, two := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	p.addA("cdn.example", 60, []netip.Addr{one})
	p.addA("cdn.example", 60, []netip.Addr{two})
	p.zone.add([]dns.RR{&dns.CNAME{Hdr: header("www.example", dns.TypeCNAME, 60), Target: "cdn.example."}})
	p.zone.add([]dns.RR{&dns.CNAME{Hdr: header("loop.example", dns.TypeCNAME, 60), Target: "loop.example."}})

	for n, want := range []netip.Addr{one, two, one} {
		rrs, rcode := p.zone.answer("CDN.example.", dns.TypeA)
		if got := onlyA(rrs); rcode != dns.RcodeSuccess || len(got) != 1 || got[0] != want {
			t.Errorf("lookup %d: %v, %s, want %s", n, got, dns.RcodeToString[rcode], want)
		}
	}
	rrs, _ := p.zone.answer("www.example.", dns.TypeA)
	if len(rrs) != 2 || rrs[0].Header().Rrtype != dns.TypeCNAME || rrs[1].Header().Name != "cdn.example." {
		t.Errorf("alias: %v, want a CNAME and its target's address", rrs)
	}
	if rrs, rcode := p.zone.answer("loop.example.", dns.TypeA); len(rrs) != maxChain || rcode != dns.RcodeSuccess {
		t.Errorf("loop: %d records, want it followed %d times", len(rrs), maxChain)
	}
	if rrs, rcode := p.zone.answer("cdn.example.", dns.TypeAAAA); len(rrs) != 0 || rcode != dns.RcodeSuccess {
		t.Errorf("no such type: %v, %s, want nothing and NOERROR", rrs, dns.RcodeToString[rcode])
	}
	if rrs, rcode := p.zone.answer("other.example.", dns.TypeA); len(rrs) != 0 || rcode != dns.RcodeNameError {
		t.Errorf("no such name: %v, %s, want nothing and NXDOMAIN", rrs, dns.RcodeToString[rcode])
	}
}

// recorder is a dns.ResponseWriter over udp or tcp that keeps the message.
type recorder struct {
	dns.ResponseWriter // nil: the rest is not called
	remote             net.Addr
	msg                *dns.Msg
}

func (r *recorder) RemoteAddr() net.Addr      { return r.remote }
func (r *recorder) WriteMsg(m *dns.Msg) error { r.msg = m; return nil }

func TestLargeAnswersNeedTCP(t *testing.T) {
	z := planOf(1).zone
	for _, tt := range []struct {
		name      string
		remote    net.Addr
		edns      bool
		truncated bool
	}{
		{"UDP", &net.UDPAddr{}, false, true},
		{"UDP with EDNS", &net.UDPAddr{}, true, false},
		{"TCP", &net.TCPAddr{}, false, false},
	} {
		q := new(dns.Msg)
		q.SetQuestion("pool.build.example.", dns.TypeA)
		if tt.edns {
			q.SetEdns0(ednsSize, false)
		}
		w := &recorder{remote: tt.remote}
		z.ServeDNS(w, q)
		if w.msg.Truncated != tt.truncated {
			t.Errorf("%s: TC = %v, want %v", tt.name, w.msg.Truncated, tt.truncated)
		}
		if whole := len(w.msg.Answer) == poolSize; whole == tt.truncated {
			t.Errorf("%s: %d of %d records with TC = %v", tt.name, len(w.msg.Answer), poolSize, tt.truncated)
		}
		if b, err := w.msg.Pack(); err != nil || tt.remote.Network() == "udp" && !tt.edns && len(b) > dns.MinMsgSize {
			t.Errorf("%s: response of %d bytes, error %v", tt.name, len(b), err)
		}
	}
}
