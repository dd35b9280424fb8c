package traffic

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

func parse(s string) uint32 { return binary.BigEndian.Uint32(netip.MustParseAddr(s).AsSlice()) }

// The vectors of DETECTION, section 4: seen in real traffic.
func TestGoldenVectors(t *testing.T) {
	calc := map[string]func(*campaign, uint32) uint32{}
	for _, f := range families() {
		calc[f.ID] = f.calc
	}
	for _, tt := range []struct{ id, answer, contacted string }{
		{"A1", "87.243.45.156", "45.156.87.243"},
		{"A1", "34.245.45.153", "45.153.34.245"},
		{"A1", "253.229.172.232", "172.232.253.229"},
		{"A4", "84.15.72.201", "84.255.244.213"},
		{"A4", "109.158.209.148", "109.121.223.150"},
		{"A4", "14.234.0.124", "78.90.1.126"},
		{"A4", "250.210.187.100", "186.50.166.98"},
		{"A6", "192.0.2.1", "1.2.0.192"},
		{"A3:E7708E59", "198.51.100.23", "33.67.234.78"},
	} {
		x, y := parse(tt.answer), parse(tt.contacted)
		if tt.id == "A4" {
			if got := swapBytes(nymaimRounds(swapBytes(x))); got != y {
				t.Errorf("Nymaim makes %s of %s, want %s", addr(got), tt.answer, tt.contacted)
			}
			if got := swapBytes(nymaimBack(swapBytes(y))); got != x {
				t.Errorf("Nymaim makes %s from %s, want %s", tt.contacted, addr(got), tt.answer)
			}
			continue
		}
		if got := calc[tt.id](nil, x); got != y {
			t.Errorf("%s makes %s of %s, want %s", tt.id, addr(got), tt.answer, tt.contacted)
		}
	}
	if got := calc["P1"](nil, parse("198.51.100.23")); got != 10198 {
		t.Errorf("P1 makes %d of 198.51.100.23, want 10198", got)
	}
}

func TestFamiliesAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Families() {
		if seen[f.ID] || f.ID == "" || f.Group == "" || f.Name == "" || f.Catalogue == "" {
			t.Errorf("family %+v: seen before or incomplete", f)
		}
		seen[f.ID] = true
	}
	for _, group := range []string{
		"A1", "A2", "A3", "A4", "A5", "A5 learned", "A6", "A7", "A8", "A9", "A10", "A11", "A12", "TXT", "P1", "P1~", "P12", "P12~",
		"W1", "W6", "X1", "X2~", "M1", "M3~", "C*", "V6",
	} {
		if len(selectFamilies([]string{group})) == 0 {
			t.Errorf("no family in group %s", group)
		}
	}
	if n := len(selectFamilies([]string{"A9"})); n != 21 {
		t.Errorf("%d permutations, want 21", n)
	}
	if n := len(selectFamilies([]string{"V6"})); n != 34 {
		t.Errorf("%d groups of IPv6, want 34", n)
	}
}

// told is what one contact's lookups gave.
type told struct {
	a, aaaa []netip.Addr
	txt     []string
}

// truth says, from what was told, whether going to dst was calculated by the family. It is
// written with bytes, not words, and apart from the families. For a learned constant it
// returns the constants that would explain the contact.
type truth func(was *told, dst netip.AddrPort) (yes bool, constants []uint32)

type quad = [4]byte

func eachA(calculated func(x quad, y quad, port int) bool) truth {
	return func(was *told, dst netip.AddrPort) (bool, []uint32) {
		for _, a := range was.a {
			if dst.Addr().Is4() && calculated(a.As4(), dst.Addr().As4(), int(dst.Port())) {
				return true, nil
			}
		}
		return false, nil
	}
}

func learn(constant func(x, y quad, port int) []uint32) truth {
	return func(was *told, dst netip.AddrPort) (bool, []uint32) {
		var all []uint32
		for _, a := range was.a {
			all = append(all, constant(a.As4(), dst.Addr().As4(), int(dst.Port()))...)
		}
		return len(all) > 0, all
	}
}

