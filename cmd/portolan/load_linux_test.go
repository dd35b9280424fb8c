package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"portolan/cmd/internal/lab"
)

// needWire skips a test where no load can be sent.
func needWire(t *testing.T) {
	t.Helper()
	w, err := lab.NewWire(lab.MixSYN, []int{0})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		if os.Getenv("PORTOLAN_LIVE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// At a rate that any machine can bear no stage loses a frame or an event, behind any prefilter.
func TestLoadWithoutLoss(t *testing.T) {
	needWire(t)
	none := t.TempDir() + "/none.yaml"
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mix := range lab.Mixes() {
		var out, said bytes.Buffer
		p := &program{stdin: strings.NewReader(""), stdout: &out, stderr: &said, environ: []string{"PORTOLAN_CONFIG=" + none}}
		args := []string{"lab", "--load", "--json", "--mix", string(mix), "--rate", "3000", "--rounds", "1", "--memory", "16MiB"}
		if status := p.run(t.Context(), args); status != exitDone {
			t.Fatalf("%s: status %d\n%s", args, status, &said)
		}
		var o loadOutcome
		if err := json.Unmarshal(out.Bytes(), &o); err != nil {
			t.Fatalf("%s: %v", &out, err)
		}
		if len(o.Stages) < 4 {
			t.Errorf("%s: stages %+v", mix, o.Stages)
		}
		for _, s := range o.Stages {
			if s.Best.Offered == 0 || s.Best.Lost.total() != 0 {
				t.Errorf("%s, %s: of %d frames lost %+v", mix, s.Name, s.Best.Offered, s.Best.Lost)
			}
		}
	}
}
