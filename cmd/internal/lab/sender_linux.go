package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// sender makes frames in the kernel, on one CPU: an XDP program that the kernel runs on frames
// of its own ("live frames", Linux 5.18) fills in each and redirects it to the near end of the
// wire. It paces by throwing away those that come before their time, so that it takes all of its CPU at
// any rate: whatever takes the frames has the other CPUs, and always as many of them.
type sender struct {
	cpu   int
	meek  bool   // gives way to everything else on its CPU
	space *space // where the wire is
	kinds []kind
	frame []byte // what the program is given
	state *ebpf.Map
	// clients is one word that goes into each client's address.
	clients *ebpf.Map
	run     *ebpf.Program

	stopped atomic.Bool
	used    atomic.Int64 // ns of CPU since start; set in the end
	tid     chan int
	done    chan error
}

// The words of a sender's state, which it shares with its program.
const (
	stateBase  = iota // ns of CLOCK_MONOTONIC when it started
	stateDue          // when the next frame is due, in 1/1024 ns since then
	stateStep         // between two frames, in 1/1024 ns; 0 for as many as can be
	stateSeed         // of the random bits
	stateCount        // frames sent of the first kind; the others follow
)

// maxBehind is how late a sender may be and still make up for it: a rate is to hold over
// stalls as short as that, and no burst is to follow one that is longer.
const maxBehind = time.Millisecond

func newSender(m Mix, sp *space, ifindex, cpu int) (s *sender, err error) {
	s = &sender{cpu: cpu, space: sp, kinds: m.kinds()}
	defer func() {
		if err != nil {
			err = both(err, s.close())
		}
	}()
	for _, k := range s.kinds {
		if len(k.image) > len(s.frame) {
			s.frame = k.image
		}
	}
	s.state, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "portolan_load", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 * s.words()), MaxEntries: 1,
	})
	if err != nil {
		return s, fmt.Errorf("make a BPF map: %w", err)
	}
	s.clients, err = ebpf.NewMap(&ebpf.MapSpec{Name: "portolan_client", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return s, fmt.Errorf("make a BPF map: %w", err)
	}
	s.run, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "portolan_load", Type: ebpf.XDP, License: "Apache-2.0", Instructions: s.program(ifindex),
	})
	if err != nil {
		return s, fmt.Errorf("load the sender: %w", err)
	}
	return s, nil
}

func (s *sender) close() (err error) {
	if s.run != nil {
		err = s.run.Close()
	}
	for _, m := range []*ebpf.Map{s.state, s.clients} {
		if m != nil {
			err = both(err, m.Close())
		}
	}
	return err
}

func (s *sender) words() int { return stateCount + len(s.kinds) }

// start sends that many frames a second, without bound for 0, until stop.
func (s *sender) start(rate float64) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	words := make([]uint64, s.words())
	words[stateBase], words[stateSeed] = uint64(now.Nano()), uint64(now.Nano())
	if rate > 0 {
		words[stateStep] = uint64(math.Round(1024e9 / rate))
	}
	value := make([]byte, 0, 8*len(words))
	for _, w := range words {
		value = binary.NativeEndian.AppendUint64(value, w)
	}
	if err := s.state.Put(uint32(0), value); err != nil {
		return fmt.Errorf("set the rate: %w", err)
	}
	s.stopped.Store(false)
	s.used.Store(0)
	s.tid, s.done = make(chan int, 1), make(chan error, 1)
	go func() { s.done <- s.space.do(s.send) }()
	return nil
}

// send runs on a thread of its own, which ends with it.
func (s *sender) send() error {
	var set unix.CPUSet
	set.Set(s.cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		s.tid <- 0
		return fmt.Errorf("run on CPU %d: %w", s.cpu, err)
	}
	if s.meek {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil { // of this thread
			s.tid <- 0
			return fmt.Errorf("lower its priority: %w", err)
		}
	}
	s.tid <- unix.Gettid()
	defer func() {
		var used unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err == nil {
			s.used.Store(used.Nano())
		}
	}()
	for !s.stopped.Load() {
		if err := runLive(s.run.FD(), s.frame); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send (live frames need Linux 5.18): %w", err)
		}
	}
	return nil
}

