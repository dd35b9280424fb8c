package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"portolan/sensor/event"
)

// AllowRule keeps hits from being published that somebody has looked into. All that it says has to fit.
type AllowRule struct {
	Client      netip.Prefix // not valid: any
	Destination netip.Prefix // not valid: any
	Ports       [2]uint16    // of the destination, both included; zero: any
	Proto       event.Proto  // 0: any
	Name        string       // that was looked up; *.example stands for all names below example; "": any
	Hypothesis  string       // id; P* stands for all that begin with P; "": any
	Until       time.Time    // when it ends; zero: never
	Reason      string       // never empty
}

const forever = "never" // as a value of until

// allowKeys are the keys of a rule in the order in which they are shown.
func allowKeys() []string {
	return []string{"client", "destination", "port", "proto", "name", "hypothesis", "until", "reason"}
}

// set sets one key from text.
func (a *AllowRule) set(key, text string) (err error) {
	switch key {
	case "client":
		a.Client, err = onePrefix(text)
	case "destination":
		a.Destination, err = onePrefix(text)
	case "port":
		from, to, ok := strings.Cut(text, "-")
		if !ok {
			to = from
		}
		low, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
		high, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
		if errors.Join(err1, err2) != nil || low == 0 || low > high {
			return fmt.Errorf("%q is neither a port nor a range of ports, such as 30000-32767", text)
		}
		a.Ports = [2]uint16{uint16(low), uint16(high)}
	case "proto":
		switch text {
		case "tcp":
			a.Proto = event.TCP
		case "udp":
			a.Proto = event.UDP
		default:
			return fmt.Errorf("%q is neither tcp nor udp", text)
		}
	case "name":
		name := strings.ToLower(strings.TrimSuffix(text, "."))
		if rest := strings.TrimPrefix(name, "*."); rest == "" || strings.ContainsAny(rest, "* \t") {
			return fmt.Errorf("%q is neither a name nor all names below one, such as *.cdn.example", text)
		}
		a.Name = name
	case "hypothesis":
		if rest := strings.TrimSuffix(text, "*"); rest == "" || strings.ContainsAny(rest, "* \t") {
			return fmt.Errorf("%q is neither the id of a hypothesis nor how one begins, such as P1 or W*", text)
		}
		a.Hypothesis = text
	case "until":
		a.Until, err = instant(text)
	case "reason":
		if text == "" {
			return errors.New("the reason is empty")
		}
		a.Reason = text
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return err
}

func onePrefix(text string) (netip.Prefix, error) {
	var p prefixes
	if err := p.Set(text); err != nil {
		return netip.Prefix{}, err
	}
	if len(p) != 1 {
		return netip.Prefix{}, fmt.Errorf("%q is not one address or prefix, such as 192.0.2.0/24", text)
	}
	return p[0], nil
}

// instant reads when a rule ends: a date-time or a date of RFC 3339, whose day, in UTC, still counts.
func instant(text string) (time.Time, error) {
	if text == forever {
		return time.Time{}, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither a date such as 2027-03-31, nor one with a time such as 2027-03-31T12:00:00Z, nor %s", text, forever)
	}
	return t.UTC(), nil
}

// check says what a rule lacks, given the keys that were set.
func (a *AllowRule) check(set func(key string) bool) error {
	if !set("reason") {
		return errors.New("the rule has no reason")
	}
	if !set("until") {
		return fmt.Errorf("the rule does not say until when it holds: a date, or %s", forever)
	}
	for _, key := range allowKeys() {
		if key != "until" && key != "reason" && set(key) {
			return nil
		}
	}
	return errors.New("the rule would allow every hit; say of which client, destination, port, proto, name or hypothesis")
}

// texts returns the values by key; "" for what fits any.
func (a *AllowRule) texts() map[string]string {
	m := map[string]string{"name": a.Name, "hypothesis": a.Hypothesis, "reason": a.Reason, "until": forever}
	if a.Client.IsValid() {
		m["client"] = a.Client.String()
	}
	if a.Destination.IsValid() {
		m["destination"] = a.Destination.String()
	}
	switch {
	case a.Ports[0] != a.Ports[1]:
		m["port"] = fmt.Sprintf("%d-%d", a.Ports[0], a.Ports[1])
	case a.Ports[0] != 0:
		m["port"] = strconv.Itoa(int(a.Ports[0]))
	}
	if a.Proto != 0 {
		m["proto"] = a.Proto.String()
	}
	if !a.Until.IsZero() {
		m["until"] = a.Until.UTC().Format(time.RFC3339Nano)
	}
	return m
}

// String returns the rule as text: key=value with blanks between them, values in quotes where they
// have to be.
func (a *AllowRule) String() string {
	texts := a.texts()
	var items []string
	for _, key := range allowKeys() {
		text := texts[key]
		if text == "" {
			continue
		}
		if key == "reason" || strings.ContainsAny(text, "\"; ") {
			text = strconv.Quote(text)
		}
		items = append(items, key+"="+text)
	}
	return strings.Join(items, " ")
}

// allows is a list of rules. As text there are semicolons between them.
type allows []AllowRule

func (v *allows) String() string {
	items := make([]string, len(*v))
	for i := range *v {
		items[i] = (*v)[i].String()
	}
	return strings.Join(items, "; ")
}

func (v *allows) Set(s string) error {
	var all []AllowRule
	for s = strings.TrimLeft(s, "; "); s != ""; s = strings.TrimLeft(s, "; ") {
		var a AllowRule
		seen := map[string]bool{}
		for s != "" && s[0] != ';' {
			key, rest, ok := strings.Cut(s, "=")
			if !ok || !slices.Contains(allowKeys(), key) || seen[key] {
				return fmt.Errorf("%q does not begin with another of the keys %s, and =", s, strings.Join(allowKeys(), ", "))
			}
			text, rest, err := nextValue(rest)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			s = strings.TrimLeft(rest, " ")
			if err := a.set(key, text); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			seen[key] = true
		}
		if err := a.check(func(key string) bool { return seen[key] }); err != nil {
			return err
		}
		all = append(all, a)
	}
	*v = all
	return nil
}

// nextValue returns the value that s begins with, in quotes or up to a blank or semicolon, and the rest.
func nextValue(s string) (text, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, "; ")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], nil
	}
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", errors.New("the quotes do not end")
	}
	text, err = strconv.Unquote(quoted)
	return text, s[len(quoted):], err
}

