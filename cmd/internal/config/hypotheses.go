package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"portolan/correlate/hypothesis"
)

// customs is a list of hypotheses. As text each is ID=KIND:EXPRESSION or
// ID(NAME)=KIND:EXPRESSION, with semicolons between them; in the file it is a mapping.
type customs []hypothesis.Custom

func (v *customs) Set(s string) error {
	var all []hypothesis.Custom
	for item := range strings.SplitSeq(s, ";") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		left, right, ok1 := strings.Cut(item, "=")
		kind, expr, ok2 := strings.Cut(right, ":")
		c := hypothesis.Custom{ID: strings.TrimSpace(left), Expr: strings.TrimSpace(expr)}
		if id, name, named := strings.Cut(strings.TrimSuffix(c.ID, ")"), "("); named {
			c.ID, c.Name = strings.TrimSpace(id), strings.TrimSpace(name)
		}
		var ok3 bool
		c.Kind, ok3 = kindNamed(strings.TrimSpace(kind))
		if !ok1 || !ok2 || !ok3 {
			return fmt.Errorf("%q is not ID=port:EXPRESSION or ID=address:EXPRESSION, such as acme=port:a*b + c + 7", item)
		}
		all = append(all, c)
	}
	if err := hypothesis.ValidateCustom(all); err != nil {
		return err
	}
	*v = all
	return nil
}

func (v *customs) String() string {
	items := make([]string, len(*v))
	for i, c := range *v {
		if c.Name != "" {
			c.ID += "(" + c.Name + ")"
		}
		items[i] = fmt.Sprintf("%s=%s:%s", c.ID, c.Kind, c.Expr)
	}
	return strings.Join(items, "; ")
}

func kindNamed(name string) (hypothesis.Kind, bool) {
	for _, k := range [...]hypothesis.Kind{hypothesis.ToPort, hypothesis.ToAddress} {
		if k.String() == name {
			return k, true
		}
	}
	return 0, false
}

// entry is a hypothesis in the file, with the places to point at when it is wrong.
type entry struct {
	custom hypothesis.Custom
	at     *token.Token            // where it begins
	fields map[string]*token.Token // by field as hypothesis.CustomError names it
}

// customs sets a list of mappings with the keys id, name, and either port or address. An
// error is a *FileError.
func (r *reader) customs(to *customs, key string, node ast.Node) error {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		return r.wrong(node.GetToken(), key+": a list was expected", "each hypothesis is a line such as - {id: acme, port: \"a*b + c + 7\"}")
	}
	var entries []entry
	var all []hypothesis.Custom
	for _, item := range list.Values {
		e, err := r.entry(key, item)
		if err != nil {
			return err
		}
		entries, all = append(entries, e), append(all, e.custom)
	}
	var wrong *hypothesis.CustomError
	if err := hypothesis.ValidateCustom(all); errors.As(err, &wrong) {
		e := &entries[wrong.Index]
		return r.wrongCustom(key, e, wrong)
	} else if err != nil {
		return r.wrong(node.GetToken(), key+": "+err.Error(), "")
	}
	*to = all
	return nil
}

// entry reads one mapping of the list.
func (r *reader) entry(key string, node ast.Node) (entry, error) {
	e := entry{at: node.GetToken(), fields: map[string]*token.Token{}}
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		return e, r.wrong(e.at, key+": a hypothesis has the keys id and port, or id and address", "")
	}
	if len(pairs) > 0 {
		e.at = pairs[0].Key.GetToken() // a mapping's own token is a colon
	}
	for _, pair := range pairs {
		at := pair.Key.GetToken()
		name := at.Value
		if !slices.Contains([]string{"id", "name", "port", "address"}, name) {
			hint := "an expression with commas in braces needs quotes around it"
			if near := Nearest(name, []string{"id", "name", "port", "address"}); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return e, r.wrong(at, fmt.Sprintf("%s: unknown key %q", key, name), hint)
		}
		text, err := plain(pair.Value)
		if err != nil {
			return e, r.wrong(pair.Value.GetToken(), fmt.Sprintf("%s: %s: %v", key, name, err), "")
		}
		field := name
		switch name {
		case "id":
			e.custom.ID = text
		case "name":
			e.custom.Name = text
		default:
			if e.fields[hypothesis.FieldExpr] != nil {
				return e, r.wrong(at, key+": a hypothesis gives a port or an address, not both", "")
			}
			field = hypothesis.FieldExpr
			e.custom.Kind, _ = kindNamed(name)
			e.custom.Expr = text
		}
		e.fields[field] = pair.Value.GetToken()
	}
	switch {
	case e.fields[hypothesis.FieldID] == nil:
		return e, r.wrong(e.at, key+": the hypothesis has no id", "")
	case e.fields[hypothesis.FieldExpr] == nil:
		return e, r.wrong(e.at, key+": the hypothesis has neither port nor address", "")
	}
	return e, nil
}

// plain returns the text of a value that is no list.
func plain(node ast.Node) (string, error) {
	if _, list := node.(*ast.SequenceNode); list {
		return "", errors.New("a plain value was expected")
	}
	text, err := scalar(node)
	return strings.TrimSpace(text), err
}

// wrongCustom points at what is wrong with a hypothesis: at the column of its expression, when that stands
// on its line as it was read.
func (r *reader) wrongCustom(key string, e *entry, wrong *hypothesis.CustomError) error {
	at, expr := e.fields[wrong.Field], e.custom.Expr
	prefix := fmt.Sprintf("%s: %s: ", key, e.custom.ID)
	if at == nil {
		return r.wrong(e.at, prefix+wrong.Error(), "")
	}
	whole := r.wrong(at, prefix+wrong.Error(), "")
	if wrong.Column == 0 || whole.Line > len(r.lines) {
		return whole
	}
	line := []rune(r.lines[whole.Line-1])
	if whole.Column > len(line) {
		return whole
	}
	before, _, found := strings.Cut(string(line[whole.Column-1:]), expr)
	if !found {
		return whole
	}
	return r.wrongAt(whole.Line, whole.Column+utf8.RuneCountInString(before+expr[:min(wrong.Column-1, len(expr))]), prefix+wrong.Message, "")
}
