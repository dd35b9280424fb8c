package sensor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// sharedCaptures holds captures that are too many for this repository.
const sharedCaptures = "../../shared/captures"

// tally counts events.
type tally struct{ lookups, connections int }

func (n *tally) Lookup(*event.Lookup)         { n.lookups++ }
func (n *tally) Connection(*event.Connection) { n.connections++ }

// synFrame is an Ethernet frame with a TCP SYN from 10.0.0.7 and the given port to 198.51.100.23:10198.
func synFrame(port uint16) []byte {
	b := []byte{
		0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00,
		0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 7, 198, 51, 100, 23,
		0, 0, 0x27, 0xd6, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0,
	}
	binary.BigEndian.PutUint16(b[34:], port)
	return b
}

// rec is one record of a capture file.
type rec struct {
	t    event.Time
	data []byte
	len  int
	link decode.LinkType
}

// frame returns the record as frame number n of a file.
func (r rec) frame(n int) decode.Frame {
	return decode.Frame{Time: r.t, Data: r.data, Len: r.len, Number: uint64(n), Link: r.link}
}

func (r rec) String() string {
	return fmt.Sprintf("%d ns link %d, %d of %d bytes % x", r.t, r.link, len(r.data), r.len, r.data)
}

// readAll reads the records of a file without decoding them.
func readAll(r io.Reader) (recs []rec, err error) {
	c, err := openCapture(&counter{r: r})
	if err != nil {
		return nil, err
	}
	defer c.close()
	k, w := &chunk{}, &walker{format: keeper{c.format, &recs}, after: c.begin}
	for k.fill(context.Background(), c) {
		w.walk(k)
	}
	w.walk(k)
	return recs, w.err
}

// keeper is a format that keeps what it finds.
type keeper struct {
	format
	to *[]rec
}

func (r keeper) next(b []byte, f *decode.Frame) (kind, int, error) {
	k, n, err := r.format.next(b, f)
	if k == frame && err == nil {
		*r.to = append(*r.to, rec{f.Time, bytes.Clone(f.Data), f.Len, f.Link})
	}
	return k, n, err
}

// pcapFile writes a classic capture file of the given magic number, with pad further bytes
// in each record's header.
func pcapFile(order binary.AppendByteOrder, magic, link uint32, unit event.Time, pad int, recs ...rec) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = order.AppendUint64(b, 0)
	b = order.AppendUint32(b, 64) // a snap length that longer records do not mind
	b = order.AppendUint32(b, link)
	for _, r := range recs {
		b = order.AppendUint32(b, uint32(r.t/1e9))
		b = order.AppendUint32(b, uint32(r.t%1e9/unit))
		b = order.AppendUint32(b, uint32(len(r.data)))
		b = order.AppendUint32(b, uint32(r.len))
		b = append(b, make([]byte, pad)...)
		b = append(b, r.data...)
	}
	return b
}

// smallPcap is a file with n SYNs one millisecond apart.
func smallPcap(n int) []byte {
	var recs []rec
	for i := range n {
		d := synFrame(uint16(1024 + i))
		recs = append(recs, rec{t: event.Time(1_700_000_000_000_000_000 + i*1_000_000), data: d, len: len(d)})
	}
	return pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, 1000, 0, recs...)
}

func gz(b ...[]byte) []byte {
	var out bytes.Buffer
	for _, b := range b {
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
	}
	return out.Bytes()
}

func zst(b ...[]byte) []byte {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	var out []byte
	for _, b := range b {
		out = e.EncodeAll(b, out)
	}
	return out
}

