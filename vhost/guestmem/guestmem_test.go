package guestmem

import (
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/dataplane/sys"
)

func memfd(t *testing.T, size int64) int {
	t.Helper()
	f, err := sys.NewMemfd("guestmem-test", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f.Int()
}

// TestTranslate asks for ranges at every edge of two regions that touch each
// other: no range may reach from one into the other.
func TestTranslate(t *testing.T) {
	fd := memfd(t, 1<<16)
	m, err := (*Map)(nil).With(Region{GPA: 0x10000, Size: 0x3000, User: 0x7f0000000000, Offset: 0}, fd)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m2, err := m.With(Region{GPA: 0x13000, Size: 0x1800, User: 0x7f0000004000, Offset: 0x4100}, fd)
	if err != nil {
		t.Fatal(err)
	}
	defer m2.Close()
	for _, tt := range []struct {
		name   string
		gpa, n uint64
		ok     bool
	}{
		{"first byte", 0x10000, 1, true},
		{"whole region", 0x10000, 0x3000, true},
		{"one more", 0x10000, 0x3001, false},
		{"across regions", 0x12ffe, 4, false},
		{"last byte", 0x12fff, 1, true},
		{"second region", 0x13000, 0x1800, true},
		{"behind the end", 0x14800, 1, false},
		{"before the start", 0xffff, 1, false},
		{"empty at the end", 0x147ff, 0, true},
		{"wraps around", 0x10000, math.MaxUint64, false},
		{"wraps around from the top", math.MaxUint64, 0x20000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, found := m2.Find(tt.gpa)
			_, ok := w.At(tt.gpa, tt.n)
			if (found && ok) != tt.ok {
				t.Errorf("got %v, want %v", found && ok, tt.ok)
			}
		})
	}
	a, ok := m2.User(0x7f0000004000, 0x1800)
	w, _ := m2.Find(0x13000)
	if b, _ := w.At(0x13000, 1); !ok || a != b {
		t.Errorf("user address leads to %#x, guest address to %#x", a, b)
	}
	if _, ok := m2.User(0x7f0000004000, 0x1801); ok {
		t.Error("user range over the end accepted")
	}
	if !m2.Owns(a) || m.Owns(a) || m2.Owns(a+0x1800) {
		t.Error("Owns tells the wrong region")
	}
}

// TestRefused offers regions that must not be mapped.
func TestRefused(t *testing.T) {
	fd := memfd(t, 1<<16)
	m, err := (*Map)(nil).With(Region{GPA: 0x1000, Size: 0x1000}, fd)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	for _, tt := range []struct {
		name string
		r    Region
		fd   int
	}{
		{"empty", Region{GPA: 0x8000}, fd},
		{"file too short", Region{GPA: 0x8000, Size: 1<<16 + 1}, fd},
		{"offset behind the end", Region{GPA: 0x8000, Size: 0x1000, Offset: 1 << 16}, fd},
		{"offset overflows", Region{GPA: 0x8000, Size: 0x1000, Offset: math.MaxUint64 - 0xfff}, fd},
		{"guest range wraps", Region{GPA: math.MaxUint64 - 0xfff, Size: 0x2000}, fd},
		{"user range wraps", Region{GPA: 0x8000, User: math.MaxUint64 - 0xfff, Size: 0x2000}, fd},
		{"overlap", Region{GPA: 0x1800, Size: 0x1000}, fd},
		{"same again", Region{GPA: 0x1000, Size: 0x1000}, fd},
		{"not a file", Region{GPA: 0x8000, Size: 0x1000}, pipe[0]},
		{"no descriptor", Region{GPA: 0x8000, Size: 0x1000}, -1},
		{"huge", Region{GPA: 0x8000, Size: math.MaxUint64}, fd},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := m.With(tt.r, tt.fd); !errors.Is(err, ErrRegion) {
				t.Errorf("got error %v, want ErrRegion", err)
			}
		})
	}
}

// TestRelease unmaps a region when the last Map that has it closes, and not
// before.
func TestRelease(t *testing.T) {
	fd := memfd(t, 1<<16)
	r1, r2 := Region{GPA: 0, Size: 0x1000}, Region{GPA: 0x1000, Size: 0x1000, User: 0x1000, Offset: 0x1000}
	m1, _ := (*Map)(nil).With(r1, fd)
	m2, err := m1.With(r2, fd)
	if err != nil {
		t.Fatal(err)
	}
	m3, err := m2.Without(r1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m3.Without(r1); !errors.Is(err, ErrRegion) {
		t.Errorf("removing twice: %v", err)
	}
	first, second := m2.regions[0].mapping, m2.regions[1].mapping
	m2.Close()
	if first.Bytes() == nil || second.Bytes() == nil {
		t.Fatal("unmapped while another Map has it")
	}
	m3.Close()
	m1.Close()
	if first.Bytes() != nil || second.Bytes() != nil {
		t.Fatal("still mapped after the last Close")
	}
}

// TestFind looks for every address around the edges of many regions, with gaps
// between some, and compares with a look at each region.
func TestFind(t *testing.T) {
	fd := memfd(t, 1<<16)
	var m *Map
	for i := range uint64(9) {
		next, err := m.With(Region{GPA: 0x1000*(i^5) + i%3*0x100, Size: 0xe00 + i%2*0x100}, fd)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		m = next
		for gpa := uint64(0); gpa < 0xe000; gpa += 0x80 {
			var want Window
			for _, r := range m.regions {
				if gpa >= r.GPA && gpa < r.GPA+r.Size {
					want = Window{r.GPA, r.Size, r.base}
				}
			}
			if got, ok := m.Find(gpa); got != want || ok != (want.Size > 0) {
				t.Fatalf("%d regions, %#x: found %+v, %v; want %+v", i+1, gpa, got, ok, want)
			}
		}
	}
	m.Close()
	if _, ok := (*Map)(nil).Find(0); ok {
		t.Error("found something in no memory")
	}
}

// TestSizeMax offers a sparse file again and again: it must not fill the address
// space.
func TestSizeMax(t *testing.T) {
	const size = SizeMax / 4
	fd := memfd(t, size)
	var m *Map
	for i := range uint64(4) {
		next, err := m.With(Region{GPA: i * size, Size: size}, fd)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		m = next
	}
	defer m.Close()
	if _, err := m.With(Region{GPA: 4 * size, Size: 0x1000}, fd); !errors.Is(err, ErrRegion) {
		t.Errorf("more than %#x bytes: error %v, want ErrRegion", uint64(SizeMax), err)
	}
}

// TestCheckFS takes memory files and no others.
func TestCheckFS(t *testing.T) {
	if err := checkFS(memfd(t, 0x1000)); err != nil {
		t.Error(err)
	}
	other, err := unix.Open("/proc/self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	if err := checkFS(other); err == nil {
		t.Error("a file of /proc was taken for memory")
	}
}
