package hunt

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"

	"portolan/cmd/internal/state"
	"portolan/correlate"
	"portolan/correlate/baseline"
)

// ErrOther says that a checkpoint is of another hunt.
var ErrOther = errors.New("the checkpoint is of another hunt")

// saved is a checkpoint.
type saved struct {
	Key  string `json:"hunt"`
	Data []byte `json:"data"` // position, tally, baseline and table, each a gob, in zstd
}

// shareOfSaving is how many times as long as it takes a checkpoint waits at least.
const shareOfSaving = 20

// checkpoint saves where the hunt stands, when it is time or now is set.
func (h *hunter) checkpoint(at *position, now bool) error {
	if h.cfg.Checkpoint == "" || !now && time.Since(h.saved) < max(h.cfg.Every, shareOfSaving*h.cost) {
		return nil
	}
	start := time.Now()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	enc := gob.NewEncoder(z)
	err = errors.Join(enc.Encode(at), enc.Encode(h.tally), h.model.Snapshot(z), h.correlator.Snapshot(z), z.Close())
	if err == nil {
		err = state.Write(h.cfg.Checkpoint, saved{h.cfg.Key, b.Bytes()})
	}
	h.saved = time.Now()
	h.cost = h.saved.Sub(start)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// load begins afresh, or goes on from the checkpoint if there is one.
func (h *hunter) load() (*position, error) {
	if h.cfg.Checkpoint != "" {
		var s saved
		err := state.Read(h.cfg.Checkpoint, &s)
		switch {
		case err == nil && s.Key != h.cfg.Key:
			return nil, ErrOther
		case err == nil:
			return h.restore(s.Data)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	var err error
	if h.model, err = baseline.NewModel(baseline.DefaultModelConfig()); err != nil {
		return nil, err
	}
	h.cfg.Correlate.Baseline = h.model
	h.correlator, err = correlate.New(h.cfg.Correlate)
	return nil, err
}

func (h *hunter) restore(data []byte) (*position, error) {
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	r := &byteReader{z} // so that one gob reads no byte of the next
	dec := gob.NewDecoder(r)
	var at position
	if err := errors.Join(dec.Decode(&at), dec.Decode(h.tally)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOther, err)
	}
	if h.model, err = baseline.Restore(baseline.DefaultModelConfig(), r); err == nil {
		h.cfg.Correlate.Baseline = h.model
		h.correlator, err = correlate.Restore(h.cfg.Correlate, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOther, err)
	}
	return &at, nil
}

// forget removes the checkpoint of a hunt that is done.
func (h *hunter) forget() error {
	if h.cfg.Checkpoint == "" {
		return nil
	}
	if err := os.Remove(h.cfg.Checkpoint); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// byteReader is an io.ByteReader, which gob takes no more from than it needs.
type byteReader struct{ r io.Reader }

// Read reads.
func (b *byteReader) Read(p []byte) (int, error) { return b.r.Read(p) }

// ReadByte reads one byte.
func (b *byteReader) ReadByte() (byte, error) {
	var one [1]byte
	_, err := io.ReadFull(b.r, one[:])
	return one[0], err
}
