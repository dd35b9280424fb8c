package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// machine is one whose senders and whose receiver can do so much, and which now and then does less.
type machine struct {
	senders, receiver float64
	stalls            map[int]bool // trials in which something else had the CPU
	lag               bool         // a ring holds what is too much: nothing is lost, but it comes late
	trials            int
}

func (m *machine) try(rate float64) (t trial, err error) {
	m.trials++
	if rate == 0 || rate > m.senders {
		rate = m.senders
	}
	t = trial{Rate: rate, Offered: uint64(rate)}
	switch over := rate - m.receiver; {
	case m.stalls[m.trials]:
		t.Lost.Ring = 17
	case over <= 0:
	case m.lag:
		t.Backlog = time.Second
	default:
		t.Lost.Ring = uint64(over) + 1
	}
	return t, nil
}

func TestSearch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		m      machine
		want   float64
		worse  bool
		trials int
	}{
		{"the senders are the limit", machine{senders: 1e6, receiver: 2e6}, 1e6, false, 1},
		{"a stall is tried again", machine{senders: 1e6, receiver: 2e6, stalls: map[int]bool{1: true}}, 1e6, false, 2},
		{"the receiver is the limit", machine{senders: 1e6, receiver: 7e5}, 7e5, true, 20},
		{"little less than the senders can do", machine{senders: 1e6, receiver: 9.9e5}, 9.9e5, true, 20},
		{"what is lost does not tell the limit", machine{senders: 1e6, receiver: 3e5, lag: true}, 3e5, true, 20},
		{"stalls at the limit", machine{senders: 1e6, receiver: 7e5, stalls: map[int]bool{3: true, 5: true, 8: true}}, 7e5, true, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found, err := search(tt.m.try)
			if err != nil {
				t.Fatal(err)
			}
			if !found.best.clean() || found.best.Rate > tt.want || found.best.Rate < 0.95*tt.want || tt.m.trials > tt.trials {
				t.Errorf("%.0f after %d trials, want about %.0f", found.best.Rate, tt.m.trials, tt.want)
			}
			if (found.worse != nil) != tt.worse || tt.worse && (found.worse.clean() || found.worse.Rate <= found.best.Rate) {
				t.Errorf("loss %v beside %v", found.worse, found.best)
			}
		})
	}
	failed := errors.New("wire down")
	if _, err := search(func(float64) (trial, error) { return trial{}, failed }); !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
}

func TestLoadTable(t *testing.T) {
	lossy := trial{Rate: 9e5, Offered: 1e6, Lost: lostFrames{Ring: 12345}}
	o := loadOutcome{Mix: "syn", Contents: "SYNs", Senders: 1, CPUs: 2, Rounds: 3, Seconds: 1}
	o.add("bare ring", []searched{{best: trial{Rate: 1e6, CPU: 50}}})
	o.add("all", []searched{
		{best: trial{Rate: 9e5}}, {best: trial{Rate: 8e5, CPU: 600}, worse: &lossy}, {best: trial{Rate: 1e5, Gap: 2 * time.Millisecond}},
	})
	var text, object bytes.Buffer
	if err := errors.Join(o.write(&text), o.writeJSON(&object)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 CPU of 2 send; medians of 3 rounds",
		"bare ring                   1000000      1000       50    1.00          -        0s  none: the senders can no more",
		"all                          800000      1250      600    0.80        2ms        0s  at 900000/s: ring 1.2 %",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	var back loadOutcome
	if err := json.Unmarshal(object.Bytes(), &back); err != nil || len(back.Stages) != 2 || math.Abs(back.Stages[1].Share-0.8) > 1e-9 {
		t.Errorf("%s read back: %+v, %v", &object, back, err)
	}
}
