package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is the key-value bucket in which the workers keep who owns what. Its keys are
// "partition.N" and "worker.NAME".
const Bucket = "PORTOLAN_WORK"

// BucketConfig returns the configuration of Bucket.
func BucketConfig() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      Bucket,
		Description: "Portolan workers and the partitions they own",
		History:     1,
		Storage:     jetstream.FileStorage,
		MaxBytes:    16 << 20,
	}
}

// claim is the value of "partition.N".
type claim struct {
	Worker     string   `json:"worker"` // "" when it is free
	Instance   string   `json:"instance"`
	Partitions int      `json:"partitions"`
	Position   position `json:"position"`
}

// position is how far a partition has been worked on: every hit that follows from the stream
// up to there is stored.
type position struct {
	Sequence uint64    `json:"sequence"` // of the stream; 0 before the first
	Time     time.Time `json:"time"`     // when the stream stored that message
}

// seen is what a worker last saw of a key, and when. Leases are judged by how long a key has
// not changed on one's own clock, so that no two clocks have to agree.
type seen struct {
	claim    claim // of partitions
	revision uint64
	at       time.Time
}

// board is a worker's view of the bucket. One goroutine uses it.
type board struct {
	kv         jetstream.KeyValue
	timeout    time.Duration
	partitions map[int]seen
	workers    map[string]seen
}

// openBoard opens the bucket, and makes it when there is none.
func openBoard(ctx context.Context, js jetstream.JetStream, timeout time.Duration) (*board, error) {
	asking, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	kv, err := js.KeyValue(asking, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(asking, BucketConfig())
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", Bucket, err)
	}
	return &board{kv: kv, timeout: timeout, partitions: map[int]seen{}, workers: map[string]seen{}}, nil
}

// note takes in a change. What is no key or value of ours is passed over.
func (b *board) note(e jetstream.KeyValueEntry, now time.Time) {
	gone := e.Operation() != jetstream.KeyValuePut
	if name, ok := strings.CutPrefix(e.Key(), "worker."); ok {
		if gone {
			delete(b.workers, name)
		} else if e.Revision() > b.workers[name].revision {
			b.workers[name] = seen{revision: e.Revision(), at: now}
		}
		return
	}
	digits, ok := strings.CutPrefix(e.Key(), "partition.")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return
	}
	if e.Revision() <= b.partitions[n].revision {
		return // older than what an update of our own gave
	}
	s := seen{revision: e.Revision(), at: now}
	if !gone && json.Unmarshal(e.Value(), &s.claim) != nil {
		s.claim = claim{} // damaged: anyone may take it, from the start of the stream
	}
	b.partitions[n] = s
}

// live returns how many workers have given a sign of life within the lease, self included.
func (b *board) live(self string, now time.Time, lease time.Duration) int {
	n := 1
	for name, s := range b.workers {
		if name != self && now.Sub(s.at) < lease {
			n++
		}
	}
	return n
}

// free reports whether a partition can be taken.
func (b *board) free(n int, now time.Time, lease time.Duration) bool {
	s := b.partitions[n]
	return s.claim.Worker == "" || now.Sub(s.at) >= lease
}

// errConflict says that another worker was faster.
var errConflict = errors.New("another worker has it")

// put writes a claim over the one last seen, which must still be there.
func (b *board) put(ctx context.Context, n int, c claim) error {
	value, err := json.Marshal(c)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	key := "partition." + strconv.Itoa(n)
	revision, err := b.kv.Update(asking, key, value, b.partitions[n].revision)
	if api := (*jetstream.APIError)(nil); errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return errConflict
	}
	if err != nil {
		return fmt.Errorf("lease of partition %d: %w", n, err)
	}
	b.partitions[n] = seen{claim: c, revision: revision, at: time.Now()}
	return nil
}

// refresh reads a claim anew, for a worker whose view of it is stale: a watch can miss a change.
func (b *board) refresh(ctx context.Context, n int) error {
	asking, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	e, err := b.kv.Get(asking, "partition."+strconv.Itoa(n))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lease of partition %d: %w", n, err)
	}
	b.note(e, time.Now())
	return nil
}

// beat gives a sign of life.
func (b *board) beat(ctx context.Context, self string) error {
	asking, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	if _, err := b.kv.Put(asking, "worker."+self, []byte(`{}`)); err != nil {
		return fmt.Errorf("sign of life: %w", err)
	}
	return nil
}

// leave takes the sign of life away.
func (b *board) leave(ctx context.Context, self string) error {
	asking, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return b.kv.Delete(asking, "worker."+self)
}
