package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
)

// build says which Portolan this is.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the repository it was built from
	Modified bool   `json:"modified"`           // the tree held changes that no revision has
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisBuild reads what the Go command wrote into the binary.
func thisBuild() build {
	b := build{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func versionCommand() *command {
	return &command{
		name:    "version",
		brief:   "tells which Portolan this is",
		usage:   []string{"portolan version [--json]"},
		about:   "Prints the version, the revision it was built from, and the Go release.",
		example: []string{"portolan version"},
		declare: func(o *options) action {
			asJSON := false
			o.bool(&asJSON, "json", "print one JSON object")
			return func(_ context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return usagef("version: takes no arguments, got %q", args[0])
				}
				b := thisBuild()
				if asJSON {
					return json.NewEncoder(p.stdout).Encode(b)
				}
				revision := b.Revision
				if revision == "" {
					revision = "unknown"
				}
				if b.Modified {
					revision += " with changes"
				}
				_, err := fmt.Fprintf(p.stdout, "portolan %s, revision %s, %s, %s\n", b.Version, revision, b.Go, b.Platform)
				return err
			}
		},
	}
}