func TestPcapVariants(t *testing.T) {
	const at = 1_700_000_000_123_456_000
	long := bytes.Repeat([]byte{7}, 3000)
	want := []rec{
		{at, synFrame(1), 54, 1},
		{at + 1000, synFrame(2)[:40], 54, 1}, // cut by the snap length
		{at + 2000, long, 3000, 1},           // longer than the snap length
		{at + 3000, nil, 60, 1},
	}
	for _, tt := range []struct {
		name  string
		order binary.AppendByteOrder
		magic uint32
		unit  event.Time
		pad   int
	}{
		{"microseconds, little end first", binary.LittleEndian, 0xa1b2c3d4, 1000, 0},
		{"microseconds, big end first", binary.BigEndian, 0xa1b2c3d4, 1000, 0},
		{"nanoseconds, little end first", binary.LittleEndian, 0xa1b23c4d, 1, 0},
		{"nanoseconds, big end first", binary.BigEndian, 0xa1b23c4d, 1, 0},
		{"modified, little end first", binary.LittleEndian, 0xa1b2cd34, 1000, 8},
		{"modified, big end first", binary.BigEndian, 0xa1b2cd34, 1000, 8},
	} {
		// The upper bits say that frames end with a checksum of 4 bytes.
		file := pcapFile(tt.order, tt.magic, 0x24000001, tt.unit, tt.pad, want...)
		half := len(file) / 2
		for name, b := range map[string][]byte{
			"plain":            file,
			"gzip":             gz(file),
			"gzip, 2 members":  gz(file[:half], file[half:]),
			"zstd":             zst(file),
			"zstd, 2 frames":   zst(file[:half], file[half:]),
			"zstd, skippables": append([]byte{0x55, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9}, zst(file)...),
		} {
			got, err := readAll(iotest.OneByteReader(bytes.NewReader(b)))
			if err != nil {
				t.Errorf("%s, %s: %v", tt.name, name, err)
			}
			compareRecs(t, tt.name+", "+name, got, want)
		}
	}
}

func compareRecs(t *testing.T, name string, got, want []rec) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d records, want %d", name, len(got), len(want))
		return
	}
	for i := range got {
		if g, w := got[i].String(), want[i].String(); g != w {
			t.Errorf("%s: record %d is %s, want %s", name, i+1, g, w)
		}
	}
}

// ng writes blocks of a pcapng file.
type ng struct {
	binary.AppendByteOrder
	b []byte
}

func (n *ng) block(typ uint32, body ...byte) {
	body = append(body, make([]byte, -len(body)&3)...)
	n.b = n.AppendUint32(n.b, typ)
	n.b = n.AppendUint32(n.b, uint32(12+len(body)))
	n.b = append(n.b, body...)
	n.b = n.AppendUint32(n.b, uint32(12+len(body)))
}

func (n *ng) section() {
	b := n.AppendUint32(nil, 0x1a2b3c4d)
	b = n.AppendUint32(b, 1) // version 1.0, either way round
	n.block(0x0a0d0d0a, n.AppendUint64(b, 1<<64-1)...)
}

func (n *ng) iface(link uint16, snap uint32, options ...byte) {
	b := n.AppendUint16(nil, link)
	b = n.AppendUint16(b, 0)
	n.block(1, append(n.AppendUint32(b, snap), options...)...)
}

func (n *ng) option(code uint16, v ...byte) []byte {
	b := n.AppendUint16(nil, code)
	b = n.AppendUint16(b, uint16(len(v)))
	return append(append(b, v...), make([]byte, -len(v)&3)...)
}

func (n *ng) enhanced(iface uint32, stamp uint64, data []byte, length uint32, options ...byte) {
	b := n.AppendUint32(nil, iface)
	b = n.AppendUint32(b, uint32(stamp>>32))
	b = n.AppendUint32(b, uint32(stamp))
	b = n.AppendUint32(b, uint32(len(data)))
	b = append(n.AppendUint32(b, length), data...)
	b = append(b, make([]byte, -len(data)&3)...)
	n.block(6, append(b, options...)...)
}

func (n *ng) obsolete(iface uint16, stamp uint64, data []byte, length uint32) {
	b := n.AppendUint16(nil, iface)
	b = n.AppendUint16(b, 3) // drops
	b = n.AppendUint32(b, uint32(stamp>>32))
	b = n.AppendUint32(b, uint32(stamp))
	b = n.AppendUint32(b, uint32(len(data)))
	n.block(2, append(n.AppendUint32(b, length), data...)...)
}