func be(q quad) uint32 { return uint32(q[0])<<24 + uint32(q[1])<<16 + uint32(q[2])<<8 + uint32(q[3]) }
func le(q quad) uint32 { return uint32(q[3])<<24 + uint32(q[2])<<16 + uint32(q[1])<<8 + uint32(q[0]) }

func portTruth(f func(a, b, c, d int) int) truth {
	return eachA(func(x, y quad, port int) bool {
		return x == y && f(int(x[0]), int(x[1]), int(x[2]), int(x[3]))%65536 == port
	})
}

func turned(f func(a, b, c, d int) int) func(a, b, c, d int) int {
	return func(a, b, c, d int) int {
		p := f(a, b, c, d) % 65536
		return p%256*256 + p/256
	}
}

func offsetTruth(f func(a, b, c, d int) int) truth {
	return learn(func(x, y quad, port int) []uint32 {
		if x != y {
			return nil
		}
		return []uint32{uint32((port - f(int(x[0]), int(x[1]), int(x[2]), int(x[3])) + 4*65536) % 65536)}
	})
}

func truths() map[string]truth {
	m := map[string]truth{
		"A1": eachA(func(x, y quad, _ int) bool { return y == quad{x[2], x[3], x[0], x[1]} }),
		"A6": eachA(func(x, y quad, _ int) bool { return y == quad{x[3], x[2], x[1], x[0]} }),
		"A1+P1": eachA(func(x, y quad, p int) bool {
			return y == quad{x[2], x[3], x[0], x[1]} && p == int(y[0])*int(y[1])+int(y[2])
		}),
		"A2": learn(func(x, y quad, _ int) []uint32 { return []uint32{be(x) ^ be(y)} }),
		"A5:learned": learn(func(x, y quad, _ int) []uint32 {
			k := x[0] ^ y[0]
			if x[1]^y[1] != k || x[2]^y[2] != k || x[3]^y[3] != k || slices.Contains([]byte{0xFE, 0xA5, 0xFF, 0xED, 0x30}, k) {
				return nil
			}
			return []uint32{uint32(k)}
		}),
		"A7:be": learn(func(x, y quad, _ int) []uint32 { return []uint32{be(y) - be(x)} }),
		"A7:le": learn(func(x, y quad, _ int) []uint32 { return []uint32{le(y) - le(x)} }),
		"A7:octets": learn(func(x, y quad, _ int) []uint32 {
			return []uint32{be(quad{y[0] - x[0], y[1] - x[1], y[2] - x[2], y[3] - x[3]})}
		}),
		"A8": learn(func(x, y quad, _ int) (keys []uint32) {
			for _, o := range orders() {
				keys = append(keys, be(quad{x[o[0]], x[o[1]], x[o[2]], x[o[3]]})^be(y))
			}
			return keys
		}),
		"A4": func(was *told, dst netip.AddrPort) (bool, []uint32) {
			return dst.Port() == 80 && nymaimTruth(was, dst.Addr().As4()), nil
		},
		"A12:rev": eachA(func(x, y quad, _ int) bool {
			for i := range x {
				s := strconv.FormatUint(uint64(x[i])|256, 2)[1:] // eight digits
				b := []byte(s)
				slices.Reverse(b)
				if n, _ := strconv.ParseUint(string(b), 2, 8); byte(n) != y[i] {
					return false
				}
			}
			return true
		}),
		"A11:xor": pairTruth(func(x, y, z quad) bool { return be(z) == be(x)^be(y) }),
		"A11:sum": pairTruth(func(x, y, z quad) bool { return be(z) == be(x)+be(y) }),
		"A11:halves": pairTruth(func(x, y, z quad) bool {
			return z == quad{x[0], x[1], y[2], y[3]}
		}),
	}
	for _, key := range []string{"E7708E59", "00AE0413", "AE041300", "CAFEBABE", "64DC7972", "4AB73CE1", "DEADBEEF"} {
		k, _ := hex.DecodeString(key)
		m["A3:"+key] = eachA(func(x, y quad, _ int) bool {
			return y == quad{x[0] ^ k[0], x[1] ^ k[1], x[2] ^ k[2], x[3] ^ k[3]}
		})
	}
	for _, key := range []string{"FE", "A5", "FF", "ED", "30"} {
		k, _ := strconv.ParseUint(key, 16, 8)
		o := byte(k)
		m["A5:"+key] = eachA(func(x, y quad, _ int) bool { return y == quad{x[0] ^ o, x[1] ^ o, x[2] ^ o, x[3] ^ o} })
	}
	for n := 1; n < 8; n++ {
		m["A12:rol"+strconv.Itoa(n)] = eachA(func(x, y quad, _ int) bool {
			for i := range x {
				if wide := uint16(x[i]) << n; byte(wide|wide>>8) != y[i] {
					return false
				}
			}
			return true
		})
	}
	for _, f := range Families() {
		switch f.Group {
		case "A9":
			m[f.ID] = eachA(func(x, y quad, _ int) bool {
				for i, letter := range f.ID[len("A9:"):] {
					if y[i] != x[letter-'A'] {
						return false
					}
				}
				return true
			})
		case "A10":
			m[f.ID] = embeddedTruth(f.ID)
		case "TXT":
			m[f.ID] = textTruth(f.ID)
		case "V6":
			m[f.ID] = groupTruth(f.ID[len("V6:"):])
		}
	}
	portTruths(m)
	return m
}

