// Package spool keeps messages in one file until somebody has acknowledged them. A message
// counts as accepted once the disk has it (fdatasync); one goroutine writes, and whatever
// arrived while it waited for the disk goes out with the next write, so that a burst shares
// a few of those waits. Put never waits for the disk.
//
// # Why a log and not a B+tree
//
// The store is an append-only log with a checksum on every record, cleaned by rewriting what
// is left. The usual embedded tree, bbolt, was the alternative. What happens to each:
//
//   - Killed at any time: both survive. The log's last write may be cut short; it was not
//     accepted yet, and reading stops in front of it.
//   - A byte flips in the middle: bbolt has checksums on its two meta pages only; a spoilt leaf is
//     returned as it is, a spoilt branch page may panic or lose all that lies below. The log loses the one
//     message, finds the next record by its magic number, and knows from its ordinal how many are gone.
//   - Disk full: bbolt has to write new pages in order to delete, so that a full disk cannot be
//     emptied, and its file never shrinks. The log drops to its header once nothing is left in it,
//     which takes no space, and its header is overwritten in place.
//   - Cost: bbolt writes each page on the way to the leaf anew and waits for the disk twice. The log writes
//     each message once, and an acknowledgement as a few bytes of the next write.
//
// What a tree is good at, finding by key, nobody asks for: the index in memory takes about
// 150 bytes a message and is read from the log at the start.
//
// # Bounds
//
// Of Config.Bytes a third is for messages that wait, two thirds for the file before it is
// cleaned, and the cleaned copy is at most a third. When messages no longer fit, the oldest of
// the lowest class go first, and a new one that is lower than all there are goes itself.
// While the disk takes nothing, messages wait in memory, bounded by Config.Memory and
// Config.Queue; they can be taken out and sent all the same.
//
// # Sequences
//
// PutNext gives each message the next sequence, from 1, without gaps, over restarts. A
// message that is lost later has taken its sequence; the Gap list says which ones will not
// come and why, until TakeGaps hands them out to be published.
//
// # Sending before the disk has it
//
// With Config.Ahead a message can be sent while it is still being written, for the disk takes longer than
// all else. It is accepted, and counted so, only when it is safe. What a process sends and then
// loses with its life must not share its sequence with another message: the file says beforehand up to
// which sequence may have been given out, and after a kill the next process begins behind
// that, with the rest as a gap.
package spool