// stop ends what start began.
func (s *sender) stop() error {
	s.stopped.Store(true)
	tid := <-s.tid
	for {
		if tid != 0 { // a signal ends the call; the runtime takes this one for its own and does nothing
			_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
		}
		select {
		case err := <-s.done:
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

// sent returns how many frames were redirected since start.
func (s *sender) sent() (n Sent, err error) {
	value, err := s.state.LookupBytes(uint32(0))
	if err != nil {
		return n, fmt.Errorf("read what was sent: %w", err)
	}
	for i, k := range s.kinds {
		c := binary.NativeEndian.Uint64(value[8*(stateCount+i):])
		n.Frames += c
		if k.counts != nil {
			*k.counts(&n) += c
		}
	}
	return n, nil
}

// program fills in a frame of one kind, counts and redirects it, or drops it when it is not its time.
func (s *sender) program(ifindex int) asm.Instructions {
	const (
		context, data, state, seed = asm.R6, asm.R7, asm.R8, asm.R9
		xdpDrop                    = 1
		headers                    = 56 // bytes, of the longest
	)
	p := asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.LoadMem(data, context, 0, asm.Word),
		asm.LoadMem(asm.R1, context, 4, asm.Word), // where data ends
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, int32(len(s.frame))),
		asm.JGT.Reg(asm.R2, asm.R1, "drop"),
		asm.LoadMapValue(state, s.state.FD(), 0),

		asm.LoadMem(asm.R1, state, 8*stateStep, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "due"),
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, state, 8*stateBase, asm.DWord),
		asm.Sub.Reg(asm.R0, asm.R1),
		asm.LSh.Imm(asm.R0, 10),
		asm.LoadMem(asm.R1, state, 8*stateDue, asm.DWord),
		asm.JGT.Reg(asm.R1, asm.R0, "drop"),
		asm.LoadMem(asm.R2, state, 8*stateStep, asm.DWord),
		asm.Add.Reg(asm.R2, asm.R1),
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Sub.Reg(asm.R3, asm.R1),
		asm.JLE.Imm(asm.R3, int32(maxBehind.Nanoseconds()<<10), "in time"),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.StoreMem(state, 8*stateDue, asm.R2, asm.DWord).WithSymbol("in time"),

		asm.LoadMem(seed, state, 8*stateSeed, asm.DWord).WithSymbol("due"),
	}
	p = append(p, draw(seed)...)
	p = append(p, asm.And.Imm(asm.R0, 1<<16-1))
	share := 0.0
	for i, k := range s.kinds[:len(s.kinds)-1] {
		share += k.percent / 100
		p = append(p, asm.JLT.Imm(asm.R0, int32(share*(1<<16)), fmt.Sprint("kind", i)))
	}
	for i := len(s.kinds) - 1; i >= 0; i-- { // the last one follows at once
		k := s.kinds[i]
		first := len(p)
		for at := 0; at < len(k.image); at += 4 {
			if at >= headers && len(k.image) == len(s.frame) {
				break // payload, of which nobody minds what it holds
			}
			if len(k.image)-at < 4 {
				for ; at < len(k.image); at++ {
					p = append(p, asm.StoreImm(data, int16(at), int64(k.image[at]), asm.Byte))
				}
				break
			}
			p = append(p, asm.StoreImm(data, int16(at), int64(int32(binary.NativeEndian.Uint32(k.image[at:]))), asm.Word))
		}
		p[first] = p[first].WithSymbol(fmt.Sprint("kind", i))
		for _, r := range k.random {
			p = append(p, s.randomize(data, seed, k.image, r)...)
		}
		p = append(p,
			asm.StoreMem(state, 8*stateSeed, seed, asm.DWord),
			asm.LoadMem(asm.R1, state, int16(8*(stateCount+i)), asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(state, int16(8*(stateCount+i)), asm.R1, asm.DWord),
		)
		if cut := len(s.frame) - len(k.image); cut > 0 {
			p = append(p, asm.Mov.Reg(asm.R1, context), asm.Mov.Imm(asm.R2, -int32(cut)), asm.FnXdpAdjustTail.Call())
		}
		p = append(p, asm.Ja.Label("redirect"))
	}
	return append(p,
		asm.Mov.Imm(asm.R1, int32(ifindex)).WithSymbol("redirect"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
	)
}

// draw moves seed on and leaves 32 random bits in R0. The kernel's own random bits would cost a tenth of all
// the sender's time; Knuth's linear congruential generator is random enough for addresses.
func draw(seed asm.Register) asm.Instructions {
	return asm.Instructions{
		asm.LoadImm(asm.R1, 6364136223846793005, asm.DWord),
		asm.Mul.Reg(seed, asm.R1),
		asm.LoadImm(asm.R1, 1442695040888963407, asm.DWord),
		asm.Add.Reg(seed, asm.R1),
		asm.Mov.Reg(asm.R0, seed),
		asm.RSh.Imm(asm.R0, 32),
	}
}

// randomize writes a word of the image with random bits to the frame.
func (s *sender) randomize(data, seed asm.Register, image []byte, r random) asm.Instructions {
	p := append(draw(seed), asm.And.Imm32(asm.R0, int32(r.mask)))
	if r.size == 2 {
		return append(p,
			asm.Or.Imm32(asm.R0, int32(binary.BigEndian.Uint16(image[r.at:]))),
			asm.HostTo(asm.BE, asm.R0, asm.Half),
			asm.StoreMem(data, int16(r.at), asm.R0, asm.Half))
	}
	if r.client {
		p = append(p,
			asm.LoadMapValue(asm.R1, s.clients.FD(), 0),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
			asm.Or.Reg32(asm.R0, asm.R1))
	}
	return append(p,
		asm.Or.Imm32(asm.R0, int32(binary.BigEndian.Uint32(image[r.at:]))),
		asm.HostTo(asm.BE, asm.R0, asm.Word),
		asm.StoreMem(data, int16(r.at), asm.R0, asm.Word))
}
