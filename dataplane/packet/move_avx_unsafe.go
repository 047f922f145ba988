//go:build amd64

package packet

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// moveAVX is Move with 32-byte registers.
//
//go:noescape
func moveAVX(c *Copy, n int)

// SAFETY: c and n are a slice's parts, see Move.
func move(c *Copy, n int) {
	if cpu.X86.HasAVX2 {
		moveAVX(c, n)
		return
	}
	moveGeneric(c, n)
}

// copySize is the stride that the assembly counts on.
const copySize = unsafe.Sizeof(Copy{})

var _ [24]byte = [copySize]byte{}
