package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// hashing is the hash of a file, now or soon.
type hashing struct {
	done atomic.Bool
	sum  string // valid once done; "" when it could not be had
}

// fileKey names what a file holds: a file that is written to has another time of change, which
// only the kernel can set.
type fileKey struct {
	dev, ino, size uint64
	mtime, ctime   unix.Timespec
}

func keyOf(f *os.File) (k fileKey, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return k, err
	}
	return fileKey{st.Dev, st.Ino, uint64(st.Size), st.Mtim, st.Ctim}, nil
}

// hasher hashes executables one at a time, no faster than allowed. One goroutine calls its methods.
type hasher struct {
	size, rate int64
	known      map[fileKey]*hashing
	work       chan hashJob
	stop       chan struct{}
	working    sync.WaitGroup
	skipped    uint64 // files that waited for too long already
}

type hashJob struct {
	file *os.File
	key  fileKey
	to   *hashing
}

const (
	maxHashes = 4096 // that are remembered
	maxJobs   = 64   // files that wait
)

func newHasher(size, rate int64) *hasher {
	h := &hasher{size: size, rate: rate, known: map[fileKey]*hashing{}, work: make(chan hashJob, maxJobs), stop: make(chan struct{})}
	h.working.Go(h.run)
	return h
}

// close ends the work and waits for it.
func (h *hasher) close() {
	close(h.stop)
	h.working.Wait()
	for {
		select {
		case j := <-h.work:
			j.file.Close()
		default:
			return
		}
	}
}

// unhashed is what becomes of executables that cannot be read.
func unhashed() *hashing {
	h := &hashing{}
	h.done.Store(true)
	return h
}

// hash returns the hash of a process's executable.
func (h *hasher) hash(p *process, start time.Duration) *hashing {
	if h.size == 0 || p.Executable == "" {
		return unhashed()
	}
	f := h.open(p, start)
	if f == nil {
		return unhashed()
	}
	k, err := keyOf(f)
	if err != nil || int64(k.size) > h.size {
		f.Close()
		return unhashed()
	}
	if known := h.known[k]; known != nil {
		f.Close()
		return known
	}
	job := hashJob{f, k, &hashing{}}
	select {
	case h.work <- job:
	default:
		f.Close()
		h.skipped++
		return unhashed()
	}
	if len(h.known) >= maxHashes {
		clear(h.known)
	}
	h.known[k] = job.to
	return job.to
}

// open opens the executable of a process: through the process while it is there, which works
// across namespaces and for files that were removed, else by its path, if that leads to the same file here.
func (h *hasher) open(p *process, start time.Duration) *os.File {
	dir := "/proc/" + strconv.FormatUint(uint64(p.PID), 10)
	if f, err := os.Open(dir + "/exe"); err == nil {
		if isStill(dir, start) {
			return f
		}
		f.Close()
	}
	// O_NONBLOCK: what stands there by now might be a pipe.
	f, err := os.OpenFile(p.Executable, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	if k, err := keyOf(f); err != nil || k.ino != p.inode || k.dev != p.device {
		f.Close()
		return nil
	}
	return f
}

func (h *hasher) run() {
	for {
		select {
		case <-h.stop:
			return
		case j := <-h.work:
			began := time.Now()
			n := h.read(j)
			j.to.done.Store(true)
			j.file.Close()
			pause := time.NewTimer(time.Duration(float64(n)/float64(h.rate)*float64(time.Second)) - time.Since(began))
			select {
			case <-h.stop:
				pause.Stop()
				return
			case <-pause.C:
			}
		}
	}
}

// read hashes a file, and returns how much of it was read. A file that changes meanwhile has no hash.
func (h *hasher) read(j hashJob) int64 {
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(j.file, h.size))
	if after, e := keyOf(j.file); err == nil && e == nil && after == j.key && n == int64(j.key.size) {
		j.to.sum = hex.EncodeToString(sum.Sum(nil))
	}
	return n
}
