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
	formerParentName
	formerParentExecutable
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
	parentExecutable: "parent's executable",
	formerParentName: "parent's name", formerParentExecutable: "parent's executable", containerID: "container id", container: "container", pod: "pod",
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

// value is what a line holds of a fact. Kind is the first byte of the JSON value, '"' for text.
type value struct {
	b    []byte
	kind byte
}

// fields are the facts of one line, which they alias.
type fields struct {
	v       [numSlots]value
	scratch []byte // unescaped strings; no longer than the line

	walker jsonline.Walker
	of     func(path []byte) slot
	next   slot // that the walk asked for
}

func (f *fields) reset() {
	f.v = [numSlots]value{}
	f.scratch = f.scratch[:0]
}

// walk takes the facts of an object. Of says which slot the value of a path fills.
func (f *fields) walk(object jsonline.Value, of func(path []byte) slot) error {
	if f.walker.Step == nil {
		f.walker.Step, f.walker.Take = f.step, f.take
	}
	f.of = of
	ok, err := f.walker.Walk(object)
	if err == nil && !ok {
		err = errSyntax
	}
	return err
}

func (f *fields) step(path []byte) jsonline.Step {
	switch f.next = f.of(path); f.next {
	case skip:
		return jsonline.Pass
	case inside:
		return jsonline.Enter
	}
	return jsonline.Take
}

func (f *fields) take(v jsonline.Value) error { return f.set(f.next, v) }

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
