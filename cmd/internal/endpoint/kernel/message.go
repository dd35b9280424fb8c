// Package kernel is the endpoint agent's share of the kernel: eBPF programs that see which
// process connects, and what they send. They are written with an assembler and fitted to the
// running kernel by its BTF, so building them takes no compiler for eBPF.
package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Config says how much the programs may keep. The zero value is not valid; start from DefaultConfig.
type Config struct {
	Ring     int  // bytes of the ring from the kernel to the agent; a power of two, 64 KiB to 1 GiB
	Sockets  int  // pairs of socket and destination whose last datagram is remembered; 1024 to 16 Mi
	Programs int  // programs that run and have been described; 256 to 1 Mi
	Loopback bool // report what goes to a loopback address, too
}

// DefaultConfig returns the configuration of a host: 8 MiB of ring hold what comes within a
// second at 50,000 connects a second, and 65,536 pairs take 8 MiB.
func DefaultConfig() Config {
	return Config{Ring: 8 << 20, Sockets: 1 << 16, Programs: 1 << 12}
}

// Validate reports the first field whose value is out of range.
func (c Config) Validate() error {
	bad := func(field string, value int, want string) error {
		return fmt.Errorf("%s %d: want %s", field, value, want)
	}
	switch {
	case c.Ring < 64<<10 || c.Ring > 1<<30 || c.Ring&(c.Ring-1) != 0:
		return bad("Ring", c.Ring, "a power of two, 65536 to 1073741824")
	case c.Sockets < 1<<10 || c.Sockets > 1<<24:
		return bad("Sockets", c.Sockets, "1024 to 16777216")
	case c.Programs < 1<<8 || c.Programs > 1<<20:
		return bad("Programs", c.Programs, "256 to 1048576")
	}
	return nil
}

// Message is what a program said. One of the three is not nil.
type Message struct {
	Flow    *Flow
	Process *Process
	Result  *Result

	// What they point to, for the next message.
	flow    Flow
	process Process
	result  Result
}

// Program names a program that runs: a process, until it runs another.
type Program struct {
	PID   uint32        // in the initial pid namespace
	Start time.Duration // since boot
	Exec  uint64        // how often the process has run another program
}

// Flow is a TCP connect or a datagram that left.
type Flow struct {
	Program
	Time          time.Duration // since boot
	Cookie        uint64        // of the socket; never used twice
	Proto         uint8         // IP protocol: 6 or 17
	Local, Remote netip.AddrPort
	First         bool // false for datagrams to port 53 after the first; always true of TCP
	UID, LoginUID uint32
	NetNS         uint32 // inode of the socket's network namespace
	Comm          string // of the process, not of the thread
	Payload       []byte // of a datagram to port 53; valid until the next Read
}

// Process is what a program that runs is, at its start, or when it first connects.
type Process struct {
	Program
	Time          time.Duration // since boot
	Comm          string
	Executable    string // in its own root directory; "" for threads of the kernel
	Inode         uint64 // of the executable
	Device        uint64 // that the executable is on, as stat(2) gives it
	Args          []string
	ArgsCut       bool // there are more, or they could not be read
	UID, LoginUID uint32
	Cgroup        string // in the unified hierarchy
	Parent        uint32
	ParentStart   time.Duration // since boot
	ParentComm    string
	ParentExe     string
}

// Result says how a TCP connect ended.
type Result struct {
	Cookie uint64
	Errno  uint32 // 0 for a complete handshake
	Time   time.Duration
}

// decode reads a message and says whether it is one. Bytes of b are kept for Flow.Payload alone.
func (m *Message) decode(b []byte) bool {
	m.Flow, m.Process, m.Result = nil, nil, nil
	if len(b) < resultLen {
		return false
	}
	switch binary.NativeEndian.Uint32(b) {
	case kindFlow:
		return m.decodeFlow(b)
	case kindProcess:
		return m.decodeProcess(b)
	case kindResult:
		m.result = Result{Errno: u32(b, resultErrno), Cookie: u64(b, resultCookie), Time: since(b, resultTime)}
		m.Result = &m.result
		return true
	}
	return false
}

func (m *Message) decodeFlow(b []byte) bool {
	if len(b) < flowLen {
		return false
	}
	n := int(binary.NativeEndian.Uint16(b[flowPayLen:]))
	if len(b) < flowLen+n {
		return false
	}
	f := &m.flow
	*f = Flow{
		Program: program(b), Time: since(b, flowTime), Cookie: u64(b, flowCookie), Proto: b[flowProto],
		Local:  addrPort(b[flowSource:], b[flowSport:], b[flowVersion]),
		Remote: addrPort(b[flowDest:], b[flowDport:], b[flowVersion]),
		First:  u32(b, flowFlags)&flowFirst != 0,
		UID:    u32(b, flowUID), LoginUID: u32(b, flowLogin), NetNS: u32(b, flowNetNS),
		Comm: text(b[flowComm:][:commLen]), Payload: b[flowPayload:][:n],
	}
	m.Flow = f
	return true
}

func (m *Message) decodeProcess(b []byte) bool {
	if len(b) < procLen {
		return false
	}
	n := int(u32(b, procArgsLen))
	if len(b) < procLen+n {
		return false
	}
	flags := u32(b, procFlags)
	p := &m.process
	*p = Process{
		Program: program(b), Time: since(b, procTime), Comm: text(b[procComm:][:commLen]),
		Executable: path(b, procExe, procExeLen, flags&procExeCut != 0),
		Inode:      u64(b, procInode), Device: device(u32(b, procDevice)),
		ArgsCut: u64(b, procArgsAll) > uint64(n),
		UID:     u32(b, procUID), LoginUID: u32(b, procLogin),
		Cgroup: path(b, procCgroup, procCgroupLen, flags&procCgroupCut != 0),
		Parent: u32(b, procParent), ParentStart: since(b, procParStart),
		ParentComm: text(b[procParComm:][:commLen]),
		ParentExe:  path(b, procParExe, procParExeLen, flags&procParExeCut != 0),
	}
	if args := bytes.TrimRight(b[procArgs:][:n], "\x00"); len(args) > 0 {
		p.Args = strings.Split(string(args), "\x00")
	}
	if p.Cgroup == "" {
		p.Cgroup = "/" // the root has no name
	}
	m.Process = p
	return true
}

func u32(b []byte, at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }

func since(b []byte, at int) time.Duration { return time.Duration(u64(b, at)) }

func program(b []byte) Program {
	return Program{PID: u32(b, flowPID), Start: since(b, flowStart), Exec: u64(b, flowExec)}
}

func addrPort(addr, port []byte, version uint8) netip.AddrPort {
	p := binary.BigEndian.Uint16(port)
	if version == 4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr)), p)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(addr)).Unmap(), p)
}

// text returns the bytes before the first zero.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// path returns the names, which go up to the root, as a path. One that was cut begins with "…".
func path(b []byte, at, length int, cut bool) string {
	n := min(int(u32(b, length)), pathLen)
	names := bytes.Split(bytes.TrimSuffix(b[at:at+n], []byte{0}), []byte{0})
	var s strings.Builder
	if cut {
		s.WriteString("…")
	}
	for i := len(names) - 1; i >= 0; i-- {
		if len(names[i]) > 0 {
			s.WriteByte('/')
			s.Write(names[i])
		}
	}
	return s.String()
}

// device turns the kernel's own form of a device number, 12 bits of major and 20 of minor, into
// that of stat(2), which splits the minor.
func device(d uint32) uint64 {
	major, minor := uint64(d>>20), uint64(d&(1<<20-1))
	return minor&0xff | major<<8 | minor&^0xff<<12
}
