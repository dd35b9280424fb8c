package bpffilter_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// skip skips a test that cannot run here; with PORTOLAN_LIVE=1 it fails.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("PORTOLAN_LIVE") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// capture is a capture file of Ethernet frames.
type capture struct {
	name   string
	frames []captured
}

type captured struct {
	at     time.Time
	data   []byte
	length int // on the wire
}

// captures reads the shared captures as far as a foreign reader can; the sensor's tests read
// them all.
func captures(t *testing.T) (all []capture) {
	t.Helper()
	for _, pattern := range []string{"../../shared/captures/*.pcap*", "../testdata/pcap/*.pcap*", "../testdata/pcap/tunnel/*.pcap*"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			skip(t, "no captures at %s", pattern)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var r interface {
				gopacket.PacketDataSource
				LinkType() layers.LinkType
			}
			if r, err = pcapgo.NewReader(bytes.NewReader(b)); err != nil {
				r, err = pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.DefaultNgReaderOptions)
			}
			if err != nil || r.LinkType() != layers.LinkTypeEthernet {
				continue
			}
			c := capture{name: filepath.Base(file)}
			for {
				data, info, err := r.ReadPacketData()
				if err != nil {
					break
				}
				c.frames = append(c.frames, captured{info.Timestamp, data, info.Length})
			}
			all = append(all, c)
		}
	}
	return all
}

// journal writes events down.
type journal []string

func (j *journal) Lookup(l *event.Lookup) { *j = append(*j, fmt.Sprintf("%+v", *l)) }
func (j *journal) Naming(n *event.Naming) { *j = append(*j, fmt.Sprintf("%+v", *n)) }
func (j *journal) Connection(c *event.Connection) {
	*j = append(*j, fmt.Sprintf("%+v", *c))
}

// clients notes the client of each event of a frame.
type clients struct{ lookups, starts []netip.Addr }

func (c *clients) Lookup(l *event.Lookup) { c.lookups = append(c.lookups, l.Client.Addr()) }
func (c *clients) Connection(x *event.Connection) {
	if x.Proto == event.TCP {
		c.starts = append(c.starts, x.Src.Addr())
	}
}

// TestFanOutOnCaptures decodes captures, with every tunnel in them: each frame that completes
// a lookup, or starts a TCP connection, comes to its client's ring.
func TestFanOutOnCaptures(t *testing.T) {
	// Fragments follow the destination of their own header, which here is the server, or the end of a tunnel.
	fragments := []string{"suricata-verify--frag-eth-vlan-ip-tcp-syn.pcap 3", "gre-fragments.pcap 4", "gre-fragments.pcap 6"}
	m := fanOut(t, 12)
	events, elsewhere := 0, 0
	for _, c := range captures(t) {
		d, err := decode.New(decode.DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range c.frames {
			var found clients
			f := decode.Frame{Time: event.TimeOf(x.at), Data: x.data, Len: x.length, Number: uint64(i + 1), Link: decode.Ethernet}
			d.Decode(&f, &found)
			for _, client := range append(found.lookups, found.starts...) {
				other := netip.MustParseAddr("192.0.2.1")
				if client.Is6() {
					other = netip.MustParseAddr("2001:db8::1")
				}
				events++
				want := ring(t, m, plain()(packet(client, other, 6, opening)), 1<<16)
				if got := ring(t, m, x.data, 1<<16); got != want {
					elsewhere++
					if slices.Contains(fragments, fmt.Sprint(c.name, " ", i+1)) {
						continue
					}
					t.Errorf("%s, frame %d: an event of %v does not come to its ring: % x", c.name, i+1, client, x.data[:min(120, len(x.data))])
				}
			}
		}
	}
	t.Logf("%d events, %d of them elsewhere", events, elsewhere)
	if events < 1000 {
		t.Error("too few to show anything")
	}
}
