package fleet

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"portolan/cmd/internal/bus"
	"portolan/correlate"
)

// PublisherConfig says how a sensor publishes observations.
type PublisherConfig struct {
	Sensor     string // one token of the subject, see bus.ValidateSensor
	Partitions int    // 1 to MaxPartitions; the same in the whole fleet
	Zone       uint16 // number of the address space that this sensor sees, in the whole fleet
	Untag      bool   // leave VLAN, VNI and ERSPAN out: the taps see the same hosts with different ones

	BatchBytes int           // a batch is sent when it has this many bytes, from 1 KiB to 32 KiB
	BatchDelay time.Duration // and no later than this after its first observation, above 0
	QueueBytes int           // what may wait for the server, from 1 MiB
	Timeout    time.Duration // for an acknowledgement, above 0
	Log        *slog.Logger  // nil for none
}

// DefaultPublisherConfig returns the settings that suit most; Sensor is left to the caller.
func DefaultPublisherConfig() PublisherConfig {
	return PublisherConfig{
		Partitions: 16,
		BatchBytes: 32 << 10,
		BatchDelay: 5 * time.Millisecond,
		QueueBytes: 64 << 20,
		Timeout:    5 * time.Second,
	}
}

// Validate returns an error that names the first field with a value that cannot be.
func (c PublisherConfig) Validate() error {
	if err := bus.ValidateSensor(c.Sensor); err != nil {
		return err
	}
	switch {
	case c.Partitions < 1 || c.Partitions > MaxPartitions:
		return fmt.Errorf("partitions %d: want 1 to %d", c.Partitions, MaxPartitions)
	case c.BatchBytes < 1<<10 || c.BatchBytes > 32<<10:
		return fmt.Errorf("batch bytes %d: want 1024 to 32768", c.BatchBytes)
	case c.BatchDelay <= 0:
		return fmt.Errorf("batch delay %v: want above 0", c.BatchDelay)
	case c.QueueBytes < 1<<20:
		return fmt.Errorf("queue bytes %d: want at least 1048576", c.QueueBytes)
	case c.Timeout <= 0:
		return fmt.Errorf("timeout %v: want above 0", c.Timeout)
	}
	return nil
}

// WorkerConfig says how a worker correlates observations.
type WorkerConfig struct {
	Name       string // of the worker in messages, subjects and leases, see bus.ValidateSensor
	Version    string // of Portolan, for messages; may be empty
	Partitions int    // 1 to MaxPartitions; the same in the whole fleet

	Correlate correlate.Config // MemoryBytes is shared out among all partitions; Shards is not used
	// Lookback is how much of the stream is read again to rebuild the state of a partition. What a
	// worker can know after it took one over reaches back that far.
	Lookback time.Duration
	// Lease is how long a partition stays with a worker that gives no sign of life, from 1 s.
	Lease   time.Duration
	Timeout time.Duration // for each request to the server, above 0
	Log     *slog.Logger  // nil for none
}

// DefaultWorkerConfig returns the settings that suit most; Name is left to the caller.
func DefaultWorkerConfig() WorkerConfig {
	c := correlate.DefaultConfig()
	return WorkerConfig{
		Partitions: DefaultPublisherConfig().Partitions,
		Correlate:  c,
		Lookback:   c.AddressWindow + c.Hold,
		Lease:      4 * time.Second,
		Timeout:    5 * time.Second,
	}
}

// Validate returns an error that names the first field with a value that cannot be.
func (c WorkerConfig) Validate() error {
	if err := bus.ValidateSensor(c.Name); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	switch {
	case c.Partitions < 1 || c.Partitions > MaxPartitions:
		return fmt.Errorf("partitions %d: want 1 to %d", c.Partitions, MaxPartitions)
	case c.Lookback < 0:
		return fmt.Errorf("lookback %v: want 0 or above", c.Lookback)
	case c.Lease < time.Second:
		return fmt.Errorf("lease %v: want at least 1s", c.Lease)
	case c.Timeout <= 0:
		return errors.New("timeout: want above 0")
	}
	return c.perPartition().Validate()
}

// minMemory is the least that a correlator works with, in bytes.
const minMemory = 1 << 20

// perPartition returns the configuration of one partition's correlator: a single shard, because
// one goroutine feeds it, and because its hits then depend on the order of the stream alone.
func (c WorkerConfig) perPartition() correlate.Config {
	k := c.Correlate
	k.Shards = 1
	k.MemoryBytes = max(k.MemoryBytes/int64(max(c.Partitions, 1)), minMemory)
	return k
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
