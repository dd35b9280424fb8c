package fleet

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"portolan/cmd/internal/bus"
)

// Worker correlates the partitions that it owns. Workers share them out among themselves: each
// takes what is free up to its share, gives back what is more, and takes over from one that has
// given no sign of life for the time of a lease.
type Worker struct {
	cfg WorkerConfig
	log *slog.Logger
	bus *bus.Bus
	js  jetstream.JetStream

	instance string // tells processes with one name apart

	board *board         // Run's goroutine alone
	own   map[int]*track // likewise

	counts counters
}

// WorkerStats counts what a worker did since it began.
type WorkerStats struct {
	Partitions   int    // owned now
	Taken        uint64 // partitions taken, those taken over included
	Observations uint64 // correlated, those read again included
	Again        uint64 // of those, read again to rebuild state
	Hits         uint64 // published, revisions included
	Lost         uint64 // batches that publishers lost, by the gaps in their sequence
	Damaged      uint64 // messages that are no batch, or only in part
}

// counters are those of WorkerStats, for several goroutines.
type counters struct {
	partitions                                      atomic.Int64
	taken, observations, again, hits, lost, damaged atomic.Uint64
}

// NewWorker returns a worker that publishes through b, which has to outlive Run.
func NewWorker(b *bus.Bus, cfg WorkerConfig) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	js, err := b.NewJetStream(jetstream.WithDefaultTimeout(cfg.Timeout))
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return &Worker{cfg: cfg, log: logger(cfg.Log), bus: b, js: js, instance: crand.Text(), own: map[int]*track{}}, nil
}

// Stats returns the counts so far. It may be called while Run runs.
func (w *Worker) Stats() WorkerStats {
	c := &w.counts
	return WorkerStats{
		Partitions: int(c.partitions.Load()), Taken: c.taken.Load(), Observations: c.observations.Load(), Again: c.again.Load(),
		Hits: c.hits.Load(), Lost: c.lost.Load(), Damaged: c.damaged.Load(),
	}
}

// watchPause is how long a broken watch of the bucket rests.
const watchPause = 500 * time.Millisecond

// Run works until ctx ends, gives back what it owns, and returns when every goroutine has ended.
// Being told to stop is no error. While the server is away it waits.
func (w *Worker) Run(ctx context.Context) error {
	board, err := w.openBoard(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
	}
	w.board = board
	changes := make(chan jetstream.KeyValueEntry, 64)
	var watching sync.WaitGroup
	looking, stop := context.WithCancel(ctx)
	watching.Go(func() { w.watch(looking, changes) })
	defer watching.Wait()
	defer stop()

	if !w.first(ctx, changes) {
		return nil
	}
	turn := time.NewTicker(w.cfg.Lease / 4)
	defer turn.Stop()
	for {
		w.turn(ctx)
		select {
		case <-ctx.Done():
			w.giveBack(context.WithoutCancel(ctx))
			return nil
		case e := <-changes:
			for ; ; e = <-changes { // all that has come already, before the next look at it
				if e != nil {
					board.note(e, time.Now())
				}
				if len(changes) == 0 {
					break
				}
			}
		case <-turn.C:
		}
	}
}

// openBoard opens the bucket, and waits for a server that is away.
func (w *Worker) openBoard(ctx context.Context) (*board, error) {
	for {
		b, err := openBoard(ctx, w.js, w.cfg.Timeout)
		if err == nil || ctx.Err() != nil || errors.As(err, new(*jetstream.APIError)) {
			return b, err
		}
		w.note(ctx, err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(watchPause):
		}
	}
}

// first takes in what stands in the bucket, and reports whether ctx still lasts. Every lease
// found there counts as fresh.
func (w *Worker) first(ctx context.Context, changes <-chan jetstream.KeyValueEntry) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-changes:
			if e == nil {
				return true
			}
			w.board.note(e, time.Now())
		}
	}
}

