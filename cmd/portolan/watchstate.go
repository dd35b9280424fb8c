package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"portolan/cmd/internal/bus"
)

// placeSchema names the form of a place on disk.
const placeSchema = "portolan.watch/1"

// place is how far a watch has read the stream, as it lies in the file of --resume.
type place struct {
	Schema  string    `json:"schema"`
	Stream  string    `json:"stream"`
	Created time.Time `json:"created"`          // of the stream: one made anew counts from 1 again
	After   uint64    `json:"after"`            // the last message that was dealt with; 0 for none
	From    time.Time `json:"from,omitzero"`    // while After is 0: where --since put the beginning
	Written time.Time `json:"written,omitzero"` // for people
}

// maxPlace bounds the file in bytes; one that is longer was not written here.
const maxPlace = 4096

// readPlace returns what is in the file; a missing one is fs.ErrNotExist.
func readPlace(path string) (*place, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file") // a rename would put one in its place
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPlace+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxPlace {
		return nil, &damagedPlaceError{fmt.Sprintf("it has more than %d bytes", maxPlace)}
	}
	w := new(place)
	if err := json.Unmarshal(b, w); err != nil {
		return nil, &damagedPlaceError{err.Error()}
	}
	switch {
	case w.Schema != placeSchema:
		return nil, &damagedPlaceError{fmt.Sprintf("schema %q is not %s", w.Schema, placeSchema)}
	case w.Stream != bus.HitsStream:
		return nil, &damagedPlaceError{fmt.Sprintf("stream %q is not %s", w.Stream, bus.HitsStream)}
	case w.Created.IsZero():
		return nil, &damagedPlaceError{"the stream's creation is not in it"}
	}
	return w, nil
}

// damagedPlaceError says why a file is not what a watch wrote.
type damagedPlaceError struct{ why string }

// Error returns the reason.
func (e *damagedPlaceError) Error() string { return "damaged: " + e.why }

// write makes or replaces the file; whoever reads it finds the old place or the new one.
func (w place) write(path string) (err error) {
	w.Written = time.Now().UTC().Truncate(time.Second)
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync() // before the rename: else a crash could leave the name with no content
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// hitsStream is what the server says of the stream of hits.
type hitsStream struct {
	Created time.Time `json:"created"`
	State   struct {
		First uint64 `json:"first_seq"` // the oldest message kept; one above Last when there is none
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
}

// lookAtStream asks the server.
func lookAtStream(ctx context.Context, b *bus.Bus) (*hitsStream, error) {
	ctx, cancel := context.WithTimeout(ctx, bus.DefaultConfig().Timeout)
	defer cancel()
	fail := func(err error) error { return fmt.Errorf("look at stream %s at %s: %w", bus.HitsStream, b.URL(), err) }
	m, err := b.Conn().RequestWithContext(ctx, b.API("STREAM.INFO."+bus.HitsStream), nil)
	if err != nil {
		return nil, fail(err)
	}
	var reply struct {
		hitsStream
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return nil, fail(err)
	}
	if reply.Error != nil {
		return nil, fail(errors.New(reply.Error.Description))
	}
	return &reply.hitsStream, nil
}

// resumption keeps the place of one watch in its file.
type resumption struct {
	path string

	mu    sync.Mutex
	now   place
	saved place
	old   bool  // the file was there: hits may have been shown before
	err   error // of the last try to save
}

// resume reads the file and says where to begin. Notice tells people, one line a call, what will
// not come, or come again. Without a file it begins as since says: 0 for what is published from now on.
func resume(path string, s *hitsStream, since time.Duration, now time.Time, notice func(string)) (*resumption, error) {
	r := &resumption{path: path}
	old, err := readPlace(path)
	var damaged *damagedPlaceError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.now = place{After: s.State.Last}
		if since > 0 {
			r.now = place{From: now.Add(-since).UTC()}
		}
	case errors.As(err, &damaged):
		return nil, withHint(fmt.Errorf("resume from %s: %w", path, err), "remove it to begin as --since says")
	case err != nil:
		return nil, fmt.Errorf("resume from %s: %w", path, err)
	default:
		r.old, r.now, r.saved = true, *old, *old
		r.follow(s, notice)
	}
	r.now.Schema, r.now.Stream, r.now.Created = placeSchema, bus.HitsStream, s.Created
	if err := r.save(); err != nil { // also shows at once that it can be written
		return nil, err
	}
	return r, nil
}

// follow compares the place with the stream that is there now.
func (r *resumption) follow(s *hitsStream, notice func(string)) {
	w := &r.now
	switch {
	case !w.Created.Equal(s.Created):
		notice(fmt.Sprintf("stream %s was made anew on %s: beginning with its first message",
			bus.HitsStream, s.Created.UTC().Format(time.RFC3339)))
		*w = place{}
	case w.After > s.State.Last:
		notice(fmt.Sprintf("stream %s ends at message %d and had %d before: beginning with its first message",
			bus.HitsStream, s.State.Last, w.After))
		*w = place{}
	case w.From.IsZero() && s.State.First > w.After+1:
		notice(fmt.Sprintf("lost: %s left the stream before this watch came to read; %d to %d, of all sensors and levels",
			count(s.State.First-w.After-1, "message", "messages"), w.After+1, s.State.First-1))
	}
}

// filter sets where f begins.
func (r *resumption) filter(f *bus.Filter, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.Last, f.Sequence = 0, r.now.After+1
	if !r.now.From.IsZero() {
		f.Last, f.Sequence = max(now.Sub(r.now.From), time.Nanosecond), 0
	}
}

// passed notes that a message of the stream has been dealt with, and everything before it.
func (r *resumption) passed(sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.After, r.now.From = sequence, time.Time{}
}

// save writes the place unless it is there already.
func (r *resumption) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == r.saved {
		return nil
	}
	if r.err = r.now.write(r.path); r.err != nil {
		r.err = fmt.Errorf("keep the place of the watch: %w", r.err)
		return r.err
	}
	r.saved = r.now
	return nil
}

// placeEvery is how much of a watch is printed again after a crash.
const placeEvery = time.Second

// run saves now and then until stop is closed. The first of a row of errors goes to warn: the
// disk may have room again later.
func (r *resumption) run(stop <-chan struct{}, warn func(error)) {
	t := time.NewTicker(placeEvery)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			err := r.save()
			if err != nil && !failing {
				warn(err)
			}
			failing = err != nil
		}
	}
}
