package traffic

import (
	"math"
	"math/rand/v2"
	"time"

	"portolan/sensor/event"
)

// dice is a source of chance of one actor's own, so that what one actor does never changes
// what another one does.
type dice struct{ rand.PCG }

func (d *dice) u32() uint32 { return uint32(d.Uint64() >> 32) }

// n returns a number from 0 to k-1.
func (d *dice) n(k int) int { return int(uint64(d.u32()) * uint64(k) >> 32) }

// in returns a number from lo to hi, both included.
func (d *dice) in(lo, hi int) int { return lo + d.n(hi-lo+1) }

func (d *dice) float() float64 { return float64(d.Uint64()>>11) / (1 << 53) }

func (d *dice) chance(p float64) bool { return d.float() < p }

func (d *dice) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(d.float()*float64(hi-lo))
}

// exp returns a waiting time with the given mean, cut at ten times the mean.
func (d *dice) exp(mean time.Duration) time.Duration {
	return time.Duration(float64(mean) * min(10, -math.Log(1-d.float())))
}

// spread returns a time from lo to hi whose logarithm is uniform.
func (d *dice) spread(lo, hi time.Duration) time.Duration {
	return time.Duration(float64(lo) * math.Pow(float64(hi)/float64(lo), d.float()))
}

// rank returns a number from 0 to k-1 with Zipf's law: twice the rank is half as likely.
func (d *dice) rank(k int) int {
	return min(k-1, int(math.Exp2(d.float()*math.Log2(float64(k+1))))-1)
}

// mix scrambles x (the finalizer of SplitMix64): what is the same thing every time it is
// asked for, such as the port of a peer, is drawn from it instead of kept in memory.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// public reports whether the IPv4 address x is global unicast: no special-purpose block
// of RFC 6890, no multicast, no class E.
func public(x uint32) bool {
	switch a, b := x>>24, x>>16&255; {
	case a == 0, a == 10, a == 127, a >= 224:
		return false
	case a == 100:
		return b < 64 || b > 127
	case a == 169:
		return b != 254
	case a == 172:
		return b < 16 || b > 31
	case a == 192:
		return b != 168 && !(b == 0 && (x>>8&255 == 0 || x>>8&255 == 2)) && !(b == 88 && x>>8&255 == 99)
	case a == 198:
		return b != 18 && b != 19 && !(b == 51 && x>>8&255 == 100)
	case a == 203:
		return !(b == 0 && x>>8&255 == 113)
	}
	return true
}

// publicOf returns a public address drawn from h.
func publicOf(h uint64) uint32 {
	for {
		h = mix(h)
		if x := uint32(h); public(x) {
			return x
		}
	}
}

const day = event.Time(24 * time.Hour)

// waking stretches an interval at night, when people make a fifth of the day's traffic.
func waking(t event.Time, d time.Duration) time.Duration {
	if hour := t % day / event.Time(time.Hour); hour >= 22 || hour < 7 {
		return 5 * d
	}
	return d
}
