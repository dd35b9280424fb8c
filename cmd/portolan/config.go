package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"portolan/cmd/internal/config"
)

func configCommand() *command {
	return &command{
		name:  "config",
		brief: "checks the configuration, or shows each value and where it came from",
		usage: []string{"portolan config check [FILE]", "portolan config show [--json] [FLAGS]"},
		about: `check reads the YAML file strictly: an unknown key or a bad value is an error with its line.
show prints every key with its value and whether a flag, a PORTOLAN_* variable, the file or
nothing gave it; secrets are hidden. The variable of nats.url is PORTOLAN_NATS_URL, and so on.`,
		example: []string{"PORTOLAN_ALERT=1e7 portolan config show --rings 4"},
		declare: func(o *options) action {
			asJSON := false
			o.bool(&asJSON, "json", "print one JSON object a key")
			var keys []string
			for _, s := range config.Settings() {
				if s.Flag != "" {
					keys = append(keys, s.Key)
				}
			}
			o.settings(keys...)
			return func(_ context.Context, p *program, args []string) error {
				verb := ""
				if len(args) > 0 {
					verb, args = args[0], args[1:]
				}
				switch {
				case verb == "show" && len(args) == 0:
					return p.configShow(o, asJSON)
				case verb == "check" && len(args) <= 1:
					if len(args) == 1 {
						o.file = args[0]
					}
					return p.configCheck(o)
				case verb == "show" || verb == "check":
					return usagef("config %s: unexpected argument %q", verb, args[len(args)-1])
				}
				e := &usageError{text: "config: say check or show", hint: "portolan help config"}
				if verb != "" {
					e.text = fmt.Sprintf("config: %q is neither check nor show", verb)
				}
				return e
			}
		},
	}
}

func (p *program) configShow(o *options, asJSON bool) error {
	c, err := o.load(p)
	if err != nil {
		return err
	}
	if asJSON {
		return writeConfigJSON(p.stdout, &c)
	}
	settings := config.Settings()
	keyWidth, valueWidth := 0, 0
	for i := range settings {
		s := &settings[i]
		keyWidth, valueWidth = max(keyWidth, len(s.Key)), max(valueWidth, min(len(s.Show(&c)), 40))
	}
	var b strings.Builder
	for i := range settings {
		s := &settings[i]
		value := s.Show(&c)
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(&b, "%-*s  %-*s  %s\n", keyWidth, s.Key, valueWidth, value, c.Origin(s.Key))
	}
	_, err = io.WriteString(p.stdout, b.String())
	return err
}

func writeConfigJSON(w io.Writer, c *config.Config) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	settings := config.Settings()
	for i := range settings {
		s := &settings[i]
		err := e.Encode(struct {
			Key    string `json:"key"`
			Value  string `json:"value"`
			Origin string `json:"origin"`
			Env    string `json:"env"`
		}{s.Key, s.Show(c), c.Origin(s.Key), s.Env()})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *program) configCheck(o *options) error {
	c, err := o.load(p)
	if err != nil {
		return err
	}
	n := 0
	settings := config.Settings()
	for i := range settings {
		if c.Origin(settings[i].Key) != "default" {
			n++
		}
	}
	for _, name := range config.Unknown(p.environ) {
		fmt.Fprintf(p.stderr, "portolan: note: environment %s sets nothing\n", name)
	}
	for _, text := range newAllowRules(c.Allow).expiredNow(time.Now()) {
		fmt.Fprintf(p.stderr, "portolan: note: %s\n", text)
	}
	from := c.File()
	if from == "" {
		from = "no file, " + config.DefaultFile + " does not exist"
	}
	_, err = fmt.Fprintf(p.stdout, "configuration is valid: %s; %s set, the rest by default\n", from, count(n, "key", "keys"))
	return err
}
