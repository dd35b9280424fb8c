package state

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// body is long enough that writing it takes more than one moment.
type body struct {
	Number int
	Copies []int
}

func newBody(n int) *body {
	b := &body{Number: n, Copies: make([]int, 20000)}
	for i := range b.Copies {
		b.Copies[i] = n ^ i*7919%1024
	}
	return b
}

func (b *body) whole() bool {
	for i, c := range b.Copies {
		if c != b.Number^i*7919%1024 {
			return false
		}
	}
	return len(b.Copies) == 20000
}

func newStore(t *testing.T, path string) (*Store, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	s, err := New(Config{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s, &log
}

func TestLoadsWhatWasSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "learned.state")
	s, log := newStore(t, path)
	var b body
	if found, err := s.Load(&b); found || err != nil {
		t.Fatalf("a missing file gives %v, %v, want not found and no error", found, err)
	}
	for n := range 3 {
		if err := s.Save(newBody(n)); err != nil {
			t.Fatal(err)
		}
		var b body
		if found, err := s.Load(&b); !found || err != nil || b.Number != n || !b.whole() {
			t.Fatalf("saved %d, loaded %d: found %v, error %v", n, b.Number, found, err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the file there is something else: %v, %v", entries, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if s.Damaged() != 0 || log.Len() != 0 {
		t.Errorf("%d damaged, log %q", s.Damaged(), log)
	}
}

func TestOneStateOneFile(t *testing.T) {
	a, err1 := encode(newBody(7))
	b, err2 := encode(newBody(7))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the same state gives different files")
	}
}

// damage tries to load a file with the given content.
func damage(t *testing.T, content []byte, why string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "learned.state")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, log := newStore(t, path)
	var b body
	if err := Read(path, &b); err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), path) {
		t.Fatalf("reading gives error %v, want one with %q", err, why)
	}
	found, err := s.Load(&b)
	if found || err != nil || s.Damaged() != 1 {
		t.Fatalf("found %v, error %v, %d damaged, want none, nil and 1", found, err, s.Damaged())
	}
	if !strings.Contains(log.String(), why) {
		t.Errorf("log %q does not say %q", log, why)
	}
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || !bytes.Equal(kept, content) {
		t.Errorf("what was damaged was not kept: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the damaged file is still there: %v", err)
	}
	if err := s.Save(newBody(1)); err != nil {
		t.Errorf("starting afresh: %v", err)
	}
}

func TestTruncatedFiles(t *testing.T) {
	good, err := encode(&body{Number: 5})
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		why := "less than a header"
		if n >= headerSize {
			why = "its body is not of"
		}
		damage(t, good[:n], why)
	}
	damage(t, append(bytes.Clone(good), 0), "its body is not of")
}

// Every single bit counts.
func TestFlippedBits(t *testing.T) {
	good, err := encode(&body{Number: 5})
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		why := "the checksum of its body"
		switch {
		case bit < len(magic)*8:
			why = "does not begin like a state"
		case bit < headerSize*8:
			why = "the checksum of its header"
		}
		damage(t, bad, why)
	}
}

// seal makes the checksum of a changed header right again.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func TestWellFormedNonsense(t *testing.T) {
	good, err := encode("no body at all")
	if err != nil {
		t.Fatal(err)
	}
	damage(t, good, "cannot unmarshal string")
	zero := bytes.Clone(good)
	binary.BigEndian.PutUint32(zero[16:], 0)
	damage(t, seal(zero), "version 0")
	long := bytes.Clone(good)
	binary.BigEndian.PutUint64(long[20:], 1<<62)
	damage(t, seal(long), "is more than")
}

func TestNewerVersionIsLeftAlone(t *testing.T) {
	good, err := encode(newBody(5))
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(good[16:], Version+1)
	path := filepath.Join(t.TempDir(), "learned.state")
	if err := os.WriteFile(path, seal(good), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := newStore(t, path)
	var newer *NewerError
	if found, err := s.Load(new(body)); found || !errors.As(err, &newer) || newer.Version != Version+1 {
		t.Fatalf("found %v, error %v, want a NewerError", found, err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
		t.Errorf("the file was changed: %v", err)
	}
	if s.Damaged() != 0 {
		t.Error("a newer file counts as damaged")
	}
}

func TestFailedSaveKeepsTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "learned.state")
	s, _ := newStore(t, path)
	if err := s.Save(newBody(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(map[string]any{"f": func() {}}); err == nil {
		t.Error("what JSON cannot hold was saved")
	}
	if err := os.Mkdir(path+".new", 0o700); err != nil { // in the way, for root too
		t.Fatal(err)
	}
	if err := s.Save(newBody(2)); err == nil || !strings.Contains(err.Error(), "write learned state") {
		t.Errorf("error %v, want one that says what was being done", err)
	}
	var b body
	if found, err := s.Load(&b); !found || err != nil || b.Number != 1 {
		t.Errorf("found %v, number %d, error %v, want the first", found, b.Number, err)
	}
}

func TestEmptyPath(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a Store without a path was made")
	}
}

// saverEnv makes the test binary a process that saves one state after the other until it is killed.
const saverEnv = "PORTOLAN_TEST_SAVER"

func TestMain(m *testing.M) {
	path := os.Getenv(saverEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	first, err := strconv.Atoi(os.Args[1])
	for n := first; err == nil; n++ {
		if err = Write(path, newBody(n)); err == nil {
			_, err = fmt.Println(n)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Wherever SIGKILL hits, what was saved last is there, whole.
func TestKilledInTheMiddle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "learned.state")
	s, _ := newStore(t, path)
	saved := 0
	for round := range 25 {
		c := exec.Command(os.Args[0], strconv.Itoa(saved+1))
		c.Env = append(os.Environ(), saverEnv+"="+path)
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			if saved, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if i == round%3 {
				time.Sleep(time.Duration(round) * 137 * time.Microsecond) // somewhere into the next one
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = c.Wait() // killed, as it should be
		var b body
		found, err := s.Load(&b)
		if !found || err != nil || !b.whole() || b.Number < saved {
			t.Fatalf("round %d: found %v, error %v, number %d after %d was saved, whole %v", round, found, err, b.Number, saved, b.whole())
		}
		saved = b.Number
	}
}
