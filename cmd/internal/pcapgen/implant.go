package main

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// The arithmetic of each family, from the answer to where it connects.

func octets(addr string) [4]byte { return netip.MustParseAddr(addr).As4() }

// swapHalves turns a.b.c.d into c.d.a.b.
func swapHalves(addr string) string {
	o := octets(addr)
	return netip.AddrFrom4([4]byte{o[2], o[3], o[0], o[1]}).String()
}

// productPort is a·b+c.
func productPort(addr string) uint16 {
	o := octets(addr)
	return uint16(o[0])*uint16(o[1]) + uint16(o[2])
}

// xored is the address as a big-endian word, XOR key.
func xored(addr string, key uint32) string {
	o := octets(addr)
	binary.BigEndian.PutUint32(o[:], binary.BigEndian.Uint32(o[:])^key)
	return netip.AddrFrom4(o).String()
}

const nymaimRounds = 16

func nymaimWord(addr string) uint32 {
	o := octets(addr)
	v := binary.LittleEndian.Uint32(o[:])
	for range nymaimRounds {
		v ^= 0x87568289
		v -= 0x78643587
		v ^= 0x18482642
	}
	return v
}

func nymaim(addr string) string {
	return netip.AddrFrom4([4]byte(binary.LittleEndian.AppendUint32(nil, nymaimWord(addr)))).String()
}

// nymaimChecksum is the address that transforms to the sum of what the others transform to.
func nymaimChecksum(addrs []string) string {
	var v uint32
	for _, s := range addrs {
		v += nymaimWord(s)
	}
	for range nymaimRounds {
		v ^= 0x18482642
		v += 0x78643587
		v ^= 0x87568289
	}
	return netip.AddrFrom4([4]byte(binary.LittleEndian.AppendUint32(nil, v))).String()
}

// The scenes. Each implant is one client among the benign ones of office.

func halfSwap(s *scene) {
	office(s)
	potassium := s.host(21)
	potassium.browse(started().Add(time.Second), 2)
	t := started().Add(9 * time.Second)
	for i, answer := range []string{"87.243.45.156", "34.245.45.153"} {
		t = potassium.ask(t, "ns1.potassium.example", dns.TypeA, a(60, answer)...)
		to := addrPort(swapHalves(answer), [...]uint16{14737, 36063}[i])
		potassium.connect(t.Add(potassium.between(500*time.Microsecond, 6*time.Millisecond)), to, 64, 48)
		t = t.Add(6 * time.Second)
	}
	drifter := s.host(22)
	t = drifter.ask(started().Add(12*time.Second), "drifter.example", dns.TypeA, a(60, "253.229.172.232")...)
	drifter.connect(t.Add(2*time.Millisecond), addrPort(swapHalves("253.229.172.232"), 9034), 64, 48)
}

func halfSwapTagged(s *scene) {
	s.tags = []uint16{300, 12}
	office(s)
	c := s.host(21)
	t := c.ask(started().Add(5*time.Second), "drifter.example", dns.TypeA, a(60, "253.229.172.232")...)
	c.connect(t.Add(1100*time.Microsecond), addrPort(swapHalves("253.229.172.232"), 9034), 64, 48)

	// The same address in another customer's network is another host.
	s.tags = []uint16{301}
	s.host(21).browse(started().Add(2*time.Second), 2)
}

func mulAdd(s *scene) {
	office(s)
	c := s.host(31)
	c.browse(started().Add(time.Second), 2)
	t := started().Add(8 * time.Second)
	for _, answer := range []string{"198.51.100.23", "87.243.45.156", "34.245.45.153"} {
		t = c.ask(t, "news.ixeshe.example", dns.TypeA, a(60, answer)...)
		t = c.connect(t.Add(c.between(500*time.Microsecond, 6*time.Millisecond)), addrPort(answer, productPort(answer)), 96, 64)
		t = t.Add(7 * time.Second)
	}
}

func nymaimFamily(s *scene) {
	office(s)
	c := s.host(41)
	answers := []string{
		"84.15.72.201", "109.158.209.148", "14.234.0.124", "250.210.187.100",
		"192.0.2.17", "192.0.2.94", "198.51.100.33", "198.51.100.178", "203.0.113.5", "203.0.113.231",
	}
	answers = append(answers, nymaimChecksum(answers))
	t := c.ask(started().Add(6*time.Second), "nymaim.example", dns.TypeA, a(60, answers...)...)
	t = c.connect(t.Add(1700*time.Microsecond), addrPort(nymaim(answers[0]), 80), 180, 90)
	c.connect(t.Add(3*time.Second), addrPort(nymaim(answers[1]), 80), 180, 90)
}

func xorKnown(s *scene) {
	office(s)
	c := s.host(51)
	t := c.ask(started().Add(7*time.Second), "pool.unnamed.example", dns.TypeA, a(60, "198.51.100.23")...)
	c.connect(t.Add(3*time.Millisecond), addrPort(xored("198.51.100.23", 0xE7708E59), 8443), 64, 48)
}

func txtXOR(s *scene) {
	office(s)
	c := s.host(61)
	const c2, key = "203.0.113.66", 0xCAFEBABE
	hidden := octets(xored(c2, key))
	txt := &dns.TXT{
		Hdr: dns.RR_Header{Rrtype: dns.TypeTXT, Ttl: 60},
		Txt: []string{base64.StdEncoding.EncodeToString(hidden[:])},
	}
	t := c.ask(started().Add(7*time.Second), "aisuru.example", dns.TypeTXT, txt)
	c.connect(t.Add(4*time.Millisecond), addrPort(c2, 25565), 64, 48)
}
