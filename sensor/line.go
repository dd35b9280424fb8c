package sensor

import "sync"

// line carries pieces of work of type T through stages. Each stage takes them in the order of
// the first one, and one at a time, so that what comes out does not depend on how many
// goroutines do the work: they only share out which stage is whose turn.
type line[T any] struct {
	mu     sync.Mutex
	idle   sync.Cond
	stages []stage[T]
	ended  bool // the first stage has nothing more
	within int  // pieces between the first stage's begin and the last one's end
}

// stage is one step of a line.
type stage[T any] struct {
	// do works on a piece. The first stage says false when there was nothing more to fill it with;
	// what the others say does not count.
	do    func(T) bool
	queue []T // pieces that wait, in order
	busy  bool
}

// newLine returns a line through which the pieces go round: the last step gives them back to the first.
func newLine[T any](pieces []T, steps ...func(T) bool) *line[T] {
	l := &line[T]{}
	l.idle.L = &l.mu
	for _, do := range steps {
		l.stages = append(l.stages, stage[T]{do: do, queue: make([]T, 0, len(pieces))})
	}
	l.stages[0].queue = append(l.stages[0].queue, pieces...)
	return l
}

// run works with so many goroutines, of which the caller's is one, until the first step has
// nothing more and all pieces are through.
func (l *line[T]) run(workers int) {
	var others sync.WaitGroup
	for range min(workers, len(l.stages)) - 1 {
		others.Go(l.work)
	}
	l.work()
	others.Wait()
}

func (l *line[T]) work() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		i := l.nextLocked()
		switch {
		case i >= 0:
			l.stepLocked(i)
		case l.ended && l.within == 0:
			l.idle.Broadcast()
			return
		default:
			l.idle.Wait()
		}
	}
}

// nextLocked returns the last stage that can go on, as what is nearly done is still in the cache, or -1.
func (l *line[T]) nextLocked() int {
	for i := len(l.stages) - 1; i >= 0; i-- {
		if s := &l.stages[i]; !s.busy && len(s.queue) > 0 && (i > 0 || !l.ended) {
			return i
		}
	}
	return -1
}

// stepLocked takes a piece through stage i, with the lock released meanwhile.
func (l *line[T]) stepLocked(i int) {
	s := &l.stages[i]
	p := s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	s.busy = true
	if i == 0 {
		l.within++
	}
	l.mu.Unlock()
	more := s.do(p)
	l.mu.Lock()
	s.busy = false
	if i == 0 && !more {
		l.ended = true
	}
	to := i + 1
	if to == len(l.stages) {
		to = 0
		l.within--
	}
	l.stages[to].queue = append(l.stages[to].queue, p)
	l.idle.Signal()
}
