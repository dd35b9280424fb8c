//go:build linux && cgo

package sensor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"portolan/sensor/decode"
	"portolan/sensor/event"
)

// ring is one of a sensor's packet rings with what its goroutine alone may touch: handle,
// decoder, sink and counts. Others see what it publishes.
type ring struct {
	index   int
	handle  *handle
	decoder *decode.Decoder
	sink    event.Sink
	n       RingStats
	counted time.Time // when the kernel's counters were read last

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
	for ctx.Err() == nil {
		frames, err := r.handle.block()
		if err != nil {
			return err
		}
		if err := r.decode(frames); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(r.counted) >= statsInterval {
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
		} else if err != nil {
			return err
		}
	}
	return nil
}

// decode decodes the frames of a block.
func (r *ring) decode(frames int) error {
	var f decode.Frame
	for ; frames > 0; frames-- {
		ok, err := r.handle.frame(&f, frames == 1)
		if err != nil {
			return err
		}
		if !ok {
			r.n.Early++
			continue
		}
		f.Number = r.n.Frames + 1
		r.n.count(&f, r.decoder.Decode(&f, r.sink))
	}
	return nil
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
