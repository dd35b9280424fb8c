package audit

import (
	"encoding/binary"
	"net/netip"

	"portolan/correlate/attribute"
)

// call is what a system call does, as far as connections are concerned.
type call uint8

const (
	other call = iota
	connect
	sendto
	sendmsg
	sendmmsg
	execve
	socket
)

// callOf returns what a system call does. The arch is that of SYSCALL records: the ELF machine
// with flags for 64 bit and little endian (linux/audit.h); the numbers are those of the
// kernel's tables. i386 and arm are there as much of what infects Linux hosts is built for 32 bit.
func callOf(arch uint32, nr uint64) call {
	switch arch {
	case 0xc000003e: // x86-64; x32 has its own numbers for some, with bit 30 set
		switch nr {
		case 42, 1<<30 | 42:
			return connect
		case 44, 1<<30 | 44:
			return sendto
		case 46, 1<<30 | 518:
			return sendmsg
		case 307, 1<<30 | 538:
			return sendmmsg
		case 59, 322, 1<<30 | 520, 1<<30 | 545:
			return execve
		case 41, 1<<30 | 41:
			return socket
		}
	case 0xc00000b7, 0xc00000f3: // arm64 and riscv64 share the generic table
		switch nr {
		case 203:
			return connect
		case 206:
			return sendto
		case 211:
			return sendmsg
		case 269:
			return sendmmsg
		case 221, 281:
			return execve
		case 198:
			return socket
		}
	case 0x40000003: // i386
		switch nr {
		case 362:
			return connect
		case 369:
			return sendto
		case 370:
			return sendmsg
		case 345:
			return sendmmsg
		case 11, 358:
			return execve
		case 359:
			return socket
		}
	case 0x40000028: // arm
		switch nr {
		case 283:
			return connect
		case 290:
			return sendto
		case 296:
			return sendmsg
		case 374:
			return sendmmsg
		case 11, 387:
			return execve
		case 281:
			return socket
		}
	}
	return other
}

// Kind says whether a system call connects a socket or sends a datagram.
func Kind(arch uint32, nr uint64) (connects, sends bool) {
	switch callOf(arch, nr) {
	case connect:
		return true, false
	case sendto, sendmsg, sendmmsg:
		return false, true
	}
	return false, false
}

// socketcall returns what i386's multiplexer, system call 102, does by its first argument
// (linux/net.h). Old C libraries know no other way.
func socketcall(arch uint32, nr, a0 uint64) call {
	if arch != 0x40000003 || nr != 102 {
		return other
	}
	switch a0 {
	case 3:
		return connect
	case 11:
		return sendto
	case 16:
		return sendmsg
	case 20:
		return sendmmsg
	}
	return other
}

// uringCall returns what an io_uring operation does (enum io_uring_op in linux/io_uring.h).
func uringCall(op uint64) call {
	switch op {
	case 16:
		return connect
	case 26:
		return sendto
	case 9:
		return sendmsg
	}
	return other
}

// Errors that a connect's or a send's result tells apart (asm-generic/errno.h).
const (
	eintr        = 4
	efault       = 14
	eisconn      = 106
	etimedout    = 110
	econnrefused = 111
	ealready     = 114
	einprogress  = 115
	erestartsys  = 512 // and the next three: a signal came, and the kernel calls again or returns EINTR
	erestartLast = 516
)

// Outcome says what a connect's error number means, 0 for success. begun is false for calls
// that only ask after a connection begun before. EINPROGRESS is what every non-blocking
// connect returns, also those that succeed.
func Outcome(errno uint16) (result attribute.Result, begun bool) {
	switch errno {
	case 0:
		return attribute.Connected, true
	case einprogress, eintr, erestartsys, erestartsys + 1, erestartsys + 2, erestartLast:
		return attribute.InProgress, true
	case econnrefused:
		return attribute.Refused, true
	case etimedout:
		return attribute.TimedOut, true
	case ealready, eisconn:
		return "", false
	}
	return attribute.Failed, true
}

// ParseSockaddr reads a socket address as SOCKADDR records hold it: the kernel's struct
// sockaddr_in or sockaddr_in6 in hexadecimal, the family in little-endian order, which all the
// architectures of callOf have. IPv4-mapped addresses come back as IPv4. It returns the invalid
// AddrPort for other families and for what is too short.
func ParseSockaddr(text []byte) netip.AddrPort {
	var room [28]byte // struct sockaddr_in6
	return Sockaddr(unhex(room[:0], text[:min(len(text), 2*len(room))]))
}

// Sockaddr is ParseSockaddr for the bytes themselves.
func Sockaddr(b []byte) netip.AddrPort {
	if len(b) < 8 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.LittleEndian.Uint16(b); {
	case family == 2:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case family == 10 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}
