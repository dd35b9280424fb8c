package fleet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"portolan/sensor/event"
)

// A batch is a header of fixed length and records, all integers big-endian:
//
//	 0  "PO", the format's version, flags
//	 4  epoch: when the publisher started, ns since 1970
//	12  sequence of the batch under its subject in this epoch, from 1
//	20  number of partitions that the publisher reckons with
//	22  base: what the records' times are relative to, ns since 1970
//	30  reached: the sensor has delivered all events up to this time, ns since 1970; 0 says nothing
//	38  number of records
//	42  records, each after its length in two bytes
//
// A decoder passes over what stands in a record behind the fields it knows.
const (
	headerLen = 42
	version   = 1

	flagEnd = 1 << 0 // the publisher sends nothing more in this epoch

	recordLookup     = 1
	recordConnection = 2

	// maxRecord bounds a record in bytes, so that a batch which it completes still fits a message of
	// the stream. The answers of a lookup that do not fit are left out, and it is marked truncated.
	maxRecord = 30_000
)

// header is what stands before the records of a batch.
type header struct {
	epoch, sequence uint64
	partitions      uint16
	end             bool
	base, reached   event.Time
	count           uint32
}

// put writes h over the first headerLen bytes of b.
func (h *header) put(b []byte) {
	flags := byte(0)
	if h.end {
		flags = flagEnd
	}
	copy(b, []byte{'P', 'O', version, flags})
	binary.BigEndian.PutUint64(b[4:], h.epoch)
	binary.BigEndian.PutUint64(b[12:], h.sequence)
	binary.BigEndian.PutUint16(b[20:], h.partitions)
	binary.BigEndian.PutUint64(b[22:], uint64(h.base))
	binary.BigEndian.PutUint64(b[30:], uint64(h.reached))
	binary.BigEndian.PutUint32(b[38:], h.count)
}

// appendConnection appends a connection in zone z, which stands in for its own.
func appendConnection(b []byte, base event.Time, z event.Zone, x *event.Connection) []byte {
	at := len(b)
	b = append(b, 0, 0, recordConnection, byte(x.Start), byte(x.Proto))
	b = binary.AppendVarint(b, int64(x.Time-base))
	b = appendEventZone(b, z)
	b = appendAddrPort(b, x.Src)
	b = appendAddrPort(b, x.Dst)
	b = append(b, x.MAC[:]...)
	b = binary.AppendUvarint(b, x.Frame)
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// appendLookup appends a lookup in zone z, which stands in for its own.
func appendLookup(b []byte, base event.Time, z event.Zone, l *event.Lookup) []byte {
	at := len(b)
	b = append(b, 0, 0, recordLookup, l.RCode, byte(l.Proto))
	b = binary.AppendVarint(b, int64(l.Time-base))
	b = appendEventZone(b, z)
	b = appendAddrPort(b, l.Client)
	b = appendAddrPort(b, l.Resolver)
	b = append(b, l.MAC[:]...)
	b = binary.AppendUvarint(b, l.Frame)
	b = binary.BigEndian.AppendUint16(b, l.ID)
	b = binary.BigEndian.AppendUint16(b, uint16(l.Type))
	b = appendBytes(b, l.Name)
	truncated, count := len(b), 0
	b = append(b, 0, 0, 0)
	if l.Truncated {
		b[truncated] = 1
	}
	for i := range l.Records {
		end := len(b)
		b = appendRecord(b, l, &l.Records[i])
		count++
		if len(b)-at > maxRecord {
			b = b[:end]
			count--
			b[truncated] = 1
		}
	}
	binary.BigEndian.PutUint16(b[truncated+1:], uint16(count))
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// appendRecord appends one record of an answer section. Most are owned by the name that was
// asked for, which is said by one byte.
func appendRecord(b []byte, l *event.Lookup, r *event.Record) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(r.Type))
	b = binary.BigEndian.AppendUint16(b, r.Port)
	b = binary.AppendUvarint(b, uint64(r.TTL))
	b = appendAddr(b, r.Addr)
	if string(r.Owner) == string(l.Name) {
		b = append(b, 0)
	} else {
		b = appendBytes(append(b, 1), r.Owner)
	}
	b = appendBytes(b, r.Target)
	return appendBytes(b, r.Text)
}

func appendEventZone(b []byte, z event.Zone) []byte {
	b = binary.BigEndian.AppendUint16(b, z.Point)
	b = append(b, byte(z.Kind))
	return binary.AppendUvarint(b, uint64(z.ID))
}

func appendAddr(b []byte, a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return append(b, 0)
	case a.Is4():
		v := a.As4()
		return append(append(b, 4), v[:]...)
	}
	v := a.As16()
	return append(append(b, 16), v[:]...)
}

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(appendAddr(b, a.Addr()), a.Port())
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var (
	errNoBatch = errors.New("not a batch of observations")
	errRecord  = errors.New("a record is cut short or holds a value that cannot be")
)

