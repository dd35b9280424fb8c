package dnstap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"portolan/cmd/internal/feed"
	"portolan/cmd/internal/feed/feedtest"
)

func number(b []byte, id int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(id)<<3), v)
}

func fixed(b []byte, id int, v uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.AppendUvarint(b, uint64(id)<<3|5), v)
}

func octets(b []byte, id int, v []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(id)<<3|2), uint64(len(v)))
	return append(b, v...)
}

// tapped is a message of a kind about an answer, to a client that may be unknown.
func tapped(t *testing.T, kind, transport uint64, client []byte) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.", dns.TypeA)
	m.Id, m.Response = 9, true
	rr, err := dns.NewRR("www.example. 60 IN A 192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	m.Answer = []dns.RR{rr}
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b := number(number(nil, fieldType, kind), fieldProtocol, transport)
	if client != nil {
		b = number(octets(b, fieldQueryAddr, client), fieldQueryPort, 4000)
	}
	b = fixed(number(b, fieldSec, 1), fieldNsec, 500_000_000)
	return number(octets(octets(nil, 1, []byte("ns1")), dnstapMessage, octets(b, fieldResponse, wire)), 15, 1)
}

func data(messages ...[]byte) (b []byte) {
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	return b
}

func control(kind uint32, contentType string) []byte {
	b := binary.BigEndian.AppendUint32(nil, kind)
	if contentType != "" {
		b = binary.BigEndian.AppendUint32(b, fieldContentType)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(contentType))), contentType...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0}, uint32(len(b))), b...)
}

// all reads a stream to its end.
func all(stream []byte, reply io.Writer) (text string, refused []error, p *Parser, end error) {
	p, log := New(), &feedtest.Log{}
	frames := NewFrames(bufio.NewReader(bytes.NewReader(stream)), reply)
	for {
		b, err := frames.Next()
		if err != nil && !feed.Skips(err) {
			return log.String(), refused, p, err
		}
		if err == nil {
			err = p.Line(b, log)
		}
		if err != nil {
			refused = append(refused, err)
		}
	}
}

func TestMessages(t *testing.T) {
	const (
		clientQuery, resolverResponse = 5, 4
		udp, tls                      = 1, 3
	)
	client := []byte{192, 0, 2, 7}
	stream := bytes.Join([][]byte{
		control(controlStart, ContentType),
		data(tapped(t, clientResponse, udp, client), tapped(t, clientQuery, udp, client), tapped(t, resolverResponse, udp, client)),
		data(tapped(t, clientResponse, tls, nil), make([]byte, maxMessage+1), []byte("no protocol buffer")),
		control(controlStop, ""),
		control(controlStart, ""), // the file was opened anew
		data(tapped(t, authResponse, tls, client)),
		control(controlStop, ""),
	}, nil)
	if !Recognise(stream) {
		t.Error("not recognised")
	}
	text, refused, p, end := all(stream, nil)
	const udpLine = "1.5s     lookup     client=192.0.2.7:4000 id=9 name=www.example ttl=60 a=192.0.2.1\n"
	const tcpLine = "1.5s     lookup     client=192.0.2.7:4000 proto=tcp id=9 name=www.example ttl=60 a=192.0.2.1\n"
	if text != udpLine+tcpLine {
		t.Errorf("got\n%s", text)
	}
	want := []error{errClient, errLong, errProtobuf}
	if !slices.EqualFunc(refused, want, errors.Is) {
		t.Errorf("refused %v, want %v", refused, want)
	}
	if want := feed.NoConns | feed.NoVLAN | feed.ForeignClock | feed.NoClient; p.Limits() != want || !errors.Is(end, io.EOF) {
		t.Errorf("limits %s, want %s; %v", p.Limits(), want, end)
	}
}

// A writer that connects offers what it has, is accepted, and gets an answer when it stops.
func TestHandshake(t *testing.T) {
	var reply bytes.Buffer
	stream := append(control(controlReady, ContentType), control(controlStart, ContentType)...)
	_, _, _, end := all(append(stream, control(controlStop, "")...), &reply)
	if want := append(control(controlAccept, ContentType), control(controlFinish, "")...); !errors.Is(end, io.EOF) || !bytes.Equal(reply.Bytes(), want) {
		t.Errorf("answered % x, %v; want % x", reply.Bytes(), end, want)
	}
}

func TestBrokenStreams(t *testing.T) {
	begun := control(controlStart, ContentType)
	for name, stream := range map[string][]byte{
		"another content":         control(controlReady, "protobuf:other"),
		"data before its start":   data([]byte("x")),
		"a control frame too big": {0, 0, 0, 0, 0, 1, 0, 0},
		"a control frame unknown": control(77, ""),
		"cut within a message":    append(bytes.Clone(begun), 0, 0, 0, 9, 1),
		"cut within a long one":   append(bytes.Clone(begun), 0x7f, 0, 0, 0, 1),
		"cut within its control":  begun[:10],
	} {
		if _, _, _, end := all(stream, nil); end == nil || errors.Is(end, io.EOF) {
			t.Errorf("%s: ends with %v", name, end)
		}
	}
}
