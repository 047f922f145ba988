package fdb

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A memory is where a table's words come from and go to. Words from get are
// all 0, and begin on a cache line if they are to be buckets.
type memory struct {
	get func(n int) ([]uint64, error)
	put func(words []uint64) error
}

// mapWords maps n words of private memory outside the Go heap. The kernel
// provides a page when it is first written.
//
// SAFETY: b has 8*n bytes and begins on a page, so it holds n aligned words,
// which any bits are valid for. It is no Go memory, so nothing moves or frees
// it before unmapWords.
func mapWords(n int) ([]uint64, error) {
	b, err := unix.Mmap(-1, 0, 8*n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", 8*n, err)
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

// unmapWords gives back what mapWords returned, whole.
//
// SAFETY: words has len(words)*8 bytes from its start. The caller has let go
// of every slice of them.
func unmapWords(words []uint64) error {
	if len(words) == 0 {
		return nil
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("unmap %d bytes: %w", len(b), err)
	}
	return nil
}

// asBuckets lays buckets over words, as many as fit.
//
// SAFETY: a bucket is eight words and nothing else (atomic.Uint64 is a uint64
// that must be 8-byte aligned, as words are), so n of them lie within words.
func asBuckets(words []uint64) []bucket {
	const perBucket = unsafe.Sizeof(bucket{}) / 8
	n := len(words) / int(perBucket)
	return unsafe.Slice((*bucket)(unsafe.Pointer(unsafe.SliceData(words))), n)
}
