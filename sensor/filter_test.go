package sensor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/net/bpf"

	"portolan/bpffilter"
	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// journal writes events down.
type journal []string

func (j *journal) Lookup(l *event.Lookup)         { *j = append(*j, fmt.Sprintf("%+v", *l)) }
func (j *journal) Naming(n *event.Naming)         { *j = append(*j, fmt.Sprintf("%+v", *n)) }
func (j *journal) Connection(c *event.Connection) { *j = append(*j, fmt.Sprintf("%+v", *c)) }

// TestFilterKeepsEvents decodes each capture twice, whole and filtered: the events are the same.
func TestFilterKeepsEvents(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sharedCaptures, "*.pcap*"))
	if err != nil || len(files) == 0 {
		skip(t, "the shared captures are not here")
	}
	filters := map[decode.LinkType]*bpf.VM{
		decode.Ethernet: filterVM(t, bpffilter.Options{SnapLen: maxFrame}),
		decode.Raw:      filterVM(t, bpffilter.Options{SnapLen: maxFrame, RawIP: true}),
	}
	filters[decode.Raw12], filters[decode.IPv4], filters[decode.IPv6] = filters[decode.Raw], filters[decode.Raw], filters[decode.Raw]
	frames, dropped, events := 0, 0, 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := readAll(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		whole, filtered := newSmallDecoder(t), newSmallDecoder(t)
		var want, got journal
		for i, r := range recs {
			f := r.frame(i + 1)
			filter := filters[f.Link]
			if filter == nil {
				continue // no interface gives such frames to a packet socket
			}
			frames++
			whole.Decode(&f, &want)
			keep, err := filter.Run(f.Data)
			if err != nil {
				t.Fatal(err)
			}
			if keep == 0 {
				dropped++
				continue
			}
			filtered.Decode(&f, &got)
		}
		events += len(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d events behind the filter, %d without it", filepath.Base(file), len(got), len(want))
		}
	}
	t.Logf("%d of %d frames dropped (%.1f %%), %d events", dropped, frames, 100*float64(dropped)/float64(frames), events)
	if dropped == 0 || events == 0 {
		t.Error("nothing was told apart")
	}
}

func filterVM(t *testing.T, o bpffilter.Options) *bpf.VM {
	t.Helper()
	raw, err := bpffilter.Assemble(o)
	if err != nil {
		t.Fatal(err)
	}
	ins, _ := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// newSmallDecoder returns a decoder with little memory, for tests that need many.
func newSmallDecoder(t testing.TB) *decode.Decoder {
	t.Helper()
	cfg := decode.DefaultConfig()
	cfg.Starts, cfg.Flows, cfg.Streams = 1<<13, 1<<13, 1<<10
	cfg.FragmentBytes, cfg.StreamBytes = 1<<20, 1<<20
	d, err := decode.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
