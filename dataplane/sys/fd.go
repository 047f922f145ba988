// Package sys owns what the kernel lends: descriptors, mappings, locks, a core.
//
// Each type has one owner, who closes it once. The package imports nothing of
// ours.
package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// An FD is an owned descriptor. The zero FD and NoFD own nothing; Close is safe
// on both.
type FD struct{ n int } // descriptor + 1

// NoFD owns nothing.
var NoFD = FD{}

// NewFD takes ownership of descriptor n.
func NewFD(n int) FD { return FD{n + 1} }

// Int lends the descriptor's number, -1 when there is none.
func (f FD) Int() int { return f.n - 1 }

// Valid reports whether f owns a descriptor.
func (f FD) Valid() bool { return f.n > 0 }

// Close closes the descriptor. f owns nothing afterwards.
func (f *FD) Close() error {
	if !f.Valid() {
		return nil
	}
	n := f.Int()
	f.n = 0
	if err := unix.Close(n); err != nil {
		return fmt.Errorf("close descriptor %d: %w", n, err)
	}
	return nil
}

// Take moves the descriptor out of f.
func (f *FD) Take() FD {
	g := *f
	f.n = 0
	return g
}
