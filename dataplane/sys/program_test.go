package sys

import "testing"

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

// TestReleaseProgram checks that a program goes on without its pages.
func TestReleaseProgram(t *testing.T) {
	for range 3 {
		if err := ReleaseProgram(); err != nil {
			t.Fatal(err)
		}
	}
}
