package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The committed captures are what the generator writes. What a compressor makes of the same
// bytes may change with its release, so those are compared unpacked.
func TestCommittedCapturesAreGenerated(t *testing.T) {
	dir := t.TempDir()
	if err := generate(dir); err != nil {
		t.Fatal(err)
	}
	committed := filepath.Join("..", "..", "..", "testdata", "pcap")
	for _, f := range files() {
		got, want := unpacked(t, filepath.Join(dir, f.name)), unpacked(t, filepath.Join(committed, f.name))
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what the generator writes; run go generate ./cmd/internal/pcapgen", f.name)
		}
	}
}

const largest = 50 << 10 // bytes of a capture on disk

func TestCapturesAreSmall(t *testing.T) {
	dir := t.TempDir()
	if err := generate(dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range files() {
		info, err := os.Stat(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > largest {
			t.Errorf("%s has %d bytes, more than %d", f.name, info.Size(), largest)
		}
	}
}

func unpacked(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r io.Reader
	switch {
	case strings.HasSuffix(path, ".gz"):
		r, err = gzip.NewReader(bytes.NewReader(b))
	case strings.HasSuffix(path, ".zst"):
		r, err = zstd.NewReader(bytes.NewReader(b))
	default:
		return b
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if b, err = io.ReadAll(r); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return b
}

// The vectors of DETECTION.
func TestArithmetic(t *testing.T) {
	for _, tt := range []struct{ name, got, want string }{
		{"half swap, Potassium", swapHalves("87.243.45.156"), "45.156.87.243"},
		{"half swap, Drifter", swapHalves("253.229.172.232"), "172.232.253.229"},
		{"Nymaim, first", nymaim("84.15.72.201"), "84.255.244.213"},
		{"Nymaim, second", nymaim("109.158.209.148"), "109.121.223.150"},
		{"Nymaim, third", nymaim("14.234.0.124"), "78.90.1.126"},
		{"Nymaim, fourth", nymaim("250.210.187.100"), "186.50.166.98"},
		{"Nymaim, checksum of one is itself", nymaimChecksum([]string{"192.0.2.1"}), "192.0.2.1"},
		{"XOR undoes itself", xored(xored("192.0.2.1", 0xE7708E59), 0xE7708E59), "192.0.2.1"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, tt.got, tt.want)
		}
	}
	if got := productPort("198.51.100.23"); got != 10198 {
		t.Errorf("198.51.100.23 gives port %d, want 10198", got)
	}
}
