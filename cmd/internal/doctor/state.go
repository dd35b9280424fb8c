package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

const stateArea = "state"

// Keeping is what a state directory is for.
type Keeping struct {
	Dir   string    // absolute
	Spool int64     // bytes of disk that messages may take
	Now   time.Time // by which ages are told
}

// oldBaseline is an age at which what was learned is no longer of this network: run saves it each few
// minutes.
const oldBaseline = 7 * 24 * time.Hour

// ExamineState returns the findings on a state directory.
func (h *Host) ExamineState(k Keeping) []Finding {
	dir := strings.TrimPrefix(k.Dir, "/")
	info, err := fs.Stat(h.Files, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{
			{Area: stateArea, Check: "directory", Status: OK, Evidence: k.Dir + " is not there yet; portolan run makes it, for its user alone"},
			h.disk(existing(h.Files, dir), k),
		}
	case err != nil:
		return []Finding{unknown(stateArea, "directory", err)}
	}
	return []Finding{h.directory(k, info), h.disk(dir, k), h.spool(dir, k), h.damaged(dir, k), h.baseline(dir, k)}
}

// existing returns the nearest directory above one that is not there.
func existing(files fs.FS, dir string) string {
	for {
		at := strings.LastIndexByte(dir, '/')
		if at < 0 {
			return "."
		}
		dir = dir[:at]
		if _, err := fs.Stat(files, dir); err == nil {
			return dir
		}
	}
}

func (h *Host) directory(k Keeping, info fs.FileInfo) Finding {
	f := Finding{Area: stateArea, Check: "directory", Status: OK, Evidence: fmt.Sprintf("%s, mode %04o", k.Dir, info.Mode().Perm())}
	switch {
	case !info.IsDir():
		f.Status, f.Evidence = Bad, k.Dir+" is no directory"
		f.Consequence = "portolan run does not start"
		f.Advice = "name another with --state-dir"
	case info.Mode().Perm()&0o077 != 0:
		f.Status = Warn
		f.Consequence = "others on this host can read hits that wait, and what was learned"
		f.Remedy = "sudo chmod 700 " + quote(k.Dir)
	}
	return f
}

func (h *Host) disk(dir string, k Keeping) Finding {
	free, err := h.Kernel.Free("/" + strings.TrimPrefix(dir, "."))
	if err != nil {
		return unknown(stateArea, "disk", err)
	}
	f := Finding{Area: stateArea, Check: "disk", Status: OK,
		Evidence: fmt.Sprintf("%s free, the spool takes at most %s", bytesText(free), bytesText(uint64(k.Spool)))}
	if free < uint64(k.Spool) {
		f.Status = Warn
		f.Consequence = "when NATS is away for long the disk fills before the spool does, and hits are lost"
		f.Advice = "a smaller --spool, or --state-dir on a larger disk"
	}
	return f
}

// spool tells how much waits. Only the process that holds the spool may open it.
func (h *Host) spool(dir string, k Keeping) Finding {
	f := Finding{Area: stateArea, Check: "spool", Status: OK, Evidence: "nothing was ever spooled here"}
	info, err := fs.Stat(h.Files, dir+"/spool")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f
	case err != nil:
		return unknown(stateArea, "spool", err)
	}
	f.Evidence = fmt.Sprintf("%s on disk", bytesText(uint64(info.Size())))
	// Messages take a third at most; the file is rewritten before it takes all.
	if info.Size() > k.Spool/4 {
		f.Status = Warn
		f.Consequence = "messages pile up: NATS does not take them; at the bound the oldest leads go first"
		f.Advice = "mend what stands under nats"
	}
	return f
}

func (h *Host) damaged(dir string, k Keeping) Finding {
	entries, err := fs.ReadDir(h.Files, dir)
	if err != nil {
		return unknown(stateArea, "damaged", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".damaged") {
			names = append(names, e.Name())
		}
	}
	f := Finding{Area: stateArea, Check: "damaged", Status: OK, Evidence: "no damaged file was put aside"}
	if len(names) > 0 {
		f.Status, f.Evidence = Warn, "put aside: "+list(names)
		f.Consequence = "what was learned before the damage is gone: for days more ports and destinations look unusual"
		f.Remedy = "sudo mv " + quote(k.Dir+"/"+names[0]) + " /var/tmp/"
	}
	return f
}

func (h *Host) baseline(dir string, k Keeping) Finding {
	f := Finding{Area: stateArea, Check: "baseline", Status: OK}
	info, err := fs.Stat(h.Files, dir+"/baseline.state")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Status, f.Evidence = Warn, "none: nothing was learned here yet"
		f.Consequence = "for the first days every port and destination is judged by a fixed prior: more leads, and e-values that say less"
		f.Advice = "let portolan run for a day, or begin with what another sensor learned (portolan baseline merge)"
	case err != nil:
		return unknown(stateArea, "baseline", err)
	default:
		age := k.Now.Sub(info.ModTime()).Round(time.Minute)
		f.Evidence = fmt.Sprintf("saved %v ago", age)
		if age > oldBaseline {
			f.Status = Warn
			f.Consequence = "what is ordinary may have changed since"
			f.Advice = "let portolan run for a day"
		}
	}
	return f
}
