package correlate

import "syscall"

// hugePages is a Config.Alloc as commands have one: memory outside the heap, in huge pages where the kernel has some.
func hugePages(n int) []byte {
	const huge = 2 << 20
	if n < huge {
		return make([]byte, n)
	}
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n)
	}
	_ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) // small pages will do
	return b
}