// watch hands on every change of the bucket until ctx ends; nil after what was there at first.
func (w *Worker) watch(ctx context.Context, to chan<- jetstream.KeyValueEntry) {
	for ctx.Err() == nil {
		if err := w.watchOnce(ctx, to); err != nil && ctx.Err() == nil {
			w.log.Warn("nats bucket cannot be watched", "bucket", Bucket, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

func (w *Worker) watchOnce(ctx context.Context, to chan<- jetstream.KeyValueEntry) error {
	watcher, err := w.board.kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Stop() }() // an error says that the connection has ended it already
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-watcher.Updates():
			if !ok {
				return errors.New("watch ended")
			}
			select {
			case to <- e:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// turn renews what is owned, gives back what is too much, and takes what is free. When the server
// is away the work goes on, and the next update that succeeds shows that nobody else has taken
// it; two who work on one partition for a while do no harm, because their hits have the same ids.
func (w *Worker) turn(ctx context.Context) {
	now := time.Now()
	if now.Sub(w.board.workers[w.cfg.Name].at) >= w.cfg.Lease/4 {
		if err := w.board.beat(ctx, w.cfg.Name); err != nil {
			w.note(ctx, err)
			return
		}
		w.board.workers[w.cfg.Name] = seen{revision: w.board.workers[w.cfg.Name].revision, at: now}
	}
	for n, t := range w.own {
		s := w.board.partitions[n]
		err := error(nil)
		switch {
		case !w.mine(n):
			err = errConflict
		case now.Sub(s.at) >= w.cfg.Lease/4:
			err = w.update(ctx, n, w.claim(t.position()))
		}
		if errors.Is(err, errConflict) {
			w.log.Warn("partition lost to another worker", "partition", n)
			w.drop(n)
		} else if err != nil {
			w.note(ctx, err)
			return
		}
	}
	live := w.board.live(w.cfg.Name, now, w.cfg.Lease)
	share := (w.cfg.Partitions + live - 1) / live
	for n := range w.own {
		if len(w.own) <= share {
			break
		}
		w.release(ctx, n)
	}
	start := rand.IntN(w.cfg.Partitions) // so that two workers seldom reach for the same one
	for i := range w.cfg.Partitions {
		n := (start + i) % w.cfg.Partitions
		if len(w.own) >= share {
			break
		}
		if w.own[n] == nil && (w.mine(n) || w.board.free(n, now, w.cfg.Lease)) {
			w.take(ctx, n)
		}
	}
}

// note logs what went wrong with the server.
func (w *Worker) note(ctx context.Context, err error) {
	if ctx.Err() == nil {
		w.log.Warn("nats worker waits for the server", "error", err)
	}
}

// mine reports whether a partition is this worker's, as far as the board knows.
func (w *Worker) mine(n int) bool {
	c := w.board.partitions[n].claim
	return c.Worker == w.cfg.Name && c.Instance == w.instance
}

// update writes over this worker's own claim. One that was broken off before, by a time-out or the
// end of a context, may have been stored all the same: then the board is behind, and not another
// worker faster.
func (w *Worker) update(ctx context.Context, n int, c claim) error {
	err := w.board.put(ctx, n, c)
	if !errors.Is(err, errConflict) {
		return err
	}
	if err := w.board.refresh(ctx, n); err != nil {
		return err
	}
	if !w.mine(n) {
		return errConflict
	}
	return w.board.put(ctx, n, c)
}

// claim returns this worker's claim on a partition that has come to p.
func (w *Worker) claim(p position) claim {
	return claim{Worker: w.cfg.Name, Instance: w.instance, Partitions: w.cfg.Partitions, Position: p}
}

// take claims a partition and begins to work on it.
func (w *Worker) take(ctx context.Context, n int) {
	before := w.board.partitions[n].claim
	if before.Partitions != 0 && before.Partitions != w.cfg.Partitions {
		// The clients are distributed anew: what was known of this one says nothing any more.
		w.log.Warn("number of partitions changed", "before", before.Partitions, "now", w.cfg.Partitions)
		before.Position = position{}
	}
	err := w.board.put(ctx, n, w.claim(before.Position))
	if errors.Is(err, errConflict) {
		// Another worker was faster, or the watch has missed what it did: see what stands there now.
		err = w.board.refresh(ctx, n)
		if err == nil {
			return
		}
	}
	if err != nil {
		w.note(ctx, err)
		return
	}
	w.counts.taken.Add(1)
	w.counts.partitions.Add(1)
	from := before.Worker
	if from == "" {
		from = "nobody"
	}
	w.log.Info("partition taken", "partition", n, "from", from, "position", before.Position.Sequence)
	w.own[n] = w.startTrack(n, before.Position)
}

// drop ends the work on a partition.
func (w *Worker) drop(n int) position {
	t := w.own[n]
	delete(w.own, n)
	w.counts.partitions.Add(-1)
	return t.stop()
}

// release gives a partition back.
func (w *Worker) release(ctx context.Context, n int) {
	p := w.drop(n)
	c := w.claim(p)
	c.Worker = ""
	switch err := w.update(ctx, n, c); {
	case errors.Is(err, errConflict): // it is another worker's
	case err != nil:
		w.note(ctx, err) // the lease will run out
	default:
		w.log.Info("partition given back", "partition", n, "position", p.Sequence)
	}
}

// giveBack gives everything back at the end.
func (w *Worker) giveBack(ctx context.Context) {
	for n := range w.own {
		w.release(ctx, n)
	}
	if err := w.board.leave(ctx, w.cfg.Name); err != nil {
		w.note(ctx, err)
	}
}
