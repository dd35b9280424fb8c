package config

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"portolan/sensor/event"
)

func TestAllowFromTheFile(t *testing.T) {
	c, err := Load(Input{File: write(t, `allow:
  - client: 192.0.2.0/24
    destination: 198.51.100.7
    port: 8000-8999
    proto: tcp
    name: "*.Cameras.example."
    hypothesis: W*
    until: 2027-03-31
    reason: "cameras: port = 8000 + last octet"
  # one line is enough
  - {port: 4444, until: 2027-03-31T12:00:00+02:00, reason: lab}
  - {client: 2001:db8::/32, until: never, reason: v6}
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := []AllowRule{
		{
			Client: netip.MustParsePrefix("192.0.2.0/24"), Destination: netip.MustParsePrefix("198.51.100.7/32"), Ports: [2]uint16{8000, 8999},
			Proto: event.TCP, Name: "*.cameras.example", Hypothesis: "W*",
			Until: time.Date(2027, 4, 1, 0, 0, 0, 0, time.UTC), Reason: "cameras: port = 8000 + last octet",
		},
		{Ports: [2]uint16{4444, 4444}, Until: time.Date(2027, 3, 31, 10, 0, 0, 0, time.UTC), Reason: "lab"},
		{Client: netip.MustParsePrefix("2001:db8::/32"), Reason: "v6"},
	}
	if !reflect.DeepEqual(c.Allow, want) {
		t.Errorf("rules\n%+v, want\n%+v", c.Allow, want)
	}

	// What is shown can be put into the environment.
	text := Find("allow").Show(&c)
	again, err := Load(Input{File: write(t, ""), Environ: []string{"PORTOLAN_ALLOW=" + text}})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if !reflect.DeepEqual(again.Allow, want) {
		t.Errorf("%s becomes\n%+v", text, again.Allow)
	}
}

func TestAllowErrorsNameThePlace(t *testing.T) {
	for _, tt := range []struct {
		name, text   string
		line, column int
		message      string // part of it
		hint         string
	}{
		{"no list", "allow: 192.0.2.7\n", 1, 8, "allow: a list was expected",
			"each rule is a line such as - {client: 192.0.2.7, port: 8000-8999, until: 2027-03-31, reason: cameras}"},
		{"no mapping", "allow: [192.0.2.7]\n", 1, 9, "a rule has keys and values", ""},
		{"no reason", "allow:\n  - client: 192.0.2.7\n    until: never\n", 2, 5, "allow: the rule has no reason", ""},
		{"empty reason", "allow:\n  - client: 192.0.2.7\n    until: never\n    reason: \"\"\n", 4, 13, "allow: reason: the reason is empty", ""},
		{"no end", "allow:\n  - {client: 192.0.2.7, reason: x}\n", 2, 6, "does not say until when", ""},
		{"everything", "allow:\n  - {until: never, reason: x}\n", 2, 6, "would allow every hit", ""},
		{"unknown key", "allow:\n  - {clinet: 192.0.2.7, until: never, reason: x}\n", 2, 6, `allow: unknown key "clinet"`, `did you mean "client"?`},
		{"host bits", "allow:\n  - client: 192.0.2.7/24\n", 2, 13, "did you mean 192.0.2.0/24?", ""},
		{"two clients", "allow:\n  - client: 192.0.2.7,192.0.2.8\n", 2, 13, "is not one address or prefix", ""},
		{"list of clients", "allow:\n  - client: [192.0.2.7]\n", 2, 13, "client: a plain value was expected", ""},
		{"port 0", "allow:\n  - port: 0\n", 2, 11, "neither a port nor a range", ""},
		{"ports turned round", "allow:\n  - port: 20-10\n", 2, 11, "neither a port nor a range", ""},
		{"protocol", "allow:\n  - proto: icmp\n", 2, 12, `"icmp" is neither tcp nor udp`, ""},
		{"star in the middle", "allow:\n  - name: a.*.example\n", 2, 11, "neither a name nor all names below one", ""},
		{"any name", "allow:\n  - name: \"*.\"\n", 2, 11, "neither a name", ""},
		{"any hypothesis", "allow:\n  - hypothesis: \"*\"\n", 2, 17, "neither the id of a hypothesis", ""},
		{"no date", "allow:\n  - until: 31.3.2027\n", 2, 12, "neither a date such as 2027-03-31", ""},
		{"no such day", "allow:\n  - until: 2027-02-30\n", 2, 12, "neither a date", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Input{File: write(t, tt.text)})
			var fe *FileError
			if !errors.As(err, &fe) {
				t.Fatalf("error %v, want a FileError", err)
			}
			if fe.Line != tt.line || fe.Column != tt.column {
				t.Errorf("at %d:%d, want %d:%d: %v", fe.Line, fe.Column, tt.line, tt.column, err)
			}
			if !strings.Contains(fe.Message, tt.message) {
				t.Errorf("%q does not say %q", fe.Message, tt.message)
			}
			if fe.Hint != tt.hint {
				t.Errorf("hint %q, want %q", fe.Hint, tt.hint)
			}
		})
	}
}

func TestAllowFromTextIsStrict(t *testing.T) {
	for _, text := range []string{
		"client", "client=192.0.2.7", "client=192.0.2.7 reason=x", "client=192.0.2.7 client=192.0.2.8 reason=x until=never",
		"clinet=192.0.2.7 reason=x until=never", "reason=x until=never", `client=192.0.2.7 reason="x until=never`,
	} {
		before := []AllowRule{{Reason: "kept"}}
		rules := allows(before)
		if err := rules.Set(text); err == nil || !reflect.DeepEqual([]AllowRule(rules), before) {
			t.Errorf("%s gives %v, %v, want an error and nothing set", text, rules, err)
		}
	}
}
