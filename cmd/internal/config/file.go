package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// FileError is one thing that is wrong with the text of a configuration file.
type FileError struct {
	Path         string
	Line, Column int // from 1
	Message      string
	Excerpt      string // the line with the one before it, and a caret under the column
	Hint         string // a remedy; "" when we know none
}

// Error returns the place and the message on one line.
func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.Path, e.Line, e.Column, e.Message)
}

// reader walks one YAML document and sets what it says.
type reader struct {
	path   string
	lines  []string
	config *Config
}

// setFile lays the YAML text of the file at path over c.
func (c *Config) setFile(path string, text []byte) error {
	r := reader{path: path, lines: strings.Split(string(text), "\n"), config: c}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) && ye.GetToken() != nil {
			return r.wrong(ye.GetToken(), ye.GetMessage(), "")
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	for i, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			return r.wrong(doc.Body.GetToken(), "the file holds a second YAML document", "")
		}
		if err := r.group("", doc.Body); err != nil {
			return err
		}
	}
	return nil
}

// group sets what a mapping says; prefix is "" or ends with a dot.
func (r *reader) group(prefix string, node ast.Node) error {
	var entries []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil
	default:
		return r.wrong(node.GetToken(), "keys and values were expected, such as sensor: hq-egress", "")
	}
	for _, e := range entries {
		name := e.Key.GetToken().Value
		key := prefix + name
		if s := Find(key); s != nil {
			if err := r.set(s, e.Value); err != nil {
				return err
			}
			continue
		}
		if !isGroup(key) {
			return r.unknown(prefix, name, e.Key.GetToken())
		}
		if err := r.group(key+".", e.Value); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) set(s *Setting, node ast.Node) error {
	field := s.field(r.config)
	if v, ok := field.(*customs); ok {
		if err := r.customs(v, s.Key, node); err != nil {
			return err
		}
	} else if v, ok := field.(*allows); ok {
		if err := r.allows(v, s.Key, node); err != nil {
			return err
		}
	} else {
		text, err := scalar(node)
		if err == nil {
			err = field.Set(text)
		}
		if err != nil {
			return r.wrong(node.GetToken(), s.Key+": "+err.Error(), "")
		}
	}
	r.config.origin[s.Key] = fmt.Sprintf("%s:%d", r.path, node.GetToken().Position.Line)
	return nil
}

// scalar returns the text of a plain value, or of a list of them with commas.
func scalar(node ast.Node) (string, error) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	case *ast.NullNode:
		return "", errors.New("the key has no value; give it one or take the line out")
	case *ast.SequenceNode:
		items := make([]string, len(n.Values))
		for i, v := range n.Values {
			if _, nested := v.(*ast.SequenceNode); nested {
				return "", errors.New("a list cannot hold a list")
			}
			item, err := scalar(v)
			if err != nil {
				return "", err
			}
			items[i] = item
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("a plain value was expected")
}

func isGroup(key string) bool {
	for _, s := range Settings() {
		if strings.HasPrefix(s.Key, key+".") {
			return true
		}
	}
	return false
}

func (r *reader) unknown(prefix, name string, at *token.Token) error {
	var names []string
	for _, s := range Settings() {
		if rest, ok := strings.CutPrefix(s.Key, prefix); ok {
			first, _, _ := strings.Cut(rest, ".")
			names = append(names, first)
		}
	}
	hint := "portolan config show lists all keys"
	if near := Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", prefix+near)
	}
	return r.wrong(at, fmt.Sprintf("unknown key %q", prefix+name), hint)
}

// wrong returns a FileError at a token.
func (r *reader) wrong(at *token.Token, message, hint string) *FileError {
	line, column := 1, 1
	if at != nil && at.Position != nil {
		line, column = max(at.Position.Line, 1), max(at.Position.Column, 1)
	}
	return r.wrongAt(line, column, message, hint)
}

// wrongAt returns a FileError at a line and a column in characters, both from 1.
func (r *reader) wrongAt(line, column int, message, hint string) *FileError {
	e := &FileError{Path: r.path, Line: line, Column: column, Message: message, Hint: hint}
	var b strings.Builder
	for n := max(e.Line-1, 1); n <= e.Line && n <= len(r.lines); n++ {
		fmt.Fprintf(&b, "%5d | %s\n", n, strings.TrimRight(r.lines[n-1], "\r"))
	}
	fmt.Fprintf(&b, "      | %s^\n", strings.Repeat(" ", e.Column-1))
	e.Excerpt = b.String()
	return e
}
