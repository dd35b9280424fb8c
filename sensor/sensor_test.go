package sensor

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"portolan/sensor/decode"
)

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Device = "eth1"
	if err := good.Validate(); err != nil {
		t.Errorf("default: %v", err)
	}
	for _, tt := range []struct {
		change func(*Config)
		tells  string
	}{
		{func(c *Config) { c.Device = "" }, "Device"},
		{func(c *Config) { c.Rings = 65 }, "Rings is 65"},
		{func(c *Config) { c.BlockSize = 100_000 }, "BlockSize is 100000"},
		{func(c *Config) { c.BlockSize = 4096 }, "BlockSize is 4096"},
		{func(c *Config) { c.Blocks = 1 }, "Blocks is 1"},
		{func(c *Config) { c.Blocks = 1 << 20 }, "Blocks is 1048576"},
		{func(c *Config) { c.BlockTimeout = 1500 * time.Microsecond }, "BlockTimeout is 1.5ms"},
		{func(c *Config) { c.BlockTimeout = 0 }, "BlockTimeout is 0s"},
		{func(c *Config) { c.SnapLen = 0 }, "SnapLen is 0"},
		{func(c *Config) { c.Prefilter = "dpdk" }, `Prefilter is "dpdk"`},
		{func(c *Config) { c.PrefilterFlows = 0 }, "PrefilterFlows is 0"},
		{func(c *Config) { c.Decode.Flows = 1 }, "Flows is 1"},
	} {
		c := good
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.tells) {
			t.Errorf("error %v, want it to tell %q", err, tt.tells)
		}
	}
}

func TestInForce(t *testing.T) {
	for _, tt := range []struct {
		f    InForce
		want string
	}{
		{InForce{Prefilter: PrefilterOff}, "no kernel filter"},
		{InForce{Prefilter: PrefilterSocket, Why: "no xdp: not a mirror port", FanOut: "flow"}, "socket filter (no xdp: not a mirror port), fan-out by flow"},
		{InForce{Prefilter: PrefilterEBPF, FanOut: "client"}, "eBPF socket filter, fan-out by client"},
		{InForce{Prefilter: PrefilterXDP, Native: true}, "XDP filter in the driver"},
		{InForce{Prefilter: PrefilterXDP}, "XDP filter in front of the stack"},
	} {
		if got := tt.f.String(); got != tt.want {
			t.Errorf("%+v is %q, want %q", tt.f, got, tt.want)
		}
	}
}

func TestStatsAdd(t *testing.T) {
	var r RingStats
	f := decode.Frame{Data: make([]byte, 60), Len: 100, Time: 7}
	r.count(&f, decode.Event)
	f.Time, f.Data = 5, make([]byte, 100)
	r.count(&f, decode.NotIP)
	counters := reflect.ValueOf(&r.Counters).Elem()
	for i := range counters.NumField() {
		if f := counters.Field(i); f.Kind() == reflect.Array {
			f.Index(f.Len() - 1).SetUint(uint64(i + 1))
		} else {
			f.SetUint(uint64(i + 1))
		}
	}
	var s Stats
	s.add(&RingStats{}) // a ring without frames says nothing of time
	s.add(&r)
	s.add(&r)
	if s.Frames != 4 || s.Bytes != 400 || s.CapturedBytes != 320 || s.Truncated != 2 || s.First != 5 || s.Last != 7 {
		t.Errorf("sum %+v", s)
	}
	if s.Reasons[decode.Event] != 2 || s.Reasons[decode.NotIP] != 2 {
		t.Errorf("reasons %v", s.Reasons)
	}
	sum := reflect.ValueOf(s.Counters)
	for i := range sum.NumField() {
		f := sum.Field(i)
		if f.Kind() == reflect.Array {
			f = f.Index(f.Len() - 1)
		}
		if got, want := f.Uint(), uint64(2*(i+1)); got != want {
			t.Errorf("%s is %d, want %d", sum.Type().Field(i).Name, got, want)
		}
	}
}
