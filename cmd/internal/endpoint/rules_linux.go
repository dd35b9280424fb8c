package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// AuditCommands are what to type for the rules that the auditd source needs.
const AuditCommands = "auditctl -a always,exit -F arch=b64 -S connect,execve,execveat -k portolan"

// Of linux/audit.h.
const (
	auditGet     = 1000
	auditSet     = 1001
	auditAddRule = 1011
	auditDelRule = 1012

	auditFilterExit = 4
	auditAlways     = 2
	auditArch       = 11
	auditA0         = 200
	auditFilterKey  = 210
	auditEqual      = 0x40000000

	auditMaskWords  = 64
	auditMaxFields  = 64
	auditStatusOn   = 1  // mask
	auditStatusSize = 40 // up to and with the field that Linux 3.14 had last
)

// auditCalls are the system calls of an architecture that a rule names.
type auditCalls struct {
	arch  uint32
	calls []uint32
	a0    []uint32 // each value of the first argument makes a rule of its own; none for any
}

// auditRules returns the rules for this machine: connects, programs that are run, and which protocol
// a socket has. Programs of 32 bits have their own numbers.
func auditRules() []auditCalls {
	inet := []uint32{unix.AF_INET, unix.AF_INET6}
	switch runtime.GOARCH {
	case "amd64":
		const x86, i386 = 0xc000003e, 0x40000003
		return []auditCalls{{x86, []uint32{42, 59, 322}, nil}, {x86, []uint32{41}, inet},
			{i386, []uint32{362, 11, 358}, nil}, {i386, []uint32{359}, inet}, {i386, []uint32{102}, []uint32{3}}}
	case "arm64":
		const arm64, arm = 0xc00000b7, 0x40000028
		return []auditCalls{{arm64, []uint32{203, 221, 281}, nil}, {arm64, []uint32{198}, inet},
			{arm, []uint32{283, 11, 387}, nil}, {arm, []uint32{281}, inet}}
	}
	return nil
}

// encode returns the rules as the kernel takes them (struct audit_rule_data).
func (c auditCalls) encode() [][]byte {
	values := c.a0
	if values == nil {
		values = []uint32{0}
	}
	var all [][]byte
	for _, v := range values {
		const key = "portolan"
		fields := [][2]uint32{{auditArch, c.arch}}
		if c.a0 != nil {
			fields = append(fields, [2]uint32{auditA0, v})
		}
		fields = append(fields, [2]uint32{auditFilterKey, uint32(len(key))})
		w := make([]uint32, 3+auditMaskWords+3*auditMaxFields+1)
		w[0], w[1], w[2] = auditFilterExit, auditAlways, uint32(len(fields))
		for _, nr := range c.calls {
			w[3+nr/32] |= 1 << (nr % 32)
		}
		for i, f := range fields {
			w[3+auditMaskWords+i] = f[0]
			w[3+auditMaskWords+auditMaxFields+i] = f[1]
			w[3+auditMaskWords+2*auditMaxFields+i] = auditEqual
		}
		w[len(w)-1] = uint32(len(key))
		var b []byte
		for _, x := range w {
			b = binary.NativeEndian.AppendUint32(b, x)
		}
		all = append(all, append(b, key...))
	}
	return all
}

// rules is what was changed of the kernel's audit system.
type rules struct {
	fd      int
	added   [][]byte
	enabled bool // auditing was off before
}

var errNoRules = errors.New("no rules are known for this architecture")

// addRules switches auditing on and adds the rules that are not there yet.
func addRules() (_ *rules, err error) {
	if len(auditRules()) == 0 {
		return nil, errNoRules
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, err
	}
	r := &rules{fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.remove())
		}
	}()
	timeout := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return nil, err
	}
	status, err := r.ask(auditGet, nil)
	if err != nil {
		return nil, err
	}
	if len(status) >= 8 && binary.NativeEndian.Uint32(status[4:]) == 0 {
		if err := r.enable(1); err != nil {
			return nil, err
		}
		r.enabled = true
	}
	for _, c := range auditRules() {
		for _, b := range c.encode() {
			switch _, err := r.ask(auditAddRule, b); {
			case errors.Is(err, unix.EEXIST):
			case err != nil:
				return nil, err
			default:
				r.added = append(r.added, b)
			}
		}
	}
	return r, nil
}

// remove takes back what was added.
func (r *rules) remove() error {
	var errs []error
	for _, b := range r.added {
		if _, err := r.ask(auditDelRule, b); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove audit rule: %w", err))
		}
	}
	if r.enabled {
		if err := r.enable(0); err != nil {
			errs = append(errs, fmt.Errorf("switch auditing off: %w", err))
		}
	}
	unix.Close(r.fd)
	return errors.Join(errs...)
}

// enable switches auditing on or off (struct audit_status).
func (r *rules) enable(on uint32) error {
	b := make([]byte, auditStatusSize)
	binary.NativeEndian.PutUint32(b, auditStatusOn)
	binary.NativeEndian.PutUint32(b[4:], on)
	_, err := r.ask(auditSet, b)
	return err
}

// ask sends a request, and returns what the kernel says besides whether it was done.
func (r *rules) ask(kind uint16, body []byte) (answer []byte, err error) {
	const header = unix.SizeofNlMsghdr
	m := binary.NativeEndian.AppendUint32(nil, uint32(header+len(body)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...) // sequence and port
	if err := unix.Sendto(r.fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	const most = 8 // answers to wait for: the acknowledgement and what was asked for, in either order
	b := make([]byte, 16<<10)
	acknowledged := false
	for range most {
		if acknowledged && (kind != auditGet || answer != nil) {
			return answer, nil
		}
		n, _, err := unix.Recvfrom(r.fd, b, 0)
		if err != nil {
			return nil, err
		}
		switch {
		case n >= header+4 && nativeUint16(b[4:]) == unix.NLMSG_ERROR:
			if e := int32(binary.NativeEndian.Uint32(b[header:])); e != 0 {
				return nil, unix.Errno(-e)
			}
			acknowledged = true
		case n > header && nativeUint16(b[4:]) == kind:
			answer = append([]byte{}, b[header:n]...)
		}
	}
	return nil, unix.EPROTO
}

func nativeUint16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
