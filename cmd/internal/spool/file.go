package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	batchBytes  = 4 << 20  // of messages that share a write, about
	batchDone   = 32 << 10 // acknowledgements that share a note
	smallFile   = 1 << 20  // below this a file is not emptied
	cleanFactor = 8        // a long file that is so many times what lives in it is cleaned
	windowBytes = 4 << 20  // read at once when the file is loaded; more than any record
)

// tail is where the file ends. The writer alone touches it, and Close after it.
type tail struct {
	at         int64  // where the next record goes
	ordinal    uint64 // messages before it
	generation uint64 // of the newest slot
	buf        []byte // of the last batch
}

// full reports whether err says that the disk takes nothing for now.
func full(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// load opens and reads the file; s is not shared yet.
func (s *Spool) load() error {
	s.state.number = 1
	_ = os.Remove(s.cfg.Path + ".new") // of a cleaning that was interrupted
	f, err := os.OpenFile(s.cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if full(err) {
		s.fail(err)
		return nil
	}
	if err != nil {
		return err
	}
	s.file = f
	info, err := f.Stat()
	fresh := err == nil && info.Size() < fileHeader
	if fresh {
		err = s.begin(info.Size())
	} else if err == nil {
		err = s.read(info.Size())
	}
	if err != nil && (fresh || !full(err)) {
		f.Close()
		s.file = nil
	}
	if full(err) {
		s.fail(err)
		return nil
	}
	return err
}

// begin makes the header of a new file; one with less than that was cut short when made.
func (s *Spool) begin(size int64) error {
	s.end = tail{at: fileHeader}
	if size > 0 {
		s.log.Warn("spool: file without a header is made anew", "path", s.cfg.Path, "bytes", size)
	}
	b := appendSlot(nil, 0, s.state, nil)
	b = append(b, make([]byte, fileHeader-len(b))...)
	_, err := s.file.WriteAt(b, 0)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		_ = s.file.Truncate(0)
		return err
	}
	return syncDir(s.cfg.Path)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeSlot overwrites the older slot, which needs no space on the disk.
func (s *Spool) writeSlot(st state, gaps []Gap) error {
	s.end.generation++
	st.written = s.end.ordinal
	b := appendSlot(nil, s.end.generation, st, gaps)
	_, err := s.file.WriteAt(b, int64(s.end.generation%2)*slotBytes)
	if err == nil {
		err = unix.Fdatasync(int(s.file.Fd()))
	}
	return err
}

// read fills the index from a file of size bytes.
func (s *Spool) read(size int64) error {
	header := make([]byte, fileHeader)
	if _, err := s.file.ReadAt(header, 0); err != nil {
		return err
	}
	whole := false
	for i := range 2 {
		gen, st, gaps, ok := readSlot(header[i*slotBytes : (i+1)*slotBytes])
		if ok && (!whole || st.version >= s.state.version) {
			s.state, s.gaps, whole = st, gaps, true
			s.end.generation = gen
		}
	}
	l := loader{s: s, size: size, live: make(map[uint64]*entry)}
	if err := l.records(); err != nil {
		return err
	}
	if !whole && !l.any {
		return fmt.Errorf("is no spool: neither its header nor any record can be read; move it away to begin anew")
	}
	s.index(&l)
	s.end.at, s.end.ordinal = l.good, l.ordinal
	if !l.clean || !whole {
		s.log.Error("spool: file is damaged: what can be read is kept", "path", s.cfg.Path,
			"messages lost", s.stats.Spoilt, "messages kept", s.stats.Recovered, "bytes skipped", l.skipped)
		if err := s.clean(); err == nil {
			return nil
		}
		s.state.known += s.stats.Spoilt // so that the next start does not count them again
		s.state.version++
		return s.writeSlot(s.state, s.gaps)
	}
	if l.good < size { // a write that was interrupted
		s.log.Info("spool: end of the file was cut short", "path", s.cfg.Path, "bytes", size-l.good)
		return s.file.Truncate(l.good)
	}
	return nil
}

// index takes over what was read.
func (s *Spool) index(l *loader) {
	numbers := make([]uint64, 0, len(l.live))
	for n := range l.live {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		e := l.live[n]
		s.byClass[e.class].push(e)
		s.live += e.size
		s.offerLocked(e)
	}
	s.stats.Recovered = uint64(len(numbers))
	s.stats.Pending = s.stats.Recovered
	s.state.number = max(s.state.number, l.lastNumber+1)
	s.state.sequence = max(s.state.sequence, l.lastSequence)
	if l.spoilt > s.state.known {
		s.stats.Spoilt = l.spoilt - s.state.known
		s.state.spoilt += s.stats.Spoilt
		s.dirty = true
	}
	for _, g := range l.gaps {
		s.addGapsLocked(g)
	}
	s.state.unlisted += l.unlisted
	if s.state.reserved > s.state.sequence {
		s.addGapsLocked(Gap{s.state.sequence + 1, s.state.reserved, Unused})
		s.state.sequence = s.state.reserved
		s.dirty = true
	}
	s.state.reserved = 0
}

// loader reads the records of a file.
type loader struct {
	s    *Spool
	size int64

	window []byte // of the file, from base on
	base   int64

	live         map[uint64]*entry
	any          bool  // a good record was found
	newer        bool  // a note knows more than the header
	clean        bool  // nothing spoilt was found, but for the end
	good         int64 // end of the last good record
	skipped      int64
	ordinal      uint64 // messages up to here
	spoilt       uint64
	gaps         []Gap
	unlisted     uint64
	lastNumber   uint64
	lastSequence uint64
}

// at returns n bytes of the file from offset o, fewer at its end.
func (l *loader) at(o int64, n int) ([]byte, error) {
	if o < l.base || o+int64(n) > l.base+int64(len(l.window)) {
		if l.window == nil {
			l.window = make([]byte, windowBytes)
		}
		m, err := l.s.file.ReadAt(l.window[:cap(l.window)], o)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		l.window, l.base = l.window[:m], o
	}
	w := l.window[o-l.base:]
	return w[:min(n, len(w))], nil
}

// records reads to the end of the file.
func (l *loader) records() error {
	l.clean, l.good = true, fileHeader
	var ruined uint64 // messages whose head can be read, but no more; since the last good record
	for o := int64(fileHeader); o+recordBytes <= l.size; {
		b, err := l.at(o, recordBytes)
		if err != nil {
			return err
		}
		h, ok := readHead(b)
		if ok {
			whole := o+recordBytes+int64(h.body) <= l.size
			if b, err = l.at(o, recordBytes+h.body); err != nil {
				return err
			}
			if _, body, err := readRecord(b); err == nil {
				if o > l.good {
					l.clean = false
					l.skipped += o - l.good
				}
				ruined = 0
				l.take(o, h, body)
				o += onDisk(h.body)
				l.good = min(o, l.size)
				continue
			}
			if whole && h.kind == kindMessage {
				ruined++
			}
		}
		o += recordAlign // and look for the next one
	}
	// Messages that the header knows of, and whole ones at the end, were no interrupted write.
	if w := l.s.state.written; !l.newer && w > l.ordinal {
		ruined = max(ruined, w-l.ordinal)
	}
	if ruined > 0 {
		l.clean = false
		l.spoilt += ruined
		l.unlisted += ruined
		l.skipped += l.size - l.good
	}
	return nil
}

// take applies a good record.
func (l *loader) take(o int64, h head, body []byte) {
	l.any = true
	missing := uint64(0)
	if h.ordinal > l.ordinal {
		missing = h.ordinal - l.ordinal
		l.spoilt += missing
		l.clean = false // even when whole records are gone, and no byte between them is odd
		l.ordinal = h.ordinal
	}
	if h.kind == kindNote {
		l.unlisted += missing
		st, gaps, done, err := readNote(body)
		if err != nil {
			l.clean = false
			return
		}
		if st.version >= l.s.state.version {
			l.s.state, l.s.gaps, l.newer = st, gaps, true
		}
		for _, n := range done {
			delete(l.live, n)
		}
		return
	}
	l.ordinal++
	m, err := readMessage(h.class, body)
	if err != nil {
		l.spoilt++
		l.clean = false
		return
	}
	if missing > 0 {
		if m.Sequence == l.lastSequence+missing+1 {
			l.gaps = append(l.gaps, Gap{l.lastSequence + 1, m.Sequence - 1, Lost})
		} else {
			l.unlisted += missing
		}
	}
	l.lastNumber = max(l.lastNumber, h.number)
	l.lastSequence = max(l.lastSequence, m.Sequence)
	l.live[h.number] = &entry{
		number: h.number, sequence: m.Sequence, class: h.class, accepted: true, size: onDisk(h.body), off: o,
	}
}

// readLocked reads a message back from the file.
func (s *Spool) readLocked(e *entry) (*Message, error) {
	if s.file == nil {
		return nil, fs.ErrClosed
	}
	b := make([]byte, e.size)
	if _, err := s.file.ReadAt(b, e.off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, body, err := readRecord(b)
	if err != nil || h.number != e.number {
		return nil, errSpoilt
	}
	return readMessage(h.class, body)
}

// run writes until Close.
func (s *Spool) run() {
	defer close(s.stopped)
	var retry, forget <-chan time.Time
	if s.failing != nil {
		retry = time.After(retryWrite)
	}
	for {
		select {
		case <-s.stop:
			for more, err := s.flush(); more && err == nil; more, err = s.flush() {
			}
			return
		case <-s.work:
			if retry != nil {
				continue
			}
		case <-retry:
			retry = nil
		case <-forget:
			forget = nil
			if retry != nil {
				continue
			}
		}
		for more := true; more && retry == nil; {
			var err error
			if more, err = s.flush(); err != nil {
				s.fail(err)
				retry = time.After(retryWrite)
			}
		}
		if until := s.keepsUntil(); forget == nil && !until.IsZero() {
			forget = time.After(time.Until(until))
		}
	}
}

// fail notes that the disk takes nothing, and lets the sender have what waits in memory.
func (s *Spool) fail(err error) {
	s.mu.Lock()
	first := s.failing == nil
	s.failing = err
	for _, e := range s.waiting {
		switch {
		case e.gone:
		case e.acked:
			s.endLocked(e)
		case !e.offered:
			s.offerLocked(e)
		}
	}
	if first {
		s.state.reserved = s.state.sequence + reservation
		s.state.version++
	}
	st, gaps, file := s.stateLocked(), slices.Clone(s.gaps), s.file
	s.mu.Unlock()
	if !first {
		return
	}
	s.log.Error("spool: disk takes nothing: hits wait in memory", "path", s.cfg.Path, "error", err)
	if file != nil {
		// Sequences that are given out now leave no trace; the next process has to know.
		if err := s.writeSlot(st, gaps); err != nil {
			s.log.Error("spool: sequences may be given out twice if the process ends now", "path", s.cfg.Path, "error", err)
		}
	}
}

// mended notes that the disk takes messages again; s.mu is held.
func (s *Spool) mendedLocked() {
	if s.failing != nil {
		s.failing = nil
		s.state.reserved = 0
		s.dirty = true
		s.reserveLocked()
		s.ahead = min(s.ahead, s.state.reserved)
		s.log.Info("spool: disk takes messages again", "path", s.cfg.Path)
	}
}

// flush writes what waits, as far as it fits one batch, and reports whether there is more.
func (s *Spool) flush() (more bool, err error) {
	s.mu.Lock()
	if s.cfg.Path == "" {
		s.mu.Unlock()
		return false, nil
	}
	if s.file == nil {
		s.mu.Unlock()
		if err := s.create(); err != nil {
			return false, err
		}
		s.mu.Lock()
	}
	batch, bytes := s.takeLocked()
	s.unkeepLocked(time.Now())
	keeps := len(s.kept) > 0
	done := s.done[:min(len(s.done), batchDone)]
	s.done = s.done[len(done):]
	dirty := s.dirty
	s.dirty = false
	if dirty {
		s.state.version++
	}
	st, gaps := s.stateLocked(), slices.Clone(s.gaps)
	stored := s.live - bytes // in the file and wanted
	failing := s.failing != nil
	s.mu.Unlock()

	if len(batch) == 0 && len(done) == 0 && !dirty && !failing {
		return false, nil
	}
	bytes += onDisk(len(gaps)*2*binary.MaxVarintLen64 + len(done)*binary.MaxVarintLen64 + 512)
	if err = s.tidy(stored, bytes, failing, keeps); err == nil {
		err = s.append(batch, done, st, gaps, dirty || failing)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.dirty = s.dirty || dirty
		s.done = append(done, s.done...)
		s.untakeLocked(batch)
		return false, err
	}
	if dirty {
		s.ahead = st.reserved
	}
	s.mendedLocked()
	s.writtenLocked(batch)
	return len(s.waiting) > 0 || len(s.done) > 0 || s.dirty, nil
}

// unkeepLocked lets the file forget what was kept until now; all of it for the zero time.
func (s *Spool) unkeepLocked(now time.Time) {
	n := 0
	for n < len(s.kept) && (now.IsZero() || !s.kept[n].until.After(now)) {
		s.done = append(s.done, s.kept[n].number)
		n++
	}
	if s.kept = s.kept[n:]; len(s.kept) == 0 {
		s.kept = nil
	}
}

// keepsUntil returns when the file may forget the next message that is kept, zero for none.
func (s *Spool) keepsUntil() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) == 0 {
		return time.Time{}
	}
	return s.kept[0].until
}

// takeLocked returns messages to write, and their bytes.
func (s *Spool) takeLocked() (batch []*entry, bytes int64) {
	limit := min(int64(batchBytes), s.liveLimit()/2)
	i := 0
	for ; i < len(s.waiting); i++ {
		e := s.waiting[i]
		if e.gone {
			continue
		}
		if len(batch) > 0 && bytes+e.size > limit {
			break
		}
		e.writing = true
		bytes += e.size
		batch = append(batch, e)
	}
	s.waiting = s.waiting[i:]
	s.batch = batch
	return batch, bytes
}

// stateLocked returns the state as the file may have it: of sequences only those whose
// messages are there, or are done with. What is lost in memory when the process is killed has not been sent,
// and the next process gives out its sequences again.
func (s *Spool) stateLocked() state {
	st := s.state
	for _, list := range [][]*entry{s.batch, s.waiting} {
		for _, e := range list {
			if e.sequence != 0 && !e.gone {
				st.sequence = e.sequence - 1
				return st
			}
		}
	}
	return st
}

// untakeLocked gives messages back that could not be written.
func (s *Spool) untakeLocked(batch []*entry) {
	s.batch = nil
	back := make([]*entry, 0, len(batch)+len(s.waiting))
	for _, e := range batch {
		e.writing = false
		if e.gone {
			e.msg = nil
		} else {
			back = append(back, e)
		}
	}
	s.waiting = append(back, s.waiting...)
}

// writtenLocked lets the sender have what is in the file now.
func (s *Spool) writtenLocked(batch []*entry) {
	s.batch = nil
	for _, e := range batch {
		e.writing = false
		if e.gone {
			e.msg = nil
			continue
		}
		s.acceptLocked(e)
		s.cached += e.size
		if s.cached > cacheBytes {
			s.cached -= e.size
			e.msg = nil
		}
		switch {
		case e.acked:
			s.endLocked(e)
		case !e.offered:
			s.offerLocked(e)
		}
	}
	if len(batch) > 0 {
		signal(s.room)
	}
}

// append writes a batch at the end of the file. A note precedes the messages. Only the wait
// for the disk makes messages and losses safe; acknowledgements can do without: what is
// forgotten of them is sent again, and recognised.
func (s *Spool) append(batch []*entry, done []uint64, st state, gaps []Gap, dirty bool) error {
	b := s.end.buf[:0]
	ordinal := s.end.ordinal
	if len(done) > 0 || dirty {
		b = appendRecord(b, head{kind: kindNote, ordinal: ordinal}, func(b []byte) []byte {
			return appendNote(b, st, gaps, done)
		})
	}
	offsets := make([]int64, len(batch))
	for i, e := range batch {
		offsets[i] = s.end.at + int64(len(b))
		h := head{kind: kindMessage, class: e.class, number: e.number, ordinal: ordinal}
		b = appendRecord(b, h, func(b []byte) []byte { return appendMessage(b, e.msg) })
		ordinal++
	}
	s.end.buf = b
	if cap(b) > 2*batchBytes {
		s.end.buf = nil
	}
	if len(b) == 0 {
		return nil
	}
	_, err := s.file.WriteAt(b, s.end.at)
	if err == nil && (len(batch) > 0 || dirty) {
		err = unix.Fdatasync(int(s.file.Fd()))
	}
	if err != nil {
		_ = s.file.Truncate(s.end.at) // if even that is refused, reading stops there: the next write goes over it
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range batch {
		e.off = offsets[i]
		if e.gone {
			continue
		}
		s.inMem--
		s.memory -= e.size
		size := s.end.at + int64(len(b)) - e.off
		if i+1 < len(batch) {
			size = offsets[i+1] - e.off
		}
		s.live += size - e.size
		e.size = size
	}
	s.end.at += int64(len(b))
	s.end.ordinal = ordinal
	return nil
}

// tidy makes the file smaller when that is worth it, or needed for more bytes.
func (s *Spool) tidy(stored, more int64, failing, keeps bool) error {
	must := s.end.at+more > 2*s.cfg.Bytes/3
	if !must && !failing && (keeps || s.end.at < smallFile || stored > 0 && (s.end.at < s.cfg.Bytes/6 || s.end.at < cleanFactor*(stored+more))) {
		return nil
	}
	if failing && !must && s.end.at-fileHeader <= 2*stored {
		return nil // a copy would need more space than it frees
	}
	err := s.empty()
	if errors.Is(err, errNotEmpty) {
		err = s.clean()
	}
	if must {
		return err
	}
	return nil // it can wait
}

var errNotEmpty = errors.New("not empty")

// empty cuts the file down to its header when no message in it is wanted.
func (s *Spool) empty() error {
	s.mu.Lock()
	for c := range s.byClass {
		for e := s.byClass[c].first; e != nil; e = e.next {
			if e.off >= 0 {
				s.mu.Unlock()
				return errNotEmpty
			}
		}
	}
	s.state.known = 0
	s.state.version++
	st, gaps := s.stateLocked(), slices.Clone(s.gaps)
	s.mu.Unlock()
	if len(appendState(nil, st, gaps)) > slotBytes-24 {
		return errNotEmpty
	}
	s.end.ordinal = 0
	if err := s.writeSlot(st, gaps); err != nil {
		return err
	}
	s.end.at = fileHeader
	return s.file.Truncate(fileHeader)
}

// clean copies what is wanted to a new file, which takes the place of the old one.
func (s *Spool) clean() error {
	s.mu.Lock()
	var keep []*entry
	for c := range s.byClass {
		for e := s.byClass[c].first; e != nil; e = e.next {
			if e.off >= 0 {
				keep = append(keep, e)
			}
		}
	}
	s.state.known = 0
	s.state.version++
	st, gaps := s.stateLocked(), slices.Clone(s.gaps)
	s.mu.Unlock()
	slices.SortFunc(keep, func(a, b *entry) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	name := s.cfg.Path + ".new"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	c := copier{s: s, to: f, offsets: make([]int64, len(keep)), sizes: make([]int64, len(keep))}
	err = c.copy(keep, st, gaps)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(name, s.cfg.Path)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(name)
		return err
	}
	s.mu.Lock()
	old := s.file
	s.file = f
	for i, e := range keep {
		e.off = c.offsets[i]
		if c.sizes[i] == 0 && !e.gone {
			s.stats.Spoilt++
			s.state.spoilt++
			s.addGapLocked(e.sequence, Lost)
			s.dirty = true
			e.flying = false
			s.removeLocked(e)
		}
	}
	s.mu.Unlock()
	old.Close()
	s.end.at, s.end.ordinal = c.at, c.ordinal
	s.end.generation = 0
	return syncDir(s.cfg.Path)
}

// copier writes a new file.
type copier struct {
	s       *Spool
	to      *os.File
	buf     []byte
	at      int64
	ordinal uint64
	offsets []int64
	sizes   []int64 // 0 for what could not be read
}

func (c *copier) copy(keep []*entry, st state, gaps []Gap) error {
	c.buf = appendSlot(nil, 0, st, gaps)
	c.buf = append(c.buf, make([]byte, fileHeader-len(c.buf))...)
	c.buf = appendRecord(c.buf, head{kind: kindNote}, func(b []byte) []byte { return appendNote(b, st, gaps, nil) })
	for i, e := range keep {
		at := len(c.buf)
		c.buf = append(c.buf, make([]byte, e.size)...)
		r := c.buf[at:]
		_, err := c.s.file.ReadAt(r, e.off)
		if err == nil || errors.Is(err, io.EOF) {
			var h head
			if h, _, err = readRecord(r); err == nil && h.number != e.number {
				err = errSpoilt
			}
		}
		c.offsets[i], c.sizes[i] = c.at+int64(at), e.size
		if err != nil {
			c.buf, c.sizes[i] = c.buf[:at], 0
			continue
		}
		setOrdinal(r, c.ordinal)
		c.ordinal++
		if len(c.buf) >= batchBytes {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return c.flush()
}

func (c *copier) flush() error {
	_, err := c.to.WriteAt(c.buf, c.at)
	c.at += int64(len(c.buf))
	c.buf = c.buf[:0]
	return err
}

// create makes the file when there was no space for it at the start.
func (s *Spool) create() error {
	f, err := os.OpenFile(s.cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.file = f
	s.mu.Unlock()
	if err := s.begin(0); err != nil {
		s.mu.Lock()
		s.file = nil
		s.mu.Unlock()
		f.Close()
		return err
	}
	return nil
}
