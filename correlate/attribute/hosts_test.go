package attribute

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"portolan/sensor/event"
)

var (
	laptop, phone = event.MAC{2, 0, 0, 0, 0, 1}, event.MAC{2, 0, 0, 0, 0, 2}
	desk          = netip.MustParseAddr("10.0.0.7")
	floor         = event.Zone{Kind: event.VLAN, ID: 12}
)

func after(d time.Duration) event.Time { return event.Time(1_700_000_000e9) + event.Time(d) }

func newHosts(t *testing.T, addresses int) *Hosts {
	t.Helper()
	h, err := NewHosts(HostsConfig{Addresses: addresses})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *HostHolder) text() string {
	s := fmt.Sprintf("%v %v", h.MAC, h.Via)
	if h.MAC == (event.MAC{}) {
		s = "?"
	}
	for _, n := range h.Names {
		s += fmt.Sprintf(" %s(%v)", n.Text, n.Via)
	}
	if h.Contested {
		s += " contested"
	}
	return s
}

func TestHosts(t *testing.T) {
	arp := func(at time.Duration, mac event.MAC) event.Naming {
		return event.Naming{Time: after(at), Zone: floor, Via: event.ARP, Addr: desk, MAC: mac}
	}
	lease := func(at time.Duration, mac event.MAC, seconds uint32) event.Naming {
		return event.Naming{Time: after(at), Zone: floor, Via: event.DHCP, Addr: desk, MAC: mac, Lease: seconds}
	}
	named := func(at time.Duration, mac event.MAC, name string) event.Naming {
		return event.Naming{Time: after(at), Zone: floor, Via: event.DHCP, MAC: mac, Name: []byte(name)}
	}
	mdns := func(at time.Duration, name string) event.Naming {
		return event.Naming{Time: after(at), Zone: floor, Via: event.MDNS, Addr: desk, Name: []byte(name)}
	}
	release := func(at time.Duration, mac event.MAC) event.Naming {
		return event.Naming{Time: after(at), Zone: floor, Via: event.DHCP, Addr: desk, MAC: mac, Ended: true}
	}
	for _, tt := range []struct {
		name string
		said []event.Naming
		at   time.Duration
		want string // empty for nothing
	}{
		{"nothing was said", nil, 0, ""},
		{"ARP", []event.Naming{arp(0, laptop)}, time.Minute, "02:00:00:00:00:01 arp"},
		{"ARP just after the connection", []event.Naming{arp(time.Minute, laptop)}, 0, "02:00:00:00:00:01 arp"},
		{"ARP long after", []event.Naming{arp(time.Hour, laptop)}, 0, ""},
		{"ARP long before", []event.Naming{arp(0, laptop)}, 5 * time.Hour, ""},
		{"a lease holds longer", []event.Naming{lease(0, laptop, 86400)}, 20 * time.Hour, "02:00:00:00:00:01 dhcp"},
		{"a lease that was given back", []event.Naming{lease(0, laptop, 86400), release(time.Hour, laptop)}, 2 * time.Hour, ""},
		{"and before that", []event.Naming{lease(0, laptop, 86400), release(time.Hour, laptop)}, 30 * time.Minute, "02:00:00:00:00:01 dhcp"},
		{"the name that a card asked with", []event.Naming{named(0, laptop, "lab-pc"), lease(time.Second, laptop, 3600)}, time.Minute,
			"02:00:00:00:00:01 dhcp lab-pc(dhcp)"},
		{"a name of the other card", []event.Naming{named(0, phone, "phone"), lease(time.Second, laptop, 3600)}, time.Minute, "02:00:00:00:00:01 dhcp"},
		{"the address went to another host", []event.Naming{lease(0, laptop, 600), mdns(0, "lab-pc.local"), lease(20*time.Minute, phone, 600)}, 21 * time.Minute,
			"02:00:00:00:00:02 dhcp"},
		{"and who had it before", []event.Naming{lease(0, laptop, 600), mdns(0, "lab-pc.local"), lease(20*time.Minute, phone, 600)}, 5 * time.Minute,
			"02:00:00:00:00:01 dhcp lab-pc.local(mdns)"},
		{"two that contest it", []event.Naming{arp(0, laptop), arp(time.Second, phone), arp(2*time.Second, laptop)}, 3 * time.Second,
			"02:00:00:00:00:02 arp contested"},
		{"names of three kinds, newest first", []event.Naming{arp(0, laptop), mdns(0, "a.local"), named(time.Second, laptop, "b"),
			{Time: after(2 * time.Second), Zone: floor, Via: event.NetBIOS, Addr: desk, Name: []byte("c")}}, time.Minute,
			"02:00:00:00:00:01 arp c(netbios) b(dhcp) a.local(mdns)"},
		{"only a name", []event.Naming{mdns(0, "lab-pc.local")}, time.Minute, "? lab-pc.local(mdns)"},
		{"a name that was taken back", []event.Naming{mdns(0, "lab-pc.local"), {Time: after(1), Zone: floor, Via: event.MDNS, Addr: desk, Name: []byte("lab-pc.local"), Ended: true}},
			time.Minute, ""},
		{"another zone", []event.Naming{{Time: after(0), Via: event.ARP, Addr: desk, MAC: laptop}}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHosts(t, 16)
			for i := range tt.said {
				h.Observe(&tt.said[i])
			}
			got := ""
			if x, ok := h.At(floor, desk, after(tt.at)); ok {
				got = x.text()
			}
			if got != tt.want {
				t.Errorf("holder %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHostsAreBounded has a stranger claim more addresses, cards and names than there is room for.
func TestHostsAreBounded(t *testing.T) {
	const room = 64
	h := newHosts(t, room)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 100 * room {
		n := event.Naming{Time: after(time.Duration(i) * time.Millisecond), Via: event.Via(r.IntN(int(event.NumVias))), Name: []byte(fmt.Sprint("n", i)),
			Addr: netip.AddrFrom4([4]byte{10, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}), MAC: event.MAC{2, byte(r.Uint32()), byte(r.Uint32())}}
		h.Observe(&n)
		for range maxHolders + 2 {
			n.MAC[5]++
			h.Observe(&n)
		}
	}
	if len(h.places) > room || len(h.called) > room {
		t.Errorf("%d addresses and %d cards are kept, %d fit", len(h.places), len(h.called), room)
	}
	for _, p := range h.places {
		if len(p.holders) > maxHolders {
			t.Errorf("%d holders of one address are kept, %d fit", len(p.holders), maxHolders)
		}
	}
	if h.Evicted() == 0 {
		t.Error("nothing counted of what made room")
	}
}