func portTruths(m map[string]truth) {
	word := func(a, b, c, d int) int { return a<<24 + b<<16 + c<<8 + d }
	for id, f := range map[string]func(a, b, c, d int) int{
		"P1":  func(a, b, c, _ int) int { return a*b + c },
		"P2":  func(a, b, c, _ int) int { return a * (b + c) },
		"P3":  func(a, b, c, _ int) int { return (a + b) * c },
		"P4":  func(a, b, c, _ int) int { return a*c + b },
		"P5":  func(a, b, c, _ int) int { return b*c + a },
		"P6":  func(_, b, c, d int) int { return b*c + d },
		"P7":  func(a, _, c, d int) int { return c*d + a },
		"P8":  func(_, b, c, d int) int { return c*d + b },
		"P9":  func(a, b, c, d int) int { return a*b + c + d },
		"P10": func(a, b, c, d int) int { return a*b + c*d },
		"P11": func(a, b, c, _ int) int { return a * b * c },
		"P12": func(a, b, _, _ int) int { return a * b },
		"W1":  func(a, b, _, _ int) int { return a<<8 | b },
		"W2":  func(a, b, _, _ int) int { return b<<8 | a },
		"W3":  func(_, _, c, d int) int { return c<<8 | d },
		"W4":  func(_, _, c, d int) int { return d<<8 | c },
		"W5":  func(_, b, c, _ int) int { return b<<8 | c },
		"W6":  func(_, b, c, _ int) int { return c<<8 | b },
		"X1":  func(a, b, c, d int) int { x := word(a, b, c, d); return x>>16 ^ x%65536 },
		"X2":  func(a, b, c, d int) int { x := word(a, b, c, d); return x>>16 + x%65536 },
		"M1":  func(a, b, c, d int) int { return 1024 + word(a, b, c, d)%64512 },
		"M2":  func(a, b, c, d int) int { return 1024 + word(d, c, b, a)%64512 },
		"M3":  func(a, b, c, d int) int { return word(a, b, c, d) % 65535 },
	} {
		m[id] = portTruth(f)
		m[id+"~"] = portTruth(turned(f))
	}
	m["C*:P1"] = offsetTruth(func(a, b, c, _ int) int { return a*b + c })
	m["C*:W1"] = offsetTruth(func(a, b, _, _ int) int { return a<<8 | b })
	m["C*:W3"] = offsetTruth(func(_, _, c, d int) int { return c<<8 | d })
	m["C*:a+b+c+d"] = offsetTruth(func(a, b, c, d int) int { return a + b + c + d })
	m["C*:d"] = offsetTruth(func(_, _, _, d int) int { return d })
}

