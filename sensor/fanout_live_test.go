//go:build linux && cgo

package sensor

import (
	"encoding/binary"
	"testing"
	"time"

	"portolan/sensor/decode"
)

// encapsulations are ways in which a mirror hands an Ethernet frame over.
func encapsulations() map[string]func(frame []byte) []byte {
	around := func(proto byte, payload []byte) []byte { // one outer packet, the same addresses and ports always
		b := append([]byte(nil), synFrame(0)[:34]...)
		copy(b[26:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
		b[23] = proto
		binary.BigEndian.PutUint16(b[16:], uint16(20+len(payload)))
		return append(b, payload...)
	}
	return map[string]func([]byte) []byte{
		"Ethernet": func(f []byte) []byte { return f },
		"VLAN":     func(f []byte) []byte { return tagged(f, 0x8100, 12) },
		"QinQ":     func(f []byte) []byte { return tagged(f, 0x88a8, 12, 0x8100, 13) },
		"old QinQ": func(f []byte) []byte { return tagged(f, 0x9100, 12, 0x9100, 13) },
		"VXLAN with one outer port": func(f []byte) []byte {
			b := []byte{0xb5, 0xb5, 0x12, 0xb5}
			b = binary.BigEndian.AppendUint16(b, uint16(16+len(f)))
			return around(17, append(append(b, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0), f...))
		},
		"GRE":      func(f []byte) []byte { return around(47, append([]byte{0, 0, 8, 0}, f[14:]...)) },
		"IP in IP": func(f []byte) []byte { return around(4, f[14:]) },
		"ERSPAN II": func(f []byte) []byte {
			return around(47, append([]byte{0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 0, 0, 0, 0, 0}, f...))
		},
	}
}

// TestLiveFanOutByClient sends an answer and the first frames of a connection for each of many
// clients: with fan-out by client all of them come to one ring, always.
func TestLiveFanOutByClient(t *testing.T) {
	const clients = 100
	for name, wrap := range encapsulations() {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			cfg := w.config()
			cfg.Rings, cfg.Prefilter, cfg.Blocks = 4, PrefilterOff, 512 // more than there are frames
			s := w.open(cfg)
			if got := s.InForce(); got.FanOut != "client" {
				t.Fatalf("in force is %s", got)
			}
			for i := range uint32(clients) {
				syn := handshake(uint16(40000+i), false)
				answer := answerFrame()
				for _, at := range []struct {
					frame  []byte
					client int
				}{{syn[0], 26}, {syn[1], 30}, {answer, 30}} {
					binary.BigEndian.PutUint32(at.frame[at.client:], 0x0a000001+i*0x9d) // 10.0.0.1 and on
					w.send(wrap(binary.BigEndian.AppendUint32(at.frame, i)))
				}
			}
			seen := make(map[uint32]map[int]int) // client: ring: frames
			frames := 0
			until(t, "all frames", func() bool {
				frames += drain(s, func(ring int, frame []byte) {
					client := binary.BigEndian.Uint32(frame[len(frame)-4:])
					if seen[client] == nil {
						seen[client] = make(map[int]int)
					}
					seen[client][ring]++
				})
				return frames >= 3*clients-int(w.lost())
			})
			used := make(map[int]bool)
			for client, rings := range seen {
				if len(rings) != 1 {
					t.Errorf("the frames of client %d came to rings %v", client, rings)
				}
				for r := range rings {
					used[r] = true
				}
			}
			if len(seen) < clients/2 || len(used) != 4 {
				t.Errorf("%d clients on rings %v: nothing was shared out", len(seen), used)
			}
		})
	}
}

// drain calls each with all frames that the rings of a sensor that does not run hold, and
// returns how many there were.
func drain(s *Sensor, each func(ring int, frame []byte)) (frames int) {
	for i, r := range s.rings {
		for n := r.handle.ring.enter(); n > 0; n = r.handle.ring.enter() {
			for range n {
				var f decode.Frame
				r.handle.ring.next(&f)
				each(i, f.Data)
				frames++
			}
			r.handle.ring.leave()
		}
	}
	time.Sleep(time.Millisecond)
	return frames
}
