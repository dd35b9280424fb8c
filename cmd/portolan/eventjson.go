package main

import (
	"encoding/json"
	"net/netip"
	"strconv"

	"portolan/sensor"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// eventWriter is an event.Sink that writes one JSON object a line, without allocating for
// each. Times are nanoseconds since 1970.
type eventWriter struct {
	to         *lineWriter
	fileMember []byte // `,"file":"x.pcap"`
	buf        []byte // the line under construction
	lookups    uint64 // lines of A and AAAA records
	conns      uint64
	broadcast  netip.Addr
	zones      map[event.Zone]string // `,"zone":"0"` of each; at most maxZones
}

// maxZones bounds how many zones' text is kept: as many as there are VLANs.
const maxZones = 4096

func newEventWriter(to *lineWriter, file string) *eventWriter {
	w := &eventWriter{to: to, broadcast: netip.AddrFrom4([4]byte{255, 255, 255, 255})}
	w.fileMember = appendText([]byte(`,"file":`), file)
	w.zones = map[event.Zone]string{}
	return w
}

// Lookup writes a line for each address, service, text and hint of a lookup.
func (w *eventWriter) Lookup(l *event.Lookup) {
	for i := range l.Records {
		r := &l.Records[i]
		switch r.Type {
		case event.A, event.AAAA:
			w.lookups++
			w.record(l, r, "lookup")
		case event.SRV:
			w.record(l, r, "srv")
		case event.TXT:
			w.record(l, r, "txt")
		case event.Hint:
			w.record(l, r, "hint")
		}
	}
}

func (w *eventWriter) record(l *event.Lookup, r *event.Record, kind string) {
	b := w.begin(kind, l.Time)
	b = appendAddr(append(b, `,"client":`...), l.Client.Addr())
	b = appendUint(append(b, `,"cp":`...), l.Client.Port())
	b = appendAddr(append(b, `,"server":`...), l.Resolver.Addr())
	b = appendUint(append(b, `,"sp":`...), l.Resolver.Port())
	b = append(append(append(b, `,"tr":"`...), transport(l.Proto)...), '"')
	b = appendUint(append(b, `,"id":`...), l.ID)
	b = appendString(append(b, `,"q":`...), l.Name)
	b = appendUint(append(b, `,"qt":`...), l.Type)
	b = appendUint(append(b, `,"rc":`...), l.RCode)
	if l.Truncated {
		b = append(b, `,"tc":1`...)
	}
	b = appendString(append(b, `,"name":`...), r.Owner)
	switch r.Type {
	case event.SRV:
		b = appendString(append(b, `,"target":`...), r.Target)
		b = appendUint(append(b, `,"port":`...), r.Port)
	case event.TXT:
		b = appendString(append(b, `,"txt":`...), r.Text)
	default:
		b = appendAddr(append(b, `,"ip":`...), r.Addr)
	}
	b = appendUint(append(b, `,"ttl":`...), r.TTL)
	w.end(b, l.Zone, l.Frame)
}

// Connection writes a connection as one line.
func (w *eventWriter) Connection(c *event.Connection) {
	w.conns++
	b := w.begin("conn", c.Time)
	b = append(append(append(b, `,"p":"`...), transport(c.Proto)...), '"')
	b = appendAddr(append(b, `,"src":`...), c.Src.Addr())
	b = appendUint(append(b, `,"sp":`...), c.Src.Port())
	b = appendAddr(append(b, `,"dst":`...), c.Dst.Addr())
	b = appendUint(append(b, `,"dp":`...), c.Dst.Port())
	b = append(append(append(b, `,"ev":"`...), c.Start.String()...), '"')
	if c.Dst.Addr().IsMulticast() || c.Dst.Addr() == w.broadcast {
		b = append(b, `,"mc":1`...)
	}
	w.end(b, c.Zone, c.Frame)
}

// Naming writes what a frame said of a host as one line.
func (w *eventWriter) Naming(n *event.Naming) {
	b := w.begin("host", n.Time)
	b = append(append(append(b, `,"via":"`...), n.Via.String()...), '"')
	if n.Addr.IsValid() {
		b = appendAddr(append(b, `,"ip":`...), n.Addr)
	}
	if n.MAC != (event.MAC{}) {
		b = append(append(append(b, `,"mac":"`...), n.MAC.String()...), '"')
	}
	if len(n.Name) > 0 {
		b = appendString(append(b, `,"name":`...), n.Name)
	}
	if n.Lease != 0 {
		b = appendUint(append(b, `,"lease":`...), n.Lease)
	}
	if n.Ended {
		b = append(b, `,"ended":1`...)
	}
	w.end(b, n.Zone, n.Frame)
}

func (w *eventWriter) begin(kind string, t event.Time) []byte {
	b := append(append(append(w.buf[:0], `{"k":"`...), kind...), `","t":`...)
	return strconv.AppendInt(b, int64(t), 10)
}

func (w *eventWriter) end(b []byte, z event.Zone, frame uint64) {
	zone, ok := w.zones[z]
	if !ok {
		if len(w.zones) == maxZones {
			clear(w.zones)
		}
		zone = `,"zone":"` + z.String() + `"`
		w.zones[z] = zone
	}
	b = append(b, zone...)
	b = strconv.AppendUint(append(b, `,"f":`...), frame, 10)
	b = append(b, w.fileMember...)
	w.buf = append(b, "}\n"...)
	w.to.line(w.buf)
}

// file writes what became of the frames.
func (w *eventWriter) file(s *sensor.Stats) {
	b := strconv.AppendUint(append(w.buf[:0], `{"k":"file","frames":`...), s.Frames, 10)
	b = append(b, `,"reasons":{`...)
	for r, first := decode.Reason(0), true; r < decode.NumReasons; r++ {
		if s.Reasons[r] == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = strconv.AppendQuote(b, r.String())
		b = strconv.AppendUint(append(b, ':'), s.Reasons[r], 10)
	}
	b = strconv.AppendUint(append(b, `},"lookups":`...), w.lookups, 10)
	b = strconv.AppendUint(append(b, `,"conns":`...), w.conns, 10)
	b = strconv.AppendUint(append(b, `,"truncated":`...), s.Truncated, 10)
	if s.Frames > 0 {
		b = strconv.AppendInt(append(b, `,"t0":`...), int64(s.First), 10)
		b = strconv.AppendInt(append(b, `,"t1":`...), int64(s.Last), 10)
	}
	if s.Incomplete != "" {
		b = appendText(append(b, `,"incomplete":`...), s.Incomplete)
	}
	b = append(b, w.fileMember...)
	w.buf = append(b, "}\n"...)
	w.to.line(w.buf)
}

func transport(p event.Proto) string {
	if p == event.TCP {
		return "tcp"
	}
	return "udp"
}

func appendUint[T ~uint8 | ~uint16 | ~uint32](b []byte, n T) []byte {
	return strconv.AppendUint(b, uint64(n), 10)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	return append(a.AppendTo(append(b, '"')), '"')
}

// appendText appends text as a JSON string.
func appendText(b []byte, text string) []byte {
	quoted, _ := json.Marshal(text) // a string has no value that cannot be marshaled
	return append(b, quoted...)
}

const hexDigits = "0123456789abcdef"

// appendString appends octets as a JSON string. Names and texts of the DNS are octets
// without an encoding; each above 0x7e stands as the code point of its number, so that
// nothing is lost (RFC 8259 wants UTF-8).
func appendString(b, s []byte) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ' && c < 0x7f:
			b = append(b, c)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, '"')
}