// nymaimTruth wants eleven records, of which one transforms to y and one to the sum of the
// other ten's.
func nymaimTruth(was *told, y quad) bool {
	const modulus = 1 << 32
	var words []uint64
	sum, goes := uint64(0), false
	for _, a := range was.a {
		v := uint64(le(a.As4()))
		for range 16 {
			v ^= 0x87568289
			v = (v + modulus - 0x78643587) % modulus
			v ^= 0x18482642
		}
		words = append(words, v)
		sum += v
		goes = goes || v == uint64(le(y))
	}
	checked := slices.ContainsFunc(words, func(v uint64) bool { return (sum-v)%modulus == v && v != uint64(le(y)) })
	return len(words) == 11 && goes && checked
}

func pairTruth(calculated func(x, y, z quad) bool) truth {
	return func(was *told, dst netip.AddrPort) (bool, []uint32) {
		for _, x := range was.a {
			for _, y := range was.a {
				if x != y && calculated(x.As4(), y.As4(), dst.Addr().As4()) {
					return true, nil
				}
			}
		}
		return false, nil
	}
}

func embeddedTruth(id string) truth {
	digits, _, _ := strings.Cut(strings.TrimPrefix(id, "A10:aaaa["), ":")
	from, _ := strconv.Atoi(digits)
	return func(was *told, dst netip.AddrPort) (bool, []uint32) {
		for _, a := range was.aaaa {
			ip := a.As16()
			w := quad(ip[from : from+4])
			y := dst.Addr().As4()
			var ok bool
			switch how := id[strings.LastIndex(id, "]:")+2:]; how {
			case "A0":
				ok = y == w
			case "A6":
				ok = be(y) == le(w)
			case "A3:E7708E59":
				ok = be(y)^be(w) == 0xE7708E59
			case "A3:4AB73CE1":
				ok = be(y)^be(w) == 0x4AB73CE1
			case "A6+A3:DEADBEEF":
				ok = be(y)^le(w) == 0xDEADBEEF
			case "sub-xor":
				ok = be(y) == (be(w)-0x64DC7972)^0x4AB73CE1
			}
			if ok {
				return true, nil
			}
		}
		return false, nil
	}
}

func textTruth(id string) truth {
	return func(was *told, dst netip.AddrPort) (bool, []uint32) {
		for _, s := range was.txt {
			var b []byte
			switch {
			case strings.Contains(id, "plain"):
				if ap, err := netip.ParseAddrPort(s); err == nil {
					b = append(ap.Addr().AsSlice(), byte(ap.Port()>>8), byte(ap.Port()))
				} else if a, err := netip.ParseAddr(s); err == nil {
					b = a.AsSlice()
				}
			case strings.Contains(id, "hex"):
				b, _ = hex.DecodeString(s)
			default:
				b, _ = base64.StdEncoding.DecodeString(s)
			}
			if len(b) != 4 && len(b) != 6 || (len(b) == 6) != strings.HasSuffix(id, ":port") {
				continue
			}
			if _, key, xored := strings.Cut(id, ":A3:"); xored {
				k, _ := hex.DecodeString(key)
				for i := range k {
					b[i] ^= k[i]
				}
			}
			if quad(b) == dst.Addr().As4() && (len(b) == 4 || binary.BigEndian.Uint16(b[4:]) == dst.Port()) {
				return true, nil
			}
		}
		return false, nil
	}
}

func groupTruth(id string) truth {
	return func(was *told, dst netip.AddrPort) (bool, []uint32) {
		if !slices.Contains(was.aaaa, dst.Addr()) {
			return false, nil
		}
		groups := strings.Split(dst.Addr().StringExpanded(), ":")
		p := uint64(0)
		for i, g := range groups {
			n, _ := strconv.ParseUint(g, 16, 16)
			if strings.HasPrefix(id, "xor") || strings.HasPrefix(id, strconv.Itoa(i)) {
				p ^= n
			}
		}
		if strings.Contains(id, "-le") {
			p = p%256*256 + p/256
		}
		if strings.Contains(id, "-not") {
			p = 65535 - p
		}
		return uint16(p) == dst.Port(), nil
	}
}

