package bpffilter_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"portolan/bpffilter"
)

// kernel are the three programs of one specification.
type kernel struct {
	classic *vm
	socket  *bpffilter.TestProgram
	xdp     *bpffilter.TestProgram
	now     uint64
}

func newKernel(t testing.TB, o bpffilter.Options) *kernel {
	t.Helper()
	k := &kernel{classic: machine(t, o)}
	for _, p := range []struct {
		xdp bool
		to  **bpffilter.TestProgram
	}{{false, &k.socket}, {true, &k.xdp}} {
		loaded, err := bpffilter.LoadTest(o, p.xdp)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			skip(t, "no eBPF here: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(loaded.Close)
		*p.to = loaded
	}
	return k
}

// at sets the time of both programs.
func (k *kernel) at(t testing.TB, ns uint64) {
	t.Helper()
	for _, p := range []*bpffilter.TestProgram{k.socket, k.xdp} {
		if err := p.SetTime(ns); err != nil {
			t.Fatal(err)
		}
	}
	k.now = ns
}

// run gives a frame to all three. It fails when the two in the kernel do not agree, or
// pass what the first drops, and returns what they keep.
func (k *kernel) run(t testing.TB, frame []byte) (classic, socket int) {
	t.Helper()
	classic = k.classic.run(t, frame)
	kept, err := k.socket.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := k.xdp.Run(frame)
	if err != nil {
		t.Fatal(err)
	}
	if verdict != 1 && verdict != 2 || (verdict == 2) != (kept > 0) {
		t.Errorf("the socket keeps %d bytes and XDP returns %d: % x", kept, verdict, frame)
	}
	if kept > 0 && int(kept) != classic {
		t.Errorf("the eBPF program keeps %d bytes, the classic one %d: % x", kept, classic, frame)
	}
	return classic, int(kept)
}

// TestProgramsAgree runs every frame through all three programs, and never two of a flow
// within the time for which it is remembered.
func TestProgramsAgree(t *testing.T) {
	for _, o := range []bpffilter.Options{
		{SnapLen: 65535, Flows: 1024},
		{SnapLen: 65535, Flows: 1024, DropTunnels: true, DropOutgoing: true, TunnelPorts: []uint16{4444}},
		{SnapLen: 60, Flows: 1024, RawIP: true},
	} {
		k := newKernel(t, o)
		n, frames := 0, 0
		check := func(frame []byte) {
			if len(frame) < 14 {
				return
			}
			frames++
			k.at(t, k.now+2*uint64(bpffilter.Repass))
			classic, socket := k.run(t, frame)
			if classic != socket {
				t.Errorf("%+v: the eBPF program keeps %d bytes, the classic one %d: % x", o, socket, classic, frame)
			}
		}
		generated(func(frame []byte) {
			if o.RawIP {
				frame = frame[14:]
			}
			if n++; n%3 != 0 {
				return // each takes two system calls
			}
			check(frame)
			if n%30 == 0 {
				for cut := range frame {
					check(frame[:len(frame)-cut])
				}
			}
		})
		t.Logf("%+v: %d frames", o, frames)
	}
}
