package vhost

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

// TestHeldUp: a peer is to blame for a write that lasts if its eventfd is full,
// and not if the writer lacks the CPU.
func TestHeldUp(t *testing.T) {
	for _, full := range []bool{false, true} {
		fd, err := sys.NewEvent()
		if err != nil {
			t.Fatal(err)
		}
		if full {
			// eventfd(2): the counter goes up to 2^64-2.
			b := [8]byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			if _, err := unix.Write(fd.Int(), b[:]); err != nil {
				t.Fatal(err)
			}
		}
		b := &bell{fd: fd}
		b.began.Add(1) // and is not done
		if b.heldUp() {
			t.Errorf("full %v: held up at the first look", full)
		}
		if got := b.heldUp(); got != full {
			t.Errorf("full %v: held up %v at the second look", full, got)
		}
		b.ended.Add(1)
		if b.heldUp() {
			t.Errorf("full %v: held up after the write", full)
		}
		if err := fd.Close(); err != nil {
			t.Error(err)
		}
	}
	if writable(math.MaxInt32) {
		t.Error("a descriptor that is not there is writable")
	}
}