// Every connection labelled as an implant's is what its family calculates from what the same
// contact was told, by a second arithmetic; no other connection of its client goes there; and
// for calculated destinations, the client was never told them.
func TestImplantsFollowTheirFamily(t *testing.T) {
	g := newGenerator(t, func(c *Config) {
		c.Clients, c.Duration, c.Interval = 20, time.Hour, [2]time.Duration{20 * time.Second, 2 * time.Minute}
	})
	type contact struct{ host, number int }
	type target struct {
		client netip.Addr
		dst    netip.Addr
	}
	check := truths()
	info := map[string]Family{}
	for _, f := range Families() {
		info[f.ID] = f
	}
	was := map[contact]*told{}
	constants := map[string][]uint32{}
	targets := map[target]string{}
	benign := map[target]bool{}
	given := map[target]bool{}
	contacts, hosts := map[string]map[contact]bool{}, map[string]map[int]int{}
	prefixes := map[string]map[[2]byte]bool{}
	run(t, g, func(e Event) {
		if l := e.Lookup; l != nil {
			for _, r := range l.Records {
				if r.Addr.IsValid() {
					given[target{l.Client.Addr(), r.Addr}] = true
				}
			}
			if !e.Label.Implant {
				return
			}
			k := contact{e.Host, e.Label.Contact}
			w := was[k]
			if w == nil {
				w = &told{}
				was[k] = w
			}
			for _, r := range l.Records {
				switch r.Type {
				case event.A:
					w.a = append(w.a, r.Addr)
				case event.AAAA:
					w.aaaa = append(w.aaaa, r.Addr)
				case event.TXT:
					w.txt = append(w.txt, string(r.Text))
				}
			}
			return
		}
		x := e.Connection
		if e.Label.Query {
			return
		}
		if !e.Label.Implant {
			benign[target{x.Src.Addr(), x.Dst.Addr()}] = true
			return
		}
		id := e.Label.Source
		k := contact{e.Host, e.Label.Contact}
		w := was[k]
		if w == nil {
			t.Fatalf("%s, host %d: contact %d without a lookup", id, e.Host, e.Label.Contact)
		}
		f := check[id]
		if f == nil {
			t.Fatalf("family %s: this test does not know it", id)
		}
		yes, keys := f(w, x.Dst)
		if !yes {
			t.Errorf("%s, contact %d: %s is not calculated from %+v", id, e.Label.Contact, x.Dst, *w)
		}
		if info[id].Learned {
			if constants[id] == nil {
				constants[id] = keys
			}
			constants[id] = slices.DeleteFunc(constants[id], func(k uint32) bool { return !slices.Contains(keys, k) })
		}
		if x.Dst.Addr().Is4() && !public(be(x.Dst.Addr().As4())) {
			t.Errorf("%s: %s is not public", id, x.Dst)
		}
		targets[target{x.Src.Addr(), x.Dst.Addr()}] = id
		if contacts[id] == nil {
			contacts[id], hosts[id], prefixes[id] = map[contact]bool{}, map[int]int{}, map[[2]byte]bool{}
		}
		contacts[id][k] = true
		hosts[id][e.Host]++
		for _, a := range w.a {
			q := a.As4()
			prefixes[id][[2]byte{q[0], q[1]}] = true
		}
	})
	for k, id := range targets {
		if benign[k] {
			t.Errorf("%s: an innocent connection goes to %s as well", id, k.dst)
		}
		f := info[id]
		answered := f.Group[0] != 'A' && f.Group != "TXT" // port formulas
		if given[k] != answered {
			t.Errorf("%s: destination %s was told to the client: %v, want %v", id, k.dst, given[k], answered)
		}
	}
	for _, f := range Families() {
		if len(contacts[f.ID]) < 20 || len(hosts[f.ID]) != g.cfg.Implants {
			t.Errorf("%s: %d contacts on %d hosts, want at least 20 on %d", f.ID, len(contacts[f.ID]), len(hosts[f.ID]), g.cfg.Implants)
		}
		if f.Learned && (len(constants[f.ID]) != 1 || len(prefixes[f.ID]) < 10) {
			t.Errorf("%s: constants %x in %d /16 prefixes, want one constant in many", f.ID, constants[f.ID], len(prefixes[f.ID]))
		}
	}
}
