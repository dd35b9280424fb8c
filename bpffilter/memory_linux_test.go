package bpffilter_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"portolan/bpffilter"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// twins decodes a line of frames twice: all of them, and what the programs with a memory keep.
type twins struct {
	t           *testing.T
	k           *kernel
	whole, kept *decode.Decoder
	want, got   journal
	n, repeats  int
}

func newTwins(t *testing.T) *twins {
	w := &twins{t: t, k: newKernel(t, bpffilter.Options{SnapLen: 65535, Flows: 1 << 16})}
	for _, d := range []**decode.Decoder{&w.whole, &w.kept} {
		var err error
		if *d, err = decode.New(decode.DefaultConfig()); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// frame gives both a frame. One that is dropped may mean nothing to the decoder that sees all.
func (w *twins) frame(at time.Time, data []byte, length int) {
	w.t.Helper()
	w.n++
	f := decode.Frame{Time: event.TimeOf(at), Data: data, Len: length, Number: uint64(w.n), Link: decode.Ethernet}
	r := w.whole.Decode(&f, &w.want)
	w.k.at(w.t, uint64(at.UnixNano()))
	classic, keep := w.k.run(w.t, data)
	switch {
	case keep > 0:
		f.Data = data[:min(keep, len(data))]
		w.kept.Decode(&f, &w.got)
	case classic > 0 && r == decode.Flow:
		w.repeats++
	case !harmless[r]:
		w.t.Errorf("frame %d dropped, but the decoder makes it %v: % x", w.n, r, data)
	}
}

// finish compares the events: none is missing, and none is there too much but for connections over UDP
// that some silence of nearly 60 s split.
func (w *twins) finish() (extra int) {
	w.t.Helper()
	i := 0
	for _, e := range w.got {
		if i < len(w.want) && e == w.want[i] {
			i++
		} else {
			extra++
		}
	}
	if i < len(w.want) {
		w.t.Errorf("%d of %d events are there behind the filter; the first that is missing: %s", i, len(w.want), w.want[i])
	}
	return extra
}

// TestMemoryOnCaptures runs real captures in their own time.
func TestMemoryOnCaptures(t *testing.T) {
	newTwins(t) // all is skipped here, and not capture by capture, where the kernel takes no eBPF
	frames, repeats, events, extra := 0, 0, 0, 0
	for _, c := range captures(t) {
		t.Run(c.name, func(t *testing.T) {
			w := newTwins(t)
			for _, f := range c.frames {
				if len(f.data) >= 14 && len(f.data) < 3400 { // what the kernel takes in a test
					w.frame(f.at, f.data, f.length)
				}
			}
			extra += w.finish()
			frames, repeats, events = frames+w.n, repeats+w.repeats, events+len(w.want)
		})
	}
	t.Logf("%d frames, %d of them datagrams held back, %d events, %d connections told twice", frames, repeats, events, extra)
	if frames < 10_000 || repeats < 100 {
		t.Error("too little to show anything")
	}
}

// TestMemoryAtRandom sends datagrams of a few flows, both ways, in and out of VLANs, some of them
// damaged, with pauses around those that matter.
func TestMemoryAtRandom(t *testing.T) {
	w := newTwins(t)
	r := rand.New(rand.NewPCG(11, 12))
	addrs := make([]netip.Addr, 8)
	for i := range addrs {
		addrs[i] = address(r, 4+2*(i%2))
	}
	tags := [][]uint16{nil, nil, {0x8100, 12}, {0x8100, 0x200c}, {0x8100, 0}, {0x88a8, 12, 0x8100, 13}, {0x88a8, 0, 0x8100, 12}, {0x88a8, 14, 0x8100, 13}}
	pauses := []time.Duration{0, time.Millisecond, 100 * time.Millisecond, 5 * time.Second, 30 * time.Second, 61 * time.Second}
	now := time.Unix(1_700_000_000, 0)
	for range 20_000 {
		i := 2*r.IntN(4) + r.IntN(2)
		src, dst := addrs[i], addrs[(i+2)%8]
		ports := [2]uint16{40000, uint16(443 + r.IntN(2))}
		if r.IntN(2) == 0 {
			src, dst = dst, src
			ports[0], ports[1] = ports[1], ports[0]
		}
		ip := packet(src, dst, 17, udp(ports[0], ports[1], make([]byte, r.IntN(30))...))
		if r.IntN(8) == 0 {
			ip[r.IntN(10)] = byte(r.Uint32()) // version, lengths, fragment, protocol
		}
		frame := plain(tags[r.IntN(len(tags))]...)(ip)
		if r.IntN(16) == 0 {
			frame = frame[:14+r.IntN(len(frame)-13)]
		}
		pause := pauses[0]
		if r.IntN(20) == 0 {
			pause = pauses[r.IntN(len(pauses))]
		}
		now = now.Add(pause)
		w.frame(now, frame, len(frame))
	}
	extra := w.finish()
	t.Logf("%d datagrams held back, %d events, %d told twice", w.repeats, len(w.want), extra)
	if w.repeats < 1000 || len(w.want) < 100 {
		t.Error("too little to show anything")
	}
}

// changed returns a copy of a packet with one byte changed.
func changed(ip []byte, at int, b byte) []byte {
	ip = slices.Clone(ip)
	ip[at] = b
	return ip
}

// TestMemory follows flows step by step.
func TestMemory(t *testing.T) {
	const ms, second = uint64(time.Millisecond), uint64(time.Second)
	a, b := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("198.51.100.23")
	a6, b6 := netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8::23")
	to, back := packet(a, b, 17, udp(40000, 443, 1)), packet(b, a, 17, udp(443, 40000, 1))
	to6, back6 := packet(a6, b6, 17, udp(40000, 443, 1)), packet(b6, a6, 17, udp(443, 40000, 1))
	k := newKernel(t, bpffilter.Options{SnapLen: 65535, Flows: 1024})
	frames := uint64(0)
	const repeats = 10
	for _, tt := range []struct {
		name  string
		at    uint64
		frame []byte
		pass  bool
	}{
		{"first datagram", 100 * second, plain()(to), true},
		{"second", 100*second + ms, plain()(to), false},
		{"one the other way", 100*second + ms, plain()(back), false},
		{"another port", 100*second + ms, plain()(packet(a, b, 17, udp(40001, 443, 1))), true},
		{"ports the other way round", 100*second + ms, plain()(packet(a, b, 17, udp(443, 40000, 1))), true},
		{"another protocol", 100*second + ms, plain()(packet(a, b, 6, tcp(40000, 443, syn))), true},
		{"in a VLAN", 100*second + ms, plain(0x8100, 12)(to), true},
		{"in that VLAN again, with another priority", 100*second + ms, plain(0x8100, 0xe00c)(to), false},
		{"in another one", 100*second + ms, plain(0x8100, 13)(back), true},
		{"within that another", 100*second + ms, plain(0x8100, 13, 0x8100, 12)(back), true},
		{"with options", 100*second + ms, plain()(ipv4(17, 7, 0, udp(40000, 443, 1))), false},
		{"a fragment", 100*second + ms, plain()(ipv4(17, 5, 0x2000, udp(40000, 443, 1))), true},
		{"as long as it is held back", 105 * second, plain()(back), false},
		{"a little longer", 105*second + 2*ms, plain()(back), true},
		{"and again", 105*second + 3*ms, plain()(to), false},
		{"the clock went back", 100 * second, plain()(to), true},
		{"IPv6", 200 * second, plain()(to6), true},
		{"IPv6 again", 200*second + ms, plain()(to6), false},
		{"IPv6 the other way", 200*second + ms, plain()(back6), false},
		{"IPv6 in a VLAN", 200*second + ms, plain(0x88a8, 12, 0x8100, 13)(back6), true},
		{"one from a host to itself", 200 * second, plain()(packet(a, a, 17, udp(40000, 443, 1))), true},
		{"and back", 200 * second, plain()(packet(a, a, 17, udp(443, 40000, 1))), false},
		// What is no datagram to the decoder is none of a flow.
		{"IPv4 length too short", 300 * second, plain()(changed(to, 3, 27)), false},
		{"IPv4 header too short", 300 * second, plain()(changed(to, 0, 0x44)), false},
		{"of another version", 300 * second, join(v4, changed(to, 0, 0x65)), false},
		{"cut short", 300 * second, plain()(to[:27]), false},
		{"and then the datagram", 300 * second, plain()(to), true},
		{"IPv6 length too short", 300 * second, plain()(changed(to6, 5, 7)), false},
		{"and then the datagram", 300 * second, plain()(to6), true},
		{"an unfinished length", 300 * second, plain()(changed(to, 3, 0)), false},
		{"a response", 200 * second, plain()(packet(b, a, 17, udp(53, 40000, dns(true)...))), true},
		{"another response", 200 * second, plain()(packet(b, a, 17, udp(53, 40000, dns(true)...))), true},
		{"a tunnel", 200 * second, plain()(packet(b, a, 17, udp(50000, 4789, dns(true)...))), true},
		{"the tunnel again", 200 * second, plain()(packet(b, a, 17, udp(50000, 4789, dns(true)...))), true},
	} {
		k.at(t, tt.at)
		if _, kept := k.run(t, tt.frame); (kept > 0) != tt.pass {
			t.Errorf("%s: passes %v, want %v", tt.name, kept > 0, tt.pass)
		}
		frames++
	}
	for name, p := range map[string]*bpffilter.TestProgram{"socket": k.socket, "XDP": k.xdp} {
		n, err := p.Counts()
		if err != nil {
			t.Fatal(err)
		}
		counted := frames
		if name == "socket" {
			counted-- // the one too short to tell
		}
		if passed, dropped := n.Passed(), n.Dropped(); passed.Frames+dropped.Frames != counted || dropped.Frames != n[bpffilter.Repeat].Frames+n[bpffilter.NotIP].Frames {
			t.Errorf("%s: %d frames passed and %d were dropped, want %d in all: %+v", name, passed.Frames, dropped.Frames, counted, n)
		}
		if n[bpffilter.Repeat].Frames != repeats || n[bpffilter.DNS].Frames != 2 || n[bpffilter.Tunnel].Frames != 2 || n[bpffilter.Fragment].Frames != 1 || n[bpffilter.Start].Frames != 1 {
			t.Errorf("%s: counts %+v", name, n)
		}
	}
}

// TestMemoryEvicts sends more flows than are remembered: those that made room pass again.
func TestMemoryEvicts(t *testing.T) {
	k := newKernel(t, bpffilter.Options{SnapLen: 65535, Flows: 256})
	r := rand.New(rand.NewPCG(13, 14))
	k.at(t, uint64(time.Hour))
	first := plain()(packet(address(r, 4), address(r, 4), 17, udp(1, 2)))
	for i := range 20_000 {
		if i%10_000 == 0 {
			if _, kept := k.run(t, first); kept == 0 {
				t.Error("a flow that was forgotten does not pass")
			}
		}
		frame := plain()(packet(address(r, 4), address(r, 4), 17, udp(1, 2)))
		if _, kept := k.run(t, frame); kept == 0 {
			t.Fatalf("the first datagram of a flow is dropped: % x", frame)
		}
	}
}

// FuzzProgramsAgree runs any frame through all programs, twice within the memory's time.
func FuzzProgramsAgree(f *testing.F) {
	for _, w := range wrappings() {
		f.Add(w.wrap(packet(tunnelFrom, tunnelTo, 6, opening)))
		f.Add(w.wrap(packet(tunnelFrom, tunnelTo, 17, udp(40000, 443, 1))))
	}
	k := newKernel(f, bpffilter.Options{SnapLen: 65535, Flows: 1024})
	d := newDecoder(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 14 || len(frame) > 3000 {
			return
		}
		k.at(t, k.now+2*uint64(bpffilter.Repass))
		classic, kept := k.run(t, frame)
		if classic != kept {
			t.Errorf("the eBPF program keeps %d bytes, the classic one %d: % x", kept, classic, frame)
		}
		if _, again := k.run(t, frame); again != kept {
			// Held back: then it was one of a flow to the decoder, too.
			x := decode.Frame{Data: frame, Len: len(frame), Number: 1, Link: decode.Ethernet, Time: event.Time(k.now)}
			d.Decode(&x, sink{})
			if got := d.Decode(&x, sink{}); got != decode.Flow {
				t.Errorf("held back, but the decoder makes it %v: % x", got, frame)
			}
		}
	})
}
