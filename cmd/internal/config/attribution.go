package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// Attribution says how hits get the process behind them.
type Attribution struct {
	Expected bool // an enricher runs: hits say that the process is pending
	Join     attribute.Config
}

// mappings are what NAT does: INSIDE=OUTSIDE with commas between, each of them a prefix or an
// address, and perhaps @FROM/UNTIL as RFC 3339 has times, either of which may be left out.
type mappings []attribute.NAT

func (v *mappings) Set(s string) error {
	var out []attribute.NAT
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		n, err := parseNAT(item)
		if err != nil {
			return fmt.Errorf("%q: %w", item, err)
		}
		out = append(out, n)
	}
	*v = out
	return nil
}

func parseNAT(item string) (n attribute.NAT, err error) {
	what, when, timed := strings.Cut(item, "@")
	inside, outside, ok := strings.Cut(what, "=")
	var in, out prefixes
	if !ok || in.Set(inside) != nil || out.Set(outside) != nil || len(in) != 1 || len(out) != 1 {
		return n, fmt.Errorf("want INSIDE=OUTSIDE, such as 10.1.0.0/16=203.0.113.7")
	}
	n.Inside, n.Outside = in[0], out[0]
	if timed {
		from, until, ok := strings.Cut(when, "/")
		n.From, err = parseMoment(from)
		if err == nil {
			n.Until, err = parseMoment(until)
		}
		if err != nil || !ok {
			return n, fmt.Errorf("want @FROM/UNTIL, such as @2026-03-01T00:00:00Z/2026-04-01T00:00:00Z")
		}
		if n.From != 0 && n.Until != 0 && n.Until < n.From {
			return n, fmt.Errorf("it ends before it begins")
		}
	}
	return n, nil
}

func parseMoment(s string) (event.Time, error) {
	if s == "" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	return event.TimeOf(t), err
}

func (v *mappings) String() string {
	var items []string
	for _, n := range *v {
		s := prefixText(n.Inside) + "=" + prefixText(n.Outside)
		if n.From != 0 || n.Until != 0 {
			s += "@" + momentText(n.From) + "/" + momentText(n.Until)
		}
		items = append(items, s)
	}
	return strings.Join(items, ",")
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func momentText(t event.Time) string {
	if t == 0 {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
