package correlate

import "unsafe"

// sizeOf returns the size of a T in bytes.
func sizeOf[T any]() int {
	var zero T
	return int(unsafe.Sizeof(zero))
}

// elementsOf returns the first n T of page, which begins at a multiple of 64. T holds no pointer, so
// that any bytes are a value of it and the garbage collector has nothing to find there.
func elementsOf[T any](page []byte, n int) []T {
	_ = page[n*sizeOf[T]()-1]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(page))), n)
}

// bytesOf returns the memory of s. T holds no pointer.
func bytesOf[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*sizeOf[T]())
}
