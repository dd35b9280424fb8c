//go:build linux

package kernel

import (
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// silence is after how long a datagram to a destination counts as the first again, as it does
// for the sensor.
const silence = 60 * time.Second

// noWakeup is BPF_RB_NO_WAKEUP: the agent looks at the ring by itself.
const noWakeup = 1

// Counts.
const (
	countLost = iota // messages that found no room in the ring
	numCounts
)

// Offsets in struct __sk_buff, linux/bpf.h.
const (
	skbData    = 76
	skbDataEnd = 80
	skbSock    = 168
)

// Flags of TCP (RFC 9293, section 3.1).
const (
	flagFIN, flagSYN, flagRST, flagACK = 0x01, 0x02, 0x04, 0x10
)

// States of a TCP socket, net/tcp_states.h.
const (
	stateEstablished = 1
	stateSynSent     = 2
	stateClose       = 7
)

// maps is what the programs share.
type maps struct {
	ring    *ebpf.Map // messages to the agent
	counts  *ebpf.Map
	seen    *ebpf.Map // socket and destination to the time of the last datagram
	known   *ebpf.Map // programs that were described
	scratch *ebpf.Map // of the program in question
}

// egress looks at each packet that a socket of this host sends, behind the host's own filters
// and address translation, and before anything may queue it: the process that sends is the one
// that runs. It reports TCP connects, first datagrams, and those to port 53 with what they carry.
// All packets pass.
func egress(t *types, m *maps, loopback bool) asm.Instructions {
	b := &builder{types: t}
	const (
		data, end, transport = asm.R7, asm.R8, asm.R9
	)
	b.add(asm.Mov.Reg(regContext, asm.R1),
		asm.LoadMem(data, regContext, skbData, asm.Word), asm.LoadMem(end, regContext, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, 20), asm.JGT.Reg(asm.R1, end, "pass"),
		asm.LoadMem(asm.R0, data, 0, asm.Byte), asm.Mov.Reg(asm.R4, asm.R0), asm.RSh.Imm(asm.R4, 4),
		asm.JEq.Imm(asm.R4, 6, "IPv6"), asm.JNE.Imm(asm.R4, 4, "pass"),
		asm.And.Imm(asm.R0, 15), asm.LSh.Imm(asm.R0, 2),
		asm.Mov.Reg(transport, data), asm.Add.Reg(transport, asm.R0),
		asm.LoadMem(asm.R3, data, 9, asm.Byte),
		asm.Ja.Label("transport"))
	b.mark("IPv6")
	b.add(asm.Mov.Reg(transport, data), asm.Add.Imm(transport, 40), asm.JGT.Reg(transport, end, "pass"),
		asm.LoadMem(asm.R3, data, 6, asm.Byte))

	b.mark("transport")
	b.add(asm.JEq.Imm(asm.R3, unix.IPPROTO_UDP, "UDP"), asm.JNE.Imm(asm.R3, unix.IPPROTO_TCP, "pass"),
		asm.Mov.Reg(asm.R1, transport), asm.Add.Imm(asm.R1, 20), asm.JGT.Reg(asm.R1, end, "pass"),
		asm.LoadMem(asm.R1, transport, 13, asm.Byte), asm.And.Imm(asm.R1, flagFIN|flagSYN|flagRST|flagACK),
		asm.JNE.Imm(asm.R1, flagSYN, "pass"))
	b.mark("UDP")
	b.add(asm.Mov.Reg(asm.R1, transport), asm.Add.Imm(asm.R1, 8), asm.JGT.Reg(asm.R1, end, "pass"))
	if !loopback { // what never leaves the host, but for questions
		b.add(asm.LoadMem(asm.R1, transport, 2, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.JEq.Imm(asm.R1, 53, "wanted"), asm.JEq.Imm(asm.R4, 6, "to IPv6"),
			asm.LoadMem(asm.R1, data, 16, asm.Byte), asm.JEq.Imm(asm.R1, 127, "pass"), asm.Ja.Label("wanted"))
		b.mark("to IPv6")
		b.add(asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, 40), asm.JGT.Reg(asm.R1, end, "pass"),
			asm.LoadMem(asm.R1, data, 24, asm.DWord), asm.JNE.Imm(asm.R1, 0, "wanted"),
			asm.LoadMem(asm.R1, data, 32, asm.DWord), asm.HostTo(asm.BE, asm.R1, asm.DWord), asm.JEq.Imm(asm.R1, 1, "pass"))
		b.mark("wanted")
	}
	b.add(asm.StoreMem(asm.RFP, stackNode, asm.R3, asm.DWord), asm.StoreMem(asm.RFP, stackCount, asm.R4, asm.DWord),
		asm.Mov.Reg(asm.R0, transport), asm.StoreMem(asm.RFP, stackNext, asm.R0, asm.DWord))

	// Copy the packet's facts: regScratch is where the transport header was.
	b.scratch(m.scratch, "pass")
	b.zero(scratchFlow, flowLen)
	b.add(asm.StoreImm(regScratch, flowKind, kindFlow, asm.Word),
		asm.LoadMem(asm.R3, asm.RFP, stackNode, asm.DWord), asm.StoreMem(regScratch, flowProto, asm.R3, asm.Byte),
		asm.LoadMem(asm.R4, asm.RFP, stackCount, asm.DWord), asm.StoreMem(regScratch, flowVersion, asm.R4, asm.Byte),
		asm.LoadMem(asm.R5, asm.RFP, stackNext, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R5), asm.Add.Imm(asm.R1, 4), asm.JGT.Reg(asm.R1, end, "pass"),
		asm.LoadMem(asm.R1, asm.R5, 0, asm.Word), asm.StoreMem(regScratch, flowSport, asm.R1, asm.Word),
		asm.Sub.Reg(asm.R5, data), asm.StoreMem(regScratch, scratchOff, asm.R5, asm.DWord),
		asm.JEq.Imm(asm.R4, 6, "copy IPv6"),
		asm.LoadMem(asm.R1, data, 12, asm.Word), asm.StoreMem(regScratch, flowSource, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, data, 16, asm.Word), asm.StoreMem(regScratch, flowDest, asm.R1, asm.Word),
		asm.Ja.Label("socket"))
	b.mark("copy IPv6")
	b.add(asm.Mov.Reg(asm.R1, data), asm.Add.Imm(asm.R1, 40), asm.JGT.Reg(asm.R1, end, "pass"))
	for i := int16(0); i < 32; i += 8 {
		b.add(asm.LoadMem(asm.R1, data, 8+i, asm.DWord), asm.StoreMem(regScratch, flowSource+i, asm.R1, asm.DWord))
	}
	b.mark("socket")
	b.socket()
	b.first(m)
	b.payload()
	b.add(asm.FnGetCurrentTask.Call(), asm.Mov.Reg(regTask, asm.R0))
	b.identify(scratchFlow)
	b.readField(flowComm, regAt, t.of("task_struct", "comm"))
	b.users(flowUID, flowLogin)

	b.inScratch(asm.R2, programKey)
	b.add(asm.LoadMapPtr(asm.R1, m.known.FD()), asm.FnMapLookupElem.Call(), asm.JNE.Imm(asm.R0, 0, "described"))
	b.describe(m)
	b.know(m, programKey)
	b.mark("described")
	b.add(asm.LoadMem(asm.R3, regScratch, flowPayLen, asm.Half),
		asm.JLE.Imm(asm.R3, maxPayload, "short"), asm.Mov.Imm(asm.R3, 0))
	b.mark("short")
	b.add(asm.Add.Imm(asm.R3, flowLen))
	b.output(m, scratchFlow)
	b.mark("pass")
	b.add(asm.Mov.Imm(asm.R0, 1), asm.Return())
	return b.Instructions
}

// socket writes what the socket tells, and ends the program where the process that runs did not
// send: a kernel's tunnel, or the repeat of a SYN, which a timer sends.
func (b *builder) socket() {
	t := b.types
	b.add(asm.Mov.Reg(asm.R1, regContext), asm.FnGetSocketCookie.Call(),
		asm.StoreMem(regScratch, flowCookie, asm.R0, asm.DWord),
		asm.FnKtimeGetBootNs.Call(), asm.StoreMem(regScratch, flowTime, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, regContext, skbSock, asm.DWord), asm.JEq.Imm(asm.R1, 0, "pass"),
		// By way of memory the pointer becomes a number to calculate with.
		asm.StoreMem(regScratch, scratchSock, asm.R1, asm.DWord), asm.LoadMem(regTask, regScratch, scratchSock, asm.DWord))
	sock := regTask
	b.readReg(regAt, sock, t.of("sock", "__sk_common.skc_net.net"))
	b.readField(flowNetNS, regAt, t.of("net", "ns.inum"))
	b.readReg(asm.R0, sock, t.of("sock", "sk_protocol"))
	b.add(asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, "by a process"))
	// The first SYN leaves in connect, or in a send that connects: the socket is locked for a
	// process. The timer that repeats it holds no such lock.
	b.readReg(asm.R0, sock, t.of("sock", "sk_lock.owned"))
	b.add(asm.JEq.Imm(asm.R0, 0, "pass"))
	b.readReg(asm.R0, sock, t.of("inet_connection_sock", "icsk_retransmits"))
	b.add(asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.StoreImm(regScratch, flowFlags, flowFirst, asm.Word),
		asm.Ja.Label("is first"))
	b.mark("by a process")
	b.readReg(asm.R0, sock, t.of("sock", "sk_socket"))
	b.add(asm.JEq.Imm(asm.R0, 0, "pass"))
	b.readReg(asm.R0, asm.R0, t.of("socket", "file"))
	b.add(asm.JEq.Imm(asm.R0, 0, "pass")) // a socket of the kernel's own
}

