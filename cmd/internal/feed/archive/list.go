package archive

// File is one file of an archive.
type File struct {
	Path, Format string
	Size         int64 // bytes, compressed or not
}

// List returns the files that were recognised, in the order in which they begin.
func (a *Archive) List() []File {
	all := make([]File, len(a.sources))
	for i, s := range a.sources {
		all[i] = File{s.path, s.format.name, s.report.size}
	}
	return all
}

// At returns the place in List of the file that the event comes from which Run is handing on.
func (a *Archive) At() int { return a.at }