func (n *ng) simple(data []byte, length uint32) {
	n.block(3, append(n.AppendUint32(nil, length), data...)...)
}

func TestPcapng(t *testing.T) {
	syn := synFrame(1)
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		n := &ng{AppendByteOrder: order}
		n.section()
		n.iface(1, 0, n.option(2, []byte("eth0")...)...)
		n.block(5, make([]byte, 300_000)...) // statistics, longer than our buffer
		n.enhanced(0, 1_700_000_000_123_456, syn, 54, n.option(1, []byte("a comment")...)...)
		n.iface(101, 48, append(n.option(9, 9), n.option(14, order.AppendUint64(nil, 3600)...)...)...)
		n.enhanced(1, 123_456_789, syn[14:], 999)
		n.iface(113, 0, n.option(9, 0x80|20)...) // 2⁻²⁰ s
		n.enhanced(2, 3<<20|1<<19, syn[:5], 5)
		n.enhanced(9, 77, syn, 54) // an interface that nobody described
		n.simple(syn, 54)
		n.obsolete(1, 1, syn[14:], 40)
		n.section() // forgets the interfaces
		n.iface(12, 20)
		n.simple(syn[14:34], 40) // 20 captured of 40
		n.enhanced(1, 5, syn, 54)
		got, err := readAll(iotest.HalfReader(bytes.NewReader(n.b)))
		if err != nil {
			t.Errorf("%v: %v", order, err)
		}
		compareRecs(t, fmt.Sprint(order), got, []rec{
			{1_700_000_000_123_456_000, syn, 54, 1},
			{3600_123_456_789, syn[14:], 999, 101},
			{3_500_000_000, syn[:5], 5, 113},
			{0, syn, 54, noLink},
			{0, syn, 54, 1},
			{3600_000_000_001, syn[14:], 40, 101},
			{0, syn[14:34], 40, 12},
			{0, syn, 54, noLink},
		})
	}
}

func TestPcapngMixedByteOrder(t *testing.T) {
	a, b := &ng{AppendByteOrder: binary.LittleEndian}, &ng{AppendByteOrder: binary.BigEndian}
	for _, n := range []*ng{a, b} {
		n.section()
		n.iface(1, 0)
		n.enhanced(0, 1, synFrame(1), 54)
	}
	got, err := readAll(bytes.NewReader(append(a.b, b.b...)))
	if err != nil {
		t.Error(err)
	}
	compareRecs(t, "one section of each order", got, []rec{{1000, synFrame(1), 54, 1}, {1000, synFrame(1), 54, 1}})
}

func TestResolution(t *testing.T) {
	for _, tt := range []struct {
		r     resolution
		units uint64
		want  event.Time
	}{
		{0, 1_700_000_000, 1_700_000_000e9},
		{3, 1_700_000_000_123, 1_700_000_000_123e6},
		{6, 1, 1000},
		{9, 1, 1},
		{12, 1_700_000_000_123_456_789, 1_700_000_000_123_456},
		{19, 1<<64 - 1, 1_844_674_407},
		{28, 1<<64 - 1, 1},
		{29, 1<<64 - 1, 0},
		{127, 1<<64 - 1, 0},
		{0, 1 << 40, 1<<63 - 1}, // beyond what a Time holds
		{0x80, 1_700_000_000, 1_700_000_000e9},
		{0x80 | 10, 1536, 1_500_000_000},
		{0x80 | 32, 1_700_000_000<<32 | 1<<31, 1_700_000_000_500_000_000},
		{0x80 | 63, 1 << 63, 1e9},
		{0x80 | 64, 1 << 63, 5e8},
		{0x80 | 65, 1 << 63, 25e7},
		{0x80 | 127, 1<<64 - 1, 0},
		{0x80, 1<<64 - 1, 1<<63 - 1},
	} {
		if got := tt.r.time(tt.units); got != tt.want {
			t.Errorf("resolution %#x: %d units are %d ns, want %d", uint8(tt.r), tt.units, got, tt.want)
		}
	}
	for _, tt := range [][3]event.Time{
		{5, 0, 5}, {5, 2, 2_000_000_005}, {5e9, -2, 3e9}, {0, 1 << 62, 1<<63 - 1}, {1<<63 - 1, 1, 1<<63 - 1}, {0, -1 << 63, -1 << 63},
	} {
		if got := addSeconds(tt[0], tt[1]); got != tt[2] {
			t.Errorf("addSeconds(%d, %d) = %d, want %d", tt[0], tt[1], got, tt[2])
		}
	}
}

