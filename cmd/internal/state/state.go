// Package state keeps what Portolan has learned in one file, so that a restart or a crash loses
// little of it. The file is replaced as a whole: whoever reads it finds the old one or the
// new one, never a mixture. One process at a time may use it.
//
// A file is a header and a body. The header is the same for every version:
//
//	0   magic, 16 bytes
//	16  version, 32 bits, big-endian like the rest
//	20  length of the body in bytes, 64 bits
//	28  SHA-256 of the body
//	60  CRC-32C of the 60 bytes before
//
// The body is JSON in gzip.
package state

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// Version is the version of the files that Save writes.
const Version = 1

const (
	magic      = "portolan state\r\n" // a transfer as text would change its end
	headerSize = 64
	maxBody    = 256 << 20 // bytes in gzip
	maxJSON    = 2 << 30   // bytes
)

// NewerError says that a later Portolan wrote the file. It is left alone.
type NewerError struct {
	Path    string
	Version uint32
}

// Error returns the message on one line.
func (e *NewerError) Error() string {
	return fmt.Sprintf("read learned state: %s has version %d, and this Portolan knows up to %d", e.Path, e.Version, Version)
}

// damagedError says what is wrong with a file.
type damagedError struct{ why string }

func (e *damagedError) Error() string { return e.why }

func damaged(format string, args ...any) error { return &damagedError{fmt.Sprintf(format, args...)} }

// Config says where the state is.
type Config struct {
	Path   string       // of the file; its directory is made when it is missing
	Logger *slog.Logger // for damage; nil for none
}

// Store reads and writes the file. Its methods may be called concurrently.
type Store struct {
	cfg Config

	mu      sync.Mutex
	damaged uint64
}

// New returns a Store; nothing is read or written yet. The error is about an empty path.
func New(cfg Config) (*Store, error) {
	if cfg.Path == "" {
		return nil, errors.New("state: Path is empty")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{cfg: cfg}, nil
}

// Damaged counts the files that could not be read and were put aside.
func (s *Store) Damaged() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged
}

// Load reads the file into v, as json.Unmarshal does. Found is false when there is nothing to go on
// from, and then what v holds is of no use: the file is missing, or it was damaged and is
// now beside its place, with .damaged at the end of its name. A *NewerError, and errors of the file
// system, are for the operator: the file is as it was.
func (s *Store) Load(v any) (found bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = read(s.cfg.Path, v)
	var d *damagedError
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case !errors.As(err, &d):
		return false, err
	}
	s.damaged++
	aside := s.cfg.Path + ".damaged"
	if err := os.Rename(s.cfg.Path, aside); err != nil {
		return false, fmt.Errorf("put damaged state aside: %w", err)
	}
	s.cfg.Logger.Warn("learned state is damaged: starting afresh", "path", s.cfg.Path, "why", d.why, "kept", aside)
	return false, nil
}

// Read reads the file at path into v, as json.Unmarshal does, and changes nothing on the disk. An error
// names the path; a missing file is fs.ErrNotExist.
func Read(path string, v any) error {
	err := read(path, v)
	var d *damagedError
	if errors.As(err, &d) {
		return fmt.Errorf("read learned state: %s is damaged: %w", path, d)
	}
	return err
}

func read(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read learned state: %w", err)
	}
	defer f.Close()
	var header [headerSize]byte
	if n, err := io.ReadFull(f, header[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return damaged("its %d bytes are less than a header", n)
	} else if err != nil {
		return fmt.Errorf("read learned state: %w", err)
	}
	length, err := check(header[:], path)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(f, int64(length)+1))
	if err != nil {
		return fmt.Errorf("read learned state: %w", err)
	}
	if uint64(len(body)) != length {
		return damaged("its body is not of %d bytes", length)
	}
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], header[28:60]) {
		return damaged("the checksum of its body is wrong")
	}
	return decode(body, v)
}

// check returns the length of the body that a header announces.
func check(header []byte, path string) (length uint64, err error) {
	if string(header[:len(magic)]) != magic {
		return 0, damaged("it does not begin like a state")
	}
	if crc32.Checksum(header[:60], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(header[60:]) {
		return 0, damaged("the checksum of its header is wrong")
	}
	switch version := binary.BigEndian.Uint32(header[16:]); {
	case version > Version:
		return 0, &NewerError{path, version}
	case version == 0:
		return 0, damaged("it has version 0")
	}
	if length = binary.BigEndian.Uint64(header[20:]); length > maxBody {
		return 0, damaged("a body of %d bytes is more than %d", length, maxBody)
	}
	return length, nil
}

func decode(body []byte, v any) error {
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return damaged("its body: %v", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxJSON))
	if err != nil {
		return damaged("its body: %v", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return damaged("its body: %v", err)
	}
	return nil
}

// Save replaces the file by one that holds v as JSON. When it returns nil the new one is on
// the disk; on an error the old one is as it was.
func (s *Store) Save(v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Write(s.cfg.Path, v)
}

// Write makes or replaces the file at path, as Save does.
func Write(path string, v any) error {
	b, err := encode(v)
	if err != nil {
		return fmt.Errorf("write learned state: %w", err)
	}
	if err := replace(path, b); err != nil {
		return fmt.Errorf("write learned state: %w", err)
	}
	return nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, headerSize))
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	all := b.Bytes()
	header, body := all[:headerSize], all[headerSize:]
	if len(body) > maxBody {
		return nil, fmt.Errorf("a body of %d bytes is more than %d", len(body), maxBody)
	}
	copy(header, magic)
	binary.BigEndian.PutUint32(header[16:], Version)
	binary.BigEndian.PutUint64(header[20:], uint64(len(body)))
	sum := sha256.Sum256(body)
	copy(header[28:], sum[:])
	binary.BigEndian.PutUint32(header[60:], crc32.Checksum(header[:60], crc32.MakeTable(crc32.Castagnoli)))
	return all, nil
}

// replace puts b in the place of the file at path, all or nothing, and makes it last.
func replace(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync() // before the rename: else a crash could leave the name with no content
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close()) // the rename itself
}
