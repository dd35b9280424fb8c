package enrich

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
	"portolan/correlate/attribute"
)

// settle publishes what was found, and waits until the server has stored it. The error says that ctx has
// ended, or that the server refuses revisions for good.
func (e *Enricher) settle(ctx context.Context) error {
	e.want()
	published, lost := false, e.bus.PublishStats().Lost
	for i := range e.found {
		done, err := e.publish(ctx, &e.found[i])
		if err != nil {
			return err
		}
		published = published || done
	}
	e.found = e.found[:0]
	if !published {
		return nil
	}
	if err := e.insist(ctx, "revisions to be stored", func() error { return e.bus.Flush(ctx) }); err != nil {
		return err
	}
	if n := e.bus.PublishStats().Lost - lost; n > 0 {
		return fmt.Errorf("publish revisions: the server refuses %d for good", n)
	}
	return nil
}

// publish publishes one finding, and reports whether there was anything to. What it is about may be
// gone from its stream.
func (e *Enricher) publish(ctx context.Context, f *attribute.Finding) (bool, error) {
	m, err := e.hit(ctx, f.Ref)
	if err != nil {
		return false, err
	}
	if m == nil {
		return false, nil
	}
	what := string(f.Status)
	if f.Kept {
		what = "kept"
		old, err := e.newest(ctx, f.Hit)
		if err != nil {
			return false, err
		}
		if old == nil {
			return false, nil
		}
		m.Reattribute(old)
	} else {
		records := make([]*attribute.Record, len(f.Candidates))
		for i, c := range f.Candidates {
			if records[i], err = e.reread(ctx, c); err != nil {
				return false, err
			}
		}
		m.Attribute(f, records)
	}
	if err := e.bus.PublishWait(ctx, m); err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		e.log.Error("revision cannot be published", "hit", m.Portolan.HitID, "error", err) // it cannot be encoded
		return false, nil
	}
	if len(e.sent) == maxRefs {
		clear(e.sent) // none of them has come back for long
	}
	e.sent[f.Hit] = m
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Revised[what]++
	return true, nil
}

// hit returns the message with a sequence, nil when the stream no longer has it.
func (e *Enricher) hit(ctx context.Context, sequence uint64) (*bus.Message, error) {
	data, err := e.get(ctx, e.hits, sequence)
	if data == nil {
		return nil, err
	}
	m, err := bus.Decode(data)
	if err != nil {
		e.gone()
		return nil, nil
	}
	return m, nil
}

// newest returns the newest revision that was published here or elsewhere; nil when it is gone.
func (e *Enricher) newest(ctx context.Context, id [16]byte) (*bus.Message, error) {
	ref, ok := e.stored.get(id)
	if m := e.sent[id]; m != nil && (!ok || m.Portolan.Revision >= ref.revision) {
		return m, nil
	}
	if !ok {
		e.gone()
		return nil, nil
	}
	return e.hit(ctx, ref.sequence)
}

// reread returns the record behind a candidate; nil when the stream no longer has it.
func (e *Enricher) reread(ctx context.Context, c attribute.Candidate) (*attribute.Record, error) {
	data, err := e.get(ctx, e.endpoints, c.Ref)
	if data == nil {
		return nil, err
	}
	r := new(attribute.Record)
	if err := r.Parse(data); err != nil || r.HostID != c.HostID || r.Process.PID != c.PID {
		e.gone() // the stream was made anew, and another record has its number
		return nil, nil
	}
	return r, nil
}

// get returns the message with a sequence, nil when it is gone.
func (e *Enricher) get(ctx context.Context, from jetstream.Stream, sequence uint64) (data []byte, err error) {
	err = e.insist(ctx, "a message of "+from.CachedInfo().Config.Name, func() error {
		asking, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
		defer cancel()
		m, err := from.GetMsg(asking, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			e.gone()
			return nil
		}
		if err == nil {
			data = m.Data
		}
		return err
	})
	return data, err
}

func (e *Enricher) gone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.Gone++
}

// maxRefs bounds the hits of which it is known where our newest revision stands.
const maxRefs = 1 << 17

// refs remembers where the newest revision of a hit stands.
type refs struct {
	at    map[[16]byte]ref
	order []correlate.ID // a ring
	next  int
}

type ref struct {
	revision uint32
	sequence uint64
}

func newRefs() *refs { return &refs{at: map[[16]byte]ref{}} }

func (r *refs) get(id [16]byte) (ref, bool) {
	x, ok := r.at[id]
	return x, ok
}

func (r *refs) put(id [16]byte, revision uint32, sequence uint64) {
	old, known := r.at[id]
	if known && old.revision > revision {
		return
	}
	if !known {
		if len(r.order) < maxRefs {
			r.order = append(r.order, id)
		} else {
			delete(r.at, r.order[r.next])
			r.order[r.next] = id
			r.next = (r.next + 1) % maxRefs
		}
	}
	r.at[id] = ref{revision, sequence}
}
