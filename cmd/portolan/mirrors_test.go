package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Where things stand in an untagged frame of IPv4 without options, as benign.pcap has them.
const (
	atDst, atSrc, atType = 0, 6, 12
	atLength             = 16
	atProto              = 23
	atFrom, atTo         = 26, 30
	atSport, atDport     = 34, 36
	atDNSFlags           = 44
	atTCPFlags           = 47
)

// mirrored is a frame on its way through a mirror that is not what it should be.
type mirrored struct {
	capturedFrame
	length int // on the wire; more than there are bytes when it was cut
}

func (f *mirrored) port(at int) uint16 { return binary.BigEndian.Uint16(f.frame[at:]) }

func (f *mirrored) is(proto uint8, at int, port uint16) bool {
	return len(f.frame) > atDNSFlags && f.frame[atProto] == proto && f.port(at) == port
}

func (f *mirrored) query() bool  { return f.is(17, atDport, 53) }
func (f *mirrored) answer() bool { return f.is(17, atSport, 53) }

// fromClient says whether a client sent it: 10.0.0.0/24 is theirs, but for the resolver.
func (f *mirrored) fromClient() bool {
	return f.frame[atFrom] == 10 && f.frame[atFrom+3] != 53
}

// edited returns a copy that was changed.
func (f *mirrored) edited(edit func(b []byte)) mirrored {
	c := *f
	c.frame = slices.Clone(f.frame)
	edit(c.frame)
	return c
}

// mirrors are the ways in which mirrors fail, each made of a capture of one that does not; the rule that has to tell, and
// the verdict that it has to lead to.
var mirrors = []struct {
	name, verdict, rule string
	make                func(all []mirrored) []mirrored
}{
	{"as it should be", "GOOD", "", func(all []mirrored) []mirrored { return all }},
	{"one-way mirror", "BLIND", "mirror.one-way", only((*mirrored).fromClient)},
	{"one-way mirror, the other way", "PARTIAL", "mirror.one-way", only(func(f *mirrored) bool { return !f.fromClient() })},
	{"DNS answers missing", "BLIND", "dns.answers-missing", only(func(f *mirrored) bool { return !f.answer() })},
	{"DNS answers only", "PARTIAL", "dns.answers-only", only(func(f *mirrored) bool { return !f.query() })},
	{"no DNS", "BLIND", "dns.none", only(func(f *mirrored) bool { return !f.query() && !f.answer() })},
	{"behind the resolver", "BLIND", "dns.resolver-side", each(func(f *mirrored) []mirrored {
		if !f.query() && !f.answer() {
			return []mirrored{*f}
		}
		client, server := atFrom, atTo
		if f.answer() {
			client, server = server, client
		}
		return []mirrored{f.edited(func(b []byte) {
			copy(b[server:], []byte{198, 51, 100, b[client+3]})
			copy(b[client:], []byte{10, 0, 0, 53})
			b[atDNSFlags] &^= 1 // RD
		})}
	})},
	{"a client with DNS over HTTPS alone", "PARTIAL", "dns.elsewhere", each(overHTTPS(7))},
	{"all clients with DNS over HTTPS alone", "BLIND", "dns.elsewhere", each(overHTTPS(0))},
	{"both ports of the switch mirrored", "PARTIAL", "mirror.duplicates", each(func(f *mirrored) []mirrored {
		c := *f
		c.at += 40 // microseconds
		return []mirrored{*f, c}
	})},
	{"frames cut", "PARTIAL", "frames.truncated", each(func(f *mirrored) []mirrored {
		c := *f
		c.frame = c.frame[:min(len(c.frame), 60)]
		return []mirrored{c}
	})},
	{"frames merged by GRO", "PARTIAL", "frames.merged", each(func(f *mirrored) []mirrored {
		if f.frame[atProto] != 6 || len(f.frame) < 100 {
			return []mirrored{*f}
		}
		c := *f
		c.frame = slices.Concat(f.frame, make([]byte, 20_000))
		binary.BigEndian.PutUint16(c.frame[atLength:], uint16(len(c.frame)-14))
		c.length = len(c.frame)
		return []mirrored{c}
	})},
	{"the clock set back", "PARTIAL", "clock.step", func(all []mirrored) []mirrored {
		for i := range all[len(all)/2:] {
			all[len(all)/2+i].at -= 3600e6
		}
		return all
	}},
	{"one direction without its VLAN tag", "PARTIAL", "zone.split", each(func(f *mirrored) []mirrored {
		if !f.fromClient() {
			return []mirrored{*f}
		}
		c := *f
		c.frame = slices.Concat(f.frame[:atType], []byte{0x81, 0, 0, 7}, f.frame[atType:])
		c.length = len(c.frame)
		return []mirrored{c}
	})},
	{"two VLANs with one address, without their tags", "PARTIAL", "zone.shared", func(all []mirrored) []mirrored {
		for i := range all {
			if f := &all[i]; f.fromClient() && i%2 == 0 {
				all[i] = f.edited(func(b []byte) { b[atSrc+1] = 0xee })
			}
		}
		return all
	}},
}

