//go:build linux && cgo

package sensor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// ring is one of a sensor's packet rings with what its goroutine alone may touch: handle,
// decoder, batch, sink and counts. Others see what it publishes.
type ring struct {
	index   int
	cpus    []int // that its goroutine may run on; any when empty
	handle  *handle
	decoder *decode.Decoder
	batch   event.Batch
	sink    event.BatchSink
	down    func() // called when the link is found down
	n       RingStats
	counted time.Time // when the kernel's counters were read last
	looked  time.Time // when the ring was looked at last, or the wait for it ended

	mu        sync.Mutex
	published RingStats
}

// read decodes frames until ctx ends, or no more can come, and closes the handle.
func (r *ring) read(ctx context.Context) (err error) {
	defer func() {
		if e := r.handle.count(&r.n); err == nil {
			err = e
		}
		r.publish()
		r.handle.close()
		if err != nil {
			err = fmt.Errorf("ring %d: %w", r.index, err)
		}
	}()
	if err := r.pin(); err != nil {
		return err
	}
	r.looked = time.Now()
	for ctx.Err() == nil {
		r.n.Turns++
		frames := r.block()
		now := time.Now()
		r.n.LongestGap = max(r.n.LongestGap, now.Sub(r.looked))
		r.looked = now
		if now.Sub(r.counted) >= countInterval {
			r.counted = now
			if err := r.handle.count(&r.n); err != nil {
				return err
			}
		}
		r.publish()
		if frames > 0 {
			continue
		}
		if err := r.handle.wait(); errors.Is(err, errLinkDown) {
			r.n.LinkDowns++
			r.down()
		} else if err != nil {
			return err
		}
		r.looked = time.Now()
	}
	return nil
}

// pin keeps the goroutine on a thread of its own, which ends with it, and that on its CPUs.
func (r *ring) pin() error {
	if len(r.cpus) == 0 {
		return nil
	}
	runtime.LockOSThread()
	var set unix.CPUSet
	for _, c := range r.cpus {
		set.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPU %v: %w", r.cpus, err)
	}
	return nil
}

// block decodes the frames of the next block, hands their events on, and returns how many frames there
// were; 0 when there is no block yet. The kernel has the block back before the sink sees the
// last events: they are copies.
func (r *ring) block() int {
	frames := r.handle.ring.enter()
	if frames == 0 {
		return 0
	}
	var f decode.Frame
	for range frames {
		if !r.handle.frame(&f) {
			r.n.Early++
			continue
		}
		f.Number = r.n.Frames + 1
		r.n.count(&f, r.decoder.Decode(&f, &r.batch))
		if r.batch.Full() {
			r.deliver()
		}
	}
	r.handle.ring.leave()
	r.deliver()
	return frames
}

// deliver hands on what there is, also when it is namings alone: a flood of those must not pile up.
func (r *ring) deliver() {
	if !r.batch.Empty() {
		r.sink.Batch(&r.batch)
		r.batch.Reset()
	}
}

// publish lets others see the counts; once a block, not once a frame.
func (r *ring) publish() {
	r.n.Counters = r.decoder.Counters()
	r.mu.Lock()
	r.published = r.n
	r.mu.Unlock()
}

// stats returns what was published last.
func (r *ring) stats() RingStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.published
}
