package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCoresChangeNothing: replay prints the same, byte for byte, however many cores share the work.
func TestCoresChangeNothing(t *testing.T) {
	stored, err := filepath.Glob("../../testdata/pcap/*.pcap*")
	if err != nil || len(stored) == 0 {
		t.Fatalf("no captures in testdata: %v", err)
	}
	shared, err := filepath.Glob("../../../shared/captures/*.pcap*")
	if err != nil || len(shared) == 0 {
		t.Log("without the shared captures, which are not here")
	}
	hits := 0
	for _, path := range slices.Concat(stored, shared) {
		var want string
		for _, cores := range []string{"1", "2", "4"} {
			out := outputOf(t, "replay", "--json", "--sensor", "t", "--cores", cores, path)
			if cores == "1" {
				want = out
				hits += strings.Count(out, "\n")
			} else if out != want {
				t.Errorf("%s: with %s cores\n%s\nand with one\n%s", path, cores, out, want)
			}
		}
	}
	if hits == 0 {
		t.Error("no hit in any of them")
	}
}

// TestCoresChangeNoHit does the same with generated traffic. The tables of the correlator are
// seeded anew each time, so which of two hits of a second comes first is not the same on one core
// either, nor what chance reaches.
func TestCoresChangeNoHit(t *testing.T) {
	c := mixBase(100_000)
	c.world.Clients, c.tagged, c.opening = 200, true, .3
	path := filepath.Join(t.TempDir(), "mix.pcap")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var want string
	for _, cores := range []string{"1", "2", "4"} {
		got := hitFacts(t, outputOf(t, "replay", "--json", "--sensor", "t", "--cores", cores, path))
		if cores == "1" {
			want = got
		} else if got != want {
			t.Errorf("with %s cores\n%s\nand with one\n%s", cores, got, want)
		}
	}
	t.Logf("%d hits", strings.Count(want, "\n"))
	if !strings.Contains(want, "alert") {
		t.Error("no alert among the hits")
	}
}

// hitFacts returns what stands in hits, apart from what chance reached, in one order.
func hitFacts(t *testing.T, out string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(out) {
		var h struct {
			Message     string
			Source      any
			Destination any
			DNS         any
			Portolan    struct {
				ID       string `json:"hit_id"`
				Revision int
				State    string
				Level    string
				Calc     struct{ Hypothesis, Expression string }
				Lookup   any
				Timing   any
				Coverage struct{ Client, Directions any }
			}
		}
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%+v\n", h))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
