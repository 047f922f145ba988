package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCheckPrivate: of a directory below /tmp, only one that we alone can write
// to is ours.
func TestCheckPrivate(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, mode := range map[string]os.FileMode{"private": 0o700, "seen": 0o755, "group's": 0o770, "all's": 0o777} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(at("private"), at("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		ok   bool
	}{{"private", true}, {"seen", true}, {"not there yet", true}, {"group's", false}, {"all's", false}, {"link", false}, {"file", false}}
	if os.Geteuid() == 0 {
		if err := os.Mkdir(at("other's"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(at("other's"), 1, 1); err != nil {
			t.Fatal(err)
		}
		tests = append(tests, struct {
			name string
			ok   bool
		}{"other's", false})
	}
	for _, tt := range tests {
		if err := checkPrivate(at(tt.name)); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want it to be right: %v", tt.name, err, tt.ok)
		}
	}
}