func only(keep func(*mirrored) bool) func([]mirrored) []mirrored {
	return func(all []mirrored) []mirrored {
		return slices.DeleteFunc(all, func(f mirrored) bool { return !keep(&f) })
	}
}

func each(change func(*mirrored) []mirrored) func([]mirrored) []mirrored {
	return func(all []mirrored) (out []mirrored) {
		for i := range all {
			out = append(out, change(&all[i])...)
		}
		return out
	}
}

// overHTTPS leaves out a client's DNS (of all, for 0), and has it connect to a server of DNS over HTTPS instead of asking.
func overHTTPS(client byte) func(*mirrored) []mirrored {
	return func(f *mirrored) []mirrored {
		at := atFrom
		if f.answer() {
			at = atTo
		}
		if !f.query() && !f.answer() || client != 0 && f.frame[at+3] != client {
			return []mirrored{*f}
		}
		syn := f.edited(func(b []byte) {
			b[atProto] = 6
			server, port := atTo, atDport
			b[atTCPFlags] = 0x02
			if f.answer() {
				server, port = atFrom, atSport
				b[atTCPFlags] = 0x12
			}
			copy(b[server:], []byte{9, 9, 9, 9})
			binary.BigEndian.PutUint16(b[port:], 443)
			b[46] = 5 << 4 // the length of the TCP header
		})
		syn.frame = syn.frame[:54]
		binary.BigEndian.PutUint16(syn.frame[atLength:], 40)
		syn.length = len(syn.frame)
		return []mirrored{syn}
	}
}

// faulty makes the capture of a mirror out of one that is as it should be.
func faulty(t *testing.T, path string, make func([]mirrored) []mirrored) string {
	t.Helper()
	header, scale, frames := readPcap(t, path)
	if scale != 1e6 {
		t.Fatalf("%s: want microseconds", path)
	}
	var all []mirrored
	for _, f := range frames {
		all = append(all, mirrored{f, len(f.frame)})
	}
	b := slices.Clone(header)
	for _, f := range make(all) {
		for _, n := range []uint64{f.at / scale, f.at % scale, uint64(len(f.frame)), uint64(f.length)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
		}
		b = append(b, f.frame...)
	}
	file := filepath.Join(t.TempDir(), "mirror.pcap")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// replayed returns what replay prints of hits, and the summary as one line.
func replayed(t *testing.T, path string) (hits, summary string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, environ: []string{"PORTOLAN_CONFIG=" + none, "PORTOLAN_SENSOR=tester"}}
	if status := p.run(t.Context(), []string{"replay", path}); status != exitDone {
		t.Fatalf("replay %s: status %d, %s", path, status, stderr.String())
	}
	return stdout.String(), strings.Join(strings.Fields(stderr.String()), " ")
}

// TestMirrors has each way in which a mirror fails named by the verdict on coverage, and none of them give an alert.
func TestMirrors(t *testing.T) {
	whole := filepath.Join("..", "..", "testdata", "pcap", "benign.pcap")
	for _, m := range mirrors {
		t.Run(m.name, func(t *testing.T) {
			hits, summary := replayed(t, faulty(t, whole, m.make))
			_, verdict, _ := strings.Cut(summary, " coverage ")
			if !strings.HasPrefix(verdict, m.verdict) || !strings.Contains(verdict, m.rule+": ") && m.rule != "" {
				t.Errorf("coverage %s\nwant %s by %s", verdict, m.verdict, m.rule)
			}
			if strings.Contains(hits, "ALERT") || strings.Contains(hits, "WATCH") {
				t.Errorf("hits:\n%s", hits)
			}
		})
	}
	// Wrapped in VXLAN nothing is missing, and it is said.
	hits, summary := replayed(t, filepath.Join("..", "..", "testdata", "pcap", "tunnel", "vxlan.pcap"))
	if !strings.Contains(summary, "tunnel.inside: frames come in tunnels: ") || !strings.Contains(summary, " vxlan") {
		t.Errorf("in VXLAN: %s", summary)
	}
	_ = hits // an implant's, found inside
}