// first finds out whether a packet is the first between a socket and a destination, and ends the
// program if it is not and goes to another port than 53.
func (b *builder) first(m *maps) {
	for i := int16(0); i < 16; i += 8 {
		b.add(asm.LoadMem(asm.R1, regScratch, flowDest+i, asm.DWord), asm.StoreMem(regScratch, keyDest+i, asm.R1, asm.DWord))
	}
	b.add(asm.LoadMem(asm.R1, regScratch, flowCookie, asm.DWord), asm.StoreMem(regScratch, keyCookie, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, regScratch, flowDport, asm.Half), asm.LoadMem(asm.R2, regScratch, flowProto, asm.Byte),
		asm.LSh.Imm(asm.R2, 16), asm.Or.Reg(asm.R1, asm.R2), asm.StoreMem(regScratch, keyPort, asm.R1, asm.DWord))
	b.inScratch(asm.R2, scratchKey)
	b.add(asm.LoadMapPtr(asm.R1, m.seen.FD()), asm.FnMapLookupElem.Call(),
		asm.LoadMem(asm.R1, regScratch, flowTime, asm.DWord),
		asm.JEq.Imm(asm.R0, 0, "new"),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.DWord), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Sub.Reg(asm.R1, asm.R2), asm.LoadImm(asm.R2, int64(silence), asm.DWord),
		asm.JSGT.Reg(asm.R1, asm.R2, "now first"),
		asm.LoadMem(asm.R1, regScratch, flowDport, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, 53, "pass"), asm.Ja.Label("is first"))
	b.mark("new")
	b.add(asm.StoreMem(regScratch, scratchSeen, asm.R1, asm.DWord))
	b.inScratch(asm.R2, scratchKey)
	b.inScratch(asm.R3, scratchSeen)
	b.add(asm.LoadMapPtr(asm.R1, m.seen.FD()), asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call())
	b.mark("now first")
	b.add(asm.StoreImm(regScratch, flowFlags, flowFirst, asm.Word))
	b.mark("is first")
	b.add(asm.Mov.Imm(asm.R0, 0))
}

