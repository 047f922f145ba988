package packet

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMoveFault takes memory away and finds the copy to panic with the address,
// so that a worker can tell whose memory it was; the process lives.
func TestMoveFault(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 16); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	private := make([]byte, 2048)
	for _, tt := range []struct {
		name     string
		dst, src []byte
	}{{"read", private, mem[8192:]}, {"write", mem[8192:], private}} {
		for _, n := range []uintptr{1, 8, 60, 1500} {
			func() {
				defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
				defer func() {
					err, _ := recover().(error)
					var fault interface {
						runtime.Error
						Addr() uintptr
					}
					if !errors.As(err, &fault) {
						t.Fatalf("%s of %d bytes: recovered %v, want a fault with an address", tt.name, n, err)
					}
					if a := fault.Addr() - Addr(mem); a < 8192 || a >= 8192+n {
						t.Errorf("%s of %d bytes: fault at offset %d", tt.name, n, a)
					}
				}()
				Move([]Copy{{Addr(tt.dst), Addr(tt.src), n}})
				t.Errorf("%s of %d bytes from missing memory succeeded", tt.name, n)
			}()
		}
	}
}
