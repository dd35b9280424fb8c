package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"portolan/sensor"
)

// value is a field of Config as text. Set leaves the field alone when it returns an error.
type value interface {
	Set(text string) error
	String() string
}

type word string

func (v *word) Set(s string) error { *v = word(strings.TrimSpace(s)); return nil }
func (v *word) String() string     { return string(*v) }

type list []string

func (v *list) Set(s string) error {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	*v = items
	return nil
}

func (v *list) String() string { return strings.Join(*v, ",") }

type numbers []int

func (v *numbers) Set(s string) error {
	var all []int
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		n, err := strconv.Atoi(item)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a list of numbers, such as 2,3", s)
		}
		all = append(all, n)
	}
	*v = all
	return nil
}

func (v *numbers) String() string {
	items := make([]string, len(*v))
	for i, n := range *v {
		items[i] = strconv.Itoa(n)
	}
	return strings.Join(items, ",")
}

// prefilter is one of sensor.Prefilters.
type prefilter sensor.Prefilter

func (v *prefilter) Set(s string) error {
	if !slices.Contains(sensor.Prefilters(), sensor.Prefilter(s)) {
		return fmt.Errorf("%q is not one of %q", s, sensor.Prefilters())
	}
	*v = prefilter(s)
	return nil
}

func (v *prefilter) String() string { return string(*v) }

// choice is one of a few words.
type choice struct {
	to  *string
	all []string
}

func (v *choice) Set(s string) error {
	if !slices.Contains(v.all, s) {
		return fmt.Errorf("%q is not one of %q", s, v.all)
	}
	*v.to = s
	return nil
}

func (v *choice) String() string { return *v.to }

type logLevel slog.Level

func (v *logLevel) Set(s string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil || strings.ContainsAny(s, "+-") {
		return fmt.Errorf("%q is not one of debug, info, warn and error", s)
	}
	*v = logLevel(l)
	return nil
}

func (v *logLevel) String() string { return strings.ToLower(slog.Level(*v).String()) }

type boolean bool

func (v *boolean) Set(s string) error {
	switch s {
	case "true":
		*v = true
	case "false":
		*v = false
	default:
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
}

func (v *boolean) String() string { return strconv.FormatBool(bool(*v)) }

// count is a whole number within bounds, both included.
type count struct {
	to       *int
	min, max int
}

func (v *count) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < v.min || n > v.max {
		return fmt.Errorf("%q is not a number from %d to %d", s, v.min, v.max)
	}
	*v.to = n
	return nil
}

func (v *count) String() string { return strconv.Itoa(*v.to) }

// duration is a time with its unit, within bounds in nanoseconds, both included.
type duration struct {
	to       *time.Duration
	min, max time.Duration
}

func (v *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a time with a unit, such as 500ms, 2s or 20m", s)
	}
	if d < v.min || d > v.max {
		return fmt.Errorf("%q is not from %s to %s", s, Duration(v.min), Duration(v.max))
	}
	*v.to = d
	return nil
}

func (v *duration) String() string { return Duration(*v.to) }

// Duration returns d as people write it: "20m", not "20m0s".
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

type number struct {
	to  *float64
	min float64
}

func (v *number) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f < v.min {
		return fmt.Errorf("%q is not a number from %g up", s, v.min)
	}
	*v.to = f
	return nil
}

func (v *number) String() string {
	if *v.to < 1e15 {
		return strconv.FormatFloat(*v.to, 'f', -1, 64)
	}
	return strconv.FormatFloat(*v.to, 'g', -1, 64)
}

// size is a number of bytes, within bounds, both included.
type size struct {
	to       *int64
	min, max int64
}

// sizeUnit is a suffix and the power of two or ten it stands for.
type sizeUnit struct {
	suffix string
	bytes  int64
}

func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1},
	}
}

func (v *size) Set(s string) error {
	for _, u := range sizeUnits() {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			break
		}
		if n *= u.bytes; n < v.min || n > v.max {
			return fmt.Errorf("%q is not from %s to %s", s, Size(v.min), Size(v.max))
		}
		*v.to = n
		return nil
	}
	return fmt.Errorf("%q is not a size in bytes, such as 256MiB", s)
}

func (v *size) String() string { return Size(*v.to) }

// Size returns a number of bytes with the largest binary unit that leaves it whole.
func Size(n int64) string {
	for _, u := range sizeUnits()[:4] {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

type portRange [2]uint16

func (v *portRange) Set(s string) error {
	from, to, ok := strings.Cut(s, "-")
	low, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	high, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if !ok || errors.Join(err1, err2) != nil || low > high {
		return fmt.Errorf("%q is not a range of ports, such as 32768-60999", s)
	}
	*v = portRange{uint16(low), uint16(high)}
	return nil
}

func (v *portRange) String() string { return fmt.Sprintf("%d-%d", v[0], v[1]) }

// ports are those of one kind of tunnel: at most 16, and never DNS's.
type ports []uint16

func (v *ports) Set(s string) error {
	var out []uint16
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		n, err := strconv.ParseUint(item, 10, 16)
		if err != nil || n == 0 || n == 53 {
			return fmt.Errorf("%q is not a port from 1 to 65535 other than 53", item)
		}
		out = append(out, uint16(n))
	}
	if len(out) > 16 {
		return fmt.Errorf("%d ports are more than 16", len(out))
	}
	*v = out
	return nil
}

func (v *ports) String() string {
	out := make([]string, len(*v))
	for i, p := range *v {
		out[i] = strconv.Itoa(int(p))
	}
	return strings.Join(out, ",")
}

type prefixes []netip.Prefix

func (v *prefixes) Set(s string) error {
	var out []netip.Prefix
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		if a, err := netip.ParseAddr(item); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(item)
		if err != nil {
			return fmt.Errorf("%q is not an address or a prefix, such as 192.0.2.0/24", item)
		}
		if p != p.Masked() {
			return fmt.Errorf("%q has bits beyond its length; did you mean %s?", item, p.Masked())
		}
		out = append(out, p)
	}
	*v = out
	return nil
}

func (v *prefixes) String() string {
	out := make([]string, len(*v))
	for i, p := range *v {
		out[i] = p.String()
	}
	return strings.Join(out, ",")
}
