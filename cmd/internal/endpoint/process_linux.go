package endpoint

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"portolan/cmd/internal/endpoint/kernel"
	"portolan/correlate/attribute"
	"portolan/sensor/event"
)

// process is a program that runs, or ran.
type process struct {
	attribute.Process
	inode, device uint64
	argsCut       bool
	completed     bool // /proc was asked for what the kernel left out
	hash          *hashing
}

// processes remembers programs by what names them. The older half goes when the younger is full.
// The kernel's memory is half as large, so what it calls known is known here.
type processes struct {
	clock      *clock
	most       int // of either half
	young, old map[kernel.Program]*process
	strings    map[string]string // executables and cgroups: few, with many processes each
	missed     uint64            // programs that had to be read from /proc
}

func newProcesses(c *clock, most int) *processes {
	return &processes{clock: c, most: most, young: map[kernel.Program]*process{}, strings: map[string]string{}}
}

const maxStrings = 1 << 14

// same returns s, the copy that is kept of it.
func (p *processes) same(s string) string {
	if kept, ok := p.strings[s]; ok {
		return kept
	}
	if len(p.strings) >= maxStrings {
		clear(p.strings)
	}
	p.strings[s] = s
	return s
}

func (p *processes) put(k kernel.Program, v *process) {
	if len(p.young) >= p.most {
		p.old, p.young = p.young, make(map[kernel.Program]*process, p.most)
	}
	p.young[k] = v
}

// describe remembers what the kernel said. A second description of a program is of no interest:
// by then it may have written over its arguments.
func (p *processes) describe(m *kernel.Process) {
	if p.find(m.Program) != nil {
		return
	}
	v := &process{
		Process: attribute.Process{
			PID: m.PID, Start: p.clock.start(m.Start), Name: m.Comm, Executable: p.same(m.Executable), Args: m.Args,
			Cgroup: p.same(m.Cgroup),
		},
		inode: m.Inode, device: m.Device, argsCut: m.ArgsCut,
	}
	if m.Parent != 0 {
		v.Parent = attribute.Parent{PID: m.Parent, Start: p.clock.start(m.ParentStart), Name: m.ParentComm, Executable: p.same(m.ParentExe)}
	}
	v.ContainerID = containerID(v.Cgroup)
	p.put(m.Program, v)
}

func (p *processes) find(k kernel.Program) *process {
	if v := p.young[k]; v != nil {
		return v
	}
	v := p.old[k]
	if v != nil {
		p.put(k, v)
	}
	return v
}

// of returns the process of a flow. What the kernel did not say is read from /proc, if the process
// is still there.
func (p *processes) of(f *kernel.Flow) *process {
	v := p.find(f.Program)
	if v == nil {
		p.missed++
		v = &process{Process: attribute.Process{PID: f.PID, Start: p.clock.start(f.Start), Name: f.Comm}, argsCut: true}
		p.put(f.Program, v)
	}
	if !v.completed {
		v.completed = true
		v.complete(f.Start)
	}
	return v
}

const (
	maxArgBytes = 4096 // of the arguments of a record
	maxProcFile = 64 << 10
)

// complete reads from /proc what is missing, unless the pid is another process's by now.
func (v *process) complete(start time.Duration) {
	cut := strings.HasPrefix(v.Executable, "…")
	if !v.argsCut && !cut && v.Executable != "" && v.Cgroup != "/" && v.Cgroup != "" {
		return
	}
	dir := "/proc/" + strconv.FormatUint(uint64(v.PID), 10)
	args, errArgs := readBounded(filepath.Join(dir, "cmdline"), maxArgBytes)
	exe, errExe := os.Readlink(filepath.Join(dir, "exe"))
	groups, errGroups := readBounded(filepath.Join(dir, "cgroup"), maxProcFile)
	if !isStill(dir, start) {
		return
	}
	if args = bytes.TrimRight(args, "\x00"); errArgs == nil && v.argsCut && len(args) > 0 {
		v.Args = strings.Split(string(args), "\x00")
	}
	if errExe == nil && (cut || v.Executable == "") {
		v.Executable = strings.TrimSuffix(exe, " (deleted)")
	}
	if errGroups == nil && v.ContainerID == "" {
		// Where controllers have hierarchies of their own, a container may be in those alone.
		for line := range strings.SplitSeq(string(groups), "\n") {
			_, rest, _ := strings.Cut(line, ":")
			controllers, path, _ := strings.Cut(rest, ":")
			if controllers == "" && v.Cgroup == "" {
				v.Cgroup = path
			}
			if id := containerID(path); id != "" {
				v.ContainerID = id
			}
		}
	}
}

// readBounded reads the first bytes of a file.
func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on all architectures that Go knows.
const tick = 10 * time.Millisecond

// isStill reports whether the process with a /proc directory began at that time since boot.
func isStill(dir string, start time.Duration) bool {
	began, err := startOf(dir)
	return err == nil && began == start.Truncate(tick)
}

// startOf returns when a process began, since boot, to the tick (proc(5), stat, field 22).
func startOf(dir string) (time.Duration, error) {
	b, err := readBounded(filepath.Join(dir, "stat"), maxProcFile)
	if err != nil {
		return 0, err
	}
	const afterName = 22 - 3 // fields between the name, which may hold anything, and the start
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) <= afterName {
		return 0, fmt.Errorf("%s/stat: too few fields", dir)
	}
	n, err := strconv.ParseInt(fields[afterName], 10, 64)
	return time.Duration(n) * tick, err
}

// containerID returns the id in a cgroup's path: the last 64 hexadecimal digits that stand by themselves,
// as Docker, Podman, containerd and CRI-O put them, with or without their own name around them.
func containerID(path string) string {
	const digits = 64
	for path != "" {
		var name string
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			path, name = path[:i], path[i+1:]
		} else {
			path, name = "", path
		}
		name = strings.TrimSuffix(name, ".scope")
		if i := strings.LastIndexAny(name, "-:"); i >= 0 {
			name = name[i+1:]
		}
		if len(name) == digits && strings.Trim(name, "0123456789abcdef") == "" {
			return name
		}
	}
	return ""
}

// users knows names of users from /etc/passwd, and asks nobody else: a lookup that went over the
// network would be a connection of its own.
type users struct {
	names   map[uint32]string
	changed time.Time // of the file, when it was read
	again   time.Time
}

const (
	usersEvery = 10 * time.Second
	maxPasswd  = 16 << 20
)

func (u *users) name(uid uint32, now time.Time) string {
	if !now.Before(u.again) {
		u.again = now.Add(usersEvery)
		if st, err := os.Stat("/etc/passwd"); err == nil && !st.ModTime().Equal(u.changed) {
			u.changed = st.ModTime()
			u.read()
		}
	}
	return u.names[uid]
}

func (u *users) read() {
	b, err := readBounded("/etc/passwd", maxPasswd)
	if err != nil {
		return
	}
	u.names = map[uint32]string{}
	for line := range strings.SplitSeq(string(b), "\n") {
		fields := strings.SplitN(line, ":", 4) // passwd(5): name, password, uid
		if len(fields) < 4 {
			continue
		}
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			if _, known := u.names[uint32(id)]; !known {
				u.names[uint32(id)] = fields[0]
			}
		}
	}
}

// bootOf returns when the kernel started.
func (c *clock) bootOf() event.Time { return event.Time(time.Duration(c.boot).Round(startRound)) }
