package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Input is what Load gathers from.
type Input struct {
	File    string            // path of the YAML file; "" means PORTOLAN_CONFIG, then DefaultFile if it exists
	Environ []string          // NAME=value, as os.Environ returns it
	Flags   map[string]string // key to text, from the command line
}

// Load returns the defaults with file, environment and flags laid over them. A file that
// was named has to exist. What is wrong with the file's text is a *FileError.
func Load(in Input) (Config, error) {
	c := Default()
	c.origin = map[string]string{}
	env := environment(in.Environ)

	path := in.File
	if path == "" {
		path = env["PORTOLAN_CONFIG"]
	}
	named := path != ""
	if !named {
		path = DefaultFile
	}
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		c.file = path
		if err := c.setFile(path, text); err != nil {
			return c, err
		}
	case named || !errors.Is(err, fs.ErrNotExist):
		return c, fmt.Errorf("read configuration: %w", err)
	}

	settings := Settings()
	for i := range settings {
		s := &settings[i]
		if text := env[s.Env()]; text != "" { // empty counts as not set: compose files and units leave such behind
			if err := s.field(&c).Set(text); err != nil {
				return c, fmt.Errorf("environment %s: %w", s.Env(), err)
			}
			c.origin[s.Key] = "environment " + s.Env()
		}
		if text, ok := in.Flags[s.Key]; ok {
			if err := s.field(&c).Set(text); err != nil {
				return c, fmt.Errorf("flag %s: %w", FlagName(s.Flag), err)
			}
			c.origin[s.Key] = "flag " + FlagName(s.Flag)
		}
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// Unknown returns the PORTOLAN_* variables that set nothing. They are no error: container
// platforms make such names out of services, as PORTOLAN_SERVICE_HOST.
func Unknown(environ []string) []string {
	known := map[string]bool{"PORTOLAN_CONFIG": true, "PORTOLAN_LIVE": true}
	for _, s := range Settings() {
		known[s.Env()] = true
	}
	var names []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PORTOLAN_") && !known[name] {
			names = append(names, name)
		}
	}
	return names
}

// FlagName returns a flag as people type it: "-i", "--rings".
func FlagName(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func environment(environ []string) map[string]string {
	m := map[string]string{}
	for _, kv := range environ {
		if name, text, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, "PORTOLAN_") {
			m[name] = text
		}
	}
	return m
}
