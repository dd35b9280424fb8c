package main

import (
	"cmp"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"portolan/cmd/internal/bus"
)

// capturedFrame is a record of a classic pcap file.
type capturedFrame struct {
	at    uint64 // in the file's units, of which scale make a second
	frame []byte
}

// readPcap takes apart a classic pcap file, little-endian.
func readPcap(t *testing.T, path string) (header []byte, scale uint64, frames []capturedFrame) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header, b = b[:24], b[24:]
	switch binary.LittleEndian.Uint32(header) {
	case 0xa1b2c3d4:
		scale = 1e6
	case 0xa1b23c4d:
		scale = 1e9
	default:
		t.Fatalf("%s: not a classic pcap file", path)
	}
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b[8:])
		at := uint64(binary.LittleEndian.Uint32(b))*scale + uint64(binary.LittleEndian.Uint32(b[4:]))
		frames = append(frames, capturedFrame{at, b[16 : 16+n]})
		b = b[16+n:]
	}
	return header, scale, frames
}

func writePcap(header []byte, scale uint64, frames []capturedFrame) []byte {
	slices.SortStableFunc(frames, func(a, b capturedFrame) int { return cmp.Compare(a.at, b.at) })
	b := slices.Clone(header)
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.at/scale))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.at%scale))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f.frame)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f.frame)))
		b = append(b, f.frame...)
	}
	return b
}

// opens reports whether a frame is an untagged IPv4 TCP segment with SYN alone.
func opens(f []byte) bool {
	const ethernet, ipv4, tcp, syn, ack = 14, 0x0800, 6, 2, 16
	if len(f) < ethernet+40 || binary.BigEndian.Uint16(f[12:]) != ipv4 || f[23] != tcp {
		return false
	}
	flags := f[ethernet+int(f[ethernet]&15)*4+13]
	return flags&(syn|ack) == syn
}

// What a SPAN port delivers twice, and what a client sends again because nobody answered, changes no hit:
// through the decoder and the correlator, as frames.
func TestCopiesOfFramesChangeNoHit(t *testing.T) {
	type fact struct {
		id, level, calc string
		e               float64
	}
	hits := func(path string) (all []fact) {
		for line := range strings.Lines(outputOf(t, "replay", "--json", path)) {
			m, err := bus.Decode([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			p := &m.Portolan
			all = append(all, fact{p.HitID, p.Level, p.Calc.Hypothesis, p.Calc.EValue})
		}
		slices.SortFunc(all, func(a, b fact) int { return cmp.Compare(a.id, b.id) })
		return all
	}
	for _, name := range []string{"mul-add.pcap", "half-swap.pcap", "nymaim.pcap", "benign.pcap"} {
		path := filepath.Join("..", "..", "testdata", "pcap", name)
		want := hits(path)
		if name != "benign.pcap" && len(want) == 0 {
			t.Fatalf("%s: no hit", name)
		}
		header, scale, frames := readPcap(t, path)
		syns := 0
		var copies, again []capturedFrame
		for _, f := range frames {
			copies = append(copies, f, capturedFrame{f.at + scale*40/1_000_000, f.frame}) // the egress copy, 40 µs later
			again = append(again, f)
			if opens(f.frame) {
				syns++
				again = append(again, capturedFrame{f.at + scale, f.frame}, capturedFrame{f.at + 3*scale, f.frame}) // RFC 6298
			}
		}
		if syns == 0 {
			t.Fatalf("%s: no connection to send again", name)
		}
		for what, changed := range map[string][]capturedFrame{"every frame twice": copies, "every SYN three times": again} {
			file := filepath.Join(t.TempDir(), "copies.pcap")
			if err := os.WriteFile(file, writePcap(header, scale, changed), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := hits(file); !slices.Equal(got, want) {
				t.Errorf("%s, %s: hits %v, want %v", name, what, got, want)
			}
		}
	}
}
