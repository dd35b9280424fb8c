package powerdns

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"portolan/cmd/internal/feed/feedtest"
)

func number(b []byte, id int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(id)<<3), v)
}

func octets(b []byte, id int, v []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(id)<<3|2), uint64(len(v)))
	return append(b, v...)
}

// response is what dnsdist tells of a response, from the documentation's definition of the message.
func response(kind uint64, client []byte) []byte {
	b := number(nil, fieldType, kind)
	b = octets(b, fieldMessageID, make([]byte, 16))
	b = number(b, fieldProtocol, protocolUDP)
	if client != nil {
		b = octets(b, fieldFrom, client)
	}
	b = octets(b, fieldTo, []byte{192, 0, 2, 53})
	b = number(b, fieldSec, 1)
	b = number(b, fieldMicro, 500_000)
	b = number(b, fieldID, 9)
	b = octets(b, fieldQuestion, number(octets(nil, questionName, []byte("WWW.example.")), questionType, 1))
	a := octets(nil, rrName, []byte("www.example."))
	a = octets(number(number(a, rrType, 1), rrTTL, 60), rrData, []byte{192, 0, 2, 1})
	cname := octets(number(octets(nil, rrName, []byte("www.example.")), rrType, 5), rrData, []byte("web.example."))
	b = octets(b, fieldResponse, octets(octets(number(nil, responseRCode, 0), responseRR, cname), responseRR, a))
	return number(number(b, fieldFromPort, 4000), fieldToPort, 53)
}

func framed(messages ...[]byte) (b []byte) {
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

func TestMessages(t *testing.T) {
	const query = 1
	client := []byte{192, 0, 2, 7}
	file := framed(response(query, client), response(typeResponse, client), response(typeResponse, nil))
	if !Recognise(file) {
		t.Error("not recognised")
	}
	frames, p, log := NewFrames(bufio.NewReader(bytes.NewReader(append(file, 0, 9, 1)))), New(), &feedtest.Log{}
	var refused []error
	for {
		b, err := frames.Next()
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("a message that is cut: %v", err)
			}
			break
		}
		if err := p.Line(b, log); err != nil {
			refused = append(refused, err)
		}
	}
	if want := "1.5s     lookup     client=192.0.2.7:4000 resolver=192.0.2.53:53 id=9 name=www.example ttl=60 a=192.0.2.1\n"; log.String() != want {
		t.Errorf("got\n%swant\n%s", log, want)
	}
	if len(refused) != 1 || !errors.Is(refused[0], errClient) {
		t.Errorf("refused %v", refused)
	}
}

func TestNotRecognised(t *testing.T) {
	for _, s := range []string{"", "\x00", "\x00\x04\x08\x02\x08\x02", "GET / HTTP/1.1\r\n", "\x00\x00\x00\x00", "\x00\x02\x08\x09"} {
		if Recognise([]byte(s)) {
			t.Errorf("%q is taken for messages of PowerDNS", s)
		}
	}
}
