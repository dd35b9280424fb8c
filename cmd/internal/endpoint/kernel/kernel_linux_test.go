package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// open opens the programs, or skips the test where that cannot be done.
func open(t testing.TB, cfg Config) *Kernel {
	t.Helper()
	var err error
	if os.Geteuid() != 0 {
		err = fmt.Errorf("eBPF programs need root")
	}
	var k *Kernel
	if err == nil {
		k, err = Open(cfg)
	}
	if err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// TestConservation: what does not fit the ring is counted, each message once.
func TestConservation(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Ring, cfg.Loopback = 64<<10, true
	k := open(t, cfg)
	s, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	port := s.LocalAddr().(*net.UDPAddr).Port
	const sent = 2000 // each of 120 bytes
	for i := range sent {
		if _, err := s.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, byte(1+i/250), byte(1+i%250)), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
	lost, err := k.Lost()
	if err != nil {
		t.Fatal(err)
	}
	var ours, others, described uint64
	var m Message
	for {
		ok, err := k.Read(&m, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		switch {
		case m.Flow != nil && m.Flow.PID == uint32(os.Getpid()) && int(m.Flow.Local.Port()) == port:
			ours++
		case m.Process != nil && m.Process.PID == uint32(os.Getpid()):
			described++
		default:
			others++
		}
	}
	if ours == 0 || ours >= sent || described != 1 {
		t.Errorf("%d of %d datagrams came, and %d descriptions; the ring holds fewer, and one", ours, sent, described)
	}
	// What others on this host did meanwhile may have been lost as well.
	if ours+lost < sent || ours+lost > sent+others+sent/10 {
		t.Errorf("%d came and %d were lost of %d", ours, lost, sent)
	}
}

// TestOpenRefused: a configuration that cannot be is refused before anything is loaded.
func TestOpenRefused(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Ring = 100
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "Ring 100") {
		t.Errorf("%v, want it to name the field", err)
	}
}

// TestTypes: a member that no kernel has is named.
func TestTypes(t *testing.T) {
	ts, err := loadTypes()
	if err != nil {
		t.Skip(err)
	}
	if m := ts.of("task_struct", "none|tgid"); ts.err != nil || m.size != 4 {
		t.Errorf("%+v (%v), want 4 bytes", m, ts.err)
	}
	ts.of("sock", "__sk_common.none")
	if ts.err == nil || !strings.Contains(ts.err.Error(), "__sk_common.none") {
		t.Errorf("error %v, want one with the name", ts.err)
	}
}

// FuzzMessage: no message makes the reader fail, whatever it claims.
func FuzzMessage(f *testing.F) {
	for _, kind := range []uint32{kindFlow, kindProcess, kindResult, 9} {
		b := make([]byte, procLen+32)
		binary.NativeEndian.PutUint32(b, kind)
		if kind == kindProcess {
			binary.NativeEndian.PutUint32(b[procExeLen:], uint32(copy(b[procExe:], "sh\x00bin\x00usr\x00")))
			binary.NativeEndian.PutUint32(b[procArgsLen:], uint32(copy(b[procArgs:], "sh\x00-c\x00")))
		}
		f.Add(b)
		f.Add(b[:resultLen])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		if !m.decode(b) {
			return
		}
		switch {
		case m.Flow != nil:
			if !m.Flow.Remote.Addr().IsValid() || len(m.Flow.Payload) > len(b) {
				t.Errorf("%+v", m.Flow)
			}
		case m.Process != nil:
			if len(m.Process.Executable) > pathLen+len("…") {
				t.Errorf("a path of %d bytes", len(m.Process.Executable))
			}
		case m.Result == nil:
			t.Error("a message that is none")
		}
	})
}

func TestPath(t *testing.T) {
	b := make([]byte, procLen)
	set := func(names string) { binary.NativeEndian.PutUint32(b[procExeLen:], uint32(copy(b[procExe:], names))) }
	for _, tt := range []struct {
		names, want string
		cut         bool
	}{
		{"curl\x00bin\x00usr\x00", "/usr/bin/curl", false},
		{"init\x00", "/init", false},
		{"curl\x00bin\x00", "…/bin/curl", true},
		{"", "", false},
	} {
		set(tt.names)
		if got := path(b, procExe, procExeLen, tt.cut); got != tt.want {
			t.Errorf("path(%q) = %q, want %q", tt.names, got, tt.want)
		}
	}
}

func TestDevice(t *testing.T) {
	for _, tt := range []struct {
		kernel uint32
		want   uint64 // as makedev(3) has it
	}{
		{254 << 20, 254 << 8},
		{8<<20 | 1, 8<<8 | 1},
		{259<<20 | 300, 259<<8 | 300&0xff | 300>>8<<20},
	} {
		if got := device(tt.kernel); got != tt.want {
			t.Errorf("device(%#x) = %#x, want %#x", tt.kernel, got, tt.want)
		}
	}
}