// readHeader reads the header of a batch.
func readHeader(b []byte) (h header, err error) {
	if len(b) < headerLen || b[0] != 'P' || b[1] != 'O' {
		return h, errNoBatch
	}
	if b[2] != version {
		return h, fmt.Errorf("batch of version %d, want %d", b[2], version)
	}
	return header{
		end:        b[3]&flagEnd != 0,
		epoch:      binary.BigEndian.Uint64(b[4:]),
		sequence:   binary.BigEndian.Uint64(b[12:]),
		partitions: binary.BigEndian.Uint16(b[20:]),
		base:       event.Time(binary.BigEndian.Uint64(b[22:])),
		reached:    event.Time(binary.BigEndian.Uint64(b[30:])),
		count:      binary.BigEndian.Uint32(b[38:]),
	}, nil
}

// decoder takes batches apart. It keeps what it needs between two of them, so that it makes no
// garbage; one goroutine may use it.
type decoder struct {
	lookup  event.Lookup
	conn    event.Connection
	records []event.Record
}

// decode reads a batch and hands its events to sink, whose slices alias b. After an error those
// before the damage have been handed on.
func (d *decoder) decode(b []byte, to event.Sink) (header, error) {
	h, err := readHeader(b)
	if err != nil {
		return h, err
	}
	rest := b[headerLen:]
	for i := range h.count {
		if len(rest) < 2 {
			return h, fmt.Errorf("record %d of %d: %w", i+1, h.count, errRecord)
		}
		n := int(binary.BigEndian.Uint16(rest))
		if len(rest)-2 < n || !d.record(rest[2:2+n], h.base, to) {
			return h, fmt.Errorf("record %d of %d: %w", i+1, h.count, errRecord)
		}
		rest = rest[2+n:]
	}
	return h, nil
}

// record hands on one event; those of kinds that are not known are passed over.
func (d *decoder) record(b []byte, base event.Time, to event.Sink) bool {
	if len(b) == 0 {
		return false
	}
	r := reader{b: b[1:]}
	switch b[0] {
	case recordLookup:
		if d.readLookup(&r, base); r.bad {
			return false
		}
		to.Lookup(&d.lookup)
	case recordConnection:
		if d.readConnection(&r, base); r.bad {
			return false
		}
		to.Connection(&d.conn)
	}
	return true
}

func (d *decoder) readConnection(r *reader, base event.Time) {
	x := &d.conn
	*x = event.Connection{Start: event.Start(r.byte()), Proto: event.Proto(r.byte())}
	x.Time = base + event.Time(r.varint())
	x.Zone = r.zone()
	x.Src, x.Dst = r.addrPort(), r.addrPort()
	copy(x.MAC[:], r.take(len(x.MAC)))
	x.Frame = r.uvarint()
	if x.Start > event.Datagram || !x.Src.IsValid() || !x.Dst.IsValid() {
		r.bad = true
	}
}

func (d *decoder) readLookup(r *reader, base event.Time) {
	l := &d.lookup
	*l = event.Lookup{RCode: r.byte(), Proto: event.Proto(r.byte())}
	l.Time = base + event.Time(r.varint())
	l.Zone = r.zone()
	l.Client, l.Resolver = r.addrPort(), r.addrPort()
	copy(l.MAC[:], r.take(len(l.MAC)))
	l.Frame = r.uvarint()
	l.ID, l.Type = r.uint16(), event.Type(r.uint16())
	l.Name = r.bytes()
	l.Truncated = r.byte() != 0
	d.records = d.records[:0]
	for n := r.uint16(); n > 0 && !r.bad; n-- {
		x := event.Record{Type: event.Type(r.uint16()), Port: r.uint16()}
		ttl := r.uvarint()
		x.TTL = uint32(ttl)
		x.Addr = r.addr()
		if x.Owner = l.Name; r.byte() != 0 {
			x.Owner = r.bytes()
		}
		x.Target, x.Text = r.bytes(), r.bytes()
		if ttl > 1<<32-1 || !x.Addr.IsValid() && (x.Type == event.A || x.Type == event.AAAA || x.Type == event.Hint) {
			r.bad = true
		}
		d.records = append(d.records, x)
	}
	l.Records = d.records
	if !l.Client.IsValid() || l.RCode > 15 {
		r.bad = true
	}
}

// reader reads fields from b; bad says that one was not there, and what is read then is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

func (r *reader) byte() byte {
	if s := r.take(1); s != nil {
		return s[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if s := r.take(2); s != nil {
		return binary.BigEndian.Uint16(s)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes returns nil for none, as the decoder of frames does.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	if n == 0 {
		return nil
	}
	return r.take(int(n))
}

func (r *reader) zone() event.Zone {
	z := event.Zone{Point: r.uint16(), Kind: event.TagKind(r.byte())}
	id := r.uvarint()
	z.ID = uint32(id)
	if z.Kind > event.ERSPAN || id > 1<<32-1 {
		r.bad = true
	}
	return z
}

func (r *reader) addr() netip.Addr {
	switch n := r.byte(); n {
	case 0:
	case 4:
		if s := r.take(4); s != nil {
			return netip.AddrFrom4([4]byte(s))
		}
	case 16:
		if s := r.take(16); s != nil {
			return netip.AddrFrom16([16]byte(s))
		}
	default:
		r.bad = true
	}
	return netip.Addr{}
}

func (r *reader) addrPort() netip.AddrPort {
	a := r.addr()
	port := r.uint16()
	if !a.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, port)
}
