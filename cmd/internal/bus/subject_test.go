package bus

import (
	"net/netip"
	"strings"
	"testing"

	"portolan/sensor/event"
)

// The vectors are those of the Community ID specification, seed 0.
func TestCommunityID(t *testing.T) {
	for _, tt := range []struct {
		proto    event.Proto
		src, dst string
		want     string
	}{
		{event.TCP, "128.232.110.120:34855", "66.35.250.204:80", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{event.TCP, "66.35.250.204:80", "128.232.110.120:34855", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{event.UDP, "192.168.1.52:54585", "8.8.8.8:53", "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{event.UDP, "8.8.8.8:53", "192.168.1.52:54585", "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{event.TCP, "[2001:470:e5bf:dead:4957:2174:e82c:4887]:63943", "[2607:f8b0:400c:c03::1a]:25",
			"1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
	} {
		got := communityID(uint8(tt.proto), netip.MustParseAddrPort(tt.src), netip.MustParseAddrPort(tt.dst))
		if got != tt.want {
			t.Errorf("communityID(%s, %s, %s) = %s, want %s", tt.proto, tt.src, tt.dst, got, tt.want)
		}
	}
}

func TestSubjects(t *testing.T) {
	client := addr("10.0.0.7")
	for _, tt := range []struct{ got, want string }{
		{Subject("alert", "dmz-1", client), "portolan.v1.hit.alert.dmz-1.0a000007"},
		{Subject("alert", "dmz-1", addr("::ffff:10.0.0.7")), "portolan.v1.hit.alert.dmz-1.0a000007"},
		{Subject("lead", "a", addr("2001:db8::7")), "portolan.v1.hit.lead.a.20010db8000000000000000000000007"},
		{Subject("lead", "a", addr("fe80::1%eth0")), "portolan.v1.hit.lead.a.fe800000000000000000000000000001"},
		{Subject("lead", "a", netip.Addr{}), "portolan.v1.hit.lead.a.0"},
		{EnrichedSubject("watch", "dmz-1", client), "portolan.v1.enriched.watch.dmz-1.0a000007"},
		{CoverSubject("dmz.example.net"), "portolan.v1.cover.dmz-example-net"},
		{StatSubject(""), "portolan.v1.stat.sensor"},
		{SensorToken("*.> \t\x00ä"), "-------"},
		{SensorToken(strings.Repeat("x", 100)), strings.Repeat("x", maxSensor)},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

func TestValidateSensor(t *testing.T) {
	for _, name := range []string{"a", "DMZ_1-b", strings.Repeat("x", maxSensor)} {
		if err := ValidateSensor(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "a.b", "*", ">", "a b", "ä", strings.Repeat("x", maxSensor+1)} {
		if ValidateSensor(name) == nil {
			t.Errorf("%q is taken for a subject token", name)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"portolan.v1.hit.>", "portolan.v1.hit.>", true},
		{"portolan.>", "portolan.v1.hit.>", true},
		{"portolan.*.hit.>", "portolan.v1.hit.>", true},
		{">", "portolan.v1.hit.>", true},
		{"portolan.v1.hit.*", "portolan.v1.hit.>", false},
		{"portolan.v1.hit.*.>", "portolan.v1.hit.>", false},
		{"portolan.v1.hit", "portolan.v1.hit.>", false},
		{"portolan.v1.cover.>", "portolan.v1.hit.>", false},
	} {
		if got := covers(tt.a, tt.b); got != tt.want {
			t.Errorf("covers(%s, %s) = %t, want %t", tt.a, tt.b, got, tt.want)
		}
	}
}