// payload reads what a datagram to port 53 carries.
func (b *builder) payload() {
	const header = 8
	b.add(asm.LoadMem(asm.R1, regScratch, flowProto, asm.Byte), asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, "no payload"),
		asm.LoadMem(asm.R1, regScratch, flowDport, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, 53, "no payload"),
		asm.LoadMem(asm.R2, regScratch, scratchOff, asm.DWord), asm.Add.Imm(asm.R2, header),
		asm.LoadMem(asm.R4, regContext, 0, asm.Word), // length of the packet
		asm.JLE.Reg(asm.R4, asm.R2, "no payload"), asm.Sub.Reg(asm.R4, asm.R2),
		asm.JEq.Imm(asm.R4, 0, "no payload"), // for the verifier, which does not follow the comparison
		asm.JLE.Imm(asm.R4, maxPayload, "all payload"), asm.Mov.Imm(asm.R4, maxPayload))
	b.mark("all payload")
	b.add(asm.StoreMem(asm.RFP, stackNext, asm.R4, asm.DWord),
		asm.Mov.Reg(asm.R1, regContext), asm.Mov.Reg(asm.R3, regScratch), asm.Add.Imm(asm.R3, flowPayload),
		asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "no payload"),
		asm.LoadMem(asm.R4, asm.RFP, stackNext, asm.DWord), asm.StoreMem(regScratch, flowPayLen, asm.R4, asm.Half))
	b.mark("no payload")
	b.add(asm.Mov.Imm(asm.R0, 0))
}

