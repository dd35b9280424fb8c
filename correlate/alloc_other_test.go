//go:build !linux

package correlate

// hugePages is left to the heap here.
func hugePages(n int) []byte { return make([]byte, n) }
