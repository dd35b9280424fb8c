// Package baseline says how ordinary a port or a destination is before any hypothesis is
// tried: the denominator of every e-value (DETECTION, section 4). What it gives is a
// probability fixed before the trial is seen. This is the fixed prior, which knows nothing
// of the site; it is safe for concurrent use because nothing in it changes.
package baseline

import "math"

// PriorName is the name of the fixed prior as it stands in hits.
const PriorName = "fixed-prior"

// ordinary lists ports that well-known services use, in rising order. A connection to
// one of them says nothing about a port formula, so it is no trial of one: the chances
// that Port gives are conditional on the port being none of these.
var ordinary = [...]uint16{
	20, 21, 22, 23, 25, 37, 43, 49, 53, 67, 68, 69, 79, 80, 88, 102, 110, 111, 113, 119, 123, 135, 137, 138, 139, 143,
	161, 162, 179, 194, 389, 427, 443, 445, 464, 465, 500, 514, 515, 520, 546, 547, 548, 554, 563, 587, 593, 623, 631,
	636, 646, 660, 683, 749, 853, 860, 873, 902, 989, 990, 992, 993, 994, 995, 1080, 1194, 1352, 1433, 1434, 1494, 1521,
	1701, 1718, 1719, 1720, 1723, 1812, 1813, 1883, 1900, 1935, 2049, 2082, 2083, 2086, 2087, 2095, 2096, 2181, 2222,
	2375, 2376, 2379, 2380, 2598, 3000, 3074, 3128, 3260, 3268, 3269, 3306, 3389, 3478, 3479, 3480, 3481, 3544, 3690,
	4369, 4443, 4444, 4500, 4789, 5000, 5001, 5044, 5050, 5060, 5061, 5222, 5223, 5228, 5229, 5230, 5269, 5349, 5353,
	5355, 5432, 5601, 5671, 5672, 5683, 5684, 5900, 5938, 5984, 5985, 5986, 6379, 6443, 6514, 6660, 6661, 6662, 6663,
	6664, 6665, 6666, 6667, 6668, 6669, 6697, 6881, 7000, 7680, 8000, 8008, 8009, 8080, 8081, 8086, 8088, 8443, 8530,
	8531, 8883, 8888, 9000, 9001, 9042, 9090, 9091, 9092, 9100, 9200, 9300, 9418, 9443, 9993, 10000, 10050, 10051, 10250,
	11211, 11371, 15672, 19302, 19303, 19304, 19305, 25565, 27017, 32400, 33434, 37777, 41641, 50000, 51820, 61613, 64738,
}

// Shares of the prior over ports that are not ordinary: half spread over all of them, the
// rest where registered and self-chosen service ports, and dynamic ones, lie.
const (
	shareAll     = 0.5 / float64(65535-len(ordinary))
	shareService = 0.3 / (10000 - 1024)
	shareDynamic = 0.2 / (60999 - 32768 + 1)
)

// ordinarySet is ordinary as a bit set.
var ordinarySet = func() (set [1 << 16 / 64]uint64) {
	for _, p := range ordinary {
		set[p/64] |= 1 << (p % 64)
	}
	set[0] |= 1 // port 0 is nobody's choice
	return set
}()

// Ordinary reports whether a well-known service uses port.
func Ordinary(port uint16) bool { return ordinarySet[port/64]>>(port%64)&1 != 0 }

// Port returns the probability that a trial whose port is not ordinary has this port; 0
// for an ordinary one.
func Port(port uint16) float64 {
	if Ordinary(port) {
		return 0
	}
	q := float64(shareAll)
	if port >= 1024 && port < 10000 {
		q += shareService
	}
	if port >= 32768 && port <= 60999 {
		q += shareDynamic
	}
	return q
}

// Floor is the least probability of a destination: one in all of IPv4.
const Floor = 1.0 / (1 << 32)

// Near counts how many of the answers that a client was ever given lie how close to a
// destination.
type Near struct {
	Answers                               int
	Prefix8, Prefix12, Prefix16, Prefix24 int // of those, how many share so many leading bits with it
}

// Measure counts the answer x for the destination y.
func (n *Near) Measure(x, y uint32) {
	n.Answers++
	d := x ^ y
	if d < 1<<24 {
		n.Prefix8++
	}
	if d < 1<<20 {
		n.Prefix12++
	}
	if d < 1<<16 {
		n.Prefix16++
	}
	if d < 1<<8 {
		n.Prefix24++
	}
}

// Destination returns the probability that a destination no lookup explains is the IPv4
// address y, in host order. Own is the client's address (0 when it is not IPv4), near how
// many of its answers lie close to y: neighbours of answers are ordinary (load balancers, content
// networks and their blocks of addresses), and so are a client's own neighbours.
func Destination(y, own uint32, near *Near) float64 {
	q := Floor
	switch {
	case y>>24 == 10:
		q = max(q, .05/(1<<24))
	case y>>20 == 172<<4|1:
		q = max(q, .05/(1<<20))
	case y>>16 == 192<<8|168:
		q = max(q, .05/(1<<16))
	case y>>22 == 100<<2|1: // 100.64.0.0/10, RFC 6598
		q = max(q, .02/(1<<22))
	}
	if own != 0 {
		var n Near
		n.Measure(own, y)
		q = max(q, n.chance())
	}
	q = max(q, near.chance())
	if wellKnown(y) {
		q = max(q, 1e-3)
	}
	return q
}

// share is the share of unexplained destinations that each kind of neighbour has.
const share = .05

// Neighbour is the probability of a destination that shares so many leading bits, 0 to 32, with an
// address that draws neighbours.
func Neighbour(leading int) float64 { return math.Ldexp(share, leading-32) }

// chance is the probability of a destination as a neighbour of answers. In one with many
// answers, any of them may be the neighbour, but which services a client stays close to is
// not spread evenly: for close neighbours one is enough.
func (n *Near) chance() float64 {
	switch {
	case n.Prefix24 > 0:
		return share / (1 << 8)
	case n.Prefix16 > 0:
		return share / (1 << 16)
	case n.Answers == 0:
		return 0
	}
	return share * max(float64(n.Prefix12)/(1<<20), float64(n.Prefix8)/(1<<24)) / float64(n.Answers)
}

// wellKnown lists addresses that much software carries with it: public resolvers.
func wellKnown(y uint32) bool {
	switch y {
	case 0x08080808, 0x08080404, // Google
		0x01010101, 0x01000001, // Cloudflare
		0x09090909, 0x95707070, // Quad9
		0xD043DEDE, 0xD043DCDC, // OpenDNS
		0xDF050505, 0xDF060606, // AliDNS
		0x72727272, 0x72727373: // 114DNS
		return true
	}
	return false
}

// Reachable reports whether the IPv4 address y can be a host's: not in 0.0.0.0/8,
// 127.0.0.0/8, 169.254.0.0/16, multicast or broadcast. Class E is legitimate input, but
// no host answers there.
func Reachable(y uint32) bool {
	return y>>24 != 0 && y>>24 != 127 && y>>16 != 0xA9FE && y < 224<<24
}

// Public reports whether the IPv4 address y can be a host's on the Internet: reachable, and in none of the
// private and shared ranges (RFC 1918, RFC 6598).
func Public(y uint32) bool {
	return Reachable(y) && y>>24 != 10 && y>>20 != 172<<4|1 && y>>16 != 192<<8|168 && y>>22 != 100<<2|1
}
