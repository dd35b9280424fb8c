package correlate

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the hits of testdata/story")

// TestStories reads each story's events and compares the final hits with those it tells.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("../testdata/story/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(a.Files) != 2 || a.Files[0].Name != "events" || a.Files[1].Name != "hits" {
				t.Fatal("a story has two parts, events and hits")
			}
			hits := finals(run(t, DefaultConfig(), string(a.Files[0].Data)))
			slices.SortFunc(hits, func(x, y Hit) int { return cmp.Compare(x.Connection.Time, y.Connection.Time) })
			var got []byte
			for _, h := range hits {
				got = append(got, storyLine(&h)...)
			}
			if *update {
				a.Files[1].Data = got
				if err := os.WriteFile(file, txtar.Format(a), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, a.Files[1].Data) {
				t.Errorf("hits are\n%swant\n%s", got, a.Files[1].Data)
			}
		})
	}
}

func storyLine(h *Hit) string {
	x := &h.Connection
	s := fmt.Sprintf("%-8s %-5s src=%s dst=%s proto=%s name=%s lag=%s via=%s answers=%d support=%d e=%.2g calc=%q",
		x.Time.Sub(0), h.Level, x.Src, x.Dst, x.Proto, h.Lookup.Name, h.Lookup.Lag, h.Lookup.Via, h.Calc.Answers, h.Calc.SupportTrials,
		h.Calc.EValue, h.Calc.Hypothesis+": "+h.Calc.Expression)
	if x.Zone.String() != "0" {
		s += " zone=" + x.Zone.String()
	}
	for _, a := range h.Calc.Alternatives {
		s += " or=" + a.Hypothesis
	}
	return s + "\n"
}