// replay replays b with a decoder of its own.
func replay(b io.Reader, to event.Sink) (Stats, error) {
	return Replay(context.Background(), b, DefaultReplayConfig(), to)
}

func TestReplayRefuses(t *testing.T) {
	n := &ng{AppendByteOrder: binary.LittleEndian}
	n.section()
	for _, tt := range []struct {
		name string
		file []byte
		want error
	}{
		{"nothing", nil, ErrEmpty},
		{"text", []byte("name\tsource\tcommit\n"), ErrNotCapture},
		{"two bytes", []byte{0xd4, 0xc3}, ErrNotCapture},
		{"half a pcap header", smallPcap(0)[:20], ErrNotCapture},
		{"half a pcapng header", n.b[:20], ErrNotCapture},
		{"pcapng without a byte order", append(bytes.Clone(n.b[:8]), make([]byte, 40)...), ErrNotCapture},
		{"pcapng header too short", append(append(bytes.Clone(n.b[:4]), 16, 0, 0, 0), n.b[8:]...), ErrNotCapture},
		{"empty gzip", gz(nil), ErrEmpty},
		{"empty zstd", zst([]byte{}), ErrEmpty},
		{"gzip of text", gz([]byte("name\tsource")), ErrNotCapture},
		{"gzip of gzip", gz(gz(smallPcap(1))), ErrNotCapture},
		{"gzip header alone", gz(nil)[:5], ErrNotCapture},
		{"gzip with a broken header", []byte{0x1f, 0x8b, 9, 0, 0, 0, 0, 0, 0, 0, 0}, ErrNotCapture},
		{"zstd with a broken frame", []byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff}, ErrNotCapture},
	} {
		s, err := replay(bytes.NewReader(tt.file), &tally{})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
		if s.Frames != 0 || s.Incomplete != "" {
			t.Errorf("%s: %d frames, incomplete %q from what is no capture", tt.name, s.Frames, s.Incomplete)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: error %q takes more than a line", tt.name, err)
		}
	}
}

func TestReplayRefusesWindow(t *testing.T) {
	// A frame header that wants 256 MiB (RFC 8878, section 3.1.1.1.2), and an empty block.
	file := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 1, 0, 0}
	if _, err := replay(bytes.NewReader(file), &tally{}); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("error %v, want %v", err, zstd.ErrWindowSizeExceeded)
	}
}

// TestReplayCut cuts files at every byte: what came before the cut counts, and the cut is told.
func TestReplayCut(t *testing.T) {
	const records = 3
	n := &ng{AppendByteOrder: binary.LittleEndian}
	n.section()
	n.iface(1, 0)
	whole := map[int]int{len(n.b): 0} // length of a file that ends between records: frames in it
	for i := range records {
		n.enhanced(0, uint64(i), synFrame(uint16(i)), 54)
		whole[len(n.b)] = i + 1
	}
	whole[28] = 0 // after the section header
	classic := map[int]int{}
	for i := range records + 1 {
		classic[24+i*70] = i
	}
	for _, tt := range []struct {
		name         string
		file         []byte
		header, each int // bytes of the headers and of a record
		ends         map[int]int
	}{
		{"pcap", smallPcap(records), 24, 70, classic},
		{"pcapng", n.b, 48, 88, whole},
	} {
		for cut := tt.header; cut <= len(tt.file); cut++ {
			s, err := replay(bytes.NewReader(tt.file[:cut]), &tally{})
			if err != nil {
				t.Errorf("%s cut to %d bytes: %v", tt.name, cut, err)
			}
			frames, ends := tt.ends[cut]
			if ends != (s.Incomplete == "") {
				t.Errorf("%s cut to %d bytes: incomplete %q", tt.name, cut, s.Incomplete)
			}
			if !ends {
				frames = max(0, cut-tt.header) / tt.each
				if want := fmt.Sprintf("frame %d", frames+1); !strings.Contains(s.Incomplete, want) {
					t.Errorf("%s cut to %d bytes: incomplete %q does not name %s", tt.name, cut, s.Incomplete, want)
				}
			}
			if s.Frames != uint64(frames) {
				t.Errorf("%s cut to %d bytes: %d frames, want %d", tt.name, cut, s.Frames, frames)
			}
		}
	}
}

