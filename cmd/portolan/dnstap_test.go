package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portolan/cmd/internal/feed/dnstap"
)

// TestRunDnstap: without a device a sensor still takes in what a DNS server tells, refuses what has no client or is
// of a time to come, and says so in the end.
func TestRunDnstap(t *testing.T) {
	dir, err := os.MkdirTemp("", "tap") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	none, socket := filepath.Join(dir, "none.yaml"), filepath.Join(dir, "sock")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var said output
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	p := &program{stdin: strings.NewReader(""), stdout: &said, stderr: &said, environ: []string{"PORTOLAN_CONFIG=" + none}}
	go func() {
		ended <- p.run(ctx, []string{"run", "--dnstap", "unix:" + socket, "--listen", "", "--state-dir", filepath.Join(dir, "state")})
	}()
	said.await(t, "msg=capturing")

	writer, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	frame := func(kind uint32, content string) []byte {
		b := binary.BigEndian.AppendUint32(nil, kind)
		if content != "" {
			b = append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, 1), uint32(len(content))), content...)
		}
		return append(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0}, uint32(len(b))), b...)
	}
	message := func(client string, at time.Time) []byte {
		dns := "\x00\x09\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01"
		m := "\x08\x06\x18\x01"
		if client != "" {
			m += "\x22\x04" + client
		}
		m += "\x60" + string(binary.AppendUvarint(nil, uint64(at.Unix()))) + "\x72" + string(rune(len(dns))) + dns
		m = "\x72" + string(rune(len(m))) + m
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)
	}
	const ready, start, stop = 4, 2, 3
	send := append(frame(ready, dnstap.ContentType), frame(start, dnstap.ContentType)...)
	send = append(send, message("\x0a\x00\x00\x07", time.Now())...)
	send = append(send, message("", time.Now())...)
	send = append(send, message("\x0a\x00\x00\x07", time.Now().Add(time.Hour))...)
	if _, err := writer.Write(append(send, frame(stop, "")...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(writer, make([]byte, len(frame(1, dnstap.ContentType))+len(frame(5, "")))); err != nil {
		t.Fatalf("no answers to the handshake and to its end: %v", err)
	}
	cancel()
	if status := <-ended; status != exitDone {
		t.Errorf("ended with status %d", status)
	}
	for _, want := range []string{"lookups       1, of 1 client", "dnstap: 1 lookup of 3 messages, refused 1 without client, 1 of a clock that is ahead"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in:\n%s", want, &said)
		}
	}
}
