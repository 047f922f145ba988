package acceptance

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A page is memory that a guest process shares with the test, and that outlives
// the guest: its successor goes on where it was. Times are of clock.
type page struct {
	// Written by the test.
	epoch atomic.Uint64 // each frame carries it
	drop  atomic.Uint64 // times that the guest shall close its connection

	// Written by the guest.
	life      atomic.Uint64 // its process; each frame carries it
	up        atomic.Int64  // when its socket listened, or it began to connect
	dropped   atomic.Uint64 // times that it has closed its connection
	droppedAt atomic.Int64  // when it last did
	sent      atomic.Uint64 // frames
	received  atomic.Uint64 // frames
	newest    atomic.Uint64 // highest epoch of a frame received
	newestAt  atomic.Int64  // when it first came
	peerLife  atomic.Uint64 // of the last frame received
	peerSeq   atomic.Uint64 // of the last frame received
	lost      atomic.Uint64 // numbers that were left out
	time      atomic.Int64  // that its thread has run, nanoseconds
	stall     atomic.Int64  // longest of it without a frame; the test sets it to zero
	wrong     atomic.Uint64 // frames that should not have come
	why       [512]byte     // the first of them
}

const pageSize = 4096

// mapPage maps the page in file.
func mapPage(file string) (*page, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(pageSize); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", file, err)
	}
	// SAFETY: the mapping is page-aligned, is never unmapped, and has room for
	// the structure, whose fields have the same meaning in both processes.
	return (*page)(unsafe.Pointer(unsafe.SliceData(mem[:unsafe.Sizeof(page{})]))), nil
}

// blame notes a frame that should not have come.
func (p *page) blame(format string, args ...any) {
	if p.wrong.Load() == 0 {
		copy(p.why[:len(p.why)-1], fmt.Sprintf(format, args...))
	}
	p.wrong.Add(1)
}

// verdict is what blame has noted, or "".
func (p *page) verdict() string {
	if p.wrong.Load() == 0 {
		return ""
	}
	return fmt.Sprintf("%d frames, the first: %s", p.wrong.Load(), unix.ByteSliceToString(p.why[:]))
}

// clock returns nanoseconds that all processes agree on.
func clock() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return ts.Nano()
}

func TestPage(t *testing.T) {
	if n := unsafe.Sizeof(page{}); n > pageSize {
		t.Fatalf("%d bytes in a page", n)
	}
}
