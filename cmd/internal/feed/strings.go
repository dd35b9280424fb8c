package feed

// Strings makes strings of bytes and remembers them, so that the name of a program that speaks
// a thousand times is one string. The zero value is ready. One goroutine at a time may use one.
type Strings struct {
	known map[string]string
	bytes int
}

// Bounds of what Strings remembers. Beyond them it forgets everything and starts again: the
// names that still matter are back after one line each.
const (
	maxRemembered      = 512 // bytes of one string; longer ones are hardly ever repeated
	maxRememberedBytes = 1 << 20
)

// Of returns b as a string.
func (s *Strings) Of(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > maxRemembered {
		return string(b)
	}
	if known, ok := s.known[string(b)]; ok {
		return known
	}
	const overhead = 64 // bytes of a map entry, about
	if s.known == nil || s.bytes > maxRememberedBytes {
		s.known, s.bytes = map[string]string{}, 0
	}
	made := string(b)
	s.known[made] = made
	s.bytes += len(b) + overhead
	return made
}
