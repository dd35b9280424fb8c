package main

import "golang.org/x/sys/unix"

// hugePages returns n zeroed bytes for the correlator's table, for ever. They lie outside the heap, which the
// garbage collector then does not count, and in huge pages where the kernel has some: a table of a million clients
// is read at random, and each small page has an address to translate.
func hugePages(n int) []byte {
	const huge = 2 << 20 // bytes
	if n < huge {
		return make([]byte, n)
	}
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n) // a limit on address space: the heap may have room
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a kernel without them goes on with small pages
	return b
}
