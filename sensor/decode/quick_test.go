package decode

import (
	"bytes"
	"testing"
	"time"

	"portolan/sensor/event"
)

// checkQuick decodes frames with Decode and with DecodeAll: the same becomes of each, and the
// events and counters are the same. What is inert leaves no trace.
func checkQuick(t *testing.T, one, all *Decoder, frames []Frame) (inert int) {
	t.Helper()
	var want, got journal
	var reasons []Reason
	for i := range frames {
		f := &frames[i]
		before, events := one.Counters(), len(want)
		r := one.Decode(f, &want)
		reasons = append(reasons, r)
		if !Inert(f) {
			continue
		}
		inert++
		if r != NotOpening || one.Counters() != before || len(want) != events {
			t.Errorf("frame %d is inert, but ends in %v with %d events: % x", i, r, len(want)-events, f.Data)
		}
	}
	for i, r := range all.DecodeAll(nil, frames, &got) {
		if r != reasons[i] {
			t.Errorf("frame %d: DecodeAll says %v, Decode %v: % x", i, r, reasons[i], frames[i].Data)
		}
	}
	if one.Counters() != all.Counters() {
		t.Errorf("counters %+v of DecodeAll, %+v of Decode", all.Counters(), one.Counters())
	}
	if len(got) != len(want) {
		t.Fatalf("%d events of DecodeAll, %d of Decode", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("event %d of DecodeAll is %s, of Decode %s", i, got[i], want[i])
		}
	}
	return inert
}

// journal keeps events as text.
type journal []string

func (j *journal) Lookup(l *event.Lookup)         { *j = append(*j, string(l.AppendText(nil, 0))) }
func (j *journal) Connection(c *event.Connection) { *j = append(*j, string(c.AppendText(nil, 0))) }

// TestDecodeAll has what the short way must not take among what it may.
func TestDecodeAll(t *testing.T) {
	hop := []byte{protoTCP, 0, 0, 0, 0, 0, 0, 0}
	options := ip(client, server, protoTCP, join(make([]byte, 4), tcp(1, 2, 3, 4, ack, nil)))
	options[0] = 0x46
	var frames []Frame
	add := func(at time.Duration, b []byte) {
		for _, cut := range []int{0, 1, 9, 21} {
			f := frameOf(uint64(len(frames)+1), at, b)
			f.Data = b[:max(0, len(b)-cut)]
			frames = append(frames, *f)
		}
	}
	for i, at := range []time.Duration{0, 30 * time.Second, 89 * time.Second, 150 * time.Second, -time.Hour, 2 * time.Hour} {
		for _, v := range [][2]string{{client, server}, {server, client}, {"2001:db8::7", "2001:db8::23"}, {"2001:db8::23", "2001:db8::7"}} {
			for _, ports := range [][2]uint16{{40000, 443}, {443, 40000}, {53, 40000}, {40000, 53}, {40000, portVXLAN}, {portGTPU, 9}, {53, 53}} {
				add(at, ethernet(ip(v[0], v[1], protoUDP, udp(ports[0], ports[1], make([]byte, 30)))))
				add(at, ethernet(ip(v[0], v[1], protoUDP, udp(ports[0], ports[1], nil)), [2]uint16{0x8100, 7}))
				add(at, ethernet(ip(v[0], v[1], protoUDP, udp(ports[0], ports[1], nil)), [2]uint16{0x88a8, 0}, [2]uint16{0x8100, 8}))
				add(at, ethernet(ip(v[0], v[1], protoUDP, udp(ports[0], ports[1], nil)), [2]uint16{0x88a8, 7}, [2]uint16{0x8100, 8}, [2]uint16{0x8100, 9}))
				for flags := range byte(32) {
					add(at, ethernet(ip(v[0], v[1], protoTCP, tcp(ports[0], ports[1], uint32(i), 9, flags, []byte("x")))))
				}
			}
		}
		add(at, ethernet(options))
		add(at, ethernet(ip("2001:db8::7", "2001:db8::23", protoHopByHop, join(hop, tcp(1, 2, 3, 4, ack, nil)))))
		add(at, ethernet(ip(client, server, protoICMP, make([]byte, 40))))
	}
	// What headers say that is not true.
	segment := ethernet(ip(client, server, protoTCP, tcp(1, 2, 3, 4, ack, make([]byte, 30))))
	inner := ethernet(ip(client, server, protoTCP, tcp(1, 2, 3, 4, syn, nil)))
	vxlan := ethernet(ip(client, server, protoUDP, udp(40000, portVXLAN, join([]byte{8, 0, 0, 0, 0, 0, 5, 0}, inner))))
	for _, b := range [][]byte{frames[0].Data, segment, vxlan} {
		for at := range b {
			for _, v := range []byte{0, 1, 5, 0x20, 0x45, 0xff} {
				c := bytes.Clone(b)
				c[at] = v
				add(0, c)
			}
		}
	}
	if n := checkQuick(t, newDecoder(t, DefaultConfig()), newDecoder(t, DefaultConfig()), frames); n == 0 {
		t.Error("no frame is inert")
	}
}

func FuzzDecodeAll(f *testing.F) {
	f.Add(ethernet(ip(client, server, protoTCP, tcp(1, 2, 3, 4, ack, nil))), uint16(Ethernet))
	f.Add(ethernet(ip(client, server, protoUDP, udp(1, 2, nil)), [2]uint16{0x8100, 7}), uint16(Ethernet))
	f.Add(ethernet(ip("2001:db8::7", "2001:db8::23", protoTCP, tcp(1, 2, 3, 4, ack, nil))), uint16(Ethernet))
	f.Add(append(make([]byte, 2), ethernet(ip(client, server, protoUDP, udp(1, 2, nil)))...), uint16(SLL))
	f.Fuzz(func(t *testing.T, b []byte, link uint16) {
		var frames []Frame
		for i := range uint64(40) {
			n := len(b) - int(i%3)*len(b)/20
			frames = append(frames, Frame{Data: b[:n], Len: len(b), Link: LinkType(link), Number: i + 1, Time: event.Time(i * i * 1e9)})
		}
		small := DefaultConfig()
		small.Starts, small.Flows, small.FragmentBytes, small.StreamBytes = minEntries, minEntries, minBytes, minBytes
		checkQuick(t, newDecoder(t, small), newDecoder(t, small), frames)
	})
}