func TestReplayDamage(t *testing.T) {
	file := smallPcap(3)
	huge := bytes.Clone(file)
	binary.LittleEndian.PutUint32(huge[24+70+8:], maxFrame+1)
	n := &ng{AppendByteOrder: binary.LittleEndian}
	n.section()
	n.iface(1, 0)
	n.enhanced(0, 1, synFrame(1), 54)
	head := bytes.Clone(n.b)
	badLength := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(bytes.Clone(head), 6), 11)
	big := &ng{AppendByteOrder: binary.LittleEndian, b: bytes.Clone(head)}
	big.enhanced(0, 1, make([]byte, maxFrame+1), 0)
	wide := &ng{AppendByteOrder: binary.LittleEndian, b: bytes.Clone(head)}
	wide.enhanced(0, 1, nil, 0, make([]byte, maxRecord)...)
	many := gz(smallPcap(3000))
	broken := bytes.Clone(many)
	broken[len(broken)-6] ^= 1 // checksum
	halves := zst(file[:100], file[100:])
	for _, tt := range []struct {
		name    string
		file    []byte
		frames  uint64
		corrupt bool
		tells   string
	}{
		{"pcap record too long", huge, 1, true, "262145 captured bytes"},
		{"pcapng block too short to be one", badLength, 1, true, "block length of 11"},
		{"pcapng packet too long", big.b, 1, true, "262145 captured bytes"},
		{"pcapng packet with too many options", wide.b, 1, true, "block of type 6"},
		{"pcapng empty packet", append(bytes.Clone(head), 6, 0, 0, 0, 12, 0, 0, 0, 12, 0, 0, 0), 1, true, "packet block of 0 bytes"},
		{"gzip cut off", many[:len(many)-9], 3000, false, "cut off"},
		{"gzip with a wrong checksum", broken, 3000, true, "checksum"},
		{"zstd cut off", halves[:len(halves)-6], 1, false, "cut off"},
		{"text after gzip", append(gz(file), "and so on and on"...), 3, true, "header"},
	} {
		s, err := replay(bytes.NewReader(tt.file), &tally{})
		if tt.corrupt != errors.Is(err, ErrCorrupt) || !tt.corrupt && err != nil {
			t.Errorf("%s: error %v", tt.name, err)
		}
		if !strings.Contains(s.Incomplete, tt.tells) {
			t.Errorf("%s: incomplete %q does not tell of %q", tt.name, s.Incomplete, tt.tells)
		}
		if s.Frames != tt.frames {
			t.Errorf("%s: %d frames, want %d", tt.name, s.Frames, tt.frames)
		}
	}
}

func TestReplayInputFails(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, cut := range []int{0, 3, 30, 100} {
		_, err := replay(io.MultiReader(bytes.NewReader(smallPcap(3)[:cut]), iotest.ErrReader(broken)), &tally{})
		if !errors.Is(err, broken) || errors.Is(err, ErrNotCapture) || errors.Is(err, ErrCorrupt) {
			t.Errorf("failing after %d bytes: error %v, want the reader's own", cut, err)
		}
	}
}

func TestReplayCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cfg := DefaultReplayConfig()
	cancel()
	var n tally
	s, err := Replay(ctx, bytes.NewReader(smallPcap(100)), cfg, &n)
	if !errors.Is(err, context.Canceled) || n.connections > 0 {
		t.Errorf("error %v after %d frames and %d events, want a prompt end", err, s.Frames, n.connections)
	}
}

