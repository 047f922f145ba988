package sys

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseMapping(t *testing.T) {
	for _, c := range []struct {
		line        string
		start, end  uintptr
		perms, path string
		ok          bool
	}{
		{"00400000-00de0000 r-xp 00000000 fe:00 9994292                            /usr/bin/millrace", 0x400000, 0xde0000, "r-xp", "/usr/bin/millrace", true},
		{"7f29b4800000-7f29b4c80000 rw-p 00000000 00:00 0 ", 0x7f29b4800000, 0x7f29b4c80000, "rw-p", "", true},
		{"Rss:                8448 kB", 0, 0, "", "", false},
		{"VmFlags: rd ex mr mw me", 0, 0, "", "", false},
		{"", 0, 0, "", "", false},
	} {
		start, end, perms, path, ok := parseMapping(c.line)
		if ok != c.ok || ok && (start != c.start || end != c.end || perms != c.perms || path != c.path) {
			t.Errorf("%q: got %x-%x %q %q, %v", c.line, start, end, perms, path, ok)
		}
	}
	if !unwritten("Anonymous:             0 kB") || unwritten("Anonymous:             8 kB") || unwritten("AnonHugePages:         0 kB") {
		t.Error("what was written is not told apart")
	}
}

// FuzzMapping: a line is read as what the kernel writes of these values (fs/proc/task_mmu.c), and no
// other line of smaps is taken for one.
func FuzzMapping(f *testing.F) {
	f.Add(uint64(0x400000), uint64(0xde0000), uint8(5), "/usr/bin/millrace")
	f.Add(uint64(0x7f29b4800000), uint64(0x7f29b4c80000), uint8(3), "")
	f.Add(uint64(1), ^uint64(0), uint8(0), "/opt/a b/millrace")
	f.Add(uint64(1), uint64(2), uint8(8), "[anon: Go: heap]")
	f.Fuzz(func(t *testing.T, start, end uint64, bits uint8, path string) {
		perms := ""
		for i, c := range "rwxs" {
			perms += string([2]rune{[2]rune{'-', 'p'}[i/3], c}[bits>>i&1])
		}
		path = strings.Join(strings.Fields(path), " ") // the kernel escapes newlines; others are not of this test
		line := fmt.Sprintf("%08x-%08x %s %08x %02x:%02x %d %s%s", start, end, perms, 0, 0xfe, 1, 42, strings.Repeat(" ", 20), path)
		a, b, p, name, ok := parseMapping(line)
		if !ok || uint64(a) != start || uint64(b) != end || p != perms || name != path {
			t.Errorf("%q: got %x-%x %q %q, %v", line, a, b, p, name, ok)
		}
		if _, _, _, _, ok := parseMapping(fmt.Sprintf("Rss: %d kB", start)); ok {
			t.Error("a line of sizes is a mapping")
		}
	})
}

// TestReleaseProgram checks that a program goes on without its pages.
func TestReleaseProgram(t *testing.T) {
	for range 3 {
		if err := ReleaseProgram(); err != nil {
			t.Fatal(err)
		}
	}
}
