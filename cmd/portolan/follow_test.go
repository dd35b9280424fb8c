package main

import (
	"fmt"
	"testing"

	"portolan/cmd/internal/bus"
)

func revision(id string, n uint32, state, level string) *bus.Message {
	return &bus.Message{Portolan: bus.Portolan{HitID: id, Revision: n, State: state, Level: level}}
}

func TestFollowerShowsWhatMatters(t *testing.T) {
	type step struct {
		revision     uint32
		state, level string
		want         bool
	}
	for _, tt := range []struct {
		name  string
		all   bool
		steps []step
	}{
		{"final says nothing new", false, []step{{1, "provisional", "alert", true}, {2, "final", "alert", false}}},
		{"a level that rises", false, []step{{1, "provisional", "watch", true}, {2, "provisional", "alert", true}, {3, "final", "alert", false}}},
		{"a level that falls", false, []step{{1, "provisional", "alert", true}, {2, "final", "watch", true}}},
		{"taken back", false, []step{{1, "provisional", "alert", true}, {2, "retracted", "alert", true}, {3, "retracted", "alert", false}}},
		{"taken back before it was seen", false, []step{{2, "retracted", "alert", false}}},
		{"with the process", false, []step{{1, "final", "alert", true}, {2, "enriched", "alert", true}}},
		{"old revisions come late", false, []step{{3, "final", "alert", true}, {1, "provisional", "watch", false}, {3, "final", "alert", false}}},
		{"every revision", true, []step{{1, "provisional", "alert", true}, {2, "final", "alert", true}, {2, "final", "alert", false}}},
	} {
		f := newFollower(tt.all)
		for i, s := range tt.steps {
			if got := f.matters(revision("h", s.revision, s.state, s.level)); got != s.want {
				t.Errorf("%s, step %d: shown %v, want %v", tt.name, i, got, s.want)
			}
		}
	}
}

func TestFollowerIsBounded(t *testing.T) {
	f := newFollower(false)
	for i := range followed + 10 {
		f.matters(revision(fmt.Sprint(i), 1, "provisional", "alert"))
	}
	if n := len(f.shown); n > followed {
		t.Errorf("%d hits remembered, want at most %d", n, followed)
	}
	if f.matters(revision(fmt.Sprint(followed+9), 1, "provisional", "alert")) {
		t.Error("the newest hit was forgotten")
	}
}
