package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"portolan/cmd/internal/config"
)

// options collects the flags of one command: for parsing and for help.
type options struct {
	command *command
	set     *flag.FlagSet
	rows    []row

	refused  error             // why a flag's value was not taken
	file     string            // --config
	fallback map[string]string // key of a setting to what holds without it, where that is not its default
	override map[string]string // key of a setting to the text its flag was given
}

func newOptions(c *command) *options {
	o := &options{command: c, set: flag.NewFlagSet(c.name, flag.ContinueOnError), override: map[string]string{}}
	o.set.SetOutput(io.Discard) // errors are reported in one place, and help is ours
	return o
}

// describe adds a flag to help. Arg is "" for a switch; fallback is what holds without the flag.
func (o *options) describe(name, arg, help, fallback string) {
	left := config.FlagName(name)
	if arg != "" {
		left += " " + arg
	}
	if fallback != "" {
		help += " (default " + fallback + ")"
	}
	o.rows = append(o.rows, row{left, help})
}

// value adds a flag whose text goes to set. The reason why set refuses it is kept in
// options.refused, because package flag words it its own way.
func (o *options) value(name string, set func(text string) error) {
	o.set.Func(name, "", func(text string) error {
		if err := set(text); err != nil {
			o.refused = fmt.Errorf("%s: %w", config.FlagName(name), err)
			return err
		}
		return nil
	})
}

// bool adds a switch.
func (o *options) bool(to *bool, name, help string) {
	o.set.BoolFunc(name, "", func(text string) error {
		v, err := strconv.ParseBool(text)
		if err != nil {
			o.refused = fmt.Errorf("%s: %q is neither true nor false", config.FlagName(name), text)
			return err
		}
		*to = v
		return nil
	})
	o.describe(name, "", help, "")
}

func (o *options) string(to *string, name, arg, help string) {
	o.value(name, func(text string) error { *to = text; return nil })
	o.describe(name, arg, help, *to)
}

// int adds a flag for a whole number; its bounds are checked where it is used.
func (o *options) int(to *int, name, arg, help string) {
	fallback := ""
	if *to != 0 {
		fallback = strconv.Itoa(*to)
	}
	o.value(name, func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*to = n
		return nil
	})
	o.describe(name, arg, help, fallback)
}

// duration adds a flag for a time above 0 with its unit.
func (o *options) duration(to *time.Duration, name, arg, help string) {
	fallback := ""
	if *to != 0 {
		fallback = config.Duration(*to)
	}
	o.value(name, func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a time with a unit, such as 90s or 24h", text)
		}
		*to = d
		return nil
	})
	o.describe(name, arg, help, fallback)
}

// settings adds --config and a flag for each of the keys, in the order given.
func (o *options) settings(keys ...string) {
	defaults := config.Default()
	for _, key := range keys {
		s := config.Find(key)
		o.value(s.Flag, func(text string) error {
			o.override[s.Key] = text
			return s.Check(text)
		})
		fallback := cmp.Or(o.fallback[key], s.Show(&defaults), s.None)
		o.describe(s.Flag, s.Arg, s.Help, fallback)
	}
	o.value("config", func(text string) error { o.file = text; return nil })
	o.describe("config", "FILE", "YAML file with settings; flags and PORTOLAN_* variables win over it",
		config.DefaultFile+" if there is one")
}

// load returns the configuration with this command's flags laid over it.
func (o *options) load(p *program) (config.Config, error) {
	return config.Load(config.Input{File: o.file, Environ: p.environ, Flags: o.override})
}

// parse takes flags from anywhere among the arguments, up to "--", and returns the rest.
func (o *options) parse(args []string) (rest []string, err error) {
	for {
		err := o.set.Parse(args)
		left := o.set.Args()
		taken := args[:len(args)-len(left)]
		if err != nil {
			return nil, o.wrong(err, taken)
		}
		if len(left) == 0 || len(taken) > 0 && taken[len(taken)-1] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// wrong says what package flag could not parse; taken ends with the flag in question.
func (o *options) wrong(err error, taken []string) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	name := o.command.name
	if o.refused != nil {
		return &usageError{
			text: fmt.Sprintf("%s: %v", name, o.refused),
			hint: fmt.Sprintf("portolan help %s tells what each flag takes", name),
		}
	}
	typed, _, _ := strings.Cut(strings.TrimLeft(taken[len(taken)-1], "-"), "=")
	if o.set.Lookup(typed) != nil {
		return usagef("%s: %s needs a value", name, config.FlagName(typed))
	}
	var names []string
	o.set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	e := &usageError{
		text: fmt.Sprintf("%s: unknown flag %s", name, config.FlagName(typed)),
		hint: fmt.Sprintf("portolan help %s lists the flags", name),
	}
	if near := config.Nearest(typed, names); near != "" {
		e.hint = fmt.Sprintf("did you mean %s?", config.FlagName(near))
	}
	return e
}
