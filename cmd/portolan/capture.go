package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"portolan/sensor"
	"portolan/sensor/event"
)

// captureArgs checks that there is a file to read, and standard input at most once.
func captureArgs(command string, args []string) error {
	if len(args) == 0 {
		return &usageError{
			text: command + ": name a capture file",
			hint: "- stands for standard input; portolan help " + command + " has an example",
		}
	}
	stdin := 0
	for _, a := range args {
		if a == "-" {
			stdin++
		}
	}
	if stdin > 1 {
		return usagef("%s: standard input can be read only once", command)
	}
	return nil
}

// readCapture replays the capture file at path, "-" for standard input, into sink. The
// error names the file; statistics hold for what was read before it.
func (p *program) readCapture(ctx context.Context, path string, cfg sensor.ReplayConfig, to event.Sink) (sensor.Stats, error) {
	name, r := path, p.stdin
	if path == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return sensor.Stats{}, err
		}
		defer f.Close()
		r = f
	}
	stats, err := sensor.Replay(ctx, r, cfg, to)
	switch {
	case err == nil:
		return stats, nil
	case errors.Is(err, context.Canceled):
		return stats, context.Cause(ctx)
	case errors.Is(err, sensor.ErrNotCapture):
		err = withHint(err, "pcap and pcapng are read, plain or in gzip or zstd; the command file tells what it is")
	case errors.Is(err, sensor.ErrEmpty):
		err = withHint(err, "nothing was captured, or the program that writes it has not flushed yet")
	case errors.Is(err, sensor.ErrCorrupt):
		err = withHint(err, "what came before the damage counts; the rest of the file cannot be found")
	}
	return stats, fmt.Errorf("read %s: %w", name, err)
}

// captureName returns what stands for a capture file in records: its base name.
func captureName(path string) string {
	if path == "-" {
		return "-"
	}
	return filepath.Base(path)
}

// meter shows on stderr how far the reading of one file has come, on one line that it
// writes over. Off, it shows nothing.
type meter struct {
	to    io.Writer
	name  string
	size  int64 // of the file in bytes; 0 when unknown
	start time.Time
	on    bool
	wrote bool
}

func (p *program) newMeter(path string, on bool) *meter {
	m := &meter{to: p.stderr, name: captureName(path), start: time.Now(), on: on}
	var info os.FileInfo
	var err error
	if f, ok := p.stdin.(*os.File); path == "-" && ok {
		info, err = f.Stat()
	} else {
		info, err = os.Stat(path)
	}
	if err == nil && info.Mode().IsRegular() {
		m.size = info.Size()
	}
	return m
}

// show is a sensor.ReplayConfig.Progress.
func (m *meter) show(n sensor.Progress) {
	elapsed := time.Since(m.start)
	if !m.on || elapsed < 400*time.Millisecond && !m.wrote {
		return // short work needs no progress
	}
	m.wrote = true
	fmt.Fprintf(m.to, "\r\x1b[K%s: %s", m.name, m.text(n, elapsed))
}

// text says how far the reading has come after so long. Of a compressed file the bytes are
// those of the file as it is.
func (m *meter) text(n sensor.Progress, elapsed time.Duration) string {
	share, left := "", ""
	if m.size > 0 && n.Bytes > 0 {
		share = fmt.Sprintf(" of %s, %.0f %%", bytesText(m.size), 100*float64(n.Bytes)/float64(m.size))
		rest := time.Duration(float64(elapsed) * float64(max(0, m.size-n.Bytes)) / float64(n.Bytes))
		left = fmt.Sprintf(", %v left", rest.Round(time.Second))
	}
	seconds := elapsed.Seconds()
	return fmt.Sprintf("%s%s, %d frames, %.0f frames/s, %s/s%s", bytesText(n.Bytes), share, n.Frames,
		float64(n.Frames)/seconds, bytesText(int64(float64(n.Bytes)/seconds)), left)
}

// clear takes the line away before something else is written.
func (m *meter) clear() {
	if m.wrote {
		fmt.Fprint(m.to, "\r\x1b[K")
		m.wrote = false
	}
}

// bytesText returns a number of bytes for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, names := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; v >= unit && i < len(names)-1; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %s", v, names[i])
}

// isTerminal says whether w is a terminal that can do more than print lines.
func (p *program) isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || p.getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// useColor says whether what is written to w may be coloured (https://no-color.org).
func (p *program) useColor(w io.Writer) bool { return p.isTerminal(w) && p.getenv("NO_COLOR") == "" }
