package archive

import (
	"net/netip"
	"testing"
	"time"

	"portolan/cmd/internal/feed"
	"portolan/sensor/event"
)

// A connection without the client's port is the same as one with any, of another format and near in time.
func TestPortless(t *testing.T) {
	zeek, auditd, eve := &format{name: "zeek"}, &format{name: "auditd"}, &format{name: "eve"}
	from := func(f *format, limits feed.Limits) *source {
		return &source{format: f, report: SourceReport{Limits: limits}}
	}
	type told struct {
		format    *format
		port      uint16
		after     time.Duration
		told, not bool // told before; not handed on
	}
	for name, all := range map[string][]told{
		"a record after":            {{zeek, 40001, 0, false, false}, {auditd, 0, 50e6, true, true}},
		"a record before":           {{auditd, 0, 0, false, false}, {zeek, 40001, 50e6, true, false}, {eve, 40001, 60e6, true, true}},
		"two ports of two formats":  {{zeek, 40001, 0, false, false}, {eve, 40002, 1e6, false, false}, {auditd, 0, 2e6, true, true}},
		"too late":                  {{zeek, 40001, 0, false, false}, {auditd, 0, 300e6, false, false}},
		"two records":               {{auditd, 0, 0, false, false}, {auditd, 0, 1e6, false, false}},
		"one format, another file":  {{zeek, 40001, 0, false, false}, {&format{name: "zeek"}, 40001, 1e6, false, false}},
		"twice, and a record of it": {{zeek, 40001, 0, false, false}, {eve, 40001, 1e6, true, true}, {auditd, 0, 2e6, true, true}},
	} {
		tw := newTwins([]*source{from(zeek, 0), from(auditd, feed.NoSourcePort), from(eve, 0)}, 100*time.Millisecond)
		for i, x := range all {
			c := event.Connection{Time: event.Time(1e18).Add(x.after), Proto: event.TCP,
				Src: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), x.port), Dst: netip.MustParseAddrPort("203.0.113.10:443")}
			if got, as := tw.connection(&c, x.format, x.port != 0); got != x.told || as != x.not {
				t.Errorf("%s: connection %d is told %v, kept back %v", name, i, got, as)
			}
		}
	}
}