// allows sets a list of mappings. An error is a *FileError.
func (r *reader) allows(to *allows, key string, node ast.Node) error {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		return r.wrong(node.GetToken(), key+": a list was expected",
			"each rule is a line such as - {client: 192.0.2.7, port: 8000-8999, until: 2027-03-31, reason: cameras}")
	}
	var all []AllowRule
	for _, item := range list.Values {
		a, err := r.allow(key, item)
		if err != nil {
			return err
		}
		all = append(all, a)
	}
	*to = all
	return nil
}

// allow reads one mapping of the list.
func (r *reader) allow(key string, node ast.Node) (a AllowRule, err error) {
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		return a, r.wrong(node.GetToken(), key+": a rule has keys and values, such as client: 192.0.2.7", "")
	}
	at := map[string]*token.Token{}
	for _, pair := range pairs {
		name := pair.Key.GetToken()
		if !slices.Contains(allowKeys(), name.Value) {
			hint := "a rule has the keys " + strings.Join(allowKeys(), ", ")
			if near := Nearest(name.Value, allowKeys()); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return a, r.wrong(name, fmt.Sprintf("%s: unknown key %q", key, name.Value), hint)
		}
		text, err := plain(pair.Value)
		if err == nil {
			err = a.set(name.Value, text)
		}
		if err != nil {
			return a, r.wrong(pair.Value.GetToken(), fmt.Sprintf("%s: %s: %v", key, name.Value, err), "")
		}
		at[name.Value] = name
	}
	if err := a.check(func(key string) bool { return at[key] != nil }); err != nil {
		first := node.GetToken()
		if len(pairs) > 0 {
			first = pairs[0].Key.GetToken() // a mapping's own token is a colon
		}
		return a, r.wrong(first, key+": "+err.Error(), "")
	}
	return a, nil
}
