package packet

import (
	"bytes"
	"errors"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// outside is memory that no test shares with another, with an address that stays.
func outside(t *testing.T, size int) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	for i := range mem {
		mem[i] = byte(i * 7)
	}
	return mem
}

// TestKeep: what Keep was called for stays when the lender writes its memory, and
// the rest does not; Last says so of all. A batch that is filled again keeps
// nothing, and has room for all of it again.
func TestKeep(t *testing.T) {
	mem := outside(t, 3*FrameMax)
	b := NewBatch()
	seg := func(at, n int) Seg { return Seg{Addr(mem[at:]), uintptr(n)} }
	fill := func() (frames [][]byte) {
		b.Reset()
		b.Add([]byte("head of a short frame"))
		b.Add([]byte("kept"), seg(0, 100), seg(5000, 1), seg(50, 0), seg(200, 3000))
		b.Add([]byte("not kept"), seg(9000, 700))
		b.Add([]byte("longest"), seg(FrameMax, FrameMax-7))
		for i := range b.N {
			frames = append(frames, b.AppendTo(nil, i))
		}
		return frames
	}
	for range 2 * BatchMax {
		want := fill()
		alias := b.Frames[1] // another version of the frame, with the same segments
		for _, i := range []int{0, 1, 3, 1} {
			if !b.Keep(i) {
				t.Fatalf("no room for frame %d", i)
			}
		}
		if n := b.nKept; n != 3101+FrameMax-7 {
			t.Errorf("%d bytes are kept", n)
		}
		for i := range mem {
			mem[i]++
		}
		for i, same := range []bool{true, true, false, true} {
			if got := b.AppendTo(nil, i); bytes.Equal(got, want[i]) != same || len(got) != len(want[i]) {
				t.Errorf("frame %d: is as it was: %t, want %t", i, !same, same)
			}
		}
		b.Frames[2] = alias
		if got := b.AppendTo(nil, 2); !bytes.Equal(got[len("not "):], want[1][len("not "):]) {
			t.Error("the other version is not what it was")
		}
	}
	want := fill()
	b.Last()
	b.Keep(2)
	if b.Tail(2)[0].Addr != Addr(mem[9000:]) {
		t.Error("what lasts was copied")
	}
	b.Gather(1)
	if s := b.Tail(1); s[1].Addr != s[0].Addr+100 || s[3].Addr != s[1].Addr+1 || !bytes.Equal(b.AppendTo(nil, 1), want[1]) {
		t.Error("what lasts was not gathered")
	}
}

// TestKeepRoom: there is room for a batch of the longest frames, and what is more
// is told.
func TestKeepRoom(t *testing.T) {
	mem := outside(t, FrameMax)
	b := NewBatch()
	for i := range BatchMax {
		b.Add(nil, Seg{Addr(mem), FrameMax})
		if !b.Keep(i) {
			t.Fatalf("no room for frame %d", i)
		}
	}
	b.Frames[0].Seg = BatchMax
	b.Segs[BatchMax] = Seg{Addr(outside(t, SuperBytes+SuperMax)), SuperBytes + SuperMax}
	if !b.Keep(0) {
		t.Error("no room for super-frames")
	}
	b.Segs[BatchMax] = Seg{Addr(mem), 1}
	if b.Keep(0) {
		t.Error("there is room for more")
	}
}

// TestKeepAllocs: after its first time Keep allocates nothing.
func TestKeepAllocs(t *testing.T) {
	mem := outside(t, 4096)
	b := NewBatch()
	turn := func() {
		b.Reset()
		b.Add([]byte("a"), Seg{Addr(mem), 2000}, Seg{Addr(mem[2000:]), 9})
		b.Keep(0)
	}
	turn()
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestKeepFault: memory that is gone is a fault with its address, and the frame is
// as it was.
func TestKeepFault(t *testing.T) {
	mem := outside(t, 3*4096)
	b := NewBatch()
	b.Add([]byte("a"), Seg{Addr(mem), 100}, Seg{Addr(mem[8192:]), 50})
	if err := unix.Mprotect(mem[8192:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		err, _ := recover().(error)
		var fault interface {
			runtime.Error
			Addr() uintptr
		}
		if !errors.As(err, &fault) || fault.Addr() < Addr(mem[8192:]) || fault.Addr() >= Addr(mem[8192:])+50 {
			t.Errorf("recovered %v, want a fault with an address", err)
		}
		if s := b.Tail(0); len(s) != 2 || !bytes.Equal(bytesAt(s[0]), mem[:100]) || s[1].Addr != Addr(mem[8192:]) {
			t.Errorf("segments are %+v now", s)
		}
	}()
	b.Keep(0)
	t.Error("memory that is gone was kept")
}
