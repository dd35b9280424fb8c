package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"portolan/cmd/internal/config"
)

// command is one thing that portolan does.
type command struct {
	name    string
	brief   string   // for the overview, one line
	usage   []string // what to type
	about   string   // what happens then; lines of at most 90 columns, without a newline at the end
	example []string // lines that work as pasted
	// declare names the flags and returns what to do once they are parsed.
	declare func(*options) action
}

// action does a command's work. Arguments are what is left after the flags.
type action func(ctx context.Context, p *program, args []string) error

// commands returns all commands, in the order of the overview.
func commands() []*command {
	return []*command{
		runCommand(), correlateCommand(), enrichCommand(), endpointCommand(), replayCommand(),
		huntCommand(), evaluateCommand(), eventsCommand(), watchCommand(), coverageCommand(),
		exportCommand(), labCommand(), explainCommand(), doctorCommand(), selftestCommand(),
		hypothesesCommand(), baselineCommand(), natsCommand(), configCommand(), versionCommand(),
		helpCommand(),
	}
}

func findCommand(name string) (*command, error) {
	var names []string
	for _, c := range commands() {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	e := &usageError{text: fmt.Sprintf("unknown command %q", name), hint: "portolan help lists the commands"}
	if strings.HasPrefix(name, "-") {
		e.text = fmt.Sprintf("unknown flag %q before a command", name)
	} else if near := config.Nearest(name, names); near != "" {
		e.hint = fmt.Sprintf("did you mean %q?", near)
	}
	return nil, e
}

// run parses the arguments and does what they say.
func (c *command) run(ctx context.Context, p *program, args []string) error {
	o := newOptions(c)
	act := c.declare(o)
	rest, err := o.parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return c.writeHelp(p.stdout)
	}
	if err != nil {
		return err
	}
	return act(ctx, p, rest)
}

// writeHelp writes what to type, what it does, the flags, and an example.
func (c *command) writeHelp(w io.Writer) error {
	o := newOptions(c)
	c.declare(o)
	var b strings.Builder
	b.WriteString("Usage:\n")
	for _, u := range c.usage {
		fmt.Fprintf(&b, "    %s\n", u)
	}
	fmt.Fprintf(&b, "\n%s\n", c.about)
	if len(o.rows) > 0 {
		b.WriteString("\nOptions:\n")
		writeRows(&b, o.rows)
	}
	b.WriteString("\nExample:\n")
	for _, e := range c.example {
		fmt.Fprintf(&b, "    $ %s\n", e)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// row is a line of help: what to type and what it does.
type row struct{ left, right string }

// writeRows writes rows in two columns. A long left side takes a line of its own, and a
// right side goes on below itself.
func writeRows(b *strings.Builder, rows []row) {
	const indent, widest, column = 4, 26, 80
	width := 0
	for _, r := range rows {
		if len(r.left) <= widest {
			width = max(width, len(r.left))
		}
	}
	for _, r := range rows {
		left := r.left
		if len(left) > width {
			fmt.Fprintf(b, "%*s%s\n", indent, "", left)
			left = ""
		}
		for _, line := range wrap(r.right, column-width) {
			fmt.Fprintf(b, "%*s%-*s  %s\n", indent, "", width, left, line)
			left = ""
		}
	}
}

// wrap breaks text at spaces into lines of at most width bytes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func writeOverview(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`Usage:
    portolan COMMAND [FLAGS] [ARGUMENTS]

Portolan finds connections whose port or destination was calculated from a DNS answer
(ATT&CK T1568.003, DNS Calculation), on a mirror port or in capture files.

Commands:
`)
	var rows []row
	for _, c := range commands() {
		rows = append(rows, row{c.name, c.brief})
	}
	writeRows(&b, rows)
	b.WriteString(`
"portolan help COMMAND" tells more of one. Exit status: 0 done, 1 failed, 2 wrong usage.

Example:
    $ portolan replay testdata/pcap/half-swap.pcap
`)
	_, err := io.WriteString(w, b.String())
	return err
}

func helpCommand() *command {
	return &command{
		name:    "help",
		brief:   "tells what to type",
		usage:   []string{"portolan help [COMMAND]"},
		about:   "Prints the commands, or the flags of one with an example.",
		example: []string{"portolan help replay"},
		declare: func(*options) action {
			return func(_ context.Context, p *program, args []string) error {
				switch len(args) {
				case 0:
					return writeOverview(p.stdout)
				case 1:
					c, err := findCommand(args[0])
					if err != nil {
						return err
					}
					return c.writeHelp(p.stdout)
				}
				return usagef("help: one command at a time")
			}
		},
	}
}
