package kernel

// What the programs write and the agent reads, in the machine's byte order unless said otherwise.

// kinds of messages: their first four bytes.
const (
	kindFlow    = 1
	kindProcess = 2
	kindResult  = 3
)

// A flow: a TCP connect, or a datagram.
const (
	flowKind    = 0
	flowPID     = 4  // 4 bytes; with what follows up to flowTime it names a program that runs
	flowStart   = 8  // 8, ns since boot
	flowExec    = 16 // 8, how many programs the process has run before
	flowTime    = 24 // 8, ns since boot
	flowCookie  = 32 // 8, of the socket; never used twice
	flowSource  = 40 // 16, as in the packet; IPv4 takes the first four bytes
	flowDest    = 56 // 16
	flowSport   = 72 // 2, in network order
	flowDport   = 74 // 2, in network order
	flowProto   = 76 // 1, IP protocol
	flowVersion = 77 // 1, of IP
	flowPayLen  = 78 // 2, of the payload that is here
	flowUID     = 80 // 4
	flowLogin   = 84 // 4
	flowNetNS   = 88 // 4
	flowFlags   = 92 // 4
	flowComm    = 96 // 16
	flowPayload = 112
	flowLen     = flowPayload // without payload

	programKey    = flowPID
	programKeyLen = flowTime - flowPID
)

// flowFirst marks the first datagram between a socket and a destination; others are here for
// what they carry.
const flowFirst = 1

// maxPayload is how much of a datagram to port 53 is read: header, the longest name, type and class.
const maxPayload = 12 + 255 + 4

// A process, at the moment it ran a program, or when it is first seen.
const (
	procKind      = 0
	procPID       = 4 // as in a flow, up to procTime
	procStart     = 8
	procExec      = 16
	procTime      = 24
	procParent    = 32 // 4, pid
	procDevice    = 36 // 4, of the executable, as the kernel writes device numbers
	procParStart  = 40 // 8, ns since boot
	procInode     = 48 // 8, of the executable
	procComm      = 56 // 16
	procParComm   = 72 // 16
	procUID       = 88 // 4
	procLogin     = 92 // 4
	procExeLen    = 96 // 4, bytes used of each of what follows
	procParExeLen = 100
	procCgroupLen = 104
	procArgsLen   = 108
	procArgsAll   = 112 // 8, length of the arguments that the process has
	procFlags     = 120 // 4
	procExe       = 128 // names from the file up to the root, each with a zero behind it
	procParExe    = procExe + pathLen
	procCgroup    = procParExe + pathLen
	procArgs      = procCgroup + pathLen
	procLen       = procArgs // without arguments
)

// Which paths were cut at the root's end.
const (
	procExeCut = 1 << iota
	procParExeCut
	procCgroupCut
)

// Bounds of what is read of a process, in bytes.
const (
	nameLen = 256               // of one name of a path, with a zero
	pathLen = 512 + nameLen     // of a path
	maxArgs = 1024              // of the arguments
	maxDeep = 48                // steps up to the root
	commLen = 16                // of a process's own name
	maxMsg  = procLen + maxArgs // of a message
)

// A result of a TCP connect.
const (
	resultKind   = 0
	resultErrno  = 4 // 4, 0 for a handshake that was completed
	resultCookie = 8
	resultTime   = 16
	resultLen    = 24
)

// The scratch of a program: a flow, a process, and what is for the program alone.
const (
	scratchFlow = 0
	scratchProc = 512
	scratchSock = scratchProc + maxMsg + 8 // struct sock as a number
	scratchOff  = scratchSock + 8          // of the payload in the packet
	scratchSeen = scratchOff + 8           // time a datagram was seen
	scratchKey  = scratchSeen + 8          // of the memory of datagrams:
	keyCookie   = scratchKey               // socket,
	keyDest     = scratchKey + 8           // its destination,
	keyPort     = scratchKey + 24          // port and protocol
	seenKeyLen  = 32                       //
	scratchLen  = scratchKey + seenKeyLen  //
)
