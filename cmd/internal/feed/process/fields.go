package process

import (
	"errors"

	"portolan/cmd/internal/feed/field"
	"portolan/cmd/internal/feed/jsonline"
)

// slot is a fact that formats hold, each at a place of its own.
type slot uint8

const (
	skip   slot = iota // of no interest
	inside             // an object, or an array of objects, that holds facts

	when
	whenBegan
	whenSeen
	host
	hostID
	what // which kind of event, as the format says it
	what2
	category
	direction
	protocol
	localIP
	localPort
	remoteIP
	remotePort
	calledIP // what the call was given
	calledPort
	sockets // both, as text
	sockaddr
	outcome
	errno
	community
	query
	answers
	pid
	start
	name
	executable
	args
	commandLine
	dir
	sha256
	uid
	user
	loginUID
	parentPID
	parentStart
	parentName
	parentExecutable
	containerID
	container
	pod
	namespace
	netns
	numSlots
)

var slotNames = [numSlots]string{
	when: "time", whenBegan: "start of the event", whenSeen: "time", host: "host", hostID: "host id", what: "kind of event",
	what2: "kind of event", category: "category", direction: "direction", protocol: "transport", localIP: "source address",
	localPort: "source port", remoteIP: "destination address", remotePort: "destination port", calledIP: "destination address",
	calledPort: "destination port", sockets: "connection",
	sockaddr: "socket address", outcome: "outcome", errno: "error", community: "community id", query: "question",
	answers: "answers", pid: "pid", start: "start of the process", name: "process name", executable: "executable",
	args: "arguments", commandLine: "command line", dir: "working directory", sha256: "hash", uid: "user id", user: "user",
	loginUID: "login uid", parentPID: "parent's pid", parentStart: "start of the parent", parentName: "parent's name",
	parentExecutable: "parent's executable", containerID: "container id", container: "container", pod: "pod",
	namespace: "namespace", netns: "network namespace",
}

// unreadable is a fact whose value cannot be what it should be.
type unreadable slot

// Error returns "the pid cannot be read".
func (u unreadable) Error() string { return "the " + slotNames[u] + " cannot be read" }

// duplicate is a fact that is told twice.
type duplicate slot

// Error returns "the pid is told twice".
func (d duplicate) Error() string { return "the " + slotNames[d] + " is told twice" }

var errSyntax = errors.New("the text is broken")

const (
	maxDepth = 8   // of objects that hold facts
	maxPath  = 256 // bytes of the names that lead to one
)

// value is what a line holds of a fact. Kind is the first byte of the JSON value, '"' for text.
type value struct {
	b    []byte
	kind byte
}

// fields are the facts of one line, which they alias.
type fields struct {
	v       [numSlots]value
	path    []byte
	scratch []byte // unescaped strings; no longer than the line
}

func (f *fields) reset() {
	f.v = [numSlots]value{}
	f.path, f.scratch = f.path[:0], f.scratch[:0]
}

// walk takes the facts of an object. Names of nested objects are joined by dots, so that nested
// and dotted forms are one. Of says which slot a name has.
func (f *fields) walk(o jsonline.Object, of func(path []byte) slot, depth int) error {
	base := len(f.path)
	defer func() { f.path = f.path[:base] }()
	for key, v, ok := o.Next(); ok; key, v, ok = o.Next() {
		if f.path = f.path[:base]; base > 0 {
			f.path = append(f.path, '.')
		}
		if f.path = append(f.path, key...); len(f.path) > maxPath {
			continue
		}
		s := of(f.path)
		if s == skip || v.IsNull() {
			continue
		}
		if s != inside {
			if err := f.set(s, v); err != nil {
				return err
			}
			continue
		}
		if err := f.enter(v, of, depth+1); err != nil {
			return err
		}
	}
	if o.Bad() {
		return errSyntax
	}
	return nil
}

// enter takes the facts of an object, or of the objects of an array.
func (f *fields) enter(v jsonline.Value, of func(path []byte) slot, depth int) error {
	if depth > maxDepth {
		return nil
	}
	switch v[0] {
	case '{':
		return f.walk(v.Members(), of, depth)
	case '[':
		a := v.Elements()
		for e, ok := a.Next(); ok; e, ok = a.Next() {
			if e[0] != '{' {
				continue
			}
			if err := f.walk(e.Members(), of, depth); err != nil {
				return err
			}
		}
		if a.Bad() {
			return errSyntax
		}
	}
	return nil
}

func (f *fields) set(s slot, v jsonline.Value) error {
	if f.v[s].kind != 0 {
		return duplicate(s)
	}
	switch v[0] {
	case '{', '[':
		f.v[s] = value{v, v[0]}
	case '"':
		f.v[s] = value{v.Text(&f.scratch), '"'}
	default:
		f.v[s] = value{v, v[0]}
	}
	return nil
}

// text returns a fact's text, nil when there is none. Of an array it is the first element:
// Elasticsearch gives back any field so.
func (f *fields) text(s slot) []byte {
	v := f.v[s]
	switch v.kind {
	case '{':
		return nil
	case '[':
		a := jsonline.Value(v.b).Elements()
		e, ok := a.Next()
		if !ok {
			return nil
		}
		return e.Text(&f.scratch)
	}
	return v.b
}

// has reports whether an array of texts, or a text, holds want.
func (f *fields) has(s slot, want string) bool {
	v := f.v[s]
	if v.kind != '[' {
		return string(v.b) == want
	}
	a := jsonline.Value(v.b).Elements()
	for e, ok := a.Next(); ok; e, ok = a.Next() {
		if string(e.Plain()) == want {
			return true
		}
	}
	return false
}

// uint returns a fact as a number of at most most; 0 when there is none.
func (f *fields) uint(s slot, most uint64) (uint64, error) {
	b := f.text(s)
	if len(b) == 0 {
		if k := f.v[s].kind; k == '{' || k == '[' {
			return 0, unreadable(s)
		}
		return 0, nil
	}
	n, ok := field.Uint(b, most)
	if !ok {
		return 0, unreadable(s)
	}
	return n, nil
}
