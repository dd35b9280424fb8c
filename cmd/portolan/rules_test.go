package main

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// listed is what go list tells of a package; tests are left out.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,CgoFiles,Imports", "portolan/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

// within says whether path is one of the packages, or below one that ends with /... .
func within(path string, list ...string) bool {
	return slices.ContainsFunc(list, func(pattern string) bool {
		root, below := strings.CutSuffix(pattern, "/...")
		return path == root || below && strings.HasPrefix(path, root+"/")
	})
}

// ours says which packages of this module each part may import.
func ours() []struct {
	part string
	may  []string
} {
	return []struct {
		part string
		may  []string
	}{
		{"portolan/sensor/event", nil},
		{"portolan/bpffilter", nil},
		{"portolan/sensor/decode", []string{"portolan/sensor/event"}},
		{"portolan/sensor", []string{"portolan/bpffilter", "portolan/sensor/decode", "portolan/sensor/event"}},
		{"portolan/correlate/...", []string{"portolan/correlate/...", "portolan/sensor/event"}},
	}
}

// onlyIn says where a library may be used.
func onlyIn() []struct {
	library string
	where   []string
	why     string
} {
	return []struct {
		library string
		where   []string
		why     string
	}{
		{"github.com/google/gopacket/...", []string{"portolan/sensor", "portolan/cmd/internal/pcapgen"},
			"its layer decoders panic on hostile frames"},
		{"github.com/miekg/dns", []string{"portolan/sensor/decode", "portolan/cmd/internal/lab", "portolan/cmd/internal/pcapgen"},
			"it is too slow for the hot path, and replaceable only while one package knows it"},
		{"github.com/nats-io/...", []string{"portolan/cmd/internal/bus", "portolan/cmd/internal/fleet/...", "portolan/cmd/internal/enrich", "portolan/cmd/internal/example", "portolan/cmd/internal/natstest"},
			"three packages speak NATS, of hits, of what a fleet shares, and of what endpoints saw, one shows others how to, and one starts servers for tests"},
		{"github.com/cilium/ebpf/...", []string{"portolan/bpffilter", "portolan/cmd/internal/endpoint/kernel", "portolan/cmd/internal/lab"},
			"one package filters in the kernel, one sees there which process connects, and the lab sends and counts there"},
		{"github.com/vishvananda/...", []string{"portolan/cmd/internal/lab"}, "only the lab makes networks"},
		{"github.com/prometheus/...", []string{"portolan/cmd/portolan"}, "metrics are made of counts that parts keep anyway"},
		{"github.com/landlock-lsm/...", []string{"portolan/cmd/internal/sandbox"}, "one package gives rights up"},
		{"kernel.org/...", []string{"portolan/cmd/internal/sandbox"}, "one package changes all threads"},
		{"github.com/goccy/go-yaml/...", []string{"portolan/cmd/internal/config"}, "one package reads configuration"},
	}
}

// TestImports keeps the picture "Who imports whom" of the style guide true.
func TestImports(t *testing.T) {
	all := listPackages(t)
	found := map[string]bool{}
	for _, p := range all {
		for _, rule := range ours() {
			if !within(p.ImportPath, rule.part) {
				continue
			}
			found[rule.part] = true
			for _, i := range p.Imports {
				if within(i, "portolan/...") && !within(i, rule.may...) {
					t.Errorf("%s imports %s, and may only import %v of this module", p.ImportPath, i, rule.may)
				}
			}
		}
		for _, rule := range onlyIn() {
			for _, i := range p.Imports {
				if within(i, rule.library) && !within(p.ImportPath, rule.where...) {
					t.Errorf("%s imports %s: only %v may, because %s", p.ImportPath, i, rule.where, rule.why)
				}
			}
		}
	}
	for _, rule := range ours() {
		if !found[rule.part] {
			t.Errorf("there is no package %s to check", rule.part)
		}
	}
}

// TestPureCorrelator: the correlator does no I/O, and subscribers can take its events
// along without anything else.
func TestPureCorrelator(t *testing.T) {
	world := []string{"net", "net/http", "os", "os/exec", "syscall", "io/fs", "log", "log/slog"}
	for _, p := range listPackages(t) {
		if !within(p.ImportPath, "portolan/correlate/...", "portolan/sensor/event") {
			continue
		}
		for _, i := range p.Imports {
			if slices.Contains(world, i) {
				t.Errorf("%s imports %s: events and correlation touch nothing outside", p.ImportPath, i)
			}
			if first, _, _ := strings.Cut(i, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s: subscribers would have to take it along", p.ImportPath, i)
			}
		}
	}
}

// TestGopacketInTwoFiles: of the sensor, two files know gopacket, so that it can be replaced.
func TestGopacketInTwoFiles(t *testing.T) {
	const most = 2
	for _, p := range listPackages(t) {
		if p.ImportPath != "portolan/sensor" {
			continue
		}
		var users []string
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				path, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if within(path, "github.com/google/gopacket/...") {
					users = append(users, name)
					break
				}
			}
		}
		if len(users) > most {
			t.Errorf("%v import gopacket; %d files may", users, most)
		}
		return
	}
	t.Error("there is no package portolan/sensor")
}
