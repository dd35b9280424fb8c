package main

import (
	"os"
	"strings"
	"testing"
)

// The README shows what the program really prints.
func TestReadmeShowsRealOutput(t *testing.T) {
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	const command = "$ go run ./cmd/portolan "
	_, after, ok := strings.Cut(string(b), command+"replay")
	if !ok {
		t.Fatalf("README.md shows no %sreplay", command)
	}
	line, after, _ := strings.Cut("replay"+after, "\n")
	shown, _, _ := strings.Cut(after, "\n…\n")
	args := strings.Fields(line)
	for i, a := range args {
		args[i] = strings.Replace(a, "testdata/", "../../testdata/", 1)
	}
	printed := outputOf(t, args...)
	if !strings.HasPrefix(printed, shown) || len(shown) < 500 {
		t.Errorf("%s%s prints\n%s\nREADME.md shows\n%s", command, line, printed, shown)
	}
}