// know remembers that a program was described; its key is at a place in the scratch.
func (b *builder) know(m *maps, key int32) {
	b.inScratch(asm.R2, key)
	b.inScratch(asm.R3, scratchProc+procTime)
	b.add(asm.LoadMapPtr(asm.R1, m.known.FD()), asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call())
}

// execs describes each process when it runs a program, before that could change its arguments.
func execs(t *types, m *maps) asm.Instructions {
	b := &builder{types: t}
	b.scratch(m.scratch, "end")
	b.add(asm.FnGetCurrentTask.Call(), asm.Mov.Reg(regTask, asm.R0))
	b.describe(m)
	b.know(m, scratchProc+programKey)
	b.mark("end")
	b.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	return b.Instructions
}

// states tells how connects end: the tracepoint inet_sock_set_state has a socket, the state it
// leaves and the one it comes to.
func states(t *types, m *maps, loopback bool) asm.Instructions {
	b := &builder{types: t}
	const to = -96 // the message
	b.add(asm.LoadMem(asm.R2, asm.R1, 8, asm.DWord), asm.LSh.Imm(asm.R2, 32), asm.RSh.Imm(asm.R2, 32),
		asm.JNE.Imm(asm.R2, stateSynSent, "end"),
		asm.LoadMem(asm.R3, asm.R1, 16, asm.DWord), asm.LSh.Imm(asm.R3, 32), asm.RSh.Imm(asm.R3, 32),
		asm.LoadMem(regContext, asm.R1, 0, asm.DWord))
	if !loopback {
		b.add(asm.LoadMem(asm.R1, regContext, int16(t.of("sock", "__sk_common.skc_family").off), asm.Half),
			asm.JEq.Imm(asm.R1, unix.AF_INET6, "to IPv6"),
			asm.LoadMem(asm.R1, regContext, int16(t.of("sock", "__sk_common.skc_daddr").off), asm.Byte),
			asm.JEq.Imm(asm.R1, 127, "end"), asm.Ja.Label("wanted"))
		b.mark("to IPv6")
		at := int16(t.of("sock", "__sk_common.skc_v6_daddr").off)
		for i := int16(0); i < 12; i += 4 {
			b.add(asm.LoadMem(asm.R1, regContext, at+i, asm.Word), asm.JNE.Imm(asm.R1, 0, "wanted"))
		}
		b.add(asm.LoadMem(asm.R1, regContext, at+12, asm.Word), asm.HostTo(asm.BE, asm.R1, asm.Word), asm.JEq.Imm(asm.R1, 1, "end"))
		b.mark("wanted")
	}
	b.add(asm.Mov.Imm(asm.R0, 0), asm.JEq.Imm(asm.R3, stateEstablished, "ended"), asm.JNE.Imm(asm.R3, stateClose, "end"),
		asm.LoadMem(asm.R0, regContext, int16(t.of("sock", "sk_err").off), asm.Word),
		asm.JEq.Imm(asm.R0, 0, "end")) // given up by the process: nobody knows
	b.mark("ended")
	b.add(asm.StoreImm(asm.RFP, to+resultKind, kindResult, asm.Word), asm.StoreMem(asm.RFP, to+resultErrno, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, regContext), asm.FnGetSocketCookie.Call(), asm.StoreMem(asm.RFP, to+resultCookie, asm.R0, asm.DWord),
		asm.FnKtimeGetBootNs.Call(), asm.StoreMem(asm.RFP, to+resultTime, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, m.ring.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, to), asm.Mov.Imm(asm.R3, resultLen),
		asm.Mov.Imm(asm.R4, noWakeup), asm.FnRingbufOutput.Call(), asm.JEq.Imm(asm.R0, 0, "end"))
	b.count(m, countLost)
	b.mark("end")
	b.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	return b.Instructions
}
