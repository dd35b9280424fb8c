// Command pcapgen writes the captures of testdata/pcap: small networks in which benign
// clients look names up and connect, and implants calculate where they connect to. The
// implants' arithmetic is written here a second time, apart from the sensor's catalogue.
// The same source gives the same frames.
package main

import (
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/klauspost/compress/zstd"
)

//go:generate go run . -o ../../../testdata/pcap

func main() {
	dir := flag.String("o", "testdata/pcap", "directory to write to")
	flag.Parse()
	if err := generate(*dir); err != nil {
		fmt.Fprintf(os.Stderr, "pcapgen: %v\n", err)
		os.Exit(1)
	}
}

// file is one capture: what happens in it, and how it is written.
type file struct {
	name     string
	make     func(*scene)
	write    func(io.Writer, []frame) error
	compress func(io.Writer) (io.WriteCloser, error) // nil for none
}

func files() []file {
	list := []file{
		{name: "half-swap.pcap", make: halfSwap, write: writeMicro},
		{name: "half-swap-qinq.pcap", make: halfSwapTagged, write: writeNano},
		{name: "mul-add.pcap", make: mulAdd, write: writeMicro},
		{name: "nymaim.pcap", make: nymaimFamily, write: writeMicro},
		{name: "xor-known.pcap.zst", make: xorKnown, write: writeMicro, compress: toZstd},
		{name: "txt-xor.pcapng.gz", make: txtXOR, write: writeNg, compress: toGzip},
		{name: "benign.pcap", make: benignOnly, write: writeMicro},
	}
	for _, t := range tunnels() {
		list = append(list, file{name: filepath.Join("tunnel", t.name+".pcap"), make: t.scene, write: writeMicro})
	}
	return list
}

// generate writes every capture into dir.
func generate(dir string) error {
	for _, f := range files() {
		if err := f.create(filepath.Join(dir, f.name)); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

func (f *file) create(path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	s := newScene()
	f.make(s)
	frames, err := s.finish()
	if err != nil {
		return err
	}
	if f.compress == nil {
		return f.write(out, frames)
	}
	z, err := f.compress(out)
	if err != nil {
		return err
	}
	if err := f.write(z, frames); err != nil {
		return err
	}
	return z.Close()
}

const snapLength = 65535 // bytes

func writeMicro(w io.Writer, frames []frame) error { return writePcap(pcapgo.NewWriter(w), frames) }

func writeNano(w io.Writer, frames []frame) error { return writePcap(pcapgo.NewWriterNanos(w), frames) }

func writePcap(w *pcapgo.Writer, frames []frame) error {
	if err := w.WriteFileHeader(snapLength, layers.LinkTypeEthernet); err != nil {
		return err
	}
	for _, f := range frames {
		if err := w.WritePacket(f.info(0), f.data); err != nil {
			return err
		}
	}
	return nil
}

// writeNg writes pcapng with one interface. Its section header names no machine, so that
// the bytes are the same everywhere.
func writeNg(out io.Writer, frames []frame) error {
	w, err := pcapgo.NewNgWriterInterface(out, pcapgo.NgInterface{
		Name:       "mirror0",
		LinkType:   layers.LinkTypeEthernet,
		SnapLength: snapLength,
	}, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "pcapgen"}})
	if err != nil {
		return err
	}
	for _, f := range frames {
		if err := w.WritePacket(f.info(0), f.data); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (f *frame) info(iface int) gopacket.CaptureInfo {
	return gopacket.CaptureInfo{Timestamp: f.time, CaptureLength: len(f.data), Length: len(f.data), InterfaceIndex: iface}
}

func toGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }

func toZstd(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
}
