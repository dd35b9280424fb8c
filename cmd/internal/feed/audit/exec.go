package audit

import (
	"bytes"
)

// execKey is a process of a host, as long as its pid is not used again.
type execKey struct {
	node string
	pid  uint32
}

// program is what a process was started with.
type program struct {
	exe, dir string
	args     []string
}

// started remembers what a program was started with.
func (p *Parser) started(g *group) {
	if g.exit < 0 || len(g.args) == 0 {
		return
	}
	const overhead = 128 // bytes of an entry besides its strings, about
	p.execs.Put(execKey{g.node, g.pid}, program{g.exe, g.cwd, g.args}, overhead+g.argBytes+len(g.exe)+len(g.cwd))
}

// arguments returns the command line and the directory of a connect's process. What its execve
// said comes first, if that was of the same executable: PROCTITLE is cut at 128 bytes, and the
// kernel repeats the title from before an execve after it. A pid that is used again for another
// executable does not inherit; one that forked without execve has its parent's title at least.
func (p *Parser) arguments(g *group) (args []string, dir string) {
	if e, ok := p.execs.Get(execKey{g.node, g.pid}); ok && e.exe == g.exe {
		if dir = g.cwd; dir == "" {
			dir = e.dir
		}
		return e.args, dir
	}
	return p.split(g.title), g.cwd
}

// split returns the arguments of a title, which NUL bytes part.
func (p *Parser) split(title []byte) []string {
	if len(title) == 0 {
		return nil
	}
	if args, ok := p.titles.Get(string(title)); ok {
		return args
	}
	parts := bytes.SplitN(title, []byte{0}, maxArgc)
	args := make([]string, len(parts))
	for i, part := range parts {
		args[i] = string(part)
	}
	p.titles.Put(string(title), args, 128+2*len(title)+16*len(args))
	return args
}

// addArgs takes the arguments of an EXECVE record: a0="ls" a1=2D6C; long ones come in parts as
// a2_len=9000 a2[0]=… a2[1]=…, over several records of the event.
func (p *Parser) addArgs(g *group, body []byte) {
	for f, rest := next(body); f.key != nil; f, rest = next(rest) {
		name, ok := bytes.CutPrefix(f.key, []byte("a"))
		if !ok {
			continue
		}
		digits, index, inParts := bytes.Cut(name, []byte("["))
		n, ok := number(digits, 10)
		if !ok || n >= maxArgc || bytes.HasSuffix(name, []byte("_len")) {
			continue // argc, a0_len, or beyond the bound
		}
		p.scratch = f.text(p.scratch[:0])
		room := maxArgs - g.argBytes
		text := string(p.scratch[:min(len(p.scratch), max(room, 0))])
		g.argBytes += len(text)
		switch last := len(g.args) - 1; {
		case int(n) == len(g.args):
			g.args = append(g.args, text)
		case inParts && int(n) == last && !bytes.HasPrefix(index, []byte("0]")):
			g.args[last] += text
		}
	}
}