func TestReplayStats(t *testing.T) {
	d := synFrame(1)
	file := pcapFile(binary.LittleEndian, 0xa1b23c4d, 1, 1, 0,
		rec{t: 2e9, data: d, len: 54}, rec{t: 1e9, data: synFrame(2), len: 60}, rec{t: 3e9, data: d[:20], len: 54})
	var got Progress
	cfg := DefaultReplayConfig()
	cfg.Progress = func(p Progress) { got = p }
	var n tally
	s, err := Replay(context.Background(), bytes.NewReader(file), cfg, &n)
	if err != nil {
		t.Fatal(err)
	}
	if s.Frames != 3 || s.Bytes != 168 || s.CapturedBytes != 128 || s.Truncated != 2 || s.First != 1e9 || s.Last != 3e9 {
		t.Errorf("stats %+v", s)
	}
	if want := (Progress{Bytes: int64(len(file)), Frames: 3}); got != want {
		t.Errorf("last progress %+v, want %+v", got, want)
	}
	if n.connections != 2 {
		t.Errorf("%d connections, want 2", n.connections)
	}
	checkReasons(t, "three frames", s)
}

func checkReasons(t *testing.T, name string, s Stats) {
	t.Helper()
	var sum uint64
	for _, n := range s.Reasons {
		sum += n
	}
	if sum != s.Frames {
		t.Errorf("%s: reasons add up to %d, frames to %d", name, sum, s.Frames)
	}
}

