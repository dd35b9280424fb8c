package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// BenchmarkReplay holds replay, everything on up to the correlator, against tcpdump with a filter
// for what matters, on one file of 500 bytes a frame that is in the page cache. Each round runs
// tcpdump, replay on one core and replay on two, one after the other, so that whatever else the machine does
// meets all three. Printed are medians over the rounds: millions of frames a second by the clock, and by the
// processor time that was used, which other work disturbs less.
//
//	go test ./cmd/portolan -run '^$' -bench Replay -benchtime 9x
func BenchmarkReplay(b *testing.B) {
	const frames = 4_000_000 // what starting takes is then a few per cent
	if _, err := exec.LookPath("tcpdump"); err != nil {
		b.Skip(err)
	}
	path := filepath.Join(b.TempDir(), "mix.pcap")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if err := mixBase(frames).write(f); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	runs := []struct {
		name  string
		procs int
		args  []string
	}{
		{"tcpdump", 0, []string{"tcpdump", "-r", path, "udp src port 53 or tcp[13]=2", "-w", os.DevNull}},
		{"one", 1, []string{"portolan", "replay", "--cores", "1", path}},
		{"two", 2, []string{"portolan", "replay", "--cores", "2", path}},
	}
	var wall, used [3][]float64 // seconds
	for b.Loop() {
		for i, r := range runs {
			c := exec.Command(r.args[0], r.args[1:]...)
			c.Env = os.Environ()
			if r.procs > 0 {
				c.Env = append(c.Env, fmt.Sprintf("GOMAXPROCS=%d", r.procs))
			}
			c.Stdout, c.Stderr = io.Discard, io.Discard
			begin := time.Now()
			if err := c.Run(); err != nil {
				b.Fatalf("%v: %v", r.args, err)
			}
			wall[i] = append(wall[i], time.Since(begin).Seconds())
			used[i] = append(used[i], (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds())
		}
	}
	for i, r := range runs {
		b.ReportMetric(frames/median(wall[i])/1e6, r.name+"-M/s")
		b.ReportMetric(frames/median(used[i])/1e6, r.name+"-cpu-M/s")
	}
	b.ReportMetric(median(wall[0])/median(wall[1]), "×tcpdump")
	b.ReportMetric(median(used[0])/median(used[1]), "×tcpdump-cpu")
	if runtime.NumCPU() > 1 {
		b.ReportMetric(median(wall[1])/median(wall[2]), "×two-cores")
	}
	b.ReportMetric(0, "ns/op")
}