import (
	"container/heap"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Class says which messages make room for others: lower ones first.
type Class uint8

// The classes.
const (
	Lead   Class = iota
	Record       // what a sensor says of itself
	Watch
	Alert

	numClasses
)

var classNames = [numClasses]string{"lead", "record", "watch", "alert"}

// String returns the class in lower case.
func (c Class) String() string { return classNames[c] }

// Message is what the spool keeps. Neither it nor what it points to may be changed after Put.
type Message struct {
	Class    Class
	Volatile bool   // never written to the file: lost when the process ends
	Sequence uint64 // 0 for none; PutNext sets it
	ID       string
	Subject  string
	Header   []Field
	Data     []byte
}

// Field is a header field.
type Field struct{ Key, Value string }

// Config says where the spool lies and how much it may hold.
type Config struct {
	Path   string // the file; empty for none: all messages are volatile
	Bytes  int64  // of disk at most, the copy that cleaning makes included; at least MinBytes
	Memory int64  // bytes of messages that are not in the file, from 1
	Queue  int    // number of messages that are not in the file, from 1
	// Keep is how long a message stays in the file after Done, to be found by the next process if
	// this one is killed: for a receiver that acknowledges before its own disk has the message.
	Keep time.Duration
	// Ahead is how many sequences are set aside at a time so that Next has messages before the disk
	// does; 0 for none: then Next waits for the disk.
	Ahead uint64
	Log   *slog.Logger // nil for none
}

// MinBytes is the least Config.Bytes.
const MinBytes = 1 << 20

// Validate returns an error that names the first field with a value that cannot be.
func (c Config) Validate() error {
	if c.Path != "" && c.Bytes < MinBytes {
		return fmt.Errorf("spool of %d bytes: want at least %d", c.Bytes, MinBytes)
	}
	if c.Memory < 1 {
		return fmt.Errorf("spool memory %d: want at least 1 byte", c.Memory)
	}
	if c.Queue < 1 {
		return fmt.Errorf("spool queue %d: want at least 1 message", c.Queue)
	}
	return nil
}

// Errors of Put.
var (
	ErrFull   = errors.New("queue full") // the message is lost and counted, except by PutRoom
	ErrClosed = errors.New("closed")
)

const (
	cacheBytes  = 64 << 20    // of messages kept in memory although the file has them, to be sent soon
	retryWrite  = time.Second // between attempts to write to a disk that refuses
	reservation = 1 << 20     // sequences set aside while they leave no trace in the file
)

// Stats are counts since Open, but for those that say otherwise.
type Stats struct {
	Recovered uint64 // messages found in the file
	Accepted  uint64 // new messages that are safe: in the file, volatile, or acknowledged before either
	LostQueue uint64 // new messages that found no room in memory; never accepted
	LostSpool uint64 // messages that made room for others; accepted or not
	Spoilt    uint64 // messages that could not be read back

	Pending  uint64 // messages that wait or are with the sender, now
	InMemory uint64 // of Pending: those that the file does not have
	Bytes    int64  // that Pending takes in the file
	Sequence uint64 // the last one given out, ever
	Failing  bool   // the disk takes nothing now

	EverLost   map[string]uint64 // by class, since the file was made, LostQueue included
	EverSpoilt uint64            // since the file was made
}

// Lost returns how many messages will never be sent.
func (s *Stats) Lost() uint64 { return s.LostQueue + s.LostSpool + s.Spoilt }

// entry is a message in the index.
type entry struct {
	number   uint64
	sequence uint64
	class    Class
	volatile bool
	accepted bool // counted as such
	offered  bool // Next has it, or had it
	writing  bool // the writer has it
	acked    bool // done with, but for Config.Keep: the file is to have it first
	flying   bool // the sender has it
	gone     bool // done with; whoever still holds it drops it
	size     int64
	off      int64    // in the file; -1 when it is not there
	msg      *Message // nil when only the file has it
	born     time.Time
	until    time.Time // not to be sent before
	attempts int       // how often the sender gave it back

	prev, next *entry // in its class, by number
}

// kept is the number of a message that Config.Keep holds in the file.
type kept struct {
	number uint64
	until  time.Time
}

// Spool is safe for concurrent use.
type Spool struct {
	cfg Config
	log *slog.Logger

	order sync.Mutex // held while a message gets its sequence, is encoded and put

	mu      sync.Mutex
	room    chan struct{} // signalled when PutRoom may try again
	ready   chan struct{} // signalled when Next has more
	work    chan struct{} // signalled when the writer has something to do
	closed  bool
	state   state
	gaps    []Gap
	dirty   bool   // state or gaps differ from what the file says
	ahead   uint64 // up to here the file says that sequences may have been given out
	stats   Stats
	byClass [numClasses]list
	waiting []*entry // not in the file and to be written, by number
	batch   []*entry // taken from waiting by the writer
	memory  int64    // bytes of messages that are not in the file
	inMem   int      // number of them
	live    int64    // bytes that messages take in the file, or will
	cached  int64    // bytes of messages in memory that are in the file too
	heap    byNumber // to be sent
	parked  byTime   // to be sent later
	done    []uint64 // done with; the file does not say so yet
	kept    []kept   // done with; the file is to say so later, in the order of time
	failing error    // why the disk takes nothing
	file    *os.File // nil without one; replaced under mu, by the writer alone

	end tail // the writer's alone

	stop    chan struct{}
	stopped chan struct{}
}

// Open reads the file, or makes it, and starts the goroutine that writes it. What is spoilt
// in it is counted and left out; the error says that it cannot be opened. The caller sees to
// it that no other process uses the file.
func Open(cfg Config) (*Spool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := newSpool(cfg)
	if cfg.Path != "" {
		if err := s.load(); err != nil {
			return nil, fmt.Errorf("spool %s: %w", cfg.Path, err)
		}
	}
	s.mu.Lock()
	s.reserveLocked()
	s.mu.Unlock()
	go s.run()
	return s, nil
}

func newSpool(cfg Config) *Spool {
	s := &Spool{
		cfg: cfg, log: cfg.Log,
		room: make(chan struct{}, 1), ready: make(chan struct{}, 1), work: make(chan struct{}, 1),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Put hands over a message and never waits. The error is ErrFull or ErrClosed.
func (s *Spool) Put(m *Message) error {
	s.order.Lock()
	defer s.order.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putLocked(m, false)
}

// PutNext gives out the next sequence to build, which encodes the message, and hands it over
// as Put does. Without an error of build the sequence is spent, also when the message is lost.
func (s *Spool) PutNext(build func(sequence uint64) (*Message, error)) error {
	return s.putNext(build, false)
}

// PutRoom is PutNext for those who can wait: ErrFull leaves no trace then, and Room says
// when to try again.
func (s *Spool) PutRoom(build func(sequence uint64) (*Message, error)) error {
	return s.putNext(build, true)
}

// Room is signalled when there is room again. It wakes one of those who wait.
func (s *Spool) Room() <-chan struct{} { return s.room }

func (s *Spool) putNext(build func(uint64) (*Message, error), patient bool) error {
	s.order.Lock()
	defer s.order.Unlock()
	s.mu.Lock()
	next := s.state.sequence + 1
	full := patient && !s.closed && s.inMem >= s.cfg.Queue
	s.mu.Unlock()
	if full {
		return ErrFull // before the work of encoding is done
	}
	m, err := build(next)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Sequence != 0 {
		m.Sequence = next
	}
	return s.putLocked(m, patient)
}

func (s *Spool) putLocked(m *Message, patient bool) error {
	if s.closed {
		signal(s.room) // the next one that waits has to learn of it too
		return ErrClosed
	}
	e := &entry{class: m.Class, sequence: m.Sequence, volatile: m.Volatile || s.cfg.Path == "", msg: m, off: -1, born: time.Now()}
	body := bodyBytes(m)
	e.size = onDisk(body)
	switch {
	case body > maxBody || !s.makeRoomLocked(e, patient):
		if patient && body <= maxBody {
			return ErrFull
		}
		s.spendLocked(m.Sequence)
		s.stats.LostQueue++
		s.loseLocked(e)
		return ErrFull
	case !e.volatile && !s.makeSpaceLocked(e, patient):
		if patient {
			return ErrFull
		}
		s.spendLocked(m.Sequence)
		s.stats.LostSpool++
		s.loseLocked(e)
		return ErrFull
	}
	s.spendLocked(m.Sequence)
	e.number = s.state.number
	s.state.number++
	s.byClass[e.class].push(e)
	s.inMem++
	s.memory += e.size
	s.stats.Pending++
	if patient && s.inMem < s.cfg.Queue {
		signal(s.room) // one signal may stand for room for several
	}
	if e.volatile {
		s.acceptLocked(e)
		s.offerLocked(e)
		return nil
	}
	s.live += e.size
	s.waiting = append(s.waiting, e)
	if s.failing != nil || e.sequence != 0 && e.sequence <= s.ahead {
		s.offerLocked(e)
	}
	s.reserveLocked()
	signal(s.work)
	return nil
}

// reserveLocked sets further sequences aside in time, so that what the file says is ahead of what is given out.
func (s *Spool) reserveLocked() {
	if n := s.cfg.Ahead; n > 0 && s.cfg.Path != "" && s.failing == nil && s.state.reserved < s.state.sequence+n/2 {
		s.state.reserved = s.state.sequence + n
		s.dirty = true
		signal(s.work)
	}
}

func (s *Spool) spendLocked(sequence uint64) {
	if sequence != 0 {
		s.state.sequence = sequence
	}
}

// makeRoomLocked makes room in memory for e. What the disk cannot take fast enough, or not
// at all, makes room for what is higher.
func (s *Spool) makeRoomLocked(e *entry, patient bool) bool {
	for s.inMem >= s.cfg.Queue || s.memory+e.size > s.cfg.Memory {
		if patient || s.failing == nil {
			return false // the writer is only a moment behind
		}
		victim := (*entry)(nil)
		for _, x := range s.waiting {
			if x.class < e.class && !x.gone && !x.flying && !x.writing && (victim == nil || x.class < victim.class) {
				victim = x
			}
		}
		if victim == nil {
			return false
		}
		s.dropLocked(victim)
	}
	return true
}

// makeSpaceLocked makes space in the file for e.
func (s *Spool) makeSpaceLocked(e *entry, patient bool) bool {
	for s.live+e.size > s.liveLimit() {
		victim := (*entry)(nil)
		for c := Lead; c <= e.class && victim == nil && !patient; c++ {
			victim = s.byClass[c].oldest(func(x *entry) bool { return !x.volatile })
		}
		if victim == nil {
			return false
		}
		s.dropLocked(victim)
	}
	return true
}

func (s *Spool) liveLimit() int64 { return s.cfg.Bytes/3 - fileHeader }

// dropLocked loses a message that has been put, unless it only waits to be written for Config.Keep.
func (s *Spool) dropLocked(e *entry) {
	if e.acked {
		s.endLocked(e)
		return
	}
	s.stats.LostSpool++
	s.loseLocked(e)
	s.removeLocked(e)
}

// loseLocked counts e as lost, for ever.
func (s *Spool) loseLocked(e *entry) {
	s.state.lost[e.class]++
	s.addGapLocked(e.sequence, Lost)
	s.dirty = true
	signal(s.work)
}

// acceptLocked counts e as safe, once.
func (s *Spool) acceptLocked(e *entry) {
	if !e.accepted {
		e.accepted = true
		s.stats.Accepted++
	}
}

// offerLocked lets Next have e.
func (s *Spool) offerLocked(e *entry) {
	e.offered = true
	heap.Push(&s.heap, e)
	signal(s.ready)
}

// removeLocked ends e.
func (s *Spool) removeLocked(e *entry) {
	if e.gone {
		return
	}
	e.gone = true
	s.byClass[e.class].remove(e)
	s.stats.Pending--
	if !e.volatile {
		s.live -= e.size
	}
	if n := len(s.kept); n > 0 && s.kept[n-1].number == e.number {
		signal(s.work) // for the file it is not done with yet
	} else if e.off >= 0 || e.writing {
		s.done = append(s.done, e.number)
		signal(s.work)
	}
	if e.off < 0 {
		s.inMem--
		s.memory -= e.size
	} else if e.msg != nil {
		s.cached -= e.size
	}
	signal(s.room)
	if !e.writing { // the writer needs it a little longer
		e.msg = nil
	}
}

// Item is a message that the sender has.
type Item struct {
	Message  *Message
	Born     time.Time // when it was put; zero when an earlier process put it
	Attempts int       // how often it was returned

	e *entry
}

// Ready is signalled when Next may have more. It wakes one of those who wait.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Next returns the oldest message that waits, and the caller owes Done or Return for it. It returns
// nil when none waits; due says then when the next one will, as far as Return put one
// off, else it is zero.
func (s *Spool) Next() (it *Item, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, due
	}
	now := time.Now()
	for len(s.parked) > 0 && (s.parked[0].gone || !s.parked[0].until.After(now)) {
		if e := heap.Pop(&s.parked).(*entry); !e.gone {
			heap.Push(&s.heap, e)
		}
	}
	for len(s.heap) > 0 {
		e := heap.Pop(&s.heap).(*entry)
		if e.gone {
			continue
		}
		m := e.msg
		if m == nil {
			var err error
			if m, err = s.readLocked(e); err != nil {
				s.log.Error("spool: message cannot be read back", "path", s.cfg.Path, "sequence", e.sequence, "error", err)
				s.stats.Spoilt++
				s.state.spoilt++
				s.state.known++ // the next start finds it too
				s.addGapLocked(e.sequence, Lost)
				s.dirty = true
				s.removeLocked(e)
				continue
			}
		}
		e.flying = true
		return &Item{Message: m, Born: e.born, Attempts: e.attempts, e: e}, due
	}
	if len(s.parked) > 0 {
		due = s.parked[0].until
	}
	return nil, due
}

// Done ends a message that was acknowledged. With duplicate, the receiver had a message of
// this ID before: of this sensor, sent again, or of another one, so that this sequence may never be seen.
func (s *Spool) Done(it *Item, duplicate bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := it.e
	e.flying = false
	if e.gone {
		return
	}
	if duplicate && e.sequence != 0 {
		s.addGapLocked(e.sequence, Duplicate)
		s.dirty = true
	}
	if s.cfg.Keep > 0 && e.off < 0 && !e.volatile && s.failing == nil {
		e.acked = true // its receiver has it in memory, as we have
		return
	}
	s.endLocked(e)
}

// endLocked ends a message that was acknowledged.
func (s *Spool) endLocked(e *entry) {
	s.acceptLocked(e)
	if s.cfg.Keep > 0 && e.off >= 0 && !s.closed {
		s.kept = append(s.kept, kept{e.number, time.Now().Add(s.cfg.Keep)})
	}
	s.removeLocked(e)
}

// Return gives a message back, not to be sent before until; the zero time is now.
func (s *Spool) Return(it *Item, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := it.e
	e.flying = false
	if e.gone {
		return
	}
	e.attempts++
	if until.IsZero() {
		s.offerLocked(e)
		return
	}
	e.until = until
	heap.Push(&s.parked, e)
	signal(s.ready)
}

// Lose ends a message for which there is no hope.
func (s *Spool) Lose(it *Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it.e.flying = false
	if !it.e.gone {
		s.dropLocked(it.e)
	}
}

// Unpark makes due what Return put off: what stood in the way may be gone.
func (s *Spool) Unpark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.parked {
		if !e.gone {
			heap.Push(&s.heap, e)
		}
	}
	s.parked = nil
	signal(s.ready)
}

// Peek calls f for up to n waiting messages of a class, newest first, until f returns false.
// f must not call the spool.
func (s *Spool) Peek(class Class, n int, f func(m *Message, born time.Time) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.byClass[class].last; e != nil && n > 0; e, n = e.prev, n-1 {
		if e.msg != nil && (e.off >= 0 || s.failing != nil || e.volatile) && !f(e.msg, e.born) {
			return
		}
	}
}

// Stats returns the counts.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.stats
	x.InMemory, x.Bytes = uint64(s.inMem), s.live
	x.Sequence, x.Failing = s.state.sequence, s.failing != nil
	x.EverSpoilt = s.state.spoilt
	x.EverLost = make(map[string]uint64, numClasses)
	for c, n := range s.state.lost {
		x.EverLost[Class(c).String()] = n
	}
	return x
}

// Close writes what can be written and ends the goroutine. What is in the file waits there
// for the next Open; it returns how many messages the file does not have, which are lost.
func (s *Spool) Close() (unsaved uint64, err error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, nil
	}
	s.closed = true
	s.unkeepLocked(time.Time{})
	s.mu.Unlock()
	signal(s.room)
	signal(s.ready)
	close(s.stop)
	<-s.stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.byClass {
		for e := s.byClass[c].first; e != nil; e = e.next {
			switch {
			case e.acked:
				s.stats.Pending--
			case e.off < 0:
				unsaved++
				s.loseLocked(e)
			}
		}
	}
	s.stats.LostSpool += unsaved
	s.stats.Pending -= unsaved
	if s.file == nil {
		return unsaved, nil
	}
	if s.failing == nil {
		s.state.reserved = 0
	}
	s.state.version++
	err = s.writeSlot(s.state, s.gaps)
	if cerr := s.file.Close(); err == nil {
		err = cerr
	}
	s.file = nil
	if err != nil {
		return unsaved, fmt.Errorf("spool %s: %w", s.cfg.Path, err)
	}
	return unsaved, nil
}

// signal wakes whoever waits on ch, now or next; ch holds one element.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