// TestReplayDecoder keeps one decoder over two files: the second copy of a SYN is a repeat.
func TestReplayDecoder(t *testing.T) {
	d, err := decode.New(decode.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	var n tally
	for range 2 {
		if _, err := Replay(context.Background(), bytes.NewReader(smallPcap(5)), ReplayConfig{Decoder: d}, &n); err != nil {
			t.Fatal(err)
		}
	}
	if n.connections != 5 {
		t.Errorf("%d connections from the same 5 SYNs in two files, want 5", n.connections)
	}
}

// TestReplayBounded claims much in few bytes: memory must not follow.
func TestReplayBounded(t *testing.T) {
	d, err := decode.New(decode.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	n := &ng{AppendByteOrder: binary.LittleEndian}
	n.section()
	n.iface(1, 1<<31)
	lying := binary.LittleEndian.AppendUint32(bytes.Clone(n.b), 6)
	lying = binary.LittleEndian.AppendUint32(lying, 1<<31-4)
	snap := pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, 1000, 0)
	binary.LittleEndian.PutUint32(snap[16:], 1<<31-1)
	for name, file := range map[string][]byte{
		"snap length of 2 GiB": append(snap, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f),
		"block of 2 GiB":       lying,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, _ := Replay(context.Background(), bytes.NewReader(file), ReplayConfig{Decoder: d}, &tally{})
		runtime.ReadMemStats(&after)
		if s.Incomplete == "" {
			t.Errorf("%s: taken for a whole file", name)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 4*maxRecord {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
}

func TestReplayAllocations(t *testing.T) {
	n := &ng{AppendByteOrder: binary.LittleEndian}
	n.section()
	n.iface(1, 0)
	for i := range 20000 {
		n.enhanced(0, uint64(i), synFrame(uint16(i)), 54)
	}
	for name, file := range map[string][]byte{"pcap": smallPcap(20000), "pcapng": n.b} {
		c, err := openCapture(&counter{r: bytes.NewReader(file)})
		if err != nil {
			t.Fatal(err)
		}
		k, w := &chunk{}, &walker{format: c.format, after: c.begin}
		k.fill(t.Context(), c) // no more than was needed to know the format
		w.walk(k)
		k.fill(t.Context(), c)
		begin, rest := *w, bytes.Clone(w.rest)
		if got := testing.AllocsPerRun(10, func() {
			kept := w.rest[:0]
			*w = begin
			w.rest = append(kept, rest...)
			w.walk(k)
		}); got > 0 || w.err != nil || len(k.frames) < 1000 {
			t.Errorf("%s: %v allocations for a chunk of %d frames, want none; error %v", name, got, len(k.frames), w.err)
		}
		c.close()
	}
}

// callLog keeps what a sink is told, and what the decoder's counters were then.
type callLog struct {
	bytes.Buffer
	asOf decode.Counters
}

func (l *callLog) Lookup(x *event.Lookup)         { fmt.Fprintf(l, "%+v %v\n", *x, l.asOf) }
func (l *callLog) Connection(x *event.Connection) { fmt.Fprintf(l, "%+v %v\n", *x, l.asOf) }

// replayed returns all that replaying b with so many cores tells, as text.
func replayed(t *testing.T, r io.Reader, cores int) string {
	t.Helper()
	var l callLog
	cfg := DefaultReplayConfig()
	cfg.Cores, cfg.AsOf = cores, &l.asOf
	s, err := Replay(t.Context(), r, cfg, &l)
	checkReasons(t, "the file", s)
	fmt.Fprintf(&l, "%+v %v", s, err)
	return l.String()
}

// TestReplayCores: however many cores share the work and however a file comes in pieces, the sink
// is told the same.
func TestReplayCores(t *testing.T) {
	n := &ng{AppendByteOrder: binary.BigEndian}
	n.section()
	n.iface(1, 0)
	for i := range 4500 {
		n.enhanced(0, uint64(i), synFrame(uint16(i)), 54, n.option(1, make([]byte, i%64)...)...)
		if i%1500 == 0 {
			n.block(5, make([]byte, 300_000)...) // longer than a chunk
			n.section()
			n.iface(1, 0)
		}
	}
	long := rec{t: 5e9, data: make([]byte, maxFrame), len: maxFrame} // longer than the headroom
	jumbo := pcapFile(binary.LittleEndian, 0xa1b2c3d4, 1, 1000, 0, long, rec{data: synFrame(1), len: 54}, long, long)
	damaged := smallPcap(5_000)
	binary.LittleEndian.PutUint32(damaged[24+4_000*70+8:], maxFrame+1)
	files := map[string][]byte{
		"pcap": smallPcap(5_000), "pcapng": n.b, "jumbo frames": jumbo, "damage": damaged,
		"cut off": smallPcap(5_000)[:300_000], "gzip": gz(smallPcap(5_000)), "zstd": zst(n.b),
	}
	shared, err := filepath.Glob(filepath.Join(sharedCaptures, "*.pcap*"))
	if err != nil || len(shared) == 0 {
		t.Log("without the shared captures, which are not here")
	}
	stored, err := filepath.Glob("../testdata/pcap/*.pcap*")
	if err != nil || len(stored) == 0 {
		t.Errorf("no captures in testdata: %v", err)
	}
	for _, path := range slices.Concat(shared, stored) {
		if files[path], err = os.ReadFile(path); err != nil {
			t.Error(err)
		}
	}
	for name, b := range files {
		want := replayed(t, bytes.NewReader(b), 1)
		for _, cores := range []int{2, 4, 16} {
			if got := replayed(t, bytes.NewReader(b), cores); got != want {
				t.Errorf("%s: with %d cores %d bytes are told, with one %d, and they differ", name, cores, len(got), len(want))
			}
		}
		if got := replayed(t, iotest.HalfReader(bytes.NewReader(b)), 2); got != want {
			t.Errorf("%s: read in pieces, it tells something else", name)
		}
	}
}

// TestReplayPipe: what a pipe holds reaches the sink, however long the rest takes.
func TestReplayPipe(t *testing.T) {
	for cores := 1; cores <= 4; cores++ {
		r, w := io.Pipe()
		events := make(chan uint16)
		done := make(chan error)
		go func() {
			cfg := DefaultReplayConfig()
			cfg.Cores = cores
			_, err := Replay(t.Context(), r, cfg, ports(events))
			done <- err
		}()
		file := smallPcap(50)
		w.Write(file[:24])
		for i := range 50 {
			w.Write(file[24+i*70:][:70])
			if got := <-events; got != uint16(1024+i) {
				t.Fatalf("%d cores: event from port %d, want %d", cores, got, 1024+i)
			}
		}
		w.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// ports tells of the source ports of connections.
type ports chan uint16

func (p ports) Lookup(*event.Lookup)           {}
func (p ports) Connection(c *event.Connection) { p <- c.Src.Port() }

// TestReplayShared holds the number of frames against an independent count.
func TestReplayShared(t *testing.T) {
	index, err := os.Open(filepath.Join(sharedCaptures, "INDEX.tsv"))
	if err != nil {
		skip(t, "the shared captures are not here: %v", err)
	}
	defer index.Close()
	files := 0
	for lines := bufio.NewScanner(index); lines.Scan(); {
		col := strings.Split(lines.Text(), "\t")
		want, err := strconv.ParseUint(col[4], 10, 64)
		if err != nil {
			continue // the headings
		}
		files++
		b, err := os.ReadFile(filepath.Join(sharedCaptures, col[0]))
		if err != nil {
			t.Error(err)
			continue
		}
		for name, r := range map[string]io.Reader{
			"plain": bytes.NewReader(b), "gzip": bytes.NewReader(gz(b)), "zstd": bytes.NewReader(zst(b)),
		} {
			s, err := replay(r, &tally{})
			if err != nil || s.Incomplete != "" || s.Frames != want {
				t.Errorf("%s, %s: %d frames, incomplete %q, error %v; want %d frames", col[0], name, s.Frames, s.Incomplete, err, want)
			}
			checkReasons(t, col[0], s)
		}
	}
	t.Logf("%d files", files)
	if files == 0 {
		t.Error("INDEX.tsv lists no file")
	}
}

// skip skips the test; with PORTOLAN_LIVE=1 it fails it, so that green means it ran.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("PORTOLAN_LIVE") == "1" {
		t.Fatalf("PORTOLAN_LIVE=1, but "+format, args...)
	}
	t.Skipf(format, args...)
}

func FuzzReplay(f *testing.F) {
	n := &ng{AppendByteOrder: binary.LittleEndian}
	n.section()
	n.iface(1, 0, n.option(9, 9)...)
	n.enhanced(0, 1, synFrame(1), 54)
	n.simple(synFrame(2), 54)
	n.obsolete(0, 1, synFrame(3), 54)
	f.Add(n.b)
	f.Add(smallPcap(2))
	f.Add(pcapFile(binary.BigEndian, 0xa1b2cd34, 1, 1000, 8, rec{data: synFrame(1), len: 54}))
	f.Add(gz(smallPcap(2)))
	f.Add(zst(smallPcap(2)))
	d, err := decode.New(decode.DefaultConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Replay(context.Background(), bytes.NewReader(b), ReplayConfig{Decoder: d}, &tally{})
		if err != nil && !errors.Is(err, ErrEmpty) && !errors.Is(err, ErrNotCapture) && !errors.Is(err, ErrCorrupt) &&
			!errors.Is(err, zstd.ErrWindowSizeExceeded) {
			t.Errorf("error %v is none of ours", err)
		}
		if (errors.Is(err, ErrEmpty) || errors.Is(err, ErrNotCapture)) && s.Frames > 0 {
			t.Errorf("%d frames and %v", s.Frames, err)
		}
		if errors.Is(err, ErrCorrupt) && s.Incomplete == "" {
			t.Errorf("%v, but not incomplete", err)
		}
		checkReasons(t, "input", s)
		if s.CapturedBytes > s.Bytes {
			t.Errorf("%d bytes captured of %d", s.CapturedBytes, s.Bytes)
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	d, err := decode.New(decode.DefaultConfig())
	if err != nil {
		b.Fatal(err)
	}
	const frames = 100_000
	plain := smallPcap(frames)
	for _, bb := range []struct {
		name string
		file []byte
	}{{"pcap", plain}, {"gzip", gz(plain)}, {"zstd", zst(plain)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := Replay(context.Background(), bytes.NewReader(bb.file), ReplayConfig{Decoder: d}, &tally{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/frames, "ns/frame")
		})
	}
}
