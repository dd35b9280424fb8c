package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"

	"portolan/correlate/traffic"
	"portolan/sensor/event"
)

// mixConfig says what a mirror port shows.
type mixConfig struct {
	world   traffic.Config
	frames  int
	opening float64 // share of frames that become events: SYNs, DNS responses, first datagrams; more than 0
	udp     float64 // share of UDP among the rest
	tagged  bool    // write the VLAN of each host's zone
}

// mixBase is traffic of some 2,000 hosts with 500 bytes a frame on average: 3 % of the frames become
// events, and of the rest 30 % are UDP, as QUIC makes it today.
func mixBase(frames int) mixConfig {
	c := mixConfig{world: traffic.DefaultConfig(), frames: frames, opening: .03, udp: .3}
	c.world.Clients, c.world.Implants = 2000, 1
	return c
}

// errMixEnough ends a world.
var errMixEnough = errors.New("enough frames")

// write writes the mix as a pcap file: what opens comes from the world, the rest are packets of
// connections that the world opened lately.
func (c mixConfig) write(to io.Writer) error {
	g, err := traffic.New(c.world)
	if err != nil {
		return err
	}
	w := &mixWriter{mixConfig: c, to: bufio.NewWriterSize(to, 1<<20), random: rand.New(rand.NewPCG(500, 3))}
	w.payload = make([]byte, 1<<16)
	for i := range w.payload {
		w.payload[i] = byte(w.random.Uint64())
	}
	h := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	h = append(h, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	w.to.Write(h)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	err = g.Run(ctx, func(e traffic.Event) {
		switch {
		case w.written >= c.frames:
			cancel(errMixEnough)
		case e.Lookup != nil:
			w.lookup(e.Lookup)
		default:
			w.connection(e.Connection)
		}
	})
	if err != nil && !errors.Is(context.Cause(ctx), errMixEnough) {
		return err
	}
	return w.to.Flush()
}

// mixWriter makes frames of events. Errors of writing stay in to until it is flushed.
type mixWriter struct {
	mixConfig
	to      *bufio.Writer
	random  *rand.Rand
	payload []byte
	open    [2][]event.Connection // TCP and UDP connections opened lately
	owed    float64               // frames that have to follow what opened
	written int
	buf     []byte
}

// lately is how many connections the packets in between belong to.
const lately = 4096

func (w *mixWriter) connection(c *event.Connection) {
	if c.Proto == event.TCP {
		w.frame(c.Time, c.Zone, c.Proto, c.Src, c.Dst, 0x02, nil)
		w.frame(c.Time.Add(1000), c.Zone, c.Proto, c.Dst, c.Src, 0x12, nil)
		w.owed--
	} else {
		w.frame(c.Time, c.Zone, c.Proto, c.Src, c.Dst, 0, w.payload[:60])
	}
	w.fill(c.Time.Add(2000))
	if c.Dst.Port() == 53 {
		return
	}
	of := &w.open[0]
	if c.Proto == event.UDP {
		of = &w.open[1]
	}
	if len(*of) < lately {
		*of = append(*of, *c)
	} else {
		(*of)[w.random.IntN(lately)] = *c
	}
}

func (w *mixWriter) lookup(l *event.Lookup) {
	w.frame(l.Time, l.Zone, event.UDP, l.Resolver, l.Client, 0, dnsResponse(l))
	w.fill(l.Time)
}

// fill writes the packets that follow what opened something, in trains of one connection.
func (w *mixWriter) fill(t event.Time) {
	w.owed += 1/w.opening - 1
	for w.owed > 0 {
		of := w.open[0]
		if w.random.Float64() < w.udp {
			of = w.open[1]
		}
		if len(of) == 0 {
			return
		}
		c := &of[w.random.IntN(len(of))]
		for range 1 + w.random.IntN(8) {
			size := 0 // bytes of payload
			switch p := w.random.Float64(); {
			case p < .31:
				size = 1400
			case p < .52:
				size = 20 + w.random.IntN(300)
			case c.Proto == event.UDP:
				size = 30
			}
			src, dst := c.Src, c.Dst
			if w.random.Uint32()&1 == 0 {
				src, dst = dst, src
			}
			at := w.random.IntN(len(w.payload) - size)
			w.frame(t, c.Zone, c.Proto, src, dst, 0x10, w.payload[at:at+size])
			w.owed--
		}
	}
}

// frame writes one Ethernet frame with its record header; checksums stay empty.
func (w *mixWriter) frame(t event.Time, z event.Zone, p event.Proto, src, dst netip.AddrPort, flags byte, payload []byte) {
	be := binary.BigEndian
	b := append(w.buf[:0], make([]byte, 16)...)
	b = append(b, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	if w.tagged && z.Kind == event.VLAN {
		b = be.AppendUint16(append(b, 0x81, 0), uint16(z.ID))
	}
	header := 8
	if p == event.TCP {
		header = 20
	}
	if a := src.Addr(); a.Is4() {
		b = append(b, 0x08, 0x00, 0x45, 0)
		b = be.AppendUint16(b, uint16(20+header+len(payload)))
		b = append(b, 0, 0, 0x40, 0, 60, byte(p), 0, 0)
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = be.AppendUint16(b, uint16(header+len(payload)))
		b = append(b, byte(p), 60)
	}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	b = be.AppendUint16(be.AppendUint16(b, src.Port()), dst.Port())
	if p == event.TCP {
		b = be.AppendUint32(b, uint32(t)) // one number for each SYN
		b = append(b, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
	} else {
		b = append(be.AppendUint16(b, uint16(header+len(payload))), 0, 0)
	}
	b = append(b, payload...)
	n := uint32(len(b) - 16)
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(t/1e9))
	le.PutUint32(b[4:], uint32(t%1e9))
	le.PutUint32(b[8:], n)
	le.PutUint32(b[12:], n)
	w.to.Write(b)
	w.buf = b
	w.written++
}

// dnsResponse returns a lookup as a message without compression.
func dnsResponse(l *event.Lookup) []byte {
	be := binary.BigEndian
	b := be.AppendUint16(nil, l.ID)
	b = append(b, 0x81, 0x80|l.RCode, 0, 1)
	b = append(be.AppendUint16(b, uint16(len(l.Records))), 0, 0, 0, 0)
	b = append(be.AppendUint16(dnsName(b, l.Name), uint16(l.Type)), 0, 1)
	for i := range l.Records {
		r := &l.Records[i]
		b = append(be.AppendUint16(dnsName(b, r.Owner), uint16(r.Type)), 0, 1)
		b = append(be.AppendUint32(b, r.TTL), 0, 0)
		start := len(b)
		switch r.Type {
		case event.A, event.AAAA:
			b = append(b, r.Addr.AsSlice()...)
		case event.CNAME:
			b = dnsName(b, r.Target)
		case event.SRV:
			b = dnsName(be.AppendUint16(append(b, 0, 1, 0, 1), r.Port), r.Target)
		case event.TXT:
			for part := range slices.Chunk(r.Text, 255) {
				b = append(append(b, byte(len(part))), part...)
			}
		}
		be.PutUint16(b[start-2:], uint16(len(b)-start))
	}
	return b
}

// dnsName appends a name in the form of RFC 1035, section 3.1.
func dnsName(b, name []byte) []byte {
	for label := range bytes.SplitSeq(name, []byte(".")) {
		if len(label) > 0 {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	return append(b, 0)
}
